"""How many threads the CPU trains with: small models are often fastest on one, and it is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list

from hf_ft.model.preserved_state import left_as_it_was
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.train.paired_timing import take_turns

if TYPE_CHECKING:
    from hf_ft.train.trainer import FineTuner

# A micro-batch that takes longer than this is work enough to share; measuring it would cost the run. A few of
# its rows tell (two at least: batch norms).
LARGE_SECONDS = 0.5
FEW_ROWS = 4
_FILE = "threads.json"


def settle_threads(tuner: FineTuner, setting: int | str, folder: Path, *, resumed: bool) -> str:
    """Set the threads of this process, keep the number with the run, and give it with the reason.

    The order in which threads add numbers up is part of a run, so a resumed run takes the number it began
    with.

    Args:
        tuner: as it will train.
        setting: `train.threads`: auto, or a number.
        folder: the run folder.
        resumed: whether a checkpoint of the run is being gone on from.
    """
    file = folder / _FILE
    # As the main process finds it: another might read while it is being written.
    found: list[Any] = [read_json(file) if resumed else None]
    broadcast_object_list(found)
    if found[0] is not None:
        count, reason = int(found[0]["threads"]), "as the run began"
    else:
        count, reason = choose_threads(tuner, setting)
    torch.set_num_threads(count)
    if tuner.accelerator.is_main_process:
        write_json(file, {"threads": count, "reason": reason})
    return f"{count}: {reason}"


def choose_threads(tuner: FineTuner, setting: int | str) -> tuple[int, str]:
    """Choose the number of threads, by measuring a micro-batch on one and on all where nothing else decides.

    Args:
        tuner: as it will train; given back as it was.
        setting: `auto`, or a number to insist on.

    Returns:
        The number, and the reason.
    """
    available = torch.get_num_threads()
    if setting != "auto":
        return int(setting), "asked for by train.threads"
    if tuner.args.device.type != "cpu":
        return available, f"the model trains on {tuner.args.device.type}"
    if os.environ.get("OMP_NUM_THREADS"):
        return available, "OMP_NUM_THREADS says so"
    if tuner.accelerator.num_processes > 1:
        return available, "several processes share the processor"
    if available == 1:
        return 1, "the processor has one core"
    return _measured(tuner, available)


def _measured(tuner: FineTuner, available: int) -> tuple[int, str]:
    with left_as_it_was(tuner.model):
        few, rows = _micro_batch(tuner, FEW_ROWS)
        few()  # the first step builds what later ones find
        expected = few() / rows * tuner.plan.micro_batch
        if expected > LARGE_SECONDS:
            # The fastest of three, so that another program's burst of work does not speak.
            expected = min(expected, *(few() / rows * tuner.plan.micro_batch for _ in range(2)))
        if expected > LARGE_SECONDS:
            return available, f"a micro-batch takes about {expected:.1f} s, work enough to share"
        seconds, _ = _micro_batch(tuner)

        def on(count: int) -> float:
            torch.set_num_threads(count)
            return seconds()

        turns = take_turns(partial(on, available), partial(on, 1))
        torch.set_num_threads(available)
    chosen = 1 if turns.pays else available
    all_of_them, one = (f"{value * 1e3:.1f} ms" for value in turns.fastest)
    measured = f"{one} against {all_of_them} on all" if turns.pays else f"{all_of_them} against {one} on one"
    return chosen, f"of {available}, measured {measured}"


def _micro_batch(tuner: FineTuner, most: int | None = None) -> tuple[Callable[[], float], int]:
    """Give what runs the first micro-batch, forward and backward as training does it, and times it.

    Args:
        tuner: the trainer.
        most: only so many of its rows; None: all.

    Returns:
        What gives the seconds, and the number of rows.
    """
    tuner.get_train_dataloader()
    rows = tuner.train_dataset
    indices = next(iter(tuner.sampler))[:most]
    batch: Any = rows.collate(rows.__getitems__(indices))
    count = tuner._get_num_items_in_batch([batch], tuner.args.device)
    tuner.current_gradient_accumulation_steps = 1

    def seconds() -> float:
        start = time.perf_counter()
        tuner.training_step(tuner.model, dict(batch), count)
        taken = time.perf_counter() - start
        tuner.model.zero_grad(set_to_none=True)
        return taken

    return seconds, len(indices)
