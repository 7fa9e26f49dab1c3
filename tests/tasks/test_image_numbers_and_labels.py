"""Image regression and multi-label pictures: training, saving and loading."""

import numpy as np
import pytest
import tiny
from PIL import Image

from hf_ft import Predictor, finetune


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))


def pictures(folder, count=48):
    """Noise of different brightness with, in some, a red and a blue patch."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        light = int(rng.integers(20, 200))
        pixels = rng.integers(light, light + 40, (32, 32, 3), dtype=np.uint8)
        labels = [name for name, there in zip(("blue", "red"), rng.integers(2, size=2), strict=True) if there]
        if "red" in labels:
            pixels[:16, :16] = (250, 0, 0)
        if "blue" in labels:
            pixels[16:, 16:] = (0, 0, 250)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"image": str(folder / f"{number}.png"), "labels": labels, "light": light / 10})
    return rows


def recipe(task, model, folder, **sections):
    return {
        "task": task,
        "output_dir": str(folder / "run"),
        "data": {"source": "in memory", "split": {"validation": 12}, **sections.pop("data", {})},
        "model": {"name": model},
        "train": {"learning_rate": 3e-3, "global_batch_size": 6, "num_train_epochs": 6, "disable_tqdm": True},
        "evaluate": {"resamples": 100},
        **sections,
    }


@pytest.mark.parametrize(
    "loss",
    [
        {},
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ({"kind": "mae"}, {"kind": "huber", "delta": 0.5})
        ),
    ],
)
def test_a_resnet_with_one_output_learns_how_light_a_picture_is(loss, tmp_path):
    model = tiny.saved(tiny.resnet(), tmp_path / "resnet", tiny.image_processor())
    rows = [{"image": row["image"], "target": row["light"]} for row in pictures(tmp_path)]
    augment = {"flip": "both", "mixup": 0.2}
    run = finetune(
        recipe("image-regression", model, tmp_path, loss=loss, augment=augment), data=rows, verbose=False
    )
    assert all(item["passed"] for item in run.verification)
    assert run.model.config.num_labels == 1 and run.model.config.problem_type == "regression"
    baselines = {one["name"]: one["value"] for one in run.results["verdict"]["baselines"]}
    assert run.results["headline"]["value"] < baselines["the mean of train"]
    answers = [one["value"] for one in Predictor.load(run.folder)([row["image"] for row in rows[:8]])]
    assert np.corrcoef(answers, [row["target"] for row in rows[:8]])[0, 1] > 0.5


def test_several_labels_of_a_picture_and_the_pipeline_of_transformers(tmp_path):
    from transformers import pipeline

    model = tiny.saved(tiny.vit(), tmp_path / "vit", tiny.image_processor())
    rows = [{"image": row["image"], "labels": row["labels"]} for row in pictures(tmp_path)]
    task = {"name": "image-classification", "thresholds": "tuned"}
    run = finetune(recipe(task, model, tmp_path, augment={"cutmix": 0.3}), data=rows, verbose=False)
    assert all(item["passed"] for item in run.verification)
    assert run.task.target.problem == "multi-label" and run.task.labels() == ["blue", "red"]
    assert run.results["headline"]["metric"] == "macro_f1"
    some = [row["image"] for row in rows[:5]]
    answers = run.predictor()(some)
    found = pipeline("image-classification", str(run.folder / "model"))(some, top_k=None)
    for answer, scores in zip(answers, found, strict=True):
        assert {one["label"]: one["score"] for one in scores} == pytest.approx(answer["scores"], abs=1e-5)
        assert set(answer["labels"]) <= {"blue", "red"}
