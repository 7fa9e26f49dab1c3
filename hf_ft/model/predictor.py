"""Use a saved model: raw inputs in, what a person reads out."""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.device import to_device
from hf_ft.data.hub_lookup import did_you_mean, why_not_on_hub
from hf_ft.data.samplers import batches_of, forward_batch, numbers_in
from hf_ft.errors import ModelError
from hf_ft.model.allocator import memory_kept
from hf_ft.model.head import check_report
from hf_ft.model.load import find_class, fingerprint_without, from_pretrained, load_saved, resolve
from hf_ft.model.memory_format import choose_memory_format, fold_batch_norms
from hf_ft.model.save import TASK_FILE
from hf_ft.registry import get_task
from hf_ft.task import Item, Row, Task

if TYPE_CHECKING:
    import torch

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
        task.load_processor(str(folder))
        if (folder / "adapter_config.json").is_file():
            model = _load_adapter(task.auto_class, folder, source)
        else:
            model = load_saved(task.auto_class, folder)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        choose_memory_format(model)
        return cls(model.to(place).eval(), task, place)

    def __call__(self, inputs: Any, batch_size: int | None = None) -> list[dict[str, Any]]:
        """Predict: one dict per input, with its `id` and what the task decodes (label and score, boxes, ...).

        Args:
            inputs: whatever the task reads: paths, folders, pictures, texts, arrays, rows.
            batch_size: how many at a time; None: as many as the device is fast with.
        """
        rows = self.task.read_inputs(inputs)
        results = self.results(rows, batch_size)
        return [
            {"id": row["id"], **self.task.decode(result)} for row, result in zip(rows, results, strict=True)
        ]

    def results(self, rows: Sequence[Row], batch_size: int | None = None) -> list[Any]:
        """Give the task's own result of each row, in order."""
        from rich.progress import Progress

        if not rows:
            return []
        found: dict[int, Any] = {}
        with Progress(transient=True, disable=len(rows) < 2) as progress, memory_kept(self.device.type):
            bar = progress.add_task("Predicting", total=len(rows))
            for positions, items in self._batches(rows, batch_size):
                if self.faster is None and len(rows) >= _WORTH_FOLDING:
                    self.faster = self._faster(items)
                results = self._predict(self.faster or self.model, items)
                found.update(zip(positions, results, strict=True))
                progress.advance(bar, len(positions))
        return [found[position] for position in range(len(rows))]

    def _batches(
        self, rows: Sequence[Row], batch_size: int | None
    ) -> Iterator[tuple[Sequence[int], list[Item]]]:
        """Give encoded rows in batches, with their positions; rows of like length come together."""
        key, tokens = self.task.length_key, None
        if batch_size is None:
            one = self.task.collate(self.task.encode(rows[:1], None))
            batch_size, tokens = forward_batch(numbers_in(one), self.device.type, lengths=key is not None)
        chunk = batch_size if key is None else max(_CHUNK, batch_size)
        for start, items in self._encoded(rows, chunk):
            lengths = None if key is None else [len(item[key]) for item in items]
            for batch in batches_of(len(items), batch_size, lengths, tokens):
                yield [start + index for index in batch], [items[index] for index in batch]

    def _encoded(self, rows: Sequence[Row], chunk: int) -> Iterator[tuple[int, list[Item]]]:
        """Encode chunks of rows in threads, ahead of the model; decoders release the interpreter lock."""
        workers = min(_MOST_THREADS, os.cpu_count() or 1) if self.task.encodes_in_threads else 1
        waiting: deque[tuple[int, Future[list[Item]]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                waiting.append((start, pool.submit(self.task.encode, part, None)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()

    def to_parquet(self, inputs: Any, path: str | Path, batch_size: int | None = None) -> Path:
        """Predict and write one row per input to a Parquet file."""
        import pyarrow
        from pyarrow import parquet

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(self(inputs, batch_size)), path)
        return path

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


def load_task(folder: Path) -> tuple[Task, dict[str, Any]]:
    """Restore a fitted task from task.json, and say which checkpoint its model started from.

    Args:
        folder: a model or adapter folder.

    Returns:
        The task, without its processor, and `Loaded.source`.
    """
    content = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
    task_class = get_task(content["task"])
    task = task_class(task_class.Options.model_validate_json(json.dumps(content["options"])))
    task.restore(content["state"])
    return task, content["source"] or {}


def find_folder(name: str | Path) -> Path:
    """Find the folder with task.json: a model or adapter folder, a run's model, or a Hub repository.

    Raises:
        ModelError: there is none.
    """
    for folder in (Path(name).expanduser(), Path(name).expanduser() / "model"):
        if (folder / TASK_FILE).is_file():
            return folder
    place = Path(resolve(str(name)))
    if not place.is_dir():
        place = _download(str(name))
    if not (place / TASK_FILE).is_file():
        raise ModelError(
            f"{name}: no {TASK_FILE} in it, so it is no model that hf_ft saved; transformers can load it"
        )
    return place


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    reason = why_not_on_hub(name, "model", file=TASK_FILE)
    if reason is not None:
        saved = [file.parent for depth in ("*/", "*/*/", "*/*/*/") for file in Path().glob(depth + TASK_FILE)]
        runs = [str(folder.parent if folder.name == "model" else folder) for folder in saved]
        raise ModelError(
            f"{name}: there is no folder with {TASK_FILE} here (seen from {Path.cwd()}), and {reason}"
            f"{did_you_mean(name, {'{}': runs})}"
        )
    try:
        return Path(
            snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.h5", "*.onnx", "*.msgpack"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{name}: neither a folder with {TASK_FILE} nor a model on the Hub: {reason}"
        ) from error


def _load_adapter(auto_class: str, folder: Path, source: dict[str, Any]) -> Any:
    """Load the base that an adapter was trained on, check that it is the same, and put the adapter on it."""
    import peft
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    name, revision = resolve(source["name"]), source["commit"] or source["revision"]
    base, report = from_pretrained(
        find_class(auto_class), name, source["name"], config=config, revision=revision
    )
    new, _ = check_report(base, report, source["name"])
    content = fingerprint_without(base, new)
    if content != source["content"]:
        raise ModelError(
            f"{folder}: the adapter was trained on other weights than {source['name']!r} holds now; "
            f"load the merged model beside it"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers; no user can act on it
        return peft.PeftModel.from_pretrained(base, str(folder))
