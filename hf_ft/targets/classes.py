"""Targets that are classes: one label a row, or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from hf_ft.data.labels import LabelMap, name_of
from hf_ft.errors import RecipeError
from hf_ft.evaluate.baselines import frequent_labels, majority_class
from hf_ft.evaluate.classical import fit_classes
from hf_ft.evaluate.metrics import CLASSIFICATION_DIRECTIONS
from hf_ft.evaluate.multilabel import MULTILABEL_DIRECTIONS, indicator
from hf_ft.recipe.schema import Fraction, PositiveFloat, Section
from hf_ft.targets.base import Target
from hf_ft.task import Batch, Evaluation, Figure, Loaded, Metrics, SimpleFeatures
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch


class ClassWeights(Section):
    """Keys of `loss:` where classes are learned."""

    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """balanced (inverse frequency), or class -> weight; multi-label: weights of a label's positive rows."""


class ClassLoss(ClassWeights):
    """Keys of `loss:` where one class is learned of each row."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Single label: share of the target that is spread over all classes (Szegedy et al. 2016)."""


class Thresholds(Section):
    """Keys inside `task:` where several labels are learned of each row."""

    thresholds: Literal["tuned"] | Fraction = 0.5
    """Multi-label: the score from which a label is given; tuned: one for each label, chosen on validation."""


class SingleLabel(Target):
    """One of K classes: softmax and cross-entropy."""

    problem, main_metric = "single-label", "accuracy"
    greater_is_better = CLASSIFICATION_DIRECTIONS
    headline_metrics: tuple[str, ...] = ("balanced_accuracy", "macro_f1", "roc_auc")
    has_classes = True
    Loss: ClassVar[type[Section]] = ClassLoss

    label_map: LabelMap
    weights: list[float]

    def inspect(self, value: Any) -> str | None:
        """Is there one label?"""
        if isinstance(value, (list, tuple)):
            return (
                "the problem is single-label, and the row has a list of labels; several labels a row are for "
                "task.problem: multi-label"
            )
        return "there is no label" if name_of(value) is None else None

    def fit(self, train: Any) -> None:
        """Learn the classes and their weights from the training labels."""
        values = train.column(self.role)
        self.label_map = LabelMap.fit(values, train.ids)
        counts = np.bincount([self.label_map.id(value) for value in values], minlength=len(self.label_map))
        self.weights = self._weights(len(values) / (len(counts) * counts))

    def _weights(self, balanced: np.ndarray) -> list[float]:
        """Give the weight of each class as `loss.class_weights` says."""
        setting, names = self.loss_options.class_weights, self.label_map.names
        if setting is None:
            return [1.0] * len(names)
        if isinstance(setting, str):
            return [float(weight) for weight in balanced]
        unknown = sorted(set(setting) - set(names))
        if unknown:
            raise RecipeError(
                f"loss.class_weights: no class {unknown[0]!r} in the training rows; classes: {listing(names)}"
            )
        return [float(setting.get(name, 1.0)) for name in names]

    def check(self, split: str, rows: Any) -> None:
        """Refuse labels that the training rows do not have."""
        self.label_map.check(split, rows.column(self.role), rows.ids)

    def state(self) -> dict[str, Any]:
        """The classes in id order."""
        return {"labels": self.label_map.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.label_map = LabelMap.from_json(state["labels"])

    def labels(self) -> list[str] | None:
        """Class names in id order."""
        return list(self.label_map.names)

    @property
    def config(self) -> dict[str, Any]:
        """The label map and the kind of problem."""
        return {**self.label_map.config, "problem_type": "single_label_classification"}

    def encode(self, value: Any) -> Any:
        """Class id."""
        return self.label_map.id(value)

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> torch.Tensor:
        """Class shares [K]."""
        import torch

        soft = [
            torch.nn.functional.one_hot(torch.tensor(value), len(self.label_map)).float() for value in values
        ]
        return weighted(soft, shares)

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Cross-entropy of each row [B], weighted by class; labels are ids [B], or class shares [B, K]."""
        import torch.nn.functional as functional

        smoothing = self.loss_options.label_smoothing if model.training else 0.0
        weight = answer.new_tensor(self.weights)
        return functional.cross_entropy(
            answer, batch[self.key], weight, label_smoothing=smoothing, reduction="none"
        )

    def count(self, batch: Batch) -> torch.Tensor:
        """The class weight of each row [B]: the mean is the weighted mean, as in torch."""
        import torch

        labels = batch[self.key]
        weights = torch.tensor(self.weights, device=labels.device)
        return weights[labels] if labels.ndim == 1 else labels @ weights

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Class id, probabilities [K] and logits [K] of each row."""
        logits = answer.cpu()
        scores, classes = logits.softmax(-1).numpy(), logits.argmax(-1).tolist()
        rows = zip(classes, scores, logits.numpy(), strict=True)
        return [{"class": k, "scores": score, "logits": logit} for k, score, logit in rows]

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Class ids."""
        return [self.label_map.id(value) for value in rows.column(self.role, indices)]

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """Accuracy and its relatives, per class and as a confusion matrix."""
        from hf_ft.evaluate.metrics import ClassificationMetrics

        return ClassificationMetrics(self.label_map.names, extra)

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Always the most frequent class."""
        result = majority_class(self.references(train), len(self.label_map))
        return {"the most frequent class of train": [result] * len(rows)}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]]:
        """The class that scores best, and the scores of all."""
        scores_of = fit_classes(features, np.asarray(references), len(self.label_map))
        return lambda rows: [{"class": int(one.argmax()), "scores": one} for one in scores_of(rows)]

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The class by name, its probability, and the probabilities of all classes."""
        names = self.label_map.names
        scores = {name: float(score) for name, score in zip(names, result["scores"], strict=True)}
        return {"label": names[result["class"]], "score": scores[names[result["class"]]], "scores": scores}

    def decode_reference(self, reference: Any) -> Any:
        """The class by name."""
        return self.label_map.names[reference]

    def describe(self, result: Mapping[str, Any]) -> str:
        """The class and its probability."""
        return f"{self.label_map.names[result['class']]} ({result['scores'][result['class']]:.0%})"

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Confusion matrix, classes from worst to best, and how far the probabilities can be believed."""
        from hf_ft.evaluate.figures import confusion_figure, per_class_figure, reliability_figure

        scores = np.stack([result["scores"] for result in evaluation.results])
        return [
            confusion_figure(evaluation.metrics["confusion"], self.label_map.names),
            per_class_figure(evaluation.metrics["per_class"]),
            reliability_figure(scores, evaluation.references),
        ]


class MultiLabel(SingleLabel):
    """Any number of K labels, also none: a sigmoid and a binary cross-entropy for each."""

    problem, main_metric = "multi-label", "macro_f1"
    greater_is_better = MULTILABEL_DIRECTIONS
    headline_metrics = ("micro_f1", "weighted_f1", "subset_accuracy", "map", "roc_auc")
    Options, Loss = Thresholds, ClassWeights

    # Where a new head's bias starts: from zero, a rare label needs many steps to be called rare
    # (Lin et al. 2017, "Focal loss for dense object detection", section 4.1).
    log_odds: list[float]
    thresholds: list[float]

    def inspect(self, value: Any) -> str | None:
        """Is there a list of labels?"""
        if not isinstance(value, (list, tuple)):
            return (
                f"expected a list of labels, found {value!r}; write a list for each row (empty for none), or "
                "task.problem: single-label"
            )
        return "a label of the list is empty" if any(name_of(one) is None for one in value) else None

    def fit(self, train: Any) -> None:
        """Learn the labels and their weights; thresholds start at the one asked for, or at 0.5."""
        values = train.column(self.role)
        self.label_map = LabelMap.fit(values, train.ids)
        positives = np.bincount([label for row in self.references(train) for label in row])
        # Kept within one row of all and none, so that the log-odds are finite.
        share = np.clip(positives, 1, len(values) - 1) / len(values)
        self.log_odds = np.log(share / (1 - share)).tolist()
        self.weights = self._weights((len(values) - positives) / positives)
        asked = self.options.thresholds
        self.thresholds = [0.5 if isinstance(asked, str) else asked] * len(self.label_map)

    def state(self) -> dict[str, Any]:
        """The labels in id order, and the threshold of each."""
        return {**super().state(), "thresholds": self.thresholds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self.thresholds = list(state["thresholds"])

    @property
    def config(self) -> dict[str, Any]:
        """The label map and the kind of problem."""
        return {**self.label_map.config, "problem_type": "multi_label_classification"}

    def prepare(self, loaded: Loaded) -> list[str]:
        """Let the head's new bias start at the log-odds of the training labels; GPT-2's head has none."""
        import torch

        parameters = dict(loaded.model.named_parameters())
        found = [name for name in loaded.new if parameters[name].shape == (len(self.log_odds),)]
        biases = [name for name in found if name.endswith(("classifier.bias", "out_proj.bias"))]
        with torch.no_grad():
            for name in biases:
                parameters[name].copy_(torch.tensor(self.log_odds))
        return [f"{name} starts at the log-odds of the training labels" for name in biases]

    def encode(self, value: Any) -> Any:
        """1 at the row's labels, else 0: float [K]."""
        return indicator([self.label_map.id(name) for name in value], len(self.label_map)).astype(np.float32)

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> torch.Tensor:
        """Label shares [K]."""
        import torch

        return weighted([torch.as_tensor(value) for value in values], shares)

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean binary cross-entropy over the labels of each row [B], positives weighted."""
        import torch.nn.functional as functional

        weight = answer.new_tensor(self.weights)
        losses = functional.binary_cross_entropy_with_logits(
            answer, batch[self.key], pos_weight=weight, reduction="none"
        )
        return losses.mean(-1)

    def count(self, batch: Batch) -> torch.Tensor:
        """Every row counts once [B]."""
        return Target.count(self, batch)

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Probabilities [K] and logits [K] of each row."""
        logits = answer.cpu()
        rows = zip(logits.sigmoid().numpy(), logits.numpy(), strict=True)
        return [{"scores": score, "logits": logit} for score, logit in rows]

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Label ids of each row, ascending."""
        values = rows.column(self.role, indices)
        return [sorted({self.label_map.id(name) for name in value}) for value in values]

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """F1 in its averages, subset accuracy, mean average precision, per label."""
        from hf_ft.evaluate.multilabel import MultilabelMetrics

        return MultilabelMetrics(self.label_map.names, self.thresholds, extra)

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Always the most frequent label, and those that over half of the training rows have."""
        result = frequent_labels(self.references(train), len(self.label_map))
        return {"the most frequent label of train": [result] * len(rows)}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]]:
        """The scores of all labels."""
        truth = np.stack([indicator(ids, len(self.label_map)) for ids in references])
        scores_of = fit_classes(features, truth, len(self.label_map))
        return lambda rows: [{"scores": one} for one in scores_of(rows)]

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Choose the threshold of each label on the validation rows, where the recipe asks for it."""
        from hf_ft.evaluate.multilabel import FEWEST_POSITIVES, tune_thresholds

        if self.options.thresholds != "tuned":
            return []
        scores = np.stack([result["scores"] for result in validation.results])
        truth = np.stack([indicator(ids, len(self.label_map)) for ids in validation.references])
        self.thresholds = tune_thresholds(scores, truth)
        rare = int((truth.sum(axis=0) < FEWEST_POSITIVES).sum())
        together = f"; {rare} labels with fewer than {FEWEST_POSITIVES} rows share one" if rare else ""
        low, high = min(self.thresholds), max(self.thresholds)
        return [
            f"thresholds chosen on {len(truth)} validation rows: {low:.2f} to {high:.2f}{together}. The "
            "figures of validation are therefore a little too good; those of test are not"
        ]

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The labels whose score reaches their threshold, best first, and the scores of all."""
        names = self.label_map.names
        scores = {name: float(score) for name, score in zip(names, result["scores"], strict=True)}
        given = np.flatnonzero(result["scores"] >= np.asarray(self.thresholds, dtype=np.float32))
        return {
            "labels": sorted((names[label] for label in given), key=lambda name: -scores[name]),
            "scores": scores,
        }

    def decode_reference(self, reference: Any) -> Any:
        """The labels by name."""
        return [self.label_map.names[label] for label in reference]

    def describe(self, result: Mapping[str, Any]) -> str:
        """The labels given."""
        return ", ".join(self.decode(result)["labels"]) or "no label"

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Labels from worst to best."""
        from hf_ft.evaluate.figures import per_class_figure

        return [per_class_figure(evaluation.metrics["per_class"])]


def weighted(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Sum values of one shape, each times its share."""
    terms = [share * value for share, value in zip(shares, values, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
