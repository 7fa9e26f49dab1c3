"""The values that a task and the engine exchange: rows, roles, loaded models, evaluations, figures.

`hf_ft.task` exports them all beside the class `Task`; a task imports them from there.

Words used in these modules. A *row* is one raw example: a dict from role (`image`, `label`) to value, with
its `id`. An *item* is what `encode` makes of a row. A *batch* is a dict of tensors whose first dimension is B
rows. A *result* is the CPU value that `predict` returns for a row, a *reference* is the value that the result
is compared with, and `summarize` may reduce the two to a smaller result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

Row = dict[str, Any]
Item = dict[str, Any]
Batch = dict[str, Any]

# Reserved keys: hf_ft adds them to rows, items and batches, and no task may use them for anything else.
#
# The index of the row in its split, in an item and a batch [B].
ROW = "row"
# Whether the row counts, in an item and a batch [B]: False where it only pads the last batch.
REAL = "real"
# The cached activations of the rows of a batch, from which the forward pass starts.
ACTIVATIONS = "activations"
# The parts of a target that random augmentation moves together with the input (boxes, a mask), in a row and
# in its item.
MOVING = "moving"
# The keys that every batch has and that `Task.forward` does not pass to the model.
ENGINE_KEYS = (ROW, REAL)


class Rows(Protocol):
    """The raw rows of one split: a sequence that builds each row when it is read."""

    # One id for each row, unique over all splits.
    ids: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def select(self, indices: Sequence[int]) -> Rows:
        """Return the rows at these positions, in this order."""

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the values of a role, or of a column of the source; lazily built rows have no source.

        Args:
            name: name of the role or column.
            indices: positions of the rows, in this order; None: all rows.
        """


@dataclass(frozen=True)
class Role:
    """One thing that a task reads from each row.

    Args:
        help: what the role is, in a few words; shown when a column is missing.
        target: whether the model learns this role; a row for prediction does not have it.
        required: whether every data set must have it.
        usual: column names that are used for this role when the recipe names none.
        several: whether several columns together may fill the role.
        gathered: whether the steps of a series are gathered into one list, where the table has one row for
            each step and a column for the role `series_id`.
    """

    help: str
    target: bool = False
    required: bool = True
    usual: tuple[str, ...] = ()
    several: bool = False
    gathered: bool = False


@dataclass(frozen=True)
class Preprocessed:
    """Media that went through the fixed geometry of the processor (resize, crop); replaces the raw value.

    Args:
        tensor: uint8, as `Task.media` with `preprocessed=True` returns it.
    """

    tensor: torch.Tensor


@dataclass(frozen=True)
class Trait:
    """Something unusual about an input, such as transparency of a picture.

    Args:
        warning: warning for the user if training rows have the trait; None: no warning.
        as_pipeline: whether transformers' pipeline reads such an input as hf_ft does.
    """

    warning: str | None = None
    as_pipeline: bool = True


@dataclass(frozen=True)
class Inspection:
    """What the audit learns from one row.

    Args:
        problem: why the row cannot be used, or None.
        digest: hash of the content, equal for equal examples; None where the task does not look for
            duplicates.
        perceptual: 64-bit perceptual hash, which differs in few bits between similar examples; or None.
        traits: names of the `Task.traits` that the row has.
    """

    problem: str | None = None
    digest: str | None = None
    perceptual: int | None = None
    traits: Sequence[str] = ()


@dataclass
class Loaded:
    """A loaded model, before anything is frozen.

    Args:
        model: the model, float32, in eval mode.
        new: names of the parameters that are not in the checkpoint: those of a new head, or all parameters
            of a model that is built from scratch.
        source: `name`, `revision` and `commit` of the checkpoint, and `content`, the hash of the weights
            that were read from it.
        notes: what the console prints about loading, one line each.
        processor: turns raw inputs into tensors; set by the task.
    """

    model: Any
    new: list[str]
    source: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    processor: Any = None


class Metrics(Protocol):
    """Computes metrics from a stream of results; stores only small values of each row.

    `hf_ft.evaluate.metric_arrays.RowMetrics` is the base class to inherit from: it implements `merge`.
    """

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Add a batch of results, as `Task.summarize` returns them, and their references."""

    def merge(self, rows: np.ndarray, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Add what the other processes have seen, and sort everything by row.

        Args:
            rows: the row index of each result that this process gave to `update`, in that order, int [n].
            gather: joins the lists of all processes.
        """

    def compute(self) -> dict[str, Any]:
        """Return every metric over all rows seen.

        Returns:
            Metrics as floats; each table for the report, a list of dicts, under its name; `tables`, table
            name -> title; `notes`, sentences on what was left out. Other entries are for `Task.figures`.
        """

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Return one metric over selected rows (indices, repeats allowed), for the bootstrap; None: all."""


@dataclass(frozen=True)
class ResultTable:
    """A table of an evaluation for the report.

    Args:
        name: name of the table, such as `per_class`.
        title: what one row of the table stands for, such as "by class".
        rows: one dict for each row, all with the same keys: the columns.
    """

    name: str
    title: str
    rows: list[dict[str, Any]]


@dataclass
class Figure:
    """A named figure for the report: a matplotlib figure and the sentence below it."""

    name: str
    figure: Any
    caption: str = ""


@dataclass(frozen=True)
class Preview:
    """How the report shows one row.

    Args:
        picture: a small picture as a base64 `data:image/...` address, or None.
        text: the text of the row, or None; the report shortens and escapes it.
        curves: name -> values, one for each step: `history` and then `truth` and `forecast`, or one series
            under another name. The report draws them.
        caption: a few words to print below.
    """

    picture: str | None = None
    text: str | None = None
    curves: Mapping[str, Sequence[float]] | None = None
    caption: str = ""


@dataclass(frozen=True)
class SimpleFeatures:
    """Features for a classical baseline model.

    Args:
        name: what the features are, in words.
        train: features of M training rows, float [M, F], dense or sparse.
        of: computes the features of any N rows, [N, F].
        model: the model that suits the features: `sparse linear`, `dense linear` (the features are
            standardised), or `trees`.
    """

    name: str
    train: Any
    of: Callable[[Any], Any]
    model: Literal["sparse linear", "dense linear", "trees"]


@dataclass
class Evaluation:
    """One pass over one split.

    Args:
        split: name of the split.
        ids: N row ids, each exactly once, in the order of the split.
        results: N results, as `Task.summarize` returns them.
        references: N references; the engine reads them from the rows when they are used.
        losses: N row losses, each divided by the count of its row; None where the split has no loss.
        metrics: what `Metrics.compute` returns; `loss` is the sum of row losses over the sum of counts.
        intervals: metric name -> (low, high).
        baselines: name in words -> N results of `Task.baselines`, the trivial answer first.
        baseline: name in words -> metrics of these results, on the rows that the baseline answers.
        counts: the weight of each row in the mean loss; None where the split has no loss.
    """

    split: str
    ids: list[str]
    results: list[Any]
    references: Sequence[Any]
    losses: list[float] | None
    metrics: dict[str, Any]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    baselines: dict[str, list[Any]] = field(default_factory=dict)
    baseline: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: list[float] | None = None

    @property
    def tables(self) -> list[ResultTable]:
        """The tables among the metrics, in their order."""
        titles = self.metrics.get("tables", {})
        return [ResultTable(name, title, self.metrics[name]) for name, title in titles.items()]
