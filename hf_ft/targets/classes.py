"""Targets that are classes: one label a row, or several.

A task that has logits [B, K] and a target hands the target's side of its contract to one of these: what is
learned from the training rows, the loss of each row, the small results, the metrics, the trivial answer, and
what a person reads. `_number.py` does the same for a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.data.labels import LabelMap
from hf_ft.errors import DataError, RecipeError
from hf_ft.evaluate.metrics import CLASSIFICATION_DIRECTIONS
from hf_ft.evaluate.multilabel import MULTILABEL_DIRECTIONS
from hf_ft.task import Evaluation, Figure, Metrics
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch


class SingleLabel:
    """One of K classes: softmax and cross-entropy.

    Args:
        class_weights: `balanced` (inverse frequency), class name -> weight, or None.
        label_smoothing: share of the target that is spread over all classes, in training.
    """

    problem, main_metric, greater_is_better = "single-label", "accuracy", CLASSIFICATION_DIRECTIONS
    class_role: str | None = "label"
    headline_metrics: tuple[str, ...] = ("balanced_accuracy", "macro_f1", "roc_auc")
    baseline_name = "always the most frequent class of train"
    label_map: LabelMap

    def __init__(self, class_weights: str | Mapping[str, float] | None = None, label_smoothing: float = 0.0):
        self.setting, self.label_smoothing = class_weights, label_smoothing
        self.weights: list[float] = []

    def fit(self, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Learn the classes and their weights from the training labels."""
        lists = [row for row, value in zip(ids, values, strict=True) if isinstance(value, (list, tuple))]
        if lists:
            raise DataError(
                f"train: the problem is single-label, but rows have lists of labels: {listing(lists, 3)}. "
                "Several labels a row are for text-classification with task.problem: multi-label"
            )
        self.label_map = LabelMap.fit(values, ids)
        counts = np.bincount(self.references(values), minlength=len(self.label_map))
        self.weights = _weights(self.setting, self.label_map, len(values) / (len(counts) * counts))

    def check(self, split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Refuse labels that the training rows do not have."""
        self.label_map.check(split, values, ids)

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
        """What the model's configuration must say."""
        return {**self.label_map.config, "problem_type": "single_label_classification"}

    def encode(self, value: Any) -> int:
        """Class id."""
        return self.label_map.id(value)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Cross-entropy of each row [B], weighted by class; labels are ids [B], or class shares [B, K]."""
        import torch.nn.functional as functional

        smoothing = self.label_smoothing if training else 0.0
        weight = logits.new_tensor(self.weights)
        return functional.cross_entropy(logits, labels, weight, label_smoothing=smoothing, reduction="none")

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """The class weight of each row [B]: the mean is the weighted mean, as in torch."""
        import torch

        weights = torch.tensor(self.weights, device=labels.device)
        return weights[labels] if labels.ndim == 1 else labels @ weights

    def predict(self, logits: torch.Tensor) -> list[dict[str, Any]]:
        """Class id, probabilities [K] and logits [K] of each row."""
        scores, classes = logits.softmax(-1).numpy(), logits.argmax(-1).tolist()
        rows = zip(classes, scores, logits.numpy(), strict=True)
        return [{"class": k, "scores": score, "logits": logit} for k, score, logit in rows]

    def references(self, values: Sequence[Any]) -> list[Any]:
        """Class ids."""
        return [self.label_map.id(value) for value in values]

    def metrics(self, extra: Sequence[str]) -> Metrics:
        """Accuracy and its relatives, per class and as a confusion matrix."""
        from hf_ft.evaluate.metrics import ClassificationMetrics

        return ClassificationMetrics(self.label_map.names, extra)

    def baseline(self, train: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Always the most frequent class."""
        from hf_ft.evaluate.baselines import majority_baseline

        return majority_baseline(train, references, self.label_map.names)

    def calibrate(self, validation: Evaluation) -> list[str]:
        """The most probable class needs no threshold."""
        return []

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

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Confusion matrix, classes from worst to best, and how far the probabilities can be believed."""
        from hf_ft.evaluate.figures import confusion_figure, per_class_figure, reliability_figure

        scores = np.stack([result["scores"] for result in evaluation.results])
        return [
            confusion_figure(evaluation.metrics["confusion"], self.label_map.names),
            per_class_figure(evaluation.metrics["per_class"]),
            reliability_figure(scores, evaluation.references),
        ]


class MultiLabel(SingleLabel):
    """Any number of K labels, also none: a sigmoid and a binary cross-entropy for each.

    Args:
        class_weights: weight of a label's positive rows: `balanced` (negatives over positives), label name ->
            weight, or None.
        thresholds: the score from which a label is given, or `tuned`: one each, chosen on validation.
    """

    problem, main_metric, greater_is_better = "multi-label", "macro_f1", MULTILABEL_DIRECTIONS
    headline_metrics = ("micro_f1", "weighted_f1", "subset_accuracy", "map", "roc_auc")
    baseline_name = "always the most frequent label of train"

    def __init__(self, class_weights: str | Mapping[str, float] | None = None, thresholds: str | float = 0.5):
        super().__init__(class_weights)
        self.asked = thresholds
        # Where a new head's bias starts: from zero, a rare label needs many steps to be called rare
        # (Lin et al. 2017, "Focal loss for dense object detection", section 4.1).
        self.log_odds: list[float] = []
        self.thresholds: list[float] = []

    def fit(self, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Learn the labels and their weights; thresholds start at the one asked for, or at 0.5."""
        _check_lists("train", values, ids)
        self.label_map = LabelMap.fit(values, ids)
        positives = np.bincount([label for row in self.references(values) for label in row])
        # Kept within one row of all and none, so that the log-odds are finite.
        share = np.clip(positives, 1, len(values) - 1) / len(values)
        self.log_odds = np.log(share / (1 - share)).tolist()
        self.weights = _weights(self.setting, self.label_map, (len(values) - positives) / positives)
        self.thresholds = [0.5 if isinstance(self.asked, str) else self.asked] * len(self.label_map)

    def check(self, split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Refuse labels that the training rows do not have."""
        _check_lists(split, values, ids)
        super().check(split, values, ids)

    def state(self) -> dict[str, Any]:
        """The labels in id order, and the threshold of each."""
        return {**super().state(), "thresholds": self.thresholds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self.thresholds = list(state["thresholds"])

    @property
    def config(self) -> dict[str, Any]:
        """What the model's configuration must say."""
        return {**self.label_map.config, "problem_type": "multi_label_classification"}

    def encode(self, value: Any) -> Any:
        """1 at the row's labels, else 0: float [K]."""
        from hf_ft.evaluate.multilabel import indicator

        return indicator([self.label_map.id(name) for name in value], len(self.label_map)).astype(np.float32)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Mean binary cross-entropy over the labels of each row [B], positives weighted."""
        import torch.nn.functional as functional

        weight = logits.new_tensor(self.weights)
        losses = functional.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weight, reduction="none"
        )
        return losses.mean(-1)

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """Every row counts once [B]."""
        return labels.new_ones(len(labels))

    def predict(self, logits: torch.Tensor) -> list[dict[str, Any]]:
        """Probabilities [K] and logits [K] of each row."""
        rows = zip(logits.sigmoid().numpy(), logits.numpy(), strict=True)
        return [{"scores": score, "logits": logit} for score, logit in rows]

    def references(self, values: Sequence[Any]) -> list[Any]:
        """Label ids of each row, ascending."""
        return [sorted({self.label_map.id(name) for name in value}) for value in values]

    def metrics(self, extra: Sequence[str]) -> Metrics:
        """F1 in its averages, subset accuracy, mean average precision, per label."""
        from hf_ft.evaluate.multilabel import MultilabelMetrics

        return MultilabelMetrics(self.label_map.names, self.thresholds, extra)

    def baseline(self, train: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Always the most frequent label."""
        from hf_ft.evaluate.baselines import prior_baseline

        return prior_baseline(train, references, self.label_map.names)

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Choose the threshold of each label on the validation rows, where the recipe asks for it."""
        from hf_ft.evaluate.multilabel import FEWEST_POSITIVES, indicator, tune_thresholds

        if self.asked != "tuned":
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

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Labels from worst to best."""
        from hf_ft.evaluate.figures import per_class_figure

        return [per_class_figure(evaluation.metrics["per_class"])]


def _weights(
    setting: str | Mapping[str, float] | None, labels: LabelMap, balanced: np.ndarray
) -> list[float]:
    """Give the weight of each class as the recipe's `loss.class_weights` says."""
    if setting is None:
        return [1.0] * len(labels)
    if isinstance(setting, str):
        return [float(weight) for weight in balanced]
    unknown = sorted(set(setting) - set(labels.names))
    if unknown:
        raise RecipeError(
            f"loss.class_weights: no class {unknown[0]!r} in the training rows; classes: "
            f"{listing(labels.names)}"
        )
    return [float(setting.get(name, 1.0)) for name in labels.names]


def _check_lists(split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
    wrong = [
        f"{row}: {value!r}"
        for row, value in zip(ids, values, strict=True)
        if not isinstance(value, (list, tuple))
    ]
    if wrong:
        raise DataError(
            f"{split}: {len(wrong)} rows have no list of labels: {listing(wrong, 3)}. Write a list for each "
            "row (empty for none), or task.problem: single-label"
        )
