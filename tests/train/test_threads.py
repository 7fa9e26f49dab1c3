"""How many threads train: measured on a micro-batch, kept with the run, and never a change of its result."""

import itertools
import json

import points
import pytest
import torch
from transformers import set_seed

from hf_ft.data.prepare import prepare
from hf_ft.model.freeze import freeze
from hf_ft.recipe.read import load_recipe
from hf_ft.run import new_task
from hf_ft.train import threads
from hf_ft.train.assemble import build_tuner
from hf_ft.train.threads import choose_threads, settle_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """A machine of two threads whose user has said nothing; given back as it was."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tuner(tmp_path):
    """Build a trainer for the points task."""
    pretrained = points.saved(tmp_path / "pretrained")

    def build(folder="run"):
        recipe = load_recipe(
            {
                "task": "points:Points",
                "data": {"source": "py:points:rows", "split": {"validation": 20}},
                "model": {"name": pretrained},
                "train": {"num_train_epochs": 1, "global_batch_size": 8, "disable_tqdm": True},
            }
        )
        task = new_task(recipe)
        prepared = prepare(recipe, task, cache=tmp_path / "cache")
        set_seed(recipe.seed)
        loaded = task.load(recipe.model)
        frozen = freeze(loaded.model, recipe.freeze, loaded.new)
        (tmp_path / folder).mkdir()
        return build_tuner(recipe, task, frozen, prepared, tmp_path / folder)[0]

    return build


@pytest.fixture
def measured(monkeypatch):
    """Let a micro-batch take the given seconds on one thread and on two; gives the threads it was run on."""
    seen = []

    def give(one, two):
        def seconds():
            seen.append(torch.get_num_threads())
            return one if seen[-1] == 1 else two

        monkeypatch.setattr(threads, "_micro_batch", lambda tuner, most=8: (seconds, most))
        return seen

    return give


@pytest.mark.parametrize(
    ("one", "two", "chosen", "reason"),
    [
        (0.0041, 0.0098, 1, "of 2, measured 4.1 ms against 9.8 ms on all"),
        (0.0098, 0.0041, 2, "of 2, measured 4.1 ms against 9.8 ms on one"),
        (0.0095, 0.0100, 2, "of 2, measured 10.0 ms against 9.5 ms on one"),
    ],
)
def test_one_thread_is_taken_where_it_is_clearly_faster(tuner, measured, one, two, chosen, reason):
    seen = measured(one, two)
    assert choose_threads(tuner(), "auto") == (chosen, reason)
    assert torch.get_num_threads() == 2 and seen.count(1) == seen.count(2) - 2


def test_a_large_micro_batch_is_not_measured_further(tuner, measured):
    seen = measured(9.0, 2.0)
    assert choose_threads(tuner(), "auto") == (2, "a micro-batch takes about 4.0 s, work enough to share")
    assert len(seen) == 4


def test_what_the_user_said_is_not_measured(tuner, monkeypatch):
    monkeypatch.setattr(threads, "_measured", lambda *_: pytest.fail("measured"))
    made = tuner()
    assert choose_threads(made, 2) == (2, "asked for by train.threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads(made, "auto") == (2, "OMP_NUM_THREADS says so")
    assert choose_threads(made, 1)[0] == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    assert choose_threads(made, "auto") == (1, "the processor has one core")


def test_a_resumed_run_takes_the_threads_it_began_with(tuner, tmp_path, measured):
    made = tuner()
    measured(1e-3, 2e-3)
    settle_threads(made, "auto", tmp_path, resumed=False)
    assert torch.get_num_threads() == 1
    assert json.loads((tmp_path / "threads.json").read_text())["threads"] == 1
    torch.set_num_threads(2)
    measured(2e-3, 1e-3)
    assert settle_threads(made, "auto", tmp_path, resumed=True) == "1: as the run began"
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert settle_threads(made, "auto", tmp_path, resumed=False).startswith("2: of 2")


def test_measuring_leaves_no_trace(tuner):
    """The weights, the buffers, the random state and the losses are those of a run that was not measured."""
    plain, made = tuner("plain"), tuner("measured")
    made.model.body.append(torch.nn.BatchNorm1d(8, affine=False))
    buffers = {name: buffer.clone() for name, buffer in made.model.named_buffers()}
    before = torch.get_rng_state()
    count, _ = choose_threads(made, "auto")
    assert count in (1, 2) and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in made.model.named_buffers())
    assert all(parameter.grad is None for parameter in made.model.parameters())
    made.model.body.pop(-1)
    torch.set_num_threads(1)
    for each in (plain, made):
        torch.manual_seed(0)
        each.train()
    pairs = list(itertools.zip_longest(plain.model.parameters(), made.model.parameters()))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [line.get("loss") for line in plain.state.log_history] == [
        line.get("loss") for line in made.state.log_history
    ]


def test_the_number_of_threads_does_not_move_the_result(tuner):
    ended = []
    for count in (1, 2):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        made = tuner(f"threads-{count}")
        made.train()
        ended.append(torch.cat([parameter.detach().flatten() for parameter in made.model.parameters()]))
    assert torch.allclose(*ended, rtol=0, atol=1e-5)
