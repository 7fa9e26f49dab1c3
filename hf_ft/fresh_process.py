"""A fresh Python process that loads the saved folder and predicts, so that the gate can compare results.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from hf_ft.errors import VerifyError
from hf_ft.parent_death import end_with_parent

if TYPE_CHECKING:
    from hf_ft.model.predictor import Predictor
    from hf_ft.task import Row

# Variables of the launcher: with them, the process would wait for other processes that do not exist.
LAUNCHER = re.compile(
    r"^(ACCELERATE_|FSDP_|TORCHELASTIC_|GROUP_|ROLE_|LOCAL_|MASTER_|RANK$|WORLD_SIZE$|OMP_NUM_THREADS$)"
)
_ERROR_CHARACTERS = 2000
# Packages whose submodules are imported when they are needed.
_IMPORTED = ("transformers", "timm", "torchvision", "PIL", "tokenizers", "peft", "hf_ft")


@dataclass(frozen=True)
class PipelineCall:
    """Rows that transformers' pipeline and the Predictor both predict.

    Args:
        tag: name of the pipeline, such as `image-classification`.
        rows: raw rows without targets.
        options: keyword arguments of the call.
    """

    tag: str
    rows: Sequence[Row]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """The predictions of a fresh process.

    Args:
        results: the task's result of each row.
        piped: for each row of the PipelineCall, the scores of the pipeline and of the Predictor by label.
    """

    results: list[Any]
    piped: list[tuple[dict[str, float], dict[str, float]]]


def may_be_main() -> bool:
    """Guess whether this is the main process, without importing accelerate, which knows."""
    return os.environ.get("RANK", "0") == "0"


class FreshProcess:
    """A process that imports the modules for prediction and waits for one request.

    It ends when this process ends for any reason, because that closes its standard input.
    """

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not LAUNCHER.match(key)}
        self._folder = Path()
        self._answer: Answer | None = None
        # A file: a process that writes much into a pipe that nobody reads would block.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hf_ft.fresh_process"],
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

        # It may have ended; `answer` reports why.
        with contextlib.suppress(psutil.Error):
            psutil.Process(self._process.pid).suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.Error):
                psutil.Process(self._process.pid).resume()

    def ask(
        self,
        model_folder: Path,
        rows: Sequence[Row],
        threads: int | None = None,
        pipeline: PipelineCall | None = None,
        trust_task: str | None = None,
    ) -> None:
        """Let the process load a model folder and predict raw rows; `answer` waits for the results.

        Args:
            model_folder: the saved model.
            rows: raw rows without targets.
            threads: number of CPU threads; None: torch's default.
            pipeline: rows for transformers' pipeline; None: no pipeline.
            trust_task: as for `Predictor.load`.
        """
        self._folder = model_folder
        self._send((str(model_folder), list(rows), threads, pipeline, trust_task))

    def answer(self) -> Answer:
        """Wait for the predictions and return them; further calls return the same ones.

        Raises:
            VerifyError: the process failed; the message ends with the last lines of its standard error.
        """
        if self._answer is not None:
            return self._answer
        assert self._process.stdout is not None
        content = self._process.stdout.read()
        if self._process.wait() != 0:
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
        # If the process has ended already, `answer` reports the reason.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _failed(self) -> VerifyError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        last = said[-_ERROR_CHARACTERS:]
        return VerifyError(f"{self._folder} cannot be used in a fresh process: {last}")


def _main() -> None:
    """Import modules, then load the folder and predict the rows that arrive on standard input."""
    # While it pauses, it cannot see that its input was closed.
    end_with_parent(signal.SIGKILL)
    # Prints of libraries go to standard error, because standard output carries the answer.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    import torch
    import transformers.modeling_utils  # noqa: F401 the slowest import, done while the run trains

    from hf_ft.model.predictor import Predictor

    try:
        while isinstance(message := pickle.load(sys.stdin.buffer), list):
            for name in message:
                # Not every module of the run can be imported by itself.
                with contextlib.suppress(ImportError, AttributeError):
                    importlib.import_module(name)
    except EOFError:  # the run ended without a request
        return
    folder, rows, threads, pipeline, trust_task = message
    if threads is not None:
        torch.set_num_threads(threads)
    predictor = Predictor.load(folder, trust_task=trust_task)
    predictor.task.shortcuts = False
    results = predictor.results(rows)
    piped = [] if pipeline is None else _piped(folder, predictor, pipeline)
    answer.write(pickle.dumps(Answer(results, piped)))
    answer.flush()
    # Skip the exit handlers of libraries, which take time.
    os._exit(0)


def _piped(
    folder: str, predictor: Predictor, call: PipelineCall
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return the scores of transformers' pipeline and of the Predictor for the same raw inputs."""
    from transformers import pipelines

    make: Any = pipelines.pipeline
    classify = make(call.tag, model=folder, device=predictor.device)
    inputs = [predictor.task.pipeline_input(row) for row in call.rows]
    found = classify(inputs, **call.options)
    answers = [predictor.task.decode(result)["scores"] for result in predictor.results(call.rows)]
    return [
        ({entry["label"]: entry["score"] for entry in entries}, scores)
        for entries, scores in zip(found, answers, strict=True)
    ]


if __name__ == "__main__":
    # Import the module under its own name: pickled classes of `__main__` could not be loaded by the run.
    importlib.import_module("hf_ft.fresh_process")._main()
