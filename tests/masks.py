"""A task with masks: a bright disc on noise, 64 x 64 pixels, measured by confusion counts."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from hf_ft.evaluate.metric_arrays import Column, RowMetrics
from hf_ft.model.load import load_model
from hf_ft.task import Inspection, Role, Task

SIDE = 64


class MaskConfig(PretrainedConfig):
    model_type = "hf_ft_test_masks"


AutoConfig.register(MaskConfig.model_type, MaskConfig)


class MaskModel(PreTrainedModel):
    config_class = MaskConfig
    base_model_prefix = "body"

    def __init__(self, config: MaskConfig):
        super().__init__(config)
        self.body = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.head = torch.nn.Conv2d(2, 1, 1)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(logits=self.head(torch.tanh(self.body(pixel_values)))[:, 0])


class MaskMetrics(RowMetrics):
    """Intersection over union, from the hits, false alarms and misses of each row."""

    def __init__(self):
        super().__init__(counts=Column(np.int64, (3,)))

    def update(self, results, references):
        self.columns["counts"].add([result["counts"] for result in results])

    def compute(self):
        hits, false, missed = self.columns["counts"].array().sum(axis=0).tolist()
        pixels = [{"kind": "found", "pixels": hits}, {"kind": "missed", "pixels": missed}]
        pixels.append({"kind": "false alarm", "pixels": false})
        return {"iou": self.value("iou"), "pixels": pixels, "tables": {"pixels": "by kind of pixel"}}

    def value(self, name, rows=None):
        counts = self.columns["counts"].array()
        hits, false, missed = (counts if rows is None else counts[rows]).sum(axis=0)
        return float(hits / (hits + false + missed))


class Masks(Task):
    name = "masks"
    summary = "the disc in a picture"
    auto_class = "masks:MaskModel"
    roles: ClassVar = {"number": Role("which picture"), "mask": Role("its mask", target=True)}
    main_metric = "iou"
    greater_is_better: ClassVar = {"iou": True, "loss": False}
    # Masks that were read as references, for tests of how many are still in memory.
    read: ClassVar[list[weakref.ref]] = []

    def inspect(self, row):
        return Inspection(digest=str(row["number"]))

    def load(self, section):
        return load_model(self.auto_class, section, {})

    def load_processor(self, folder):
        self.processor = None

    def encode(self, rows, rngs):
        items = []
        for row in rows:
            noise = np.random.default_rng(row["number"]).normal(0, 0.3, (1, SIDE, SIDE))
            item = {"pixel_values": torch.from_numpy(noise + disc(row["number"])).float()}
            if "mask" in row:
                item["labels"] = torch.from_numpy(disc(row["mask"])).float()
            items.append(item)
        return items

    def collate(self, items):
        return {key: torch.stack([item[key] for item in items]) for key in items[0]}

    def loss(self, model, outputs, batch):
        pixels = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs.logits, batch["labels"], reduction="none"
        )
        return pixels.mean((1, 2))

    def predict(self, model, outputs, batch):
        return [{"mask": mask} for mask in (outputs.logits > 0).numpy()]

    def references(self, rows, indices=None):
        masks = [disc(number) for number in rows.column("mask", indices)]
        self.read.extend(map(weakref.ref, masks))
        return masks

    def summarize(self, results, references):
        found = []
        for result, truth in zip(results, references, strict=True):
            mask = result["mask"]
            found.append(
                {"counts": [int(part.sum()) for part in (mask & truth, mask & ~truth, ~mask & truth)]}
            )
        return found

    def metrics(self):
        return MaskMetrics()

    def decode(self, result):
        counts = result.get("counts")
        return {"pixels": int(result["mask"].sum()) if counts is None else counts[0] + counts[1]}

    def decode_reference(self, reference):
        return int(reference.sum())

    def difference(self, a, b):
        return max(abs(x - y) for x, y in zip(a["counts"], b["counts"], strict=True)) / SIDE**2

    def read_inputs(self, inputs):
        return [{"id": str(number), "number": number} for number in inputs]


def disc(number: int) -> np.ndarray:
    """Draw the mask of a picture, bool [64, 64]."""
    x, y = np.random.default_rng(number + 1000).integers(16, 48, 2)
    down, right = np.ogrid[:SIDE, :SIDE]
    return (right - x) ** 2 + (down - y) ** 2 < 100


def rows(count: int = 40) -> list[dict[str, Any]]:
    """Return rows with the number of a picture, which is also the number of its mask."""
    return [{"number": number, "mask": number} for number in range(count)]


def saved(folder: Any) -> str:
    """Save an untrained model, and return its path."""
    torch.manual_seed(3)
    MaskModel(MaskConfig()).save_pretrained(folder)
    return str(folder)
