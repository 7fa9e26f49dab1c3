"""A few rows and a tiny model for every built-in task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import series_tables
import tiny
from PIL import Image

# A body with random weights cannot be frozen.
SCRATCH = {"model": {"name": "patchtst", "from_scratch": True}, "freeze": "full"}


def images(folder: Path) -> tuple[dict[str, Any], Any]:
    """Pictures in class folders, augmented and mixed in training."""
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        (folder / "abc"[number % 3]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "abc"[number % 3] / f"{number}.png")
    model = tiny.saved(tiny.vit(), folder.parent / "vit", tiny.image_processor())
    augment = {"policy": "light", "flip": "horizontal", "crop": 0.8, "mixup": 0.2}
    return {"task": "image-classification", "model": {"name": model}, "augment": augment}, str(folder)


def numbers(folder: Path) -> tuple[dict[str, Any], Any]:
    """Pictures with two numbers each, and a network with batch norms."""
    rows = []
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 100, (30, 40, 3), dtype=np.uint8) + 6 * number
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"image": str(folder / f"{number}.png"), "light": float(number), "noise": -2.0 * number})
    model = tiny.saved(tiny.resnet(), folder.parent / "resnet", tiny.image_processor())
    task = {"name": "image-regression", "units": {"light": "lm"}}
    return {"task": task, "model": {"name": model}, "loss": {"kind": "huber"}}, rows


def texts(folder: Path) -> tuple[dict[str, Any], Any]:
    """Texts of one to three words."""
    model = tiny.saved(tiny.bert(), folder.parent / "bert", tiny.tokenizer())
    rows = [
        {"text": f"{word} light " * (1 + n % 3), "label": word} for n in range(8) for word in tiny.WORDS[:3]
    ]
    return {"task": "text-classification", "model": {"name": model}}, rows


def series(folder: Path) -> tuple[dict[str, Any], Any]:
    """Series of 16 steps with a number each."""
    rng = np.random.default_rng(0)
    rows = [{"values": rng.normal(size=16).tolist(), "y": float(number % 5)} for number in range(20)]
    return {"task": "time-series-regression", **SCRATCH}, rows


def labelled_series(folder: Path) -> tuple[dict[str, Any], Any]:
    """Series of 16 steps in two channels with a class each."""
    rng = np.random.default_rng(0)
    rows = [
        {"values": rng.normal(number % 2, 1, size=(2, 16)).tolist(), "label": "ab"[number % 2]}
        for number in range(24)
    ]
    return {"task": "time-series-classification", **SCRATCH}, rows


def windows(folder: Path) -> tuple[dict[str, Any], Any]:
    """Hourly steps, some of them missing."""
    task = {"name": "time-series-forecasting", "context_length": 24, "horizon": 4}
    frame = series_tables.frame(300)
    frame.loc[[40, 41, 250], "target"] = np.nan
    return {"task": {**task, "missing": "drop_windows"}, **SCRATCH}, frame


SMALL: dict[str, Callable[[Path], tuple[dict[str, Any], Any]]] = {
    "image-classification": images,
    "image-regression": numbers,
    "text-classification": texts,
    "time-series-classification": labelled_series,
    "time-series-regression": series,
    "time-series-forecasting": windows,
}


def recipe_and_data(name: str, folder: Path, **sections: Any) -> tuple[dict[str, Any], Any]:
    """Return the recipe of a small run of a task, and its rows in memory, or None if they are files."""
    (folder / "data").mkdir()
    found, data = SMALL[name](folder / "data")
    source, rows = (data, None) if isinstance(data, str) else ("in memory", data)
    split = {"validation": 0.3, **({"by": "time"} if name == "time-series-forecasting" else {})}
    columns = {"target": ["light", "noise"]} if name == "image-regression" else {}
    section = {"source": source, "split": split, "columns": columns}
    return {"freeze": "head", **found, "data": section, **sections}, rows
