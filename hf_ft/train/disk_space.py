"""Estimate, before training, how many bytes a run will write, and refuse it where they cannot fit.

Nothing is refused that could fit: what is compared with the free space is the least that the run will need.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from hf_ft.causes import show_bytes
from hf_ft.errors import RecipeError
from hf_ft.train.checkpoints import changing_tensors
from hf_ft.train.schedule import epochs_in

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

    from hf_ft.recipe.schema import Recipe

# Optimizer -> how many numbers it certainly keeps for each weight that learns. Others count as none.
KEPT = {"adamw_torch": 2, "adamw_torch_fused": 2, "adagrad": 1}
# Reports, logs, figures and the like.
SMALL = 2_000_000
SMALLER = "let fewer weights learn (freeze: head, freeze: lora), or write a smaller model.name"


@dataclass(frozen=True)
class Space:
    """The disk space of a run.

    Args:
        folder: the run folder, or the nearest folder above it that exists.
        least: bytes that the run will write at least, beside what it has written already.
        most: bytes that it may need at a time.
        free: bytes that are free there; None: not known.
    """

    folder: Path
    least: int
    most: int
    free: int | None

    def notes(self) -> list[str]:
        """Return a line if the disk may become full.

        Raises:
            RecipeError: the run cannot fit.
        """
        if self.free is None or self.most <= self.free:
            return []
        where = f"{self.folder}, where {show_bytes(self.free)} are free"
        if self.least > self.free:
            raise RecipeError(
                f"output_dir: checkpoints and model of this run need at least {show_bytes(self.least)} in "
                f"{where}. Free some space there, choose an output_dir on another disk, or {SMALLER}"
            )
        return [
            f"disk: this run may need up to {show_bytes(self.most)} in {where}; if the disk becomes full, "
            f"the run stops, and the same command goes on. To need less, {SMALLER}"
        ]

    def needed_on(self, folder: Path) -> int:
        """Return how many bytes a cache in a folder must leave to the run: 0 if it is on another disk."""
        with contextlib.suppress(OSError):
            if _existing(folder).stat().st_dev == self.folder.stat().st_dev:
                return self.most
        return 0


def space_of(recipe: Recipe, model: torch.nn.Module, rows: int, folder: Path, *, adapted: bool) -> Space:
    """Estimate the disk space that a run needs.

    Args:
        recipe: the resolved recipe, without any `auto`.
        model: frozen and adapted.
        rows: number of training rows.
        folder: the run folder, which need not exist.
        adapted: whether the model has an adapter, which is saved beside the merged model.
    """
    every = _bytes(model.state_dict().values())
    changing = _bytes(changing_tensors(model).values())
    learning = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    one = changing + KEPT.get(recipe.train.arguments.get("optim", "adamw_torch"), 0) * learning
    saves = saves_in(recipe, rows)
    # The frozen weights are one file for all checkpoints.
    frozen = every - changing if saves else 0
    # While a checkpoint is written, the one before it is still there, and often a third one, the best. One at
    # least is there when the model is saved. The weights of an adapter are merged into others.
    model_least, model_most = (every - learning, every + learning) if adapted else (every, every)
    least = frozen + max(min(2, saves) * one, min(1, saves) * one + model_least)
    most = frozen + max(min(3, saves) * one, min(2, saves) * one + model_most) + SMALL
    there, nearest = written_in(folder), _existing(folder)
    return Space(nearest, max(0, least - there), max(0, most - there), free_bytes(nearest))


def saves_in(recipe: Recipe, rows: int) -> int:
    """Return how many checkpoints training writes at least, if neither it nor the recipe ends it early.

    Args:
        recipe: the resolved recipe, without any `auto`.
        rows: number of training rows.
    """
    given, epochs = recipe.train.arguments, epochs_in(recipe, rows)
    if given.get("eval_strategy") != "steps":
        return int(epochs)
    every = given.get("eval_steps", given.get("logging_steps", 10))
    steps = epochs * rows / int(recipe.train.global_batch_size)
    return int(1 / every if every < 1 else steps / every)


def check_space(space: Space, processes: PartialState) -> list[str]:
    """Refuse a run whose files cannot fit; the main process, which writes them, decides for all.

    Returns:
        Lines for the console.

    Raises:
        RecipeError: the disk has too little space.
    """
    answer: list[Any] = [None]
    if processes.is_main_process:
        try:
            answer = [space.notes()]
        except RecipeError as error:
            answer = [error]
    found = broadcast_object_list(answer)[0]
    if isinstance(found, RecipeError):
        raise found
    return list(found)


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that this process may still write to the file system of a folder; None: not known."""
    try:
        about: Any = os.statvfs(folder)
    except (AttributeError, OSError):  # AttributeError: on Windows
        return None
    if not about.f_blocks:  # some network file systems do not say
        return None
    # A part is reserved for root.
    blocks = about.f_bfree if os.geteuid() == 0 else about.f_bavail
    return int(blocks * about.f_frsize)


def written_in(folder: Path) -> int:
    """Return the bytes that an earlier try has written below a run folder; hard links count once."""
    found: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # deleted meanwhile
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                found[about.st_dev, about.st_ino] = about.st_size
    return sum(found.values())


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.is_dir()), folder)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Sum the bytes of tensors; one that has two names counts once."""
    seen = {(one.data_ptr(), one.shape): one.nbytes for one in tensors}
    return sum(seen.values())
