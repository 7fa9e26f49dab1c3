"""Profile of training for `hf-ft run --profile`: wall-clock seconds of each phase of the Trainer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hf_ft.train.trainer import FineTuner

if TYPE_CHECKING:
    from rich.console import RenderableType

# Phase -> what it includes, in the order of the table.
PHASES = {
    "data": "waiting for batches, and moving them to the device",
    "forward": "model and loss",
    "backward": "gradients, and their exchange between processes",
    "optimizer": "clipping of gradients, and the step",
    "evaluation": "validation, and loading the best checkpoint",
    "saving": "checkpoints",
    "other": "the Trainer's loop, logging, callbacks",
}


class Profile:
    """Sums of the seconds of each phase; the seconds of an inner phase do not count for the outer one.

    An accelerator computes asynchronously, so the profile waits for it at every change of phase. A profiled
    run is therefore a little slower than another.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.total = 0.0
        self._running: list[str] = []
        self._since = 0.0

    def begin(self, phase: str) -> None:
        """Count the time from now on for this phase. Does nothing before training begins."""
        if self._running:
            self._count()
            self._running.append(phase)

    def end(self) -> None:
        """End the present phase; the time from now on counts for the phase around it."""
        if self._running:
            self._count()
            self._running.pop()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the `with` block for this phase."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Count the time of the `with` block as all of training; what belongs to no phase is `other`."""
        self._running, self._since = ["other"], time.perf_counter()
        start = self._since
        try:
            yield
        finally:
            self._count()
            self._running = []
            self.total += self._since - start

    def _count(self) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def to_json(self) -> dict[str, Any]:
        """Return the seconds of each phase, which sum to the total, as profile.json holds them."""
        return {"phases": dict(self.seconds), "total": self.total}

    @property
    def stages(self) -> dict[str, float]:
        """The seconds of each phase under the name `train: PHASE`, for the report."""
        return {f"train: {phase}": seconds for phase, seconds in self.seconds.items()}

    def table(self) -> RenderableType:
        """Return the table for `rich` to print."""
        from rich.table import Table

        table = Table("phase", "seconds", "share", "includes", box=None, padding=(0, 2))
        for phase, seconds in [*self.seconds.items(), ("total", self.total)]:
            share = seconds / self.total if self.total else 0.0
            table.add_row(phase, f"{seconds:.2f}", f"{share:.1%}", PHASES.get(phase, "training, wall clock"))
        return table


class ProfiledTrainer(FineTuner):
    """A FineTuner that times its phases in `profile`; it trains exactly as `FineTuner` does."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.profile = Profile()
        super().__init__(*args, **kwargs)
        self.add_callback(_StepClock(self.profile))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, timed."""
        with self.profile.whole():
            return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the batches of a step, and sum the counts of their rows."""
        with self.profile.phase("data"):
            return super().get_batch_samples(*args, **kwargs)

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        with self.profile.phase("data"):
            return super()._prepare_inputs(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run forward and backward; all but `compute_loss` counts as the backward pass."""
        with self.profile.phase("backward"):
            return super().training_step(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass and compute the loss."""
        with self.profile.phase("forward"):
            return super().compute_loss(*args, **kwargs)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        with self.profile.phase("optimizer"):
            return super()._clip_grad_norm(model)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, timed."""
        with self.profile.phase("evaluation"):
            return super().evaluate(*args, **kwargs)

    def _load_best_model(self) -> None:
        with self.profile.phase("evaluation"):
            super()._load_best_model()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.profile.phase("saving"):
            super()._save_checkpoint(model, trial)


class _StepClock(TrainerCallback):
    """Time the optimizer's step, which the Trainer makes between these two events."""

    def __init__(self, profile: Profile):
        self.profile = profile

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.profile.begin("optimizer")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.profile.end()
