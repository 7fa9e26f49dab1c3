"""The cache of the package `datasets`: its copies of Parquet files and of data sets of the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hf_ft.causes import explain, full_disk
from hf_ft.errors import DataError


@contextlib.contextmanager
def cache_named() -> Iterator[None]:
    """Name the cache in the error of a full disk: the file that is read has nothing to do with it.

    Raises:
        DataError: the disk of the cache is full.
    """
    try:
        yield
    except Exception as error:
        full = full_disk(error)
        if full is None:
            raise
        import datasets.config

        named = OSError(full.errno, full.strerror, str(datasets.config.HF_DATASETS_CACHE))
        raise DataError(
            f"data.source cannot be copied: {explain(named)} HF_DATASETS_CACHE may also name another folder"
        ) from error
