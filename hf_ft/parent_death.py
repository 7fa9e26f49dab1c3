"""Let this process end with the process that started it, on Linux."""

from __future__ import annotations

import os
import signal
import sys

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent(number: signal.Signals) -> None:
    """Let Linux send this process a signal when its parent dies, in whatever way; elsewhere nothing happens.

    Args:
        number: SIGKILL, or a signal that the process handles.
    """
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number)
        if os.getppid() != parent:  # it died before
            os.kill(os.getpid(), number)


def is_launched() -> bool:
    """Tell whether a launcher (`accelerate launch`, torchrun) started this process, and not a shell."""
    import psutil

    try:
        command = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return False
    names = {os.path.basename(part) for part in command}
    return bool(names & {"torchrun", "accelerate.commands.launch"}) or {"accelerate", "launch"} <= names
