"""Cache decoded pictures (`cache.decoded`): decide whether a run uses the cache, and what it stores."""

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
    """The store of one split: its folder, its fields, the lengths of its rows, and their form."""

    folder: Path
    fields: list[Field]
    lengths: np.ndarray
    preprocessed: bool

    @property
    def size(self) -> int:
        return bytes_of(self.fields, self.lengths)


def cache_decoded(
    data: Prepared, task: Task, section: CacheSection, processes: Any, *, keep: bool, spared: int = 0
) -> tuple[Mapping[str, Any], str | None]:
    """Replace the rows of a run by rows from the cache of decoded rows, where the recipe asks for it.

    The processes need not decide alike: decoded rows equal the raw ones bit for bit.

    Args:
        data: the raw rows.
        task: the fitted task, with its processor loaded.
        section: the recipe's section `cache`.
        processes: the Accelerator, or PartialState.
        keep: whether to store anything; False: only decide.
        spared: bytes that the cache must leave free on its disk.

    Returns:
        Split -> rows to encode; and the decision with its reason, None where `cache.decoded` is false.
    """
    if not section.decoded:
        return data.rows, None
    with processes.local_main_process_first():
        try:
            first = processes.is_local_main_process
            return _decide(data, task, section, first=first, keep=keep, spared=spared)
        except OSError as error:
            return data.rows, f"not used: {error}; pictures are decoded in each epoch"


def _decide(
    data: Prepared, task: Task, section: CacheSection, *, first: bool, keep: bool, spared: int
) -> tuple[Mapping[str, Any], str]:
    tables = {split: rows for split, rows in data.rows.items() if isinstance(rows, Table)}
    if not task.media_roles or len(tables) < len(data.rows):
        return data.rows, f"not used: {task.name} has no media to decode"
    root = cache_folder() / "decoded"
    plans = {
        # Random augmentation comes before the processor, so only the decoded picture can be stored.
        split: _plan(root, task, rows, data.findings.contents[split], split == "train" and task.is_random)
        for split, rows in tables.items()
    }
    size, folders = sum(plan.size for plan in plans.values()), [plan.folder for plan in plans.values()]
    if first:
        # Only this process evicts old entries; the others use the stores if this process has opened them.
        full = make_room(root, size, int(section.max_gb * 1e9), folders, delete=keep, spared=spared)
        if full is not None:
            return data.rows, f"not used: {full}; pictures are decoded in each epoch"
    elif not all((folder / "use").is_file() for folder in folders):
        return data.rows, "not used by the main process"
    opened = {
        split: _open_store(task, tables[split], plan, split, first=first)
        for split, plan in (plans.items() if keep else ())
    }
    found = sum(len(rows.store.filled) for rows in opened.values())
    kinds = {True: "cropped and resized", False: "as RGB"}
    splits = {
        kind: [split for split, plan in plans.items() if plan.preprocessed == preprocessed]
        for preprocessed, kind in kinds.items()
    }
    parts = [f"{listing(names)} {kind}" for kind, names in splits.items() if names]
    count = sum(len(plan.lengths) for plan in plans.values())
    stored = f", {found} of {count} rows found, the others are stored at first use" if keep else ""
    return opened or data.rows, f"{', '.join(parts)} ({size / 1e6:,.1f} MB{stored})"


def _plan(root: Path, task: Task, rows: Table, content: str, random: bool) -> _Plan:
    """Plan the store of a split, with preprocessed media if that is possible."""
    media = None if random else task.media([rows[0]], preprocessed=True)
    preprocessed = media is not None
    folder = root / _key(task, rows, content, preprocessed=preprocessed)
    if media is not None:
        fields = fields_of(task.media_roles, media[0])
        return _Plan(folder, fields, np.zeros(len(rows), np.int64), preprocessed)
    store = RowStore.open(folder)
    if store is not None and len(store) == len(rows):
        return _Plan(folder, fields_of(task.media_roles, None), store.lengths, preprocessed)
    lengths = np.asarray([task.media_numbers(row) for row in rows], np.int64)
    return _Plan(folder, fields_of(task.media_roles, None), lengths, preprocessed)


def _open_store(task: Task, rows: Table, plan: _Plan, split: str, *, first: bool) -> DecodedRows:
    """Open the store of a split; empty it first if it holds other rows."""

    def compute(places: np.ndarray) -> Iterator[list[torch.Tensor] | None]:
        for place in places:
            media = task.media([rows[int(place)]], preprocessed=plan.preprocessed)
            if media is None:
                yield None
            else:
                yield stored_values(media[0], task.media_roles, preprocessed=plan.preprocessed)

    if first:
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{plan.folder}.lock"):
            store = RowStore.open(plan.folder)
            if store is None or store.fields != plan.fields or not store.agrees(compute):
                shutil.rmtree(plan.folder, ignore_errors=True)
            mark_use(plan.folder, {"split": split, "rows": len(rows), "preprocessed": plan.preprocessed})
            RowStore(plan.folder, plan.fields, plan.lengths).unmark_damaged()
    store = RowStore(plan.folder, plan.fields, plan.lengths)
    return DecodedRows(task, rows, store, preprocessed=plan.preprocessed)


def _key(task: Task, rows: Table, content: str, *, preprocessed: bool) -> str:
    """Hash everything that the stored media depend on.

    Args:
        task: the fitted task, with its processor loaded.
        rows: the raw rows of a split.
        content: hash of the content of the rows.
        preprocessed: whether the processor's geometry is applied.
    """
    processor = "as decoded"
    if preprocessed:
        processor = f"{type(task.processor)} {task.processor.to_json_string()}"
    return hash_of([task_source_hash(task), content, processor, *versions(COMPUTING), *rows.ids])
