"""The fresh process of the gate: its answers, its errors, and its end with the run."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hf_ft.errors import VerifyError
from hf_ft.verification.fresh_process import FreshProcess, may_be_main
from hf_ft.verification.verifier import Request

pytestmark = pytest.mark.fresh_process


def test_a_folder_without_a_run_fails_item_by_item(tmp_path):
    with FreshProcess() as fresh:
        fresh.import_like(["transformers.models.vit.modeling_vit", "hf_ft.no_such_module", "os"])
        fresh.ask(Request(tmp_path))
        judgement = fresh.judge()
        assert judgement is fresh.judge() and not judgement.passed
        assert "recipe.yaml" in judgement.items[0].detail


def test_a_process_that_was_never_asked_ends_with_the_run():
    with FreshProcess() as fresh:
        process = fresh._process
    assert process.poll() is not None


def test_a_process_that_has_died_is_an_error_when_it_is_asked(tmp_path):
    with FreshProcess() as fresh:
        fresh._process.kill()
        fresh._process.wait()
        fresh.ask(Request(tmp_path))
        with pytest.raises(VerifyError, match="cannot be judged in a fresh process"):
            fresh.judge()


def _runs(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
@pytest.mark.parametrize("paused", [False, True])
def test_the_process_ends_when_the_run_is_killed(paused):
    """kill -9 closes the standard input of the process, so it does not wait for ever, even in a pause."""
    code = (
        "import time\nfrom hf_ft.verification.fresh_process import FreshProcess\n"
        "fresh = FreshProcess()\ntime.sleep(3)\n"
        + ("pause = fresh.paused()\npause.__enter__()\n" if paused else "")
        + "print(fresh._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(run.stdout.readline())
    assert _runs(child)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    until = time.monotonic() + 60
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _runs(child)


def test_a_paused_process_uses_no_time_and_answers_afterwards():
    """Its imports would disturb the measurement of threads and precision."""
    with FreshProcess() as fresh:
        process = psutil.Process(fresh._process.pid)
        with fresh.paused():
            deadline = time.monotonic() + 20
            while process.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
                time.sleep(0.01)
            assert process.status() == psutil.STATUS_STOPPED
        while process.status() == psutil.STATUS_STOPPED and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.status() != psutil.STATUS_STOPPED
        fresh.close()
        with fresh.paused():  # a process that has ended is not an error
            pass


def test_a_run_starts_the_process_before_its_own_heavy_imports():
    code = """
import sys
from hf_ft import finetune
from hf_ft.verification import fresh_process

class Started(Exception):
    pass

def start():
    raise Started(sorted({"torch", "transformers", "datasets"} & set(sys.modules)))

fresh_process.FreshProcess = start
try:
    finetune({"task": "text-classification", "data": {"source": "x.csv"}, "model": {"name": "m"}})
except Started as started:
    print(started.args[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_only_the_main_process_of_the_launcher_may_be_the_main_one(monkeypatch, rank, first):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert may_be_main() is first


def test_a_module_beside_the_script_of_a_user_is_found(tmp_path, monkeypatch):
    """`python scripts/train.py` puts `scripts` on its path; a task or a source there is imported again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    with FreshProcess() as fresh:
        found = psutil.Process(fresh._process.pid).environ()["PYTHONPATH"].split(os.pathsep)
    assert str(tmp_path) in found
