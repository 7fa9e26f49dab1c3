"""Fixtures of all tests: a cache folder for this session alone, the real data, one launch at a time."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from hf_ft.verification import fresh_process
from hf_ft.verification.verifier import Verifier

FRESH = fresh_process.FreshProcess


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        metavar="DIR",
        default=os.environ.get("HF_FT_DATA"),
        help="folder with the real data sets that tests marked `real` read (default: $HF_FT_DATA)",
    )
    parser.addoption(
        "--fuzz-seed", type=int, default=0, metavar="N", help="seed of the inputs that tests/fuzz makes"
    )


def pytest_configure(config):
    config.cache_folder = tempfile.TemporaryDirectory(prefix="hf_ft-tests-")
    os.environ["HF_FT_CACHE"] = config.cache_folder.name


def pytest_unconfigure(config):
    config.cache_folder.cleanup()


def pytest_terminal_summary(terminalreporter):
    """Print how many inputs the tests in tests/fuzz tried, one line for each kind."""
    reports = terminalreporter.stats.get("", [])  # those of setups and teardowns
    lines = [value for report in reports for name, value in report.user_properties if name == "fuzz"]
    if lines:
        terminalreporter.section("inputs tried")
        for line in lines:
            terminalreporter.line(line)


def pytest_collection_modifyitems(items):
    """Put the files that launch processes first: with `-n 2`, one of them would else run alone at the end."""
    launching = {item.path for item in items if item.get_closest_marker("multi_process")}
    items.sort(key=lambda item: item.path not in launching)


@pytest.fixture
def real_data(request):
    """The folder with the real data sets; tests that need it are marked `real`."""
    folder = request.config.getoption("--data")
    if folder is None:
        pytest.skip("needs real data: pass --data DIR or set HF_FT_DATA")
    if not Path(folder).is_dir():
        pytest.skip(f"needs real data: there is no folder {folder!r} (--data, HF_FT_DATA)")
    return Path(folder).resolve()


@pytest.fixture(autouse=True, scope="module")
def verifier_of_the_module(request):
    """Judge the runs of a module in its own process; a module marked `fresh_process` starts fresh ones.

    The verifier is the same. The imports of a fresh process would take half of the suite's time.
    """
    marks = getattr(request.module, "pytestmark", [])
    marked = any(mark.name == "fresh_process" for mark in (marks if isinstance(marks, list) else [marks]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_process, "FreshProcess", FRESH if marked else SameProcess)
        yield


@pytest.fixture(autouse=True)
def verifier_of_the_test(request, monkeypatch):
    """Start a fresh process for the verifier in a test that is marked `fresh_process`."""
    if request.node.get_closest_marker("fresh_process") is not None:
        monkeypatch.setattr(fresh_process, "FreshProcess", FRESH)


class SameProcess(contextlib.nullcontext):
    """Stands in for `FreshProcess`."""

    def import_like(self, modules):
        """Import nothing: this process has imported everything."""

    def paused(self):
        """Pause nothing."""
        return contextlib.nullcontext()

    def ask(self, request):
        """Keep the request."""
        self._verifier = Verifier(request)

    def judge(self):
        """Judge the folder."""
        return self._verifier.judge()

    def __enter__(self):
        return self


@pytest.fixture(autouse=True)
def one_launch_at_a_time(request):
    """accelerate's launcher uses a fixed port, so parallel tests must not launch at the same time."""
    if request.node.get_closest_marker("multi_process") is None:
        yield
        return
    with FileLock(Path(tempfile.gettempdir()) / "hf_ft-launch.lock"):
        yield
