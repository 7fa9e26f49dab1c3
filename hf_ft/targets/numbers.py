"""The target of regression: one number for each row, or several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from hf_ft.data.labels import is_number_text
from hf_ft.data.scaler import Scaler
from hf_ft.errors import DataError
from hf_ft.evaluate.baselines import mean_value
from hf_ft.evaluate.classical import fit_numbers
from hf_ft.evaluate.metrics import REGRESSION_DIRECTIONS, RegressionMetrics
from hf_ft.recipe.schema import Section
from hf_ft.targets.base_target import Target
from hf_ft.targets.classes import weighted
from hf_ft.targets.pointwise_loss import PointwiseLoss, row_losses
from hf_ft.task import Batch, Evaluation, Figure, SimpleFeatures
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch


# Double precision holds the square of an error up to 1e154, single precision (of scaled numbers) up to 1e19.
MOST, MOST_SCALED = 1e150, 1e18


class NumberOptions(Section):
    """Keys inside `task:` where numbers are learned."""

    standardise: bool = True
    """Regression: learn (y - mean) / deviation of the training rows; metrics are in the original unit."""
    units: dict[str, str] = Field(default={})
    """Regression: column of the target -> its unit, for tables and figures."""


class Number(Target):
    """T numbers: the loss compares standardised values, the metrics compare values in original units."""

    problem, main_metric = "regression", "rmse"
    greater_is_better = REGRESSION_DIRECTIONS
    headline_metrics = ("mae", "r2", "pearson", "spearman")
    Options, Loss = NumberOptions, PointwiseLoss

    scaler: Scaler

    def inspect(self, value: Any) -> str | None:
        """Check that the value is a finite number, or a list of finite numbers."""
        values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            is_number = isinstance(one, int | float | Decimal) and not isinstance(one, bool)
            if isinstance(one, str) and is_number_text(one):
                return f"the {self.role} is the text {one!r}; expected a number, with a decimal point"
            if not is_number or not math.isfinite(one):
                return f"the {self.role} is {value!r}; expected a finite number"
            if abs(one) > MOST:
                return f"the {self.role} is {value!r}, which is too large to be squared; choose another unit"
        return None if values else f"the {self.role} is an empty list; expected a number"

    def fit(self, train: Any) -> None:
        """Learn the mean and standard deviation of the training numbers."""
        column = train.columns[self.role]
        names = [column] if isinstance(column, str) else list(column)
        values = self._stacked("train", train)
        if len(names) != values.shape[1]:
            names = [f"{names[0]}[{index}]" for index in range(values.shape[1])]
        for name, numbers in zip(names, values.T, strict=True):
            if numbers.min() == numbers.max():
                raise DataError(
                    f"train: every row has the same {name}, {numbers[0]:g}; there is nothing to learn"
                )
        self.scaler = Scaler.fit(values, names) if self.options.standardise else Scaler.none(names)
        check_units(self.options.units, names)
        self._choose_metrics()

    def check(self, split: str, rows: Any) -> None:
        """Refuse numbers that are so far from those of train that single precision cannot hold the loss."""
        if not len(rows):
            return
        values = self._stacked(split, rows)
        far = np.flatnonzero(~(np.abs(self.scaler.scale(values)) <= MOST_SCALED).all(axis=1))
        if len(far):
            raise DataError(
                f"{split}: {len(far)} rows have a {self.role} that is too far from those of train for single "
                f"precision, such as {values[far[0]].tolist()} (row {rows.ids[far[0]]}); mean and deviation "
                f"are {self.scaler.mean.tolist()} and {self.scaler.std.tolist()}. Is the unit the same?"
            )

    def _stacked(self, split: str, rows: Any) -> np.ndarray:
        """Return the numbers of all rows in original units, float64 [N, T].

        Raises:
            DataError: rows have different numbers of values.
        """
        values = self.references(rows)
        most = Counter(map(len, values)).most_common(1)[0][0]
        other = [row_id for row_id, one in zip(rows.ids, values, strict=True) if len(one) != most]
        if other:
            raise DataError(
                f"{split}: most rows have {most} numbers as {self.role}, {len(other)} rows have more or "
                f"fewer: {listing(other, 5)}"
            )
        return np.stack(values)

    def state(self) -> dict[str, Any]:
        """Return the mean and deviation of each number."""
        return {"target_scaler": self.scaler.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.scaler = Scaler.from_json(state["target_scaler"])
        self._choose_metrics()

    def _choose_metrics(self) -> None:
        """Make R2 the main metric where the units differ: errors then have no meaningful mean."""
        if len(set(self._units)) > 1:
            self.main_metric = "r2"
            self.greater_is_better = without_unit_metrics(REGRESSION_DIRECTIONS)

    @property
    def config(self) -> dict[str, Any]:
        """The number of outputs, and the kind of problem."""
        return {"num_labels": len(self.scaler.names), "problem_type": "regression"}

    def encode(self, value: Any) -> np.ndarray:
        """Scale the numbers, float32 [T]."""
        scaled: np.ndarray = self.scaler.scale(_numbers(value)).astype(np.float32)
        return scaled

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> torch.Tensor:
        """Return the weighted mean of the numbers, float32 [T]."""
        import torch

        return weighted([torch.as_tensor(value) for value in values], shares)

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Compute the mean loss over the scaled numbers of each row, float [B]."""
        return row_losses(answer, batch[self.key], self.loss_options)

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return `value`, the numbers in original units, float64 [T], for each row."""
        return [{"value": value} for value in self.scaler.restore(answer.double().cpu().numpy())]

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the numbers of each row in original units, float64 [T]."""
        return [_numbers(value) for value in rows.column(self.role, indices)]

    def metrics(self, extra: Sequence[str] = ()) -> RegressionMetrics:
        """Make the metrics: MAE, RMSE, R2 and correlations, in original units."""
        return RegressionMetrics(self.scaler.names, self._units, extra=extra)

    @property
    def _units(self) -> list[str]:
        return [self.options.units.get(name, "") for name in self.scaler.names]

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer every row with the mean of the training rows."""
        result = mean_value(np.stack(self.references(train)))
        return {"the mean of train": [result] * len(rows)}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]]:
        """Fit a classical regression model; its results hold `value`."""
        values_of = fit_numbers(features, np.stack(references))
        return lambda rows: [{"value": value} for value in values_of(rows)]

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the number, or a dict of numbers by target name."""
        return {"value": self.decode_reference(result["value"])}

    def decode_reference(self, reference: np.ndarray) -> Any:
        """Return a number, or a dict of numbers by target name."""
        values = reference.tolist()
        return values[0] if len(values) == 1 else dict(zip(self.scaler.names, values, strict=True))

    def describe(self, result: Mapping[str, Any]) -> str:
        """Write the numbers with their units."""
        return ", ".join(
            f"{value:.4g} {unit}".rstrip() for value, unit in zip(result["value"], self._units, strict=True)
        )

    def difference(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
        """Return the largest absolute difference between two predictions, in standard deviations."""
        return float((abs(a["value"] - b["value"]) / self.scaler.std).max())

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw predictions against the truth, one figure for each target."""
        from hf_ft.evaluate.figures import scatter_figure

        predicted = np.stack([result["value"] for result in evaluation.results])
        truth = np.stack(evaluation.references)
        return [
            scatter_figure(predicted[:, i], truth[:, i], name, self._units[i], name=f"scatter_{i}")
            for i, name in enumerate(self.scaler.names)
        ]


def check_units(units: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse units of columns that are not targets.

    Args:
        units: `task.units`.
        names: names of the targets.

    Raises:
        DataError: a key of `units` is not a target; the message lists the targets.
    """
    unknown = sorted(set(units) - set(names))
    if unknown:
        raise DataError(f"task.units: {unknown[0]!r} is not a target; targets: {listing(names)}")


def without_unit_metrics(directions: Mapping[str, bool]) -> dict[str, bool]:
    """Leave out the metrics that have a unit, for targets whose units differ."""
    return {name: up for name, up in directions.items() if name not in ("mae", "rmse")}


def _numbers(value: Any) -> np.ndarray:
    """Convert one number, or several, to float64 [T]."""
    return np.atleast_1d(np.asarray(value, dtype=np.float64))
