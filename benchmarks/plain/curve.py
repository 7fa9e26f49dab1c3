"""A callback for the Trainer of both sides: time and metric of each evaluation, steps and epochs."""

from __future__ import annotations

import time
from typing import Any


class Curve:
    """Store the time and the metric of every evaluation, and the steps and epochs at the end.

    The Trainer asks a callback only for its methods. Inheriting from TrainerCallback would import torch, and
    `finetune` starts the gate's process before that.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.points: list[tuple[float, float]] = []
        self.steps, self.epochs = 0, 0.0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.points.append((time.perf_counter(), float(metrics[f"eval_{self.metric}"])))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps, self.epochs = state.global_step, round(float(state.epoch), 3)
