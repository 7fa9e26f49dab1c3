"""The profile of a run: every second of training counts for one phase, and the result does not change."""

import json
import os
from pathlib import Path

import points
import pytest

from hf_ft.run import finetune
from hf_ft.train import profiler as profiling
from hf_ft.train.profiler import PHASES, Profile


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock; return a function that sets it forward."""
    now = [100.0]

    def advance(seconds):
        now[0] += seconds

    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
    return advance


def test_an_inner_phase_does_not_count_for_the_outer_one(clock):
    profile = Profile()
    with profile.phase("forward"):  # before training: not counted
        clock(50)
    with profile.whole():
        clock(1)
        with profile.phase("backward"):
            clock(2)
            with profile.phase("forward"):
                clock(4)
            clock(8)
        profile.begin("optimizer")
        clock(16)
        profile.end()
        clock(32)
    with profile.phase("saving"):
        clock(50)
    expected = {"backward": 10.0, "forward": 4.0, "optimizer": 16.0, "other": 33.0}
    assert {phase: seconds for phase, seconds in profile.seconds.items() if seconds} == expected
    assert profile.total == 63.0 == sum(profile.seconds.values())


def test_an_error_ends_its_phase(clock):
    profile = Profile()
    with profile.whole():
        with pytest.raises(ZeroDivisionError), profile.phase("forward"):
            clock(2)
            raise ZeroDivisionError
        clock(3)
    assert profile.seconds["forward"] == 2.0 and profile.seconds["other"] == 3.0


def test_a_profiled_run_gives_the_results_of_a_plain_one(tmp_path, monkeypatch):
    # The gate's fresh process must be able to import the task.
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent), prepend=os.pathsep)
    recipe = {
        "task": "points:Points",
        "name": "p",
        "data": {"source": "py:points:rows", "split": {"validation": 20}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "train": {"num_train_epochs": 2, "global_batch_size": 8, "disable_tqdm": True},
    }
    plain = finetune({**recipe, "output_dir": str(tmp_path / "plain")}, verbose=False)
    timed = finetune({**recipe, "output_dir": str(tmp_path / "timed")}, verbose=False, profile=True)
    assert timed.results["splits"] == plain.results["splits"]
    assert not (plain.folder / "profile.json").exists()
    profile = json.loads((timed.folder / "profile.json").read_text())
    assert list(profile["phases"]) == list(PHASES)
    assert all(seconds > 0 for seconds in profile["phases"].values())
    assert sum(profile["phases"].values()) == pytest.approx(profile["total"], rel=1e-6)
    rooms = json.loads((timed.folder / "timing.json").read_text())
    assert profile["total"] < rooms["train"]
    assert "train: forward" in timed.report().read_text()
