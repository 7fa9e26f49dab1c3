"""What a run leaves: the bytes of its result, and the names of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# The result: model and figures. The rest of a run folder holds times, paths and versions.
RESULT = ("model/**/*", "adapter/**/*", "results.json", "predictions.parquet")
# The lock, and the traceback of an attempt that failed.
OWN = {".lock", ".owner.json", "error.log"}


def result(folder: Path) -> dict[str, str]:
    """Return file -> sha256 of every file of the result of a run."""
    files = {path for pattern in RESULT for path in folder.glob(pattern) if path.is_file()}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }


def logged(folder: Path) -> list[dict[str, float]]:
    """Return the lines of the log but the last one of a training, which holds times.

    They are equal where every step is logged: a mean over several steps starts again at a resumed step.
    """
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "train_runtime" not in line]


def file_names(folder: Path) -> set[str]:
    """Return the names of all files of a run folder, hidden ones and checkpoints included."""
    every = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in every if name not in OWN}


def differences(folder: Path, reference: Path) -> list[str]:
    """Say what a finished run has other than the undisturbed one; empty where nothing differs."""
    ours, theirs = result(folder), result(reference)
    found = [f"{name} differs" for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    found += [] if logged(folder) == logged(reference) else ["log.jsonl differs"]
    names, expected = file_names(folder), file_names(reference)
    found += [f"{name} is missing" for name in sorted(expected - names)]
    found += [f"{name} was left behind" for name in sorted(names - expected)]
    others = [path.name for path in folder.parent.glob(f"{folder.name}-*") if path.is_dir()]
    return found + [f"a second run folder {name} was made" for name in others]
