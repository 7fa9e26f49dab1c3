"""The one place that calls a model on a batch: from its inputs, or from cached activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.task import PREFIX

if TYPE_CHECKING:
    from hf_ft.task import Batch, Task


def forward(task: Task, model: Any, batch: Batch) -> Any:
    """Call the model on a batch, which is finished and on the model's device.

    Args:
        task: its `forward` makes the call.
        model: the model, or what distributes it.
        batch: under `prefix`, where there is such a key, the cached activations that the pass starts from.
    """
    prefix = batch.pop(PREFIX, None)
    return task.forward(model, batch) if prefix is None else prefix.forward(task, model, batch)
