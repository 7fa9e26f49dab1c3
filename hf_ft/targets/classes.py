"""The targets of classification: one label for each row (SingleLabel), or several (MultiLabel)."""

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
from hf_ft.targets.base_target import Target
from hf_ft.task import Batch, Evaluation, Figure, Loaded, Metrics, SimpleFeatures
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch


class ClassWeights(Section):
    """Keys of `loss:` of classification."""

    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """balanced (inverse frequency), or class -> weight; multi-label: weights of a label's positive rows."""


class ClassLoss(ClassWeights):
    """Keys of `loss:` of single-label classification."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Single label: share of the target that is spread over all classes (Szegedy et al. 2016)."""


class Thresholds(Section):
    """Keys inside `task:` of multi-label classification."""

    thresholds: Literal["tuned"] | Fraction = 0.5
    """Multi-label: lowest score of a predicted label; tuned: one for each label, chosen on validation."""


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
        """Check that there is exactly one label."""
        if isinstance(value, (list, tuple)):
            return (
                "the problem is single-label, and the row has a list of labels; for several labels a row, "
                "write task.problem: multi-label"
            )
        return "there is no label" if name_of(value) is None else None

    def fit(self, train: Any) -> None:
        """Learn the class names and weights from the training labels."""
        values = train.column(self.role)
        self.label_map = LabelMap.fit(values, train.ids)
        counts = np.bincount([self.label_map.id(value) for value in values], minlength=len(self.label_map))
        self.weights = self._weights(len(values) / (len(counts) * counts))

    def _weights(self, balanced: np.ndarray) -> list[float]:
        """Compute the weight of each class from `loss.class_weights`.

        Args:
            balanced: the weights that `balanced` means, float [K].
        """
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
        """Return the class names in id order."""
        return {"labels": self.label_map.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.label_map = LabelMap.from_json(state["labels"])

    def labels(self) -> list[str] | None:
        """Class names in id order."""
        return list(self.label_map.names)

    @property
    def config(self) -> dict[str, Any]:
        """The label map and the kind of problem."""
        return {**self.label_map.config, "problem_type": "single_label_classification"}

    def encode(self, value: Any) -> Any:
        """Return the class id."""
        return self.label_map.id(value)

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> torch.Tensor:
        """Mix one-hot classes, float [K]."""
        import torch

        soft = [
            torch.nn.functional.one_hot(torch.tensor(value), len(self.label_map)).float() for value in values
        ]
        return weighted(soft, shares)

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Compute the weighted cross-entropy of each row [B]; labels are ids [B] or mixed classes [B, K]."""
        import torch.nn.functional as functional

        smoothing = self.loss_options.label_smoothing if model.training else 0.0
        weight = answer.new_tensor(self.weights)
        return functional.cross_entropy(
            answer, batch[self.key], weight, label_smoothing=smoothing, reduction="none"
        )

    def count(self, batch: Batch) -> torch.Tensor:
        """Return the class weight of each row [B], so that the mean is weighted as in torch."""
        import torch

        labels = batch[self.key]
        weights = torch.tensor(self.weights, device=labels.device)
        return weights[labels] if labels.ndim == 1 else labels @ weights

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return class id, probabilities [K] and logits [K] of each row."""
        logits = answer.cpu()
        scores, classes = logits.softmax(-1).numpy(), logits.argmax(-1).tolist()
        rows = zip(classes, scores, logits.numpy(), strict=True)
        return [{"class": k, "scores": score, "logits": logit} for k, score, logit in rows]

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the class id of each row."""
        return [self.label_map.id(value) for value in rows.column(self.role, indices)]

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """Make the metrics: accuracy, F1 and others, by class, with a confusion matrix."""
        from hf_ft.evaluate.metrics import ClassificationMetrics

        return ClassificationMetrics(self.label_map.names, extra)

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer every row with the most frequent class."""
        result = majority_class(self.references(train), len(self.label_map))
        return {"the most frequent class of train": [result] * len(rows)}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]] | None:
        """Fit a classical classifier; its results hold the best class and the scores of all classes.

        Returns:
            None if the rows, which may be a sample, have only one class.
        """
        if len(set(references)) < 2:
            return None
        scores_of = fit_classes(features, np.asarray(references), len(self.label_map))
        return lambda rows: [{"class": int(one.argmax()), "scores": one} for one in scores_of(rows)]

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the name of the class, its probability, and the probabilities of all classes."""
        names = self.label_map.names
        scores = {name: float(score) for name, score in zip(names, result["scores"], strict=True)}
        return {"label": names[result["class"]], "score": scores[names[result["class"]]], "scores": scores}

    def decode_reference(self, reference: Any) -> Any:
        """Return the name of the class."""
        return self.label_map.names[reference]

    def describe(self, result: Mapping[str, Any]) -> str:
        """Write the class and its probability."""
        return f"{self.label_map.names[result['class']]} ({result['scores'][result['class']]:.0%})"

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw the confusion matrix, the classes from worst to best, and the reliability diagram."""
        from hf_ft.evaluate.figures import confusion_figure, per_class_figure, reliability_figure

        scores = np.stack([result["scores"] for result in evaluation.results])
        return [
            confusion_figure(evaluation.metrics["confusion"], self.label_map.names),
            per_class_figure(evaluation.metrics["per_class"]),
            reliability_figure(scores, evaluation.references),
        ]


class MultiLabel(SingleLabel):
    """Any number of K labels, including none: a sigmoid and a binary cross-entropy for each label."""

    problem, main_metric = "multi-label", "macro_f1"
    greater_is_better = MULTILABEL_DIRECTIONS
    headline_metrics = ("micro_f1", "weighted_f1", "subset_accuracy", "map", "roc_auc")
    Options, Loss = Thresholds, ClassWeights

    # Initial bias of a new head. If the bias starts at zero, a rare label has a probability of 0.5 and needs
    # many steps to become rare (Lin et al. 2017, "Focal loss for dense object detection", section 4.1).
    log_odds: list[float]
    thresholds: list[float]

    def inspect(self, value: Any) -> str | None:
        """Check that there is a list of labels."""
        if not isinstance(value, (list, tuple)):
            return (
                f"expected a list of labels, found {value!r}; write a list for each row (empty for none), or "
                "task.problem: single-label"
            )
        return "a label of the list is empty" if any(name_of(one) is None for one in value) else None

    def fit(self, train: Any) -> None:
        """Learn label names and weights; thresholds are set to `task.thresholds`, or to 0.5 until tuned."""
        values = train.column(self.role)
        self.label_map = LabelMap.fit(values, train.ids)
        positives = np.bincount([label for row in self.references(train) for label in row])
        # At least one row has the label and at least one has not, so that the log-odds are finite.
        share = np.clip(positives, 1, len(values) - 1) / len(values)
        self.log_odds = np.log(share / (1 - share)).tolist()
        self.weights = self._weights((len(values) - positives) / positives)
        asked = self.options.thresholds
        self.thresholds = [0.5 if isinstance(asked, str) else asked] * len(self.label_map)

    def state(self) -> dict[str, Any]:
        """Return the label names in id order, and the threshold of each."""
        return {**super().state(), "thresholds": self.thresholds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        super().restore(state)
        self.thresholds = list(state["thresholds"])

    @property
    def config(self) -> dict[str, Any]:
        """The label map and the kind of problem."""
        return {**self.label_map.config, "problem_type": "multi_label_classification"}

    def prepare(self, loaded: Loaded) -> list[str]:
        """Initialise the bias of a new head with the log-odds of the training labels, if it has a bias."""
        import torch

        parameters = dict(loaded.model.named_parameters())
        found = [name for name in loaded.new if parameters[name].shape == (len(self.log_odds),)]
        biases = [name for name in found if name.endswith(("classifier.bias", "out_proj.bias"))]
        with torch.no_grad():
            for name in biases:
                parameters[name].copy_(torch.tensor(self.log_odds))
        return [f"{name} starts at the log-odds of the training labels" for name in biases]

    def encode(self, value: Any) -> Any:
        """Return 1 for the labels of the row and 0 for the others, float32 [K]."""
        return indicator([self.label_map.id(name) for name in value], len(self.label_map)).astype(np.float32)

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> torch.Tensor:
        """Mix label vectors, float [K]."""
        import torch

        return weighted([torch.as_tensor(value) for value in values], shares)

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Compute the mean binary cross-entropy over the labels of each row [B], positives weighted."""
        import torch.nn.functional as functional

        weight = answer.new_tensor(self.weights)
        losses = functional.binary_cross_entropy_with_logits(
            answer, batch[self.key], pos_weight=weight, reduction="none"
        )
        return losses.mean(-1)

    def count(self, batch: Batch) -> torch.Tensor:
        """Give each row the weight 1 [B]."""
        return Target.count(self, batch)

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return probabilities [K] and logits [K] of each row."""
        logits = answer.cpu()
        rows = zip(logits.sigmoid().numpy(), logits.numpy(), strict=True)
        return [{"scores": score, "logits": logit} for score, logit in rows]

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the label ids of each row, ascending."""
        values = rows.column(self.role, indices)
        return [sorted({self.label_map.id(name) for name in value}) for value in values]

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """Make the metrics: F1 averages, subset accuracy, mean average precision, and values by label."""
        from hf_ft.evaluate.multilabel import MultilabelMetrics

        return MultilabelMetrics(self.label_map.names, self.thresholds, extra)

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer every row with the most frequent label and all labels of over half of the training rows."""
        result = frequent_labels(self.references(train), len(self.label_map))
        return {"the most frequent label of train": [result] * len(rows)}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]]:
        """Fit a classical classifier for each label; its results hold the scores of all labels."""
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
            "validation metrics are therefore slightly too good; the test metrics are not affected"
        ]

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the labels whose score reaches their threshold, best first, and the scores of all labels."""
        names = self.label_map.names
        scores = {name: float(score) for name, score in zip(names, result["scores"], strict=True)}
        given = np.flatnonzero(result["scores"] >= np.asarray(self.thresholds, dtype=np.float32))
        return {
            "labels": sorted((names[label] for label in given), key=lambda name: -scores[name]),
            "scores": scores,
        }

    def decode_reference(self, reference: Any) -> Any:
        """Return the names of the labels."""
        return [self.label_map.names[label] for label in reference]

    def describe(self, result: Mapping[str, Any]) -> str:
        """Write the predicted labels."""
        return ", ".join(self.decode(result)["labels"]) or "no label"

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw the labels from worst to best."""
        from hf_ft.evaluate.figures import per_class_figure

        return [per_class_figure(evaluation.metrics["per_class"])]


def weighted(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Compute the weighted sum of tensors of one shape."""
    terms = [share * value for share, value in zip(shares, values, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
