"""A run that is killed with kill -9 leaves its files, and its resumed run gives the same result."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import points
import pytest
from safetensors.torch import load_file

from hf_ft import finetune

# Is killed at the end of step 10: in the middle of the second epoch, with 7 steps per epoch.
IN_MID_EPOCH = """
import json, os, signal, sys
from transformers import TrainerCallback
from hf_ft import finetune

class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 10:
            os.kill(os.getpid(), signal.SIGKILL)

finetune(json.loads(sys.argv[1]), callbacks=[Killed()], verbose=False)
"""
# Is killed when all of the second checkpoint is written except for its marker.
IN_CHECKPOINT = """
import json, os, signal, sys
from hf_ft import finetune
from hf_ft.train import checkpoints

complete_checkpoint = checkpoints.complete

def complete(temporary, final, before=None):
    if final.name == "checkpoint-14":
        os.kill(os.getpid(), signal.SIGKILL)
    complete_checkpoint(temporary, final, before)

checkpoints.complete = complete
finetune(json.loads(sys.argv[1]), verbose=False)
"""


# Is killed after the gate has passed, before the report is written.
BEFORE_REPORT = """
import json, os, signal, sys
from hf_ft import finetune
from hf_ft.report import report

report.write_report = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
finetune(json.loads(sys.argv[1]), verbose=False)
"""


def logged(folder):
    """Return the log entries of steps and evaluations, without the last one, which holds times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "train_runtime" not in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [IN_MID_EPOCH, IN_CHECKPOINT, BEFORE_REPORT], ids=["step", "checkpoint", "report"]
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(program, tmp_path, monkeypatch):
    """tf#39215, tf#35782: with augmentation and dropout, and a checkpoint that may be half written."""
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent))
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    recipe = {
        "task": "points:Points",
        "name": "points",
        "data": {"source": "py:points:rows", "split": {"validation": 20}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "augment": {"noise": 0.1},
        "train": {
            "num_train_epochs": 3,
            "global_batch_size": 8,
            "learning_rate": 0.02,
            "logging_steps": 1,  # a mean over several steps would start again at the resumed step
            "disable_tqdm": True,
        },
    }
    straight = finetune({**recipe, "output_dir": str(tmp_path / "straight")}, verbose=False)
    killed = {**recipe, "output_dir": str(tmp_path / "killed")}
    died = subprocess.run(
        [sys.executable, "-c", program, json.dumps(killed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=dict(os.environ),
    )
    assert died.returncode == -signal.SIGKILL, died.stderr[-3000:]
    folder = tmp_path / "killed"
    assert not (folder / "seal.json").exists()
    for name in ("recipe.yaml", "data.json", "environment.json", "log.jsonl"):
        assert (folder / name).stat().st_size > 0, name
    again = finetune(killed, resume="must", verbose=False)
    assert again.folder == folder and (folder / "seal.json").exists() and again.report().exists()
    assert again.results["headline"] == straight.results["headline"]
    assert logged(folder) == logged(straight.folder)
    weights = load_file(straight.folder / "model" / "model.safetensors")
    for name, tensor in load_file(folder / "model" / "model.safetensors").items():
        assert tensor.equal(weights[name]), name
