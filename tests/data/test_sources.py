import json
import sys

import pandas
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from datasets.utils import are_progress_bars_disabled

from hf_ft.data.columns import map_columns
from hf_ft.data.sources import as_datasets, read_source, rows_in_memory
from hf_ft.errors import DataError
from hf_ft.recipe.schema import IN_MEMORY, DataSection
from hf_ft.task import Role


def read(source, **keys):
    return read_source(DataSection(source=source, **keys))


def test_classes_are_names_whatever_their_ids(tmp_path):
    """ds PR#2457, tf#28589: two splits may use one id for two classes."""
    sources = {}
    for split, names in {"train": ["cat", "dog"], "test": ["dog", "cat"]}.items():
        features = Features({"label": ClassLabel(names=names), "tags": List(ClassLabel(names=names))})
        rows = {"label": [0, 1, -1], "tags": [[0], [1, 0], []]}
        sources[split] = str(tmp_path / f"{split}.parquet")
        Dataset.from_dict(rows, features=features).to_parquet(sources[split])
    found = read(sources)
    assert found["train"]["label"][:] == ["cat", "dog", None]
    assert found["test"]["label"][:] == ["dog", "cat", None]
    assert found["train"]["tags"][:] == [["cat"], ["dog", "cat"], []]
    assert found["test"].features["label"] == Value("string")


def test_classes_inside_structures_are_names(tmp_path):
    boxes = {"category": List(ClassLabel(names=["car", "bus"])), "area": List(Value("int64"))}
    rows = {"objects": [{"category": [1, 0], "area": [5, 6]}]}
    Dataset.from_dict(rows, features=Features({"objects": boxes})).to_parquet(tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"))["train"][0]["objects"] == {
        "category": ["bus", "car"],
        "area": [5, 6],
    }


def test_media_are_not_decoded_even_if_damaged(tmp_path):
    """ds#6470: an image that cannot be decoded must not raise while rows are read."""
    rows = {
        "image": [{"bytes": b"no image", "path": "x.png"}],
        "frames": [[{"bytes": b"nor here", "path": None}]],
    }
    features = Features({"image": Image(), "frames": List(Image())})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    row = read(str(tmp_path / "a.parquet"))["train"][0]
    assert row["image"] == {"bytes": b"no image", "path": "x.png"}
    assert row["frames"] == [{"bytes": b"nor here", "path": None}]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-0.csv", "train-1.csv", "val.csv"], {"train": 4, "validation": 2}),
        (["a.csv", "b.csv"], {"train": 4}),
        (["train/a.csv", "dev/a.csv", "test/a.csv"], {"train": 2, "validation": 2, "test": 2}),
    ],
)
def test_files_of_a_folder_and_of_a_glob_go_to_splits_by_their_names(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text,label\na,x\nb,y\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "train.csv").write_text("other\n1\n")
    assert {split: len(rows) for split, rows in read(str(tmp_path)).items()} == expected
    assert {split: len(rows) for split, rows in read(f"{tmp_path}/**/*.csv").items()} == expected


def test_files_of_unclear_split_are_refused(tmp_path):
    for name in ("train.csv", "more.csv"):
        (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(DataError, match=r"not clear which split .*more\.csv"):
        read(str(tmp_path))
    (tmp_path / "more.csv").rename(tmp_path / "train_test.csv")
    with pytest.raises(DataError, match="several splits"):
        read(str(tmp_path))


def test_folder_with_configurations_in_its_readme(tmp_path):
    for name in ("small", "large"):
        (tmp_path / f"{name}.csv").write_text("text\n" + "a\n" * len(name))
    header = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.csv\n"
        for name in ("small", "large")
    )
    (tmp_path / "README.md").write_text(f"{header}---\n# Two\n")
    assert len(read(str(tmp_path), config="small")["train"]) == 5
    with pytest.raises(DataError, match=r"(?s)data\.config None.*small"):
        read(str(tmp_path))


def test_a_damaged_file_of_a_folder_with_configurations(tmp_path, monkeypatch):
    """`datasets` raises its DatasetGenerationError, whose text says nothing."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    configs = "configs:\n- config_name: default\n  data_files: rows.csv\n"
    (tmp_path / "set" / "README.md").write_text(f"---\n{configs}---\n")
    (tmp_path / "set" / "rows.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"cannot read .*set' with data\.config None: .*Expected 2 fields"):
        read(str(tmp_path / "set"))


def test_python_source(tmp_path, monkeypatch):
    (tmp_path / "own_rows.py").write_text(
        "def rows():\n    return {'train': [{'text': 'a'}, {'text': 'b', 'n': 1}], 'test': [{'text': 'c'}]}\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = read("py:own_rows:rows")
    assert found["train"][:] == {"text": ["a", "b"], "n": [None, 1]} and len(found["test"]) == 1
    with pytest.raises(DataError, match="found int; expected a Dataset"):
        read("py:own_rows:wrong")
    with pytest.raises(DataError, match="no function 'row'; did you mean 'rows'"):
        read("py:own_rows:row")
    with pytest.raises(DataError, match="cannot import 'not_there_at_all'"):
        read("py:not_there_at_all:rows")
    sys.modules.pop("own_rows")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sys.exit(0)", r"raised SystemExit \(0\)"),
        ("{}['x']", r"raised KeyError \('x'\)"),
        ("x: =", "raised SyntaxError"),
        ("raise OSError('gone')", r"raised OSError \(gone\)"),
        ("return [{'a': 1}, {'a': 'x'}]", "column 'a' mixes types"),
        ("return {'train': []}", "gives no rows in train"),
        ("return {'train': {'one': [{'a': 1}]}}", "found the splits one; expected rows"),
    ],
)
def test_python_source_that_fails(tmp_path, monkeypatch, line, message):
    """`sys.exit(0)` ended a run without a result, and told the shell that it had succeeded."""
    (tmp_path / "own_rows.py").write_text(f"import sys\n\ndef rows():\n    {line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=message):
        read("py:own_rows:rows")
    sys.modules.pop("own_rows", None)


def test_a_source_that_the_system_cannot_open(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no file can have the name 'aaa"):
        read("a" * 300)

    def denied(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "closed"))

    monkeypatch.setattr("hf_ft.data.sources._read_folder", denied)
    with pytest.raises(DataError, match=r"cannot read .*Permission denied: .*closed"):
        read(str(tmp_path))


def test_rows_in_memory():
    frame = pandas.DataFrame({"text": ["a", "b"]}, index=[7, 8])
    assert as_datasets(frame, "data")["train"][:] == {"text": ["a", "b"]}
    assert list(as_datasets({"train": frame, "val": [{"text": "c"}]}, "data")) == ["train", "val"]


def test_rows_in_memory_have_the_same_form_as_those_of_files():
    features = Features({"label": ClassLabel(names=["cat", "dog"]), "text": Value("string")})
    given = Dataset.from_dict({"label": [1, 0], "text": ["a", "b"]}, features=features)
    assert rows_in_memory({"train": given})["train"]["label"][:] == ["dog", "cat"]
    with pytest.raises(DataError, match="data=: there are no rows in train"):
        rows_in_memory([])
    with pytest.raises(DataError, match=r"rows from Python \(data=\.\.\.\)"):
        read(IN_MEMORY)


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path):
    (tmp_path / "signs.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"no file or folder .*did you mean 'signs\.csv'"):
        read(str(tmp_path / "sings.csv"))
    with pytest.raises(DataError, match="no file matches"):
        read(str(tmp_path / "*.parquet"))
    with pytest.raises(DataError, match=r"data\.config"):
        read(str(tmp_path), config="x")
    (tmp_path / "signs.csv").unlink()
    with pytest.raises(DataError, match="is empty"):
        read(str(tmp_path))


def test_hub_failure_says_where_it_looked_and_scripts_say_what_to_do(monkeypatch):
    """ds#7693: data sets made by a script no longer load."""
    import datasets

    monkeypatch.setattr("hf_ft.data.sources.why_not_on_hub", lambda *args: None)

    def refuse(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found old.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"data\.revision: refs/convert/parquet"):
        read("someone/old")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("offline"))
    )
    with pytest.raises(DataError, match=r"'someone/old' is not a file or folder.*offline"):
        read("someone/old")


def test_hub_source_passes_configuration_and_revision(monkeypatch):
    import datasets

    monkeypatch.setattr("hf_ft.data.sources.why_not_on_hub", lambda *args: None)
    asked = {}

    def load(source, name, revision):
        asked.update(source=source, name=name, revision=revision)
        return {"train": Dataset.from_dict({"text": ["a"]})}

    monkeypatch.setattr(datasets, "load_dataset", load)
    read("someone/set", config="small", revision="abc")
    assert asked == {"source": "someone/set", "name": "small", "revision": "abc"}


def test_progress_bars_stay_as_they_were(tmp_path):
    before = are_progress_bars_disabled()
    (tmp_path / "a.csv").write_text("a\n1\n")
    read(str(tmp_path / "a.csv"))
    assert are_progress_bars_disabled() == before


def test_mapping_picks_the_named_split_and_refuses_to_guess(tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n")
    assert read({"train": str(tmp_path), "test": str(tmp_path)})["test"]["text"][:] == ["test.csv"]
    with pytest.raises(DataError, match=r"data\.source\.validation: .* holds the splits"):
        read({"train": str(tmp_path), "validation": str(tmp_path)})


def test_no_rows_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": 1}) + "\n")
    (tmp_path / "b.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="gives no rows in test"):
        read({"train": str(tmp_path / "a.jsonl"), "test": str(tmp_path / "b.csv")})


# Columns

ROLES = {
    "image": Role("the picture", usual=("img", "photo")),
    "label": Role("its class", target=True),
    "weight": Role("its weight", required=False),
    "values": Role("numbers", required=False, several=True),
}


def test_columns_by_recipe_then_role_then_usual_names():
    assert map_columns(["img", "label", "x"], ROLES, {}) == {"image": "img", "label": "label"}
    assert map_columns(["image", "img", "label"], ROLES, {})["image"] == "image"
    given = {"image": "x", "values": ["a", "b"]}
    assert map_columns(["image", "x", "label", "a", "b"], ROLES, given) == {
        "image": "x",
        "label": "label",
        "values": ["a", "b"],
    }


def test_missing_columns_are_all_listed_with_what_was_found():
    """tf#22119: a column that is not there must not end in a KeyError deep inside."""
    with pytest.raises(DataError) as caught:
        map_columns(["imge", "y"], ROLES, {"label": "lable", "picture": "y", "weight": ["y"]}, "test")
    text = str(caught.value)
    assert "set data.columns.image: imge" in text
    assert "data.columns.label: there is no column 'lable'" in text
    assert "data.columns.picture: the task has no such role" in text
    assert "data.columns.weight: expected one column, found the list" in text
    assert text.endswith("found columns: imge, y") and text.startswith("test: ")


@pytest.mark.parametrize(
    ("source", "config", "rows"),
    [
        ("gtsrb", None, {"train": 4300, "validation": 860, "test": 1000}),
        ("gtsrb", "imbalanced", {"train": 3048, "validation": 860, "test": 1000}),
        ("sst2", None, {"train": 6920, "validation": 872}),
        ("traffic_pems", None, {"train": 7776, "test": 4320}),
        ("beijing_pm25", None, None),
        ("gtsrb_video", None, {"train": 82, "validation": 21}),
    ],
)
@pytest.mark.real
def test_real_folders(real_data, source, config, rows):
    found = read(str(real_data / source), config=config)
    if rows is not None:
        assert {split: len(part) for split, part in found.items()} == rows
    assert len(next(iter(found.values()))[0]) > 1


def test_a_table_inside_a_class_folder_is_ambiguous(tmp_path):
    """Otherwise a forgotten list of files would silently replace all pictures."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    (tmp_path / "cat" / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"tables beside pictures .*list\.csv"):
        read_source(DataSection(source=str(tmp_path)))
