"""Passes of a model on real rows, outside of the Trainer: for measurements and proofs before training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import convert_to_fp32

from hf_ft.data.device import to_device
from hf_ft.model.forward import forward
from hf_ft.model.mixed_precision import full_precision
from hf_ft.task import ACTIVATIONS

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.data.dataset import EncodedRows
    from hf_ft.task import Batch, Task

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Passes:
    """How a model is run on batches of rows.

    Args:
        task: fitted and loaded.
        model: on `device`, not wrapped by what distributes it.
        device: where it computes.
        precision: fp32, tf32, bf16 or fp16; weights stay in fp32.
    """

    task: Task
    model: nn.Module
    device: torch.device
    precision: str

    @property
    def is_mixed(self) -> bool:
        """Whether a pass rounds to half of the bits."""
        return self.precision in _HALF

    def in_full(self) -> Passes:
        """Give passes in full precision, as the saved model is measured."""
        return replace(self, precision="fp32") if self.is_mixed else self

    def batch(self, rows: EncodedRows, chosen: Sequence[int]) -> Batch:
        """Encode rows of the first epoch, and send their batch to the device, finished."""
        batch = rows.collate(rows.__getitems__([(0, int(row), True) for row in chosen]))
        cached = {ACTIVATIONS: batch.pop(ACTIVATIONS)} if ACTIVATIONS in batch else {}
        return {**to_device(self.task, batch, self.device), **cached}

    def run(self, batch: Batch) -> Any:
        """Call the model on a batch, and give its outputs in float32."""
        if self.is_mixed:
            with torch.autocast(self.device.type, _HALF[self.precision]):
                return convert_to_fp32(forward(self.task, self.model, batch))
        with full_precision(self.model):
            return forward(self.task, self.model, batch)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Give the mean loss of a batch: the sum over its rows over the sum of what they count."""
        rows = self.task.loss(self.model, self.run(batch), batch)
        return rows.sum() / self.task.count(batch).sum()

    def step_seconds(self, batch: Batch) -> float:
        """Time one pass forward and backward; its gradients are thrown away."""
        start = time.perf_counter()
        self.loss(dict(batch)).backward()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        taken = time.perf_counter() - start
        self.model.zero_grad(set_to_none=True)
        return taken


@contextlib.contextmanager
def training_mode(model: nn.Module) -> Any:
    """Put the model into training mode, where what is frozen stays in eval mode, and give its mode back."""
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)
