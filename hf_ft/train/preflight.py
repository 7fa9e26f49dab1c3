"""Before training: is the loss the same however a batch is divided (tf#47688), and does anything learn?"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.device import to_device
from hf_ft.errors import RecipeError, TrainError
from hf_ft.model.preserved_state import left_as_it_was

if TYPE_CHECKING:
    from hf_ft.task import Batch
    from hf_ft.train.trainer import FineTuner

TOLERANCE = 1e-4
ROWS = 16


@dataclass(frozen=True)
class SelfTest:
    """The loss of the same rows as one batch, and in uneven parts over all processes.

    Args:
        whole: loss of the rows in one batch.
        parts: loss summed over micro-batches of all processes.
        processes: number of processes that took part.
    """

    whole: float
    parts: float
    processes: int

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return abs(self.whole - self.parts) <= TOLERANCE * max(1.0, abs(self.whole))

    def __str__(self) -> str:
        return (
            f"loss {self.whole:.6f} in one batch, {self.parts:.6f} in parts over {self.processes} process(es)"
        )


def check_loss_division(tuner: FineTuner) -> SelfTest:
    """Compute the loss of up to 16 training rows whole and in parts, through the code that training runs.

    In eval mode, where dropout and batch statistics cannot make a difference of their own. Augmentation can
    stay: it depends on (seed, epoch, row) alone.
    """
    rows = np.arange(min(ROWS, len(tuner.train_dataset)))
    processes, rank = tuner.accelerator.num_processes, tuner.accelerator.process_index
    parts = np.array_split(rows, 3 * processes)
    was_training = tuner.model.training
    tuner.model.eval()
    with torch.no_grad():
        # Every process holds the whole batch here, so the global count holds it once per process, as the
        # loss does.
        whole = _loss(tuner, [_batch(tuner, rows)])
        divided = _loss(tuner, [_batch(tuner, part) for part in parts[rank::processes]]) / processes
        divided = tuner.accelerator.reduce(divided, "sum")
    tuner.model.train(was_training)
    return SelfTest(float(whole), float(divided), processes)


def _batch(tuner: FineTuner, rows: np.ndarray) -> Batch:
    indices = [(0, int(row), True) for row in rows] or [(0, 0, False)]
    batch = tuner.train_dataset.collate(tuner.train_dataset.__getitems__(indices))
    return to_device(tuner.task, batch, tuner.args.device)


def _loss(tuner: FineTuner, batches: list[Batch]) -> torch.Tensor:
    count = tuner._get_num_items_in_batch(batches, tuner.args.device)
    losses = [tuner.compute_loss(tuner.model, batch, num_items_in_batch=count) for batch in batches]
    return torch.stack(losses).sum()


def check_metrics(tuner: FineTuner) -> None:
    """Measure a few validation rows where the recipe names metrics of its own, before hours of training.

    What a metric of `evaluate.extra` needs, and under which names it answers, shows only when it is computed.

    Raises:
        RecipeError: such a metric cannot be computed, or none gives the name of `evaluate.metric`.
    """
    task = tuner.task
    if not task.extra_metrics:
        return
    task.metrics()  # refuses what it cannot measure at all
    rows = tuner.eval_dataset
    # A metric may be undefined where a class is missing: some rows of the whole split, and one of each class.
    chosen = set(np.linspace(0, len(rows) - 1, ROWS, dtype=int).tolist())
    if task.class_role is not None:
        chosen |= set({label: row for row, label in enumerate(rows.rows.column(task.class_role))}.values())
    few = EncodedRows(
        task, rows.rows.select(sorted(chosen)), split=rows.split, seed=tuner.args.seed, train=False
    )
    found = tuner.evaluate_rows(few).metrics
    measured = {key for key, value in found.items() if isinstance(value, float)}
    name = tuner.args.metric_for_best_model.removeprefix("eval_")
    if name not in measured and name not in task.greater_is_better:
        extra = ", ".join(sorted(measured - set(task.greater_is_better))) or "no number"
        raise RecipeError(
            f"evaluate.metric: {name!r} is not measured; evaluate.extra ({', '.join(task.extra_metrics)}) "
            f"gives {extra}"
        )


@dataclass(frozen=True)
class Probe:
    """What one training step on real rows showed.

    Args:
        seconds: of one micro-batch, forward and backward.
        micro_batches: in the whole run, on this process.
        peak_bytes: most memory the process (or its device) has held so far.
    """

    seconds: float
    micro_batches: int
    peak_bytes: int

    def __str__(self) -> str:
        minutes = self.seconds * self.micro_batches / 60
        return (
            f"about {minutes:.1f} min of training ahead, {self.peak_bytes / 2**30:.1f} GiB at the peak so far"
        )


def probe_step(tuner: FineTuner) -> Probe:
    """Run the smallest and a usual micro-batch as training does, and give everything back as it was.

    The gradient of `training_step` must be that of the loss: if the Trainer divided it by the accumulation
    steps once more, training would go on with other gradients than the recipe says (tf#47688).

    Raises:
        TrainError: nothing that should learn received a gradient (tf#21381), or the gradient is scaled.
    """
    model = tuner.model
    loader = tuner.get_train_dataloader()
    first, *others = list(tuner.sampler)
    smallest = min([first, *others], key=len)
    tuner.current_gradient_accumulation_steps = 3  # so that a division by it cannot stay hidden
    with left_as_it_was(model):
        model.train()
        expected = _gradient(
            tuner, first, lambda batch, count: tuner.compute_loss(model, batch, False, count).backward()
        )
        start = time.perf_counter()
        found = _gradient(tuner, first, lambda batch, count: tuner.training_step(model, batch, count))
        seconds = time.perf_counter() - start
        _gradient(tuner, smallest, lambda batch, count: tuner.training_step(model, batch, count))
    if not expected > 0:
        learning = sum(parameter.requires_grad for parameter in model.parameters())
        raise TrainError(
            f"none of the {learning} trainable tensors received a gradient; see the section freeze:"
        )
    # A GPU draws other dropout in the two passes and moves the norm a little; a division is threefold.
    if not 0.5 < found / expected < 2:
        raise TrainError(
            f"the Trainer scales gradients ({found:.4g} in place of {expected:.4g}); this version of "
            "transformers does not fit hf_ft; take one that pyproject.toml allows"
        )
    epochs = tuner.args.num_train_epochs
    steps = (
        tuner.args.max_steps * tuner.plan.accumulation if tuner.args.max_steps > 0 else len(loader) * epochs
    )
    return Probe(seconds, int(steps), _peak_bytes())


def _gradient(tuner: FineTuner, indices: Sequence[Any], step: Callable[[Batch, torch.Tensor], Any]) -> float:
    """Give the norm of the gradient that a step leaves, from the same random state each time; clear it."""
    state = torch.get_rng_state()
    batch = tuner.train_dataset.collate(tuner.train_dataset.__getitems__(list(indices)))
    batch = to_device(tuner.task, batch, tuner.args.device)
    step(batch, tuner._get_num_items_in_batch([batch], tuner.args.device))
    torch.set_rng_state(state)
    gradients = [parameter.grad for parameter in tuner.model.parameters() if parameter.grad is not None]
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm()) if gradients else 0.0
    tuner.model.zero_grad(set_to_none=True)
    return norm


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
