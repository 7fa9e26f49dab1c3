"""The disk space of a run is estimated before training, and nothing that could fit is refused."""

from pathlib import Path
from types import SimpleNamespace

import points
import pytest
import torch

from hf_ft import check, finetune
from hf_ft.errors import RecipeError
from hf_ft.recipe.read import load_recipe
from hf_ft.storage.eviction import make_room
from hf_ft.train import checkpoints, disk_space
from hf_ft.train.disk_space import Space, check_space, saves_in, space_of, written_in

MAIN = SimpleNamespace(is_main_process=True)


def recipe(folder, **train):
    content = {"task": "points:Points", "name": "exp", "output_dir": str(folder / "exp")}
    content |= {"data": {"source": "x.csv"}, "model": {"name": "m"}}
    return load_recipe({**content, "train": {"num_train_epochs": 3, "global_batch_size": 8, **train}})


def network():
    model = torch.nn.Sequential(
        torch.nn.Linear(1000, 100), torch.nn.BatchNorm1d(100), torch.nn.Linear(100, 200)
    )
    model[0].requires_grad_(False)
    return model


def write_checkpoint(model, folder, step, before=None, optim=torch.optim.AdamW):
    temporary = folder / ".writing"
    temporary.mkdir(parents=True)
    optimizer = optim([one for one in model.parameters() if one.requires_grad])
    if model[2].weight.grad is None:
        model(torch.randn(4, 1000)).sum().backward()
    optimizer.step()
    checkpoints.save_weights(model, temporary, before)
    checkpoints.save_optimizer(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), temporary)
    checkpoints.complete(temporary, folder / f"checkpoint-{step}", before)
    return folder / f"checkpoint-{step}"


@pytest.mark.parametrize(("optim", "kind"), [("adamw_torch", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_estimate_is_what_is_written(tmp_path, optim, kind):
    """Weights, optimizer and the shared file of frozen weights, to within the headers of the files."""
    model, given = network(), recipe(tmp_path, optim=optim)
    space = space_of(given, model, 80, tmp_path / "exp", adapted=False)
    first = write_checkpoint(model, tmp_path / "exp" / "checkpoints", 10, optim=kind)
    write_checkpoint(model, tmp_path / "exp" / "checkpoints", 20, first, optim=kind)
    two = written_in(tmp_path / "exp")
    every = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert two <= space.least + 20_000 or two <= space.most
    one = (two - 400_000) // 2  # the frozen weights count once
    assert space.least == pytest.approx(400_000 + max(2 * one, one + every), abs=20_000)
    # What has been written already is not needed again.
    again = space_of(given, model, 80, tmp_path / "exp", adapted=False)
    assert again.least == max(0, space.least - two) and again.most == space.most - two


def test_one_epoch_writes_one_checkpoint(tmp_path):
    rows, given = 80, recipe(tmp_path, num_train_epochs=1)
    assert saves_in(given, rows) == 1 and saves_in(recipe(tmp_path), rows) == 3
    assert saves_in(recipe(tmp_path, eval_strategy="steps", eval_steps=4), rows) == 7
    assert saves_in(recipe(tmp_path, eval_strategy="steps", eval_steps=0.25), rows) == 4
    assert saves_in(recipe(tmp_path, max_steps=2), rows) == 0
    least = [
        space_of(one, network(), rows, tmp_path / "exp", adapted=False).least
        for one in (given, recipe(tmp_path))
    ]
    assert least[0] <= least[1]


def test_a_run_that_cannot_fit_is_refused_and_one_that_may_not_is_told(tmp_path):
    with pytest.raises(
        RecipeError, match=r"output_dir: .* at least 5\.0 GB in .*, where 4\.0 GB are free.*freeze"
    ):
        check_space(Space(tmp_path, 5 * 10**9, 8 * 10**9, 4 * 10**9), MAIN)
    (line,) = check_space(Space(tmp_path, 3 * 10**9, 8 * 10**9, 4 * 10**9), MAIN)
    assert line.startswith("disk: this run may need up to 8.0 GB in ")
    assert check_space(Space(tmp_path, 1, 2, 4 * 10**9), MAIN) == []
    assert check_space(Space(tmp_path, 10**15, 10**15, None), MAIN) == []  # not known


def test_free_space_that_is_not_known_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space.os, "statvfs", lambda folder: SimpleNamespace(f_blocks=0))
    assert disk_space.free_bytes(tmp_path) is None
    assert (
        space_of(recipe(tmp_path), network(), 80, tmp_path / "no" / "such", adapted=False).folder == tmp_path
    )


def test_caches_leave_the_space_of_the_run_free(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert make_room(tmp_path, 500, 10**6) is None
    assert "0.00 GB of the run's own files" in make_room(tmp_path, 500, 10**6, spared=900)
    space = Space(tmp_path, 1, 700, 1000)
    assert space.needed_on(tmp_path / "cache") == 700
    monkeypatch.setattr(
        type(tmp_path), "stat", lambda self: SimpleNamespace(st_dev=hash(str(self)), st_mode=0o40000)
    )
    assert Space(tmp_path / "a", 1, 700, 1000).needed_on(tmp_path) == 0


@pytest.mark.parametrize("verb", [check, lambda given: finetune(given, verbose=False)])
def test_check_and_run_refuse_before_training(tmp_path, monkeypatch, verb):
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent))
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 100)
    content = {
        "task": "points:Points",
        "name": "points",
        "data": {"source": "py:points:rows", "split": {"validation": 20}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "output_dir": str(tmp_path / "run"),
    }
    with pytest.raises(RecipeError, match=r"output_dir: .* where 100 bytes are free"):
        verb(content)
    assert not list((tmp_path / "run").glob("checkpoints/*"))
