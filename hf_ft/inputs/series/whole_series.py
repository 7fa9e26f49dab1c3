"""The input of whole series: each row holds one series of fixed length, with one or several channels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.data.scaler import Scaler
from hf_ft.errors import DataError
from hf_ft.inputs.base_input import Input
from hf_ft.inputs.raw_inputs import (
    is_row_file,
    is_table,
    no_row_file,
    read_rows,
    read_table,
    without_usual_names,
)
from hf_ft.inputs.series.options import WholeSeriesOptions
from hf_ft.task import Inspection, Item, Preview, Role, Row, SimpleFeatures
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded


class SeriesInput(Input):
    """One whole series for each row, encoded as `past_values` [steps, channels].

    Each channel is standardised with the mean and deviation over all training rows, so that the model still
    sees the level and the amplitude of a series. The models' own scaling of each series, which transformers
    turns on by default, would remove both; it is off unless the recipe sets `model.config.scaling`.
    """

    roles: ClassVar = {
        "series": Role(
            "the values: a column of lists, or one column for each channel; numbers where a row is one step",
            several=True,
            usual=("values", "dim_0"),
            gathered=True,
        ),
        "series_id": Role("which series a row belongs to, where a row is one step", required=False),
        "timestamp": Role("the time of a step, by which the steps are sorted", required=False),
    }
    Options = WholeSeriesOptions

    length: int
    scaler: Scaler

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Check that the row holds a complete series; hash its values."""
        try:
            values = self.values(row)
        except DataError as error:
            return Inspection(problem=str(error))
        return Inspection(digest=hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest())

    def values(self, row: Row) -> np.ndarray:
        """Return the series of a row, float64 [steps, channels].

        Raises:
            DataError: the row holds no series, or values are missing and `task.missing` does not allow it.
        """
        import numpy as np

        from hf_ft.inputs.series.series_table import fill

        try:
            given = np.asarray(row["series"], dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"row {row['id']}: expected a list of numbers for each channel, all of one length ({error})"
            ) from error
        values = given[:, None] if given.ndim == 1 else given.T
        if values.ndim != 2 or not values.size:
            lone = "; where a row is one step, name its series in data.columns.series_id"
            raise DataError(
                f"row {row['id']}: expected a list of numbers for each channel, found "
                + (f"shape {values.shape}" if given.ndim else f"one number{lone}")
            )
        holes = np.isnan(values)
        if holes.any() and (self.options.missing == "error" or holes.all(axis=0).any()):
            raise DataError(
                f"row {row['id']}: {int(holes.sum())} of {values.size} values are missing; task.missing: "
                "interpolate fills them if each channel has at least one value"
            )
        if np.isinf(values).any():
            raise DataError(f"row {row['id']}: a value is infinite")
        result: np.ndarray = fill(values[None])[0]
        return result

    def fit(self, train: Any) -> None:
        """Learn the length of the series and the scales of the channels from the training rows."""
        import numpy as np

        super().fit(train)
        series = [self.values(row) for row in train]
        shapes, counts = np.unique([one.shape for one in series], axis=0, return_counts=True)
        self.length, channels = (int(size) for size in shapes[counts.argmax()])
        common = [one for one in series if one.shape == (self.length, channels)]
        self.scaler = Scaler.fit(np.concatenate(common), _channels(self.columns["series"], channels))

    def check(self, split: str, rows: Any) -> dict[int, str]:
        """Find series whose length or channels differ from those of most training rows."""
        expected = (self.length, len(self.scaler.names))
        shapes = [self.values(row).shape for row in rows]
        return {
            index: f"found {steps} steps of {channels} channels; most training rows have {expected[0]} steps "
            f"of {expected[1]}"
            for index, (steps, channels) in enumerate(shapes)
            if (steps, channels) != expected
        }

    def state(self) -> dict[str, Any]:
        """Return columns, length and scales."""
        return {**super().state(), "length": self.length, "scaler": self.scaler.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        super().restore(state)
        self.length, self.scaler = state["length"], Scaler.from_json(state["scaler"])

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load a model for series of this length and these channels."""
        from hf_ft.inputs.series.series_models import load_series_model

        outputs = dict(config)
        # These models use `num_targets` for the number of outputs, both of numbers and of classes.
        outputs["num_targets"] = outputs.pop("num_labels", None) or len(outputs["id2label"])
        return load_series_model(
            auto_class,
            section,
            context=self.length,
            channels=len(self.scaler.names),
            outputs=outputs,
            mix_channels=False,  # the head reads all channels
            disable_scaling=True,
        )

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Scale series and give them as `past_values` [steps, channels]."""
        import numpy as np

        past = self.scaler.scale(np.stack([self.values(row) for row in rows])).astype(np.float32)
        return [{"past_values": one} for one in past]

    # Evaluation and prediction

    def simple_features(self, train: Any) -> SimpleFeatures | None:
        """Return all values of the series, for boosted trees; None with `task.trees: false`."""
        import numpy as np

        def values_of(rows: Any) -> np.ndarray:
            return np.stack([self.values(row).ravel() for row in rows])

        if not self.options.trees:
            return None
        return SimpleFeatures("all values of the series", values_of(train), values_of, "trees")

    def preview(self, row: Row) -> Preview:
        """Show the first channel of the series as a curve."""
        return Preview(curves={"series": self.values(row)[:, 0].tolist()})

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Read files or DataFrames with the training columns, arrays, or rows with the key `series`."""

        def single(value: Any, number: str) -> list[Row]:
            if isinstance(value, (str, Path)):
                raise no_row_file(value)
            return [{"id": number, "series": value}]

        given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if given and all(is_row_file(one) or is_table(one) for one in given):
            given = self._gathered(read_table(given))
        roles = without_usual_names({"series": self.roles["series"]})
        return read_rows(given, roles, self.columns, single)

    def _gathered(self, table: Dataset) -> list[Any]:
        """Gather the steps of each series into one row, where the table has one row for each step."""
        from hf_ft.data.long_table import gather_steps, is_long

        series_id = self.columns.get("series_id")
        time = str(self.columns["timestamp"]) if "timestamp" in self.columns else None
        steps = self.columns.get("series", "series")
        names = [steps] if isinstance(steps, str) else steps
        if not set(names) <= set(table.column_names) or series_id not in table.column_names:
            return [table]
        if not is_long(table.features, self.columns, "series"):
            return [table]
        whole = gather_steps(table, str(series_id), names, [], time, name="inputs")
        return [{**row, "id": str(row[str(series_id)])} for row in whole]

    @property
    def example(self) -> str:
        """The name of a file that holds series."""
        return "series.parquet"


def _channels(columns: str | list[str], channels: int) -> list[str]:
    """Name the channels by their columns, or by number where one column holds them all."""
    names = [columns] if isinstance(columns, str) else columns
    if len(names) == channels:
        return list(names)
    if len(names) > 1:
        raise DataError(
            f"train: found {channels} channels in the columns {listing(names)} of data.columns.series; "
            "expected one channel in each"
        )
    return [f"{names[0]}[{index}]" for index in range(channels)]
