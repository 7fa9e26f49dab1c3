"""A task for any of the small models of `tiny`: random inputs, texts of different lengths, three classes."""

from __future__ import annotations

from typing import Any, ClassVar

import tiny
import torch

from hf_ft.evaluate.metrics import CLASSIFICATION_DIRECTIONS, ClassificationMetrics
from hf_ft.recipe.schema import Section
from hf_ft.task import Inspection, Loaded, Role, Task


class Options(Section):
    family: str = "vit"
    """Key of tiny.FAMILIES."""


class Augment(Section):
    noise: float = 0.0
    """Standard deviation of the noise that is added to every input in every epoch."""


class Anything(Task):
    name = "anything"
    summary = "any small model"
    auto_class = "tiny"
    roles: ClassVar = {"number": Role("which input"), "label": Role("its class", target=True)}
    main_metric = "accuracy"
    greater_is_better = CLASSIFICATION_DIRECTIONS
    Options, Augment = Options, Augment

    def inspect(self, row):
        return Inspection(digest=str(row["number"]))

    def load(self, section):
        torch.manual_seed(1)
        self.model = tiny.FAMILIES[self.options.family]()
        self.length_key = "input_ids" if hasattr(self.model.config, "vocab_size") else None
        return Loaded(self.model, [], {})

    @property
    def is_random(self):
        return self.augment.noise > 0

    def _length(self, row):
        return 4 + row["number"] % 9 if hasattr(self.model.config, "vocab_size") else None

    def lengths(self, rows):
        found = [self._length(rows[index]) for index in range(len(rows))]
        return None if None in found else found

    def encode(self, rows, rngs):
        items = []
        for index, row in enumerate(rows):
            item = {key: value[-1] for key, value in tiny.inputs(self.model, 2, seed=row["number"]).items()}
            item = {key: value[: self._length(row)] for key, value in item.items()}
            if rngs is not None and self.is_random:
                noise = rngs[index].normal(0, self.augment.noise)
                item = {key: value + noise for key, value in item.items()}
            items.append({**item, "labels": row["label"]})
        return items

    def collate(self, items):
        batch: dict[str, Any] = {"labels": torch.tensor([item["labels"] for item in items])}
        for key in items[0].keys() - {"labels"}:
            values = [item[key] for item in items]
            batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        return batch

    @staticmethod
    def _scores(outputs):
        if "logits" in outputs:
            return outputs.logits
        return outputs.regression_outputs * torch.tensor([1.0, 0.5, -1.0])

    def loss(self, model, outputs, batch):
        return torch.nn.functional.cross_entropy(self._scores(outputs), batch["labels"], reduction="none")

    def predict(self, model, outputs, batch):
        scores = self._scores(outputs).softmax(-1).cpu()
        return [{"class": int(one.argmax()), "scores": one.numpy()} for one in scores]

    def references(self, rows, indices=None):
        return list(rows.column("label", indices))

    def metrics(self):
        return ClassificationMetrics(["a", "b", "c"], self.extra_metrics)


def rows(count: int = 40) -> list[dict[str, int]]:
    """Numbers, and a class each."""
    return [{"number": number, "label": number * number % 3} for number in range(count)]
