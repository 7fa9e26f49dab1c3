"""Whole runs on texts: several labels with tuned thresholds, and a number from a pair."""

import itertools
import json

import pandas
import pytest
import tiny

from hf_ft import Predictor, finetune
from hf_ft.data.prepare import prepare
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task

COLOURS, WAYS = ["red", "green", "blue"], ["left", "right"]


def rows():
    """Texts of different lengths that name a colour, a direction, both or neither."""
    found = []
    for number, (colour, way, more) in enumerate(
        itertools.product([*COLOURS, ""], [*WAYS, ""], ["a", "the sign", "go"])
    ):
        text = f"{more} {colour} {way} road {'slow ' * (number % 4)}"
        found.append(
            {"text": text, "pair": f"{way} light", "labels": [name for name in (colour, way) if name]}
        )
    return [{**row, "score": len(row["text"]) / 7} for row in found]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.saved(tiny.bert(), tmp_path_factory.mktemp("bert"), tiny.tokenizer())


def recipe(bert, folder, task, **sections):
    return {
        "task": {"name": "text-classification", **task},
        "name": "texts",
        "output_dir": str(folder / "run"),
        "data": {"source": "in memory", "split": {"validation": 9, "test": 9}, **sections.pop("data", {})},
        "model": {"name": bert},
        "train": {"num_train_epochs": 6, "learning_rate": 3e-3, "global_batch_size": 6, "disable_tqdm": True},
        **sections,
    }


def test_several_labels_from_rows_to_predictions(bert, tmp_path):
    data = [{"text": row["text"], "labels": row["labels"]} for row in rows()]
    run = finetune(recipe(bert, tmp_path, {"thresholds": "tuned"}), data=data)
    assert all(item["passed"] for item in run.verification)
    state = json.loads((run.folder / "model/task.json").read_text())["state"]
    assert state["labels"] == ["blue", "green", "left", "red", "right"] == run.task.labels()
    assert state["problem"] == "multi-label" and state["thresholds"] == run.task.target.thresholds
    assert len(set(state["thresholds"])) < 6 and state["thresholds"] != [0.5] * 5
    notes = json.loads((run.folder / "data.json").read_text())["notes"]
    assert any("the training labels are lists" in note for note in notes)
    splits = run.results["splits"]
    assert run.results["headline"]["metric"] == "macro_f1" and run.results["headline"]["split"] == "test"
    assert any("chosen on 9 validation rows" in note for note in splits["validation"]["metrics"]["notes"])
    assert not any("chosen on" in note for note in splits["test"]["metrics"]["notes"])
    table = pandas.read_parquet(run.folder / "predictions.parquet")
    texts = {f"train/{number}": row["text"] for number, row in enumerate(data)}
    again = Predictor.load(run.folder)([texts[name] for name in table["id"]])
    assert [one["labels"] for one in again] == [list(labels) for labels in table["labels"]]


@pytest.mark.slow
def test_a_number_from_a_pair(bert, tmp_path):
    data = [{"text": row["text"], "pair": row["pair"], "score": row["score"]} for row in rows()]
    run = finetune(recipe(bert, tmp_path, {"max_length": 12}, evaluate={"metric": "spearman"}), data=data)
    assert all(item["passed"] for item in run.verification)
    assert run.results["headline"]["metric"] == "spearman" and run.results["headline"]["value"] > 0.3
    found = run.predictor()([("a red left road slow", "left light")])[0]
    assert 0 < found["value"] < 10


def test_amounts_are_neither_stratified_nor_counted_as_classes(bert, tmp_path):
    data = [{"text": row["text"], "score": row["score"]} for row in rows()]
    resolved = load_recipe(recipe(bert, tmp_path, {}))
    task = new_task(resolved)
    ready = prepare(resolved, task, data=data, cache=tmp_path / "cache")
    assert task.target.problem == "regression" and ready.info["labels"] is None
    assert "classes" not in ready.info["splits"]["train"] and not ready.findings.classes
    assert ready.info["sizes"] == {"train": 18, "validation": 9, "test": 9}
