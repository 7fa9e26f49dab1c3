"""Parquet files that are damaged, changed or do not fit together; tests/fuzz found most of them."""

import os

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features

from hf_ft.data.parquet_files import read_parquet_files
from hf_ft.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def test_rows_are_read_anew_if_only_the_content_of_a_file_has_changed(tmp_path):
    """The cache of `datasets` knows a file by its path and mtime, which `cp -p` and `rsync -t` set."""
    path = write(tmp_path / "rows.parquet", n=[1, 2, 3])
    before = os.stat(path)
    assert read_parquet_files([path])["n"][:] == [1, 2, 3]
    write(path, n=[7, 8, 9])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_parquet_files([path])["n"][:] == [7, 8, 9]


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    """`datasets` read a1.parquet in place of a[1].parquet."""
    write(tmp_path / "a1.parquet", n=[7])
    assert read_parquet_files([write(tmp_path / "a[1].parquet", n=[1])])["n"][:] == [1]


def test_damage_names_the_file(tmp_path):
    good = write(tmp_path / "good.parquet", text=["a" * 50] * 40)
    data = bytearray((tmp_path / "good.parquet").read_bytes())
    for name, damaged in {
        "short": data[:-20],
        "empty": b"",
        "front": b"x" + data[:-1],
        "page": data[:6] + b"\xff" * 12 + data[18:],
    }.items():
        (tmp_path / f"{name}.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=rf"cannot read .*{name}\.parquet: it is .*damaged"):
            read_parquet_files([good, str(tmp_path / f"{name}.parquet")])


def test_files_without_rows_or_with_doubled_columns(tmp_path):
    with pytest.raises(DataError, match=r"none\.parquet: there are no rows"):
        read_parquet_files([write(tmp_path / "none.parquet", n=pyarrow.array([], pyarrow.int64()))])
    table = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["n", "n"])
    pyarrow.parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice\.parquet has several columns named n"):
        read_parquet_files([str(tmp_path / "twice.parquet")])
    kind = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    with pytest.raises(DataError, match=r"columns of .*map\.parquet: Arrow type map"):
        read_parquet_files([write(tmp_path / "map.parquet", pairs=pyarrow.array([[("a", 1)]], kind))])


def test_files_of_one_split_fit_together(tmp_path):
    """`datasets` cast all to the types of the first file: text `007` became the number 7."""
    numbers = write(tmp_path / "a.parquet", n=[1], more=pyarrow.nulls(1))
    text = write(tmp_path / "b.parquet", n=["007"], more=["x"])
    with pytest.raises(DataError, match=r"'n' is Value\('string'\) in .*b\.parquet and Value\('int64'\)"):
        read_parquet_files([numbers, text])
    with pytest.raises(DataError, match=r"c\.parquet lacks more, unlike .*a\.parquet"):
        read_parquet_files([numbers, write(tmp_path / "c.parquet", n=[1])])
    filled = write(tmp_path / "d.parquet", more=["x"], n=[2])
    assert read_parquet_files([numbers, filled])[:] == {"n": [1, 2], "more": [None, "x"]}


def test_files_number_their_classes_alike(tmp_path):
    """Classes were named by the first file, whatever the others called them."""
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    for path, names in zip(paths, (["cat", "dog"], ["dog", "cat"]), strict=True):
        features = Features({"label": ClassLabel(names=names)})
        Dataset.from_dict({"label": [0, 1]}, features=features).to_parquet(path)
    with pytest.raises(DataError, match="'label' is ClassLabel"):
        read_parquet_files(paths)
