"""Checkpoints that are complete or absent, restore every tensor, and hold no pickle.

The Trainer's own loader matches names with strict=False and leaves most of a ViT at its old values
(tf#43701), so a checkpoint here holds the live model under its own names and is loaded strictly. Layout of
`checkpoint-N/`:

    model.safetensors                     every parameter and buffer
    optimizer.safetensors, optimizer.json
    scheduler.json, random-R.safetensors, random-R.json (one per process)
    trainer_state.json, recipe.yaml
    complete.json                         written last: size and sha256 of every file
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from hf_ft.errors import TrainError

MARKER = "complete.json"


def save_weights(model: torch.nn.Module, folder: Path) -> None:
    """Write every parameter and buffer of the live model, under its own names."""
    save_model(model, str(folder / "model.safetensors"))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Copy every tensor back in place.

    Raises:
        TrainError: a tensor is missing, unexpected, or of another shape.
    """
    try:
        load_model(model, str(folder / "model.safetensors"), strict=True)
    except RuntimeError as error:
        raise TrainError(f"{folder}: the checkpoint does not fit the model: {error}") from error


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Write the optimizer's tensors as safetensors and its numbers as JSON; the scheduler as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            kind: dict[str, Any] = tensors if torch.is_tensor(value) else numbers
            kind[f"{index}.{key}"] = value
    save_file(
        {key: value.contiguous().cpu() for key, value in tensors.items()},
        str(folder / "optimizer.safetensors"),
    )
    _write_json(folder / "optimizer.json", {"numbers": numbers, "param_groups": state["param_groups"]})
    _write_json(folder / "scheduler.json", scheduler.state_dict())


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Take back what `save_optimizer` wrote, bit for bit."""
    written = json.loads((folder / "optimizer.json").read_text())
    state: dict[int, dict[str, Any]] = {}
    for name, value in [
        *load_file(str(folder / "optimizer.safetensors")).items(),
        *written["numbers"].items(),
    ]:
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in written["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    scheduler.load_state_dict(json.loads((folder / "scheduler.json").read_text()))


def save_random(folder: Path, rank: int) -> None:
    """Write the random state of this process: Python, numpy, torch, and every CUDA device."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if torch.cuda.is_available():
        tensors |= {f"cuda{index}": value for index, value in enumerate(torch.cuda.get_rng_state_all())}
    save_file(tensors, str(folder / f"random-{rank}.safetensors"))
    numpy_rest = [name, position, has_gauss, cached]
    _write_json(folder / f"random-{rank}.json", {"python": [version, internal, gauss], "numpy": numpy_rest})


def load_random(folder: Path, rank: int) -> None:
    """Take back the random state of this process.

    Raises:
        TrainError: the checkpoint was written by another number of processes.
    """
    path = folder / f"random-{rank}.safetensors"
    if not path.exists():
        raise TrainError(
            f"{folder}: no random state for process {rank}; resume with the number of processes it had"
        )
    tensors = load_file(str(path))
    rest = json.loads((folder / f"random-{rank}.json").read_text())
    version, internal, gauss = rest["python"]
    random.setstate((version, tuple(internal), gauss))
    name, position, has_gauss, cached = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    devices = [tensors[key] for key in sorted(tensors) if key.startswith("cuda")]
    if devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(devices)


def seal(temporary: Path, final: Path) -> None:
    """Declare a checkpoint complete: hash every file, write the marker, flush, move it into place."""
    files = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
    _write_json(temporary / MARKER, files)
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)


def fault(folder: Path) -> str | None:
    """Say why a checkpoint cannot be trusted, or None."""
    marker = folder / MARKER
    if not marker.exists():
        return "it was never completed"
    for name, expected in json.loads(marker.read_text()).items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _digest(path) != expected:
            return f"{name} has changed since it was written"
    return None


def step_of(folder: Path) -> int:
    """Give the optimizer step that a checkpoint folder was written at."""
    return int(folder.name.rpartition("-")[2])


def newest(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that is whole, walking back over broken ones.

    Returns:
        The folder or None, and one line for each checkpoint that was passed over.
    """
    skipped: list[str] = []
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=step_of, reverse=True):
        reason = fault(folder)
        if reason is None:
            return folder, skipped
        skipped.append(f"passed over {folder.name}: {reason}")
    return None, skipped


def prune(checkpoints: Path, keep: set[str]) -> None:
    """Delete every checkpoint but those named."""
    for folder in checkpoints.glob("checkpoint-*"):
        if folder.name not in keep:
            shutil.rmtree(folder)


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
