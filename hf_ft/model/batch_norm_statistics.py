"""Recompute the running statistics of batch norms from training rows without augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from hf_ft.data.device import to_device
from hf_ft.model.forward import forward

if TYPE_CHECKING:
    from hf_ft.data.dataset import EncodedRows
    from hf_ft.task import Task

BATCH_ROWS = 64


def learning_batch_norms(model: torch.nn.Module) -> list[_BatchNorm]:
    """List the trainable batch norms; frozen batch norms retain the statistics of pretraining."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]


def settle_batch_norms(model: torch.nn.Module, task: Task, rows: EncodedRows, count: int, seed: int) -> int:
    """Replace running averages by the statistics of training rows, without augmentation and dropout.

    Running averages lag behind the weights and include augmented rows, so the network would be evaluated with
    statistics of other pictures than it sees then. The method is "precise BN" (Wu and Johnson, "Rethinking
    'Batch' in BatchNorm", 2021, section 3). It does not change training, in which a batch norm uses the
    statistics of the batch.

    Args:
        model: the model; changed in place.
        task: collates rows and calls the model.
        rows: training rows, without random augmentation.
        count: most rows to use, the same rows in every process.
        seed: random seed of the choice of rows.

    Returns:
        The number of batch norms that were changed.
    """
    norms = learning_batch_norms(model)
    if not norms or not count:
        return 0
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then computes the mean over all batches
        norm.train()
    device = next(model.parameters()).device
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    with torch.no_grad():
        for part in np.array_split(chosen, max(1, len(chosen) // BATCH_ROWS)):
            batch = rows.collate(rows.__getitems__([(0, int(row), True) for row in part]))
            forward(task, model, to_device(task, batch, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
    return len(norms)
