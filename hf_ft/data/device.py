"""Move a batch to the device of the model; in training steps, `FineTuner._prepare_inputs` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hf_ft.task import Batch, Task


def to_device(task: Task, batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device and call `Task.finish` on it there.

    A batch that is finished already is not changed by `Task.finish`.

    Args:
        task: the task that collated the batch.
        batch: result of `EncodedRows.collate`.
        device: device of the model.

    Returns:
        The batch that the model is called with.
    """
    from accelerate.utils import send_to_device

    return task.finish(send_to_device(batch, device))
