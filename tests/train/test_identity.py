"""A checkpoint is resumed with the rows, weights and processor it was written with, or not at all."""

import json
import os
from pathlib import Path

import points
import pytest
import tiny
from transformers import TrainerCallback

from hf_ft import TrainError, finetune, load_recipe
from hf_ft.data.prepare import prepare
from hf_ft.model.load import processor_hash
from hf_ft.task import Loaded
from hf_ft.train.checkpoints import _size_and_hash
from hf_ft.train.identity import identity_of


class Stopped(TrainerCallback):
    """Stops a run after its first checkpoint, as Ctrl-C does."""

    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    # The gate's fresh process must be able to import the task.
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent), prepend=os.pathsep)
    return {
        "task": "points:Points",
        "name": "p",
        "output_dir": str(tmp_path / "run"),
        "data": {"split": {"validation": 20}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "train": {"num_train_epochs": 2, "global_batch_size": 8, "disable_tqdm": True},
    }


def stopped(recipe, data):
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, data=data, callbacks=[Stopped()], verbose=False)


def flipped(data):
    """Change the label of one row: the points, which a digest could be made of, are the same."""
    other = next(row["label"] for row in data if row["label"] != data[0]["label"])
    return [data[0] | {"label": other}, *data[1:]]


@pytest.mark.parametrize(
    "change",
    [flipped, lambda data: data[::-1], lambda data: [*data, dict(data[0], point=[0.5, 0.25])]],
    ids=["a label", "the order", "a row more"],
)
def test_a_run_is_not_resumed_with_other_rows(recipe, change):
    """Coin-flip labels, resumed with the rows in another order: 0.86 accuracy on test, where 0.5 is true."""
    stopped(recipe, points.rows())
    with pytest.raises(
        TrainError, match=r"checkpoint-\d+ was written with other[\s\S]*rows of train[\s\S]*never"
    ):
        finetune(recipe, data=change(points.rows()), verbose=False)
    assert finetune(recipe, data=points.rows(), resume="must", verbose=False).folder.name == "run"


def test_a_run_is_not_resumed_with_another_base_model(recipe, tmp_path):
    """The base of an adapter was edited: it was said only after training, by the gate."""
    recipe["freeze"] = {"strategy": "lora", "r": 2}
    stopped(recipe, points.rows())
    log = (tmp_path / "run/log.jsonl").read_text()
    path = tmp_path / "pretrained/config.json"
    config = path.read_text()
    path.write_text(json.dumps(json.loads(config) | {"dropout": 0.5}))
    with pytest.raises(TrainError, match=r"model configuration: \w+ then, \w+ now"):
        finetune(recipe, data=points.rows(), verbose=False)
    path.write_text(config)
    points.saved(tmp_path / "pretrained", seed=1)
    with pytest.raises(TrainError, match=r"starting weights: \w+ then, \w+ now"):
        finetune(recipe, data=points.rows(), verbose=False)
    assert (tmp_path / "run/log.jsonl").read_text() == log


@pytest.mark.parametrize("damage", ["processor", "hf_ft", None], ids=str)
def test_a_run_is_not_resumed_with_another_processor_or_version_or_an_unknown_one(recipe, tmp_path, damage):
    stopped(recipe, points.rows())
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("checkpoint-*")
    path = checkpoint / "identity.json"
    text = json.dumps(json.loads(path.read_text()) | {damage: "another"}) if damage else "{"
    path.write_text(text)
    marker = json.loads((checkpoint / "complete.json").read_text())
    (checkpoint / "complete.json").write_text(json.dumps(marker | {"identity.json": _size_and_hash(path)}))
    with pytest.raises(
        TrainError, match=rf"{damage}: another then" if damage else "identity.json is missing"
    ):
        finetune(recipe, data=points.rows(), verbose=False)


def test_processors_of_other_settings_have_other_hashes():
    """The processor of a timm model saves no file."""
    from transformers import TimmWrapperImageProcessor

    settings = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    settings |= {"interpolation": "bicubic", "num_classes": 2}
    one, same, other = (
        processor_hash(TimmWrapperImageProcessor(settings | {"mean": mean}, "resnet18"))
        for mean in ([0.5] * 3, [0.5] * 3, [0.25] * 3)
    )
    assert one == same != other != processor_hash(None)
    assert processor_hash(tiny.image_processor()) == processor_hash(tiny.image_processor())


def test_rows_that_are_left_out_belong_to_the_identity(tmp_path):
    """A later version may compare rows in another way; the fingerprints of the rows would not show it."""
    section = {"source": "in memory", "split": {"validation": 20}, "duplicates": "drop_from_train"}
    recipe = load_recipe({"task": "points:Points", "data": section, "model": {"name": "none"}})
    data = {"train": points.rows(), "test": [*points.rows(90)[75:], points.rows()[3]]}
    task = points.Points()
    prepared = prepare(recipe, task, data=data, cache=tmp_path)
    before = identity_of(task, prepared, Loaded(None, [], {}))
    assert before["duplicates left out of train"] and before["rows of train"].startswith("54 rows, ")
    prepared.findings.left_out["train"]["train/4"] = "test/0"
    assert identity_of(task, prepared, Loaded(None, [], {})) != before
