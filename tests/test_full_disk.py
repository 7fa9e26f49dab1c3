"""A disk that is full at every writer of a run: `python -m reliability.full_disk`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def ran(*arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "reliability.full_disk", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        timeout=3600,
    )


@pytest.mark.slow
def test_a_full_disk_at_every_writer_loses_nothing():
    found = ran()
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert ", 0 FAILED, 0 NOT REACHED" in found.stdout


@pytest.mark.slow
def test_where_nothing_can_be_mounted_the_error_is_injected():
    found = ran("--inject", "--only", "model.sha256")
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert "1 writers in 1 chains: 1 refused" in found.stdout
