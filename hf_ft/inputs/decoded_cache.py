"""Decode no picture twice: decide whether the decoded rows of a run are kept, and in which form."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from hf_ft.data.table import Table
from hf_ft.inputs.decoded_rows import DecodedRows, fields_of, stored_values
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.storage.eviction import make_room, mark_use
from hf_ft.storage.row_store import Field, RowStore, bytes_of
from hf_ft.storage.source_hash import COMPUTING, hash_of, task_source_hash, versions
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch

    from hf_ft.data.prepare import Prepared
    from hf_ft.recipe.schema import CacheSection
    from hf_ft.task import Task


@dataclass(frozen=True)
class _Plan:
    """What is kept of a split: its folder, the fields and lengths of its rows, and whether they are ready."""

    folder: Path
    fields: list[Field]
    lengths: np.ndarray
    ready: bool

    @property
    def size(self) -> int:
        return bytes_of(self.fields, self.lengths)


def cache_decoded(
    data: Prepared, task: Task, section: CacheSection, processes: Any, *, keep: bool
) -> tuple[Mapping[str, Any], str | None]:
    """Let the rows of a run be read decoded, where the recipe asks for it.

    Processes need not agree: rows are the same to the last bit whether they are read decoded or not.

    Args:
        data: the raw rows.
        task: fitted, and loaded.
        section: the recipe's `cache`.
        processes: the Accelerator, or PartialState.
        keep: whether to store anything; otherwise it is only decided.

    Returns:
        Split -> rows to encode, and what was decided and why; None where nothing was asked for.
    """
    if not section.decoded:
        return data.rows, None
    with processes.local_main_process_first():
        try:
            return _decide(data, task, section, first=processes.is_local_main_process, keep=keep)
        except OSError as error:
            return data.rows, f"not used: {error}; pictures are decoded in each epoch"


def _decide(
    data: Prepared, task: Task, section: CacheSection, *, first: bool, keep: bool
) -> tuple[Mapping[str, Any], str]:
    tables = {split: rows for split, rows in data.rows.items() if isinstance(rows, Table)}
    if not task.media_roles or len(tables) < len(data.rows):
        return data.rows, f"not used: {task.name} has nothing to decode"
    root = cache_folder() / "decoded"
    plans = {
        # Before random augmentation there are only the pictures as they are.
        split: _plan(root, task, rows, data.findings.contents[split], split == "train" and task.is_random)
        for split, rows in tables.items()
    }
    size, folders = sum(plan.size for plan in plans.values()), [plan.folder for plan in plans.values()]
    if first:
        # The room is made by one process; the others follow where it has opened the stores.
        full = make_room(root, size, int(section.max_gb * 1e9), folders, delete=keep)
        if full is not None:
            return data.rows, f"not used: {full}; pictures are decoded in each epoch"
    elif not all((folder / "use").is_file() for folder in folders):
        return data.rows, "not used by the main process"
    opened = {
        split: _opened(task, tables[split], plan, split, first=first)
        for split, plan in (plans.items() if keep else ())
    }
    found = sum(len(rows.store.filled) for rows in opened.values())
    kinds = {True: "as the processor crops and sizes them", False: "as RGB"}
    splits = {
        kind: [split for split, plan in plans.items() if plan.ready == ready] for ready, kind in kinds.items()
    }
    parts = [f"{listing(names)} {kind}" for kind, names in splits.items() if names]
    count = sum(len(plan.lengths) for plan in plans.values())
    there = f", {found} of {count} rows found, the others are kept as they are met" if keep else ""
    return opened or data.rows, f"{', '.join(parts)} ({size / 1e6:,.1f} MB{there})"


def _plan(root: Path, task: Task, rows: Table, content: str, random: bool) -> _Plan:
    """Plan the store of a split, ready for the model if it can be."""
    made = None if random else task.media([rows[0]], ready=True)
    ready = made is not None
    folder = root / _key(task, rows, content, ready=ready)
    if made is not None:
        return _Plan(folder, fields_of(task.media_roles, made[0]), np.zeros(len(rows), np.int64), ready)
    store = RowStore.open(folder)
    if store is not None and len(store) == len(rows):
        return _Plan(folder, fields_of(task.media_roles, None), store.lengths, ready)
    lengths = np.asarray([task.media_numbers(row) for row in rows], np.int64)
    return _Plan(folder, fields_of(task.media_roles, None), lengths, ready)


def _opened(task: Task, rows: Table, plan: _Plan, split: str, *, first: bool) -> DecodedRows:
    """Open the store of a split; emptied before if it holds other rows than these."""

    def compute(places: np.ndarray) -> Iterator[list[torch.Tensor] | None]:
        for place in places:
            made = task.media([rows[int(place)]], ready=plan.ready)
            yield None if made is None else stored_values(made[0], task.media_roles, ready=plan.ready)

    if first:
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{plan.folder}.lock"):
            store = RowStore.open(plan.folder)
            if store is None or store.fields != plan.fields or not store.agrees(compute):
                shutil.rmtree(plan.folder, ignore_errors=True)
            mark_use(plan.folder, {"split": split, "rows": len(rows), "ready": plan.ready})
            RowStore(plan.folder, plan.fields, plan.lengths).unmark_damaged()
    return DecodedRows(task, rows, RowStore(plan.folder, plan.fields, plan.lengths), ready=plan.ready)


def _key(task: Task, rows: Table, content: str, *, ready: bool) -> str:
    """Name all that decoded media depend on, as one hash.

    Args:
        task: fitted, and loaded.
        rows: raw rows of a split.
        content: hash of what they hold.
        ready: whether they went through the processor's geometry.
    """
    made = "as decoded"
    if ready:
        made = f"{type(task.processor)} {task.processor.to_json_string()}"
    return hash_of([task_source_hash(task), content, made, *versions(COMPUTING), *rows.ids])
