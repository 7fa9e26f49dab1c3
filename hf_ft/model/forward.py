"""The one place that calls a model on a batch: from its inputs, or from cached activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.task import ACTIVATIONS

if TYPE_CHECKING:
    from hf_ft.task import Batch, Task


def forward(task: Task, model: Any, batch: Batch) -> Any:
    """Call the model on a batch, which is finished and on the model's device.

    Args:
        task: its `forward` makes the call.
        model: the model, or what distributes it.
        batch: under ACTIVATIONS, where it has that key, the cached activations that the pass starts from.
    """
    cached = batch.pop(ACTIVATIONS, None)
    return task.forward(model, batch) if cached is None else cached.forward(task, model, batch)
