"""What the pretrained body gives to the head, and the linear model that is fitted on it."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from processes import Processes

from hf_ft import finetune
from hf_ft.data.dataset import EncodedRows
from hf_ft.evaluate import linear_probe as module
from hf_ft.evaluate.linear_probe import HeadInputs, head_inputs, linear_probe, pooled
from hf_ft.recipe.read import load_recipe
from hf_ft.targets.base_target import Target
from hf_ft.train.assemble import assemble

TEXTS = ["red sign", "slow road ahead", "stop", "the road is slow"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))


def pictures(count=40):
    rows = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 100
        rows.append({"image": Image.fromarray(pixels), "label": ["red", "green"][number % 2]})
    return rows


def texts(count=40):
    return [{"text": f"{TEXTS[n % 4]} {'very ' * (n % 7)}{n}", "label": "ab"[n % 2]} for n in range(count)]


def ready(tmp_path, model, rows, task="image-classification", **sections):
    recipe = {
        "task": task,
        "output_dir": str(tmp_path / "run"),
        "data": {"source": "in memory", "split": {"validation": 10}},
        "model": {"name": model},
        "train": {"precision": "fp32", "threads": 1, "global_batch_size": 8, "num_train_epochs": 5},
        **sections,
    }
    return assemble(load_recipe(recipe), Path(tmp_path), data=rows)


def inputs_of(setup, **options):
    rows, options = setup.rows, {"epochs": 5, "cached": setup.cached, **options}
    return head_inputs(setup.passes, rows["train"], rows["validation"], setup.frozen.heads, **options)


def saved(kind, folder):
    processor = tiny.tokenizer() if kind == "bert" else tiny.image_processor()
    return tiny.saved(getattr(tiny, kind)(), folder, processor)


@pytest.mark.parametrize(
    ("kind", "freeze"),
    [(kind, strategy) for kind in ("resnet", "vit", "convnext", "bert") for strategy in ("full", "head")]
    + [("vit", {"strategy": "lora"})],
)
def test_the_features_are_what_the_head_is_called_with(kind, freeze, tmp_path):
    """Also where a pass starts at cached activations, before which everything is NaN."""
    rows, task = (texts(), "text-classification") if kind == "bert" else (pictures(), "image-classification")
    setup = ready(tmp_path, saved(kind, tmp_path / "pretrained"), rows, task, freeze=freeze)
    assert setup.cached == (freeze == "head")
    found = inputs_of(setup, epochs=100)
    assert found.train.shape == (30, 32) and found.values.shape == (10, 32)
    # One row by itself, from its input: no padding, and no neighbour in its batch.
    alone = EncodedRows(
        setup.task, setup.data.rows["validation"].select([3]), split="one", seed=1, train=False
    )
    seen = []
    modules = {
        name.removeprefix("base_model.model."): one for name, one in setup.passes.model.named_modules()
    }
    head = modules[setup.frozen.heads[0]].modules()
    hooks = [
        one.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for one in head
        if isinstance(one, torch.nn.Linear | torch.nn.LayerNorm)
    ]
    setup.passes.model.eval()
    with torch.inference_mode():
        setup.passes.run(setup.passes.batch(alone, [0]))
    for hook in hooks:
        hook.remove()
    expected = seen[0].flatten(2).mean(2) if seen[0].ndim == 4 else seen[0]
    np.testing.assert_allclose(found.values[3], expected[0].numpy(), atol=1e-5)


def test_two_processes_compute_a_share_each_and_hold_the_same(tmp_path, monkeypatch):
    setup = ready(tmp_path, saved("resnet", tmp_path / "pretrained"), pictures())
    one = inputs_of(setup)
    # Each process has a model of its own, and so hooks of its own.
    own = [replace(setup, passes=replace(setup.passes, model=deepcopy(setup.passes.model))) for _ in range(2)]
    found = Processes(2, monkeypatch).run(lambda rank: inputs_of(own[rank]))
    for other in found:
        np.testing.assert_allclose(other.train, one.train, atol=1e-5)
        np.testing.assert_allclose(other.values, one.values, atol=1e-5)


def test_padding_is_not_averaged():
    steps = torch.tensor([[[1.0], [3.0], [99.0]]])
    assert pooled(steps, torch.tensor([[1, 1, 0]])).item() == 2
    assert pooled(steps, None).item() == pytest.approx(103 / 3)
    assert pooled(torch.arange(8.0).view(1, 2, 2, 2), None).tolist() == [[1.5, 5.5]]
    assert pooled(torch.ones(3, 5), None).shape == (3, 5)


def test_the_cost_stays_below_a_tenth_of_training(tmp_path):
    setup = ready(tmp_path, saved("resnet", tmp_path / "pretrained"), pictures(200))
    calls = []
    setup.passes.model.register_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0]) if inputs else 0)
    )
    assert inputs_of(setup, epochs=1) is None and not calls
    found = inputs_of(setup, epochs=2)
    assert len(found.chosen) + len(found.answered) <= 0.3 * 2 * 190
    assert len(found.answered) == 10
    assert len(inputs_of(setup, epochs=1, cached=True).chosen) == 190


def test_rows_that_were_left_out_have_no_answer(tmp_path):
    setup = ready(
        tmp_path,
        saved("resnet", tmp_path / "pretrained"),
        pictures(300),
        data={"source": "in memory", "split": {"validation": 150}},
    )
    found = inputs_of(setup, epochs=3)
    answers = linear_probe(setup.task, found, setup.data.rows["train"], 150)
    ((name, results),) = answers.items()
    assert name.startswith("pretrained features and logistic regression (linear probe), fitted on ")
    answered = [place for place, result in enumerate(results) if result is not None]
    assert answered == found.answered.tolist() and 0 < len(answered) < 150
    truth = setup.task.references(setup.data.rows["validation"])
    # The classes are different colours, which no body of random weights hides.
    assert np.mean([results[place]["class"] == truth[place] for place in answered]) > 0.9


@pytest.mark.parametrize(
    ("sections", "there"),
    [({}, True), ({"evaluate": {"linear_probe": False, "resamples": 100}}, False)],
)
def test_a_run_is_compared_with_the_probe(sections, there, tmp_path):
    model = saved("resnet", tmp_path / "pretrained")
    recipe = {
        "task": "image-classification",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": "in memory", "split": {"validation": 10}},
        "model": {"name": model},
        "freeze": "head",
        "train": {"global_batch_size": 8, "num_train_epochs": 2, "disable_tqdm": True},
        "evaluate": {"resamples": 100},
        **sections,
    }
    run = finetune(recipe, data=pictures(), verbose=False)
    probes = [one for one in run.results["verdict"]["baselines"] if "linear probe" in one["name"]]
    assert len(probes) == there
    if there:
        assert probes[0]["interval"] is not None and probes[0]["rows"] == 10


def test_a_network_from_random_weights_has_no_pretrained_features(tmp_path):
    model = saved("resnet", tmp_path / "pretrained")
    recipe = {
        "task": "image-classification",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": "in memory", "split": {"validation": 10}},
        "model": {"name": model, "from_scratch": True},
        "train": {"global_batch_size": 8, "num_train_epochs": 5, "disable_tqdm": True},
        "evaluate": {"resamples": 100},
    }
    run = finetune(recipe, data=pictures(), verbose=False)
    assert not any("linear probe" in one["name"] for one in run.results["verdict"]["baselines"])


def test_nothing_is_computed_where_the_target_has_no_linear_model(tmp_path, monkeypatch):
    setup = ready(tmp_path, saved("resnet", tmp_path / "pretrained"), pictures())
    monkeypatch.setattr(type(setup.task.target), "fit_classical", Target.fit_classical)
    monkeypatch.setattr(module, "_compute", lambda *given: pytest.fail("a pass was made"))
    assert not setup.task.fits_classical and inputs_of(setup) is None


@pytest.mark.parametrize("heads", [[], ["no_such_module"]])
def test_a_head_that_gets_no_tensor_has_no_probe(heads, tmp_path):
    """A task of a user's own may have a head of bare parameters; its run must not end with a traceback."""
    setup = ready(tmp_path, saved("resnet", tmp_path / "pretrained"), pictures())
    rows = setup.rows
    found = head_inputs(setup.passes, rows["train"], rows["validation"], heads, epochs=9, cached=False)
    assert found is None and setup.passes.model.training == setup.frozen.model.training


def test_cached_views_of_augmented_rows_are_read_and_not_computed_again(tmp_path, monkeypatch):
    setup = ready(
        tmp_path,
        saved("resnet", tmp_path / "pretrained"),
        pictures(),
        freeze="head",
        augment={"flip": "horizontal"},
        cache={"views": 2},
    )
    assert setup.cached and setup.rows["train"].is_random
    monkeypatch.setattr(type(setup.task), "encode", lambda *given: pytest.fail("a picture was encoded"))
    found = inputs_of(setup)
    assert found.train.shape == (30, 32) and np.isfinite(found.train).all()


def test_the_linear_model_is_fitted_on_fewer_rows_where_there_are_many_classes(tmp_path, monkeypatch):
    setup = ready(tmp_path, saved("resnet", tmp_path / "pretrained"), pictures(60))
    inputs = inputs_of(setup, cached=True)
    monkeypatch.setattr(module, "_MOST_NUMBERS", 2 * 32 * 20)
    ((name, results),) = linear_probe(setup.task, inputs, setup.data.rows["train"], 10).items()
    assert name.endswith("fitted on 20 of 50 rows") and None not in results
    # Rows of one class have no classifier.
    truth = np.array(setup.task.references(setup.data.rows["train"]))
    one = np.flatnonzero(truth == truth[0])[:20]
    same = HeadInputs(inputs.chosen[one], inputs.train[one], inputs.answered, inputs.values)
    assert linear_probe(setup.task, same, setup.data.rows["train"], 10) == {}
    # Fewer than two rows of each class say nothing about the features.
    monkeypatch.setattr(module, "_MOST_NUMBERS", 2 * 32 * 3)
    assert linear_probe(setup.task, inputs, setup.data.rows["train"], 10) == {}


def test_numbers_are_regularised_where_there_are_as_many_features_as_rows(tmp_path):
    """60 features of noise and 58 rows: with a fixed penalty of 1 the noise would be learned."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 60)).astype(np.float32)
    truth = rng.normal(size=120)
    rows = [{"image": one["image"], "target": float(y)} for one, y in zip(pictures(60), truth, strict=False)]
    setup = ready(
        tmp_path,
        saved("resnet", tmp_path / "p"),
        rows,
        "image-regression",
        data={"source": "in memory", "split": {"validation": 2}},
    )
    train_truth = np.concatenate(setup.task.references(setup.data.rows["train"]))
    order = [int(np.abs(truth[:60] - y).argmin()) for y in train_truth]
    inputs = HeadInputs(np.arange(len(order)), values[order], np.arange(60), values[60:])
    ((name, results),) = linear_probe(setup.task, inputs, setup.data.rows["train"], 60).items()
    assert name == "pretrained features and ridge regression (linear probe)"
    error = np.sqrt(np.mean([(one["value"][0] - y) ** 2 for one, y in zip(results, truth[60:], strict=True)]))
    assert error < np.std(truth[60:]) * 1.15
