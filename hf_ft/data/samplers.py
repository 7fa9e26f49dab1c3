"""Which rows make up each global batch, and which of them this process takes in which micro-batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_ft.errors import DataError
from hf_ft.task import Batch

# (epoch, row, real): the epoch travels with the index, so that augmentation can be seeded by it in any worker
# process; a row that is not real only keeps the processes in step and weighs nothing.
Index = tuple[int, int, bool]

# Global batches that are sorted by length together: enough that rows of a batch are of like length, few
# enough that the order stays random.
LENGTH_CHUNK = 50

# Rows of a batch that only goes forward.
MOST_ROWS = 64
MOST_SHORT_ROWS = 256
# Numbers in the inputs of such a batch on the CPU: 8 pictures of 224 x 224. In bf16 EfficientNet-Lite0 took
# 3.8 ms a picture in batches of 8, and 5.7 ms in batches of 9 (two cores); with freed memory kept, batches of
# 4 to 10 were alike in fp32.
CPU_NUMBERS = 5 * 2**18
# Tokens of such a batch, padding included. BERT's time per token is flat from 1,000 to 4,000 on a CPU; an
# accelerator needs more to be filled, and has the memory.
CPU_TOKENS = 2048
ACCELERATOR_TOKENS = 16384


class GlobalBatchSampler(Sampler[list[Index]]):
    """Cut a seeded order of the rows into global batches, and each of them into equal shares.

    A global batch is the same set of rows for any number of processes and accumulation steps; only its
    division into micro-batches differs. Accelerate's own sharding is not used because it repeats rows to fill
    the last batch.

    Args:
        rows: number of training rows.
        global_batch_size: rows per optimizer step.
        accumulation: micro-batches per process and step.
        processes: number of processes.
        rank: this process.
        seed: with the epoch, decides the order.
        weights: probability of each row [rows] to be drawn, with replacement; None: every row once an epoch.
        lengths: length of each row [rows] (tokens, steps): rows of like length then share a global batch,
            which saves padding. The batches keep their size and come in random order; None: rows are not
            sorted.
        drop_last: leave out the last global batch where it is not full.
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
        drop_last: bool = False,
    ):
        self.rows, self.global_batch_size, self.accumulation = rows, global_batch_size, accumulation
        self.processes, self.rank, self.seed, self.drop_last = processes, rank, seed, drop_last
        self.weights = None if weights is None else np.asarray(weights, dtype=float) / np.sum(weights)
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        steps = self.rows / self.global_batch_size
        # A rest of one row joins the batch before it: batch norms cannot learn from one row.
        alone = self.rows % self.global_batch_size == 1
        return max(1, math.floor(steps) if self.drop_last or alone else math.ceil(steps))

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def order(self, epoch: int) -> np.ndarray:
        """Give the rows of an epoch in the order in which they are visited, int [rows]."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is None:
            order = rng.permutation(self.rows)
        else:
            order = rng.choice(self.rows, size=self.rows, p=self.weights)
        return order if self.lengths is None else self._by_length(order, self.lengths, rng)

    def _by_length(self, order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sort within chunks of global batches and shuffle the batches; one that is not full stays last."""
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
            joins = step == self.steps - 1 and self.rows - stop == 1 and not self.drop_last
            batch = order[step * self.global_batch_size : stop + joins]
            shares = np.array_split(batch, self.processes * self.accumulation)
            for micro in range(self.accumulation):
                share = shares[micro * self.processes + self.rank]
                if len(share):
                    yield [(self.epoch, int(row), True) for row in share]
                else:
                    yield [(self.epoch, int(batch[0]), False)]


class EvalBatchSampler(Sampler[list[Index]]):
    """Deal the rows of a split to the processes, batch by batch, all processes in step.

    Where the batches do not divide, a process is given a row that is not real.

    Args:
        rows: number of rows.
        batch_size: most rows per batch and process.
        processes: number of processes.
        rank: this process.
        lengths: length of each row [rows]: the longest rows then come first, so that padding is little and
            memory is found wanting at once; None: in the order of the split.
        tokens: most rows times longest length of a batch, where there are lengths; None: no bound.
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
    """Cut rows into batches, the longest rows first where they have lengths.

    Args:
        rows: number of rows.
        most: most rows of a batch.
        lengths: length of each row [rows], or None.
        tokens: most rows times longest length of a batch; a row that is longer has one to itself.
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
    """Count the numbers that the tensors of a batch hold."""
    return sum(value.numel() for value in batch.values() if torch.is_tensor(value))


def forward_batch(numbers: int, device: str, *, lengths: bool) -> tuple[int, int | None]:
    """Choose the size of batches that only go forward: evaluation, prediction, filling a cache.

    Args:
        numbers: how many numbers the inputs of one row hold.
        device: type of the device, `cpu` or an accelerator's.
        lengths: whether rows have lengths.

    Returns:
        Most rows of a batch, and most tokens where rows have lengths.
    """
    if lengths:
        return MOST_SHORT_ROWS, CPU_TOKENS if device == "cpu" else ACCELERATOR_TOKENS
    if device == "cpu":
        return max(1, min(MOST_ROWS, CPU_NUMBERS // max(1, numbers))), None
    return MOST_ROWS, None


def balanced_weights(classes: Sequence[object]) -> list[float]:
    """Give each row the weight 1 / (size of its class), so that classes are drawn equally often.

    Raises:
        DataError: rows have several classes each.
    """
    if any(isinstance(value, (list, tuple)) for value in classes):
        raise DataError(
            "data.sampler: balanced needs one class a row, and here rows have lists of labels; write "
            "shuffle, and loss: {class_weights: balanced} against rare labels"
        )
    values, inverse, counts = np.unique(
        np.asarray(classes, dtype=str), return_inverse=True, return_counts=True
    )
    del values
    weights: list[float] = (1.0 / counts[inverse]).tolist()
    return weights
