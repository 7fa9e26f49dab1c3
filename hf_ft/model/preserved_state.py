"""Run passes of a model before training and give its state back: mode, buffers, and the random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def preserved_state(model: nn.Module) -> Iterator[None]:
    """Give back the mode, the statistics of batch norms and torch's random state, which passes move."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    with torch.random.fork_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    # A pass may make tables of its own, or longer ones; these are no statistics.
                    if name in buffers and buffer.shape == buffers[name].shape:
                        buffer.copy_(buffers[name])
            model.train(was_training)
