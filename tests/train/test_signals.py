"""A run that is asked to stop writes a checkpoint, says how to go on, and ends with the right exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import points
import psutil
import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_ft import finetune
from hf_ft.errors import Stopped
from hf_ft.train.signals import STOPPING, StopSignals

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    here = Path(points.__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
    return {
        "task": "points:Points",
        "name": "p",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": "py:points:rows", "split": {"validation": 20}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "augment": {"noise": 0.1},
        "train": {"num_train_epochs": 3, "global_batch_size": 8, "disable_tqdm": True},
    }


class SignalAt(TrainerCallback):
    """Sends this process a signal, at the beginning of a step or during an evaluation."""

    def __init__(self, number, step=None, evaluation=False):
        self.number, self.step, self.evaluation = number, step, evaluation

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_evaluate(self, args, state, control, **kwargs):
        if self.evaluation:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("step", [7, 21], ids=["of an epoch", "of the training"])
def test_a_signal_in_the_last_step_does_not_lose_its_evaluation(recipe, tmp_path, step):
    """With a checkpoint before the evaluation, the resumed run would choose among fewer epochs."""
    straight = finetune(recipe | {"output_dir": str(tmp_path / "straight")}, verbose=False)
    with pytest.raises(Stopped):
        finetune(recipe, callbacks=[SignalAt(signal.SIGTERM, step=step - 1)], verbose=False)
    resumed = finetune(recipe, resume="must", verbose=False)
    assert resumed.results == straight.results
    logs = [
        [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        for run in (resumed, straight)
    ]
    evaluated = [[line for line in log if "eval_loss" in line] for log in logs]
    assert evaluated[0] == evaluated[1] and [line["step"] for line in evaluated[0]] == [7, 14, 21]


@pytest.mark.parametrize(
    ("number", "when"),
    [
        pytest.param(number, {what: 9}, id=f"{number.name}, {what}", marks=[] if fast else pytest.mark.slow)
        for number in STOPPING
        for what in ("step", "evaluation")
        for fast in [(number.name, what) in (("SIGTERM", "step"), ("SIGINT", "evaluation"))]
    ],
)
def test_a_signal_stops_with_a_checkpoint_and_the_resumed_run_is_equal(recipe, tmp_path, number, when, capfd):
    straight = finetune(recipe | {"output_dir": str(tmp_path / "straight")}, verbose=False)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=number.name) as stop:
        finetune(recipe, callbacks=[SignalAt(number, **when)], verbose=False)
    assert stop.value.exit_code == (130 if number == signal.SIGINT else 75)
    assert f"{number.name}: stops after this step" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    written = {path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert ("checkpoint-10" if "step" in when else "checkpoint-7") in written
    resumed = finetune(recipe, resume="must", verbose=False)
    assert resumed.folder == tmp_path / "run" and resumed.results == straight.results
    weights = load_file(straight.folder / "model" / "model.safetensors")
    for name, tensor in load_file(resumed.folder / "model" / "model.safetensors").items():
        assert tensor.equal(weights[name]), name


def test_a_second_signal_and_one_before_training_stop_at_once():
    stops = StopSignals()
    with stops.listening():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        stops.training = True
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_that_are_ignored_or_handled_by_the_caller_stay_so():
    """`nohup` ignores SIGHUP; a job manager may have handlers of its own."""
    seen = []
    handlers = {signal.SIGHUP: signal.SIG_IGN, signal.SIGUSR1: lambda *_: seen.append(1)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with StopSignals().listening():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [1]


def _started(recipe, tmp_path, command):
    """Start a run as a process, and wait until it trains."""
    path = tmp_path / "recipe.json"
    train = recipe["train"] | {"num_train_epochs": 5000, "early_stopping_patience": None}
    train |= {"eval_strategy": "no", "logging_steps": 1}
    path.write_text(json.dumps(recipe | {"train": train}))
    process = subprocess.Popen([*command, str(path)], stderr=subprocess.PIPE, cwd=ROOT)
    log, until = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") > 3) and time.monotonic() < until:
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_exit_code_says_why_a_run_stopped(recipe, tmp_path, number, code):
    process = _started(recipe, tmp_path, [sys.executable, "-m", "hf_ft.run"])
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "to resume from" in errors.decode() and "Traceback" not in errors.decode()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_job_leaves_the_workers_that_end_the_step(recipe, tmp_path, number):
    """SLURM sends a signal to every process of a job; a run whose workers died ended with a traceback."""
    recipe["train"] |= {"dataloader_num_workers": 2}
    process = _started(recipe, tmp_path, [sys.executable, "-m", "hf_ft.run"])
    workers = [
        one for one in psutil.Process(process.pid).children() if "fresh_process" not in str(one.cmdline())
    ]
    assert len(workers) >= 2
    for one in [*workers, process]:
        one.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), errors.decode()[-2000:]
    assert "to resume from" in errors.decode() and "Traceback" not in errors.decode()
    assert not psutil.wait_procs(workers, timeout=30)[1]


@pytest.mark.slow
@pytest.mark.multi_process
def test_all_processes_stop_at_the_step_at_which_one_of_them_was_told_to(recipe, tmp_path):
    config = ["--config_file", "accelerate_configs/cpu_2proc.yaml"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *config, "-m", "hf_ft.run"]
    launcher = _started(recipe, tmp_path, command)
    children = psutil.Process(launcher.pid).children(recursive=True)
    ranks = {one.environ().get("RANK"): one for one in children if "hf_ft.run" in one.cmdline()}
    ranks["1"].send_signal(signal.SIGUSR1)
    _, alive = psutil.wait_procs(children, timeout=60)
    launcher.wait(timeout=60)
    assert not alive and len(list((tmp_path / "run" / "checkpoints").glob("checkpoint-*/complete.json"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the death of a parent is a signal on Linux only")
def test_a_killed_launcher_leaves_no_process_and_a_checkpoint(recipe, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "accelerate_configs/cpu.yaml",
    ]
    launcher = _started(recipe, tmp_path, [*launch, "-m", "hf_ft.run"])
    children = psutil.Process(launcher.pid).children(recursive=True)
    assert children
    launcher.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive and list((tmp_path / "run" / "checkpoints").glob("checkpoint-*/complete.json"))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_ctrl_c_during_the_imports_is_an_interruption_too(recipe, tmp_path, seconds):
    """The message about it imported torch while torch was half imported: a traceback, and once a segfault."""
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_ft.run", str(path)], stderr=subprocess.PIPE, cwd=ROOT
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    # Before hf_ft's own first lines run, Python itself ends the process.
    assert process.returncode in (130, -signal.SIGINT)
    if process.returncode == 130:
        assert "interrupted" in errors.decode() and "Traceback" not in errors.decode()
