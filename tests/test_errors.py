"""What nobody foresaw ends in a sentence with stage, cause and the file with the traceback."""

import errno
import re
from pathlib import Path

import pytest

from hf_ft.errors import DataError, RecipeError, Stopped, exit_codes, logged


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
