"""The errors that hf_ft raises on purpose, one class per stage of a run.

Every message states what was found, what was expected, and the key, row or file to change.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hf_ft.causes import explain, full_disk
from hf_ft.secret_values import without_secrets


class HfFtError(Exception):
    """Base class of every error that a user can act on; the command line prints it without a traceback."""


class RecipeError(HfFtError):
    """The recipe or the command line is wrong."""


class DataError(HfFtError):
    """The data cannot be read, mapped, split or trusted."""


class AuditError(DataError):
    """The audit found rows that cannot be trained on.

    Args:
        findings: the `Findings` of the audit; `findings.errors` has at least one line.
    """

    def __init__(self, findings: Any):
        super().__init__("\n".join(findings.errors))
        self.findings = findings


class ModelError(HfFtError):
    """The model cannot be loaded, adapted, frozen or saved as asked."""


class TrainError(HfFtError):
    """Training cannot start or cannot go on."""


class VerifyError(HfFtError):
    """The run finished, but the gate found that its result cannot be trusted."""


class VerdictError(HfFtError):
    """The run finished, and its model is not better than what `evaluate.must_beat` names."""


class PublishError(HfFtError):
    """The model could not be published on the Hub; the run folder is complete."""


class Stopped(KeyboardInterrupt):
    """A signal stopped the run; during training a checkpoint was written before.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C; for another signal 75 (EX_TEMPFAIL), which asks a scheduler to start it again."""
        return INTERRUPTED if self.number == signal.SIGINT else STOPPED


# The exit code of a program that was stopped with Ctrl-C, and with another signal.
INTERRUPTED, STOPPED = 130, 75


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Print an HfFtError without a traceback and exit the program with its exit code.

    Exit codes: 0 done; 1 the run, its data or its model failed; 2 the recipe or the command line is wrong;
    130 interrupted (Ctrl-C); 75 stopped by SIGTERM, SIGUSR1 or SIGHUP.
    """
    escape_unprintable()
    try:
        yield
    except HfFtError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, RecipeError) else 1)
    except Exception as error:  # the only other place that catches everything is an item of the gate
        if not getattr(error, "__notes__", None):
            _log_traceback(error)
        print("\n".join([explain(error), *_notes(error)]), file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def logged(stage: Callable[[], str], folder: Path) -> Iterator[None]:
    """Write the traceback of what is raised inside the block to `error.log` in a folder, and add a note.

    Args:
        stage: returns the current stage of the run.
        folder: of the run.
    """
    try:
        yield
    except HfFtError:
        raise
    except Exception as error:
        error.add_note(f"This happened in the stage {stage()!r} of the run in {folder}.")
        _log_traceback(error, folder)
        raise


def escape_unprintable() -> None:
    """Let standard output escape the characters that its encoding lacks, as standard error does.

    A terminal may know ASCII only, and a class may be called 停: its name must not end the run.
    """
    if getattr(sys.stdout, "errors", None) in ("strict", "surrogateescape"):
        with contextlib.suppress(AttributeError, ValueError):  # not a stream of Python's own, or closed
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _log_traceback(error: Exception, folder: Path | None = None) -> None:
    """Write the traceback to a file in a folder, or else in a temporary one, and name it in a note."""
    text = without_secrets("".join(traceback.format_exception(error)))
    for place in (folder, None):
        with contextlib.suppress(OSError):  # such as a full disk
            log = (place or Path(tempfile.mkdtemp(prefix="hf_ft-"))) / "error.log"
            try:
                log.write_text(text, encoding="utf-8", errors="replace")
            except OSError:
                log.unlink(missing_ok=True)
                raise
            error.add_note(f"The traceback is in {log}.")
            return


def _notes(error: Exception) -> list[str]:
    """List the notes of an error, and those of the full disk that it was caused by."""
    full = full_disk(error)
    own = [] if full is None or full is error else getattr(full, "__notes__", [])
    return [*own, *getattr(error, "__notes__", [])]
