"""Time-series regression: a whole series in, one number (or several) out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hf_ft.errors import DataError
from hf_ft.evaluate.metrics import REGRESSION_DIRECTIONS
from hf_ft.inputs.series.scaler import Scaler
from hf_ft.recipe.schema import Section
from hf_ft.targets.pointwise_loss import PointwiseLoss, row_losses
from hf_ft.task import Batch, Evaluation, Figure, Inspection, Item, Role, Row, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.evaluate.metrics import RegressionMetrics
    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded


class Options(Section):
    """Keys inside `task:` of time-series-regression."""

    missing: Literal["error", "interpolate"] = "error"
    """Missing values within a series: a bad row; or filled along a straight line."""
    units: dict[str, str] = Field(default={})
    """target -> unit."""
    trees: bool = True
    """Whether gradient-boosted trees on all values of the series are fitted beside (scikit-learn)."""


class TimeSeriesRegression(Task):
    """Numbers that belong to a whole series of fixed length, from all of its channels.

    Series and targets are standardised with the training rows, each channel as a whole, so that the level and
    the size of a series stay visible. The models' own scaling of each series, on by default in transformers,
    would hide both; it is off unless `model.config.scaling` says otherwise.
    """

    name = "time-series-regression"
    summary = "a whole series in, one number out (PatchTST, PatchTSMixer)"
    auto_class = "hf_ft.inputs.series.series_models:AutoModelForTimeSeriesRegression"
    roles: ClassVar = {
        "series": Role(
            "the values: a column of lists, or one for each channel; numbers where a row is one step",
            several=True,
            usual=("values", "dim_0"),
            gathered=True,
        ),
        "target": Role("the number to predict, or several", target=True, several=True, usual=("label", "y")),
        "series_id": Role("which series a row belongs to, where a row is one step", required=False),
        "timestamp": Role("the time of a step, by which the steps are sorted", required=False),
    }
    main_metric = "rmse"
    greater_is_better = REGRESSION_DIRECTIONS
    headline_metrics = ("mae", "r2")
    baseline_name = "the mean of the training rows"
    example_input = "series.parquet"
    targets = ("target_values",)
    Options, Loss = Options, PointwiseLoss

    columns: list[str]
    # The columns with the roles `series_id` and `timestamp`, which a table with one row a step has.
    long: dict[str, str]
    names: list[str]
    length: int
    scaler: Scaler
    target_scaler: Scaler

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Is the series of the common length and complete, and its target a number?"""
        try:
            values = self._values(row)
            if "target" in row:
                self._target(row)
        except DataError as error:
            return Inspection(problem=str(error))
        if values.shape != (self.length, len(self.scaler.names)):
            expected = f"{self.length} steps of {len(self.scaler.names)} channels"
            return Inspection(
                problem=f"row {row['id']}: {len(values)} steps of {values.shape[1]} channels, not {expected}"
            )
        return Inspection(digest=hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest())

    def _values(self, row: Row) -> np.ndarray:
        """Give the series of a row, float64 [steps, channels]."""
        import numpy as np

        from hf_ft.inputs.series.series_table import fill

        try:
            values = np.asarray(row["series"], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"row {row['id']}: the series is no list of numbers, or its channels differ in length"
            ) from error
        values = values[:, None] if values.ndim == 1 else values.T
        if values.ndim != 2 or not values.size:
            lone = "; where a row is one step, name its series in data.columns.series_id"
            raise DataError(
                f"row {row['id']}: expected a list of numbers for each channel, found "
                + (f"one number{lone}" if not values.ndim else f"shape {values.shape}")
            )
        holes = np.isnan(values)
        if holes.any() and (self.options.missing == "error" or holes.all(axis=0).any()):
            raise DataError(
                f"row {row['id']}: {int(holes.sum())} of {values.size} values are missing (task.missing: "
                "interpolate fills them where a channel has any)"
            )
        if np.isinf(values).any():
            raise DataError(f"row {row['id']}: a value is infinite")
        result: np.ndarray = fill(values[None])[0]
        return result

    def _target(self, row: Row) -> np.ndarray:
        """Give the targets of a row, float64 [T]."""
        import numpy as np

        try:
            target = np.atleast_1d(np.asarray(row["target"], dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise DataError(f"row {row['id']}: the target is {row['target']!r}; expected a number") from error
        if not np.isfinite(target).all():
            raise DataError(f"row {row['id']}: the target is {row['target']!r}; expected a number")
        return target

    def fit(self, train: Any) -> None:
        """Learn the length of the series and the scales of channels and targets from the training rows."""
        import numpy as np

        series, targets, problems = [], [], []
        for row in train:
            try:
                found = self._values(row), self._target(row)
            except DataError as error:
                problems.append(str(error))  # the audit names every such row
                continue
            series.append(found[0])
            targets.append(found[1])
        if not series:
            raise DataError(f"train: no row can be used; the first: {problems[0]}")
        shapes, counts = np.unique([one.shape for one in series], axis=0, return_counts=True)
        self.length, channels = (int(size) for size in shapes[counts.argmax()])
        common = [one for one in series if one.shape == (self.length, channels)]
        self.names, self.columns = _names(train.columns["target"]), _names(train.columns["series"])
        self.long = {
            role: str(train.columns[role]) for role in ("series_id", "timestamp") if role in train.columns
        }
        self.scaler = Scaler.fit(np.concatenate(common), _channels(self.columns, channels))
        self.target_scaler = Scaler.fit(np.stack(targets), self.names)
        unknown = sorted(set(self.options.units) - set(self.names))
        if unknown:
            raise DataError(f"task.units: {unknown[0]!r} is not a target; targets: {', '.join(self.names)}")

    def state(self) -> dict[str, Any]:
        """Length, scales and names."""
        scales = {"scaler": self.scaler.to_json(), "target_scaler": self.target_scaler.to_json()}
        return {"columns": self.columns, "long": self.long, "length": self.length, **scales}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.columns, self.long, self.length = state["columns"], state["long"], state["length"]
        self.scaler, self.target_scaler = (
            Scaler.from_json(state[key]) for key in ("scaler", "target_scaler")
        )
        self.names = self.target_scaler.names

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load a regression model with an output for each target."""
        from hf_ft.inputs.series.series_models import load_series_model

        return load_series_model(
            self.auto_class,
            section,
            context=self.length,
            channels=len(self.scaler.names),
            outputs={"num_targets": len(self.names)},
            mixed=False,  # the head joins the channels
            level_kept=True,
        )

    def load_processor(self, folder: str) -> None:
        """There is none: task.json holds the scales."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Series to `past_values` [steps, channels], targets to `target_values` [T], scaled."""
        import numpy as np

        past = self.scaler.scale(np.stack([self._values(row) for row in rows])).astype(np.float32)
        items: list[Item] = [{"past_values": one} for one in past]
        if "target" in rows[0]:
            targets = self.target_scaler.scale(np.stack([self._target(row) for row in rows])).astype(
                np.float32
            )
            items = [{**item, "target_values": one} for item, one in zip(items, targets, strict=True)]
        return items

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack to `past_values` [B, steps, channels] and `target_values` [B, T]."""
        import numpy as np
        import torch

        return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}

    def forward(self, model: Any, batch: Batch) -> torch.Tensor:
        """Give the scaled targets, [B, T]."""
        outputs: torch.Tensor = model(past_values=batch["past_values"]).regression_outputs
        return outputs

    def loss(self, model: Any, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean over the targets of each row's scaled error, [B]."""
        return row_losses(outputs.float(), batch["target_values"], self.loss_options)

    def predict(self, model: Any, outputs: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`value` [T] in original units."""
        return [{"value": value} for value in self.target_scaler.restore(outputs.double().cpu().numpy())]

    # Evaluation

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[np.ndarray]:
        """Targets [T] in original units."""
        import numpy as np

        values = rows.column("target", indices)
        return [np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in values]

    def metrics(self) -> RegressionMetrics:
        """Errors in original units, by target."""
        from hf_ft.evaluate.metrics import RegressionMetrics

        units = [self.options.units.get(name, "") for name in self.names]
        return RegressionMetrics(self.names, units, extra=self.extra_metrics)

    def baseline(self, train: Any, rows: Any) -> dict[str, float]:
        """The mean of the training rows; as `trees_<metric>`, boosted trees on all values of the series."""
        import numpy as np

        from hf_ft.evaluate.baselines import mean_baseline

        references = self.references(rows)
        found = mean_baseline(np.stack(self.references(train)), np.stack(references), self.metrics())
        if not self.options.trees:
            return found
        trees = self.metrics()
        trees.update([{"value": value} for value in self._trees(train, rows)], references)
        return found | {f"trees_{name}": v for name, v in trees.compute().items() if isinstance(v, float)}

    def _trees(self, train: Any, rows: Any) -> np.ndarray:
        """Forecasts of gradient-boosted trees, one ensemble a target, [N, T]."""
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingRegressor

        features, known = (np.stack([self._values(row).ravel() for row in part]) for part in (train, rows))
        targets = np.stack(self.references(train))
        models = [HistGradientBoostingRegressor(random_state=0).fit(features, column) for column in targets.T]
        return np.stack([model.predict(known) for model in models], axis=1)

    def decode(self, result: dict[str, Any]) -> dict[str, Any]:
        """The predicted number, or one for each target."""
        return {"prediction": self.decode_reference(result["value"])}

    def decode_reference(self, reference: np.ndarray) -> Any:
        """A number, or one for each target."""
        values = reference.tolist()
        return values[0] if len(values) == 1 else dict(zip(self.names, values, strict=True))

    def difference(self, a: dict[str, Any], b: dict[str, Any]) -> float:
        """Largest difference between two predictions, in standard deviations."""
        return float((abs(a["value"] - b["value"]) / self.target_scaler.std).max())

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Predictions against the truth, for each target."""
        import numpy as np

        from hf_ft.evaluate.figures import scatter_figure

        predicted = np.stack([result["value"] for result in evaluation.results])
        truth = np.stack(evaluation.references)
        return [
            scatter_figure(
                predicted[:, i], truth[:, i], name, self.options.units.get(name, ""), name=f"scatter_{i}"
            )
            for i, name in enumerate(self.names)
        ]

    # Prediction

    def read_inputs(self, inputs: Any) -> list[Row]:
        """A file or DataFrame with the training data's columns, arrays, or rows with the key `series`."""
        import numpy as np

        from hf_ft.data.files import read_files
        from hf_ft.data.long_table import gather_steps, is_long
        from hf_ft.data.sources import as_datasets

        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if isinstance(inputs, (str, Path)):
            inputs = [inputs]
        if (
            isinstance(inputs, (list, tuple))
            and inputs
            and all(isinstance(one, (str, Path)) for one in inputs)
        ):
            inputs = read_files([str(one) for one in inputs])
        if isinstance(inputs, (list, tuple)):
            values = [one if isinstance(one, dict) else {"series": one} for one in inputs]
            return [{"id": str(number), **row} for number, row in enumerate(values)]
        table = as_datasets(inputs, "inputs")["train"]
        absent = [name for name in self.columns if name not in table.column_names]
        if absent:
            raise DataError(f"the model needs the columns {absent}; found columns: {table.column_names}")
        ids: list[Any] = list(range(len(table)))
        roles: dict[str, str | list[str]] = {"series": self.columns, **self.long}
        series_id = self.long.get("series_id")
        if series_id in table.column_names and is_long(table.features, roles, "series"):
            time = self.long.get("timestamp")
            table = gather_steps(table, str(series_id), self.columns, [], time, name="inputs")
            ids = table[series_id][:]
        columns = [table[name] for name in self.columns]
        return [
            {"id": str(row_id), "series": list(values) if len(values) > 1 else values[0]}
            for row_id, values in zip(ids, zip(*columns, strict=True), strict=True)
        ]


def _names(columns: str | list[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def _channels(columns: list[str], channels: int) -> list[str]:
    """Name the channels: by their columns, or by number where one column holds them all."""
    return columns if len(columns) == channels else [f"{columns[0]}[{index}]" for index in range(channels)]
