"""A small task of a user's own, as a plain `Task` and as a `ComposedTask`: two classes of points."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_ft import ComposedTask, Input
from hf_ft.data.labels import LabelMap
from hf_ft.evaluate.metrics import CLASSIFICATION_DIRECTIONS, ClassificationMetrics
from hf_ft.model.load import load_model
from hf_ft.recipe.schema import Section
from hf_ft.targets.classes import SingleLabel
from hf_ft.task import Inspection, Role, Task


class PointConfig(PretrainedConfig):
    model_type = "hf_ft_test_points"


AutoConfig.register(PointConfig.model_type, PointConfig)


class PointModel(PreTrainedModel):
    config_class = PointConfig
    base_model_prefix = "body"

    def __init__(self, config: PointConfig):
        super().__init__(config)
        self.body = torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 8)
        )
        self.head = torch.nn.Linear(8, config.num_labels)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5)
            torch.nn.init.zeros_(module.bias)

    def forward(self, point: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.head(torch.tanh(self.body(point))))


class Options(Section):
    explode_at: str | None = None
    """Row id whose loss is NaN."""


class Augment(Section):
    noise: float = 0.0
    """Standard deviation of the noise that is added to every point in every epoch."""


class Points(Task):
    name = "points"
    summary = "points in the plane"
    auto_class = "points:PointModel"
    roles: ClassVar = {"point": Role("x and y"), "label": Role("the side", target=True)}
    main_metric = "accuracy"
    greater_is_better = CLASSIFICATION_DIRECTIONS
    class_role = "label"
    Options = Options
    Augment = Augment

    def inspect(self, row):
        return Inspection(digest=str(row["point"]))

    def fit(self, train):
        self.label_map = LabelMap.fit(train.column("label"), train.ids)

    def state(self):
        return {"labels": self.label_map.to_json()}

    def restore(self, state):
        self.label_map = LabelMap.from_json(state["labels"])

    def labels(self):
        return self.label_map.to_json()

    def load(self, section):
        return load_model(self.auto_class, section, self.label_map.config)

    @property
    def is_random(self):
        return self.augment.noise > 0

    def encode(self, rows, rngs):
        items = []
        for index, row in enumerate(rows):
            point = np.asarray(row["point"], dtype=np.float32)
            if rngs is not None and self.is_random:
                point = point + rngs[index].normal(0, self.augment.noise, 2).astype(np.float32)
            item = {"point": torch.from_numpy(point)}
            if "label" in row:
                item["labels"] = self.label_map.id(row["label"])
                item["explode"] = row["id"] == self.options.explode_at
            items.append(item)
        return items

    def collate(self, items):
        batch = {"point": torch.stack([item["point"] for item in items])}
        if "labels" in items[0]:
            batch["labels"] = torch.tensor([item["labels"] for item in items])
            batch["explode"] = torch.tensor([item["explode"] for item in items])
        return batch

    targets = ("labels", "explode")

    def loss(self, model, outputs, batch):
        losses = torch.nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
        return losses * torch.where(batch["explode"], float("nan"), 1.0)

    def predict(self, model, outputs, batch):
        scores = outputs.logits.softmax(-1).cpu()
        return [
            {"class": int(one.argmax()), "scores": one.numpy(), "logits": logits.numpy()}
            for one, logits in zip(scores, outputs.logits.cpu(), strict=True)
        ]

    def references(self, rows, indices=None):
        return [self.label_map.id(name) for name in rows.column("label", indices)]

    def metrics(self):
        return ClassificationMetrics(self.labels(), self.extra_metrics)

    def decode(self, result):
        return {"label": self.label_map.names[result["class"]], "score": float(max(result["scores"]))}

    def decode_reference(self, reference):
        return self.label_map.names[reference]

    def difference(self, a, b):
        return float(abs(a["logits"] - b["logits"]).max())

    def read_inputs(self, inputs):
        return [{"id": str(index), "point": list(point)} for index, point in enumerate(inputs)]


class PointInput(Input):
    """The same points as an input, which any task can use."""

    roles: ClassVar = {"point": Role("x and y")}
    Augment = Augment

    @property
    def is_random(self):
        return self.augment.noise > 0

    def encode(self, rows, rngs):
        points = [np.asarray(row["point"], dtype=np.float32) for row in rows]
        if rngs is not None:
            noise = [rng.normal(0, self.augment.noise, 2).astype(np.float32) for rng in rngs]
            points = [point + one for point, one in zip(points, noise, strict=True)]
        return [{"point": point} for point in points]


class ComposedPoints(ComposedTask):
    """The same task, made of the input above and a target of hf_ft."""

    name = "composed-points"
    summary = "points in the plane"
    auto_class = "points:PointModel"
    roles: ClassVar = {**PointInput.roles, "label": Role("the side", target=True)}
    input_class, target_classes = PointInput, (SingleLabel,)


def rows(count: int = 75) -> list[dict[str, Any]]:
    """Return points on both sides of a curve, the same at every call."""
    points = np.random.default_rng(0).normal(size=(count, 2)).round(4)
    return [
        {"point": [float(x), float(y)], "label": "above" if y > x * x - 0.5 else "below"} for x, y in points
    ]


def saved(folder: Any, seed: int = 3) -> str:
    """Save a pretrained model for the task: a body to start from, with a head for three other classes."""
    torch.manual_seed(seed)
    PointModel(PointConfig(num_labels=3)).save_pretrained(folder)
    return str(folder)
