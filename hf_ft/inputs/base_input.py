"""The base class of all inputs: an input reads a row and encodes it as the tensors that the model gets.

A composed task (`hf_ft/tasks/_composed.py`) consists of an input and a target. The input does not depend on
what is learned, and the target (`hf_ft/targets/base_target.py`) does not depend on pictures, texts or series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.inputs.raw_inputs import read_rows
from hf_ft.recipe.schema import Empty, Section
from hf_ft.task import Inspection, Trait, inherited_together

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Batch, Item, Loaded, Preview, Role, Row, SimpleFeatures


class Input:
    """Base class of all inputs. `hf_ft.task.Task` documents the methods of the same names in detail.

    Args:
        options: the recipe's section `task`, which includes the keys of `Options`.
        augment: the recipe's section `augment`.
    """

    # role name -> Role, for every role that the input reads.
    roles: ClassVar[Mapping[str, Role]]
    # The keys that this input adds to the sections `task:` and `augment:` of the recipe.
    Options: ClassVar[type[Section]] = Empty
    Augment: ClassVar[type[Section]] = Empty
    # The same as in Task.
    length_key: ClassVar[str | None] = None
    side_keys: ClassVar[tuple[str, ...]] = ()
    media_roles: ClassVar[tuple[str, ...]] = ()
    encodes_in_threads: ClassVar[bool] = False
    traits: ClassVar[Mapping[str, Trait]] = {}

    def __init__(self, options: Any, augment: Any):
        self.options, self.augment = options, augment
        self.processor: Any = None
        self.shortcuts = True
        # role -> column(s) of the training table, so that prediction can read a table with the same columns.
        self.columns: dict[str, str | list[str]] = {}

    # Data

    def times(self, rows: Any) -> np.ndarray | None:
        """Return the time of each row where the splits are cut by time, else None."""
        return None

    def examples(self, splits: dict[str, Any]) -> dict[str, Any]:
        """Turn the tables of the splits into sequences of examples; by default each table row is one."""
        return dict(splits)

    def inspect(self, row: Row) -> Inspection:
        """Check one row for the audit; by default only hash its content. Must not raise on bad data."""
        from hf_ft.storage.row_hash import hash_row

        return Inspection(digest=hash_row({role: row.get(role) for role in self.roles}).hex())

    def fit(self, train: Any) -> None:
        """Learn from the training rows what encoding needs; by default the names of the columns."""
        self.columns = {role: column for role, column in train.columns.items() if role in self.roles}

    def check(self, split: str, rows: Any) -> Mapping[int, str]:
        """Find rows that do not fit what `fit` learned: position -> why."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as JSON."""
        return {"columns": self.columns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.columns = dict(state.get("columns", {}))

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """List decisions about these rows, and data in them that the model will not see."""
        return []

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

    def load_processor(self, folder: str) -> None:
        """Set `processor` from a saved model folder; by default an input has no processor."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Turn rows into model inputs; `rngs` holds one generator for each row if they are augmented."""
        raise NotImplementedError

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Encode many rows at once; None where these rows must be encoded one by one."""
        return None

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` matches `encode` and `collate`."""
        return inherited_together(type(self), "encode_batch", "encode", "collate")

    def media(self, rows: Sequence[Row], *, preprocessed: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors for `cache.decoded`, one for each of `media_roles`."""
        return [{} for _ in rows]

    def media_numbers(self, row: Row) -> int:
        """Count the uint8 values of all decoded media of a row, without decoding them."""
        return 0

    def lengths(self, rows: Any) -> list[int] | None:
        """Return the length of each row (tokens, steps), or None where all rows have the same length."""
        return None

    @property
    def is_random(self) -> bool:
        """Whether `encode` augments training rows at random."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether training items are mixed with randomly drawn ones."""
        return False

    @property
    def mixed_with(self) -> int:
        """How many other rows are drawn for each mixed row."""
        return 1

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

    def finish(self, batch: Batch) -> Batch:
        """Finish a batch on the device; a second call must change nothing."""
        return batch

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

    def input_note(self) -> str | None:
        """Say what inputs must contain beyond their columns; printed before prediction. None: nothing."""
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

    def pipeline_input(self, row: Row) -> Any:
        """Return the raw input of a row in the form that transformers' pipeline reads."""
        raise NotImplementedError
