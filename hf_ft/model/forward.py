"""Call a model on a batch: from its inputs, or from cached activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.task import ACTIVATIONS

if TYPE_CHECKING:
    from hf_ft.task import Batch, Task


def forward(task: Task, model: Any, batch: Batch) -> Any:
    """Call the model on a batch.

    Args:
        task: its `forward` calls the model.
        model: the model, which may be wrapped by DistributedDataParallel.
        batch: finished by `to_device`, on the model's device. If it has the key ACTIVATIONS, the pass starts
            from these cached activations, and the key is removed.

    Returns:
        The outputs of `Task.forward`.
    """
    cached = batch.pop(ACTIVATIONS, None)
    return task.forward(model, batch) if cached is None else cached.forward(task, model, batch)
