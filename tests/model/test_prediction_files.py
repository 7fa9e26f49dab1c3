"""Predictions to files: copied columns, bad rows, and atomic writing."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
import tiny
import torch
from PIL import Image

from hf_ft.data.labels import LabelMap
from hf_ft.errors import DataError, RecipeError
from hf_ft.model.prediction_files import check_output, predict_to_file, write_records
from hf_ft.model.predictor import Predictor
from hf_ft.tasks.image_classification import ImageClassification
from hf_ft.tasks.text_classification import TextClassification

CPU = torch.device("cpu")
LABELS = {"labels": LabelMap.fit(tiny.LABELS, ["a", "b", "c"]).to_json()}


@pytest.fixture
def texts():
    task = TextClassification()
    task.processor = tiny.tokenizer()
    task.restore({"problem": "single-label", "columns": {"text": "text"}, "max_length": 32, **LABELS})
    return Predictor(tiny.bert(), task, CPU)


@pytest.fixture
def pictures():
    task = ImageClassification()
    task.restore(LABELS)
    task.processor = tiny.image_processor()
    return Predictor(tiny.resnet(), task, CPU)


@pytest.fixture
def table(tmp_path):
    """Write four rows with columns that the model does not use; the third row has no text."""
    rows = pandas.DataFrame(
        {
            "nr": ["n1", "n2", "n3", "n4"],
            "text": ["one", "two two", "", "three"],
            "label": ["stop", "yield", "stop", "stop"],
            "weight": [1, 2, 3, 4],
        }
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def saved_picture(path):
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def read(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    frame = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    rows = frame.to_dict("records")
    scores = [json.loads(row["scores"]) if path.suffix == ".csv" else row["scores"] for row in rows]
    return [{**row, "scores": score} for row, score in zip(rows, scores, strict=True)]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_every_format_holds_the_same_rows(ending, texts, table, tmp_path):
    path = tmp_path / "out" / f"answers{ending}"
    written = predict_to_file(texts, [table], path, on_bad="skip", id_column="nr")
    assert (written.path, written.rows) == (path, 3)
    rows = read(path)
    assert [row["id"] for row in rows] == ["n1", "n2", "n4"]
    assert [row["weight"] for row in rows] == [1, 2, 4]
    assert [row["input_label"] for row in rows] == ["stop", "yield", "stop"]
    expected = texts(["one", "two two", "three"])
    for row, answer in zip(rows, expected, strict=True):
        assert row["label"] == answer["label"]
        assert row["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_the_id_column_of_the_run_is_used_if_the_file_has_it(texts, table, tmp_path):
    texts.id_column = "nr"
    frame = pandas.read_csv(table, keep_default_na=False)
    without = frame.drop(columns="nr")
    for inputs, ids in (([table], ["n1", "n2", "n4"]), (frame, ["n1", "n2", "n4"]), (without, [0, 1, 3])):
        predict_to_file(texts, inputs, tmp_path / "answers.csv", on_bad="skip")
        rows = read(tmp_path / "answers.csv")
        assert [row["id"] for row in rows] == ids and [row["weight"] for row in rows] == [1, 2, 4]
    predict_to_file(texts, ["one", "two"], tmp_path / "answers.csv")
    assert [row["id"] for row in read(tmp_path / "answers.csv")] == [0, 1]


def test_bad_rows_stop_before_anything_is_written(texts, table, tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)1 of 4 inputs .*rows\.csv, row 3: the text is empty\n.*--on-bad skip"
    ) as caught:
        predict_to_file(texts, [table], tmp_path / "answers.csv")
    assert "nothing was written" in str(caught.value) and not (tmp_path / "answers.csv").exists()
    written = predict_to_file(texts, [table], tmp_path / "answers.csv", on_bad="skip")
    assert [(bad.place, bad.reason) for bad in written.bad] == [(f"{table}, row 3", "the text is empty")]


def test_all_pictures_that_cannot_be_opened_are_named(pictures, tmp_path):
    """Files after the first bad one are checked too, so that all of them can be corrected at once."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        saved_picture(folder / f"{number}.png")
    for number in (1, 5):
        (folder / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"(?s)2 of 6 inputs.*1\.png: cannot open.*5\.png: cannot open"):
        predict_to_file(pictures, [folder], tmp_path / "answers.csv", batch_size=2)
    assert not (tmp_path / "answers.csv").exists()
    written = predict_to_file(pictures, [folder], tmp_path / "answers.csv", on_bad="skip", batch_size=2)
    assert written.rows == 4 and len(written.bad) == 2
    found = {row["id"]: row["label"] for row in read(tmp_path / "answers.csv")}
    good = [str(folder / f"{number}.png") for number in (0, 2, 3, 4)]
    assert found == {row["id"]: row["label"] for row in pictures(good)}


def test_if_every_input_is_bad_nothing_is_written(pictures, tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"no input can be used: .*a\.png: cannot open"):
        predict_to_file(pictures, [tmp_path / "a.png"], tmp_path / "answers.csv", on_bad="skip")


def test_pictures_are_not_copied_and_files_and_tables_can_be_mixed(pictures, tmp_path):
    saved_picture(tmp_path / "a.png")
    content = {"bytes": saved_picture(tmp_path / "b.png").read_bytes(), "path": None}
    rows = pandas.DataFrame({"id": [7], "image": [content], "station": ["west"], "tags": [["x", "y"]]})
    rows.to_parquet(tmp_path / "rows.parquet")
    predict_to_file(pictures, [tmp_path / "a.png", tmp_path / "rows.parquet"], tmp_path / "answers.jsonl")
    first, second = read(tmp_path / "answers.jsonl")
    assert set(first) == {"id", "label", "score", "scores"} and first["id"] == str(tmp_path / "a.png")
    assert (second["id"], second["station"], second["tags"]) == ("7", "west", ["x", "y"])
    assert "image" not in second and "input_image" not in second


def test_the_best_classes_and_a_threshold(texts):
    whole = texts("one")[0]
    best = sorted(whole["scores"].items(), key=lambda item: -item[1])
    found = texts("one", top_k=2)[0]
    assert found["top"] == [{"label": name, "score": score} for name, score in best[:2]]
    assert "scores" not in found
    assert texts("one", threshold=best[0][1])[0]["label"] == best[0][0]
    assert texts("one", threshold=0.99)[0]["label"] is None


def test_a_threshold_replaces_the_calibrated_thresholds(texts):
    settled = {"problem": "multi-label", "columns": {"text": "text"}, "max_length": 32}
    texts.task.restore({**settled, **LABELS, "thresholds": [0.99] * 3})
    assert texts("one")[0]["labels"] == []
    every = texts("one", threshold=0.0)[0]
    assert sorted(every["labels"]) == sorted(tiny.LABELS)
    assert every["labels"] == sorted(every["scores"], key=lambda name: -every["scores"][name])


def test_top_k_is_refused_without_classes(texts, tmp_path):
    settled = {"problem": "regression", "columns": {"text": "text"}, "max_length": 32}
    texts.task.restore({**settled, "target_scaler": {"names": ["score"], "mean": [0.0], "std": [1.0]}})
    with pytest.raises(RecipeError, match="--top-k: this model gives no scores"):
        predict_to_file(texts, ["one"], tmp_path / "answers.csv", top_k=2)


def test_files_that_cannot_be_written_are_refused_before_anything_is_read(texts, table, tmp_path):
    with pytest.raises(RecipeError, match=r"ends in \.csv, \.parquet, \.jsonl; did you mean '\.parquet'"):
        predict_to_file(texts, [table], tmp_path / "answers.parqet")
    with pytest.raises(RecipeError, match="is one of the inputs"):
        check_output(table, [tmp_path / "." / "rows.csv"])
    with pytest.raises(DataError, match=r"no column 'nrs'; did you mean 'nr'"):
        predict_to_file(texts, [table], tmp_path / "answers.csv", id_column="nrs")
    with pytest.raises(DataError, match="is a folder"):
        predict_to_file(texts, [str(tmp_path)], tmp_path / "answers.csv")
    # The name of a file was classified as a text.
    (tmp_path / "recipe.yaml").write_text("a: b")
    with pytest.raises(DataError, match=r"recipe\.yaml: is a file of an unknown kind; expected \.csv"):
        predict_to_file(texts, [str(tmp_path / "recipe.yaml")], tmp_path / "answers.csv")
    for name in ("nothere.txt", "nothere.csv"):
        with pytest.raises(DataError, match=rf"{name}: there is no such file"):
            predict_to_file(texts, ["a text", name], tmp_path / "answers.csv")


def test_a_text_of_the_command_line_is_copied_beside_its_answer(texts, tmp_path):
    written = predict_to_file(texts, ["one word", "two words."], tmp_path / "answers.csv")
    assert pandas.read_csv(written.path)["text"].tolist() == ["one word", "two words."]


def test_a_missing_column_is_reported_once(texts, tmp_path):
    (tmp_path / "rows.csv").write_text("nr,body\n1,a\n2,b\n")
    with pytest.raises(DataError, match=r"^\S*rows\.csv: no column text; found nr, body$"):
        predict_to_file(texts, [tmp_path / "rows.csv"], tmp_path / "answers.csv")


def test_values_of_several_types_are_an_error_that_names_the_column(tmp_path):
    with pytest.raises(DataError, match=r"column 'n': .* several types"):
        write_records([{"n": 1}, {"n": "x"}], tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
    write_records([{"n": 1, "x": float("nan")}, {"n": "x"}], tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl") == [{"n": 1, "x": None}, {"n": "x"}]
