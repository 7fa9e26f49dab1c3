"""The choice of the run folder: existing files are never overwritten."""

import json

import pytest

from hf_ft.errors import RecipeError
from hf_ft.recipe.read import load_recipe
from hf_ft.report.run_folder import choose_folder, environment, write_json


def recipe(folder, name="exp", evaluate=None, **train):
    content = {"task": "points:Points", "name": name, "output_dir": str(folder / "exp")}
    content |= {"data": {"source": "x.csv"}, "model": {"name": "m"}, "evaluate": evaluate or {}}
    return load_recipe({**content, "train": train})


def begin(folder, given, *, finished=False):
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(given.to_yaml())
    if finished:
        (folder / "verify.json").write_text("[]")


def test_a_finished_run_is_kept(tmp_path):
    begin(tmp_path / "exp", recipe(tmp_path), finished=True)
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp-2"
    begin(tmp_path / "exp-2", recipe(tmp_path), finished=True)
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp-3"


def test_folders_of_other_recipes_are_not_touched(tmp_path):
    for name in ("exp-16b", "exp-old"):
        (tmp_path / name).mkdir()
    begin(tmp_path / "exp-16", recipe(tmp_path, name="other"))
    chosen = choose_folder(recipe(tmp_path), "auto")
    assert chosen.path == tmp_path / "exp" and chosen.checkpoint is None


def test_a_folder_with_other_things_is_not_touched(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "thesis.txt").write_text("precious")
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp-2"


def test_only_the_same_recipe_restarts_a_run_without_checkpoint(tmp_path):
    begin(tmp_path / "exp", recipe(tmp_path))
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp"
    assert choose_folder(recipe(tmp_path, learning_rate=0.1), "auto").path == tmp_path / "exp-2"
    assert choose_folder(recipe(tmp_path), "never").path == tmp_path / "exp-2"


def test_broken_checkpoints_are_named(tmp_path):
    """tf#35782."""
    begin(tmp_path / "exp", recipe(tmp_path))
    (tmp_path / "exp" / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    notes = choose_folder(recipe(tmp_path), "auto").notes
    assert "passed over checkpoint-5: it was never completed" in notes
    with pytest.raises(RecipeError, match="passed over checkpoint-5"):
        choose_folder(recipe(tmp_path), "must")


@pytest.mark.parametrize("resume", ["no", "nevr", "", "Auto"])
def test_another_word_than_auto_never_and_must_resumes_nothing(tmp_path, resume):
    begin(tmp_path / "exp", recipe(tmp_path))
    with pytest.raises(RecipeError, match="resume: expected auto or never or must, found"):
        choose_folder(recipe(tmp_path), resume)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"evaluate": {"metric": "macro_f1"}}, "evaluate.metric"),
        ({"evaluate": {"extra": ["mape"]}}, "evaluate.extra"),
        ({"learning_rate": 0.1}, "train.learning_rate"),
        ({"evaluate": {"resamples": 200, "must_beat": "baseline", "linear_probe": False}}, None),
        ({"threads": 1}, None),
    ],
)
def test_a_checkpoint_is_resumed_by_its_own_recipe(tmp_path, monkeypatch, changes, key):
    """The best value so far is one of the metric of the checkpoint, so the metric may not change."""
    checkpoint = tmp_path / "exp" / "checkpoints" / "checkpoint-5"
    begin(tmp_path / "exp", recipe(tmp_path))
    begin(checkpoint, recipe(tmp_path))
    monkeypatch.setattr("hf_ft.train.checkpoints.newest", lambda root: (checkpoint, []))
    now = recipe(tmp_path, **changes)
    if key is None:
        assert choose_folder(now, "auto").checkpoint == checkpoint
    else:
        with pytest.raises(RecipeError, match=rf"{key}.*: .* then, .* now[\s\S]*--resume never"):
            choose_folder(now, "auto")


def test_environment_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["commit_of_working_folder"] is None and found["packages"]["torch"]


def test_values_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1, True, "t", None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1, True, "t", None]}
