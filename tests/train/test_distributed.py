"""Configurations of the launcher: accelerate reads each, and those that shard the model are refused."""

import os
from pathlib import Path

import pytest

from hf_ft.errors import TrainError
from hf_ft.train.distributed import SHARDING, start_processes, unused_devices

CONFIGS = Path(__file__).parents[2] / "accelerate_configs"
# name -> distributed_type, num_processes, use_cpu
EXPECTED = {
    "cpu": ("NO", 1, True),
    "cpu_2proc": ("MULTI_GPU", 2, True),
    "single_gpu": ("NO", 1, False),
    "multi_gpu": ("MULTI_GPU", 4, False),
    "multi_node": ("MULTI_GPU", 16, False),
    "fsdp2": ("FSDP", 4, False),
    "zero2": ("DEEPSPEED", 4, False),
    "zero3": ("DEEPSPEED", 4, False),
}
SHARDED = ("fsdp2", "zero2", "zero3")


def launcher_environment(name):
    """Return the variables that `accelerate launch --config_file` sets for its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    file = str(CONFIGS / f"{name}.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", file, "-m", "hf_ft.run", "recipe.yaml"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.multi_gpu or arguments.use_fsdp:
        return prepare_multi_gpu_env(arguments)
    return prepare_simple_launcher_cmd_env(arguments)[1]


def test_every_configuration_is_expected():
    assert {file.stem for file in CONFIGS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_configuration(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.distributed_type.value, config.num_processes, config.use_cpu) == EXPECTED[name]
    # The recipe's train.precision decides.
    assert config.mixed_precision == "no"
    assert config.num_machines == (2 if name == "multi_node" else 1)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_configuration_says_what_it_is_for(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    header = lines[: lines.index("compute_environment: LOCAL_MACHINE")]
    assert all(line.startswith("# ") for line in header) and len(header) >= 2
    assert any(f"--config_file accelerate_configs/{name}.yaml" in line for line in header)
    assert header[0].startswith("# NOT TRAINED WITH YET") == (name in SHARDED)
    assert ("multi_gpu.yaml" in header[0]) == (name in SHARDED)


# Not at the same time as another test that launches: accelerate checks whether its port is free.
@pytest.mark.multi_process
@pytest.mark.parametrize("name", EXPECTED)
def test_only_configurations_that_shard_are_refused(name, monkeypatch):
    """A checkpoint would hold one shard; and on the CPU accelerate silently runs FSDP as DDP."""
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the launcher's functions write there
    found = launcher_environment(name)
    for variable in SHARDING:
        monkeypatch.setitem(os.environ, variable, found.get(variable, "false"))
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "1")
    if name in SHARDED:
        message = r"(FSDP|DeepSpeed): .* accelerate_configs/multi_gpu\.yaml .* freeze\.strategy: lora"
        with pytest.raises(TrainError, match=message):
            start_processes()
    else:
        assert start_processes().num_processes == 1


def test_another_number_of_processes_than_the_launcher_started_is_refused(monkeypatch):
    """Each process would run alone and overwrite the results of the others."""
    start_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="the launcher started 2 processes, but accelerate sees 1"):
        start_processes()


@pytest.mark.parametrize(
    ("devices", "processes", "named"), [(4, "1", True), (4, "4", False), (1, "1", False)]
)
def test_unused_devices_are_named(devices, processes, named, monkeypatch):
    """tf#24345: with several GPUs and one process the Trainer takes DataParallel, which changes the loss."""
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: devices)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert bool(unused_devices()) == named
