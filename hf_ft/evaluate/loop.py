"""One pass over a split: every row once, checked by id, on one process or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.task import Evaluation, Task

if TYPE_CHECKING:
    import torch

    from hf_ft.data.dataset import EncodedRows


def evaluate_rows(
    task: Task,
    model: torch.nn.Module,
    rows: EncodedRows,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    with_loss: bool = True,
    device: torch.device | None = None,
    progress: str | None = None,
) -> Evaluation:
    """Evaluate a model on all rows of a split.

    Works on the model itself, not on a DDP wrapper: a forward pass needs no synchronisation, so processes may
    hold different rows. Only the small results of `Task.predict` are kept.

    Args:
        task: the fitted task.
        model: called in eval mode, under inference mode; its mode is given back.
        rows: N encoded rows, without random augmentation.
        batch_size: rows per batch and process; None: as many as the device is fast with, or a number of
            tokens where rows have lengths.
        workers: processes that encode rows.
        with_loss: whether the rows carry targets.
        device: where the batches go; default: where the model is.
        progress: text of the progress bar; None: no bar.

    Raises:
        DataError: a row was missed or counted twice.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from torch.utils.data import DataLoader

    from hf_ft.data.device import to_device
    from hf_ft.data.samplers import EvalBatchSampler, forward_batch, numbers_in
    from hf_ft.model.forward import forward

    state = PartialState()
    device = device or next(model.parameters()).device
    # Before any row is encoded: a task that counts tokens keeps them, and need not make them again.
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
    # Its own generator: evaluating must not move the random state that training draws dropout from.
    loader: Any = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=rows.collate,
        num_workers=workers if rows.takes_workers else 0,
        generator=torch.Generator(),
    )
    was_training = model.training
    model.eval()
    seen: list[tuple[int, Any, float, float]] = []
    with torch.inference_mode():
        for batch in _bar(loader, progress, state.is_main_process):
            batch = to_device(task, batch, device)
            outputs = forward(task, model, batch)
            results = task.predict(model, outputs, batch)
            losses = task.loss(model, outputs, batch).float() if with_loss else torch.zeros(len(results))
            counts = task.count(batch).float() if with_loss else torch.ones(len(results))
            columns = (
                batch["row"].tolist(),
                results,
                losses.tolist(),
                counts.tolist(),
                batch["real"].tolist(),
            )
            seen += [
                (row, result, loss, count)
                for row, result, loss, count, real in zip(*columns, strict=True)
                if real
            ]
    model.train(was_training)
    seen = sorted(gather_object(seen), key=lambda one: one[0])
    _check_once([one[0] for one in seen], rows.ids, rows.split)
    return _measure(task, rows, seen, with_loss)


def _bar(loader: Any, text: str | None, show: bool) -> Any:
    from tqdm.auto import tqdm

    # None: off where standard error is not a terminal.
    return tqdm(loader, desc=text, leave=False, disable=None if text is not None and show else True)


def _check_once(found: Sequence[int], ids: Sequence[str], split: str) -> None:
    """Every row exactly once: accelerate repeats rows to fill batches, gathering can lose them (tf#25939)."""
    counts = Counter(found)
    wrong = [f"{ids[row]} x{counts[row]}" for row in range(len(ids)) if counts[row] != 1]
    if wrong:
        raise DataError(f"evaluation of {split}: rows not counted exactly once: {', '.join(wrong[:10])}")


def _measure(
    task: Task, rows: EncodedRows, seen: list[tuple[int, Any, float, float]], with_loss: bool
) -> Evaluation:
    results = [one[1] for one in seen]
    references = task.references(rows.rows)
    metrics = task.metrics()
    metrics.update(results, references)
    values = metrics.compute()
    losses = None
    if with_loss:
        total = sum(one[3] for one in seen)
        values["loss"] = sum(one[2] for one in seen) / total
        losses = [one[2] / one[3] if one[3] else 0.0 for one in seen]
    ids = rows.ids
    return Evaluation(rows.split, [ids[one[0]] for one in seen], results, references, losses, values)
