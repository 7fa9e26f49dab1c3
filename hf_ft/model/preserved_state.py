"""Run passes of a model before training, and restore its mode, its buffers and the random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def preserved_state(model: nn.Module) -> Iterator[None]:
    """Restore the training mode, the buffers and torch's random state when the block ends."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    with torch.random.fork_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    # A pass may create or enlarge tables (of positions, for example): these are not restored.
                    if name in buffers and buffer.shape == buffers[name].shape:
                        buffer.copy_(buffers[name])
            model.train(was_training)
