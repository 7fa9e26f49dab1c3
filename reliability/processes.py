"""Start runs as processes of their own, and end them in every way.

Importing torch and transformers takes most of the time of a small run. `Forked` therefore forks each run from
a process that has imported them and computed nothing; `Launched` uses the documented commands.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from reliability.tiny_runs import Case, Recipe

ROOT = Path(__file__).parents[1]
# Imported once, before the first fork; what is missing here is imported by every run.
PRELOADED = ["reliability.preloaded"]
# Seconds after which a run counts as one that hangs.
LONGEST = 300


def environment(cache: Path) -> dict[str, str]:
    """Return the variables that every run gets: caches of its own, no network, no bars."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"HF_FT_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**own, "PYTHONPATH": path, "TQDM_DISABLE": "1"}


class Launched:
    """One run, started with the documented command.

    Args:
        recipe: a file.
        processes: number of training processes.
        cache: the cache folder of the run.
        log: the file for its output.
    """

    def __init__(self, recipe: Path, processes: int, cache: Path, log: Path):
        self.log = log
        launcher = ["-m", "accelerate.commands.launch", "--config_file"]
        launcher += [str(ROOT / "accelerate_configs" / "cpu_2proc.yaml")]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "hf_ft.run", str(recipe)]
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment(cache)},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.roots = [self._process.pid]

    def exit_codes(self) -> list[int | None]:
        """Return the exit code of each process that was started; None while it runs."""
        return [self._process.poll()]


class Forked:
    """One run, forked from a process that has imported everything; the arguments are those of `Launched`."""

    def __init__(self, recipe: Path, processes: int, cache: Path, log: Path):
        self.log = log
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = _free_port()
        self._processes = []
        for rank in range(processes):
            variables = environment(cache) | (_ranks(rank, processes, port) if processes > 1 else {})
            process = context.Process(target=_run, args=(str(recipe), variables, str(log)))
            process.start()
            self._processes.append(process)
        self.roots = [int(process.pid or 0) for process in self._processes]

    def exit_codes(self) -> list[int | None]:
        """Return the exit code of each process that was started; None while it runs."""
        return [process.exitcode for process in self._processes]


def made(case: Case, folder: Path) -> Recipe:
    """Fill the folder of a case in a process of its own: this one should compute nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_make, args=(case, folder))
    process.start()
    process.join()
    return json.loads((folder / "recipe.json").read_text())


def _make(case: Case, folder: Path) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = case.recipe(folder)
    (folder / "recipe.json").write_text(json.dumps(recipe))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _ranks(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return what `accelerate launch` tells each of its processes."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return {**place, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def _run(recipe: str, variables: dict[str, str], log: str) -> None:
    """Do in a forked process what `python -m hf_ft.run RECIPE` does."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(variables)
    os.chdir(ROOT)
    # Workers of the DataLoader start as they do in a program of its own.
    multiprocessing.set_start_method(None, force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(ROOT / "hf_ft" / "run.py"), recipe]
    module = importlib.import_module("hf_ft.run")
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(module.run)
    code = 0
    try:
        with module.exit_codes():
            app()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    # As at the end of a program, without the handlers that multiprocessing would run.
    os._exit(code)


def is_running(run: Launched | Forked) -> bool:
    """Tell whether any of the processes that were started still runs."""
    return None in run.exit_codes()


def family(run: Launched | Forked) -> list[psutil.Process]:
    """List every process of a run: those that were started, and all that they started."""
    found = []
    for pid in run.roots:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            found += [root, *root.children(recursive=True)]
    return found


def kill_all(run: Launched | Forked) -> None:
    """Kill every process of a run at once, as a machine that loses its power does."""
    members = family(run)
    for process in members:  # so that none of them sees the others end
        with contextlib.suppress(psutil.Error):
            process.suspend()
    for process in {*members, *family(run)}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    gone(run, members)


def gone(run: Launched | Forked, members: list[psutil.Process]) -> None:
    """Wait until every process of a run has ended.

    Raises:
        TimeoutError: one of them stays behind.
    """
    until = time.monotonic() + LONGEST
    while is_running(run) and time.monotonic() < until:
        time.sleep(0.01)
    _, alive = psutil.wait_procs([one for one in members if one.pid not in run.roots], timeout=60)
    if alive or is_running(run):
        raise TimeoutError(f"still running: {[one.pid for one in alive] or run.roots}; see {run.log}")


def wait(run: Launched | Forked) -> int:
    """Wait for the end of a run; return the first exit code that is not 0, or 0.

    Raises:
        TimeoutError: it hangs.
    """
    gone(run, [])
    return next((code for code in run.exit_codes() if code), 0)  # type: ignore[misc]
