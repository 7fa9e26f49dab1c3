"""What is learned about an example: one label, several labels, or a number.

A task that has logits [B, K] and a target hands the target's side of its contract to one of these: what is learned
from the training rows, the loss of each row, the small results, the metrics, the trivial answer, and what a person
reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.data.labels import LabelMap, are_amounts
from hf_ft.data.names import listing
from hf_ft.errors import DataError, RecipeError
from hf_ft.evaluate.metrics import CLASSIFICATION_DIRECTIONS, REGRESSION_DIRECTIONS
from hf_ft.evaluate.multilabel import MULTILABEL_DIRECTIONS
from hf_ft.task import Evaluation, Figure, Metrics

if TYPE_CHECKING:
    import torch

DIRECTIONS = {**CLASSIFICATION_DIRECTIONS, **MULTILABEL_DIRECTIONS, **REGRESSION_DIRECTIONS}


def find_problem(values: Sequence[Any]) -> tuple[str, str]:
    """Say what kind of problem labels pose, from all of them, never from a first batch (tf PR#11012, tf#14180).

    Args:
        values: the label of every training row.

    Returns:
        `single-label`, `multi-label` or `regression`, and the reason in words.

    Raises:
        DataError: it cannot be told: lists beside plain labels, or whole numbers written as fractions (1.0, 2.0).
    """
    lists = sum(isinstance(value, (list, tuple)) for value in values)
    if lists and lists < sum(value is not None for value in values):
        raise DataError(
            f"train: {lists} of {len(values)} labels are lists and the others are not; write all as lists"
        )
    if lists:
        return "multi-label", "the training labels are lists"
    if are_amounts(values):
        return "regression", "the training labels are fractional numbers"
    floats = [value for value in values if isinstance(value, float) and not math.isnan(value)]
    if floats:
        raise DataError(
            f"train: the labels are whole numbers written as fractions ({listing(sorted(set(floats)), 4)}): classes or "
            "amounts? Write task.problem: single-label or regression"
        )
    return "single-label", "the training labels are names or whole numbers, one a row"


class SingleLabel:
    """One of K classes: softmax and cross-entropy.

    Args:
        class_weights: `balanced` (inverse frequency), class name -> weight, or None.
        label_smoothing: share of the target that is spread over all classes, in training.
    """

    problem, class_role, main_metric = "single-label", "label", "accuracy"
    headline_metrics = ("balanced_accuracy", "macro_f1", "roc_auc")
    baseline_name = "always the most frequent class of train"
    label_map: LabelMap

    def __init__(self, class_weights: str | Mapping[str, float] | None = None, label_smoothing: float = 0.0):
        self.setting, self.label_smoothing = class_weights, label_smoothing
        self.weights: list[float] = []

    def fit(self, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Learn the classes and their weights from the training labels."""
        lists = [row for row, value in zip(ids, values, strict=True) if isinstance(value, (list, tuple))]
        if lists:
            raise DataError(f"task.problem: single-label, but rows have lists of labels: {listing(lists, 3)}")
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
        """Cross-entropy of each row [B], weighted by class."""
        import torch.nn.functional as functional

        smoothing = self.label_smoothing if training else 0.0
        weight = logits.new_tensor(self.weights)
        return functional.cross_entropy(logits, labels, weight, label_smoothing=smoothing, reduction="none")

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """The class weight of each row [B]: the mean is the weighted mean, as in torch."""
        import torch

        return torch.tensor(self.weights, device=labels.device)[labels]

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
        class_weights: weight of a label's positive rows: `balanced` (negatives over positives), label name -> weight,
            or None.
        thresholds: the score from which a label is given, or `tuned`: one for each label, chosen on validation.
    """

    problem, main_metric = "multi-label", "macro_f1"
    headline_metrics = ("micro_f1", "weighted_f1", "subset_accuracy", "map", "roc_auc")
    baseline_name = "always the most frequent label of train"

    def __init__(self, class_weights: str | Mapping[str, float] | None = None, thresholds: str | float = 0.5):
        super().__init__(class_weights)
        self.asked = thresholds
        self.thresholds: list[float] = []

    def fit(self, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Learn the labels and their weights; thresholds start at the one asked for, or at 0.5."""
        _check_lists("train", values, ids)
        self.label_map = LabelMap.fit(values, ids)
        positives = np.bincount([label for row in self.references(values) for label in row])
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
        from hf_ft.evaluate.multilabel import prior_baseline

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
            f"thresholds chosen on {len(truth)} validation rows: {low:.2f} to {high:.2f}{together}. The figures of "
            "validation are therefore a little too good; those of test are not"
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


class Number:
    """One number: squared error, learned on the standardised scale, measured in original units.

    Args:
        name: what the number is called.
        standardise: learn (y - mean) / deviation of the training rows, in place of y itself.
    """

    problem, class_role, main_metric = "regression", None, "rmse"
    headline_metrics = ("mae", "r2", "pearson", "spearman")
    baseline_name = "always the mean of train"

    def __init__(self, name: str, standardise: bool = True):
        self.name, self.standardise = name, standardise
        self.mean, self.deviation = 0.0, 1.0

    def fit(self, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Learn the mean and the deviation of the training numbers."""
        self.check("train", values, ids)
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.std() == 0:
            raise DataError(f"train: every row has the number {numbers[0]:g}; there is nothing to learn")
        if self.standardise:
            self.mean, self.deviation = float(numbers.mean()), float(numbers.std())

    def check(self, split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Refuse what is not a finite number."""
        wrong = [
            f"{row}: {value!r}"
            for row, value in zip(ids, values, strict=True)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
        ]
        if wrong:
            raise DataError(
                f"{split}: {len(wrong)} rows have no finite number as their label: {listing(wrong, 3)}. Mend or "
                "remove them, or write task.problem: single-label if these are classes"
            )

    def state(self) -> dict[str, Any]:
        """The scale."""
        return {"target": self.name, "mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.name, self.mean, self.deviation = state["target"], state["mean"], state["deviation"]

    def labels(self) -> list[str] | None:
        """A number has no classes."""
        return None

    @property
    def config(self) -> dict[str, Any]:
        """What the model's configuration must say."""
        return {"num_labels": 1, "problem_type": "regression"}

    def encode(self, value: Any) -> float:
        """The number on the scale that is learned."""
        return (float(value) - self.mean) / self.deviation

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Squared error of each row [B], on the scale that is learned."""
        return (logits[:, 0] - labels) ** 2

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """Every row counts once [B]."""
        return labels.new_ones(len(labels))

    def predict(self, logits: torch.Tensor) -> list[dict[str, Any]]:
        """The number in its own units [1], and the model's output [1]."""
        values = logits.double().numpy() * self.deviation + self.mean
        return [
            {"value": value, "logits": logit} for value, logit in zip(values, logits.numpy(), strict=True)
        ]

    def references(self, values: Sequence[Any]) -> list[Any]:
        """The numbers, each as [1]."""
        return [[float(value)] for value in values]

    def metrics(self, extra: Sequence[str]) -> Metrics:
        """MAE, RMSE, R2, correlations, in the number's own units."""
        from hf_ft.evaluate.metrics import RegressionMetrics

        return RegressionMetrics([self.name], extra=extra)

    def baseline(self, train: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Always the mean of the training rows."""
        from hf_ft.evaluate.baselines import mean_baseline
        from hf_ft.evaluate.metrics import RegressionMetrics

        return mean_baseline(np.asarray(train), np.asarray(references), RegressionMetrics([self.name]))

    def calibrate(self, validation: Evaluation) -> list[str]:
        """A number needs no threshold."""
        return []

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The number."""
        return {"value": float(result["value"][0])}

    def decode_reference(self, reference: Any) -> Any:
        """The number."""
        return float(reference[0])

    def describe(self, result: Mapping[str, Any]) -> str:
        """The number, short."""
        return f"{float(result['value'][0]):.4g}"

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Predictions against the truth."""
        from hf_ft.evaluate.figures import scatter_figure

        predicted = np.asarray([result["value"][0] for result in evaluation.results])
        return [scatter_figure(predicted, np.asarray(evaluation.references)[:, 0], self.name)]


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
            f"loss.class_weights: no class {unknown[0]!r} in the training rows; classes: {listing(labels.names)}"
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
            f"{split}: {len(wrong)} rows have no list of labels: {listing(wrong, 3)}. Write a list for each row "
            "(empty for none), or task.problem: single-label"
        )
