"""Choose the number of CPU threads by timing: small models are often fastest with one."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import psutil
import torch

from hf_ft.model.passes import training_mode
from hf_ft.model.preserved_state import preserved_state
from hf_ft.parent_death import is_launched
from hf_ft.train.decisions import Decision
from hf_ft.train.paired_timing import time_pairs

if TYPE_CHECKING:
    from hf_ft.model.passes import Passes
    from hf_ft.task import Batch

# The measurement starts with FEW_ROWS of a micro-batch (batch norms need two), and doubles them while a step
# would take at most STEP_SECONDS: on a few small pictures a second thread gains nothing, on many it does.
STEP_SECONDS = 0.4
FEW_ROWS = 4
# Where measuring takes long, one pair is enough if all threads are 1.32 times as fast as one, or slower by a
# tenth. A wrong choice between nearly equal ones costs little; the measurement delays every run.
DECISIVE_FACTOR = 1.2


def choose_threads(
    setting: int | str,
    passes: Passes,
    batch_of: Callable[[int | None], Batch],
    *,
    processes: int,
    recorded: Decision | None = None,
) -> Decision:
    """Choose the number of threads: as asked for, else by timing one thread against all.

    The number of threads decides in which order numbers are added, and so the last bits of a result. A
    resumed run therefore uses the number that it began with.

    Args:
        setting: `train.threads`: auto, or a number.
        passes: runs the model as in training; the model's state is restored.
        batch_of: returns the first micro-batch, or that many of its rows.
        processes: number of training processes on this machine.
        recorded: the choice of the run that is resumed.
    """
    if setting != "auto":
        reason = "asked for by train.threads"
        if recorded is not None and recorded.value != setting:
            reason += (
                f"; the run began with {recorded.value}, so from here on its results are no longer equal to "
                "the last bit to those of an uninterrupted run"
            )
        return Decision(int(setting), reason)
    if recorded is not None:
        return Decision(int(recorded.value), "as the run began")
    available = torch.get_num_threads()
    if passes.device.type != "cpu":
        return Decision(available, f"the model trains on {passes.device.type}")
    launched = processes == 1 and _set_by_launcher()
    if os.environ.get("OMP_NUM_THREADS") and not launched:
        return Decision(available, "set by OMP_NUM_THREADS")
    if launched:
        available = max(available, psutil.cpu_count(logical=False) or 1)
    if processes > 1:
        return Decision(available, "several processes share the processor")
    if available == 1:
        return Decision(1, "the processor has one core")
    return _measure(passes, batch_of, available)


def _set_by_launcher() -> bool:
    """Tell whether `accelerate launch` set OMP_NUM_THREADS, and not the user.

    It sets the variable in every process that it starts: to all cores with `use_cpu`, else to 1.
    """
    try:
        return is_launched() and "OMP_NUM_THREADS" not in psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return False


def _measure(passes: Passes, batch_of: Callable[[int | None], Batch], available: int) -> Decision:
    def on(count: int, batch: Batch) -> float:
        torch.set_num_threads(count)
        return passes.step_seconds(batch)

    with preserved_state(passes.model), training_mode(passes.model):
        batch, most = batch_of(FEW_ROWS), len(batch_of(None)["row"])
        passes.step_seconds(batch)  # not counted: the first step allocates memory and fills caches
        while len(batch["row"]) < most and 2 * passes.step_seconds(batch) <= STEP_SECONDS:
            batch = batch_of(2 * len(batch["row"]))
        timing = time_pairs(partial(on, 1, batch), partial(on, available, batch), decisive=DECISIVE_FACTOR)
        torch.set_num_threads(available)
    one, all_of_them = (f"{seconds * 1e3:.1f} ms" for seconds in timing.fastest_seconds)
    what = f"a step of {len(batch['row'])} rows takes {all_of_them} on all, {one} on one"
    if timing.is_faster:
        return Decision(available, f"of {available}, measured: {what}")
    # On a busy processor, threads that wait for each other can take many times as long. One thread can be
    # slower by the number of cores at most.
    unsure = "" if timing.is_sure else "; not surely faster on all, and one is never many times slower"
    return Decision(1, f"of {available}, measured: {what}{unsure}")
