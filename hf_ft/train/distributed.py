"""Start of the training processes, and checks of how the launcher started them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from accelerate.utils import reduce

from hf_ft.errors import TrainError

if TYPE_CHECKING:
    from accelerate import PartialState

# Variable that `accelerate launch` sets -> the method that divides the model itself among the processes.
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}


def world_size() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_processes() -> PartialState:
    """Join the process group that `accelerate launch` prepared, or run as a single process.

    Raises:
        TrainError: the configuration shards the model, or the launcher started another number of processes
            than accelerate sees; each process would then run alone and overwrite the results of the others.
    """
    from accelerate import PartialState

    _refuse_sharding()
    # The other processes wait while the main process reads the data, which may take longer than the ten
    # minutes that NCCL waits by default.
    distributed = {"timeout": timedelta(hours=6)} if world_size() > 1 else {}
    state = PartialState(cpu=not torch.accelerator.is_available(), **distributed)
    if state.num_processes != world_size():
        raise TrainError(
            f"the launcher started {world_size()} processes, but accelerate sees {state.num_processes}; "
            "use a file of accelerate_configs/ with accelerate launch --config_file"
        )
    return state


def _refuse_sharding() -> None:
    """Refuse a configuration that shards the model, before any data is read.

    On the CPU accelerate accepts such a configuration and silently runs DDP, so that the Trainer's own state
    does not show what was asked for. The launcher's variables do.
    """
    asked = [name for variable, name in SHARDING.items() if os.environ.get(variable, "").lower() == "true"]
    if asked:
        raise TrainError(
            f"{' and '.join(asked)}: the model or its optimizer would be divided among the processes, and "
            "a checkpoint of hf_ft would hold one part of it. Start with accelerate launch --config_file "
            "accelerate_configs/multi_gpu.yaml (or cpu_2proc.yaml); where the model does not fit on one "
            "device, write freeze.strategy: lora or train.activation_checkpointing: true"
        )


def sum_over_processes(value: float) -> float:
    """Return the sum of a number over all processes, all of which must call this."""
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return value
    return float(reduce(torch.tensor(value, device=state.device, dtype=torch.float32), "sum"))


def unused_devices() -> str | None:
    """Return a note if several accelerators are visible and only one process was started, else None."""
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if devices > 1 and world_size() == 1:
        return f"{devices} devices, 1 is used; for all: accelerate launch --num_processes {devices}"
    return None
