"""Whole runs on pictures: the model's inputs, and that no cache or shortcut changes a result."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from accelerate import PartialState
from PIL import Image

from hf_ft import check, finetune
from hf_ft.errors import VerifyError
from hf_ft.inputs import image_files as images
from hf_ft.inputs import image_processor as pixels
from hf_ft.inputs.decoded_cache import cache_decoded
from hf_ft.recipe.read import load_recipe
from hf_ft.recipe.schema import CacheSection
from hf_ft.report.card import model_card
from hf_ft.task import Task
from hf_ft.train.assemble import assemble
from hf_ft.train.preflight import preflight

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
        # Losses are equal only in full precision and with one thread, which adds in a fixed order.
        "train": {"precision": "fp32", "threads": 1, **train, **sections.get("train", {})},
    }


def trained(settings):
    """Train and evaluate as a run does, without gate and report; give the trainer and the last note."""
    recipe = load_recipe(settings)
    folder = Path(recipe.output_dir)
    folder.mkdir()
    setup = assemble(recipe, folder)
    preflight(setup.trainer)
    setup.trainer.train()
    final = setup.trainer.evaluate_finished("test").metrics
    decoded = setup.decisions.get("decoded")
    said = None if decoded is None else decoded.value
    trainer = setup.trainer
    run = SimpleNamespace(
        said=said,
        final=final,
        state=trainer.state,
        model=trainer.model,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
    )
    return run, setup.data.info["notes"][-1]


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
def test_uint8_pixels_change_no_result(signs, models, tmp_path, monkeypatch, family, sections):
    """The control is a run whose processor runs in one call; the model always gets floats."""
    if family == "timm":
        pytest.importorskip("timm")
    seen = set()
    kind = type(tiny.resnet() if family == "resnet" else tiny.timm())
    forward = kind.forward

    def watched(self, pixel_values=None, *rest, **named):
        # Before the cut of the activation cache all inputs are NaN.
        normalised = bool((pixel_values < 0).any() or pixel_values.isnan().all())
        seen.add((str(pixel_values.dtype), normalised))
        return forward(self, pixel_values, *rest, **named)

    monkeypatch.setattr(kind, "forward", watched)
    stages, note = trained(recipe(signs, models[family], tmp_path / "stages", **sections))
    assert seen == {("torch.float32", True)}
    assert note.startswith("pixels: floats" if "mixup" in sections.get("augment", {}) else "pixels: uint8")
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(
        pixels,
        "_prove_stages",
        lambda processor, images: pixels.TwoStageProcessor(processor, None, "of the test"),
    )
    whole, _ = trained(recipe(signs, models[family], tmp_path / "whole", **sections))
    assert_same(stages, whole)


PREPROCESSED = "train, validation, test cropped and resized"
DECODED = {"cache": {"decoded": True}}


@pytest.fixture
def opened(monkeypatch):
    """Count the pictures that are decoded from files."""
    counts = {"pictures": 0}
    decode = images._upright

    def counted(image):
        # A picture that is already decoded has no file format.
        counts["pictures"] += hasattr(image, "format") and image.format is not None
        return decode(image)

    monkeypatch.setattr(images, "_upright", counted)
    return counts


@pytest.mark.parametrize(
    ("family", "sections", "form"),
    [
        ("resnet", FULL, PREPROCESSED),
        ("resnet", {**FULL, "augment": {"policy": "light", "flip": "horizontal"}}, "train as RGB"),
        ("resnet", {**FULL, "augment": {"mixup": 0.3, "crop": 0.6}}, "train as RGB"),
        ("resnet", {**FULL, "augment": {"cutmix": 0.3}}, PREPROCESSED),
        ("timm", {**FULL, "data_sampler": "balanced"}, PREPROCESSED),
        ("resnet", HEAD, PREPROCESSED),
    ],
    ids=["plain", "augmented", "augmented and mixed", "mixed", "timm", "cached activations"],
)
def test_decoded_rows_change_no_result_and_are_decoded_once(
    signs, models, tmp_path, cache, opened, family, sections, form
):
    if family == "timm":
        pytest.importorskip("timm")
    sections = dict(sections)
    sampler = sections.pop("data_sampler", "shuffle")

    def settings(name, **more):
        made = recipe(signs, models[family], tmp_path / name, **sections, **more)
        return made | {"data": {**made["data"], "sampler": sampler}}

    plain, _ = trained(settings("plain"))
    # A run that reads all activations from the cache would encode and decode no row.
    shutil.rmtree(cache / "activations", ignore_errors=True)
    for name, found in (("first", "0 of 36 rows found"), ("second", "36 of 36 rows found")):
        opened["pictures"] = 0
        run, _ = trained(settings(name, **DECODED))
        assert form in run.said and found in run.said
        assert_same(plain, run)
        # The audit reads its cache; three pictures are for the test of the two stages, one per split for
        # their shape, and up to five a split are compared with what was kept.
        few = 3 + 3 + (15 if name == "second" else 0)
        assert opened["pictures"] <= few + (36 if name == "first" else 0)


def test_with_cached_activations_nothing_is_decoded(signs, models, tmp_path):
    trained(recipe(signs, models["resnet"], tmp_path / "first", **HEAD))
    for name in ("second", "third"):
        run, _ = trained(recipe(signs, models["resnet"], tmp_path / name, **HEAD, **DECODED))
        # The search for the cut reads six rows, and four stored rows are computed again.
        assert len(run.train_dataset.rows.store) == 22 and len(run.train_dataset.rows.store.filled) <= 10


def test_worker_processes_store_rows_and_read_them(signs, models, tmp_path, monkeypatch):
    workers = {"train": {"dataloader_num_workers": 2}}
    plain, _ = trained(recipe(signs, models["resnet"], tmp_path / "plain", **FULL))
    for name, found in (("first", "0 of 36 rows found"), ("second", "36 of 36 rows found")):
        run, _ = trained(recipe(signs, models["resnet"], tmp_path / name, **FULL, **DECODED, **workers))
        assert found in run.said
        assert_same(plain, run)


@pytest.mark.parametrize("augment", [{}, {"policy": "light"}], ids=["preprocessed", "rgb"])
def test_a_damaged_row_is_decoded_again(signs, models, tmp_path, cache, augment):
    sections = {**FULL, **DECODED, "augment": augment}
    first, _ = trained(recipe(signs, models["resnet"], tmp_path / "first", **sections))
    stores = [file.parent for file in (cache / "decoded").glob("*/use")]
    (train,) = [folder for folder in stores if json.loads((folder / "use").read_text())["split"] == "train"]
    file = train / ("media.bin" if augment else "image.bin")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # of the last row, which is not one of the few that are decoded again
    file.write_bytes(content)
    second, _ = trained(recipe(signs, models["resnet"], tmp_path / "second", **sections))
    assert "35 of 36 rows found" in second.said
    assert_same(first, second)


def test_stored_rows_that_are_wrong_are_decoded_again(signs, models, tmp_path, cache):
    """The control: stored rows with valid checksums but wrong values, as after a change of the processor."""
    sections = {**FULL, **DECODED}
    first, _ = trained(recipe(signs, models["resnet"], tmp_path / "first", **sections))
    for rows in (first.train_dataset.rows, first.eval_dataset.rows):
        for place in range(len(rows)):
            rows.store.write(place, [255 - rows.read_stored(place)["image"].clone()])
    second, _ = trained(recipe(signs, models["resnet"], tmp_path / "second", **sections))
    assert "7 of 36 rows found" in second.said  # of test, which was left alone
    assert_same(first, second)


def test_another_processor_uses_another_store(signs, models, tmp_path):
    trained(recipe(signs, models["resnet"], tmp_path / "first", **FULL, **DECODED))
    smaller = recipe(signs, models["resnet"], tmp_path / "second", **FULL, **DECODED)
    smaller["task"] = {"name": "image-classification", "image_size": 24}
    run, _ = trained(smaller)
    assert "0 of 36 rows found" in run.said
    assert run.train_dataset[(0, 0, True)]["pixel_values"].shape == (3, 24, 24)


def test_decoded_rows_above_the_size_limit_are_not_stored(signs, models, tmp_path, cache):
    sections = {**FULL, "cache": {"decoded": True, "max_gb": 1e-6}}
    run, _ = trained(recipe(signs, models["resnet"], tmp_path / "run", **sections))
    assert (
        run.said
        == "not used: 0.00011 GB are needed and cache.max_gb is 1e-06; pictures are decoded in each epoch"
    )
    assert not list((cache / "decoded").glob("*/*.bin"))


def test_a_task_without_media_does_not_use_the_cache():
    task, data = Task(), SimpleNamespace(rows={"train": [1, 2]})
    task.name = "text"
    assert cache_decoded(data, task, CacheSection(), PartialState(), keep=True) == (data.rows, None)
    rows, said = cache_decoded(data, task, CacheSection(decoded=True), PartialState(), keep=True)
    assert rows is data.rows and said == "not used: text has no media to decode"


def test_a_check_says_what_would_be_stored_and_stores_nothing(signs, models, tmp_path, cache):
    findings = check(recipe(signs, models["resnet"], tmp_path / "run", **FULL, **DECODED))
    (line,) = [line for line in findings.notes if line.startswith("decoded: ")]
    assert "train, validation, test cropped and resized" in line and "found" not in line
    assert not list((cache / "decoded").glob("*/*.bin"))


def test_a_full_disk_costs_time_and_not_the_run(signs, models, tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    run, _ = trained(recipe(signs, models["resnet"], tmp_path / "run", **FULL, **DECODED))
    assert run.said.startswith("not used: [Errno 28] No space left on device")


def test_pixels_that_a_shortcut_moves_are_refused_by_the_gate(signs, models, tmp_path, monkeypatch):
    """The gate's fresh process has the same shortcut, and must not use it."""
    (tmp_path / "moving.py").write_text(
        "from hf_ft.tasks.image_classification import ImageClassification\n"
        "class Moving(ImageClassification):\n"
        "    def finish(self, batch):\n"
        "        moved = batch['pixel_values'].element_size() == 1\n"
        "        batch = super().finish(batch)\n"
        "        return {**batch, 'pixel_values': batch['pixel_values'] + 0.2 * moved}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    settings = recipe(signs, models["resnet"], tmp_path / "run", **FULL)
    with pytest.raises(VerifyError, match="reload"):
        finetune({**settings, "task": "moving:Moving"}, verbose=False)


def test_a_run_with_a_two_stage_processor_is_verified(signs, models, tmp_path, capsys):
    run = finetune(recipe(signs, models["resnet"], tmp_path / "run", **HEAD, **DECODED))
    assert all(item["passed"] for item in run.verification)
    said = " ".join(capsys.readouterr().out.split())
    assert "pixels: uint8, normalised on the device" in said
    assert "decoded train, validation, test cropped and resized" in said


def odd_signs(folder, deep=False):
    """36 pictures: transparent, of a palette, grey, CMYK, rotated by EXIF, very wide; some of 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            rng = np.random.default_rng((kind, index))
            noise = rng.integers(0, 100, (40, 160 if index % 6 == 5 else 30, 4), dtype=np.uint8)
            noise[..., kind] += 100
            picture = Image.fromarray(noise)
            path = folder / name / f"{index}"
            if index % 6 == 0:
                picture.save(f"{path}.png")
            elif index % 6 == 1:
                picture.convert("RGB").quantize(16).save(f"{path}.png", transparency=3)
            elif index % 6 == 2 and deep:
                Image.fromarray(noise[..., 0].astype(np.uint16) * 300).save(f"{path}.png")
            elif index % 6 == 2:
                picture.convert("L").save(f"{path}.png")
            elif index % 6 == 3:
                picture.convert("CMYK").save(f"{path}.jpg")
            else:
                picture.convert("RGB").save(f"{path}.jpg", exif=exif)
    return folder


@pytest.mark.parametrize("name", ["resnet", "timm"])
def test_transformers_pipeline_reads_odd_pictures_as_they_were_trained_on(name, models, tmp_path):
    settings = recipe(odd_signs(tmp_path / "odd"), models[name], tmp_path / "run")
    run = finetune(settings, verbose=False)
    (item,) = (item for item in run.verification if item["name"] == "pipeline")
    assert item["passed"] and "7 raw inputs, unusual ones first" in item["detail"]
    found = check(settings).warnings
    assert any("transparent: " in text and "colours below transparent pixels" in text for text in found)
    traits = json.loads((run.folder / "data.json").read_text())["traits"]["train"]
    assert set(traits) == {"transparent", "palette", "grey", "CMYK", "rotated by EXIF", "very wide or tall"}
    assert "from transformers import pipeline" in model_card(run.folder, "me/signs").text


def test_no_pipeline_is_promised_for_pictures_of_16_bits(models, tmp_path):
    settings = recipe(odd_signs(tmp_path / "odd", deep=True), models["resnet"], tmp_path / "run")
    run = finetune(settings, verbose=False)
    (item,) = (item for item in run.verification if item["name"] == "pipeline")
    assert item["passed"] and "no pipeline" in item["detail"]
    assert "import pipeline" not in model_card(run.folder, "me/signs").text
    assert any("over 8 bits: " in text for text in check(settings).warnings)
