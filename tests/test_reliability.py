"""The scripts of reliability/: a sample of what they do in minutes, and that they notice what is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reliability import kills, soak
from reliability.outcome import differences
from reliability.repeat import difference, numbers
from reliability.tiny_runs import CASES

ROOT = Path(__file__).parents[1]
BY_NAME = {case.name: case for case in CASES}


def lost_of(campaign):
    return [trial.lost for trial in campaign.trials if trial.lost]


def test_a_run_that_is_killed_twice_ends_as_an_undisturbed_one(tmp_path):
    """tf#39215, tf#35782: in the middle of the second epoch, and between the model and the results."""
    campaign = kills.Campaign(tmp_path, seed=0)
    case = BY_NAME["texts, full, accumulation"]
    moments = [
        kills.Kill(case.name, "writing a checkpoint", 0.0, "KILL all", number=6),
        kills.Kill(case.name, "model saved", 0.0, "KILL all"),
    ]
    trial = campaign.trial(case, moments)
    assert trial.lost == [] and all(kill.injected for kill in trial.kills) and len(trial.kills) == 2
    assert trial.kills[0].after in ("writing a checkpoint", "checkpoint written")


@pytest.mark.slow
@pytest.mark.multi_process
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_survives_its_kills(case, tmp_path):
    campaign = kills.Campaign(tmp_path, seed=CASES.index(case))
    kills.go_round(campaign, [case], kills=6, per_run=6)
    assert lost_of(campaign) == [] and kills.summary(campaign.trials)["injected"] >= 6


@pytest.mark.slow
@pytest.mark.multi_process
def test_the_documented_commands_survive_kills_too(tmp_path):
    """Not forked: imports, the launcher, and how it ends its processes are part of it."""
    campaign = kills.Campaign(tmp_path, seed=1, launched=True)
    cases = [BY_NAME["pictures, LoRA, 2 processes"], BY_NAME["texts, LoRA, 2 workers"]]
    kills.go_round(campaign, cases, kills=6, per_run=3)
    assert lost_of(campaign) == []


def test_moments_are_drawn_by_the_seed():
    def drawn(seed):
        moments = kills.Campaign(Path(), seed).moments(BY_NAME["forecast, 2 processes"], 10.0)
        return [next(moments) for _ in range(40)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {kill.stage for kill in drawn(1)} == {*kills.STAGES, kills.BY_TIME}
    assert {kill.sent for kill in drawn(1)} >= {"KILL all", "KILL one", "TERM all"}


def test_whatever_a_kill_changed_is_named(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    (whole / "model").mkdir(parents=True)
    (whole / "model" / "model.safetensors").write_bytes(b"weights")
    (whole / "results.json").write_text("{}")
    (whole / "log.jsonl").write_text('{"loss": 1.0}\n{"train_runtime": 3.0}\n')
    shutil.copytree(whole, run)
    (run / "log.jsonl").write_text('{"loss": 1.0}\n')
    assert differences(run, whole) == []
    (run / "model" / "model.safetensors").write_bytes(b"Weights")
    (run / "results.json").unlink()
    (run / ".model.new-7").write_text("")
    (run / "log.jsonl").write_text('{"loss": 2.0}\n')
    (tmp_path / "run-2").mkdir()
    assert differences(run, whole) == [
        "model/model.safetensors differs",
        "log.jsonl differs",
        "results.json is missing",
        ".model.new-7 was left behind",
        "a second run folder run-2 was made",
    ]


def test_growth_is_noticed():
    def rows(**per_step):
        start = dict.fromkeys(soak.LIMITS, 100.0)
        return [
            {"step": step, **start, **{name: 100.0 + each * step for name, each in per_step.items()}}
            for step in range(0, 2001, 20)
        ]

    assert soak.grown(rows()) == {}
    assert soak.grown(rows(threads=0.001)) == {"threads": pytest.approx(1.0)}
    assert soak.grown(rows(**{"memory (MiB)": 0.02})) == {"memory (MiB)": pytest.approx(20.0)}


def test_the_largest_difference_of_two_results_is_named():
    one = {"test": {"accuracy": 0.5, "table": [{"loss": 100.0}], "rows": 9}}
    assert numbers(one) == {"/test/accuracy": 0.5, "/test/table/0/loss": 100.0}
    other = {"test": {"accuracy": 0.51, "table": [{"loss": 110.0}], "rows": 9}}
    assert difference(numbers(one), numbers(other)) == (pytest.approx(0.1), "/test/table/0/loss")
    assert difference({"a": 1.0}, {"b": 1.0})[0] == float("inf")


def run_script(name, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"reliability.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_nothing_grows_over_two_thousand_steps(tmp_path):
    done = run_script("soak", "--json", str(tmp_path / "soak.json"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    measured = json.loads((tmp_path / "soak.json").read_text())
    assert measured.keys() == set(soak.NAMES) and all(len(rows) == 100 for rows in measured.values())
    assert all(row["checkpoints"] <= 2 for rows in measured.values() for row in rows)


@pytest.mark.slow
@pytest.mark.multi_process
def test_the_same_recipe_gives_the_same_bytes_at_each_setting():
    done = run_script("repeat")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("2 runs equal") == 12
