"""Tables in CSV, JSON and Parquet: what is accepted has the rows and values that an independent reader finds.

The independent readers are Python's csv and json, and pyarrow. A table is written, its bytes are changed, and
both read it. A case whose bytes were not changed must be accepted.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import datetime
import decimal
import gzip
import io
import json
import math
import random
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from fuzzing import drawn, mutated
from hypothesis import strategies as st

from hf_ft.data.files import format_of
from hf_ft.data.sources import read_source, rows_in_memory
from hf_ft.recipe.schema import DataSection

Rows = list[dict[str, Any]]
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
WORDS = ("red", "größer", "no", "NA", "007", "1_000", "停", "a;b", "it's", 'so "called"', "two\nlines", "a,b")
WORDS += (
    "",
    " ",
    "-",
    "=1+1",
    "1e999",
    "+5",
    "0x10",
    "é" * 40,
    "tab\there",
    "x.png",
    "[1, 2]",
    "['a']",
    "a\\n",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Read every Parquet file anew, and leave nothing in the cache of `datasets`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def read(source: Any) -> list[dict[str, Any]]:
    """Read rows as hf_ft does."""
    return read_source(DataSection(source=source))["train"].to_list()


# Valid tables


def some_cell(rng: random.Random, kind: str) -> Any:
    """Return one value of a column."""
    if kind == "text":
        return rng.choice(WORDS) if rng.random() < 0.7 else "".join(rng.choices(string.printable, k=8))
    if kind == "number":
        return rng.choice([0, -1, 7, 10**15, 2**53 + 1, rng.randrange(1000)])
    if kind == "decimal":
        return rng.choice([0.5, -2e-300, 1e300, 3.25, rng.gauss(0, 1)])
    if kind == "flag":
        return rng.random() < 0.5
    if kind == "date":
        return f"2016-0{rng.randint(1, 9)}-{rng.randint(10, 28)}"
    return [rng.choice("ab") for _ in range(rng.randrange(3))]


def some_columns(rng: random.Random) -> tuple[list[str], list[str]]:
    """Return names and kinds of columns."""
    names = rng.sample(
        ["text", "label", "id", "größe", "a b", "x;y", 'q"', "two\nlines", "n", "1"], rng.randint(1, 5)
    )
    return names, [rng.choice(("text", "number", "decimal", "flag", "date", "list")) for _ in names]


def csv_bytes(rng: random.Random, names: list[str], kinds: list[str], rows: int) -> bytes:
    """Write a table as a CSV file that every program reads alike."""
    file = io.StringIO()
    ends = rng.choice(["\n", "\r\n"])
    writer = csv.writer(file, delimiter=rng.choice(",;\t"), lineterminator=ends, quoting=rng.choice([0, 1]))
    writer.writerow(names)
    for _ in range(rows):
        writer.writerow([some_cell(rng, kind) for kind in kinds])
    return file.getvalue().encode(rng.choice(["utf-8", "utf-8-sig"]))


def json_records(rng: random.Random, names: list[str], kinds: list[str], rows: int) -> Rows:
    """Return the records of a JSON file; some lack a key, some values are null."""
    records = [
        {name: some_cell(rng, kind) for name, kind in zip(names, kinds, strict=True)} for _ in range(rows)
    ]
    for record in records:
        if rng.random() < 0.1:
            record.pop(rng.choice(names))
        elif rng.random() < 0.1:
            record[rng.choice(names)] = None
    return records


def json_bytes(rng: random.Random, names: list[str], kinds: list[str], rows: int, lines: bool) -> bytes:
    """Write records as JSON lines, or as a JSON list."""
    records, ascii_only = json_records(rng, names, kinds, rows), rng.random() < 0.5
    texts = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    text = "\n".join(texts) if lines else f"[{', '.join(texts)}]"
    return text.encode(rng.choice(["utf-8", "utf-8-sig"]))


def arrow_table(rng: random.Random, names: list[str], kinds: list[str], rows: int) -> pyarrow.Table:
    """Return a table with more types than CSV and JSON know."""
    columns = {
        name: pyarrow.array([some_cell(rng, kind) if rng.random() < 0.95 else None for _ in range(rows)])
        for name, kind in zip(names, kinds, strict=True)
    }
    more: dict[str, Callable[[], pyarrow.Array]] = {
        "moment": lambda: pyarrow.array([datetime.datetime(2016, 1, 1 + n % 28) for n in range(rows)]),
        "cents": lambda: pyarrow.array([decimal.Decimal("1.50")] * rows, pyarrow.decimal128(10, 2)),
        "bytes": lambda: pyarrow.array([bytes([n % 256]) for n in range(rows)], pyarrow.binary()),
        "inner": lambda: pyarrow.array([{"a": n, "b": {"c": "x"}} for n in range(rows)]),
        "coded": lambda: pyarrow.array(["ab"[n % 2] for n in range(rows)]).dictionary_encode(),
        "nothing": lambda: pyarrow.nulls(rows),
        "large": lambda: pyarrow.array(["x"] * rows, pyarrow.large_string()),
        "unsigned": lambda: pyarrow.array([2**64 - 1] * rows, pyarrow.uint64()),
        "half": lambda: pyarrow.array([0.5] * rows, pyarrow.float16()),
        "time": lambda: pyarrow.array([datetime.time(1, 2)] * rows),
        "fixed": lambda: pyarrow.array([[1, n] for n in range(rows)], pyarrow.list_(pyarrow.int64(), 2)),
        "views": lambda: pyarrow.array(["x"] * rows, pyarrow.string_view()),
        "span": lambda: pyarrow.array([datetime.timedelta(seconds=n) for n in range(rows)]),
    }
    for name in rng.sample(sorted(more), rng.randrange(3)):
        columns[name] = more[name]()
    return pyarrow.table(columns)


def parquet_bytes(rng: random.Random, names: list[str], kinds: list[str], rows: int) -> bytes:
    file = io.BytesIO()
    table = arrow_table(rng, names, kinds, rows)
    pyarrow.parquet.write_table(
        table,
        file,
        row_group_size=rng.choice([1, 3, 1000]),
        compression=rng.choice(["snappy", "gzip", "none", "zstd"]),
        use_dictionary=rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.5,
    )
    return file.getvalue()


def some_bytes(rng: random.Random, suffix: str) -> bytes:
    """Write a valid table in the format of a suffix."""
    names, kinds = some_columns(rng)
    rows = rng.choice([1, 2, 3, 10, 30])
    if suffix in (".csv", ".tsv"):
        return csv_bytes(rng, names, kinds, rows)
    if suffix == ".parquet":
        return parquet_bytes(rng, names, kinds, rows)
    return json_bytes(rng, names, kinds, rows, lines=suffix != ".json")


# Mutations


def insert(rng: random.Random, data: bytes, part: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + part + data[place:]


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 10])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def recoded(rng: random.Random, data: bytes) -> bytes:
    """Write the text in another encoding, or leave other bytes as they are."""
    with contextlib.suppress(UnicodeError):
        return data.decode("utf-8-sig").encode(
            rng.choice(["utf-16", "latin-1", "cp1252", "utf-32", "shift-jis", "utf-16-le"])
        )
    return data


def swapped_lines(rng: random.Random, data: bytes) -> bytes:
    """Leave out, double or move a line."""
    lines = data.split(b"\n")
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def spliced(rng: random.Random, data: bytes) -> bytes:
    """Repeat or leave out a piece."""
    start, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:]


def doubled_name(rng: random.Random, data: bytes) -> bytes:
    """Give a column or key the name of another."""
    names = [b"text", b"label", b"id", b"n"]
    return data.replace(rng.choice(names), rng.choice(names))


PIECES = (
    b'"',
    b"'",
    b"\0",
    b"\r",
    b"\r\n",
    b"\n",
    b"\n\n",
    b",",
    b";",
    b"\t",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\x1a",
)
PIECES += (
    b"\xed\xa0\x80",
    b"\\",
    b" ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"NaN",
    b"1e400",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
)
PIECES += (
    b"9" * 40,
    b'"\\ud800"',
    b"[" * 3000,
    b'{"a":' * 3000,
    b"x" * 140_000,
    b"9" * 5000,
    b'","',
    b"\x0c",
)
MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip,
    lambda rng, data: data[: rng.randrange(len(data) + 1)],
    lambda rng, data: insert(rng, data, rng.choice(PIECES)),
    lambda rng, data: insert(rng, data, rng.choice(PIECES[:12])),
    lambda rng, data: rng.choice(PIECES) + data,
    lambda rng, data: data + rng.choice(PIECES),
    recoded,
    swapped_lines,
    spliced,
    doubled_name,
    lambda rng, data: data.replace(b"\n", b"\r"),
    lambda rng, data: data.replace(b"\n", b"\r\n", rng.randrange(4)),
    lambda rng, data: data + data,
    lambda rng, data: gzip.compress(data if rng.random() < 0.5 else b""),
    lambda rng, data: b"",
)


# Independent readers


def csv_readings(data: bytes) -> list[tuple[list[str], list[list[str]]]]:
    """Read a CSV file with each delimiter, by Python's csv module; blank lines are no rows."""
    text, found = data.decode("utf-8-sig"), []
    csv.field_size_limit(10**9)
    for delimiter in ",;\t":
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header, *rows = [cells for cells in lines if cells]
        blank = [cells for cells in rows if len(header) > 1 and len(cells) == 1 and not cells[0].strip()]
        found.append((header, [cells for cells in rows if cells not in blank]))
    return found


def arrow_csv(data: bytes, delimiter: str, header: list[str]) -> list[list[str]] | None:
    """Read a CSV file by pyarrow, which is written in another language; None if pyarrow refuses it."""
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pyarrow.string()), strings_can_be_null=False
            ),
        )
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError):
        return None
    columns = [column.to_pylist() for column in table.columns]
    return [list(cells) for cells in zip(*columns, strict=True)]


def json_rows(data: bytes) -> Rows:
    """Read a JSON list of objects, or one object for each line; a lone carriage return ends a line, too."""
    text = data.decode("utf-8-sig")
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, list) else [found]
    return [json.loads(line) for line in re.split("\r\n|\r|\n", text) if line.strip()]


def same_cell(cell: str, value: Any) -> bool:
    """Tell whether a value is what a CSV cell says."""
    if isinstance(value, str):
        return value == cell or (format_of(cell) is None and "." in cell and value.endswith(cell))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return cell.strip() in MISSING
    if isinstance(value, list):
        with contextlib.suppress(ValueError):
            return same(json.loads(cell), value)
        return same(ast.literal_eval(cell.strip()), value)
    return type(value)(cell) == value


def same(one: Any, two: Any) -> bool:
    """Compare values; a key that a struct lacks is None."""
    if isinstance(one, dict) and isinstance(two, dict):
        return all(same(one.get(key), two.get(key)) for key in one.keys() | two.keys())
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, dict) and two is None:
        return not any(value is not None for value in one.values())
    if isinstance(one, str) and isinstance(two, str):
        return one == two or two.endswith(f"/{one}")
    return one == two or (one != one and two != two)


def wrong_csv(data: bytes, found: Rows) -> str | None:
    """Compare rows with those of the csv module, and with pyarrow's."""
    names, readings = list(found[0]), csv_readings(data)
    for delimiter, (header, rows) in zip(",;\t", readings, strict=True):
        named = [name or f"Unnamed: {position}" for position, name in enumerate(header)]
        if named == names and all(len(cells) == len(header) for cells in rows):
            arrow = arrow_csv(data, delimiter, header)
            return wrong_cells(rows, found, "csv") or (arrow and wrong_cells(arrow, found, "pyarrow"))
    return f"found the columns {names}, and the csv module {[one[0][:9] for one in readings]}"


def wrong_cells(rows: list[list[str]], found: Rows, reader: str) -> str | None:
    if len(rows) != len(found):
        return f"found {len(found)} rows, and {reader} {len(rows)}"
    pairs = enumerate(zip(rows, found, strict=True))
    different = (pair for pair in pairs if not all(map(same_cell, pair[1][0], pair[1][1].values())))
    return next(
        (f"row {number} is {row}, and {reader} finds {cells}" for number, (cells, row) in different), None
    )


def wrong_csv_parts(parts: list[bytes], found: Rows) -> str | None:
    """Compare with the rows of each part: all parts must have the columns of the first, in any order."""
    rows: list[list[str]] = []
    for part in parts:
        readings = [one for one in csv_readings(part) if sorted(one[0]) == sorted(found[0])]
        if not readings:
            return f"a part without the columns {list(found[0])} was accepted"
        header, cells = readings[0]
        rows += [[row[header.index(name)] for name in found[0]] for row in cells]
    return wrong_cells(rows, found, "csv")


def wrong_records(expected: Rows, found: Rows) -> str | None:
    if len(expected) != len(found):
        return f"found {len(found)} rows, and the other reader {len(expected)}"
    pairs = zip(expected, found, strict=True)
    return next(
        (f"found {two}, and the other reader {one}" for one, two in pairs if not same(one, two)), None
    )


def arrow_rows(data: bytes) -> Rows:
    return pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()


def wrong(suffix: str, data: bytes) -> Callable[[Rows], str | None]:
    """Return what compares rows with those of the independent reader of this format."""
    if suffix in (".csv", ".tsv"):
        return lambda found: wrong_csv(data, found)
    rows_of = arrow_rows if suffix == ".parquet" else json_rows
    return lambda found: wrong_records(rows_of(data), found)


# Tests

SUFFIXES = (".csv", ".csv", ".csv", ".tsv", ".jsonl", ".jsonl", ".json", ".parquet", ".parquet")


@pytest.mark.parametrize("cases", [40, pytest.param(700, marks=pytest.mark.slow)])
def test_one_file(cases, seed, tally, tmp_path):
    def try_case(rng: random.Random) -> None:
        suffix = rng.choice(SUFFIXES)
        data, changes = some_bytes(rng, suffix), rng.choice([0, 1, 1, 1, 2, 3])
        for _ in range(changes):
            data = rng.choice(MUTATIONS)(rng, data)
        if changes and rng.random() < 0.05:
            suffix = rng.choice(SUFFIXES)
        path = tmp_path / f"rows{rng.getrandbits(40)}{suffix}"
        path.write_bytes(data)
        try:
            tally.tried(lambda: read(str(path)), (path.name,), wrong(suffix, data), may_refuse=changes > 0)
        except BaseException as error:
            error.add_note(f"{changes} changes, {suffix}: {data[:400]!r}")
            raise
        finally:
            path.unlink()

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("cases", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_several_files(cases, seed, tally, tmp_path):
    """Files of one split: they fit together, or the message names a file that does not."""

    def try_case(rng: random.Random) -> None:
        suffix, folder = rng.choice(SUFFIXES), tmp_path / f"folder{rng.getrandbits(40)}"
        folder.mkdir()
        parts = [some_bytes(rng, suffix) for _ in range(rng.randint(2, 3))]
        if rng.random() < 0.4:
            parts = [parts[0]] * len(parts)  # equal columns
        if rng.random() < 0.3:
            parts[-1] = rng.choice(MUTATIONS)(rng, parts[-1])
        for number, part in enumerate(parts):
            (folder / f"part{number}{suffix}").write_bytes(part)

        def wrong_parts(found: Rows) -> str | None:
            if suffix in (".csv", ".tsv"):
                return wrong_csv_parts(parts, found)
            rows_of = arrow_rows if suffix == ".parquet" else json_rows
            return wrong_records([row for part in parts for row in rows_of(part)], found)

        try:
            tally.tried(lambda: read(str(folder)), ("part", folder.name), wrong_parts)
        except BaseException as error:
            error.add_note(f"{suffix}: {[part[:200] for part in parts]}")
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.sampled_from(
        [2**63, 2**64, -(2**63) - 1, 2**53 + 1, 10**400, "\ud800", "\0", "x.png", "http://x.png"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=4)
CELLS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(WORDS)
    | st.from_regex(r"\A[-+]?[0-9.]{0,20}([eE][-+]?[0-9]{1,3})?\Z")
)
TABLES = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5)
)


@pytest.mark.parametrize("cases", [20, pytest.param(250, marks=pytest.mark.slow)])
def test_drawn_records(cases, seed, tally, tmp_path):
    """Records of any types: those of a JSON file, and rows in memory."""

    @drawn(cases, seed, RECORDS)
    def try_records(records: Rows) -> None:
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(records))

        def wrong_rows(found: Rows) -> str | None:
            return wrong_records(records, found)

        tally.tried(lambda: read(str(path)), (path.name,), wrong_rows)
        tally.tried(lambda: rows_in_memory(records)["train"].to_list(), ("data=",), wrong_rows)

    try_records()


@pytest.mark.parametrize("cases", [20, pytest.param(250, marks=pytest.mark.slow)])
def test_drawn_cells(cases, seed, tally, tmp_path):
    """Cells of any text, written by Python's csv module: every row is read, with its text or its numbers."""

    @drawn(
        cases,
        seed,
        TABLES,
    )
    def try_cells(rows: list[list[str]]) -> None:
        path: Path = tmp_path / "rows.csv"
        header = [f"column {number}" for number in range(len(rows[0]))]
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])
        tally.tried(lambda: read(str(path)), (path.name,), wrong(".csv", path.read_bytes()), may_refuse=False)

    try_cells()
