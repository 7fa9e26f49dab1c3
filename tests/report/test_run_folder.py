"""The choice of the run folder: existing files are never overwritten."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from accelerate import PartialState

from hf_ft.errors import RecipeError, TrainError
from hf_ft.recipe.read import load_recipe
from hf_ft.report.run_folder import choose_folder, environment, locked, open_folder, write_json
from hf_ft.train import checkpoints
from hf_ft.verification.items import Item, Judgement, write_record
from hf_ft.verification.seal import write_seal


def recipe(folder, name="exp", evaluate=None, **train):
    content = {"task": "points:Points", "name": name, "output_dir": str(folder / "exp")}
    content |= {"data": {"source": "x.csv"}, "model": {"name": "m"}, "evaluate": evaluate or {}}
    return load_recipe({**content, "train": train})


def begin(folder, given, *, finished=False):
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(given.to_yaml())
    if finished:
        write_seal(folder)


def test_a_finished_run_is_kept(tmp_path):
    begin(tmp_path / "exp", recipe(tmp_path), finished=True)
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp-2"
    begin(tmp_path / "exp-2", recipe(tmp_path), finished=True)
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp-3"


def test_a_run_that_ended_before_its_report_is_not_finished(tmp_path):
    """Killed between gate and report, a run counted as finished, got no report, and was trained again."""
    folder = tmp_path / "exp"
    begin(folder, recipe(tmp_path))
    write_record(folder, Judgement([Item("reload", True, "")], {}))
    assert choose_folder(recipe(tmp_path), "auto").path == folder
    # What the gate has refused is judged again, without training.
    write_record(folder, Judgement([Item("reload", False, "")], {}))
    assert choose_folder(recipe(tmp_path), "auto").path == folder


def test_the_seal_holds_the_files_of_the_result(tmp_path):
    begin(tmp_path / "exp", recipe(tmp_path))
    kept = ("recipe.yaml", "results.json", "model/config.json", "figures/a.png", "model/.hidden")
    for name in (*kept, "log.jsonl", "timing.json", "checkpoints/checkpoint-1/x", ".owner.json", "card/a"):
        path = tmp_path / "exp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    write_seal(tmp_path / "exp")
    sealed = json.loads((tmp_path / "exp" / "seal.json").read_text())["files"]
    assert sealed.keys() == set(kept)
    assert sealed["results.json"] == hashlib.sha256(b"results.json").hexdigest()


def test_what_comes_before_the_recipe_begins_no_run(tmp_path):
    """A disk that was full at recipe.yaml left decisions.json: the same command went to another folder."""
    (tmp_path / "exp" / "checkpoints").mkdir(parents=True)
    for name in (".lock", ".owner.json", "decisions.json", "error.log"):
        (tmp_path / "exp" / name).write_text("{}")
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp"


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


def test_a_run_whose_best_checkpoint_is_lost_is_not_resumed(tmp_path):
    """Only the newest was looked at: a run shipped a damaged best model, or the last one in its place."""
    begin(tmp_path / "exp", recipe(tmp_path))
    root = tmp_path / "exp" / "checkpoints"
    for step in (5, 10):
        writing = root / ".writing"
        begin(writing, recipe(tmp_path))
        (writing / "trainer_state.json").write_text(json.dumps({"best_global_step": 5}))
        (writing / "model.safetensors").write_bytes(b"weights")
        checkpoints.complete(writing, root / f"checkpoint-{step}")
    assert choose_folder(recipe(tmp_path), "auto").checkpoint == root / "checkpoint-10"
    (root / "checkpoint-5" / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(TrainError, match=r"checkpoint-5: model.safetensors has changed.*--resume never"):
        choose_folder(recipe(tmp_path), "auto")
    shutil.rmtree(root / "checkpoint-5")
    with pytest.raises(TrainError, match=r"checkpoint-5: it is missing"):
        choose_folder(recipe(tmp_path), "auto")
    (root / "checkpoint-10" / "complete.json").write_text("{")
    notes = choose_folder(recipe(tmp_path), "auto").notes
    assert any("complete.json is damaged" in note for note in notes)


def test_two_runs_do_not_share_a_folder(tmp_path):
    """Two runs mixed their curves in one folder, and one resumed from the live checkpoint of the other."""
    given, processes = recipe(tmp_path), PartialState(cpu=True)
    with open_folder(given, "auto", processes) as first:
        assert first.path == tmp_path / "exp"
        with (
            pytest.raises(RecipeError, match=rf"exp: another run .*process {os.getpid()} on .*output_dir"),
            open_folder(given, "auto", processes),
        ):
            pass
        begun = (tmp_path / "exp" / "recipe.yaml").write_text(given.to_yaml())
        assert begun and choose_folder(given, "never").path == tmp_path / "exp-2"
    with open_folder(given, "auto", processes) as again:
        assert again.path == tmp_path / "exp"


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hf_ft.report.run_folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "held\n"
    with pytest.raises(RecipeError, match=f"process {run.pid}"), locked(tmp_path):
        pass
    run.kill()
    run.wait()
    with locked(tmp_path):
        pass


def test_what_a_killed_run_was_writing_is_deleted_or_put_back(tmp_path):
    """Each kill at a bad moment left a copy of the model behind; that of a checkpoint was even lost."""
    begin(tmp_path / "exp", recipe(tmp_path))
    root = tmp_path / "exp" / "checkpoints"
    begin(root / ".writing", recipe(tmp_path))
    checkpoints.complete(root / ".writing", root / ".checkpoint-7.old-77")
    for name in ("model", ".model.old-77", ".model.new-77", "checkpoints/.writing-checkpoint-9"):
        (tmp_path / "exp" / name).mkdir()
        (tmp_path / "exp" / name / "model.safetensors").write_bytes(b"weights")
    for name in (".results.json.77", "model/.x.json.7", ".keep", ".v1.x"):
        (tmp_path / "exp" / name).write_text("{")
    with open_folder(recipe(tmp_path), "auto", PartialState(cpu=True)) as chosen:
        assert chosen.path == tmp_path / "exp" and chosen.checkpoint == root / "checkpoint-7"
        left = {str(path.relative_to(chosen.path)) for path in chosen.path.rglob("*") if path.is_file()}
        assert left >= {"model/model.safetensors", ".keep", ".v1.x", "checkpoints/checkpoint-7/complete.json"}
        assert {name for name in left if "/." in f"/{name}"} == {".lock", ".owner.json", ".keep", ".v1.x"}


def test_a_run_killed_before_its_recipe_was_written_begins_again_in_its_folder(tmp_path):
    for name in ("decisions.json", ".recipe.yaml.77", ".lock"):
        (tmp_path / "exp").mkdir(exist_ok=True)
        (tmp_path / "exp" / name).write_text("{}")
    assert choose_folder(recipe(tmp_path), "auto").path == tmp_path / "exp"


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(RecipeError, match=r"output_dir: cannot create .*file/exp"),
        open_folder(recipe(tmp_path / "file"), "auto", PartialState(cpu=True)),
    ):
        pass


def test_environment_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["commit_of_working_folder"] is None and found["packages"]["torch"]


def test_values_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1, True, "t", None]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1, True, "t", None]}
