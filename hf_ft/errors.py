"""The errors that hf_ft raises on purpose, one class per stage of a run.

Every message states what was found, what was expected, and the key, row or file to change.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


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


# The exit code of a program that was stopped with Ctrl-C.
INTERRUPTED = 130


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Print an HfFtError without a traceback and exit the program with its exit code.

    Exit codes: 0 done; 1 the run, its data or its model failed; 2 the recipe or the command line is wrong;
    130 interrupted (Ctrl-C).
    """
    try:
        yield
    except HfFtError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, RecipeError) else 1)
