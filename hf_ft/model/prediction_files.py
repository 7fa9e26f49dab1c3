"""Predict for the rows of files and write the answers to a file; bad rows are reported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_ft.causes import explain
from hf_ft.errors import DataError, RecipeError
from hf_ft.model.prediction_inputs import BadRow, Inputs, bad_rows, listed, read_inputs
from hf_ft.processor_cores import usable_cores
from hf_ft.storage.atomic import new_file
from hf_ft.text_utils import hint, listing

if TYPE_CHECKING:
    from hf_ft.model.predictor import Predictor
    from hf_ft.task import Row, Task

# Suffixes of the formats that can be written.
ENDINGS = (".csv", ".parquet", ".jsonl")
# Most bad rows that a message lists.
MOST_NAMED = 20


@dataclass(frozen=True)
class Written:
    """The result of `predict_to_file`.

    Args:
        path: the file that was written.
        rows: number of rows in the file.
        bad: the rows that were left out.
        seconds: duration of reading, predicting and writing, in seconds.
    """

    path: Path
    rows: int
    bad: list[BadRow]
    seconds: float


def check_output(path: Path, inputs: Sequence[str | Path] = ()) -> None:
    """Check the name of the output file, before anything is loaded.

    Args:
        path: the output file.
        inputs: the input files.

    Raises:
        RecipeError: the suffix is not a format that can be written, or the file is one of the inputs.
    """
    if path.suffix.lower() not in ENDINGS:
        near = hint(path.suffix.lower(), ENDINGS)
        raise RecipeError(f"{path}: expected a file that ends in {', '.join(ENDINGS)}{near}")
    if any(os.path.exists(one) and path.exists() and path.samefile(one) for one in inputs):
        raise RecipeError(f"{path}: is one of the inputs and would be overwritten; choose another file")


def predict_to_file(
    predictor: Predictor,
    inputs: Any,
    path: str | Path,
    *,
    on_bad: Literal["error", "skip"] = "error",
    top_k: int | None = None,
    threshold: float | None = None,
    id_column: str | None = None,
    batch_size: int | None = None,
) -> Written:
    """Predict for every input and write one row per input; the file is written atomically.

    The columns of an input file are copied to the output, except pictures and lists of numbers. A column with
    the name of a part of the answer is renamed to `input_<name>`.

    Args:
        predictor: a loaded model.
        inputs: paths of pictures, folders or files of rows, or any other inputs that the task reads.
        path: output file, `.csv`, `.parquet` or `.jsonl`. In CSV, lists and mappings are written as JSON.
        on_bad: what to do if rows cannot be read: `error`: stop before anything is written; `skip`: leave
            these rows out.
        top_k: write the best `top_k` classes with their scores, as `top`, instead of all scores.
        threshold: write a label only if its score is at least this.
        id_column: column of the input files with the ids of rows; None: the column `data.id` of the run or
            `id` if there is one, else the number of the row.
        batch_size: rows per batch; None: chosen for the device.

    Returns:
        The file, its number of rows, and the rows that were left out.

    Raises:
        RecipeError: the suffix is not a format that can be written, or the task has no classes for `top_k` or
            `threshold`.
        DataError: no input can be read, or there are bad rows and `on_bad` is `error`; the message lists
            them.
    """
    path, begun = Path(path), time.perf_counter()
    check_output(path, [one for one in listed(inputs) if isinstance(one, str | Path)])
    check_choice(predictor.task, top_k, threshold)
    found = read_inputs(predictor.task, inputs, id_column, predictor.id_column)
    if found.bad and on_bad == "error":
        raise _refusal(predictor.task, found, {})
    problems: dict[int, str] = {}
    results = {}
    for position, result in predictor.stream(found.rows, batch_size, problems):
        if problems and on_bad == "error":
            break
        results[position] = result
    if problems and on_bad == "error":
        raise _refusal(predictor.task, found, problems)
    found.bad += bad_rows(found, problems)
    if not results:
        raise DataError(f"no input can be used: {listing(found.bad, 3) or 'there are none'}")
    records = []
    for position in sorted(results):
        answer = predictor.answer(results[position], top_k, threshold)
        records.append(_record(found.rows[position], found.carried[position], answer))
    try:
        write_records(records, path)
    except OSError as error:
        raise DataError(explain(error)) from error
    return Written(path, len(records), found.bad, time.perf_counter() - begun)


def check_choice(task: Task, top_k: int | None, threshold: float | None) -> None:
    """Check that a task has classes if `top_k` or `threshold` is given.

    Raises:
        RecipeError: the task has no classes.
    """
    if task.labels() is None and (top_k is not None or threshold is not None):
        asked = "top-k" if top_k is not None else "threshold"
        raise RecipeError(f"--{asked}: this model gives no scores of classes; remove the option")


def _refusal(task: Task, found: Inputs, problems: Mapping[int, str]) -> DataError:
    """Return an error that lists every bad row; rows that were not encoded yet are inspected here."""
    unseen = [position for position in range(len(found.rows)) if position not in problems]
    with ThreadPoolExecutor(usable_cores()) as pool:
        inspections = pool.map(task.inspect, (found.rows[position] for position in unseen))
    later = {at: one.problem for at, one in zip(unseen, inspections, strict=True) if one.problem is not None}
    every = {**problems, **later}
    bad = [*found.bad, *bad_rows(found, every)]
    return DataError(
        f"{len(bad)} of {len(found.rows) + len(found.bad)} inputs cannot be used, and nothing was written:\n"
        f"{list_bad_rows(bad)}\nCorrect or remove them, or leave them out with --on-bad skip"
    )


def list_bad_rows(bad: Sequence[BadRow]) -> str:
    """List bad rows for a message, one per line, at most MOST_NAMED of them."""
    lines = [f"  {one}" for one in bad[:MOST_NAMED]]
    return "\n".join(lines + [f"  ... and {len(bad) - MOST_NAMED} more"] * (len(bad) > MOST_NAMED))


def _record(row: Row, carried: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Build the output row: the id, the columns of the input file, and the answer."""
    columns = {
        f"input_{name}" if name in answer or name == "id" else name: value
        for name, value in carried.items()
        if not (name == "id" and str(value) == row["id"])
    }
    return {"id": row["id"], **columns, **answer}


def write_records(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows to a file atomically, in the format of its suffix.

    Args:
        records: column -> value of each row.
        path: the output file.

    Raises:
        DataError: the values of a column have several types, which Parquet cannot store.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    ending = path.suffix.lower()
    with new_file(path) as fresh:
        if ending == ".jsonl":
            lines = (json.dumps(_plain(record), ensure_ascii=False) for record in records)
            fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        elif ending == ".csv":
            import pandas

            cells = [{name: _cell(record.get(name)) for name in names} for record in records]
            pandas.DataFrame(cells, columns=names).to_csv(fresh, index=False)
        else:
            _write_parquet(records, names, fresh)


def _write_parquet(records: Sequence[Mapping[str, Any]], names: Iterable[str], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {}
    for name in names:
        try:
            columns[name] = pyarrow.array([record.get(name) for record in records])
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise DataError(
                f"column {name!r}: the files of rows hold values of several types ({error}); write to a "
                ".jsonl file, or predict for one file at a time"
            ) from error
    parquet.write_table(pyarrow.table(columns), path)


def _cell(value: Any) -> Any:
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, list | dict) else value


def _plain(value: Any) -> Any:
    """Turn a value into JSON values: NaN and infinity become None, times and other objects become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
