"""Where the time of training goes: wall clocks around the Trainer's own phases, for `hf-ft run --profile`."""

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

# What each phase holds, in the order of the table.
PHASES = {
    "data": "waiting for batches, and moving them to the device",
    "forward": "model and loss",
    "backward": "gradients, and their exchange between processes",
    "optimizer": "clipping and the step",
    "evaluation": "validation, and the best checkpoint loaded",
    "saving": "checkpoints",
    "other": "the Trainer's loop, logging, callbacks",
}


class Profile:
    """Adds up the seconds of each phase; a phase inside another counts for itself alone.

    An accelerator works behind the program's back, so it is waited for wherever a phase changes: a profiled
    run is a little slower than another, and its numbers are true.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.total = 0.0
        self._running: list[str] = []
        self._since = 0.0

    def begin(self, phase: str) -> None:
        """Let the time from now on count for this phase; before training begins, for none."""
        if self._running:
            self._count()
            self._running.append(phase)

    def end(self) -> None:
        """Go back to the phase that this one lies in."""
        if self._running:
            self._count()
            self._running.pop()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Time all of training; what belongs to no phase is `other`."""
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
        """Give seconds by phase, which sum to the total."""
        return {"phases": dict(self.seconds), "total": self.total}

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by phase, named as parts of the room they lie in, for the report."""
        return {f"train: {phase}": seconds for phase, seconds in self.seconds.items()}

    def table(self) -> RenderableType:
        """Give the table for `rich` to print."""
        from rich.table import Table

        table = Table("phase", "seconds", "share", "what", box=None, padding=(0, 2))
        for phase, seconds in [*self.seconds.items(), ("total", self.total)]:
            share = seconds / self.total if self.total else 0.0
            table.add_row(phase, f"{seconds:.2f}", f"{share:.1%}", PHASES.get(phase, "training, wall clock"))
        return table


class ProfiledTrainer(FineTuner):
    """A FineTuner that says where its time goes, in `profile`; it trains exactly as its base does."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.profile = Profile()
        super().__init__(*args, **kwargs)
        self.add_callback(_StepClock(self.profile))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, timed."""
        with self.profile.whole():
            return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the batches of a step, and count what their rows weigh."""
        with self.profile.phase("data"):
            return super().get_batch_samples(*args, **kwargs)

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        with self.profile.phase("data"):
            return super()._prepare_inputs(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward; what is not `compute_loss` is the backward pass."""
        with self.profile.phase("backward"):
            return super().training_step(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass and the loss."""
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
    """Times the optimizer's step, which the Trainer takes between these two events."""

    def __init__(self, profile: Profile):
        self.profile = profile

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.profile.begin("optimizer")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.profile.end()
