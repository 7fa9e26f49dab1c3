"""Checkpoints that are complete or absent, restore every tensor, and hold no pickle.

The Trainer's own loader matches names with strict=False and leaves most of a ViT at its old values
(tf#43701), so a checkpoint here holds the live model under its own names and is loaded strictly. Layout of
`checkpoint-N/`:

    model.safetensors                     every parameter that learns, and every persistent buffer
    frozen.safetensors                    the frozen parameters; the checkpoints of a run share one file by
                                          hard links, so damage to it is damage to all of them
    optimizer.safetensors, optimizer.json
    scheduler.json, random-R.safetensors, random-R.json (one per process)
    trainer_state.json, recipe.yaml, identity.json
    complete.json                         written last: size and sha256 of every file
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hf_ft.causes import naming
from hf_ft.errors import TrainError
from hf_ft.storage.atomic import read_json, replace_folder
from hf_ft.storage.file_hash import sha256_of
from hf_ft.text_utils import listing

WEIGHTS, FROZEN, MARKER = "model.safetensors", "frozen.safetensors", "complete.json"


def changing_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every tensor that training may change: parameters that learn, and buffers; each once."""
    frozen = {name for name, parameter in _named_parameters(model) if not parameter.requires_grad}
    return {name: tensor for name, tensor in _unique_tensors(model).items() if name not in frozen}


def save_weights(model: torch.nn.Module, folder: Path, before: Path | None = None) -> None:
    """Write every parameter and buffer of the live model, under its own names.

    Args:
        model: the live model.
        folder: of the new checkpoint.
        before: an earlier checkpoint of the same run; its file of frozen weights is shared.
    """
    every, changing = _unique_tensors(model), changing_tensors(model)
    _save_tensors(changing, folder / WEIGHTS)
    fixed = {name: tensor for name, tensor in every.items() if name not in changing}
    if not fixed:
        return
    if before is not None:
        # A file system without hard links gets a copy for each checkpoint.
        with contextlib.suppress(OSError):
            (folder / FROZEN).hardlink_to(before / FROZEN)
            return
    _save_tensors(fixed, folder / FROZEN)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Copy every tensor of a checkpoint into the model.

    Args:
        model: the live model.
        folder: of the checkpoint.

    Raises:
        TrainError: a tensor is missing, unexpected, or of another shape.
    """
    found = load_file(str(folder / WEIGHTS))
    if (folder / FROZEN).is_file():
        # A tensor that was frozen first and learned later is in both files: the learned one is taken.
        found = load_file(str(folder / FROZEN)) | found
    differing = sorted(found.keys() ^ _unique_tensors(model).keys())
    if differing:
        raise TrainError(
            f"{folder}: the checkpoint does not fit the model: {listing(differing, 5)} is only in one of them"
        )
    try:
        # Not strict: a tensor with two names is written under one of them; the names were compared above.
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise TrainError(f"{folder}: the checkpoint does not fit the model: {error}") from error


def _named_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _unique_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every tensor of the model once, under the first of its names."""
    seen: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, tensor in model.state_dict().items():
        # An empty tensor has no address that could identify it.
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        if seen.setdefault(place, name) == name:
            found[name] = tensor
    return found


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Write the optimizer's tensors as safetensors, its numbers and the scheduler as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            kind: dict[str, Any] = tensors if torch.is_tensor(value) else numbers
            kind[f"{index}.{key}"] = value
    _save_tensors({key: value.cpu() for key, value in tensors.items()}, folder / "optimizer.safetensors")
    _write_json(folder / "optimizer.json", {"numbers": numbers, "param_groups": state["param_groups"]})
    _write_json(folder / "scheduler.json", scheduler.state_dict())


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Restore what `save_optimizer` wrote, bit for bit."""
    written = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
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
    optimizer.load_state_dict({"state": _laid_out_like(optimizer, state), "param_groups": groups})
    scheduler.load_state_dict(json.loads((folder / "scheduler.json").read_text(encoding="utf-8")))


def _laid_out_like(optimizer: Any, state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Give state tensors the memory layout of their parameters; a file holds them contiguous.

    The fused AdamW of CUDA refuses a parameter in channels_last with a state that is not.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        index: {
            key: torch.empty_like(parameters[index], dtype=value.dtype, device=value.device).copy_(value)
            if torch.is_tensor(value) and value.shape == parameters[index].shape
            else value
            for key, value in entries.items()
        }
        for index, entries in state.items()
    }


def save_random_state(folder: Path, rank: int) -> None:
    """Write the random states of this process: Python, numpy, torch, and every CUDA device."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if torch.cuda.is_available():
        tensors |= {f"cuda{index}": value for index, value in enumerate(torch.cuda.get_rng_state_all())}
    _save_tensors(tensors, folder / f"random-{rank}.safetensors")
    numpy_rest = [name, position, has_gauss, cached]
    _write_json(folder / f"random-{rank}.json", {"python": [version, internal, gauss], "numpy": numpy_rest})


def load_random_state(folder: Path, rank: int) -> None:
    """Restore the random states of this process.

    Raises:
        TrainError: the checkpoint was written by another number of processes.
    """
    path = folder / f"random-{rank}.safetensors"
    if not path.exists():
        raise TrainError(
            f"{folder}: holds no random state for process {rank}; resume with the number of processes that "
            "wrote it"
        )
    tensors = load_file(str(path))
    rest = json.loads((folder / f"random-{rank}.json").read_text(encoding="utf-8"))
    version, internal, gauss = rest["python"]
    random.setstate((version, tuple(internal), gauss))
    name, position, has_gauss, cached = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    devices = [tensors[key] for key in sorted(tensors) if key.startswith("cuda")]
    if devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(devices)


def complete(temporary: Path, final: Path, before: Path | None = None) -> None:
    """Complete a checkpoint: hash every file, write the marker, flush, and move the folder to its place.

    Args:
        temporary: the folder with all files but the marker.
        final: the folder's final path.
        before: the checkpoint whose file of frozen weights is shared, if any; that file is not hashed again.
    """
    files = {}
    for path in sorted(temporary.iterdir()):
        earlier = before / FROZEN if before is not None and path.name == FROZEN else None
        shared = earlier is not None and earlier.is_file() and path.samefile(earlier)
        files[path.name] = _read_marker(before)[FROZEN] if before and shared else _size_and_hash(path)
    _write_json(temporary / MARKER, files)
    replace_folder(temporary, final)


def find_damage(folder: Path) -> str | None:
    """Return why a checkpoint cannot be used (not completed, a file missing or changed), or None."""
    if not folder.is_dir():
        return "it is missing"
    if not (folder / MARKER).exists():
        return "it was never completed"
    files = read_json(folder / MARKER, dict)
    if files is None:
        return f"{MARKER} is damaged"
    for name, expected in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _size_and_hash(path) != expected:
            return f"{name} has changed since it was written"
    return None


def step_of(folder: Path) -> int:
    """Return the optimizer step that a checkpoint folder was written at."""
    return int(folder.name.rpartition("-")[2])


def newest(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """Find the newest complete checkpoint, skipping damaged ones.

    Returns:
        The folder or None, and one line for each checkpoint that was skipped.
    """
    skipped: list[str] = []
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=step_of, reverse=True):
        reason = find_damage(folder)
        if reason is None:
            return folder, skipped
        skipped.append(f"passed over {folder.name}: {reason}")
    return None, skipped


def require_best(checkpoint: Path) -> None:
    """Refuse to resume from a checkpoint if the best one so far, which the run would ship, is lost.

    Raises:
        TrainError: it is missing or damaged.
    """
    step = (read_json(checkpoint / "trainer_state.json", dict) or {}).get("best_global_step")
    if step:
        best = checkpoint.with_name(f"checkpoint-{step}")
        damage = find_damage(best) if best != checkpoint else None
        if damage is not None:
            raise TrainError(lost_best(best, damage))


def lost_best(best: Path, damage: str) -> str:
    """Say what to do about a lost or damaged best checkpoint."""
    return (
        f"{best}: {damage}, but it is the best checkpoint of the run, whose model would be saved at the end. "
        "Copy it back, or start a new run with --resume never (in Python: resume='never')"
    )


def prune(checkpoints: Path, keep: set[str]) -> None:
    """Delete every checkpoint except those with these folder names."""
    for folder in checkpoints.glob("checkpoint-*"):
        if folder.name not in keep:
            shutil.rmtree(folder)


def _read_marker(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MARKER).read_text(encoding="utf-8"))


def _size_and_hash(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with naming(path, sum(tensor.nbytes for tensor in tensors.values())):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path))


def _write_json(path: Path, value: Any) -> None:
    with naming(path):
        path.write_text(json.dumps(value), encoding="utf-8")
