"""Small tables of time series, made in code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
from datasets import Dataset

from hf_ft.data.table import Table


def frame(
    rows: int = 200, *, start: str = "2016-01-04", step: str = "1h", **columns: Any
) -> pandas.DataFrame:
    """Return a daily wave with a trend, at regular steps, and further columns as given."""
    times = pandas.date_range(start, periods=rows, freq=step)
    wave = 10 + 3 * np.sin(2 * np.pi * np.arange(rows) / 24) + 0.01 * np.arange(rows)
    return pandas.DataFrame({"timestamp": times.strftime("%Y-%m-%d %H:%M:%S"), "target": wave, **columns})


def table(data: pandas.DataFrame, name: str = "train", **columns: str | list[str]) -> Table:
    """Return a table whose rows have the ids name/0, name/1, ..."""
    roles: dict[str, str | list[str]] = {"timestamp": "timestamp", "target": "target", **columns}
    ids = [f"{name}/{row}" for row in range(len(data))]
    return Table(Dataset.from_pandas(data, preserve_index=False), roles, ids)


def split_tables(data: pandas.DataFrame, *cuts: int, **columns: str | list[str]) -> dict[str, Table]:
    """Cut one table into train, validation and test at these rows."""
    whole = table(data, **columns)
    edges = [0, *cuts, len(data)]
    names = ("train", "validation", "test")
    return {names[part]: whole.select(range(edges[part], edges[part + 1])) for part in range(len(edges) - 1)}
