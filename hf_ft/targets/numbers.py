"""Targets that are numbers: one a row, or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from hf_ft.data.scaler import Scaler
from hf_ft.errors import DataError
from hf_ft.evaluate.baselines import mean_value
from hf_ft.evaluate.classical import fit_numbers
from hf_ft.evaluate.metrics import REGRESSION_DIRECTIONS, RegressionMetrics
from hf_ft.recipe.schema import Section
from hf_ft.targets.base import Target
from hf_ft.targets.classes import weighted
from hf_ft.targets.pointwise_loss import PointwiseLoss, row_losses
from hf_ft.task import Batch, Evaluation, Figure, SimpleFeatures
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch


class NumberOptions(Section):
    """Keys inside `task:` where numbers are learned."""

    standardise: bool = True
    """Regression: learn (y - mean) / deviation of the training rows; figures stay in the original unit."""
    units: dict[str, str] = Field(default={})
    """Regression: column of the target -> its unit."""


class Number(Target):
    """T numbers: learned on the standardised scale, measured in their own units."""

    problem, main_metric = "regression", "rmse"
    greater_is_better = REGRESSION_DIRECTIONS
    headline_metrics = ("mae", "r2", "pearson", "spearman")
    Options, Loss = NumberOptions, PointwiseLoss

    scaler: Scaler

    def inspect(self, value: Any) -> str | None:
        """Is the value a finite number, or a list of them?"""
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            if not isinstance(one, int | float) or isinstance(one, bool) or not math.isfinite(one):
                return f"the {self.role} is {value!r}; expected a finite number"
        return None if values else f"the {self.role} is an empty list; expected a number"

    def fit(self, train: Any) -> None:
        """Learn the mean and the deviation of the training numbers."""
        column = train.columns[self.role]
        names = [column] if isinstance(column, str) else list(column)
        values = np.stack(self.references(train))
        if len(names) != values.shape[1]:
            names = [f"{names[0]}[{index}]" for index in range(values.shape[1])]
        for name, numbers in zip(names, values.T, strict=True):
            if numbers.std() == 0:
                raise DataError(
                    f"train: every row has the same {name}, {numbers[0]:g}; there is nothing to learn"
                )
        self.scaler = Scaler.fit(values, names) if self.options.standardise else Scaler.none(names)
        check_units(self.options.units, names)
        self._narrow()

    def state(self) -> dict[str, Any]:
        """The scale of each number, under its name."""
        return {"target_scaler": self.scaler.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.scaler = Scaler.from_json(state["target_scaler"])
        self._narrow()

    def _narrow(self) -> None:
        """Measure by R2 where the units differ: an error has no meaningful mean over them."""
        if len(set(self._units)) > 1:
            self.main_metric = "r2"
            self.greater_is_better = without_errors(REGRESSION_DIRECTIONS)

    @property
    def config(self) -> dict[str, Any]:
        """The number of outputs."""
        return {"num_labels": len(self.scaler.names), "problem_type": "regression"}

    def encode(self, value: Any) -> np.ndarray:
        """The numbers on the scale that is learned, float32 [T]."""
        scaled: np.ndarray = self.scaler.scale(_numbers(value)).astype(np.float32)
        return scaled

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> torch.Tensor:
        """The weighted mean."""
        import torch

        return weighted([torch.as_tensor(value) for value in values], shares)

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean over the numbers of each row's error [B], on the scale that is learned."""
        return row_losses(answer, batch[self.key], self.loss_options)

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`value`: the numbers in their own units, float64 [T]."""
        return [{"value": value} for value in self.scaler.restore(answer.double().cpu().numpy())]

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """The numbers, each row's as float64 [T]."""
        return [_numbers(value) for value in rows.column(self.role, indices)]

    def metrics(self, extra: Sequence[str] = ()) -> RegressionMetrics:
        """MAE, RMSE, R2, correlations, in the numbers' own units."""
        return RegressionMetrics(self.scaler.names, self._units, extra=extra)

    @property
    def _units(self) -> list[str]:
        return [self.options.units.get(name, "") for name in self.scaler.names]

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Always the mean of the training rows."""
        result = mean_value(np.stack(self.references(train)))
        return {"the mean of train": [result] * len(rows)}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]]:
        """The predicted numbers."""
        values_of = fit_numbers(features, np.stack(references))
        return lambda rows: [{"value": value} for value in values_of(rows)]

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The number, or one for each target."""
        return {"value": self.decode_reference(result["value"])}

    def decode_reference(self, reference: np.ndarray) -> Any:
        """A number, or one for each target."""
        values = reference.tolist()
        return values[0] if len(values) == 1 else dict(zip(self.scaler.names, values, strict=True))

    def describe(self, result: Mapping[str, Any]) -> str:
        """The numbers, short."""
        return ", ".join(
            f"{value:.4g} {unit}".rstrip() for value, unit in zip(result["value"], self._units, strict=True)
        )

    def difference(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
        """Largest difference between two predictions, in standard deviations."""
        return float((abs(a["value"] - b["value"]) / self.scaler.std).max())

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Predictions against the truth, for each target."""
        from hf_ft.evaluate.figures import scatter_figure

        predicted = np.stack([result["value"] for result in evaluation.results])
        truth = np.stack(evaluation.references)
        return [
            scatter_figure(predicted[:, i], truth[:, i], name, self._units[i], name=f"scatter_{i}")
            for i, name in enumerate(self.scaler.names)
        ]


def check_units(units: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse a unit of something that is not a target.

    Args:
        units: `task.units`.
        names: the targets.

    Raises:
        DataError: names the unit's key and the targets.
    """
    unknown = sorted(set(units) - set(names))
    if unknown:
        raise DataError(f"task.units: {unknown[0]!r} is not a target; targets: {listing(names)}")


def without_errors(directions: Mapping[str, bool]) -> dict[str, bool]:
    """Leave out the metrics that have a unit, where the targets have different ones."""
    return {name: up for name, up in directions.items() if name not in ("mae", "rmse")}


def _numbers(value: Any) -> np.ndarray:
    """Give one number, or several, as float64 [T]."""
    return np.atleast_1d(np.asarray(value, dtype=np.float64))
