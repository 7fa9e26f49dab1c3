"""Small runs of every modality: rows and models are made in code and saved as files; no network is needed.

Each function fills a folder and returns the recipe. All models but one have dropout, and all pictures are
augmented, so that a random state which is not restored changes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
NAMES = ["stop", "yield", "go"]
WORDS = ["red", "green", "blue", "light", "road", "left", "right", "slow", "fast", "sign"]
# Everything that a machine would choose by its speed is fixed; every step is logged.
TRAIN = {"num_train_epochs": 3, "global_batch_size": 8, "precision": "fp32", "threads": 1}
TRAIN |= {"learning_rate": 0.003, "logging_steps": 1, "disable_tqdm": True, "early_stopping_patience": None}
EVALUATE = {"resamples": 200, "linear_probe": False}

Recipe = dict[str, Any]


def _pixels(kind: int, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 90, (40, 36, 3), dtype=np.uint8)
    pixels[..., kind % 3] += 70
    return pixels


def _labels(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _save_vit(folder: Path, dropout: float) -> str:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(
        **sizes, image_size=SIDE, patch_size=8, hidden_dropout_prob=dropout, **_labels(["a", "b"])
    )
    ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return str(folder)


def pictures(folder: Path, dropout: float = 0.1) -> Recipe:
    """45 pictures of three colours in class folders, augmented and mixed."""
    from PIL import Image

    for kind, name in enumerate(NAMES):
        (folder / "signs" / name).mkdir(parents=True)
        for number in range(15):
            Image.fromarray(_pixels(kind, 100 * kind + number)).save(
                folder / "signs" / name / f"{number}.png"
            )
    return {
        "task": "image-classification",
        "data": {"source": str(folder / "signs"), "split": {"validation": 9, "test": 9}},
        "model": {"name": _save_vit(folder / "vit", dropout)},
        "augment": {"policy": "light", "flip": "horizontal", "crop": 0.8, "mixup": 0.2},
    }


def lights(folder: Path) -> Recipe:
    """48 pictures with a number each, and a network with batch norms that learn."""
    import pandas
    from PIL import Image
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    rows = []
    (folder / "lights").mkdir()
    for number in range(48):
        file = folder / "lights" / f"{number}.png"
        Image.fromarray((_pixels(number, number) // 2 + 2 * number).astype(np.uint8)).save(file)
        rows.append({"image": str(file), "light": float(number)})
    pandas.DataFrame(rows).to_csv(folder / "lights.csv", index=False)
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes, **_labels(["a", "b"]))).save_pretrained(
        folder / "resnet"
    )
    size = {"height": SIDE, "width": SIDE}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder / "resnet")
    source = {"source": str(folder / "lights.csv"), "columns": {"target": "light"}}
    return {
        "task": "image-regression",
        "data": {**source, "split": {"validation": 9, "test": 9}},
        "model": {"name": str(folder / "resnet")},
        "augment": {"policy": "light"},
    }


def texts(folder: Path, dropout: float = 0.1) -> Recipe:
    """48 texts of 3 to 14 words in batches of similar length."""
    import pandas
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    rows = [
        {
            "text": f"{WORDS[kind]} {WORDS[3 + part % 7]} road {'slow ' * (part % 4)}{WORDS[part % 3]}",
            "label": NAMES[kind],
        }
        for part in range(16)
        for kind in range(3)
    ]
    for number, row in enumerate(rows):
        row["text"] += " " + " ".join(chr(97 + int(digit)) for digit in str(number))
    pandas.DataFrame(rows).to_csv(folder / "texts.csv", index=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *WORDS, *(chr(code) for code in range(97, 123))]
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        **sizes,
        vocab_size=len(vocabulary),
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **_labels(["a", "b"]),
    )
    BertForSequenceClassification(config).save_pretrained(folder / "bert")
    vocab = {word: number for number, word in enumerate(vocabulary)}
    BertTokenizer(vocab=vocab, model_max_length=32).save_pretrained(folder / "bert")
    return {
        "task": "text-classification",
        "data": {"source": str(folder / "texts.csv"), "split": {"validation": 9, "test": 9}},
        "model": {"name": str(folder / "bert")},
    }


def _patchtst(**config: Any) -> Recipe:
    sizes = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    return {"name": "patchtst", "from_scratch": True, "config": {**sizes, **config}}


def labelled_series(folder: Path) -> Recipe:
    """48 series of 16 steps in two channels with a class each."""
    import pandas

    rng = np.random.default_rng(0)
    rows = [
        {"values": rng.normal(number % 2, 1.5, size=(2, 16)).tolist(), "label": NAMES[number % 2]}
        for number in range(48)
    ]
    pandas.DataFrame(rows).to_parquet(folder / "series.parquet")
    return {
        "task": "time-series-classification",
        "data": {"source": str(folder / "series.parquet"), "split": {"validation": 9, "test": 9}},
        "model": _patchtst(patch_length=4, patch_stride=4),
    }


def measured_series(folder: Path) -> Recipe:
    """48 series of 16 steps with a number each."""
    import pandas

    rng = np.random.default_rng(0)
    rows = [{"values": (rng.normal(size=16) + n / 9).tolist(), "target": float(n % 17)} for n in range(48)]
    pandas.DataFrame(rows).to_parquet(folder / "series.parquet")
    return {
        "task": "time-series-regression",
        "data": {"source": str(folder / "series.parquet"), "split": {"validation": 9, "test": 9}},
        "model": _patchtst(patch_length=4, patch_stride=4),
    }


def windows(folder: Path, dropout: float = 0.1) -> Recipe:
    """Windows over 100 hours of a daily wave, overlapping."""
    import pandas

    hours = np.arange(100)
    wave = 10 + 3 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(0).normal(0, 0.5, 100)
    times = pandas.date_range("2016-01-04", periods=100, freq="1h").strftime("%Y-%m-%d %H:%M:%S")
    pandas.DataFrame({"timestamp": times, "target": wave}).to_csv(folder / "hours.csv", index=False)
    places = ("attention", "ff", "path", "head", "positional")
    still = {f"{place}_dropout": dropout for place in places}
    return {
        "task": {"name": "time-series-forecasting", "context_length": 24, "horizon": 4, "trees": False},
        "data": {"source": str(folder / "hours.csv"), "split": {"validation": 0.4}},
        "model": _patchtst(**still, pooling_type=None, norm_type="layernorm"),
    }


def still(make: Callable[..., Recipe]) -> Callable[[Path], Recipe]:
    """Return the same run with a model without dropout."""
    return partial(make, dropout=0.0)


@dataclass(frozen=True)
class Case:
    """A small run.

    Args:
        name: short and unique.
        make: fills a folder and returns the recipe.
        sections: keys of the recipe that are set beside it, with dotted names.
        processes: number of training processes.
    """

    name: str
    make: Callable[[Path], Recipe]
    sections: dict[str, Any]
    processes: int = 1

    def recipe(self, folder: Path) -> Recipe:
        """Fill the folder, and return the recipe without its `output_dir`."""
        folder.mkdir(parents=True)
        found = {"name": "run", "train": dict(TRAIN), "evaluate": EVALUATE, **self.make(folder)}
        for path, value in self.sections.items():
            section, _, key = path.partition(".")
            if key:
                found.setdefault(section, {})[key] = value
            else:
                found[section] = value
        return found


_OFTEN = {"train.save_minutes": 1e-9}  # a checkpoint after every step
_SMALL_BATCHES = {"train.per_device_train_batch_size": 3}  # 8 rows a step: 3 + 3 + 2
_WORKERS = {"train.dataloader_num_workers": 2}
_HEAD = {"freeze": {"strategy": "head"}}
_LAST = {"freeze": {"strategy": "last", "n": 1}}
_LORA = {"freeze": {"strategy": "lora", "r": 2}}

CASES = (
    Case("texts, last block with cache, 2 processes", texts, _LAST, processes=2),
    Case("pictures, a number, batch norms", lights, _OFTEN),
    Case("series, a class", labelled_series, {}),
    Case("texts, LoRA, 2 workers", texts, {**_LORA, **_WORKERS}),
    Case("forecast, 2 processes", windows, {}, processes=2),
    Case("series, a number, accumulation", measured_series, _SMALL_BATCHES),
    Case("texts, last block with cache", texts, {**_LAST, **_OFTEN}),
    Case("pictures, head with cached views", pictures, {**_HEAD, "cache": {"views": 2}}),
    Case("forecast, 2 workers", windows, {**_WORKERS, **_OFTEN}),
    Case("pictures, full, 2 workers", pictures, {**_WORKERS, **_OFTEN}),
    Case("pictures, decoded cache, accumulation", pictures, {**_SMALL_BATCHES, "cache": {"decoded": True}}),
    Case("pictures, LoRA, 2 processes", pictures, {**_LORA, **_OFTEN}, processes=2),
    Case("texts, full, accumulation", texts, {**_SMALL_BATCHES, **_OFTEN}),
)
