"""How many processes there are, on what, and which of them speaks."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from hf_ft.errors import TrainError

if TYPE_CHECKING:
    from accelerate import PartialState

# Set by `accelerate launch` where a configuration divides the model itself among the processes.
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}


def world_size() -> int:
    """Give the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_processes() -> PartialState:
    """Join the process group that `accelerate launch` prepared, or stand alone.

    Raises:
        TrainError: the configuration shards the model, or the launcher started another number of processes
            than accelerate sees: each would then believe to be alone, and write over the others' results.
    """
    from accelerate import PartialState

    _refuse_sharding()
    # Waiting for the main process to read data must not run into the ten minutes that NCCL allows by default.
    distributed = {"timeout": timedelta(hours=6)} if world_size() > 1 else {}
    state = PartialState(cpu=not torch.accelerator.is_available(), **distributed)
    if state.num_processes != world_size():
        raise TrainError(
            f"the launcher started {world_size()} processes, but accelerate sees {state.num_processes}; "
            "use a file of accelerate_configs/ with accelerate launch --config_file"
        )
    return state


def _refuse_sharding() -> None:
    """Stop where accelerate would shard the model, before anything is read.

    On the CPU accelerate takes such a configuration and runs DDP without a word, so that the Trainer does not
    know what was asked for; the launcher's variables do.
    """
    asked = [name for variable, name in SHARDING.items() if os.environ.get(variable, "").lower() == "true"]
    if asked:
        raise TrainError(
            f"{' and '.join(asked)}: the model or its optimizer would be divided among the processes, and "
            "a checkpoint of hf_ft would hold one part of it. Start with accelerate launch --config_file "
            "accelerate_configs/multi_gpu.yaml (or cpu_2proc.yaml); where the model does not fit on one "
            "device, write freeze.strategy: lora or train.activation_checkpointing: true"
        )


def unused_devices() -> str | None:
    """Say so where several accelerators are visible and only one process was started."""
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if devices > 1 and world_size() == 1:
        return f"{devices} devices, 1 is used; for all: accelerate launch --num_processes {devices}"
    return None
