import pytest

from hf_ft.data.sources import read_source
from hf_ft.errors import DataError
from hf_ft.recipe.schema import DataSection


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")
    return str(root)


def read(root):
    return read_source(DataSection(source=str(root)))


def test_class_folders(tmp_path):
    make(tmp_path, "sign 10/b.PNG", "sign 10/a2.png", "sign 10/a10.png", "sign 2/x.jpg")
    rows = read(tmp_path)["train"]
    assert rows["label"][:] == ["sign 2", "sign 10", "sign 10", "sign 10"]
    assert rows["row_id"][:] == ["sign 2/x.jpg", "sign 10/a2.png", "sign 10/a10.png", "sign 10/b.PNG"]
    assert rows[0]["image"] == {"bytes": None, "path": str(tmp_path / "sign 2" / "x.jpg")}


@pytest.mark.parametrize("word", ["validation", "val", "valid", "dev"])
def test_split_folders(tmp_path, word):
    make(
        tmp_path,
        "train/a/1.png",
        "train/b/1.png",
        f"{word}/a/1.png",
        f"{word}/b/1.png",
        "Test/a/1.png",
        "Test/b/1.png",
    )
    found = read(tmp_path)
    assert sorted(found) == ["test", "train", "validation"]
    assert found["validation"]["row_id"][:] == [f"{word}/a/1.png", f"{word}/b/1.png"]


def test_hidden_and_system_files_are_no_classes(tmp_path):
    """autotrain#220: `.ipynb_checkpoints` became a class."""
    make(
        tmp_path,
        "a/1.png",
        "b/1.png",
        ".ipynb_checkpoints/1.png",
        "a/.DS_Store",
        "a/Thumbs.db",
        "__MACOSX/x.png",
    )
    rows = read(tmp_path)["train"]
    assert rows["label"][:] == ["a", "b"]


def test_flat_split_folders_are_refused(tmp_path):
    """ds#7880: train/x.png and test/y.png became the classes `train` and `test`."""
    make(tmp_path, "train/x.png", "test/y.png")
    with pytest.raises(DataError, match=r"without a class \(.*\.png\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.png", "test/1.png"], "named like splits"),
        (["train/a/1.png", "train/val/1.png"], "class folder .*val is named like a split"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "test lacks b"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "two folders for the split validation"),
        (["a/1.png", "b/deep/1.png"], "holds folders .deep."),
        (["a/1.png", "b/notes.txt"], "neither images nor videos.*notes.txt"),
        (["a/1.png", "b/1.wav"], "mixes kinds"),
        (["a/1.png", "loose.png"], "outside any class folder .loose.png."),
    ],
)
def test_unclear_folders_are_refused(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_empty_class_is_reported(tmp_path):
    make(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"class folder .*b is empty"):
        read(tmp_path)


def test_rows_of_folders_mapped_to_splits_have_unique_ids(tmp_path):
    make(tmp_path, "one/a/1.png", "one/b/1.png", "two/a/1.png", "two/b/1.png")
    found = read_source(DataSection(source={"train": str(tmp_path / "one"), "test": str(tmp_path / "two")}))
    assert found["train"]["row_id"][:] == ["train/a/1.png", "train/b/1.png"]
    assert found["test"]["row_id"][:] == ["test/a/1.png", "test/b/1.png"]
