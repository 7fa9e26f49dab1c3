"""Precision and compilation: known or measured, never assumed, always with a reason."""

from dataclasses import replace

import anything
import points
import pytest
import torch
from anything import Anything

from hf_ft.data.dataset import EncodedRows
from hf_ft.errors import RecipeError
from hf_ft.model.passes import Passes
from hf_ft.run import finetune
from hf_ft.train import precision
from hf_ft.train.decisions import Decision
from hf_ft.train.paired_timing import PairedTiming
from hf_ft.train.precision import choose_compile, choose_precision, measure_bf16


@pytest.fixture
def machine(monkeypatch):
    """Replace the hardware: CUDA capability, CPU instructions, and the seconds of fp32 and bf16."""

    def make(capability=None, flags=(), fp32=1.0, bf16=1.0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))
        return lambda: PairedTiming(((fp32, bf16),) * 3)

    return make


@pytest.mark.parametrize(
    ("abilities", "expected", "reason"),
    [
        ({}, "fp32", "neither amx_bf16 nor avx512_bf16"),
        (
            {"flags": ["avx512_bf16"], "fp32": 4.0, "bf16": 2.0},
            "bf16",
            "a step was measured 2.00 times as fast with it (2.00 to 2.00 in 3 pairs), above 1.1",
        ),
        ({"flags": ["avx512_bf16"], "fp32": 2.0, "bf16": 4.0}, "fp32", "measured 0.50 times as fast"),
        ({"flags": ["amx_bf16"], "fp32": 1.05, "bf16": 1.0}, "fp32", "amx_bf16"),
        ({"capability": (8, 0)}, "bf16", "8.0 computes bf16 natively"),
        ({"capability": (7, 5), "flags": ["amx_bf16"]}, "fp32", "7.5 has no native bf16"),
    ],
)
def test_bf16_is_chosen_only_where_it_is_faster(machine, abilities, expected, reason):
    chosen = choose_precision("auto", machine(**abilities))
    assert chosen.value == expected and reason in chosen.reason


def test_a_run_on_the_cpu_ignores_the_gpu(machine):
    gain = machine(capability=(9, 0))
    assert choose_precision("auto", gain, use_cpu=True).value == "fp32"
    with pytest.raises(RecipeError, match=r"train\.precision: fp16 needs a CUDA device"):
        choose_precision("fp16", gain, use_cpu=True)


def test_a_resumed_run_keeps_the_precision_it_began_with(machine):
    slow = machine(flags=["avx512_bf16"], fp32=0.5)
    began = Decision("bf16", "measured")
    assert choose_precision("auto", slow, use_cpu=True, recorded=began) == Decision(
        "bf16", "as the run began"
    )
    assert choose_precision("fp32", slow, use_cpu=True, recorded=began).value == "fp32"


def test_only_sure_timings_are_stored(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    task = Anything(Anything.Options(family="resnet"))
    model, rows = task.load(None).model, anything.rows(6)
    encoded = EncodedRows(task, rows, split="train", seed=1, train=True)
    gains = ((1.0, 2.0, 0.5), (2.0, 2.1, 2.2), (0.1, 0.1, 0.1))
    unsure, sure, other = (PairedTiming(tuple((gain, 1.0) for gain in turns)) for turns in gains)
    answers = [unsure, sure, other]
    monkeypatch.setattr(precision, "time_pairs", lambda *_: answers.pop(0))
    passes = Passes(task, model, torch.device("cpu"), "fp32")
    found = [measure_bf16(passes, encoded) for _ in range(3)]
    assert found == [unsure, sure, replace(sure, from_earlier_run=True)] and answers == [other]
    assert str(found[2]) == f"{sure}, by an earlier run"
    (file,) = (tmp_path / "speed").iterdir()
    for content in ("5", "[]", "{}", "[null]", "[[1]]", "[[1, 0]]", "[[1, 2], [2, 1]]"):
        file.write_text(content)
        answers[:] = [sure]
        assert measure_bf16(passes, encoded) == sure and not answers


def test_processes_on_different_machines_all_measure_or_none(machine, monkeypatch):
    """All processes measure together: one without bf16 would leave the others waiting."""
    machine(flags=["avx512_bf16"])
    other = Decision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
    monkeypatch.setattr(precision, "gather_object", lambda own: [*own, other])
    assert choose_precision("auto", lambda: pytest.fail("measured alone"), use_cpu=True) == other


def test_a_step_is_timed_once_and_the_model_is_restored(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    task = Anything(Anything.Options(family="resnet"))
    model = task.load(None).model.train()
    rows = EncodedRows(task, anything.rows(6), split="train", seed=1, train=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    monkeypatch.setattr(PairedTiming, "is_sure", True)  # tiny, and on a busy machine
    passes = Passes(task, model, torch.device("cpu"), "fp32")
    gain = measure_bf16(passes, rows)
    assert min(gain.speedups) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())
    monkeypatch.setattr(precision, "time_pairs", None)
    assert measure_bf16(passes, rows).pairs == gain.pairs
    model.classifier[1].weight.requires_grad = False
    with pytest.raises(TypeError):
        measure_bf16(passes, rows)  # another key, so it is measured again


def test_compile_follows_the_recipe_or_says_why_it_is_off(machine):
    machine()
    assert (choose_compile(True).value, choose_compile(False).value) == ("on", "off")
    chosen = choose_compile("auto")
    assert chosen.value == "off" and "made none faster where it was tried" in chosen.reason
    machine(capability=(9, 0))
    assert choose_compile("auto").value == "off"


def test_the_metric_of_bf16_lies_in_the_interval_of_fp32(tmp_path, monkeypatch):
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


@pytest.mark.slow
def test_a_compiled_run_ends_with_the_weights_of_a_plain_one(tmp_path, monkeypatch):
    """On the CPU; the gate loads the saved folder without compiling."""
    monkeypatch.setenv("PYTHONPATH", points.__file__.removesuffix("points.py"))
    pretrained = points.saved(tmp_path / "pretrained")
    ended = {}
    for compiled in (False, True):
        run = finetune(
            {
                "task": "points:Points",
                "name": "points",
                "output_dir": str(tmp_path / str(compiled)),
                "data": {"source": "py:points:rows", "split": {"validation": 30}},
                "model": {"name": pretrained},
                # Dropout of a compiled model draws other numbers; that of a frozen body draws none.
                "freeze": "head",
                "train": {
                    "num_train_epochs": 2,
                    "global_batch_size": 8,
                    "learning_rate": 0.02,
                    "compile": compiled,
                    "precision": "fp32",
                    "disable_tqdm": True,
                },
            },
            verbose=False,
        )
        ended[compiled] = torch.cat([weight.detach().flatten() for weight in run.model.parameters()])
    assert torch.allclose(ended[True], ended[False], atol=1e-5)
