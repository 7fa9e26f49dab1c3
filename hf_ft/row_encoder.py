"""What a task and an input have in common: they check raw rows and encode them as batches of tensors.

`hf_ft.task.Task` adds the model, the loss and the evaluation; `hf_ft.inputs.base_input.Input` is the half of
a composed task that reads rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.task_types import Batch, Inspection, Item, Role, Row, Trait


class RowEncoder:
    """Checks raw rows and encodes them; base class of `Task` and `Input`."""

    # role name -> Role, inputs first.
    roles: ClassVar[Mapping[str, Role]]
    # Name -> Trait: what can be unusual about an input. The audit counts rows with a trait, and the gate
    # tests such rows first.
    traits: ClassVar[Mapping[str, Trait]] = {}
    # Further batch keys that the model does not get: values that `finish` or `predict` needs.
    side_keys: tuple[str, ...] = ()
    # The key of an item whose first dimension is the row's length (tokens, steps); None: all rows have the
    # same length.
    length_key: str | None = None
    # The roles whose media (an image, and its mask) the method `media` decodes; `encode` accepts them both
    # raw and decoded.
    media_roles: tuple[str, ...] = ()
    # Whether several threads may call `encode` at once; a tokenizer is not thread-safe.
    encodes_in_threads: bool = False
    # Turns raw inputs into tensors; set by `load` and `load_processor`.
    processor: Any = None
    # Whether `encode` may split the processor's work into steps, where a test showed that the result is the
    # same. The gate sets it to False in its fresh process, so that it checks against the processor's own
    # call.
    shortcuts: bool = True

    # Data

    def times(self, rows: Any) -> np.ndarray | None:
        """Return the time of each row where the splits are cut by time, else None."""
        return None

    def examples(self, splits: dict[str, Any]) -> dict[str, Any]:
        """Turn the tables of the splits into sequences of examples, such as windows of a time series.

        Each sequence has `len`, `[index] -> Row`, and `ids`. By default each table row is one example.
        """
        return dict(splits)

    def inspect(self, row: Row) -> Inspection:
        """Check one row for the audit; decode its media. Must not raise on bad data.

        Called before `fit`. The result is stored for later runs, so it may depend only on the row and on the
        recipe's options.
        """
        raise NotImplementedError

    def check(self, split: str, rows: Any) -> Mapping[int, str]:
        """Find rows that do not fit what `fit` learned; called for every split, train first.

        Returns:
            Position -> why the row cannot be used, for rows that `data.on_bad: skip` may leave out.

        Raises:
            DataError: the whole split does not fit, for instance because it has a class that train lacks.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as JSON: it is saved as task.json beside the model, for prediction."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""

    def lengths(self, rows: Any) -> list[int] | None:
        """Return the length of each row (tokens, steps), or None where all rows have the same length.

        Training puts rows of similar length into one batch; evaluation goes from the longest to the shortest.
        """
        return None

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """List decisions about the data, and data that the model will not see; called after `load`.

        Args:
            rows: split -> raw rows.
        """
        return []

    @property
    def is_random(self) -> bool:
        """Whether `encode` augments training rows at random and therefore needs generators."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether training items are mixed with randomly drawn ones."""
        return False

    @property
    def mixed_with(self) -> int:
        """How many other rows are drawn for each mixed row: mixup needs one, a mosaic three."""
        return 1

    # Encoding

    def load_processor(self, folder: str) -> None:
        """Set `self.processor` from a saved model folder; by default a task has no processor."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Turn rows into items: the model's inputs and, where a row has the target role, the target.

        Args:
            rows: raw rows.
            rngs: one generator for each row, seeded by (seed, epoch, row), for random augmentation; None: no
                randomness.
        """
        raise NotImplementedError

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Encode and collate many rows at once, without a Python object for each row.

        Must equal `collate(encode(...))` of the same rows bit for bit; the engine compares two rows before
        the first batch. The engine does not call it for random augmentation, for prediction, or where
        `supports_batch_encode` is false.

        Args:
            rows: the rows of a split, as `examples` returned them.
            indices: positions of the rows, int [B].

        Returns:
            The batch, tensors only; None where these rows must be encoded one by one.
        """
        return None

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` matches `encode` and `collate`; it may still return None for some rows."""
        return inherited_together(type(self), "encode_batch", "encode", "collate")

    def media(self, rows: Sequence[Row], *, preprocessed: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors for the cache of decoded rows (`cache.decoded`).

        `encode` must give the same item, bit for bit, when a row holds the decoded media under its
        `media_roles` in place of the raw values: as numpy arrays, or wrapped in `Preprocessed`.

        Args:
            rows: raw rows.
            preprocessed: whether to apply the processor's geometry too, which gives all rows one shape.

        Returns:
            For each row, one tensor for each of `media_roles`; None where `preprocessed` is not possible.
        """
        return [{} for _ in rows]

    def media_numbers(self, row: Row) -> int:
        """Count the uint8 values of all decoded media of a row, without decoding them."""
        return 0

    def finish(self, batch: Batch) -> Batch:
        """Finish a batch on the device, for instance normalise pixels that were transferred as uint8.

        The engine may call it twice for one batch; the second call must change nothing.
        """
        return batch

    # Prediction

    def input_note(self) -> str | None:
        """Say what inputs must contain beyond their columns; printed before prediction. None: nothing."""
        return None

    def pipeline_input(self, row: Row) -> Any:
        """Return the raw input of a row in the form that transformers' pipeline reads."""
        raise NotImplementedError


def inherited_together(kind: type, method: str, *others: str) -> bool:
    """Tell whether no class overrides one of `others` below the class that defines `method`.

    A class that overrides `encode` and inherits `encode_batch` would encode a row in two different ways, and
    a comparison of two rows may not show the difference.
    """

    def depth(name: str) -> int:
        return next(number for number, cls in enumerate(kind.__mro__) if name in vars(cls))

    return depth(method) <= min(depth(name) for name in others)
