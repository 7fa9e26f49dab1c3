"""Rows with cached activations (`CachedRows`), and the writer that computes and stores them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from hf_ft.activations.partial_forward import CachedActivations, PartialForward, TensorSpec
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.device import to_device
from hf_ft.data.samplers import batches_of, forward_batch, numbers_in
from hf_ft.storage.eviction import mark_use
from hf_ft.storage.row_store import Field, RowStore
from hf_ft.task import ACTIVATIONS

if TYPE_CHECKING:
    from hf_ft.activations.partial_forward import Plan
    from hf_ft.model.passes import Passes
    from hf_ft.task import Batch

# The fields of a row store that hold slots are named `slot 0`, `slot 1`, ...
SLOT = "slot "
HALF_DTYPES = (torch.bfloat16, torch.float16)
# How far a stored activation may be from the activation computed again, as a share of its norm.
TOLERANCE, MIXED_TOLERANCE = 1e-3, 5e-2


class CachedRows(EncodedRows):
    """The rows of a split whose activations are read from a row store.

    A batch holds the slots of its rows under ACTIVATIONS, and everything that the task's own batch holds
    except the inputs that are no longer needed.

    Args:
        encoded: the same rows, encoded from their inputs.
        partial: the forward pass that starts at the cut.
        store: row store that is filled for every row and view.
    """

    # Reading a batch here is faster than passing it on from a worker process, and CachedActivations refers
    # to the model of this process.
    takes_workers = False

    def __init__(self, encoded: EncodedRows, partial: PartialForward, store: RowStore):
        super().__init__(
            encoded.task,
            encoded.rows,
            split=encoded.split,
            seed=encoded.seed,
            train=encoded.train,
            views=encoded.views,
        )
        self.encoded, self.partial, self.store = encoded, partial, store

    def plain(self) -> EncodedRows:
        """Return the same rows without random augmentation; they are not cached if augmentation is random."""
        return self.encoded.plain() if self.is_random else self

    def __getitems__(self, indices: Sequence[tuple[int, int, bool]]) -> Any:
        """Return the indices themselves; `collate` reads the whole batch at once."""
        return list(indices)

    def collate(self, items: Any) -> Batch:
        """Read the rows of a batch from the store.

        Args:
            items: (epoch, row, real) of each row.
        """
        views = self.views or 1
        places = [epoch % views * len(self) + row for epoch, row, _ in items]
        fields = self.store.read(places)
        values = [fields.pop(field.name) for field in self.store.fields if field.name.startswith(SLOT)]
        batch: Batch = dict(fields)
        batch["row"] = torch.tensor([row for _, row, _ in items], dtype=torch.int64)
        batch["real"] = torch.tensor([real for _, _, real in items], dtype=torch.bool)
        # A slot with k blocks per row is stored as [rows, k, ...]; the network needs [rows * k, ...].
        slots = [
            value.flatten(0, 1) if slot.spec.axes[0].number > 1 else value
            for value, slot in zip(values, self.partial.plan.slots, strict=True)
        ]
        longest = int(self.store.lengths[places].max())
        batch[ACTIVATIONS] = CachedActivations(self.partial, slots, len(items), longest)
        return batch


def fields_of(plan: Plan, specs: dict[str, TensorSpec], paddings: dict[str, float]) -> list[Field]:
    """List the fields of a row store: the slots of a plan, and the tensors of a batch that are still needed.

    Args:
        plan: the plan of the forward pass.
        specs: batch key -> how the shape of the tensor depends on the batch.
        paddings: batch key -> the value that shorter rows are padded with.
    """
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


@dataclass(frozen=True)
class ActivationWriter:
    """Computes the slots of rows and stores them.

    Args:
        partial: the forward pass that starts at the cut.
        fields: the tensors that are stored for a row.
        ragged: batch key whose second axis is the length of the longest row; None if rows have no length.
        passes: runs the model.
    """

    partial: PartialForward
    fields: list[Field]
    ragged: str | None
    passes: Passes

    def in_full(self) -> ActivationWriter:
        """Return a writer that computes and stores the same slots in full precision."""
        fields = [replace(field, dtype=_full_dtype(field.dtype)) for field in self.fields]
        return replace(self, fields=fields, passes=self.passes.in_full())

    def write(
        self, rows: EncodedRows, folder: Path, processes: Any, *, progress: bool
    ) -> tuple[CachedRows, int]:
        """Compute and store the slots of all rows that the store does not hold yet.

        The processes of a run share the work. Another run that needs the same slots waits for the lock, and
        then finds them in the store.

        Args:
            rows: encoded from their inputs.
            folder: folder of the row store; its name is the hash of everything that the slots depend on.
            processes: the Accelerator, or PartialState.
            progress: whether to show a progress bar.

        Returns:
            The cached rows, and how many of them were computed now.

        Raises:
            OSError: the disk is full.
        """
        first = processes.is_local_main_process
        local = int(os.environ.get("LOCAL_WORLD_SIZE", processes.num_processes))
        if node := processes.process_index // local:
            # Each machine has a store of its own, even if the machines share a disk. With one store, a
            # machine could hold the lock and wait for another machine that waits for the lock.
            folder = folder.with_name(f"{folder.name}-machine-{node}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = FileLock(f"{folder}.lock") if first else contextlib.nullcontext()
        with lock:
            if first:
                if node and not self.agrees(rows, folder):
                    shutil.rmtree(folder, ignore_errors=True)
                mark_use(folder, {"split": rows.split, "rows": len(rows), "views": rows.views or 1})
                self._open_store(rows, folder).unmark_damaged()
            processes.wait_for_everyone()
            store = self._open_store(rows, folder)
            # Every process lists the missing rows before the first process fills one, so that all processes
            # divide the same list.
            missing = store.missing
            processes.wait_for_everyone()
            order = missing[np.argsort(-store.lengths[missing], kind="stable")]
            share = order[processes.local_process_index :: local]
            self.fill(rows, store, share, f"cache {rows.split}" if progress and first else None)
            processes.wait_for_everyone()
        return CachedRows(rows, self.partial, store), len(missing)

    def write_some(self, rows: EncodedRows, places: Sequence[Sequence[int]], folder: Path) -> CachedRows:
        """Store some of the rows in a temporary store; the other rows of the result cannot be read.

        Args:
            rows: encoded from their inputs.
            places: batches of places (view * N + row); each batch is computed in one pass.
            folder: folder of the store.
        """
        store = RowStore(folder, self.fields, self.lengths(rows))
        for part in places:
            self.fill(rows, store, np.asarray(part))
        return CachedRows(rows, self.partial, store)

    def fill(
        self, rows: EncodedRows, store: RowStore, places: np.ndarray, progress: str | None = None
    ) -> None:
        """Compute the slots of rows and store them.

        Args:
            rows: encoded from their inputs.
            store: the row store.
            places: view * N + row of each row, int; rows of similar length should be neighbours.
            progress: text of a progress bar; None: no bar.
        """
        from tqdm.auto import tqdm

        if not len(places):
            return
        lengths = store.lengths[places].tolist() if store.lengths.any() else None
        one = rows.collate(rows.__getitems__([(0, 0, True)]))
        most, tokens = forward_batch(numbers_in(one), self.passes.device.type, lengths=lengths is not None)
        parts = [places[batch] for batch in batches_of(len(places), most, lengths, tokens)]
        # disable=None shows the bar only if standard error is a terminal.
        for part in tqdm(parts, desc=progress, leave=False, disable=True if progress is None else None):
            for place, values in zip(part, self._values(rows, store.lengths, part), strict=True):
                store.write(int(place), values)

    def agrees(self, rows: EncodedRows, folder: Path) -> bool:
        """Compute a few of the stored rows again and tell whether they are equal to the stored ones.

        Args:
            rows: encoded from their inputs.
            folder: folder of the row store; the result is True if it holds no store.
        """
        store = RowStore.open(folder)
        if store is None:
            return True
        if store.fields != self.fields or len(store) != (rows.views or 1) * len(rows):
            return False

        def compute(places: np.ndarray) -> Iterable[list[torch.Tensor] | None]:
            if self._item_lengths(rows, places) != store.lengths[places].tolist():
                return [None] * len(places)
            return self._values(rows, store.lengths, places) if len(places) else []

        return store.agrees(compute, self._is_close)

    def lengths(self, rows: EncodedRows) -> np.ndarray:
        """Return the length of every row and view, int [views * N]; zeros if rows have no length."""
        known = self.ragged is not None and rows.task.length_key is not None and rows.supports_batch_encode
        if known and rows.lengths is not None:
            # Rows that are encoded as a batch are not random (one view), and their `lengths` were compared
            # with those of their items.
            return np.asarray(rows.lengths, np.int64)
        count = (rows.views or 1) * len(rows)
        parts = [range(start, min(start + 1000, count)) for start in range(0, count, 1000)]
        return np.asarray([length for part in parts for length in self._item_lengths(rows, part)], np.int64)

    def _open_store(self, rows: EncodedRows, folder: Path) -> RowStore:
        store = RowStore.open(folder)
        return RowStore(folder, self.fields, self.lengths(rows)) if store is None else store

    def _item_lengths(self, rows: EncodedRows, places: Iterable[int]) -> list[int]:
        """Encode rows and return the lengths of their items; zeros if rows have no length."""
        if self.ragged is None:
            return [0 for _ in places]
        return [len(item[self.ragged]) for item in rows.items(_indices(rows, places))]

    def _values(
        self, rows: EncodedRows, lengths: np.ndarray, places: np.ndarray
    ) -> Iterator[list[torch.Tensor]]:
        """Compute the fields of these rows: one list of tensors per row, without padding."""
        batch = rows.collate(rows.__getitems__(_indices(rows, places)))
        # `to_device` also applies `Task.finish`: what is stored must be what the model is called with.
        batch = to_device(rows.task, batch, self.passes.device)
        model: Any = self.partial.model
        was_training = model.training
        model.eval()
        slots = self.partial.capture(lambda: self.passes.run(dict(batch)))
        model.train(was_training)
        tensors = [slot.cpu() for slot in slots]
        tensors += [batch[field.name].cpu() for field in self.fields if not field.name.startswith(SLOT)]
        for number, place in enumerate(places):
            pairs = zip(self.fields, tensors, strict=True)
            yield [_row(tensor, field, number, len(places), lengths[place]) for field, tensor in pairs]

    def _is_close(self, field: Field, computed: torch.Tensor, stored: torch.Tensor) -> bool:
        if not (field.name.startswith(SLOT) and stored.is_floating_point()):
            return torch.equal(computed.reshape(stored.shape), stored)
        # The precision of the pass decides, not the type of the slot: under autocast a norm layer gives fp32
        # values of inputs that were rounded to bf16.
        tolerance = MIXED_TOLERANCE if self.passes.is_mixed else TOLERANCE
        difference = (computed.float().reshape(stored.shape) - stored.float()).norm()
        return bool(difference <= tolerance * stored.float().norm())


def _full_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF_DTYPES else dtype


def _indices(rows: EncodedRows, places: Iterable[int]) -> list[tuple[int, int, bool]]:
    """Turn places in a store (view * N + row) into indices (view, row, real) of the rows."""
    return [(int(place) // len(rows), int(place) % len(rows), True) for place in places]


def _row(tensor: torch.Tensor, field: Field, number: int, rows: int, length: int) -> torch.Tensor:
    """Take one row out of the tensor of a batch, without padding.

    Args:
        tensor: of the batch.
        field: description of the stored tensor.
        number: position of the row in the batch.
        rows: number of rows in the batch.
        length: the row's own length.
    """
    blocks = len(tensor) // rows
    row = tensor[number] if blocks == 1 else tensor[number * blocks : (number + 1) * blocks]
    if field.length_axis is None:
        return row
    return row.narrow(field.length_axis, 0, int(length) + field.shape[field.length_axis])
