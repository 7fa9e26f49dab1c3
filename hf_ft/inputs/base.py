"""The base of all inputs: what is read of a row, and how it becomes the tensors that a model is called with.

A task is an input times a target (`hf_ft/tasks/_composed.py`). An input knows nothing of what is learned, and
a target (`hf_ft/targets/base.py`) nothing of pictures, texts or series.
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
    """Base class of all inputs. The methods of the same name in `hf_ft.task.Task` say more of each.

    Args:
        options: the recipe's section `task`, which has the keys of `Options` among others.
        augment: the recipe's section `augment`.
    """

    # Role -> Role of all that is read of a row.
    roles: ClassVar[Mapping[str, Role]]
    # The keys of the recipe that this input brings into `task:` and `augment:`.
    Options: ClassVar[type[Section]] = Empty
    Augment: ClassVar[type[Section]] = Empty
    # As in Task.
    length_key: ClassVar[str | None] = None
    side_keys: ClassVar[tuple[str, ...]] = ()
    media_roles: ClassVar[tuple[str, ...]] = ()
    encodes_in_threads: ClassVar[bool] = False
    traits: ClassVar[Mapping[str, Trait]] = {}

    def __init__(self, options: Any, augment: Any):
        self.options, self.augment = options, augment
        self.processor: Any = None
        self.shortcuts = True
        # Role -> column(s) of the training table, so that a prediction can read a table like it.
        self.columns: dict[str, str | list[str]] = {}

    # Data

    def times(self, rows: Any) -> np.ndarray | None:
        """Give the moment of each row where splits are cut by time, else None."""
        return None

    def examples(self, splits: dict[str, Any]) -> dict[str, Any]:
        """Turn the tables of the splits into sequences of rows; by default they are that."""
        return dict(splits)

    def inspect(self, row: Row) -> Inspection:
        """Look at one row for the audit. Must not raise on bad data; here rows are only told apart."""
        from hf_ft.storage.row_hash import hash_row

        return Inspection(digest=hash_row({role: row.get(role) for role in self.roles}).hex())

    def fit(self, train: Any) -> None:
        """Learn from the training rows what encoding needs; here the names of the columns."""
        self.columns = {role: column for role, column in train.columns.items() if role in self.roles}

    def check(self, split: str, rows: Any) -> Mapping[int, str]:
        """Find rows that do not fit what was learned: position -> why."""
        return {}

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as JSON."""
        return {"columns": self.columns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.columns = dict(state.get("columns", {}))

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """Say what was decided about these rows, and what the model will not see of them."""
        return []

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load the model, and its processor where there is one, made to fit each other.

        Args:
            auto_class: `Task.auto_class`.
            section: the recipe's `model`.
            config: what the target decides of the model's configuration.
        """
        from hf_ft.model.load import load_model

        return load_model(auto_class, section, config)

    def load_processor(self, folder: str) -> None:
        """Set `processor` from a saved model folder; by default there is none."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Turn rows into model inputs; with a generator for each where they are changed at random."""
        raise NotImplementedError

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Give the inputs of many rows at once, where they can be gathered; None where not."""
        return None

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` does what `encode` and `collate` do."""
        return inherited_together(type(self), "encode_batch", "encode", "collate")

    def media(self, rows: Sequence[Row], *, ready: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors that can be kept, one for each of `media_roles`."""
        return [{} for _ in rows]

    def media_numbers(self, row: Row) -> int:
        """Count the numbers of a row's decoded media, without decoding them."""
        return 0

    def lengths(self, rows: Any) -> list[int] | None:
        """Give the length of each row (tokens, steps), or None where all are of one length."""
        return None

    @property
    def is_random(self) -> bool:
        """Whether `encode` changes training rows at random."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether training items are mixed with others."""
        return False

    @property
    def mixed_with(self) -> int:
        """How many other rows are drawn for each that is mixed."""
        return 1

    def mix(self, items: Sequence[Item], rng: np.random.Generator) -> tuple[Item, Sequence[float]]:
        """Mix the inputs of items, the row's own first.

        Returns:
            The mixed inputs, and the share that each item has in them.
        """
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack the inputs of B items, arrays or tensors of one shape for each key."""
        import torch

        stacked: Batch = {
            key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]
        }
        return stacked

    def finish(self, batch: Batch) -> Batch:
        """Do what is best done to a whole batch once it is on the device."""
        return batch

    # Evaluation and prediction

    def simple_features(self, train: Any) -> SimpleFeatures | None:
        """Give features that a classical model can be fitted on, or None where there are no good ones.

        Args:
            train: training rows, few enough for such a model.
        """
        return None

    def preview(self, row: Row) -> Preview | None:
        """Show a row small, or None."""
        return None

    def input_note(self) -> str | None:
        """Say what inputs must hold beyond their columns; told before anything is predicted."""
        return None

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Turn what a user hands to the Predictor into rows with ids.

        The only such place: prediction, the command line, export and serving all read with it.
        """
        needed = {role: about for role, about in self.roles.items() if about.required}

        def single(value: Any, number: str) -> list[Row]:
            return [{"id": number, next(iter(needed)): value}]

        return read_rows(inputs, needed, self.columns, single)

    @property
    def example(self) -> Any:
        """What a user hands to the Predictor, for lines of code."""
        return "input"

    @property
    def pipeline_options(self) -> Mapping[str, Any] | None:
        """Options with which transformers' pipeline reads what this input reads; None where none do."""
        return None

    def pipeline_input(self, row: Row) -> Any:
        """Give the input of a row as transformers' pipeline takes it, untouched."""
        raise NotImplementedError
