"""Rows whose frozen activations are kept: read in place of being encoded and computed again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from filelock import FileLock

from hf_ft.data.audit import code_of
from hf_ft.data.examples import EncodedRows
from hf_ft.data.sampler import batches_of, forward_batch, numbers_in
from hf_ft.data.stamps import read_whole, write_whole
from hf_ft.data.store import Field, RowStore, mark_use
from hf_ft.errors import DataError
from hf_ft.model.frontier import PREFIX, Frontier, Prefix, TensorSpec

if TYPE_CHECKING:
    from hf_ft.model.frontier import Plan
    from hf_ft.task import Batch, Task

# What the kept activations come out of, beside hf_ft's own code.
PACKAGES = ("torch", "torchvision", "transformers", "timm", "tokenizers", "pillow", "numpy")
# Rows that are computed again where kept ones are found.
CHECKED_ROWS = 4
LENGTHS = "lengths.json"
SLOT = "slot "


class CachedRows(EncodedRows):
    """The rows of a split whose batches start at the frontier.

    A batch holds what the task's own batch holds, but for the inputs that are no longer needed, and under
    `prefix` the slots of its rows.

    Args:
        plain: the same rows, encoded on the fly.
        frontier: of the model.
        store: filled for every row and view.
    """

    def __init__(self, plain: EncodedRows, frontier: Frontier, store: RowStore):
        super().__init__(
            plain.task, plain.rows, split=plain.split, seed=plain.seed, train=plain.train, views=plain.views
        )
        self.encoded, self.frontier, self.store = plain, frontier, store

    def plain(self) -> EncodedRows:
        """Give the same rows without random augmentation: not the kept ones where those are random."""
        return self.encoded.plain() if self.chance else self

    def __getitems__(self, indices: Sequence[tuple[int, int, bool]]) -> Any:
        """Give the indices themselves: everything is read at once by `collate`."""
        return list(indices)

    def collate(self, items: Any) -> Batch:
        """Read the rows of a batch.

        Args:
            items: (epoch, row, real).
        """
        views = self.views or 1
        places = [epoch % views * len(self) + row for epoch, row, _ in items]
        fields = self.store.read(places)
        values = [fields.pop(field.name) for field in self.store.fields if field.name.startswith(SLOT)]
        batch: Batch = dict(fields)
        batch["row"] = torch.tensor([row for _, row, _ in items], dtype=torch.int64)
        batch["real"] = torch.tensor([real for _, _, real in items], dtype=torch.bool)
        # k blocks a row lie one after the other, as they do in the network.
        slots = [
            value.flatten(0, 1) if slot.spec.axes[0].number > 1 else value
            for value, slot in zip(values, self.frontier.plan.slots, strict=True)
        ]
        longest = int(self.store.lengths[places].max())
        batch[PREFIX] = Prefix(self.frontier, slots, len(items), longest)
        return batch


def fields_of(plan: Plan, specs: dict[str, TensorSpec], paddings: dict[str, float]) -> list[Field]:
    """List what is kept of a row: its slots, and the parts of its batch that are still needed."""
    slots = [_field(f"{SLOT}{number}", slot.spec, 0.0) for number, slot in enumerate(plan.slots)]
    parts = [
        _field(key, spec, paddings.get(key, 0.0))
        for key, spec in specs.items()
        if key not in plan.dropped and key not in ("row", "real")
    ]
    return [*slots, *parts]


def _field(name: str, spec: TensorSpec, fill: float) -> Field:
    blocks = spec.axes[0].number
    axes = spec.axes[1:]
    shape = tuple(axis.number for axis in axes)
    lengths = [index for index, axis in enumerate(axes) if axis.kind == "length"]
    if blocks > 1:
        shape, lengths = (blocks, *shape), [index + 1 for index in lengths]
    last = spec.channels_last and blocks == 1 and not lengths
    return Field(name, shape, spec.dtype, lengths[0] if lengths else None, fill, last)


def row_lengths(rows: EncodedRows, ragged: str | None) -> np.ndarray:
    """Give the own length of every row and view, int [views * N]; zeros where rows have none."""
    views = rows.views or 1
    if ragged is None:
        return np.zeros(views * len(rows), np.int64)
    found: list[int] = []
    for view in range(views):
        for start in range(0, len(rows), 1000):
            part = range(start, min(start + 1000, len(rows)))
            found += [len(item[ragged]) for item in rows.items([(view, row, True) for row in part])]
    return np.asarray(found)


def fill(
    rows: EncodedRows,
    frontier: Frontier,
    store: RowStore,
    places: np.ndarray,
    run: Callable[[Batch], Any],
    device: torch.device,
    progress: str | None = None,
) -> None:
    """Compute the slots of rows and keep them.

    Args:
        rows: encoded on the fly.
        frontier: of the model.
        store: where they are kept.
        places: view * N + row, int; rows of like length should be neighbours.
        run: calls the model on a batch.
        device: where the model is.
        progress: text of a progress bar; None: no bar.
    """
    from tqdm.auto import tqdm

    if not len(places):
        return
    lengths = store.lengths[places].tolist() if store.lengths.any() else None
    one = rows.collate(rows.__getitems__([(0, 0, True)]))
    most, tokens = forward_batch(numbers_in(one), device.type, lengths=lengths is not None)
    parts = [places[batch] for batch in batches_of(len(places), most, lengths, tokens)]
    # None: off where standard error is not a terminal.
    for part in tqdm(parts, desc=progress, leave=False, disable=True if progress is None else None):
        indices = [(int(place) // len(rows), int(place) % len(rows), True) for place in part]
        batch = rows.collate(rows.__getitems__(indices))
        tensors = _tensors(batch, frontier, store, run, device)
        for number, place in enumerate(part):
            store.write(int(place), _one_row(tensors, store, number, len(part), int(store.lengths[place])))


def _tensors(
    batch: Batch, frontier: Frontier, store: RowStore, run: Callable[[Batch], Any], device: torch.device
) -> list[torch.Tensor]:
    """Compute the slots of a batch, and give them with the parts of the batch that are kept too."""
    model: Any = frontier.model
    was_training = model.training
    model.eval()
    values = frontier.capture(lambda: run(send_to_device(dict(batch), device)))
    model.train(was_training)
    parts = [batch[field.name] for field in store.fields if not field.name.startswith(SLOT)]
    return [*(value.cpu() for value in values), *parts]


def _one_row(
    tensors: Sequence[torch.Tensor], store: RowStore, number: int, rows: int, length: int
) -> list[torch.Tensor]:
    """Cut one row out of whole batches, without the padding after its own length."""
    found = []
    for field, tensor in zip(store.fields, tensors, strict=True):
        blocks = len(tensor) // rows
        row = tensor[number] if blocks == 1 else tensor[number * blocks : (number + 1) * blocks]
        if field.length_axis is not None:
            row = row.narrow(field.length_axis, 0, length + field.shape[field.length_axis])
        found.append(row)
    return found


def cached(
    rows: EncodedRows,
    frontier: Frontier,
    folder: Path,
    fields: Sequence[Field],
    ragged: str | None,
    run: Callable[[Batch], Any],
    *,
    processes: Any,
    device: torch.device,
    progress: bool,
) -> tuple[CachedRows, int]:
    """Give rows whose frozen activations are kept, computing those that are not there yet.

    Several processes of a run share the work; another run that needs the same waits, and finds them.

    Args:
        rows: encoded on the fly.
        frontier: of the model.
        folder: where they are kept; its name stands for everything that they depend on.
        fields: what is kept.
        ragged: key whose second axis is a batch's length, or None.
        run: calls the model on a batch.
        processes: the Accelerator, or PartialState.
        device: where the model is.
        progress: whether to show a bar.

    Returns:
        The rows, and how many had to be computed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    first = processes.is_local_main_process
    lock: Any = FileLock(folder.parent / f"{folder.name}.lock") if first else contextlib.nullcontext()
    with lock:
        if first:
            mark_use(folder, {"split": rows.split, "rows": len(rows), "views": rows.views or 1})
            _lengths(folder, rows, ragged)
        processes.wait_for_everyone()
        store = RowStore(folder, fields, _lengths(folder, rows, ragged))
        # Opened and its gaps counted by all, before any process fills one.
        missing = store.missing
        processes.wait_for_everyone()
        order = missing[np.argsort(-store.lengths[missing], kind="stable")]
        share = order[processes.local_process_index :: _local_processes(processes)]
        text = f"keep {rows.split}" if progress and first and len(missing) else None
        fill(rows, frontier, store, share, run, device, text)
        processes.wait_for_everyone()
    return CachedRows(rows, frontier, store), len(missing)


def agrees(
    rows: EncodedRows,
    frontier: Frontier,
    folder: Path,
    fields: Sequence[Field],
    ragged: str | None,
    run: Callable[[Batch], Any],
    device: torch.device,
) -> bool:
    """Compute a few of the rows that are there again and tell whether they are what is kept.

    The key names all that the activations are known to depend on; what it does not know of (a changed model
    class of a user's own, a damaged disk) is found here. The arguments are those of `cached`.
    """
    if not (folder / LENGTHS).is_file():
        return True
    lengths = _lengths(folder, rows, ragged)
    if len(lengths) != (rows.views or 1) * len(rows):
        return False
    store = RowStore(folder, fields, lengths)
    filled = store.filled
    chosen = filled[:: max(1, len(filled) // CHECKED_ROWS)][:CHECKED_ROWS]
    if not len(chosen):
        return True
    indices = [(int(place) // len(rows), int(place) % len(rows), True) for place in chosen]
    if ragged is not None:
        own = [len(item[ragged]) for item in rows.items(indices)]
        if own != lengths[chosen].tolist():
            return False
    batch = rows.collate(rows.__getitems__(indices))
    tensors = _tensors(batch, frontier, store, run, device)
    for number, place in enumerate(chosen):
        fresh = _one_row(tensors, store, number, len(chosen), int(store.lengths[place]))
        try:
            kept = store.read([int(place)])
        except DataError:
            return False
        for field, value in zip(store.fields, fresh, strict=True):
            if not _close(value, kept[field.name][0], exact=not field.name.startswith(SLOT)):
                return False
    return True


def _close(value: torch.Tensor, kept: torch.Tensor, *, exact: bool) -> bool:
    if exact:
        return torch.equal(value, kept)
    half = kept.dtype in (torch.bfloat16, torch.float16)
    return bool((value.float() - kept.float()).norm() <= (5e-2 if half else 1e-3) * kept.float().norm())


def _local_processes(processes: Any) -> int:
    import os

    return int(os.environ.get("LOCAL_WORLD_SIZE", processes.num_processes))


def _lengths(folder: Path, rows: EncodedRows, ragged: str | None) -> np.ndarray:
    """Read the rows' lengths, or count them once; written whole or not at all."""
    path = folder / LENGTHS
    if read_whole(path) is None:
        write_whole(path, row_lengths(rows, ragged).tolist())
    return np.asarray(read_whole(path), np.int64)


def network_key(task: Task, plan: Plan, frozen_fingerprint: str, model: Any, precision: str) -> str:
    """Name all but the rows that kept activations depend on, as one hash.

    Args:
        task: fitted, and loaded.
        plan: what is kept.
        frozen_fingerprint: hash of every frozen tensor of the model.
        model: for its configuration.
        precision: name of the number format that the model runs in.
    """
    return _hash(
        [
            code_of(task),
            repr(task.loss_options),
            json.dumps(task.state(), sort_keys=True, default=str),
            _processor(task),
            plan.signature,
            frozen_fingerprint,
            model.config.to_json_string() + str(model.config._attn_implementation),
            precision,
            *(f"{name} {version(name)}" for name in PACKAGES),
            *(path.read_text() for path in sorted(Path(__file__).parent.parent.glob("model/*.py"))),
        ]
    )


def store_key(network: str, rows: EncodedRows, content: str) -> str:
    """Name all that the kept activations of a split depend on, as one hash.

    Args:
        network: from `network_key`.
        rows: encoded on the fly.
        content: hash of what the raw rows hold.
    """
    random = repr((rows.task.augment, rows.seed, rows.views)) if rows.chance else "not random"
    return _hash([network, content, random, *rows.ids])


def _hash(parts: Sequence[str]) -> str:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def version(package: str) -> str:
    """Give the version of a package, or `absent`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor(task: Task) -> str:
    """Hash the files that the processor saves: all that decides how inputs are made."""
    if task.processor is None:
        return "none"
    with tempfile.TemporaryDirectory() as folder:
        task.processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        state = hashlib.blake2b(digest_size=16)
        for file in files:
            state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()
