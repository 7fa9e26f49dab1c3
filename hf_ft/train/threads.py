"""How many threads the CPU trains with: small models are often fastest on one, and it is measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from hf_ft.model.passes import training_mode
from hf_ft.model.preserved_state import preserved_state
from hf_ft.train.decisions import Decision
from hf_ft.train.paired_timing import time_pairs

if TYPE_CHECKING:
    from hf_ft.model.passes import Passes
    from hf_ft.task import Batch

# Of a micro-batch that takes longer than this, a few rows are measured (two at least: batch norms).
LARGE_SECONDS = 0.5
FEW_ROWS = 4


def choose_threads(
    setting: int | str,
    passes: Passes,
    batch_of: Callable[[int | None], Batch],
    *,
    processes: int,
    recorded: Decision | None = None,
) -> Decision:
    """Choose the number of threads, by measuring one against all where nothing else decides.

    The order in which threads add numbers up is part of a result, so a resumed run takes the number it began
    with.

    Args:
        setting: `train.threads`: auto, or a number to insist on.
        passes: how the model is run in training; given back as it was.
        batch_of: gives the first micro-batch, or as many of its rows as asked for.
        processes: that train on this machine.
        recorded: what the run that is resumed was trained with.
    """
    if setting != "auto":
        reason = "asked for by train.threads"
        if recorded is not None and recorded.value != setting:
            reason += (
                f"; the run began with {recorded.value}, so from here on its numbers are no longer equal to "
                "the last bit to those of a run that was never interrupted"
            )
        return Decision(int(setting), reason)
    if recorded is not None:
        return Decision(int(recorded.value), "as the run began")
    available = torch.get_num_threads()
    if passes.device.type != "cpu":
        return Decision(available, f"the model trains on {passes.device.type}")
    if os.environ.get("OMP_NUM_THREADS"):
        return Decision(available, "OMP_NUM_THREADS says so")
    if processes > 1:
        return Decision(available, "several processes share the processor")
    if available == 1:
        return Decision(1, "the processor has one core")
    return _measured(passes, batch_of, available)


def _measured(passes: Passes, batch_of: Callable[[int | None], Batch], available: int) -> Decision:
    def on(count: int, batch: Batch) -> float:
        torch.set_num_threads(count)
        return passes.step_seconds(batch)

    with preserved_state(passes.model), training_mode(passes.model):
        few, whole = batch_of(FEW_ROWS), batch_of(None)
        passes.step_seconds(few)  # the first step builds what later ones find
        expected = passes.step_seconds(few) * len(whole["row"]) / len(few["row"])
        batch = few if expected > LARGE_SECONDS else whole
        timing = time_pairs(partial(on, 1, batch), partial(on, available, batch))
        torch.set_num_threads(available)
    one, all_of_them = (f"{seconds * 1e3:.1f} ms" for seconds in timing.fastest)
    what = f"a step of {len(batch['row'])} rows takes {all_of_them} on all, {one} on one"
    if timing.pays:
        return Decision(available, f"of {available}, measured: {what}")
    # Threads that wait for a busy processor can take many times as long; one thread at most as many times as
    # there are cores, and only where all of them were surely faster.
    unsure = "" if timing.sure else "; not surely faster on all, and one is never many times slower"
    return Decision(1, f"of {available}, measured: {what}{unsure}")
