"""Predictor: load a saved model and predict for raw inputs."""

from __future__ import annotations

import contextlib
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
from hf_ft.model.load import load_saved
from hf_ft.model.memory_format import choose_memory_format, fold_batch_norms
from hf_ft.model.mixed_precision import full_precision
from hf_ft.model.pretrained import quiet
from hf_ft.model.saved_folder import find_folder, id_column_of, load_adapter, load_task
from hf_ft.processor_cores import usable_cores
from hf_ft.task import Item, Row, Task

if TYPE_CHECKING:
    import torch

    from hf_ft.model.prediction_files import Written

# Number of rows that are sorted by length together, if rows have lengths.
_CHUNK = 1024
# Most threads that encode rows; more threads would wait for the interpreter lock.
_MOST_THREADS = 8
# Largest difference of outputs after folding batch norms, a fifth of the tolerance of the gate.
_FOLD_TOLERANCE = 2e-5
# Fewest rows for which batch norms are folded, which costs a few passes.
_WORTH_FOLDING = 64


@dataclass
class Predictor:
    """A fine-tuned model with its task and processor.

    Args:
        model: the model in eval mode, on `device`.
        task: the task, restored from task.json, with its processor.
        device: device of the model.
        id_column: `data.id` of the run, or None; column with the ids of rows in files that have it.
        faster: the model, or a copy with folded batch norms and equal outputs; chosen in the first
            prediction of many rows.

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
    def load(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        *,
        trust_task: str | None = None,
    ) -> Predictor:
        """Load a model folder, an adapter folder, a run folder or a Hub repository that hf_ft saved.

        Args:
            name: the folder, or the id of a Hub repository.
            device: device for the model; None: a GPU if there is one, else the CPU.
            trust_task: `package.module:Class` of your own task, if the folder holds a model of one; its
                module is imported, which runs its code.

        Raises:
            ModelError: there is no such model, it was not saved by hf_ft, it is damaged, or its task is
                neither built in nor trusted.
        """
        import torch

        folder = find_folder(name)
        task, source = load_task(folder, trust_task)
        with quiet():
            task.load_processor(str(folder))
        if (folder / "adapter_config.json").is_file():
            model = load_adapter(task.auto_class, folder, source)
        else:
            model = load_saved(task.auto_class, folder)
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        choose_memory_format(model)
        return cls(model.to(target).eval(), task, target, id_column_of(folder.parent))

    def __call__(
        self,
        inputs: Any,
        batch_size: int | None = None,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Predict for raw inputs.

        Args:
            inputs: inputs that the task reads: paths, folders, pictures, texts, arrays, rows.
            batch_size: rows per batch; None: chosen for the device.
            top_k: return the best `top_k` classes with their scores, as `top`, instead of all scores.
            threshold: return a label only if its score is at least this.

        Returns:
            One dict per input: its `id` and the decoded result of the task (label and score, boxes, ...).

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
        """Decode a result of the task for a person, and apply `top_k` and `threshold`.

        Args:
            result: the task's result for one row.
            top_k: as for `__call__`; `top` is a list of {"label", "score"}, best first.
            threshold: as for `__call__`; if no score reaches it, `label` is None and `labels` is empty.
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
        """Return the task's result for each row, in order.

        Args:
            rows: the rows.
            batch_size: as for `__call__`.

        Raises:
            DataError: a row cannot be encoded.
        """
        found = dict(self.stream(rows, batch_size))
        return [found[position] for position in range(len(rows))]

    def stream(
        self, rows: Sequence[Row], batch_size: int | None = None, problems: dict[int, str] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield (position of the row, the task's result) batch by batch, in any order.

        Args:
            rows: the rows.
            batch_size: as for `__call__`.
            problems: is filled with position -> reason for rows that cannot be encoded. None: the first such
                row raises an error.

        Raises:
            DataError: a row cannot be encoded, and `problems` is None.
        """
        with _progress(len(rows)) as step, memory_kept(self.device.type):
            for positions, items in self._batches(rows, batch_size, problems):
                if self.faster is None and len(rows) >= _WORTH_FOLDING:
                    self.faster = self._choose_faster(items)
                results = self._predict(self.faster or self.model, items)
                step(len(positions))
                yield from zip(positions, results, strict=True)

    def _batches(
        self, rows: Sequence[Row], batch_size: int | None, problems: dict[int, str] | None
    ) -> Iterator[tuple[Sequence[int], list[Item]]]:
        """Yield (positions, items) of batches of encoded rows; rows of similar length share a batch."""
        key, tokens = self.task.length_key, None
        if batch_size is None:
            first = next((items for row in rows if (items := self._encode([0], [row], {})[1])), None)
            if first is None:
                batch_size = 1
            else:
                one = self.task.collate(first)
                batch_size, tokens = forward_batch(numbers_in(one), self.device.type, lengths=key is not None)
        chunk = batch_size if key is None else max(_CHUNK, batch_size)
        for positions, items in self._encode_chunks(rows, chunk, problems):
            lengths = None if key is None else [len(item[key]) for item in items]
            for batch in batches_of(len(items), batch_size, lengths, tokens):
                yield [positions[index] for index in batch], [items[index] for index in batch]

    def _encode_chunks(
        self, rows: Sequence[Row], chunk: int, problems: dict[int, str] | None
    ) -> Iterator[tuple[Sequence[int], list[Item]]]:
        """Encode chunks of rows in threads ahead of the model; decoders release the interpreter lock."""
        workers = min(_MOST_THREADS, usable_cores()) if self.task.encodes_in_threads else 1
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
        """Encode rows at once; if a row is refused, encode row by row and add refused rows to `problems`."""
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
            inputs: as for `__call__`; the columns of a file of rows are copied to the output.
            path: output file; written atomically.
            options: options of `hf_ft.model.prediction_files.predict_to_file`: `on_bad`, `top_k`,
                `threshold`, `id_column`, `batch_size`.

        Raises:
            RecipeError: as for `predict_to_file`.
            DataError: as for `predict_to_file`.
        """
        from hf_ft.model.prediction_files import predict_to_file

        return predict_to_file(self, inputs, path, **options)

    def _choose_faster(self, items: Sequence[Item]) -> Any:
        """On a CPU, return a copy with folded batch norms if its outputs on these rows are equal."""
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

        with torch.inference_mode(), full_precision(model):
            batch = self.task.collate(items)
            batch["row"] = torch.arange(len(items))
            batch["real"] = torch.ones(len(items), dtype=torch.bool)
            batch = to_device(self.task, batch, self.device)
            outputs = self.task.forward(model, batch)
            return self.task.predict(model, outputs, batch)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if standard error is a terminal; yield a function that advances it."""
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
