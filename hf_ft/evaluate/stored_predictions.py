"""Store the results of every evaluated row, and read them back bit for bit.

predictions.parquet   for each row of each evaluated split: split, id, truth, the decoded answer, its loss
baselines.parquet     for each answer of a baseline: split, baseline, id

In both, the columns `result.KEY` hold what `Task.summarize` left of a row, such as the scores of all classes
in the order of the labels. All metrics can be computed again from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.storage.atomic import new_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow

    from hf_ft.task import Evaluation, Task

PREDICTIONS, BASELINES = "predictions.parquet", "baselines.parquet"
_PREFIX, _SHAPE = "result.", ".shape"


def write_predictions(folder: Path, task: Task, evaluations: Mapping[str, Evaluation]) -> None:
    """Write predictions.parquet and baselines.parquet.

    Args:
        folder: the run folder.
        task: decodes results and references.
        evaluations: split -> evaluation, with the answers of the baselines.

    Raises:
        TypeError: a result holds something other than numbers, texts and arrays.
    """
    rows, results = [], []
    answered, answers = [], []
    for split, evaluation in evaluations.items():
        for index, (row_id, result, truth) in enumerate(
            zip(evaluation.ids, evaluation.results, evaluation.references, strict=True)
        ):
            decoded = {key: value for key, value in task.decode(result).items() if key != "scores"}
            row = {"split": split, "id": row_id, "truth": task.decode_reference(truth), **decoded}
            if evaluation.losses is not None and evaluation.counts is not None:
                row |= {"loss": evaluation.losses[index], "loss_count": evaluation.counts[index]}
            rows.append(row)
        results += evaluation.results
        for name, by_row in evaluation.baselines.items():
            known = [index for index, result in enumerate(by_row) if result is not None]
            answered += [{"split": split, "baseline": name, "id": evaluation.ids[index]} for index in known]
            answers += [by_row[index] for index in known]
    _write(folder / PREDICTIONS, rows, results)
    _write(folder / BASELINES, answered, answers)


def _write(path: Path, rows: Sequence[Mapping[str, Any]], results: Sequence[Any]) -> None:
    import pandas
    import pyarrow
    from pyarrow import parquet

    columns = ["split", "baseline", "id"] if path.name == BASELINES else None
    table = pyarrow.Table.from_pandas(pandas.DataFrame(rows, columns=columns), preserve_index=False)
    for name, values in result_columns(results).items():
        table = table.append_column(_PREFIX + name, values)
    with new_file(path) as fresh:
        parquet.write_table(table, fresh, compression="zstd")


def read_table(path: Path) -> tuple[pyarrow.Table, list[Any]]:
    """Read a file that `write_predictions` has written.

    Returns:
        The columns without the results, and the result of each row.
    """
    from pyarrow import parquet

    table = parquet.read_table(path)
    stored = {
        name.removeprefix(_PREFIX): table.column(name).combine_chunks()
        for name in table.column_names
        if name.startswith(_PREFIX)
    }
    plain = table.select([name for name in table.column_names if not name.startswith(_PREFIX)])
    return plain, results_of(stored, len(table))


def result_columns(results: Sequence[Any]) -> dict[str, pyarrow.Array]:
    """Turn results into columns, one for each key.

    An array becomes a list of its numbers; unless it has one dimension, `KEY.shape` holds its shape.

    Args:
        results: N results, each a dict of arrays, numbers and texts, or one such value.

    Raises:
        TypeError: a value has another type.
    """
    rows = [result if isinstance(result, dict) else {"": result} for result in results]
    found: dict[str, pyarrow.Array] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        found |= _column(key, [row.get(key) for row in rows])
    return found


def _column(key: str, values: Sequence[Any]) -> dict[str, pyarrow.Array]:
    import pyarrow

    if not any(isinstance(value, (np.ndarray, list, tuple)) for value in values):
        plain = [value.item() if isinstance(value, np.generic) else value for value in values]
        wrong = next((one for one in plain if not isinstance(one, bool | int | float | str | None)), None)
        if wrong is not None:
            raise TypeError(
                f"a result of the task holds {type(wrong).__name__} under {key!r}; expected numbers, "
                "texts, or numpy arrays of them"
            )
        return {key: pyarrow.array(plain)}
    arrays = [None if value is None else np.asarray(value) for value in values]
    known = [array for array in arrays if array is not None]
    offsets, end = [], 0
    for array in arrays:
        offsets.append(None if array is None else end)
        end += 0 if array is None else array.size
    flat = pyarrow.array(np.concatenate([array.ravel() for array in known]))
    # 64-bit offsets: a thousand classes of two million rows are more than 32 bits can count.
    found = {key: pyarrow.LargeListArray.from_arrays(pyarrow.array([*offsets, end], pyarrow.int64()), flat)}
    if any(array.ndim != 1 for array in known):
        shapes = [None if array is None else list(array.shape) for array in arrays]
        found[key + _SHAPE] = pyarrow.array(shapes, pyarrow.list_(pyarrow.int32()))
    return found


def results_of(columns: Mapping[str, pyarrow.Array], rows: int) -> list[Any]:
    """Turn columns of `result_columns` back into N results; the order of dimensions and the types are kept.

    Args:
        columns: key -> values of N rows.
        rows: N.
    """
    found: list[dict[str, Any]] = [{} for _ in range(rows)]
    for key, values in columns.items():
        if key.endswith(_SHAPE) and key.removesuffix(_SHAPE) in columns:
            continue
        shapes = columns.get(key + _SHAPE)
        for index, value in enumerate(_values(values)):
            if value is not None:
                shaped = value if shapes is None else value.reshape(shapes[index].as_py())
                found[index][key] = shaped
    return [row[""] if list(row) == [""] else row for row in found]


def _values(column: pyarrow.Array) -> list[Any]:
    import pyarrow

    if not pyarrow.types.is_large_list(column.type):
        return column.to_pylist()
    flat, offsets = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
    return [
        flat[start:end] if valid else None
        for start, end, valid in zip(offsets[:-1], offsets[1:], column.is_valid().to_pylist(), strict=True)
    ]
