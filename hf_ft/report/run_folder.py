"""The run folder: choose it, find the checkpoint to resume from, and write the files of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from hf_ft.causes import full_disk
from hf_ft.errors import RecipeError
from hf_ft.evaluate.results import results_content
from hf_ft.evaluate.stored_predictions import write_predictions
from hf_ft.storage.atomic import clean_up, is_temporary, read_json, write_json, write_text
from hf_ft.text_utils import hint
from hf_ft.train import checkpoints
from hf_ft.train.decisions import FILE, Decision
from hf_ft.train.schedule import with_choices
from hf_ft.verification.seal import SEAL

if TYPE_CHECKING:
    from accelerate import PartialState

    from hf_ft.evaluate.verdict import Verdict
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Evaluation
    from hf_ft.train.assemble import Setup

PACKAGES = (
    "hf_ft",
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "peft",
    "timm",
    "numpy",
)
# Keys whose value may differ between the recipe of a checkpoint and the recipe that resumes from it. The
# metric is not among them: the best value so far is one of the metric of the checkpoint.
SAFE = (
    "name",
    "output_dir",
    "evaluate.intervals",
    "evaluate.resamples",
    "evaluate.confidence",
    "evaluate.linear_probe",
    "evaluate.must_beat",
    "publish",
    "train.logging_steps",
    "train.report_to",
    "train.save_minutes",
    "train.threads",
)

RESUME = ("auto", "never", "must")
# The lock of a folder in use, and the process that holds it.
LOCK, OWNER = ".lock", ".owner.json"


@dataclass
class RunFolder:
    """The folder of a run.

    Args:
        path: the folder.
        checkpoint: the checkpoint to resume from, or None.
        notes: decisions with their reasons, one line each.
    """

    path: Path
    checkpoint: Path | None = None
    notes: list[str] = field(default_factory=list)


def interruption_message(recipe: Recipe, command: str) -> str:
    """Say which checkpoint an interrupted run has written, and which command resumes it.

    Args:
        recipe: the recipe of the run.
        command: the command that started the run.
    """
    found = choose_folder(recipe, "auto")
    if found.checkpoint is not None:
        return f"interrupted; to resume from {found.checkpoint}, run:\n  {command}"
    if found.path.exists():
        return f"interrupted before the first checkpoint; to start again in {found.path}, run:\n  {command}"
    return f"interrupted before anything was written; to start again, run:\n  {command}"


@contextlib.contextmanager
def open_folder(recipe: Recipe, resume: str, processes: PartialState) -> Iterator[RunFolder]:
    """Choose, create and lock the run folder on the main process, and send it to all processes.

    Raises:
        RecipeError: as for `choose_folder`; or another run uses the folder, or it cannot be created.
    """
    from accelerate.utils import broadcast_object_list

    with contextlib.ExitStack() as stack:
        chosen: list[Any] = [None]
        if processes.is_main_process:
            chosen = [_choose_and_lock(recipe, resume, stack)]
        yield broadcast_object_list(chosen)[0]


def _choose_and_lock(recipe: Recipe, resume: str, stack: contextlib.ExitStack) -> RunFolder:
    while True:
        chosen = choose_folder(recipe, resume)
        try:
            (chosen.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if full_disk(error) is not None:  # which is no mistake of the recipe
                raise
            raise RecipeError(f"output_dir: cannot create {chosen.path / 'checkpoints'}: {error}") from error
        with contextlib.ExitStack() as held:
            held.enter_context(locked(chosen.path))
            clean_up(chosen.path)
            # Until it was locked, another run may have begun, continued or finished in it.
            if choose_folder(recipe, resume) == chosen:
                stack.push(held.pop_all())
                return chosen


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own a run folder, so that no second run writes into it.

    The operating system gives the lock back when the process ends in whatever way, so none is left behind.

    Raises:
        RecipeError: another process owns the folder; the message names it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = read_json(folder / OWNER, dict) or {}
        who = (
            f" (process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')})"
            if owner
            else ""
        )
        raise RecipeError(
            f"{folder}: another run is writing to this folder{who}; wait until it ends, stop it, or choose "
            "another output_dir"
        ) from None
    try:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(folder / OWNER, {"host": platform.node(), "pid": os.getpid(), "since": since})
        yield
    finally:
        lock.release()


def choose_folder(recipe: Recipe, resume: str) -> RunFolder:
    """Choose the run folder; an existing run is never overwritten.

    An unfinished run of the same recipe is resumed from its newest complete checkpoint. Beside a finished
    run, and with `resume="never"`, a folder with a number is used.

    Args:
        recipe: the resolved recipe.
        resume: `auto`, `never`, or `must`, which refuses to start a new run.

    Raises:
        RecipeError: the folder holds an unfinished run of another recipe (the message lists the differences),
            `must` finds no complete checkpoint, or `resume` is another word.
    """
    if resume not in RESUME:
        raise RecipeError(f"resume: expected {' or '.join(RESUME)}, found {resume!r}{hint(resume, RESUME)}")
    path = Path(recipe.output_dir)
    runs = _runs_of(recipe, path)
    newest = runs[-1] if runs else path
    notes: list[str] = []
    if runs and resume != "never" and not is_finished(newest):
        checkpoint, notes = checkpoints.newest(newest / "checkpoints")
        if checkpoint is not None:
            _same_recipe(recipe, checkpoint)
            checkpoints.require_best(checkpoint)
            return RunFolder(newest, checkpoint, [*notes, f"resume from {checkpoint}"])
        if (
            not notes
            and (newest / "recipe.yaml").read_text(encoding="utf-8") == _filled_in(recipe, newest).to_yaml()
        ):
            return RunFolder(newest)
    if resume == "must":
        reasons = "".join(f"; {note}" for note in notes)
        raise RecipeError(
            f"{newest}: there is no complete checkpoint of an unfinished run to resume from{reasons}"
        )
    fresh, number = path, 1
    while fresh.exists() and not _is_blank(fresh):
        number += 1
        fresh = path.with_name(f"{path.name}-{number}")
    earlier = [f"{newest} holds an earlier run; this run is written to {fresh}"] if fresh != path else []
    return RunFolder(fresh, None, [*notes, *earlier])


def finished_run_of(recipe: Recipe) -> Path | None:
    """Return the newest finished and sealed run of exactly this recipe, or None.

    Args:
        recipe: as the user wrote it; for each `auto`, what the run chose counts.
    """
    for folder in reversed(_runs_of(recipe, Path(recipe.output_dir))):
        written = (folder / "recipe.yaml").read_text(encoding="utf-8")
        if is_finished(folder) and written == _filled_in(recipe, folder).to_yaml():
            return folder
    return None


def is_finished(folder: Path) -> bool:
    """Tell whether a run has ended: it is sealed. What the gate has refused is judged again."""
    return (folder / SEAL).is_file()


def _filled_in(recipe: Recipe, folder: Path) -> Recipe:
    """Replace every `auto` of the recipe by the value that the run in this folder chose."""
    chosen = read_json(folder / FILE, dict) or {}
    return with_choices(recipe, {subject: Decision(**entry) for subject, entry in chosen.items()})


def _is_blank(folder: Path) -> bool:
    """Tell whether a folder holds no file of a run but those that it writes before its recipe."""
    return folder.is_dir() and all(
        path.name in (LOCK, OWNER, FILE, "error.log")
        or is_temporary(path.name)
        or (path.name == "checkpoints" and not any(path.iterdir()))
        for path in folder.iterdir()
    )


def _runs_of(recipe: Recipe, path: Path) -> list[Path]:
    """List the folders of earlier runs of this recipe, oldest first: `runs/x`, `runs/x-2`, ...

    A folder with such a name counts only if the recipe in it has the same name.
    """
    from hf_ft.recipe.yaml_text import read_yaml

    found = []
    for folder in path.parent.glob("*") if path.parent.is_dir() else ():
        numbered = re.fullmatch(rf"{re.escape(path.name)}(?:-(\d+))?", folder.name)
        file = folder / "recipe.yaml"
        if numbered and file.is_file():
            content = read_yaml(file.read_text(encoding="utf-8"), str(file)).value
            if isinstance(content, dict) and content.get("name") == recipe.name:
                found.append((int(numbered[1] or 1), folder))
    return [folder for _, folder in sorted(found)]


def _same_recipe(recipe: Recipe, checkpoint: Path) -> None:
    """Refuse to resume with a recipe that differs from that of the checkpoint (tf#22580)."""
    from hf_ft.recipe.read import load_recipe

    then, now = _flat(load_recipe(checkpoint / "recipe.yaml").resolved()), _flat(recipe.resolved())
    differing = [
        f"  {key}: {then.get(key, 'absent')} then, {now.get(key, 'absent')} now"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
        and not any(key == safe or key.startswith(f"{safe}.") for safe in SAFE)
    ]
    if differing:
        raise RecipeError(
            f"{checkpoint.parent.parent} holds an unfinished run of another recipe:\n"
            + "\n".join(differing)
            + "\nUndo the change, write another output_dir, or start a new run with --resume never "
            "(in Python: resume='never')"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _flat(inner, f"{path}.{name}" if path else str(name)).items()
    }


def environment() -> dict[str, Any]:
    """Collect versions, hardware, command and git commit of this run."""
    import torch

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "packages": found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device or "cpu"),
        "devices": torch.accelerator.device_count() if device else 0,
        "threads": torch.get_num_threads(),
        "arguments": sys.argv[1:],
        "commit_of_working_folder": _commit(),
    }


def _commit() -> str | None:
    if shutil.which("git") is None:
        return None
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def write_origin(folder: Path, setup: Setup) -> None:
    """Write recipe.yaml, data.json and environment.json before training, so that a run that crashes has them.

    recipe.yaml holds the chosen value in place of every `auto`, so that it repeats the run.
    """
    write_text(folder / "recipe.yaml", setup.recipe.to_yaml())
    setup.data.write(folder)
    write_json(folder / "environment.json", environment(), indent=2)


def write_run(
    folder: Path, setup: Setup, evaluations: dict[str, Evaluation], verdict: Verdict
) -> dict[str, Any]:
    """Write results.json, predictions.parquet and baselines.parquet; return the content of results.json."""
    results = results_content(setup.recipe, setup.task, setup.data, evaluations, verdict, setup.metric)
    write_predictions(folder, setup.task, evaluations)
    write_json(folder / "results.json", results, indent=2)
    return results
