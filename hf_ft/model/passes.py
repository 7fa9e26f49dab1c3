"""Run forward and backward passes of a model outside of the Trainer, for measurements before training."""

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

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Passes:
    """Runs a model on batches of rows, in the precision of the run.

    Args:
        task: the fitted task, with its processor.
        model: the model on `device`, not wrapped by DistributedDataParallel.
        device: device of the model.
        precision: `fp32`, `tf32`, `bf16` or `fp16`; weights are in fp32.
    """

    task: Task
    model: nn.Module
    device: torch.device
    precision: str

    @property
    def is_mixed(self) -> bool:
        """Whether a pass runs under autocast, in bf16 or fp16."""
        return self.precision in _AUTOCAST_DTYPES

    def in_full(self) -> Passes:
        """Return passes in full precision, in which the saved model is evaluated."""
        return replace(self, precision="fp32") if self.is_mixed else self

    def batch(self, rows: EncodedRows, chosen: Sequence[int]) -> Batch:
        """Encode rows as in epoch 0 and return their batch, finished and on the device.

        Args:
            rows: the rows of a split.
            chosen: positions of the rows of the batch.
        """
        batch = rows.collate(rows.__getitems__([(0, int(row), True) for row in chosen]))
        cached = {ACTIVATIONS: batch.pop(ACTIVATIONS)} if ACTIVATIONS in batch else {}
        return {**to_device(self.task, batch, self.device), **cached}

    def run(self, batch: Batch) -> Any:
        """Call the model on a batch and return its outputs in float32."""
        if self.is_mixed:
            with torch.autocast(self.device.type, _AUTOCAST_DTYPES[self.precision]):
                return convert_to_fp32(forward(self.task, self.model, batch))
        with full_precision(self.model):
            return forward(self.task, self.model, batch)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch: the sum of `Task.loss` divided by the sum of `Task.count`."""
        rows = self.task.loss(self.model, self.run(batch), batch)
        return rows.sum() / self.task.count(batch).sum()

    def step_seconds(self, batch: Batch) -> float:
        """Measure a forward and backward pass in seconds; its gradients are discarded."""
        start = time.perf_counter()
        self.loss(dict(batch)).backward()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        taken = time.perf_counter() - start
        self.model.zero_grad(set_to_none=True)
        return taken


@contextlib.contextmanager
def training_mode(model: nn.Module) -> Any:
    """Put a model into training mode inside the block; frozen modules stay in eval mode."""
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)
