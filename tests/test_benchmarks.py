"""The benchmarks: equal settings on both sides, paired ratios, and a round that works."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from hf_ft import load_recipe

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def measured(seconds, **facts):
    return {"phases": {"start": 100.0, "data": 1.0, "train": seconds - 1.0, "verify": 50.0}, **facts}


def test_start_up_and_gate_are_not_compared():
    from benchmarks.figures import seconds

    assert seconds(measured(5.0)) == 5.0
    assert seconds({"phases": {"train": 2.0, "preflight": 9.0, "unknown to us": 1.0}}) == 3.0


def test_ratios_are_taken_within_a_round():
    from benchmarks.figures import ratios, verdict
    from benchmarks.works import Goal

    rounds = [{"a": measured(40.0), "b": measured(4.0)}, {"a": measured(90.0), "b": measured(3.0)}]
    rounds.append({"a": measured(60.0), "b": measured(3.0)})
    found = ratios(Goal("a", "b", least=20), rounds)
    assert (found.median, found.least, found.most, found.pairs) == (20.0, 10.0, 30.0, 3)
    assert str(found) == "20.0 (10.0 to 30.0, 3 pairs)"
    assert verdict(Goal("a", "b", least=20), 20.0) == "at least 20: reached"
    assert verdict(Goal("a", "b", most=1.1), 1.2) == "at most 1.1: not reached"


def test_a_goal_may_be_the_time_to_finish():
    from benchmarks.figures import ratios
    from benchmarks.works import Goal

    rounds = [{"a": measured(1650.0), "b": measured(30.0)}]
    assert ratios(Goal("a", "b", least=6, figure="finish"), rounds).median == 10.0


def test_another_checkout_is_a_further_side_with_the_same_work(tmp_path, monkeypatch):
    from benchmarks import run
    from benchmarks.works import FULL_TEXT, PREDICT, SCALING

    assert PREDICT.with_before().sides["before"] == PREDICT.sides["ours"]
    assert SCALING[0].with_before().goals[-1].figure == "finish"
    work, called = FULL_TEXT.with_before(), []

    def call(arguments, checkout, log, variables=None):
        called.append((list(map(str, arguments)), checkout))
        out = Path(arguments[2])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("{}")

    monkeypatch.setattr(run, "call", call)
    bench = run.Bench(tmp_path, before=tmp_path / "earlier")
    bench.facts["full_text"] = dict.fromkeys(("train", "validation", "model"), "x")
    for side in ("ours", "before"):
        bench.run(work, side, tmp_path / "round")
    (ours, here), (before, there) = called
    assert (here, there) == (ROOT, tmp_path / "earlier")
    assert ours[1] == str(ROOT / "benchmarks/recipes/full_text.yaml")
    assert before[:2] == [
        str(there / "benchmarks/ours/ours_run.py"),
        str(there / "benchmarks/recipes/full_text.yaml"),
    ]
    assert ours[3:6] == before[3:6] and ours[-2] != before[-2]  # the same rows, folders of their own


def test_a_goal_may_be_a_figure_of_one_side():
    from benchmarks.figures import ratios
    from benchmarks.works import Goal

    goal = Goal("ours", None, most=1.2, figure="held")
    assert ratios(goal, [{"ours": {"held": 1.1}}, {"ours": {"held": 1.3}}]).median == pytest.approx(1.2)


def test_time_to_the_same_metric_uses_the_lower_of_both_best_metrics():
    from benchmarks.figures import same_metric

    plain = {"curve": [[10.0, 0.5], [20.0, 0.8], [30.0, 0.7]]}
    ours = {"curve": [[1.0, 0.6], [2.0, 0.9]]}
    assert same_metric(plain, ours) == (0.8, 20.0, 2.0)
    assert same_metric(plain, {"curve": []}) is None


def test_unequal_work_is_named():
    from benchmarks.figures import unequal_work

    one = {"rows": {"train": 64, "validation": 100}, "steps": 2, "epochs": 1.0, "learning": 7, "metric": 0.8}
    assert unequal_work({"plain": one, "ours": {**one, "metric": 0.75}}) == []
    assert unequal_work({"plain": one, "ours": {**one, "steps": 3}}) == ["steps: 2 (plain), 3 (ours)"]
    assert unequal_work({"plain": one, "ours": {**one, "metric": 0.5}}) == [
        "metric: 0.800 (plain), 0.500 (ours)"
    ]
    # The floor script has neither a metric nor steps.
    assert unequal_work({"ours": one, "floor": {"rows": one["rows"], "steps": 0, "metric": None}}) == []


def test_numbers_have_three_significant_digits():
    from benchmarks.figures import short

    assert [short(value) for value in (123.4, 12.34, 1.234, 0.01234, 0)] == [
        "123",
        "12.3",
        "1.23",
        "0.0123",
        "0",
    ]


def test_rounds_alternate_until_the_time_is_used_up(tmp_path):
    from benchmarks.run import Bench
    from benchmarks.works import FULL_TEXT, WINDOWS

    class Fake(Bench):
        def measure(self, work):
            order.append(work.name)
            self.took[work.name] = 1000.0 if work is slow else 0.0
            return {}

    order: list[str] = []
    slow, quick = replace(FULL_TEXT, rounds=9), replace(WINDOWS, rounds=2)
    # The first round is always measured; further rounds only if they fit into the time.
    Fake(tmp_path).go_round([slow, quick], 9, time.monotonic() + 500)
    assert order == ["full_text", "windows", "windows"]


def works_that_train():
    import sys

    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.works import WORKS
    finally:
        sys.path.remove(str(ROOT))
    return [work for work in WORKS if "ours_run" in work.sides["ours"]]


@pytest.mark.parametrize("work", works_that_train(), ids=lambda work: work.name)
def test_both_sides_train_with_the_same_settings(work):
    facts = {key: key for key in ("train", "validation", "model", "out", "folder")} | {"epochs": work.epochs}
    _, recipe_file, _, *overrides = work.sides["ours"].format(**facts).split()
    recipe = load_recipe(ROOT / "benchmarks" / recipe_file, overrides)
    assert (recipe.train.weight_decay, recipe.train.warmup_steps) == (0.01, 0.1)
    assert recipe.train.lr_scheduler_type == "linear"  # the Trainer's default
    assert recipe.train.num_train_epochs == work.epochs
    for side, command in work.sides.items():
        if side in ("ours", "again") or "--loop forward" in command:
            continue
        script = (ROOT / "benchmarks" / command.split()[0]).read_text()

        def setting(name, command=command, script=script):
            written = re.search(rf"--{name} (\S+)", command)
            return float(written[1] if written else re.search(rf'"--{name}".*default=([\d.e-]+)', script)[1])

        assert setting("rate") == recipe.train.learning_rate, side
        assert setting("batch") == recipe.train.global_batch_size, side


@pytest.mark.slow
def test_one_round_of_a_tiny_item(tmp_path, monkeypatch):
    from argparse import Namespace

    from benchmarks.figures import seconds, unequal_work
    from benchmarks.prepare import images
    from benchmarks.report import report
    from benchmarks.run import Bench
    from benchmarks.works import HEAD_IMAGE

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sides = {side: HEAD_IMAGE.sides[side] for side in ("plain", "ours")}
    work = replace(HEAD_IMAGE, train=40, validation=20, epochs=2, sides=sides, goals=HEAD_IMAGE.goals[:1])
    sizes = Namespace(train=work.train, validation=work.validation, classes=5)
    facts = images(tmp_path, None, sizes)
    facts["model"] = tiny.saved(tiny.vit(), tmp_path / "vit", tiny.image_processor())
    bench = Bench(tmp_path, facts={work.name: facts})
    found = bench.measure(work)
    for side in sides:
        assert found[side]["rows"] == {"train": 40, "validation": 20}
        assert found[side]["learning"] == 5 * 32 + 5
        assert (found[side]["steps"], found[side]["epochs"]) == (4, 2.0)
        assert len(found[side]["curve"]) >= 2
        assert found[side]["curve"][1][0] <= seconds(found[side])
        assert found[side]["peak"] > 100
    assert unequal_work(found) == []
    text = report(bench.rounds, [work], bench.facts, {})
    assert "sample:digits, 40 + 20 rows, 2 epoch(s) (the target: 860)" in text
    assert "plain / ours" in text and "(1 pair)" in text
