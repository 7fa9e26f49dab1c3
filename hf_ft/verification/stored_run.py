"""Evaluations that are made of the files of a run and of rows that were read again from their source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import VerifyError
from hf_ft.evaluate.final import calibrate
from hf_ft.evaluate.loop import References, measure
from hf_ft.evaluate.stored_predictions import BASELINES, PREDICTIONS, read_table
from hf_ft.task import Evaluation

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.task import Task


def stored_evaluations(folder: Path, task: Task, data: Prepared) -> dict[str, Evaluation]:
    """Measure what predictions.parquet and baselines.parquet hold, with the references of the source.

    Thresholds are chosen again on validation, as the run has chosen them.

    Args:
        folder: the run folder.
        task: the fitted task; gets the thresholds.
        data: the rows of the source.

    Raises:
        VerifyError: a file lacks rows, or holds others than the source.
    """
    table, results = read_table(folder / PREDICTIONS)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    answers, answered = read_table(folder / BASELINES)
    found: dict[str, Evaluation] = {}
    for split in (
        name for name in ("validation", "test") if name in data.rows
    ):  # in this order, as in the run
        places = [index for index, name in enumerate(columns["split"]) if name == split]
        ids = [columns["id"][index] for index in places]
        if ids != list(data.rows[split].ids):
            raise VerifyError(
                f"{PREDICTIONS}: the rows of {split} are not those of the source, each once, in order"
            )
        own = [results[index] for index in places]
        references = References(task, data.rows[split])
        values = measure(task, own, references).compute()
        losses = counts = None
        if task.has_loss(split):
            losses, counts = ([columns[name][index] for index in places] for name in ("loss", "loss_count"))
            total = sum(loss * count for loss, count in zip(losses, counts, strict=True))
            values["loss"] = total / sum(counts)
        evaluation = Evaluation(split, ids, own, references, losses, values, counts=counts)
        evaluation.baselines.update(_baselines(answers.to_pylist(), answered, split, ids))
        found[split] = evaluation
        if split == "validation":
            calibrate(task, evaluation)
    return found


def _baselines(
    rows: list[dict[str, Any]], results: list[Any], split: str, ids: list[str]
) -> dict[str, list[Any]]:
    """Return name of a baseline -> its answer to each row of a split, None where it has none."""
    position = {row_id: index for index, row_id in enumerate(ids)}
    found: dict[str, list[Any]] = {}
    for row, result in zip(rows, results, strict=True):
        if row["split"] == split:
            if row["id"] not in position:
                raise VerifyError(f"{BASELINES}: {row['id']!r} is no row of {split}")
            found.setdefault(row["baseline"], [None] * len(ids))[position[row["id"]]] = result
    return found
