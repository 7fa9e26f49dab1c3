"""Choose the precision of training, and whether to compile the model; every choice has its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from hf_ft.errors import RecipeError
from hf_ft.model.allocator import memory_is_kept
from hf_ft.model.passes import training_mode
from hf_ft.model.preserved_state import preserved_state
from hf_ft.processor_cores import usable_cores
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.train.decisions import Decision
from hf_ft.train.paired_timing import PairedTiming, time_pairs

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.data.dataset import EncodedRows
    from hf_ft.model.passes import Passes
    from hf_ft.task import Batch

# Rows of the training step that is timed.
MEASURED_ROWS = 4


def precision_flags(name: str) -> dict[str, bool]:
    """Return the TrainingArguments that set fp32, bf16, fp16 or tf32."""
    flags = {flag: name == flag for flag in ("bf16", "fp16")}
    return flags | ({"tf32": True} if name == "tf32" else {})


def choose_precision(
    setting: str,
    measure: Callable[[], PairedTiming],
    *,
    use_cpu: bool = False,
    recorded: Decision | None = None,
) -> Decision:
    """Choose the precision of the forward and backward pass, the same on all processes; weights stay in fp32.

    Args:
        setting: `train.precision`: auto, or the name of a precision.
        measure: times a step in fp32 and in bf16. All processes call it, or none does: it is called only if
            every processor has bf16 instructions.
        use_cpu: whether training runs on the CPU even if there is an accelerator.
        recorded: the choice of the run that is resumed. It is taken again, since another measurement on a
            busy machine may give another answer.

    Raises:
        RecipeError: this hardware does not support the setting.
    """
    if setting == "auto" and recorded is not None:
        return Decision(recorded.value, "as the run began")
    known: list[Decision | None] = gather_object([_decide_without_measuring(setting, use_cpu=use_cpu)])
    # Machines may differ: bf16 is chosen only if it is fast on every one of them.
    slow = next((one for one in known if one is not None and one.value == "fp32"), None)
    chosen = slow or known[0]
    if chosen is None:
        timing = measure()
        measured = f"the processor has {_bf16_instructions()[0]}, and a step was measured {timing}"
        chosen = Decision("bf16" if timing.is_faster else "fp32", measured)
    found = [chosen]
    broadcast_object_list(found)
    return found[0]


def _decide_without_measuring(setting: str, *, use_cpu: bool) -> Decision | None:
    """Choose without measuring, from the setting and the hardware; None where a measurement must decide."""
    cuda = torch.cuda.is_available() and not use_cpu
    if setting == "auto":
        if cuda:
            major, minor = torch.cuda.get_device_capability()
            if major >= 8:
                return Decision("bf16", f"CUDA capability {major}.{minor} computes bf16 natively")
            return Decision("fp32", f"CUDA capability {major}.{minor} has no native bf16")
        if torch.accelerator.is_available() and not use_cpu:
            return Decision(
                "fp32", f"bf16 is not known to be fast on {torch.accelerator.current_accelerator()}"
            )
        if not _bf16_instructions():
            return Decision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
        return None
    if setting in ("fp16", "tf32") and not cuda:
        raise RecipeError(
            f"train.precision: {setting} needs a CUDA device, found none; write auto, fp32 or bf16"
        )
    return Decision(setting, "asked for by train.precision")


def _bf16_instructions() -> list[str]:
    """List the bf16 instruction sets that the processor has."""
    return [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]


def measure_bf16(passes: Passes, rows: EncodedRows) -> PairedTiming:
    """Time a training step of this model on these rows in fp32 and in bf16, on the CPU.

    A real step is timed and not a matrix product: depthwise convolutions, small layers and short texts gain
    less from bf16, or become slower. A sure answer is stored for this model and machine, so that a second run
    neither waits nor decides otherwise. An answer that is not sure is not stored. All processes return the
    answer of the main process.

    Args:
        passes: runs the model; the model's state is restored.
        rows: encoded training rows.
    """
    batch = passes.batch(rows, range(min(MEASURED_ROWS, len(rows))))
    name = f"bf16-{_timing_key(passes.model, batch, PartialState().num_processes)}.json"
    file = cache_folder() / "speed" / name
    found = [_read_timing(file)]
    broadcast_object_list(found)
    if found[0] is not None:
        return found[0]
    # All processes measure at once, because they share the processor in training, too.
    full, mixed = (replace(passes, precision=name) for name in ("fp32", "bf16"))
    with preserved_state(passes.model), training_mode(passes.model):
        timing = time_pairs(partial(full.step_seconds, batch), partial(mixed.step_seconds, batch))
    measured = [timing]
    broadcast_object_list(measured)
    if measured[0].is_sure and PartialState().is_main_process:
        # If the file cannot be written, the next run measures again.
        with suppress(OSError):
            write_json(file, measured[0].pairs)
    return measured[0]


def _read_timing(file: Path) -> PairedTiming | None:
    """Read the timing of an earlier run; None where there is none that is complete and sure."""
    try:
        pairs = tuple((float(usual), float(new)) for usual, new in read_json(file, list))
        found = PairedTiming(pairs, from_earlier_run=True)
        return found if found.is_sure else None
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return None


def _timing_key(model: nn.Module, batch: Batch, processes: int) -> str:
    """Hash what a timing depends on: model, trainable weights, shape of a batch, and machine."""
    # The number of rows and the length of texts are left out: other first rows must not give another key.
    shapes = {key: tuple(value.shape[2:]) for key, value in batch.items() if torch.is_tensor(value)}
    weights = [
        (name, tuple(weight.shape), weight.stride(), weight.requires_grad)
        for name, weight in model.named_parameters()
    ]
    config = getattr(model, "config", None)
    kind = [type(model).__name__, str(config), getattr(config, "_attn_implementation", None)]
    machine = [torch.__version__, torch.cpu.get_capabilities(), usable_cores(), torch.get_num_threads()]
    content = repr([kind, weights, shapes, machine, processes, memory_is_kept()])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def choose_compile(setting: bool | str, *, use_cpu: bool = False) -> Decision:
    """Choose whether to compile the model.

    Args:
        setting: `train.compile`.
        use_cpu: whether training runs on the CPU even if there is an accelerator.
    """
    if setting != "auto":
        return Decision("on" if setting else "off", "asked for by train.compile")
    if use_cpu or not torch.accelerator.is_available():
        reason = "on a CPU compiling takes as long as about 40 steps, and made none faster where it was tried"
    else:
        reason = "not measured here; for a long run with inputs of one shape, try train.compile: true"
    return Decision("off", reason)
