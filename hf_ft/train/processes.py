"""How many processes there are, on what, and which of them speaks."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from hf_ft.errors import TrainError

if TYPE_CHECKING:
    from accelerate import PartialState


def world_size() -> int:
    """Give the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_processes() -> PartialState:
    """Join the process group that `accelerate launch` prepared, or stand alone.

    Raises:
        TrainError: the launcher started another number of processes than accelerate sees. Each would then
            believe to be alone, and write over the others' results.
    """
    from accelerate import PartialState

    # Waiting for the main process to read data must not run into the ten minutes that NCCL allows by default.
    distributed = {"timeout": timedelta(hours=6)} if world_size() > 1 else {}
    state = PartialState(cpu=not torch.accelerator.is_available(), **distributed)
    if state.num_processes != world_size():
        raise TrainError(
            f"the launcher started {world_size()} processes, but accelerate sees {state.num_processes}; "
            "use a file of accelerate_configs/ with accelerate launch --config_file"
        )
    return state


def unused_devices() -> str | None:
    """Say so where several accelerators are visible and only one process was started."""
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if devices > 1 and world_size() == 1:
        return f"{devices} devices, 1 is used; for all: accelerate launch --num_processes {devices}"
    return None
