"""Rows whose frozen activations are kept: read in place of being encoded and computed again."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from hf_ft.activations.partial_forward import Frontier, Prefix, TensorSpec
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.device import to_device
from hf_ft.data.samplers import batches_of, forward_batch, numbers_in
from hf_ft.errors import DataError
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.row_store import LENGTHS, Field, RowStore, mark_use
from hf_ft.task import PREFIX

if TYPE_CHECKING:
    from hf_ft.activations.partial_forward import Plan
    from hf_ft.task import Batch

SLOT = "slot "
HALF = (torch.bfloat16, torch.float16)


class CachedRows(EncodedRows):
    """The rows of a split whose batches start at the frontier.

    A batch holds what the task's own batch holds, but for the inputs that are no longer needed, and under
    `prefix` the slots of its rows.

    Args:
        plain: the same rows, encoded on the fly.
        frontier: of the model.
        store: filled for every row and view.
    """

    # Reading is quicker than handing batches over, and slots belong to the model of this process.
    takes_workers = False

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


@dataclass
class Keeper:
    """Computes the slots of rows, and keeps them.

    Args:
        frontier: of the model.
        fields: what is kept of a row.
        ragged: key whose second axis is the length of a batch's longest row; None where rows have no length.
        run: calls the model on a batch.
        device: where the model is.
        precision: name of the number format that `run` computes in.
    """

    frontier: Frontier
    fields: list[Field]
    ragged: str | None
    run: Callable[[Batch], Any]
    device: torch.device
    precision: str

    def in_full(self, run: Callable[[Batch], Any]) -> Keeper:
        """Give one that keeps the same in full precision, as `run` computes it."""
        fields = [replace(field, dtype=_in_full(field.dtype)) for field in self.fields]
        return replace(self, fields=fields, run=run, precision="fp32")

    def keep(
        self, rows: EncodedRows, folder: Path, processes: Any, *, progress: bool
    ) -> tuple[CachedRows, int]:
        """Give rows whose slots are kept, computing those that are not there yet.

        Several processes of a run share the work; another run that needs the same waits, and finds them.

        Args:
            rows: encoded on the fly.
            folder: where they are kept; its name stands for everything that they depend on.
            processes: the Accelerator, or PartialState.
            progress: whether to show a bar.

        Returns:
            The rows, and how many had to be computed.
        """
        first = processes.is_local_main_process
        local = int(os.environ.get("LOCAL_WORLD_SIZE", processes.num_processes))
        if node := processes.process_index // local:
            # Of several machines each keeps its own, also where they share a disk: no machine may wait for a
            # lock that another one holds while it waits for this one.
            folder = folder.with_name(f"{folder.name}-machine-{node}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = FileLock(f"{folder}.lock") if first else contextlib.nullcontext()
        with lock:
            if first:
                if node and not self.agrees(rows, folder):
                    shutil.rmtree(folder, ignore_errors=True)
                mark_use(folder, {"split": rows.split, "rows": len(rows), "views": rows.views or 1})
                self._kept_lengths(rows, folder)
                RowStore(folder, self.fields, self._kept_lengths(rows, folder)).forget_damaged()
            processes.wait_for_everyone()
            store = RowStore(folder, self.fields, self._kept_lengths(rows, folder))
            # Opened and its gaps counted by all, before any process fills one.
            missing = store.missing
            processes.wait_for_everyone()
            order = missing[np.argsort(-store.lengths[missing], kind="stable")]
            share = order[processes.local_process_index :: local]
            self.fill(rows, store, share, f"keep {rows.split}" if progress and first else None)
            processes.wait_for_everyone()
        return CachedRows(rows, self.frontier, store), len(missing)

    def fill(
        self, rows: EncodedRows, store: RowStore, places: np.ndarray, progress: str | None = None
    ) -> None:
        """Compute the slots of rows and keep them.

        Args:
            rows: encoded on the fly.
            store: where they are kept.
            places: view * N + row, int; rows of like length should be neighbours.
            progress: text of a progress bar; None: no bar.
        """
        from tqdm.auto import tqdm

        if not len(places):
            return
        lengths = store.lengths[places].tolist() if store.lengths.any() else None
        one = rows.collate(rows.__getitems__([(0, 0, True)]))
        most, tokens = forward_batch(numbers_in(one), self.device.type, lengths=lengths is not None)
        parts = [places[batch] for batch in batches_of(len(places), most, lengths, tokens)]
        # None: off where standard error is not a terminal.
        for part in tqdm(parts, desc=progress, leave=False, disable=True if progress is None else None):
            for place, values in zip(part, self._values(rows, store, part), strict=True):
                store.write(int(place), values)

    def agrees(self, rows: EncodedRows, folder: Path) -> bool:
        """Compute a few of the rows that are there again and tell whether they are what is kept.

        The key names all that activations are known to depend on; what it does not know of (a changed model
        class of a user's own, a damaged disk) is found here.

        Args:
            rows: encoded on the fly.
            folder: where they would be kept.
        """
        lengths = read_json(folder / LENGTHS, list)
        if lengths is None:
            return True
        if len(lengths) != (rows.views or 1) * len(rows):
            return False
        store = RowStore(folder, self.fields, np.asarray(lengths, np.int64))
        chosen = store.sample
        if not len(chosen):
            return True
        if self._own_lengths(rows, chosen) != store.lengths[chosen].tolist():
            return False
        try:
            kept = [store.read([int(place)]) for place in chosen]
        except DataError:
            return False
        return all(
            self._close(field, value, there[field.name][0])
            for there, values in zip(kept, self._values(rows, store, chosen), strict=True)
            for field, value in zip(self.fields, values, strict=True)
        )

    def _close(self, field: Field, value: torch.Tensor, kept: torch.Tensor) -> bool:
        if not (field.name.startswith(SLOT) and kept.is_floating_point()):
            return torch.equal(value, kept)
        # By what it was computed in, whatever its type: a norm gives fp32 of what was rounded before it.
        tolerance = 1e-3 if self.precision in ("fp32", "tf32") else 5e-2
        return bool((value.float() - kept.float()).norm() <= tolerance * kept.float().norm())

    def lengths(self, rows: EncodedRows) -> np.ndarray:
        """Count the length of every row and view, int [views * N]; zeros where rows have none."""
        known = self.ragged is not None and rows.task.length_key is not None and rows.gathers
        if known and rows.lengths is not None:
            # Rows that are gathered are not random, and their lengths were seen to be those of their items.
            return np.asarray(rows.lengths, np.int64)
        count = (rows.views or 1) * len(rows)
        parts = [range(start, min(start + 1000, count)) for start in range(0, count, 1000)]
        return np.asarray([length for part in parts for length in self._own_lengths(rows, part)], np.int64)

    def _kept_lengths(self, rows: EncodedRows, folder: Path) -> np.ndarray:
        """Read the rows' lengths, or count them once."""
        if read_json(folder / LENGTHS, list) is None:
            write_json(folder / LENGTHS, self.lengths(rows).tolist())
        return np.asarray(read_json(folder / LENGTHS), np.int64)

    def _own_lengths(self, rows: EncodedRows, places: Iterable[int]) -> list[int]:
        if self.ragged is None:
            return [0 for _ in places]
        return [len(item[self.ragged]) for item in rows.items(_indices(rows, places))]

    def _values(self, rows: EncodedRows, store: RowStore, places: np.ndarray) -> Iterator[list[torch.Tensor]]:
        """Compute what is kept of these rows, a list of tensors each, without padding."""
        batch = rows.collate(rows.__getitems__(_indices(rows, places)))
        # Finished, as the model sees it: so it is in training, where it is read in place of being encoded.
        batch = to_device(rows.task, batch, self.device)
        model: Any = self.frontier.model
        was_training = model.training
        model.eval()
        slots = self.frontier.capture(lambda: self.run(dict(batch)))
        model.train(was_training)
        tensors = [slot.cpu() for slot in slots]
        tensors += [batch[field.name].cpu() for field in self.fields if not field.name.startswith(SLOT)]
        for number, place in enumerate(places):
            pairs = zip(self.fields, tensors, strict=True)
            yield [_row(tensor, field, number, len(places), store.lengths[place]) for field, tensor in pairs]


def _in_full(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype


def _indices(rows: EncodedRows, places: Iterable[int]) -> list[tuple[int, int, bool]]:
    """Give the indices, view first, of places in a store."""
    return [(int(place) // len(rows), int(place) % len(rows), True) for place in places]


def _row(tensor: torch.Tensor, field: Field, number: int, rows: int, length: int) -> torch.Tensor:
    """Cut one row out of a whole batch, without the padding after its own length."""
    blocks = len(tensor) // rows
    row = tensor[number] if blocks == 1 else tensor[number * blocks : (number + 1) * blocks]
    if field.length_axis is None:
        return row
    return row.narrow(field.length_axis, 0, int(length) + field.shape[field.length_axis])
