"""The real launch command: two processes give the results of one, for pictures, texts and series.

In every recipe the last global batch is a partial one, and the global batch does not divide by two.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import tiny
from PIL import Image
from safetensors.torch import load_file
from series_tables import frame

from hf_ft import finetune

ROOT = Path(__file__).parents[1]
# Plain gradient descent: Adam and clipping would hide a gradient that is too large by a factor of two.
TRAIN = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "warmup_steps": 0}
TRAIN |= {"num_train_epochs": 2, "global_batch_size": 5, "logging_steps": 1, "disable_tqdm": True}
# Results are equal to 1e-5 in full precision only; auto may choose bf16.
TRAIN["precision"] = "fp32"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))


def pictures(folder):
    """27 pictures of three colours, and a ViT without dropout, whose masks would differ between processes."""
    for kind, name in enumerate(("stop", "yield", "停")):
        (folder / "signs" / name).mkdir(parents=True)
        for index in range(9):
            noise = np.random.default_rng(index).integers(0, 80, (40, 40, 3), dtype=np.uint8)
            noise[..., kind] += 100
            Image.fromarray(noise).save(folder / "signs" / name / f"{index}.png")
    model = tiny.saved(tiny.vit(hidden_dropout_prob=0.0), folder / "vit", tiny.image_processor())
    return {
        "task": "image-classification",
        "data": {"source": str(folder / "signs"), "split": {"validation": 7}},
        "model": {"name": model},
        "augment": {"policy": "light", "mixup": 0.2},
        "loss": {"class_weights": {"stop": 3.0}},
    }


def decoded(folder):
    """The same pictures, stored decoded by the process that reads them first."""
    return {**pictures(folder), "cache": {"decoded": True}}


def texts(folder):
    """33 texts of 2 to 14 words in batches of similar length, and a BERT without dropout."""
    rows = [
        {"text": f"{colour} {way} road {'slow ' * (3 * part + kind)}", "label": colour}
        for kind, colour in enumerate(("red", "green", "blue"))
        for part, way in enumerate(("left", "right", "go", "stop") * 3)
    ]
    pandas.DataFrame(rows[:33]).to_csv(folder / "texts.csv", index=False)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {
        "task": "text-classification",
        "data": {"source": str(folder / "texts.csv"), "split": {"validation": 7}},
        "model": {"name": tiny.saved(tiny.bert(**still), folder / "bert", tiny.tokenizer())},
    }


def frozen(folder):
    """The same texts with one block that learns; both processes fill the activation cache."""
    return {**texts(folder), "freeze": {"strategy": "last", "n": 1}}


def series(folder):
    """Windows over 90 hours, overlapping, and a PatchTST made from its configuration.

    It has no batch norms: their statistics are of the rows of one process only.
    """
    frame(90).to_csv(folder / "hours.csv", index=False)
    sizes = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    still = {"attention_dropout": 0.0, "ff_dropout": 0.0, "path_dropout": 0.0, "head_dropout": 0.0}
    still["positional_dropout"] = 0.0
    return {
        "task": {"name": "time-series-forecasting", "context_length": 24, "horizon": 4, "trees": False},
        "data": {"source": str(folder / "hours.csv"), "split": {"validation": 0.4}},
        "model": {
            "name": "patchtst",
            "from_scratch": True,
            "config": {**sizes, **still, "pooling_type": None, "norm_type": "layernorm"},
        },
    }


def launched(recipe, folder):
    """Run a recipe with the documented command, and return its run folder."""
    file = folder / "two.yaml"
    file.write_text(json.dumps({**recipe, "output_dir": str(folder / "two")}), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "accelerate_configs/cpu_2proc.yaml"), "-m", "hf_ft.run", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "two"


def logged(folder):
    """Return the losses of training and of validation, in order."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("eval_loss")) for line in lines if {"loss", "eval_loss"} & set(line)]


@pytest.mark.multi_process
@pytest.mark.parametrize(
    "kind",
    [pictures, texts, *(pytest.param(one, marks=pytest.mark.slow) for one in (frozen, series, decoded))],
)
def test_two_processes_give_the_results_of_one(kind, tmp_path, monkeypatch):
    """tf#47688: the Trainer doubles the loss with two processes; tf#39241: also that of validation."""
    recipe = {**kind(tmp_path), "name": kind.__name__, "train": TRAIN}
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache" / "one process"))
    one = finetune({**recipe, "output_dir": str(tmp_path / "one")}, verbose=False).folder
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    two = launched(recipe, tmp_path)
    assert "over 2 process(es)" in (two / "verify.json").read_text()
    assert "over 1 process(es)" in (one / "verify.json").read_text()
    assert len(logged(one)) > 6
    assert len(list((tmp_path / "cache" / "activations").glob("*/slot 0.bin"))) == 2 * (kind is frozen)
    assert len(list((tmp_path / "cache" / "decoded").glob("*/media.bin"))) == 2 * (kind is decoded)
    assert logged(two) == pytest.approx(logged(one), abs=1e-5)
    weights = load_file(one / "model" / "model.safetensors")
    for name, tensor in load_file(two / "model" / "model.safetensors").items():
        assert (weights[name] - tensor).abs().max() < 1e-5, name
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert results[1]["headline"]["value"] == pytest.approx(results[0]["headline"]["value"], abs=1e-5)
    numbers = [
        {key: value for key, value in found["splits"]["validation"]["metrics"].items() if _number(value)}
        for found in results
    ]
    assert len(numbers[0]) > 2 and numbers[1] == pytest.approx(numbers[0], abs=1e-4)
    predicted = [pandas.read_parquet(folder / "predictions.parquet") for folder in (one, two)]
    assert list(predicted[0]["id"]) == list(predicted[1]["id"])


def _number(value):
    return isinstance(value, float) and not np.isnan(value)
