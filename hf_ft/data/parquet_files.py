"""Read Parquet files, and say which file is damaged or does not fit to the others."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_ft.data.csv_files import check_same_columns
from hf_ft.data.datasets_cache import cache_named
from hf_ft.errors import DataError
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from datasets import Dataset, Features


def read_parquet_files(paths: Sequence[str]) -> Dataset:
    """Read Parquet files with the same columns as one data set, in the given order.

    Raises:
        DataError: a file is damaged, two of its columns have one name, or its columns are not those of the
            other files.
    """
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    features, rows = {}, 0
    for path in paths:
        features[path], count = _read_header(path)
        rows += count
    if not rows:
        raise DataError(f"data.source: {listing(paths, 3)}: there are no rows.")
    try:
        with cache_named():
            found = load_dataset(
                "parquet",
                name=f"files-{_state_of(paths)}",
                data_files={"train": [glob.escape(path) for path in paths]},
                features=_common_features(features),
                split="train",
            )
    except (DatasetGenerationError, pyarrow.ArrowException) as error:
        raise _damaged(paths, error) from error
    if len(found) != rows:
        raise DataError(
            f"data.source: {listing(paths, 3)}: found {len(found)} rows, and the files say {rows}; they are "
            "damaged."
        )
    return found


def _read_header(path: str) -> tuple[Features, int]:
    """Return the columns of a file and its number of rows."""
    import pyarrow
    from datasets import Features
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"data.source: cannot read {path}: it is no Parquet file, or damaged ({first_line(error)})."
        ) from error
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DataError(
            f"data.source: {path} has several columns named {listing(twice)}; give each its own name."
        )
    try:
        return Features.from_arrow_schema(schema), rows
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"data.source: cannot read the columns of {path}: {first_line(error)}") from error


def _common_features(features: Mapping[str, Features]) -> Features:
    """Return the columns of all files; one without values in a file takes its type from another file.

    `datasets` would read every file with the types and class names of the first: text such as `007` would
    become a number, and class 0 of one file class 0 of another.
    """
    from datasets import Value

    check_same_columns({path: list(found) for path, found in features.items()})
    first, *others = features
    common = features[first].copy()
    for path in others:
        for name, kind in features[path].items():
            if common[name] == Value("null"):
                common[name] = kind
            elif kind not in (common[name], Value("null")):
                raise DataError(
                    f"data.source: the files of one split need columns of one type, but {name!r} is {kind} "
                    f"in {path} and {common[name]} in {first} or a file after it."
                )
    return common


def _state_of(paths: Sequence[str]) -> str:
    """Hash what tells whether files have changed.

    `datasets` keeps what it has read under the path of a file and the time of its last change, which may be
    the same for another content: `cp -p` sets it.
    """
    stats = [os.stat(path) for path in paths]
    states = [(one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats]
    return hashlib.blake2b(repr(states).encode(), digest_size=8).hexdigest()


def _damaged(paths: Sequence[str], error: Exception) -> DataError:
    """Find the damaged file by reading each of them to its end."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for path in paths:
        try:
            with ParquetFile(path) as file:
                for _ in file.iter_batches():
                    pass
        except (pyarrow.ArrowException, OSError, ValueError) as found:
            return DataError(f"data.source: cannot read {path}: it is damaged ({first_line(found)}).")
    return DataError(f"data.source: cannot read {listing(paths, 3)}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of the innermost error, because `datasets` wraps the useful message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]
