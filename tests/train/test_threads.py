"""The number of threads: measured on a micro-batch, recorded with the run, without effect on its result."""

import itertools
import json
from types import SimpleNamespace

import points
import psutil
import pytest
import torch

from hf_ft.model.passes import Passes
from hf_ft.recipe.read import load_recipe
from hf_ft.storage.atomic import write_json
from hf_ft.train import threads
from hf_ft.train.assemble import assemble
from hf_ft.train.decisions import Decision
from hf_ft.train.paired_timing import PairedTiming
from hf_ft.train.threads import choose_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Two threads and no OMP_NUM_THREADS; the number of threads is restored."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def setup(tmp_path):
    """Assemble a run of the points task."""
    pretrained = points.saved(tmp_path / "pretrained")

    def build(folder="run", **how):
        train = {"num_train_epochs": 1, "global_batch_size": 8, "disable_tqdm": True, "precision": "fp32"}
        recipe = load_recipe(
            {
                "task": "points:Points",
                "data": {"source": "py:points:rows", "split": {"validation": 20}},
                "model": {"name": pretrained},
                "train": {**train, **how.pop("train", {})},
            }
        )
        (tmp_path / folder).mkdir(exist_ok=True)
        return assemble(recipe, tmp_path / folder, **how)

    return build


class FakePasses:
    """Passes that report the given seconds for one and for two threads, and record threads and rows."""

    model, device = torch.nn.Linear(1, 1), torch.device("cpu")

    def __init__(self, one, two):
        self.one, self.two, self.seen = one, two, []

    def step_seconds(self, batch):
        self.seen.append((torch.get_num_threads(), len(batch["row"])))
        return self.one if torch.get_num_threads() == 1 else self.two


def batch_of(most):
    return {"row": torch.arange(min(most or 32, 32))}


def chosen(setting, one=1.0, two=1.0, **how):
    passes = FakePasses(one, two)
    return choose_threads(setting, passes, batch_of, processes=1, **how), passes.seen


@pytest.mark.parametrize(
    ("one", "two", "count", "reason"),
    [
        (0.0041, 0.0098, 1, "takes 9.8 ms on all, 4.1 ms on one"),
        (0.0098, 0.0041, 2, "takes 4.1 ms on all, 9.8 ms on one"),
        (0.0100, 0.0095, 1, "takes 9.5 ms on all, 10.0 ms on one"),
    ],
)
def test_all_threads_are_used_where_they_are_surely_faster(one, two, count, reason):
    found, seen = chosen("auto", one, two)
    assert found.value == count and reason in found.reason
    assert torch.get_num_threads() == 2
    assert [rows for _, rows in seen[:5]] == [4, 4, 8, 16, 32] and {rows for _, rows in seen[5:]} == {32}
    threads = [count for count, rows in seen if rows == 32]
    assert threads.count(1) == threads.count(2) > 2


def test_one_thread_is_used_where_the_pairs_do_not_agree(monkeypatch):
    """On a busy machine a run took 15 minutes with two threads, and 98 seconds with one."""
    unsure = PairedTiming(((1.0, 0.4), (1.0, 2.0), (1.0, 0.5), (1.0, 3.0)))
    monkeypatch.setattr(threads, "time_pairs", lambda *_, **how: unsure)
    found, _ = chosen("auto")
    assert found.value == 1 and "not surely faster" in found.reason


def test_only_a_few_rows_of_a_large_micro_batch_are_measured():
    found, seen = chosen("auto", 9.0, 2.0)
    assert found.value == 2 and {rows for _, rows in seen} == {4}


def test_as_many_rows_are_measured_as_a_short_step_allows(monkeypatch):
    """On 4 small pictures two threads were slower than one, on 16 they were 1.45 times as fast."""

    sizes = set()

    class Growing(FakePasses):
        def step_seconds(self, batch):
            rows = len(batch["row"])
            self.seen.append((torch.get_num_threads(), rows))
            return 0.05 + 0.02 * rows if torch.get_num_threads() == 1 else 0.09 + 0.01 * rows

    class Cold(FakePasses):
        """Equally fast on one thread and on two, but the first step of each kind takes twice as long."""

        def step_seconds(self, batch):
            key = torch.get_num_threads(), len(batch["row"])
            first = key not in sizes
            sizes.add(key)
            return (2 if first else 1) * 0.01 * len(batch["row"])

    monkeypatch.setattr("hf_ft.train.paired_timing.LONG_SECONDS", -1)
    assert choose_threads("auto", Cold(0, 0), batch_of, processes=1).value == 1
    monkeypatch.undo()

    passes = Growing(0, 0)
    found = choose_threads("auto", passes, batch_of, processes=1)
    assert found.value == 2 and "a step of 16 rows" in found.reason
    assert max(rows for _, rows in passes.seen) == 16


def test_nothing_is_measured_where_the_user_or_the_machine_decides(monkeypatch):
    monkeypatch.setattr(threads, "_measure", lambda *_: pytest.fail("measured"))
    assert chosen(2)[0] == Decision(2, "asked for by train.threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert chosen("auto")[0] == Decision(2, "set by OMP_NUM_THREADS")
    assert chosen(1)[0].value == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    assert chosen("auto")[0] == Decision(1, "the processor has one core")


@pytest.mark.parametrize(
    ("command", "environment", "measured"),
    [
        (["python", "/bin/accelerate", "launch", "-m", "hf_ft.run"], {}, True),
        (["python", "/bin/accelerate", "launch", "-m", "hf_ft.run"], {"OMP_NUM_THREADS": "2"}, False),
        (["bash"], {}, False),
        (None, {}, False),
    ],
)
def test_the_threads_that_accelerate_launch_sets_are_not_the_users_choice(
    monkeypatch, command, environment, measured
):
    def cmdline():
        if command is None:
            raise psutil.AccessDenied
        return command

    parent = SimpleNamespace(cmdline=cmdline, environ=lambda: environment)
    monkeypatch.setattr(psutil, "Process", lambda number: parent)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert ("measured" in chosen("auto", 2e-3, 1e-3)[0].reason) == measured


def test_a_resumed_run_uses_its_recorded_threads_unless_the_recipe_sets_them():
    began = Decision(1, "measured")
    found, seen = chosen("auto", 2e-3, 1e-3, recorded=began)
    assert found == Decision(1, "as the run began") and not seen
    found, _ = chosen(2, recorded=began)
    assert found.value == 2 and "the run began with 1" in found.reason and "no longer equal" in found.reason
    assert chosen(1, recorded=began)[0].reason == "asked for by train.threads"


def test_the_choice_is_recorded_with_the_run(setup, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "time_pairs", lambda *_, **how: PairedTiming(((1.0, 2.0),) * 3))
    assert setup().decisions["threads"].value == 1 == torch.get_num_threads()
    assert json.loads((tmp_path / "run/decisions.json").read_text())["threads"]["value"] == 1
    torch.set_num_threads(2)
    write_json(tmp_path / "run" / "identity.json", setup().trainer.identity)
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "time_pairs", lambda *_, **how: PairedTiming(((2.0, 1.0),) * 3))
    assert setup(checkpoint=tmp_path / "run").decisions["threads"] == Decision(1, "as the run began")
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert setup().decisions["threads"].value == 2


def test_measuring_restores_model_and_random_state(setup):
    """Weights, buffers, random state and losses equal those of a run without a measurement."""
    plain, made = setup("plain", train={"threads": 1}), setup("measured", train={"threads": 1})
    passes = Passes(made.task, made.frozen.model, torch.device("cpu"), "fp32")
    made.frozen.model.body.append(torch.nn.BatchNorm1d(8, affine=False))
    buffers = {name: buffer.clone() for name, buffer in made.frozen.model.named_buffers()}
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    rows = made.rows["train"]
    found = choose_threads("auto", passes, lambda most: passes.batch(rows, range(most or 8)), processes=1)
    assert found.value in (1, 2) and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in made.frozen.model.named_buffers())
    assert all(parameter.grad is None for parameter in made.frozen.model.parameters())
    made.frozen.model.body.pop(-1)
    torch.set_num_threads(1)
    for each in (plain, made):
        torch.manual_seed(0)
        each.trainer.train()
    pairs = list(itertools.zip_longest(plain.frozen.model.parameters(), made.frozen.model.parameters()))
    assert all(torch.equal(a, b) for a, b in pairs)
    losses = [[line.get("loss") for line in each.trainer.state.log_history] for each in (plain, made)]
    assert losses[0] == losses[1]


def test_the_number_of_threads_does_not_change_the_result(setup):
    ended = []
    for count in (1, 2):
        made = setup(f"threads-{count}", train={"threads": count})
        torch.manual_seed(0)
        made.trainer.train()
        ended.append(torch.cat([weight.detach().flatten() for weight in made.frozen.model.parameters()]))
    assert torch.allclose(*ended, rtol=0, atol=1e-5)
