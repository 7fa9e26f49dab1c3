"""The division of a global batch, and the TrainingArguments for devices, bars and workers."""

from types import SimpleNamespace

import pytest

from hf_ft.recipe.read import load_recipe
from hf_ft.train import arguments
from hf_ft.train.arguments import choose_workers, plan_batches, training_arguments
from hf_ft.train.decisions import Decision


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("largest", [None, 1, 5, 64])
@pytest.mark.parametrize("batch", [1, 5, 8, 129])
def test_a_plan_has_a_place_for_every_row_of_a_global_batch(batch, processes, largest):
    plan = plan_batches(batch, processes, largest)
    places = plan.processes * plan.accumulation * plan.micro_batch
    assert plan.global_batch == batch and batch <= places
    # No smaller micro-batch would do.
    assert plan.processes * plan.accumulation * (plan.micro_batch - 1) < batch
    assert plan.micro_batch <= (largest or 64)


@pytest.mark.parametrize("present", [True, False])
def test_without_an_accelerator_use_cpu_is_set(present, tmp_path, monkeypatch):
    """Otherwise accelerate's configuration for two CPU processes makes two runs of one process each."""
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: present)
    recipe = load_recipe(
        {
            "task": "points:Points",
            "data": {"source": "py:points:rows"},
            "model": {"name": "x"},
            "train": {"learning_rate": 1e-3, "num_train_epochs": 1},
        }
    )
    plan = plan_batches(8, 2)
    chosen = {"precision": Decision("fp32"), "compile": Decision("off"), "workers": Decision(0)}
    made = training_arguments(recipe, tmp_path, plan, chosen, "accuracy", True)
    assert made.use_cpu == (not present)


@pytest.mark.parametrize(
    ("own", "bars", "disabled"), [({}, True, False), ({}, False, True), ({"disable_tqdm": True}, True, True)]
)
def test_bars_do_not_follow_the_log_level_of_transformers(own, bars, disabled, tmp_path):
    """With TRANSFORMERS_VERBOSITY=error the lines of the epochs were not printed."""
    from transformers.utils import logging

    recipe = load_recipe(
        {
            "task": "points:Points",
            "data": {"source": "py:points:rows"},
            "model": {"name": "x"},
            "train": {"learning_rate": 1e-3, "num_train_epochs": 1, **own},
        }
    )
    chosen = {"precision": Decision("fp32"), "compile": Decision("off"), "workers": Decision(0)}
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        made = training_arguments(recipe, tmp_path, plan_batches(8, 1), chosen, "loss", False, bars=bars)
    finally:
        logging.set_verbosity(before)
    assert made.disable_tqdm == disabled


@pytest.mark.parametrize(
    ("cores", "processes", "free", "workers"),
    [
        (16, 1, 64e9, 8),
        (4, 1, 64e9, 3),
        (8, 4, 64e9, 1),
        (16, 1, 64e6, 0),
        (16, 1, 2**30, 2),
        (16, 2, 2**30, 1),
        (1, 1, 64e9, 0),
    ],
)
def test_workers_fit_the_cores_and_the_shared_memory(cores, processes, free, workers, tmp_path, monkeypatch):
    """pytorch#5040: workers that fill a container's small /dev/shm die with "Bus error"."""
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(arguments, "usable_cores", lambda: cores)
    monkeypatch.setattr(arguments, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=int(free)))
    assert choose_workers(None, processes).value == workers
    assert choose_workers(None, processes, use_cpu=True).value == 0
    monkeypatch.setattr(arguments, "SHARED_MEMORY", tmp_path / "absent")
    assert choose_workers(None, 1).value == min(8, cores - 1)
