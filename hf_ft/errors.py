"""The errors a user can meet, one per room.

Every message states what was found, what was expected, and the key, row or file to change.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


class HfFtError(Exception):
    """Base of every error that hf_ft raises on purpose; the command line prints it without a traceback."""


class RecipeError(HfFtError):
    """The recipe cannot be used as written."""


class DataError(HfFtError):
    """The data cannot be read, mapped, split or trusted."""


class AuditError(DataError):
    """The audit found rows that cannot be trained on.

    Args:
        findings: all that the audit found; `findings.errors` has at least one line.
    """

    def __init__(self, findings: Any):
        super().__init__("\n".join(findings.errors))
        self.findings = findings


class ModelError(HfFtError):
    """The model cannot be loaded, adapted, frozen or saved as asked."""


class TrainError(HfFtError):
    """Training had to stop."""


class VerifyError(HfFtError):
    """The run finished, but the gate found that its result cannot be trusted."""


class VerdictError(HfFtError):
    """The run finished, and its model is not better than what `evaluate.must_beat` names."""


class PublishError(HfFtError):
    """The result could not be published; the run itself is unharmed."""


# The exit code of a program that was stopped with Ctrl-C.
INTERRUPTED = 130


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """End the program on an error that a user can act on: its message without a traceback, and an exit code.

    Codes: 0 done; 1 the run, its data or its model failed; 2 the recipe or the command line is wrong; 130
    interrupted (Ctrl-C).
    """
    try:
        yield
    except HfFtError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, RecipeError) else 1)
