"""Checkpoints that are complete or absent, restore every tensor, and hold no pickle.

The Trainer's own loader matches names with strict=False and leaves most of a ViT at its old values
(tf#43701), so a checkpoint here holds the live model under its own names and is loaded strictly. Layout of
`checkpoint-N/`:

    model.safetensors                     every parameter that learns, and every persistent buffer
    frozen.safetensors                    the other parameters, shared by the checkpoints that a process wrote
                                          (hard links): damage to it is damage to all of them
    optimizer.safetensors, optimizer.json
    scheduler.json, random-R.safetensors, random-R.json (one per process)
    trainer_state.json, recipe.yaml
    complete.json                         written last: size and sha256 of every file
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hf_ft.errors import TrainError
from hf_ft.storage.atomic import replace_folder
from hf_ft.text_utils import listing

WEIGHTS, FROZEN, MARKER = "model.safetensors", "frozen.safetensors", "complete.json"


def moving_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give every tensor that training may move: parameters that learn, and buffers; each once."""
    frozen = {name for name, parameter in _parameters(model) if not parameter.requires_grad}
    return {name: tensor for name, tensor in _once(model).items() if name not in frozen}


def save_weights(model: torch.nn.Module, folder: Path, before: Path | None = None) -> None:
    """Write every parameter and buffer of the live model, under its own names.

    Args:
        model: the live model.
        folder: of the new checkpoint.
        before: an earlier checkpoint of the same run, with which the frozen weights are shared.
    """
    every, moving = _once(model), moving_tensors(model)
    save_file({name: tensor.contiguous() for name, tensor in moving.items()}, str(folder / WEIGHTS))
    fixed = {name: tensor.contiguous() for name, tensor in every.items() if name not in moving}
    if not fixed:
        return
    if before is not None:
        # A file system without hard links holds them once for each checkpoint.
        with contextlib.suppress(OSError):
            (folder / FROZEN).hardlink_to(before / FROZEN)
            return
    save_file(fixed, str(folder / FROZEN))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Copy every tensor back in place.

    Raises:
        TrainError: a tensor is missing, unexpected, or of another shape.
    """
    found = load_file(str(folder / WEIGHTS))
    if (folder / FROZEN).is_file():
        # What was frozen when that file was written and learned later is in both: what it learned stands.
        found = load_file(str(folder / FROZEN)) | found
    differing = sorted(found.keys() ^ _once(model).keys())
    if differing:
        raise TrainError(
            f"{folder}: the checkpoint does not fit the model: only one of them has {listing(differing, 5)}"
        )
    try:
        # Not strict: a tensor that two names share is written under one of them.
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise TrainError(f"{folder}: the checkpoint does not fit the model: {error}") from error


def _parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _once(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give every tensor of the model under the first of its names."""
    seen: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, tensor in model.state_dict().items():
        # An empty tensor has no address of its own.
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        if seen.setdefault(place, name) == name:
            found[name] = tensor
    return found


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


def seal(temporary: Path, final: Path, before: Path | None = None) -> None:
    """Declare a checkpoint complete: hash every file, write the marker, flush, move it into place.

    Args:
        temporary: the folder as it was written.
        final: its place.
        before: the checkpoint that frozen weights are shared with, if they are; they are not hashed again.
    """
    files = {}
    for path in sorted(temporary.iterdir()):
        earlier = before / FROZEN if before is not None and path.name == FROZEN else None
        shared = earlier is not None and earlier.is_file() and path.samefile(earlier)
        files[path.name] = _marked(before)[FROZEN] if before and shared else _digest(path)
    _write_json(temporary / MARKER, files)
    replace_folder(temporary, final)


def fault(folder: Path) -> str | None:
    """Say why a checkpoint cannot be trusted, or None."""
    if not (folder / MARKER).exists():
        return "it was never completed"
    for name, expected in _marked(folder).items():
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


def _marked(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MARKER).read_text())


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
