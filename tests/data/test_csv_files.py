"""Files that programs read in different ways; tests/fuzz found most of them."""

import pytest

from hf_ft.data.csv_files import read_csv_files
from hf_ft.errors import DataError


def read(tmp_path, *texts):
    paths = [tmp_path / f"part{number}.csv" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return read_csv_files([str(path) for path in paths])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # A line break that is not in quotes made two rows of one, each with cells that were missing.
        ("text,label\na,x\nb\nc,y\n", "part0.csv, line 3: found 1 cell, expected 2 columns"),
        ("text,label\na,x\nb", "line 3: found 1 cell"),
        ('text,label\n"a\nb",x\nc\n', "line 4: found 1 cell"),
        # pandas gave the second `a` another name where the header has two lines.
        ('"two\nlines",a,a\n1,2,3\n', "several columns named a"),
        ("a\0,b\n1,2\n", "NUL"),
    ],
)
def test_rows_that_would_be_lost_or_invented(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_rows_of_one_blank_cell_are_rows(tmp_path):
    """pandas left out the lines of blanks of a table with one column."""
    assert list(read(tmp_path, "text\na\n \nb\n")["text"]) == ["a", " ", "b"]
    assert list(read(tmp_path, "\n\ntext,label\n  \na,x\n\n")["text"]) == ["a"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("x;y\ta b\n1\t2\n", ["x;y", "a b"]),
        ('"a;b;c",d\n1,2\n', ["a;b;c", "d"]),
        ('"two\nlines";b\n1;2\n', ["two\nlines", "b"]),
        ("a,b;c;d\n1,x;2;3\n", ["a,b", "c", "d"]),
        (",b\n0,2\n", ["Unnamed: 0", "b"]),
        ("a\n1\n", ["a"]),
    ],
)
def test_the_delimiter_is_the_one_that_fits_all_rows(tmp_path, text, names):
    frame = read(tmp_path, text)
    assert list(frame) == names and len(frame) == 1


def test_files_of_one_split_have_the_same_columns(tmp_path):
    """The cells of a column that one file lacks were read as missing."""
    assert read(tmp_path, "a,b\n1,x\n", "b,a\ny,2\n").to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}
    with pytest.raises(DataError, match=r"part1\.csv lacks b and also has c, unlike .*part0\.csv"):
        read(tmp_path, "a,b\n1,x\n", "a,c\n2,y\n")
