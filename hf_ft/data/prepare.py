"""From the recipe's `data:` to rows that can be trained on: read, split, audited, learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.audit import (
    Findings,
    add_bad_rows,
    audit,
    judge_classes,
    without_bad_rows,
    write_bad,
)
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
        rows: split -> raw rows, as `Task.examples` gave them.
        info: how each split came to be, sizes, fingerprints, labels: what data.json holds.
        findings: what the audit found.
        seed: of the bootstrap.
    """

    rows: dict[str, Any]
    info: dict[str, Any]
    findings: Findings
    seed: int

    @property
    def final_split(self) -> str:
        """The split that the final figure is measured on."""
        return "test" if "test" in self.rows else "validation"

    def groups(self, task: Task, split: str) -> Sequence[Any] | None:
        """Give the group of each row where rows are not independent: `data.split.by`, or as the task says."""
        by, rows = self.info.get("by"), self.rows[split]
        if by not in (None, "time") and isinstance(rows, Table) and rows.has(by):
            return rows.column(by)
        return task.groups(rows)

    def write(self, folder: Path) -> None:
        """Write data.json, and bad.csv where rows were left out."""
        write_json(folder / "data.json", self.info, indent=2)
        if self.findings.bad:
            write_bad(self.findings.bad, folder / "bad.csv")


def prepare(recipe: Recipe, task: Task, *, data: Any = None, cache: Path | None = None) -> Prepared:
    """Read the data of a recipe, split it, audit every row, and fit the task on the training rows.

    Args:
        recipe: the resolved recipe.
        task: a fresh task; fitted here.
        data: rows in memory in place of `data.source`: a Dataset, DatasetDict, pandas DataFrame, or list of
            dicts.
        cache: where findings of earlier audits are kept; default: the user's cache.

    Raises:
        DataError: the data cannot be used; the message names rows and keys.
    """
    sources = read_source(recipe.data) if data is None else rows_in_memory(data)
    splits = make_splits(sources, recipe.data, task.roles, recipe.seed, task.class_role, task.times)
    rows = task.examples(splits.tables)
    for needed in ("train", "validation"):
        if not len(rows.get(needed, ())):
            raise DataError(f"data.split.{needed}: there are no {needed} rows; set a fraction, such as 0.1")
    for split in rows:
        if len(rows[split]) < 2:
            raise DataError(f"data.split.{split}: 1 row; a figure with an interval needs at least 2")
    findings = audit(task, rows, recipe.data.on_bad, cache or cache_folder() / "audit")
    rows = _learn(recipe, task, rows, findings)
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
        # Of rows with errors, the task may have learned nothing.
        "labels": None if findings.errors else task.labels(),
    }
    return Prepared(rows, info, findings, recipe.seed)


def _learn(recipe: Recipe, task: Task, rows: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """Fit the task on the rows that can be used, and find those that do not fit what it learned.

    Returns:
        Split -> rows that can be used; where there are errors among the findings, the run must stop.
    """
    good = without_bad_rows(rows, findings)
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
    good = without_bad_rows(good, findings)
    if task.class_role is not None:
        balanced = recipe.data.sampler == "balanced"
        balanced |= bool(getattr(task.loss_options, "class_weights", None))
        classes = {split: part.column(task.class_role) for split, part in good.items()}
        judge_classes(findings, classes, balanced=balanced)
    return good
