"""Batch samplers: divide the rows into global batches, and each of these into micro-batches of processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_ft.errors import DataError
from hf_ft.task import Batch

# (epoch, row, real). The epoch is part of the index because augmentation in a worker process is seeded by it.
# A row that is not real fills up the batch of a process that has no row left; it has weight 0 in the loss.
Index = tuple[int, int, bool]

# Number of global batches that are sorted by length together: large enough for similar lengths within a
# batch, small enough for a random order.
LENGTH_CHUNK = 50

# Most rows of a batch in a forward pass without gradients (evaluation, prediction, filling a cache);
# MOST_SHORT_ROWS if rows have lengths.
MOST_ROWS = 64
MOST_SHORT_ROWS = 256
# Most numbers in the inputs of such a batch on a CPU: 8 pictures of 224 x 224. In bf16 EfficientNet-Lite0
# took 3.8 ms per picture in batches of 8, and 5.7 ms in batches of 9 (two cores). In fp32, batches of 4 to 10
# took the same time per picture if the allocator did not return freed memory to the system.
CPU_NUMBERS = 5 * 2**18
# Most tokens of such a batch, padding included. On a CPU, BERT's time per token is the same from 1,000 to
# 4,000 tokens; an accelerator needs more tokens to be fully used.
CPU_TOKENS = 2048
ACCELERATOR_TOKENS = 16384


class GlobalBatchSampler(Sampler[list[Index]]):
    """Divide a seeded order of the rows into global batches, and each global batch into equal shares.

    A global batch is the same set of rows for any number of processes and accumulation steps; only its
    division into micro-batches differs. Accelerate's sharding is not used, because it repeats rows to fill
    the last batch.

    Args:
        rows: number of training rows.
        global_batch_size: rows per optimizer step.
        accumulation: micro-batches per process and optimizer step.
        processes: number of processes.
        rank: index of this process.
        seed: random seed of the order, together with the epoch.
        weights: weight [rows] of each row when rows are drawn with replacement; None: every row once per
            epoch.
        lengths: length of each row [rows] (tokens, steps). Rows of similar length then share a global batch,
            which saves padding; the batches keep their size and come in random order. None: rows are not
            sorted.
    """

    def __init__(
        self,
        rows: int,
        *,
        global_batch_size: int,
        accumulation: int = 1,
        processes: int = 1,
        rank: int = 0,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        lengths: Sequence[int] | None = None,
    ):
        self.rows, self.global_batch_size, self.accumulation = rows, global_batch_size, accumulation
        self.processes, self.rank, self.seed = processes, rank, seed
        self.weights = None if weights is None else np.asarray(weights, dtype=float) / np.sum(weights)
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Number of optimizer steps per epoch."""
        steps = self.rows / self.global_batch_size
        # A single last row joins the batch before it, because a batch norm cannot be trained on one row.
        alone = self.rows % self.global_batch_size == 1
        return max(1, math.floor(steps) if alone else math.ceil(steps))

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch in training order, int [rows]."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is None:
            order = rng.permutation(self.rows)
        else:
            order = rng.choice(self.rows, size=self.rows, p=self.weights)
        return order if self.lengths is None else self._by_length(order, self.lengths, rng)

    def _by_length(self, order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sort by length within chunks of global batches, then shuffle the batches.

        A last batch that is not full stays the last one.
        """
        full = self.rows // self.global_batch_size * self.global_batch_size
        chunk = LENGTH_CHUNK * self.global_batch_size
        parts = [order[start : min(start + chunk, full)] for start in range(0, full, chunk)]
        batches = [
            batch
            for part in parts
            for batch in np.split(
                part[np.argsort(lengths[part], kind="stable")], len(part) // self.global_batch_size
            )
        ]
        shuffled = [batches[index] for index in rng.permutation(len(batches))]
        return np.concatenate([*shuffled, order[full:]])

    def __iter__(self) -> Iterator[list[Index]]:
        order = self.order(self.epoch)
        for step in range(self.steps):
            stop = (step + 1) * self.global_batch_size
            joins = step == self.steps - 1 and self.rows - stop == 1
            batch = order[step * self.global_batch_size : stop + joins]
            shares = np.array_split(batch, self.processes * self.accumulation)
            for micro in range(self.accumulation):
                share = shares[micro * self.processes + self.rank]
                if len(share):
                    yield [(self.epoch, int(row), True) for row in share]
                else:
                    yield [(self.epoch, int(batch[0]), False)]


class EvalBatchSampler(Sampler[list[Index]]):
    """Distribute the batches of a split over the processes in turn.

    All processes take the same number of batches: a process that has none left gets a row that is not real.

    Args:
        rows: number of rows.
        batch_size: most rows per batch and process.
        processes: number of processes.
        rank: index of this process.
        lengths: length of each row [rows]. The longest rows then come first, which saves padding and shows
            at once whether the memory is large enough. None: rows are in the order of the split.
        tokens: most tokens of a batch (rows times longest length) if there are lengths; None: no limit.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        processes: int = 1,
        rank: int = 0,
        lengths: Sequence[int] | None = None,
        tokens: int | None = None,
    ):
        self.processes, self.rank = processes, rank
        self.batches = batches_of(rows, batch_size, lengths, tokens)

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.processes)

    def __iter__(self) -> Iterator[list[Index]]:
        for start in range(0, len(self.batches), self.processes):
            share = self.batches[start : start + self.processes][self.rank : self.rank + 1]
            yield [(0, row, True) for row in share[0]] if share else [(0, 0, False)]


def batches_of(
    rows: int, most: int, lengths: Sequence[int] | None = None, tokens: int | None = None
) -> list[list[int]]:
    """Divide rows into batches; rows with lengths are sorted, the longest first.

    Args:
        rows: number of rows.
        most: most rows of a batch.
        lengths: length of each row [rows], or None.
        tokens: most tokens of a batch (rows times longest length); a longer row is a batch of its own.

    Returns:
        The positions of the rows of each batch.
    """
    if lengths is None:
        return [list(range(start, min(start + most, rows))) for start in range(0, rows, most)]
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    batches: list[list[int]] = []
    start = 0
    while start < rows:
        longest = max(1, lengths[order[start]])
        size = most if tokens is None else max(1, min(most, tokens // longest))
        batches.append(order[start : start + size])
        start += size
    return batches


def numbers_in(batch: Batch) -> int:
    """Return how many numbers the tensors of a batch hold."""
    return sum(value.numel() for value in batch.values() if torch.is_tensor(value))


def forward_batch(numbers: int, device: str, *, lengths: bool) -> tuple[int, int | None]:
    """Choose the batch size of forward passes without gradients: evaluation, prediction, filling a cache.

    Args:
        numbers: how many numbers the inputs of one row hold.
        device: type of the device, such as `cpu` or `cuda`.
        lengths: whether rows have lengths.

    Returns:
        The most rows of a batch, and the most tokens of a batch or None if rows have no lengths.
    """
    if lengths:
        return MOST_SHORT_ROWS, CPU_TOKENS if device == "cpu" else ACCELERATOR_TOKENS
    if device == "cpu":
        return max(1, min(MOST_ROWS, CPU_NUMBERS // max(1, numbers))), None
    return MOST_ROWS, None


def balanced_weights(classes: Sequence[object]) -> list[float]:
    """Return for each row the weight 1 / (size of its class), so that classes are drawn equally often.

    Args:
        classes: the class of each row.

    Raises:
        DataError: rows have lists of classes.
    """
    if any(isinstance(value, (list, tuple)) for value in classes):
        raise DataError(
            "data.sampler: balanced needs one class per row, but these rows have lists of labels; write "
            "data.sampler: shuffle, and loss: {class_weights: balanced} against rare labels"
        )
    _, inverse, counts = np.unique(np.asarray(classes, dtype=str), return_inverse=True, return_counts=True)
    weights: list[float] = (1.0 / counts[inverse]).tolist()
    return weights
