"""A fresh Python process that knows nothing but a saved folder: the gate asks it what the folder answers.

It is started with the run, so that its imports, which take most of its seconds, are done when it is asked.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from hf_ft.errors import VerifyError

if TYPE_CHECKING:
    from hf_ft.model.predictor import Predictor
    from hf_ft.task import Row

# Variables of the launcher: a process that inherits them would wait for peers that never come.
LAUNCHER = re.compile(
    r"^(ACCELERATE_|FSDP_|TORCHELASTIC_|GROUP_|ROLE_|LOCAL_|MASTER_|RANK$|WORLD_SIZE$|OMP_NUM_THREADS$)"
)
_ERROR_CHARACTERS = 2000
# Packages that prediction imports piece by piece.
_IMPORTED = ("transformers", "timm", "torchvision", "PIL", "tokenizers", "peft", "hf_ft")


@dataclass(frozen=True)
class PipelineCall:
    """A call of transformers' pipeline, and of the Predictor beside it.

    Args:
        tag: name of the pipeline, such as `image-classification`.
        rows: raw rows without targets.
        options: of the call.
    """

    tag: str
    rows: Sequence[Row]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a fresh process answers.

    Args:
        results: the task's result of each row.
        piped: (scores of the pipeline, scores of the Predictor) of each row of the PipelineCall, by label.
    """

    results: list[Any]
    piped: list[tuple[dict[str, float], dict[str, float]]]


class FreshProcess:
    """A process that imports what prediction needs and waits for one question.

    It ends by itself when this process ends, whichever way: its standard input is then closed.
    """

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not LAUNCHER.match(key)}
        self._folder = Path()
        self._answer: Answer | None = None
        # A file, because a pipe that nobody reads would stop a process that says much.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hf_ft.fresh_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def import_like(self, modules: Iterable[str]) -> None:
        """Let it import those of these modules that prediction may need, while the run trains.

        Args:
            modules: names, such as `sys.modules` has them once the model is loaded.
        """
        names = sorted(name for name in modules if name.partition(".")[0] in _IMPORTED)
        self._send(names)

    def ask(
        self,
        model_folder: Path,
        rows: Sequence[Row],
        threads: int | None = None,
        pipeline: PipelineCall | None = None,
    ) -> None:
        """Let it load the folder and predict raw rows; `answer` waits for the results.

        Args:
            model_folder: what a user will load.
            rows: raw rows without targets.
            threads: how many to compute with; None: torch's default.
            pipeline: what to ask transformers' pipeline of the folder; None: nothing.
        """
        self._folder = model_folder
        self._send((str(model_folder), list(rows), threads, pipeline))

    def answer(self) -> Answer:
        """Wait for the answer to what was asked, and give it; also when called again.

        Raises:
            VerifyError: the folder cannot be used in a fresh process; the message ends with its last words.
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
        """End the process if it has not ended, and let go of its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            # What it never read is lost with it.
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
        # Where it has ended already, `answer` says why.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _failed(self) -> VerifyError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        last = said[-_ERROR_CHARACTERS:]
        return VerifyError(f"{self._folder} cannot be used in a fresh process: {last}")


def _main() -> None:
    """Import what prediction needs, then predict the rows on standard input with the folder named there."""
    # What libraries print must not mix with the answer.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    import torch
    import transformers.modeling_utils  # noqa: F401 the longest of the imports, done while the run trains

    from hf_ft.model.predictor import Predictor

    try:
        while isinstance(message := pickle.load(sys.stdin.buffer), list):
            for name in message:
                # A module that only the run's own process can import, or that needs another one first.
                with contextlib.suppress(ImportError, AttributeError):
                    importlib.import_module(name)
    except EOFError:  # the run ended before it had anything to ask
        return
    folder, rows, threads, pipeline = message
    if threads is not None:
        torch.set_num_threads(threads)
    predictor = Predictor.load(folder)
    predictor.task.shortcuts = False
    results = predictor.results(rows)
    piped = [] if pipeline is None else _piped(folder, predictor, pipeline)
    answer.write(pickle.dumps(Answer(results, piped)))
    answer.flush()
    # Without waiting for what libraries do when a process ends.
    os._exit(0)


def _piped(
    folder: str, predictor: Predictor, call: PipelineCall
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Give the scores of transformers' pipeline and those of the Predictor, on the same raw inputs."""
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
    # Under its own name, so that the classes that it sends are those that the other process knows.
    importlib.import_module("hf_ft.fresh_process")._main()
