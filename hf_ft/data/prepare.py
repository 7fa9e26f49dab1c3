"""Prepare the data of a recipe: read the source, make the splits, audit every row, fit the task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.audit import (
    Findings,
    add_bad_rows,
    audit,
    judge_classes,
    usable_rows,
    write_bad,
)
from hf_ft.data.files import format_of, line_breaks
from hf_ft.data.sources import on_hub, read_source, rows_in_memory
from hf_ft.data.splits import make_splits
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.storage.atomic import write_json
from hf_ft.storage.cache_folder import cache_folder

if TYPE_CHECKING:
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Task


@dataclass
class Prepared:
    """The rows of a run.

    Args:
        rows: split -> raw rows, as `Task.examples` returned them, without bad rows.
        info: content of data.json: origin and size of each split, fingerprints, labels.
        findings: result of the audit.
        seed: the seed of the run, also used by the bootstrap.
    """

    rows: dict[str, Any]
    info: dict[str, Any]
    findings: Findings
    seed: int

    @property
    def final_split(self) -> str:
        """The split on which the final metrics are measured."""
        return "test" if "test" in self.rows else "validation"

    def groups(self, task: Task, split: str) -> Sequence[Any] | None:
        """Return the group of each row, from `data.split.by` or the task; None if rows are independent."""
        by, rows = self.info.get("by"), self.rows[split]
        if by not in (None, "time") and isinstance(rows, Table) and rows.has(by):
            return rows.column(by)
        return task.groups(rows)

    def seen(self, split: str) -> Collection[str]:
        """Return the ids of the rows of a split that are in an earlier split, too, and were kept."""
        return self.findings.seen.get(split, {})

    def write(self, folder: Path) -> None:
        """Write data.json to a folder, and bad.csv if there are bad rows."""
        write_json(folder / "data.json", self.info, indent=2)
        if self.findings.bad:
            write_bad(self.findings.bad, folder / "bad.csv")


def prepare(recipe: Recipe, task: Task, *, data: Any = None, cache: Path | None = None) -> Prepared:
    """Read the data of a recipe, split it, audit every row, and fit the task on the training rows.

    Args:
        recipe: the resolved recipe.
        task: a new task, which is fitted here.
        data: rows in memory that replace `data.source`: a Dataset, DatasetDict, pandas DataFrame, or list
            of dicts.
        cache: folder for the results of audits; default: the user's cache folder.

    Raises:
        DataError: the data cannot be used; the message names rows and keys.
    """
    sources = read_source(recipe.data) if data is None else rows_in_memory(data)
    breaks = _line_break_notes(sources, {} if data is not None else recipe.data.source)
    seed = recipe.seed if recipe.data.split.seed is None else recipe.data.split.seed
    splits = make_splits(sources, recipe.data, task.roles, seed, task.class_role, task.times)
    rows = task.examples(splits.tables)
    for needed in ("train", "validation"):
        if not len(rows.get(needed, ())):
            raise DataError(f"data.split.{needed}: there are no {needed} rows; set a fraction, such as 0.1")
    for split in rows:
        if len(rows[split]) < 2:
            raise DataError(f"data.split.{split}: 1 row; a metric with an interval needs at least 2 rows")
    folder = cache or cache_folder() / "audit"
    findings = audit(task, rows, recipe.data.on_bad, folder, recipe.data.duplicates)
    _require_rows(rows, findings)
    try:
        rows = _fit(recipe, task, rows, findings)
    except DataError as error:
        if not findings.decisions:
            raise
        # The reason may be that train lacks a class without the rows that are left out.
        raise DataError("\n".join([str(error), *findings.decisions])) from error
    findings.notes += breaks
    given = recipe.data.source if data is None else {}
    names = [given] if isinstance(given, str) else given.values()
    info = {
        **splits.info,
        "hub": sorted({name for name in names if on_hub(name)}),
        "sizes": {split: len(part) for split, part in rows.items()},
        "fingerprints": findings.fingerprints,
        "traits": {
            split: {name: len(ids) for name, ids in found.items()} for split, found in findings.traits.items()
        },
        # If there are errors, the task may not be fitted.
        "labels": None if findings.errors else task.labels(),
    }
    info["notes"] += findings.decisions
    # Row -> the equal row of another split.
    duplicates = {"left_out": findings.left_out, "seen": findings.seen}
    info |= {name: found for name, found in duplicates.items() if found}
    return Prepared(rows, info, findings, recipe.seed)


def _line_break_notes(sources: Mapping[str, Any], source: str | Mapping[str, str]) -> list[str]:
    """Say how many rows of CSV files have line breaks in a cell: two stray quotes make one row of many."""
    names = [source] if isinstance(source, str) else list(source.values())
    if not any(format_of(name) == "csv" for name in names):
        return []
    counts = {split: line_breaks(rows) for split, rows in sources.items()}
    return [
        f"{split}: {count} of {len(sources[split])} rows have a line break in a cell in quotes"
        for split, count in counts.items()
        if count
    ]


def _require_rows(rows: Mapping[str, Any], findings: Findings) -> None:
    """Refuse splits of which fewer than two rows are left without the rows that are in another split, too."""
    for setting, found, where in (
        ("drop_from_train", findings.left_out, "a later"),
        ("report", findings.seen, "an earlier"),
    ):
        for split, gone in found.items():
            left, total = len(rows[split]) - len(gone), len(rows[split])
            if left < 2:
                raise DataError(
                    f"data.duplicates: {setting}: {len(gone)} of {total} rows of {split} are equal to a row "
                    f"of {where} split, and at least 2 must be left without them; choose other splits"
                )


def _fit(recipe: Recipe, task: Task, rows: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """Fit the task on the usable training rows, and add rows that `Task.check` refuses to the findings.

    Returns:
        Split -> usable rows. If the findings have errors, the run must stop.
    """
    good = usable_rows(rows, findings)
    if not len(good["train"]):
        return good
    try:
        task.fit(good["train"])
        for split, part in good.items():
            add_bad_rows(findings, split, part.ids, task.check(split, part), recipe.data.on_bad)
    except DataError as error:
        if not findings.errors:
            raise
        findings.errors.append(str(error))
        return good
    good = usable_rows(good, findings)
    if task.class_role is not None:
        balanced = recipe.data.sampler == "balanced"
        balanced |= bool(getattr(task.loss_options, "class_weights", None))
        classes = {split: part.column(task.class_role) for split, part in good.items()}
        judge_classes(findings, classes, balanced=balanced)
    return good
