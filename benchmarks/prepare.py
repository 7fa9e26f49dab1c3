"""Prepare an item of work, once for both sides: files of rows and a folder of weights.

    python -m benchmarks.prepare FOLDER --data images --model lite0 --train 215 --validation 86 [--real DIR]

It runs in a process of its own, so that the driver needs little memory: the peak memory of a child process is
at least what its parent held when it started the child. Writes FOLDER/facts.json.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hf_ft.data.samples import sample_data, sample_model

SEED = 17


def images(folder: Path, real: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Write traffic signs, all classes equally often; without the real data, handwritten digits."""
    from datasets import Image, load_dataset

    signs = real and real / "gtsrb"
    if signs and signs.is_dir():
        train, validation = (
            first_classes(load_dataset("parquet", data_files=str(file), split="train"), options.classes)
            for file in (signs / "balanced" / "train.parquet", signs / "validation.parquet")
        )
        return write(folder, evenly(train, options.train), evenly(validation, options.validation), "gtsrb")
    digits = sample_data("digits")["train"].cast_column("image", Image()).class_encode_column("label")
    return write(folder, *parted(first_classes(digits, options.classes), options), "sample:digits")


def texts(folder: Path, real: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Write sentences of film reviews; without the real data, docstrings of the standard library."""
    from datasets import load_dataset

    reviews = real and real / "sst2"
    if reviews and reviews.is_dir():
        train, validation = (
            load_dataset("parquet", data_files=str(reviews / f"{split}.parquet"), split="train")
            .select_columns(["text", "label"])
            .class_encode_column("label")
            for split in ("train", "validation")
        )
        return write(folder, evenly(train, options.train), evenly(validation, options.validation), "SST-2")
    docs = sample_data("stdlib-docs")["train"].select_columns(["text", "label"]).class_encode_column("label")
    return write(folder, *parted(docs, options), "sample:stdlib-docs")


def series(folder: Path, real: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Write hourly loads of a transformer; without the real data, a year of weather."""
    loads = real and real / "etth1" / "ETTh1.csv"
    if loads and loads.is_file():
        shutil.copyfile(loads, folder / "series.csv")
        targets, timestamp, name = "HUFL,HULL,MUFL,MULL,LUFL,LULL,OT", "date", "ETTh1"
    else:
        sample_data("nyc-weather")["train"].to_csv(folder / "series.csv")
        targets, timestamp, name = "temperature,humidity,wind_speed,visibility", "timestamp", "nyc-weather"
    rows = sum(1 for _ in (folder / "series.csv").open()) - 1
    return {
        "series": str(folder / "series.csv"),
        "timestamp": timestamp,
        "targets": targets,
        "first": rows - options.validation,
        "data": name,
    }


def blocks(folder: Path, real: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Write random pictures of 4 x 4 coloured blocks, with any number of rows and classes."""
    from datasets import ClassLabel, Dataset, Features, Image

    total = options.train + options.validation
    rows = {"image": [block_picture(number) for number in range(total)]}
    rows["label"] = [number % options.classes for number in range(total)]
    names = [f"class {number:04}" for number in range(options.classes)]
    data = Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=names)}))
    train = data.select(range(options.train))
    return write(folder, train, data.select(range(options.train, total)), "made-up pictures")


def block_picture(number: int) -> dict[str, Any]:
    from PIL import Image

    colours = np.random.default_rng((SEED, number)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((32, 32), Image.Resampling.NEAREST).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def first_classes(data: Any, classes: int | None) -> Any:
    """Select image and label of the rows of the first classes; None: of all classes."""
    from datasets import ClassLabel

    data, names = data.select_columns(["image", "label"]), data.features["label"].names
    if classes is None or classes >= len(names):
        return data
    kept = data.select(np.flatnonzero(np.asarray(data["label"]) < classes))
    return kept.cast_column("label", ClassLabel(names=names[:classes]))


def evenly(data: Any, rows: int) -> Any:
    """Draw rows with a seed, all classes equally often."""
    labels = np.asarray(data["label"])
    order = np.random.default_rng(SEED).permutation(len(labels))
    turn = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turn[own] = np.arange(len(own))
    drawn = order[np.argsort(turn[order], kind="stable")][:rows]
    if len(drawn) < rows:
        raise SystemExit(f"{rows} rows are asked for, and the data have {len(labels)}")
    return data.select(drawn)


def parted(data: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    drawn = evenly(data, options.train + options.validation)
    return drawn.select(range(options.train)), drawn.select(range(options.train, len(drawn)))


def write(folder: Path, train: Any, validation: Any, name: str) -> dict[str, Any]:
    facts = {"data": name}
    for split, part in (("train", train), ("validation", validation)):
        facts[split] = str(folder / f"{split}.parquet")
        part.to_parquet(facts[split])
    return facts


def vit_folder(folder: Path) -> str:
    """Save a ViT-B/16 with random weights: no package carries real ones."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(SEED)
    ViTForImageClassification(ViTConfig()).save_pretrained(folder / "vit")
    ViTImageProcessor().save_pretrained(folder / "vit")
    return str(folder / "vit")


def trained_folder(folder: Path, facts: dict[str, Any], recipe: Path) -> str:
    """Train a classifier for one epoch, to have a saved model to predict with."""
    from hf_ft import finetune, load_recipe

    overrides = [
        f"data.source={facts['validation']}",
        "data.split.validation=0.5",
        f"model.name={sample_model('efficientnet-lite0')}",
        f"output_dir={folder / 'run'}",
        "train.num_train_epochs=1",
    ]
    return str(finetune(load_recipe(recipe, overrides), verbose=False).folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", choices=["images", "texts", "series", "blocks"], required=True)
    parser.add_argument("--model", choices=["lite0", "minilm", "vit", "trained", "none"], required=True)
    parser.add_argument("--train", type=int, required=True)
    parser.add_argument("--validation", type=int, required=True)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--real", type=Path, help="folder with the real data sets; none: samples")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    make = {"images": images, "texts": texts, "series": series, "blocks": blocks}[options.data]
    facts = make(options.folder, options.real, options)
    if options.model == "trained":
        recipe = Path(__file__).parent / "recipes" / "head_image.yaml"
        facts["model"] = trained_folder(options.folder, facts, recipe)
    elif options.model == "vit":
        facts["model"] = vit_folder(options.folder)
    elif options.model != "none":
        facts["model"] = sample_model({"lite0": "efficientnet-lite0", "minilm": "minilm"}[options.model])
    (options.folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
