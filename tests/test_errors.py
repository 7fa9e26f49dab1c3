"""What nobody foresaw ends in a sentence with stage, cause and the file with the traceback."""

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ft.errors import DataError, RecipeError, Stopped, exit_codes, logged
from hf_ft.report.console import Console


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("bad value\nmore"), "ValueError: bad value"),
        (KeyError(), "KeyError"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x"),
            r"disk is full: x cannot .* are free at .*run the same command again",
        ),
        (MemoryError(), r"not enough memory \(MemoryError.*per_device_train_batch_size"),
        (RuntimeError("CUDA out of memory. Tried"), r"not enough memory .*out of memory"),
    ],
)
def test_an_unforeseen_error_is_a_sentence_and_its_traceback_a_file(tmp_path, capsys, error, said):
    with pytest.raises(SystemExit) as end, exit_codes(), logged(lambda: "train", tmp_path):
        raise error
    printed = capsys.readouterr().err
    assert end.value.code == 1 and "Traceback" not in printed
    assert re.search(said, printed)
    assert f"stage 'train' of the run in {tmp_path}" in printed and f"in {tmp_path / 'error.log'}" in printed
    assert "test_errors.py" in (tmp_path / "error.log").read_text()


def test_an_error_outside_of_a_run_has_its_traceback_in_a_file_too(capsys):
    with pytest.raises(SystemExit), exit_codes():
        raise ZeroDivisionError("division by zero")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "ZeroDivisionError: division by zero"
    log = Path(second.removeprefix("The traceback is in ").rstrip("."))
    assert "ZeroDivisionError" in log.read_text()


@pytest.mark.parametrize(("error", "code"), [(RecipeError("r"), 2), (DataError("d"), 1)])
def test_errors_of_hf_ft_have_no_traceback(tmp_path, capsys, error, code):
    with pytest.raises(SystemExit) as end, exit_codes(), logged(lambda: "train", tmp_path):
        raise error
    assert end.value.code == code and capsys.readouterr().err == f"{error}\n" and not list(tmp_path.iterdir())


def test_a_program_gets_its_own_exception(tmp_path):
    """Such as the one with which a callback of a search prunes a trial."""
    with pytest.raises(ZeroDivisionError), logged(lambda: "train", tmp_path):
        raise ZeroDivisionError
    assert issubclass(Stopped, KeyboardInterrupt)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_knows_ascii_only_shows_escapes(encoding):
    """A class called 停 ended a run with a UnicodeEncodeError."""
    program = (
        "from hf_ft.errors import exit_codes\nfrom hf_ft.report.console import Console\n"
        "with exit_codes():\n    Console().lines(['停'])\n    print('停')\n    raise RuntimeError('停')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, check=False)
    assert ran.returncode == 1 and ran.stdout == b"  \\u505c\n\\u505c\n"
    assert ran.stderr.startswith(b"RuntimeError: \\u505c\n")


def test_a_program_that_prints_to_ascii_gets_escapes_too(monkeypatch):
    """`finetune` is called by a script of the user's own, without the command line."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    Console().lines(["停"])
    stream.flush()
    assert stream.buffer.getvalue() == b"  \\u505c\n"


def test_a_full_disk_everywhere_still_gives_the_sentence(tmp_path, capsys, monkeypatch):
    """Then the traceback is nowhere, and nothing says that it is."""

    def full(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit), exit_codes(), logged(lambda: "train", tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "log.jsonl"))
    printed = capsys.readouterr().err
    assert "log.jsonl cannot be written" in printed and "in the stage 'train'" in printed
    assert "traceback" not in printed and not (tmp_path / "error.log").exists()


def test_the_traceback_goes_elsewhere_if_the_disk_of_the_run_is_full(tmp_path, capsys):
    """A file in the place of the run folder: error.log cannot be written there."""
    (tmp_path / "run").write_text("")
    with pytest.raises(SystemExit), exit_codes(), logged(lambda: "train", tmp_path / "run"):
        raise ZeroDivisionError("secret")
    log = Path(re.search(r"The traceback is in (\S+)\.\n", capsys.readouterr().err)[1])
    assert log.parent != tmp_path / "run" and "ZeroDivisionError" in log.read_text()


def test_the_traceback_holds_no_secret_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY_2", "canary-in-a-coal-mine")
    with pytest.raises(SystemExit), exit_codes(), logged(lambda: "train", tmp_path):
        raise ValueError("asked with canary-in-a-coal-mine")
    assert "asked with $MY_API_KEY_2" in (tmp_path / "error.log").read_text()
