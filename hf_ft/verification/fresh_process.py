"""The fresh Python process in which the verifier of a run judges it.

The run starts it first: its imports take most of its time, and run beside the imports of the run itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from hf_ft.errors import VerifyError
from hf_ft.parent_death import end_with_parent

if TYPE_CHECKING:
    from hf_ft.verification.items import Judgement
    from hf_ft.verification.verifier import Request

# Variables of the launcher: with them, the process would wait for other processes that do not exist.
LAUNCHER = re.compile(
    r"^(ACCELERATE_|FSDP_|TORCHELASTIC_|GROUP_|ROLE_|LOCAL_|MASTER_|RANK$|WORLD_SIZE$|OMP_NUM_THREADS$)"
)
_ERROR_CHARACTERS = 2000
# The message that follows a request when the run folder is complete.
COMPLETE = "complete"
# Packages whose submodules are imported when they are needed.
_IMPORTED = (
    "transformers", "timm", "torchvision", "PIL", "tokenizers", "peft", "hf_ft", "datasets", "pandas",
    "pyarrow", "sklearn",
)  # fmt: skip


def may_be_main() -> bool:
    """Guess whether this is the main process, without importing accelerate, which knows."""
    return os.environ.get("RANK", "0") == "0"


class FreshProcess:
    """A process that imports the modules of a run and waits for one request.

    It ends when this process ends for any reason, because that closes its standard input.
    """

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not LAUNCHER.match(key)}
        # A module beside a user's script, such as a task or a source of rows, is found there too.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._folder = Path()
        self._answer: Judgement | None = None
        # A file: a process that writes much into a pipe that nobody reads would block.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hf_ft.verification.fresh_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def import_like(self, modules: Iterable[str]) -> None:
        """Let the process import the modules that prediction may need, while the run trains.

        Args:
            modules: names of modules, such as the keys of `sys.modules` after the model was loaded.
        """
        names = sorted(name for name in modules if name.partition(".")[0] in _IMPORTED)
        self._send(names)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process for a while, so that its imports do not disturb a measurement of speed."""
        import psutil

        # It may have ended; `judge` reports why.
        with contextlib.suppress(psutil.Error):
            psutil.Process(self._process.pid).suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.Error):
                psutil.Process(self._process.pid).resume()

    def ask(self, request: Request) -> None:
        """Let the process read the rows and predict with the saved model; its files need not be complete.

        Args:
            request: what to judge.
        """
        self._folder = request.folder
        self._send(request)

    def judge(self) -> Judgement:
        """Let the process judge the folder, which is complete now, and wait; further calls return the same.

        Raises:
            VerifyError: the process failed; the message ends with the last lines of its standard error.
        """
        if self._answer is not None:
            return self._answer
        self._send(COMPLETE)
        assert self._process.stdout is not None
        content = self._process.stdout.read()
        if self._process.wait() != 0 or not content:
            raise self._failed()
        self._answer = pickle.loads(content)
        return self._answer

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            # Closing flushes data that the process will never read.
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        # If the process has ended already, `judge` reports the reason.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _failed(self) -> VerifyError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        last = said[-_ERROR_CHARACTERS:]
        return VerifyError(f"{self._folder} cannot be judged in a fresh process: {last}")


def _main() -> None:
    """Import modules, then judge the folder of the request that arrives on standard input."""
    # While it pauses, it cannot see that its input was closed.
    end_with_parent(signal.SIGKILL)
    # Prints of libraries go to standard error, because standard output carries the answer.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    import torch
    import transformers.modeling_utils  # noqa: F401 the slowest import, done while the run trains

    from hf_ft.verification.verifier import Verifier

    try:
        while isinstance(message := pickle.load(sys.stdin.buffer), list):
            for name in message:
                # Not every module of the run can be imported by itself.
                with contextlib.suppress(ImportError, AttributeError):
                    importlib.import_module(name)
        if message.threads is not None:
            torch.set_num_threads(message.threads)
        verifier = Verifier(message)
        verifier.predict()
        pickle.load(sys.stdin.buffer)  # the folder is complete
    except EOFError:  # the run ended without a request
        return
    answer.write(pickle.dumps(verifier.judge()))
    answer.flush()
    # Skip the exit handlers of libraries, which take time.
    os._exit(0)


if __name__ == "__main__":
    # Import the module under its own name: pickled classes of `__main__` could not be loaded by the run.
    importlib.import_module("hf_ft.verification.fresh_process")._main()
