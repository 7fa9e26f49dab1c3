import http.server
import json
import re
import threading

import numpy as np
import pandas
import pytest

from hf_ft.data.files import download, from_frame, from_records, line_breaks, read_files
from hf_ft.errors import DataError


def csv(tmp_path, text, name="rows.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_files([str(tmp_path / name)])


@pytest.mark.parametrize(
    "word", ["no", "NA", "None", "null", "True", "2016-01-04", "007", "1_000", "0x10", "+5", "1e", ""]
)
def test_text_is_not_turned_into_another_type(tmp_path, word):
    """LF#4014: labels named no, NA or 007 were read as False, missing or 7."""
    assert csv(tmp_path, f"label\n{word or chr(34) * 2}\nother\n")["label"][:] == [word, "other"]


def test_leading_zeros_keep_a_whole_column_text(tmp_path):
    assert csv(tmp_path, "id,n\n01,1\n10,2\n")[:] == {"id": ["01", "10"], "n": [1, 2]}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1", "-2"], [1, -2]),
        (["1", "", "3"], [1, None, 3]),
        (["1.5", "NA", "-2e3", ".5"], [1.5, None, -2000.0, 0.5]),
        (["NA", "NaN"], ["NA", "NaN"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
    ],
)
def test_numbers(tmp_path, column, expected):
    lines = "\n".join(f"{value},x" for value in column)
    found = csv(tmp_path, f"n,pad\n{lines}\n")["n"][:]
    assert [None if value != value else value for value in found] == expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (['["a", "b"]', "", "[]"], [["a", "b"], None, []]),
        (["['a', \"b's\"]", "['c']"], [["a", "b's"], ["c"]]),
        (["[1, 2.5]", "[-3]"], [[1.0, 2.5], [-3.0]]),
        (["[NAME]", "[a]"], ["[NAME]", "[a]"]),
        (['["a"]', "b"], ['["a"]', "b"]),
        (['["a"]', "[1]"], ['["a"]', "[1]"]),
        (["", " "], ["", " "]),
    ],
)
def test_lists_in_cells(tmp_path, cells, expected):
    lines = "\n".join('"' + cell.replace('"', '""') + '",x' for cell in cells)
    assert csv(tmp_path, f"tags,pad\n{lines}\n")["tags"][:] == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_quotes_and_byte_order_mark(tmp_path, delimiter):
    text = f'\ufefftext{delimiter}label\n"a{delimiter} ""b""\nc"{delimiter}x\n'
    assert csv(tmp_path, text, "rows.tsv")[:] == {"text": [f'a{delimiter} "b"\nc'], "label": ["x"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,a\n1,2\n", "several columns named a"),
        ("a,b\n1,2,3\n", "expected 2 columns"),
        ("a,b\n1,2\n1,2,3,4\n", "expected 2 columns"),
        # Two stray quotes: everything between them became one cell.
        ('a,b\n1,x\n2,"y\n3,z\n4,"w\n5,v\n', "line 3: a quote is not closed, or text follows it .*line 5"),
        ('a,b\n1,x\n2,"y\n3,z\n', "line 3: a quote is not closed"),
    ],
)
def test_broken_csv(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        csv(tmp_path, text)


def test_quotes_in_and_around_cells_lose_no_row(tmp_path):
    text = 'a,b\n1,5\'2" tall\n2,"two\nlines, ""quoted"""\n\n3,""\n'
    rows = csv(tmp_path, text)
    assert rows["b"][:] == ["5'2\" tall", 'two\nlines, "quoted"', ""] and line_breaks(rows) == 1
    assert csv(tmp_path, 'a\n""\nx\n\n"y"\n')["a"][:] == ["", "x", "y"]
    assert csv(tmp_path, "a,b\n" + "x" * 200_000 + ",1\n").num_rows == 1


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("name\nmüde\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_files([str(tmp_path / "a.csv")])


def test_json_lines_keep_text_and_fill_what_is_missing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"day": "2016-01-04", "n": 1}\n\n{"day": "no", "more": [1, 2]}\n')
    assert read_files([str(tmp_path / "a.jsonl")])[:] == {
        "day": ["2016-01-04", "no"],
        "n": [1, None],
        "more": [None, [1, 2]],
    }
    (tmp_path / "a.json").write_text(json.dumps([{"a": "x"}, {"a": "y"}]))
    assert read_files([str(tmp_path / "a.json")])["a"][:] == ["x", "y"]


def test_broken_json_names_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2"):
        read_files([str(tmp_path / "a.jsonl")])
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: an object has several values for a"):
        read_files([str(tmp_path / "a.jsonl")])
    (tmp_path / "a.json").write_text('[{"a": 1, "a": 3}]')
    with pytest.raises(DataError, match=r"a\.json: an object has several values for a"):
        read_files([str(tmp_path / "a.json")])
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n3\n')
    with pytest.raises(DataError, match="record 2 is int"):
        read_files([str(tmp_path / "a.jsonl")])


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (1, "x", r"a number (1 in record 1), text ('x' in record 2)"),
        ("x", float("nan"), r"a number (nan in record 2); where a value is missing, write None"),
        (True, 0, r"true or false (True in record 1), a number (0 in record 2)"),
        (["x"], "x", r"a list (['x'] in record 1), text ('x' in record 2)"),
        (b"x", "x", r"bytes (b'x' in record 1), text ('x' in record 2)"),
    ],
)
def test_a_column_that_mixes_types_is_named_with_a_row_of_each(one, other, said):
    """The message was pyarrow's, such as: Expected bytes, got a 'float' object."""
    with pytest.raises(DataError, match=re.escape(said)):
        from_records([{"a": one}, {"a": other}, {"a": None}], "rows")
    # In a DataFrame, NaN is a missing value, and pyarrow takes text beside bytes for bytes.
    if other == other and one != b"x":
        with pytest.raises(DataError, match=re.escape(said)):
            from_frame(pandas.DataFrame({"b": [1, 2], "a": pandas.Series([one, other], dtype=object)}))


@pytest.mark.parametrize("value", [2**70, "\ud800", 1j])
def test_values_that_no_table_can_hold_are_an_error(value):
    with pytest.raises(DataError, match=r"rows: column 'a' mixes types or cannot be stored"):
        from_records([{"a": value}], "rows")
    with pytest.raises(DataError, match=r"data\.source: column 'a' mixes types or cannot be stored"):
        from_frame(pandas.DataFrame({"a": pandas.Series([value], dtype=object)}))


def test_numbers_of_python_and_numpy_may_be_in_one_column():
    rows = from_records([{"a": 1, "b": [1.0]}, {"a": np.float32(0.5), "b": np.ones(2)}], "rows")
    assert rows["a"][:] == [1.0, 0.5] and rows["b"][:] == [[1.0], [1.0, 1.0]]


def test_media_paths_are_resolved_against_the_folder_of_the_table(tmp_path):
    rows = csv(tmp_path, "file,text\nimages/a.png,see a.png there\n/abs/b.jpg,x\n")
    assert rows["file"][:] == [str(tmp_path / "images/a.png"), "/abs/b.jpg"]
    assert rows["text"][:] == ["see a.png there", "x"]


def test_files_of_a_split_must_have_one_format_and_fitting_columns(tmp_path):
    for name in ("a.csv", "b.parquet"):
        (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(DataError, match="several formats"):
        read_files([str(tmp_path / "a.csv"), str(tmp_path / "b.parquet")])
    with pytest.raises(DataError, match=r"cannot read .*b\.parquet"):
        read_files([str(tmp_path / "b.parquet")])
    with pytest.raises(DataError, match="there is no file"):
        read_files([str(tmp_path / "c.csv")])
    with pytest.raises(DataError, match=r"expected \.csv"):
        read_files([str(tmp_path / "c.xlsx")])


def test_download(tmp_path, monkeypatch):
    # The tests run offline; this server runs on the same machine.
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "rows.csv").write_text("a\nno\n")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):
            assert read_files([download(f"{address}/rows.csv?download=1")])["a"][:] == ["no"]
        with pytest.raises(DataError, match=r"cannot fetch .*nothing\.csv"):
            download(f"{address}/nothing.csv")
        server.shutdown()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "x"], "column 'a'"),
        ([True, 1], "column 'a'"),
        ([{"b": {}}, {"b": 1}], "column 'a'"),
        ({"b": None, "c": False, "\0": 1}, "column 'a' holds an object with NUL in a name"),
        ([[{"b": {"\0c": 1}}]], "column .a. .*NUL in a name"),
        (2**63, "column 'a' .*more than 64 bits"),
        ([2**64], "column 'a' .*more than 64 bits"),
        ("\ud800", "column 'a' .*surrogates not allowed"),
    ],
)
def test_values_that_arrow_cannot_store_name_the_column(tmp_path, value, message):
    """Arrow ends a name at NUL, and loses the value; the other cases were errors of pyarrow."""
    records = [{"id": 1, "a": value}, {"id": 2}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=rf"a\.json.*{message}"):
        read_files([str(tmp_path / "a.json")])
    with pytest.raises(DataError, match=f"rows: {message}"):
        from_records(records, "rows")


def test_frames_that_arrow_cannot_store_name_the_column():
    with pytest.raises(DataError, match="data=: column 'a' mixes types"):
        from_frame(pandas.DataFrame({"b": [1, 2], "a": [1, "x"]}), "data=")
    with pytest.raises(DataError, match="data=: several columns are named a"):
        from_frame(pandas.DataFrame([[1, 2]], columns=["a", "a"]), "data=")
    with pytest.raises(DataError, match="NUL"):
        from_frame(pandas.DataFrame({"a\0": [1]}), "data=")
    assert from_frame(pandas.DataFrame([[1, 2]])).column_names == ["0", "1"]


def test_json_that_is_nested_too_deep(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"cannot read .*a\.json: values are nested too deep"):
        read_files([str(tmp_path / "a.json")])
