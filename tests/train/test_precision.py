"""Precision and compilation: known or measured, never assumed, and always with a reason."""

import points
import pytest
import torch

from hf_ft.errors import RecipeError
from hf_ft.run import finetune
from hf_ft.train import precision
from hf_ft.train.precision import choose_compile, choose_precision


@pytest.fixture
def machine(monkeypatch):
    """A machine with the given abilities, and the speeds of fp32 and bf16."""

    def make(capability=None, flags=(), fp32=1.0, bf16=1.0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))
        monkeypatch.setattr(precision, "_seconds", lambda dtype: fp32 if dtype is torch.float32 else bf16)

    return make


@pytest.mark.parametrize(
    ("abilities", "expected", "reason"),
    [
        ({}, "fp32", "neither amx_bf16 nor avx512_bf16"),
        (
            {"flags": ["avx512_bf16"], "fp32": 4.0, "bf16": 2.0},
            "bf16",
            "avx512_bf16, and multiplies 2.0 times",
        ),
        ({"flags": ["avx512_bf16"], "fp32": 2.0, "bf16": 4.0}, "fp32", "multiplies 0.5 times as fast"),
        ({"flags": ["amx_bf16"], "fp32": 1.05, "bf16": 1.0}, "fp32", "amx_bf16"),
        ({"capability": (8, 0)}, "bf16", "8.0 computes bf16 natively"),
        ({"capability": (7, 5), "flags": ["amx_bf16"]}, "fp32", "7.5 has no native bf16"),
    ],
)
def test_bf16_is_taken_only_where_it_is_faster(machine, abilities, expected, reason):
    machine(**abilities)
    chosen = choose_precision("auto")
    assert chosen.name == expected and reason in chosen.reason


def test_a_run_on_the_cpu_does_not_ask_the_gpu(machine):
    machine(capability=(9, 0))
    assert choose_precision("auto", use_cpu=True).name == "fp32"
    with pytest.raises(RecipeError, match=r"train\.precision: fp16 needs a CUDA device"):
        choose_precision("fp16", use_cpu=True)


def test_both_precisions_can_be_timed():
    assert precision._seconds(torch.float32) > 0 and precision._seconds(torch.bfloat16) > 0


def test_compiling_is_asked_for_or_explained(machine):
    machine()
    assert choose_compile(True)[0] and not choose_compile(False)[0]
    on, reason = choose_compile("auto")
    assert not on and "minutes on a CPU" in reason
    machine(capability=(9, 0))
    assert not choose_compile("auto")[0]


def test_bf16_ends_within_the_interval_of_fp32(tmp_path, monkeypatch):
    """Equal quality: the final metric lies in the bootstrap interval of full precision."""
    monkeypatch.setenv("PYTHONPATH", points.__file__.removesuffix("points.py"))
    results = {}
    for name in ("fp32", "bf16"):
        run = finetune(
            {
                "task": "points:Points",
                "name": name,
                "output_dir": str(tmp_path / name),
                "data": {"source": "py:points:rows", "split": {"validation": 30}},
                "model": {"name": points.saved(tmp_path / f"pretrained-{name}")},
                "train": {
                    "num_train_epochs": 4,
                    "global_batch_size": 8,
                    "learning_rate": 0.02,
                    "precision": name,
                    "disable_tqdm": True,
                },
            },
            verbose=False,
        )
        results[name] = run.results["headline"]
    low, high = results["fp32"]["interval"]
    assert low <= results["bf16"]["value"] <= high
