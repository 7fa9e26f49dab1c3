"""Use a saved model: raw inputs in, what a person reads out."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.device import to_device
from hf_ft.data.samplers import batches_of, forward_batch, numbers_in
from hf_ft.errors import DataError
from hf_ft.model.allocator import memory_kept
from hf_ft.model.load import load_saved, quiet
from hf_ft.model.memory_format import choose_memory_format, fold_batch_norms
from hf_ft.model.saved_folder import find_folder, id_column_of, load_adapter, load_task
from hf_ft.task import Item, Row, Task

if TYPE_CHECKING:
    import torch

    from hf_ft.model.prediction_files import Written

# Rows that are sorted by length together, where they have lengths.
_CHUNK = 1024
# Threads that encode rows, at most: with more, the interpreter's lock is what they wait for.
_MOST_THREADS = 8
# How far outputs may be from those of the model as saved, a fifth of what the gate allows.
_FOLD_TOLERANCE = 2e-5
# Rows from which folding, which costs a few passes, is worth it.
_WORTH_FOLDING = 64


@dataclass
class Predictor:
    """A fine-tuned model with its processor and its task.

    Args:
        model: in eval mode, on `device`.
        task: restored from task.json.
        device: where the model is.
        id_column: `data.id` of the run; it names rows where a file of rows has this column.
        faster: what predicts: the model, or a copy whose outputs were seen to be the same; made when first
            needed.

    >>> predictor = Predictor.load(run_folder)
    >>> answer = predictor(picture)[0]
    >>> answer["label"] in predictor.task.labels(), 0 <= answer["score"] <= 1
    (True, True)
    """

    model: Any
    task: Task
    device: torch.device
    id_column: str | None = None
    faster: Any = field(default=None, repr=False)

    @classmethod
    def load(cls, name: str | Path, device: str | torch.device | None = None) -> Predictor:
        """Load a model folder, an adapter folder, a run folder or a Hub repository that hf_ft saved.

        Args:
            name: the folder, or a Hub id.
            device: where to put the model; None: a GPU if there is one.

        Raises:
            ModelError: there is no such model, it was not saved by hf_ft, or it is damaged.
        """
        import torch

        folder = find_folder(name)
        task, source = load_task(folder)
        with quiet():
            task.load_processor(str(folder))
        if (folder / "adapter_config.json").is_file():
            model = load_adapter(task.auto_class, folder, source)
        else:
            model = load_saved(task.auto_class, folder)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        choose_memory_format(model)
        return cls(model.to(place).eval(), task, place, id_column_of(folder.parent))

    def __call__(
        self,
        inputs: Any,
        batch_size: int | None = None,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Predict: one dict per input, with its `id` and what the task decodes (label and score, boxes, ...).

        Args:
            inputs: whatever the task reads: paths, folders, pictures, texts, arrays, rows.
            batch_size: how many at a time; None: as many as the device is fast with.
            top_k: give the best classes and their scores, as `top`, in place of all scores.
            threshold: give a label only from this score on.

        Raises:
            DataError: an input cannot be read.
        """
        rows = self.task.read_inputs(inputs)
        results = self.results(rows, batch_size)
        return [
            {"id": row["id"], **self.answer(result, top_k, threshold)}
            for row, result in zip(rows, results, strict=True)
        ]

    def answer(self, result: Any, top_k: int | None = None, threshold: float | None = None) -> dict[str, Any]:
        """Give what a person reads of a result, with the best classes alone, and labels from a score on.

        Args:
            result: of the task.
            top_k: as for `__call__`: `top` is a list of {"label", "score"}, best first.
            threshold: as for `__call__`; where it is not reached, `label` is None and `labels` is empty.
        """
        found = self.task.decode(result)
        scores = found.get("scores")
        if scores is None or (top_k is None and threshold is None):
            return found
        best = sorted(scores, key=lambda name: -scores[name])
        if threshold is not None and "labels" in found:
            found = {**found, "labels": [name for name in best if scores[name] >= threshold]}
        elif threshold is not None:
            found = {**found, "label": found["label"] if found["score"] >= threshold else None}
        if top_k is not None:
            found = {name: value for name, value in found.items() if name != "scores"}
            found["top"] = [{"label": name, "score": scores[name]} for name in best[:top_k]]
        return found

    def results(self, rows: Sequence[Row], batch_size: int | None = None) -> list[Any]:
        """Give the task's own result of each row, in order.

        Raises:
            DataError: a row cannot be encoded.
        """
        found = dict(self.stream(rows, batch_size))
        return [found[position] for position in range(len(rows))]

    def stream(
        self, rows: Sequence[Row], batch_size: int | None = None, problems: dict[int, str] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Give (position of the row, the task's own result) as they are made, in any order.

        Args:
            rows: to predict for.
            batch_size: how many at a time; None: as many as the device is fast with.
            problems: takes up the rows that cannot be encoded: position -> reason. None: the first of them
                raises.

        Raises:
            DataError: a row cannot be encoded, and `problems` is None.
        """
        with _progress(len(rows)) as step, memory_kept(self.device.type):
            for positions, items in self._batches(rows, batch_size, problems):
                if self.faster is None and len(rows) >= _WORTH_FOLDING:
                    self.faster = self._faster(items)
                results = self._predict(self.faster or self.model, items)
                step(len(positions))
                yield from zip(positions, results, strict=True)

    def _batches(
        self, rows: Sequence[Row], batch_size: int | None, problems: dict[int, str] | None
    ) -> Iterator[tuple[Sequence[int], list[Item]]]:
        """Give encoded rows in batches, with their positions; rows of like length come together."""
        key, tokens = self.task.length_key, None
        if batch_size is None:
            first = next((items for row in rows if (items := self._encode([0], [row], {})[1])), None)
            if first is None:
                batch_size = 1
            else:
                one = self.task.collate(first)
                batch_size, tokens = forward_batch(numbers_in(one), self.device.type, lengths=key is not None)
        chunk = batch_size if key is None else max(_CHUNK, batch_size)
        for positions, items in self._encoded(rows, chunk, problems):
            lengths = None if key is None else [len(item[key]) for item in items]
            for batch in batches_of(len(items), batch_size, lengths, tokens):
                yield [positions[index] for index in batch], [items[index] for index in batch]

    def _encoded(
        self, rows: Sequence[Row], chunk: int, problems: dict[int, str] | None
    ) -> Iterator[tuple[Sequence[int], list[Item]]]:
        """Encode chunks of rows in threads, ahead of the model; decoders release the interpreter lock."""
        workers = min(_MOST_THREADS, os.cpu_count() or 1) if self.task.encodes_in_threads else 1
        waiting: deque[Future[tuple[Sequence[int], list[Item]]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                waiting.append(pool.submit(self._encode, range(start, start + len(part)), part, problems))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()

    def _encode(
        self, positions: Sequence[int], rows: Sequence[Row], problems: dict[int, str] | None
    ) -> tuple[Sequence[int], list[Item]]:
        """Encode rows at once; where one of them is refused, row by row, and leave those out."""
        try:
            return positions, self.task.encode(rows, None)
        except DataError as error:
            if problems is None:
                raise
            if len(rows) == 1:
                problems[positions[0]] = str(error)
                return [], []
        parts = [self._encode([at], [row], problems) for at, row in zip(positions, rows, strict=True)]
        return [at for ids, _ in parts for at in ids], [item for _, items in parts for item in items]

    def to_file(self, inputs: Any, path: str | Path, **options: Any) -> Written:
        """Predict and write one row per input to a `.csv`, `.parquet` or `.jsonl` file.

        Args:
            inputs: as for `__call__`; the columns of a file of rows are carried through.
            path: where to; written whole or not at all.
            options: of `hf_ft.model.prediction_files.predict_to_file`: `on_bad`, `top_k`, `threshold`,
                `id_column`, `batch_size`.
        """
        from hf_ft.model.prediction_files import predict_to_file

        return predict_to_file(self, inputs, path, **options)

    def _faster(self, items: Sequence[Item]) -> Any:
        """Fold the batch norms of a network on the CPU, if its outputs on these rows stay what they are."""
        if self.device.type != "cpu":
            return self.model
        folded = fold_batch_norms(self.model, lambda: self._predict(self.model, items))
        if folded is None:
            return self.model
        pairs = zip(self._predict(self.model, items), self._predict(folded, items), strict=True)
        same = max(self.task.difference(one, other) for one, other in pairs) <= _FOLD_TOLERANCE
        return folded if same else self.model

    def _predict(self, model: Any, items: Sequence[Item]) -> list[Any]:
        import torch

        with torch.inference_mode():
            batch = self.task.collate(items)
            batch["row"] = torch.arange(len(items))
            batch["real"] = torch.ones(len(items), dtype=torch.bool)
            batch = to_device(self.task, batch, self.device)
            outputs = self.task.forward(model, batch)
            return self.task.predict(model, outputs, batch)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far the prediction is, and how fast; elsewhere show nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        yield lambda rows: None
        return
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar, begun = progress.add_task("", total=total, rate=""), time.monotonic()
        done = 0

        def step(rows: int) -> None:
            nonlocal done
            done += rows
            rate = done / max(1e-9, time.monotonic() - begun)
            progress.update(bar, completed=done, rate=f"{rate:,.0f} rows a second")

        yield step
