"""Preflight: before training, test the loss for any division of a batch, one training step, and metrics."""

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
from hf_ft.model.mixed_precision import full_precision
from hf_ft.model.preserved_state import preserved_state

if TYPE_CHECKING:
    from hf_ft.task import Batch
    from hf_ft.train.trainer import FineTuner

# Largest difference of the two losses, as a share of the loss (of 1 where the loss is smaller).
TOLERANCE = 1e-4
# Rows that the loss and the metrics are tried on.
ROWS = 16


@dataclass(frozen=True)
class Preflight:
    """Results of the preflight.

    Args:
        self_test: the loss of a batch, whole and in parts.
        step: one training step on real rows.
    """

    self_test: SelfTest
    step: Probe

    @property
    def lines(self) -> list[str]:
        """The results as text, one line each."""
        return [str(self.self_test), str(self.step)]


def preflight(trainer: FineTuner) -> Preflight:
    """Try the loss, a training step and the metrics of a recipe on a few rows, before hours of training.

    Args:
        trainer: ready to train; its model and random state are restored.

    Raises:
        TrainError: no trainable tensor received a gradient, or the Trainer scales gradients.
        RecipeError: a metric that the recipe names cannot be measured.
    """
    self_test, step = check_loss_division(trainer), probe_step(trainer)
    check_metrics(trainer)
    return Preflight(self_test, step)


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
        """Whether both losses agree within TOLERANCE."""
        return abs(self.whole - self.parts) <= TOLERANCE * max(1.0, abs(self.whole))

    def __str__(self) -> str:
        return (
            f"loss {self.whole:.6f} in one batch, {self.parts:.6f} in parts over {self.processes} process(es)"
        )


def check_loss_division(trainer: FineTuner) -> SelfTest:
    """Compute the loss of up to 16 training rows whole and in parts, with the code that training runs.

    The model is in eval mode, so that dropout and batch statistics make no difference. Random augmentation
    stays on: it depends on (seed, epoch, row) alone.
    """
    rows = np.arange(min(ROWS, len(trainer.train_dataset)))
    processes, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    parts = np.array_split(rows, 3 * processes)
    was_training = trainer.model.training
    trainer.model.eval()
    # Not in bf16, whose rounding of other batches would hide a small error, or look like one.
    with torch.no_grad(), full_precision(trainer.model):
        # Every process computes the whole batch here, so the global count has each row once per process, and
        # so has the loss.
        whole = _loss(trainer, [_batch(trainer, rows)])
        divided = _loss(trainer, [_batch(trainer, part) for part in parts[rank::processes]]) / processes
        divided = trainer.accelerator.reduce(divided, "sum")
    trainer.model.train(was_training)
    return SelfTest(float(whole), float(divided), processes)


def _batch(trainer: FineTuner, rows: np.ndarray) -> Batch:
    indices = [(0, int(row), True) for row in rows] or [(0, 0, False)]
    batch = trainer.train_dataset.collate(trainer.train_dataset.__getitems__(indices))
    return to_device(trainer.task, batch, trainer.args.device)


def _loss(trainer: FineTuner, batches: list[Batch]) -> torch.Tensor:
    count = trainer._get_num_items_in_batch(batches, trainer.args.device)
    losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=count) for batch in batches]
    return torch.stack(losses).sum()


def check_metrics(trainer: FineTuner) -> None:
    """Compute the metrics of `evaluate.extra` on a few validation rows, before hours of training.

    Only computing such a metric shows what it needs and under which names it returns its values.

    Raises:
        RecipeError: a metric cannot be computed, or none returns a value with the name `evaluate.metric`.
    """
    task = trainer.task
    if not task.extra_metrics:
        return
    task.metrics()  # raises where the task cannot use such a metric at all
    rows = trainer.eval_dataset
    # Rows spread over the split, and one of each class: a metric may be undefined where a class is missing.
    chosen = set(np.linspace(0, len(rows) - 1, ROWS, dtype=int).tolist())
    if task.class_role is not None:
        chosen |= set({label: row for row, label in enumerate(rows.rows.column(task.class_role))}.values())
    few = EncodedRows(
        task, rows.rows.select(sorted(chosen)), split=rows.split, seed=trainer.args.seed, train=False
    )
    found = trainer.evaluate_rows(few).metrics
    measured = {key for key, value in found.items() if isinstance(value, float)}
    name = trainer.args.metric_for_best_model.removeprefix("eval_")
    if name not in measured and name not in task.greater_is_better:
        extra = ", ".join(sorted(measured - set(task.greater_is_better))) or "no number"
        raise RecipeError(
            f"evaluate.metric: {name!r} is not measured; evaluate.extra ({', '.join(task.extra_metrics)}) "
            f"gives {extra}"
        )


@dataclass(frozen=True)
class Probe:
    """Measurements of one training step on real rows.

    Args:
        seconds: of one micro-batch, forward and backward.
        micro_batches: number of them in the whole run, on this process.
        peak_bytes: most memory that the process (or its device) has held so far.
    """

    seconds: float
    micro_batches: int
    peak_bytes: int

    def __str__(self) -> str:
        minutes = self.seconds * self.micro_batches / 60
        return (
            f"about {minutes:.1f} min of training ahead, {self.peak_bytes / 2**30:.1f} GiB at the peak so far"
        )


def probe_step(trainer: FineTuner) -> Probe:
    """Run the first and the smallest micro-batch as training does, and restore the model's state.

    The gradient of `training_step` must be the gradient of the loss. If the Trainer divided it by the
    accumulation steps once more, training would silently use smaller gradients (tf#47688).

    Raises:
        TrainError: no trainable tensor received a gradient (tf#21381), or the gradient is scaled.
    """
    model = trainer.model
    loader = trainer.get_train_dataloader()
    first, *others = list(trainer.sampler)
    smallest = min([first, *others], key=len)
    # Three steps of accumulation, so that a division by their number shows.
    with preserved_state(model), trainer.accumulating(3):
        model.train()
        expected = _gradient(
            trainer, first, lambda batch, count: trainer.compute_loss(model, batch, False, count).backward()
        )
        start = time.perf_counter()
        found = _gradient(trainer, first, lambda batch, count: trainer.training_step(model, batch, count))
        seconds = time.perf_counter() - start
        _gradient(trainer, smallest, lambda batch, count: trainer.training_step(model, batch, count))
    if not expected > 0:
        learning = sum(parameter.requires_grad for parameter in model.parameters())
        raise TrainError(
            f"none of the {learning} trainable tensors received a gradient; check the section freeze:"
        )
    # On a GPU the two passes draw different dropout masks, so the norms differ a little; a division by the
    # accumulation steps would make a factor of 3.
    if not 0.5 < found / expected < 2:
        raise TrainError(
            f"the Trainer scales gradients (norm {found:.4g}, expected {expected:.4g}): hf_ft does not "
            "support this version of transformers; install one that pyproject.toml allows"
        )
    epochs = trainer.args.num_train_epochs
    steps = (
        trainer.args.max_steps * trainer.plan.accumulation
        if trainer.args.max_steps > 0
        else len(loader) * epochs
    )
    return Probe(seconds, int(steps), _peak_bytes())


def _gradient(
    trainer: FineTuner, indices: Sequence[Any], step: Callable[[Batch, torch.Tensor], Any]
) -> float:
    """Run a step and return the norm of its gradient; the random state is restored, the gradient deleted."""
    state = torch.get_rng_state()
    batch = trainer.train_dataset.collate(trainer.train_dataset.__getitems__(list(indices)))
    batch = to_device(trainer.task, batch, trainer.args.device)
    step(batch, trainer._get_num_items_in_batch([batch], trainer.args.device))
    torch.set_rng_state(state)
    gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm()) if gradients else 0.0
    trainer.model.zero_grad(set_to_none=True)
    return norm


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
