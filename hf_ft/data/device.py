"""The way of a batch to where the model is; in training steps, the trainer's `_prepare_inputs` goes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hf_ft.task import Batch, Task


def to_device(task: Task, batch: Batch, device: torch.device) -> Batch:
    """Send a batch to a device, and let the task finish it there; what is finished already stays as it is.

    Args:
        task: that collated it.
        batch: from `EncodedRows.collate`, or finished before.
        device: where the model is.

    Returns:
        What the model is called on.
    """
    from accelerate.utils import send_to_device

    return task.finish(send_to_device(batch, device))
