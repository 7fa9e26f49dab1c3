"""Numbers that the hardware is fast at; every choice comes with its reason."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_ft.data.device import to_device
from hf_ft.errors import RecipeError
from hf_ft.model.allocator import memory_is_kept
from hf_ft.model.preserved_state import left_as_it_was
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.train.paired_timing import Turns, take_turns

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.data.dataset import EncodedRows
    from hf_ft.task import Batch, Task
    from hf_ft.train.trainer import FineTuner

# Rows of the step that is measured.
MEASURED_ROWS = 4
_FILE = "precision.json"


@dataclass(frozen=True)
class Precision:
    """What the Trainer is told.

    Args:
        name: fp32, bf16, fp16 or tf32.
        reason: why, in a few words.
    """

    name: str
    reason: str

    @property
    def flags(self) -> dict[str, bool]:
        """The matching TrainingArguments."""
        return {name: self.name == name for name in ("bf16", "fp16")} | (
            {"tf32": True} if self.name == "tf32" else {}
        )


def choose_precision(setting: str, gain: Callable[[], Turns], *, use_cpu: bool = False) -> Precision:
    """Choose the precision of the forward and backward pass, one for all processes; weights stay in fp32.

    Args:
        setting: `auto`, or a precision to insist on.
        gain: measures a step in fp32 and in bf16; called, by all processes, only where every processor claims
            bf16.
        use_cpu: whether the CPU trains even where there is an accelerator.

    Raises:
        RecipeError: the setting is impossible on this hardware.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    # Of unlike machines, what one of them is slow with, none takes.
    known: list[Precision | None] = gather_object([_known(setting, use_cpu=use_cpu)])
    slow = next((one for one in known if one is not None and one.name == "fp32"), None)
    chosen = slow or known[0]
    if chosen is None:
        turns = gain()
        measured = f"the processor has {_able()[0]}, and a step was measured {turns}"
        chosen = Precision("bf16" if turns.pays else "fp32", measured)
    found = [chosen]
    broadcast_object_list(found)
    return found[0]


def _known(setting: str, *, use_cpu: bool) -> Precision | None:
    """Choose as far as nothing need be measured; None where a processor claims bf16."""
    cuda = torch.cuda.is_available() and not use_cpu
    if setting == "auto":
        if cuda:
            major, minor = torch.cuda.get_device_capability()
            if major >= 8:
                return Precision("bf16", f"CUDA capability {major}.{minor} computes bf16 natively")
            return Precision("fp32", f"CUDA capability {major}.{minor} has no native bf16")
        if torch.accelerator.is_available() and not use_cpu:
            return Precision(
                "fp32", f"bf16 is not known to be fast on {torch.accelerator.current_accelerator()}"
            )
        if not _able():
            return Precision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
        return None
    if setting in ("fp16", "tf32") and not cuda:
        raise RecipeError(
            f"train.precision: {setting} needs a CUDA device, found none; write auto, fp32 or bf16"
        )
    return Precision(setting, "asked for by train.precision")


def _able() -> list[str]:
    """Name what the processor claims to compute bf16 with."""
    return [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]


def settle_precision(setting: str, gain: Callable[[], Turns], folder: Path, *, use_cpu: bool) -> Precision:
    """Choose the precision as `choose_precision` does, and keep it with the run.

    A resumed run goes on with the numbers that it began with: a processor that is measured once more,
    perhaps while it is busy, may seem to be fast with others.

    Args:
        setting: see there.
        gain: see there.
        folder: the run folder.
        use_cpu: see there.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    file = folder / _FILE
    # As the main process finds it: another might look when it has been written already, and measure alone.
    found: list[Any] = [read_json(file)]
    broadcast_object_list(found)
    if setting == "auto" and found[0] is not None:
        return Precision(found[0]["name"], "as the run began")
    chosen = choose_precision(setting, gain, use_cpu=use_cpu)
    if PartialState().is_main_process:
        write_json(file, asdict(chosen))
    return chosen


def settle_evaluation(tuner: FineTuner, folder: Path) -> None:
    """Let a resumed run evaluate in the precision it began with, so that its figures can be compared.

    In a mixed run it depends on whether activations are kept, and so on the room on a disk.

    Args:
        tuner: after `use_frontier`.
        folder: the run folder, with what `settle_precision` wrote.
    """
    from accelerate.utils import broadcast_object_list

    file = folder / _FILE
    found: list[Any] = [read_json(file) or {}]
    broadcast_object_list(found)
    tuner.exact = bool(found[0].setdefault("evaluated_in_full", tuner.exact))
    if not tuner.exact and tuner.kept is not None:
        tuner.eval_dataset = tuner.eval_dataset.encoded
    if tuner.accelerator.is_main_process:
        write_json(file, found[0])


def measured_gain(task: Task, model: nn.Module, rows: EncodedRows) -> Turns:
    """Measure a step of this model on these rows in fp32 and in bf16, on the CPU.

    Not a product of matrices: depthwise convolutions, small layers and short texts gain less, or lose. An
    answer that is sure is kept for this model and machine, so that a second run neither waits nor decides
    otherwise; one that is not is asked for again. All processes give the same answer, that of the main one.

    Args:
        task: fitted and loaded.
        model: what learns and what does not is settled; given back as it was.
        rows: encoded training rows.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    count = min(MEASURED_ROWS, len(rows))
    batch = rows.collate(rows.__getitems__([(0, row, True) for row in range(count)]))
    batch = to_device(task, batch, torch.device("cpu"))
    file = cache_folder() / "speed" / f"bf16-{_subject(model, batch, PartialState().num_processes)}.json"
    found = [_read_turns(file)]
    broadcast_object_list(found)
    if found[0] is not None:
        return found[0]
    # On all processes at once: they share the processor in training, too.
    measured = [_measure(task, model, batch)]
    broadcast_object_list(measured)
    if measured[0].sure and PartialState().is_main_process:
        # What cannot be kept is measured again.
        with suppress(OSError):
            write_json(file, measured[0].pairs)
    return measured[0]


def _read_turns(file: Path) -> Turns | None:
    """Read what an earlier run measured; None where there is nothing of the kind."""
    try:
        pairs = tuple((float(usual), float(new)) for usual, new in read_json(file, list))
        found = Turns(pairs, earlier=True)
        return found if found.sure else None
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return None


def _subject(model: nn.Module, batch: Batch, processes: int) -> str:
    """Name what a measurement is of: the model, what learns of it, the size of a batch, and the machine."""
    # Without rows and steps: another text among the first few must not turn the answer.
    shapes = {key: tuple(value.shape[2:]) for key, value in batch.items() if torch.is_tensor(value)}
    weights = [
        (name, tuple(weight.shape), weight.stride(), weight.requires_grad)
        for name, weight in model.named_parameters()
    ]
    config = getattr(model, "config", None)
    kind = [type(model).__name__, str(config), getattr(config, "_attn_implementation", None)]
    machine = [torch.__version__, torch.cpu.get_capabilities(), os.cpu_count(), torch.get_num_threads()]
    content = repr([kind, weights, shapes, machine, processes, memory_is_kept()])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _measure(task: Task, model: nn.Module, batch: Batch) -> Turns:
    from accelerate.utils import convert_to_fp32

    def seconds(mixed: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            outputs = convert_to_fp32(task.forward(model, dict(batch)))
        task.loss(model, outputs, batch).sum().backward()
        taken = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
        return taken

    with left_as_it_was(model):
        model.train()
        return take_turns(partial(seconds, False), partial(seconds, True))


def choose_compile(setting: bool | str, *, use_cpu: bool = False) -> tuple[bool, str]:
    """Decide whether to compile the model, and say why.

    Args:
        setting: `train.compile`.
        use_cpu: whether the CPU trains even where there is an accelerator.
    """
    if setting != "auto":
        return bool(setting), "asked for by train.compile"
    if use_cpu or not torch.accelerator.is_available():
        return False, "on a CPU it takes as long as some 40 steps, and made none faster where it was tried"
    return (
        False,
        "not known to pay within this run; for a long one with inputs of one shape, write true",
    )
