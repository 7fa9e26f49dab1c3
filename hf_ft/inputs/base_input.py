"""The base class of all inputs: an input reads a row and encodes it as the tensors that the model gets.

A composed task (`hf_ft/tasks/_composed.py`) consists of an input and a target. The input does not depend on
what is learned, and the target (`hf_ft/targets/base_target.py`) does not depend on pictures, texts or series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.inputs.raw_inputs import read_rows
from hf_ft.recipe.schema import Empty, Section
from hf_ft.row_encoder import RowEncoder
from hf_ft.task import Inspection

if TYPE_CHECKING:
    import numpy as np

    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Batch, Item, Loaded, Preview, Row, SimpleFeatures


class Input(RowEncoder):
    """Base class of all inputs.

    Args:
        options: the recipe's section `task`, which includes the keys of `Options`.
        augment: the recipe's section `augment`.
    """

    # The keys that this input adds to the sections `task:` and `augment:` of the recipe.
    Options: ClassVar[type[Section]] = Empty
    Augment: ClassVar[type[Section]] = Empty

    def __init__(self, options: Any, augment: Any):
        self.options, self.augment = options, augment
        # role -> column(s) of the training table, so that prediction can read a table with the same columns.
        self.columns: dict[str, str | list[str]] = {}

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Check one row for the audit; by default only hash its content. Must not raise on bad data."""
        from hf_ft.storage.row_hash import hash_row

        return Inspection(digest=hash_row({role: row.get(role) for role in self.roles}).hex())

    def fit(self, train: Any) -> None:
        """Learn from the training rows what encoding needs; by default the names of the columns."""
        self.columns = {role: column for role, column in train.columns.items() if role in self.roles}

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as JSON."""
        return {"columns": self.columns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.columns = dict(state.get("columns", {}))

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load the model and, where the input needs one, a processor that fits the model.

        Args:
            auto_class: `Task.auto_class`.
            section: the recipe's section `model`.
            config: the settings of the model's configuration that the target decides.
        """
        from hf_ft.model.load import load_model

        return load_model(auto_class, section, config)

    def mix(self, items: Sequence[Item], rng: np.random.Generator) -> tuple[Item, Sequence[float]]:
        """Mix the inputs of several items.

        Args:
            items: the item of the row itself, then `mixed_with` others.
            rng: the generator of the row.

        Returns:
            The mixed inputs, and the share of each item in them.
        """
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack the inputs of B items; each key holds arrays or tensors of one shape."""
        import torch

        stacked: Batch = {
            key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]
        }
        return stacked

    # Evaluation and prediction

    def simple_features(self, train: Any) -> SimpleFeatures | None:
        """Return features for a classical baseline model, or None where the input has no suitable ones.

        Args:
            train: training rows, few enough for a classical model.
        """
        return None

    def preview(self, row: Row) -> Preview | None:
        """Show a row in the report, or None."""
        return None

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Turn the Predictor's inputs into rows with ids.

        Prediction, the command line, export and serving all read their inputs with this method.
        """
        needed = {role: about for role, about in self.roles.items() if about.required}

        def single(value: Any, number: str) -> list[Row]:
            return [{"id": number, next(iter(needed)): value}]

        return read_rows(inputs, needed, self.columns, single)

    @property
    def example(self) -> Any:
        """An example of an input to the Predictor, for the lines of code in report and model card."""
        return "input"

    @property
    def pipeline_options(self) -> Mapping[str, Any] | None:
        """Options with which transformers' pipeline reads the same inputs; None where there are none."""
        return None
