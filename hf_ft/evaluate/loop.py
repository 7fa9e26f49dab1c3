"""The evaluation loop: every row of a split exactly once, on one process or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.task import Batch, Evaluation, Metrics, Task

if TYPE_CHECKING:
    import torch

    from hf_ft.data.dataset import EncodedRows

# Rows whose references are read in one call when all references are read.
AT_ONCE = 256


class References(Sequence[Any]):
    """The references of a split, read from its rows on access; none is held in memory.

    Args:
        task: reads the references (`Task.references`).
        rows: N raw rows.
    """

    def __init__(self, task: Task, rows: Any):
        self.task, self.rows = task, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        if isinstance(places, range):
            return self.task.references(self.rows, places)
        return self.task.references(self.rows, [places])[0]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(list(self), dtype=dtype)


@dataclass
class _Evaluated:
    """What one process has evaluated, in the order in which it saw the rows.

    Args:
        rows: positions in the split.
        results: one summarized result per row.
        losses: loss of each row, summed over what the row counts.
        counts: count of each row.
    """

    rows: list[int] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)

    def in_order(self) -> _Evaluated:
        """Return the same rows, sorted by their position in the split."""
        order = np.argsort(self.rows).tolist()

        def sort(part: list[Any]) -> list[Any]:
            return [part[place] for place in order] if part else []

        return _Evaluated(sort(self.rows), sort(self.results), sort(self.losses), sort(self.counts))

    @classmethod
    def joined(cls, parts: Sequence[_Evaluated]) -> _Evaluated:
        """Join what several processes have evaluated."""
        if len(parts) == 1:
            return parts[0]
        names = ("rows", "results", "losses", "counts")
        return cls(*([value for part in parts for value in getattr(part, name)] for name in names))


def evaluate_rows(
    task: Task,
    model: torch.nn.Module,
    rows: EncodedRows,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    device: torch.device | None = None,
    progress: str | None = None,
) -> Evaluation:
    """Evaluate a model on all rows of a split.

    The model itself is called and not a DDP wrapper: a forward pass needs no synchronisation, so processes
    may have different numbers of rows. The metrics are updated batch by batch; of each row only the
    summarized result (`Task.summarize`) is stored.

    Args:
        task: the fitted task.
        model: called in eval mode, without gradients; its mode is restored.
        rows: N encoded rows, without random augmentation.
        batch_size: rows per batch and process; None: as many as the device is fast with, or as many tokens
            where rows have lengths.
        workers: number of worker processes that encode rows.
        device: of the batches; default: the device of the model.
        progress: text of the progress bar; None: no bar.

    Raises:
        DataError: a row was missed, or counted more than once.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from hf_ft.data.device import to_device

    device = device or next(model.parameters()).device
    loader = _loader(rows, batch_size, workers, device)
    metrics, evaluated = task.metrics(), _Evaluated()
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in _progress_bar(loader, progress, PartialState().is_main_process):
            _evaluate_batch(task, model, to_device(task, batch, device), rows, evaluated, metrics)
    model.train(was_training)
    own = np.array(evaluated.rows, dtype=np.int64)
    evaluated = _Evaluated.joined(gather_object([evaluated]))
    _check_once(evaluated.rows, rows.ids, rows.split)
    metrics.merge(own, gather_object)
    evaluated = evaluated.in_order()
    values = metrics.compute()
    losses = counts = None
    if task.has_loss(rows.split):
        counts = evaluated.counts
        values["loss"] = sum(evaluated.losses) / sum(counts)
        losses = [
            loss / count if count else 0.0 for loss, count in zip(evaluated.losses, counts, strict=True)
        ]
    references = References(task, rows.rows)
    return Evaluation(rows.split, rows.ids, evaluated.results, references, losses, values, counts=counts)


def measure(task: Task, results: Sequence[Any], references: Sequence[Any]) -> Metrics:
    """Update fresh metrics of the task with results, a few at a time.

    Args:
        task: the fitted task.
        results: N results, as `Task.summarize` leaves them.
        references: N references.
    """
    metrics = task.metrics()
    for start in range(0, len(results), AT_ONCE):
        metrics.update(results[start : start + AT_ONCE], references[start : start + AT_ONCE])
    return metrics


def _loader(rows: EncodedRows, batch_size: int | None, workers: int, device: torch.device) -> Any:
    """Return the loader of this process's batches."""
    import torch
    from accelerate import PartialState
    from torch.utils.data import DataLoader

    from hf_ft.data.samplers import EvalBatchSampler, forward_batch, numbers_in

    state = PartialState()
    # Asked for before any row is encoded: a task that counts tokens stores them, and encoding reads them.
    lengths, tokens = rows.lengths, None
    if batch_size is None:
        one = rows.collate(rows.__getitems__([(0, 0, True)]))
        batch_size, tokens = forward_batch(numbers_in(one), device.type, lengths=lengths is not None)
    sampler = EvalBatchSampler(
        len(rows),
        batch_size=batch_size,
        processes=state.num_processes,
        rank=state.process_index,
        lengths=lengths,
        tokens=tokens,
    )
    # A generator of its own: evaluation must not change the random state that dropout uses in training.
    return DataLoader(
        rows,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=rows.collate,
        num_workers=workers if rows.takes_workers else 0,
        generator=torch.Generator(),
    )


def _evaluate_batch(
    task: Task,
    model: torch.nn.Module,
    batch: Batch,
    rows: EncodedRows,
    evaluated: _Evaluated,
    metrics: Metrics,
) -> None:
    """Evaluate one batch; rows that only fill it up are left out."""
    from hf_ft.model.forward import forward

    real = batch["real"].cpu().numpy().nonzero()[0]
    outputs = forward(task, model, batch)
    found = task.predict(model, outputs, batch)
    if not len(real):
        return
    numbers = batch["row"].cpu().numpy()[real].tolist()
    references = task.references(rows.rows, numbers)
    results = task.summarize([found[place] for place in real], references)
    metrics.update(results, references)
    evaluated.rows += numbers
    evaluated.results += results
    if task.has_loss(rows.split):
        evaluated.losses += task.loss(model, outputs, batch).float().cpu().numpy()[real].tolist()
        evaluated.counts += task.count(batch).float().cpu().numpy()[real].tolist()


def _progress_bar(loader: Any, text: str | None, show: bool) -> Any:
    from tqdm.auto import tqdm

    # None: tqdm shows no bar where standard error is not a terminal.
    return tqdm(loader, desc=text, leave=False, disable=None if text is not None and show else True)


def _check_once(found: Sequence[int], ids: Sequence[str], split: str) -> None:
    """Check that every row was counted once: accelerate can repeat rows, gathering lose some (tf#25939)."""
    counts = Counter(found)
    wrong = [f"{ids[row]} x{counts[row]}" for row in range(len(ids)) if counts[row] != 1]
    if wrong:
        raise DataError(f"evaluation of {split}: rows not counted exactly once: {', '.join(wrong[:10])}")
