"""The choice of the run folder: existing files are never overwritten."""

import json

import pytest

from hf_ft.errors import RecipeError
from hf_ft.recipe.read import load_recipe
from hf_ft.report.run_folder import choose_folder, environment, write_json


def recipe(folder, name="exp", **train):
    content = {"task": "points:Points", "name": name, "output_dir": str(folder / "exp")}
    return load_recipe({**content, "data": {"source": "x.csv"}, "model": {"name": "m"}, "train": train})


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


def test_environment_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["commit_of_working_folder"] is None and found["packages"]["torch"]


def test_values_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1, True, "t", None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1, True, "t", None]}
