"""Whole runs on pictures: what the model is given, and that no shortcut to it changes a number."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import set_seed

from hf_ft import finetune
from hf_ft.data import pixels
from hf_ft.data.prepare import prepare
from hf_ft.model.freeze import freeze
from hf_ft.recipe.read import load_recipe
from hf_ft.run import new_task
from hf_ft.train.build import build_tuner
from hf_ft.train.frontier import use_frontier
from hf_ft.train.selftest import check_loss_division, probe_step
from hf_ft.train.threads import settle_threads

NAMES = ("stop", "yield", "停")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    """36 pictures of three colours, of different sizes, JPEG and PNG."""
    folder = tmp_path_factory.mktemp("signs")
    for kind, name in enumerate(NAMES):
        (folder / name).mkdir()
        for index in range(12):
            rng = np.random.default_rng((kind, index))
            noise = rng.integers(0, 100, (20 + 3 * index, 40 - index, 3), dtype=np.uint8)
            noise[..., kind] += 60
            Image.fromarray(noise).save(folder / name / f"{index}.{'jpg' if index % 2 else 'png'}")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "resnet": tiny.saved(tiny.resnet(), folder / "resnet", tiny.image_processor()),
        "timm": tiny.saved(tiny.timm(), folder / "timm"),
    }


def recipe(signs, model, folder, **sections):
    train = {"num_train_epochs": 2, "global_batch_size": 6, "disable_tqdm": True, "logging_steps": 1}
    return {
        "task": "image-classification",
        "output_dir": str(folder),
        "data": {"source": str(signs), "split": {"validation": 7, "test": 7}},
        "model": {"name": model},
        **sections,
        # Equal losses are a promise of full precision, and one thread adds up in one order.
        "train": {"precision": "fp32", "threads": 1, **train, **sections.get("train", {})},
    }


def trained(settings):
    """Train and evaluate as a run does, without gate and report; give the trainer and the first note."""
    recipe = load_recipe(settings)
    folder = Path(recipe.output_dir)
    folder.mkdir()
    task = new_task(recipe)
    data = prepare(recipe, task)
    set_seed(recipe.seed)
    loaded = task.load(recipe.model)
    frozen = freeze(loaded.model, recipe.freeze, loaded.new)
    note = task.notes(data.rows)[0]
    tuner, _ = build_tuner(recipe, task, frozen, data, folder)
    use_frontier(tuner, recipe, data, frozen.frozen_fingerprint())
    settle_threads(tuner, recipe.train.threads, folder, resumed=False)
    check_loss_division(tuner)
    probe_step(tuner)
    tuner.train()
    tuner.final = tuner.evaluate_finished(data.encoded(task, "test")).metrics
    return tuner, note


def assert_same(one, other):
    """Every logged loss and every weight, to the last bit."""
    keys = ("loss", "eval_loss", "grad_norm")
    pairs = [
        [line[key] for line in run.state.log_history for key in keys if key in line] for run in (one, other)
    ]
    assert len(set(pairs[0])) > 10 and pairs[0] == pairs[1]
    assert one.final == other.final
    weights = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(mine, yours) for mine, yours in weights)


HEAD = {"freeze": {"strategy": "head"}}
FULL = {"freeze": {"strategy": "full"}}


@pytest.mark.parametrize(
    ("family", "sections"),
    [
        ("resnet", HEAD),
        ("timm", HEAD),
        ("resnet", {"freeze": {"strategy": "last", "n": 1}}),
        ("resnet", {**FULL, "augment": {"policy": "light"}}),
        ("resnet", {**FULL, "augment": {"mixup": 0.3}}),
        ("timm", {**FULL, "train": {"dataloader_num_workers": 2}}),
    ],
    ids=["head", "head of timm", "last", "augmented", "mixed", "workers"],
)
def test_bytes_until_the_device_change_no_number(signs, models, tmp_path, monkeypatch, family, sections):
    """The control is the run whose processor is used whole; every call of the model sees floats."""
    if family == "timm":
        pytest.importorskip("timm")
    seen = set()
    kind = type(tiny.resnet() if family == "resnet" else tiny.timm())
    forward = kind.forward

    def watched(self, pixel_values=None, *rest, **named):
        # Beyond the cut of the frontier there is nothing but NaN.
        normalised = bool((pixel_values < 0).any() or pixel_values.isnan().all())
        seen.add((str(pixel_values.dtype), normalised))
        return forward(self, pixel_values, *rest, **named)

    monkeypatch.setattr(kind, "forward", watched)
    halves, note = trained(recipe(signs, models[family], tmp_path / "halves", **sections))
    assert seen == {("torch.float32", True)}
    assert note.startswith("pixels: floats" if "mixup" in sections.get("augment", {}) else "pixels: uint8")
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(
        pixels, "_taken_apart", lambda processor, images: pixels.Pixels(processor, None, "the test says so")
    )
    whole, _ = trained(recipe(signs, models[family], tmp_path / "whole", **sections))
    assert_same(halves, whole)


def test_a_run_is_verified_and_its_processor_is_taken_apart(signs, models, tmp_path, capsys):
    run = finetune(recipe(signs, models["resnet"], tmp_path / "run", **HEAD))
    assert all(item["passed"] for item in run.verification)
    assert "pixels: uint8 until they are on the device" in capsys.readouterr().out
