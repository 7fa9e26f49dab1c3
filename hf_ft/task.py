"""The contract between a task and the engine.

A task is one file in `hf_ft/tasks/`, named after its Hub pipeline tag. The engine (freezing, losses,
evaluation, intervals, checkpoints, verification, report, prediction) knows a task only through this class, so
whatever the engine offers works on every task, and a task of a user's own (`my_package.my_module:MyTask`) is
as good as a built-in one.

Words used below. A *row* is one raw example: a dict from role (`image`, `label`) to value, with its `id`. An
*item* is what `encode` makes of a row. A *batch* is a dict of tensors whose first dimension is B rows. A
*result* is the CPU value that `predict` leaves of a row, a *reference* the value it is compared with, and
`summarize` may make a smaller result of both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from hf_ft.recipe.schema import Empty, Section

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.recipe.schema import ModelSection

Row = dict[str, Any]
Item = dict[str, Any]
Batch = dict[str, Any]

# Hidden keys: hf_ft adds them to rows, items and batches, and no task may use them for anything else.
#
# The index of the row in its split, in an item and a batch [B].
ROW = "row"
# Whether the row counts, in an item and a batch [B]: False where it only fills up the last batch.
REAL = "real"
# The cached activations of the rows of a batch, from which the forward pass starts.
ACTIVATIONS = "activations"
# What of a target moves with the input under random augmentation (boxes, a mask), in a row and its item.
MOVING = "moving"
# Those of every batch, which the model is not called with.
ENGINE_KEYS = (ROW, REAL)


class Rows(Protocol):
    """The raw rows of one split: a sequence that makes a row when it is asked for one."""

    # One name a row, unique over all splits.
    ids: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def select(self, indices: Sequence[int]) -> Rows:
        """Give the rows at these positions, in this order."""

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Give the values of a role, or of a column of the source; rows that are made lazily have none.

        Args:
            name: of the role or column.
            indices: the rows that are wanted, in this order; None: all.
        """


@dataclass(frozen=True)
class Role:
    """One thing a task needs to know about each row.

    Args:
        help: what the role is, in a few words; shown when a column is missing.
        target: whether it is what the model learns, and so absent at prediction time.
        required: whether every data set must have it.
        usual: column names that are taken for this role when the recipe names none.
        several: whether the role can be made of several columns.
        gathered: whether the steps of a series are gathered to a list, where the table has one row a step
            and a column for the role `series_id`.
    """

    help: str
    target: bool = False
    required: bool = True
    usual: tuple[str, ...] = ()
    several: bool = False
    gathered: bool = False


@dataclass(frozen=True)
class Ready:
    """Media as `Task.media` makes them `ready`, in the place of a row's raw ones.

    Args:
        tensor: uint8.
    """

    tensor: torch.Tensor


@dataclass(frozen=True)
class Trait:
    """Something unusual that an input can be, such as a transparent picture.

    Args:
        warning: what a user should know where training rows have it; None: nothing.
        as_pipeline: whether transformers' pipeline reads such an input as hf_ft does.
    """

    warning: str | None = None
    as_pipeline: bool = True


@dataclass(frozen=True)
class Inspection:
    """What the audit learns from one row.

    Args:
        problem: why the row cannot be used, or None.
        digest: hash of the content, equal for equal examples; None where duplicates mean nothing.
        perceptual: 64-bit hash that nearly equal examples nearly share, or None.
        traits: which of `Task.traits` the row has.
    """

    problem: str | None = None
    digest: str | None = None
    perceptual: int | None = None
    traits: Sequence[str] = ()


@dataclass
class Loaded:
    """A model that is ready to be frozen and trained.

    Args:
        model: the model, float32, in eval mode.
        new: names of the parameters that no checkpoint gave: the head's, or all when built from scratch.
        source: `name`, `revision` and `commit` of the checkpoint, and `content`, the hash of the weights
            taken from it.
        notes: what a person should know about the loading.
        processor: what turns raw inputs into tensors; set by the task.
    """

    model: Any
    new: list[str]
    source: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    processor: Any = None


class Metrics(Protocol):
    """Streams results into numbers; holds small values of each row only.

    `hf_ft.evaluate.metric_arrays.RowMetrics` is the base to inherit: it brings `merge`.
    """

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Take in a batch of results, as `Task.summarize` leaves them, and their references."""

    def merge(self, rows: np.ndarray, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Take in what all processes have seen, in the order of the rows.

        Args:
            rows: the row of each result given to `update` here, in that order, int [n].
            gather: gives the lists of all processes joined.
        """

    def compute(self) -> dict[str, Any]:
        """Give every metric over all rows seen.

        Returns:
            Metrics, as floats; tables for the report, each a list of dicts, under its name; `tables`, table
            name -> title; `notes`, sentences on what was left out. What else there is, is for `figures`.
        """

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Give one metric over a selection of the rows seen (indices, repeats allowed), for the bootstrap."""


@dataclass(frozen=True)
class ResultTable:
    """A table of an evaluation for the report.

    Args:
        name: of the table, such as `per_class`.
        title: what its rows are, such as "by class".
        rows: one dict a row, all with the same keys: the columns.
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
    """What a person sees of a row.

    Args:
        picture: a small picture as a base64 `data:image/...` address, or None.
        text: the text of the row, or None; the report shortens and escapes it.
        curves: name -> values, one a step: `history` and what follows it, `truth` and `forecast`; or a series
            of its own. The report draws them.
        caption: a few words below.
    """

    picture: str | None = None
    text: str | None = None
    curves: Mapping[str, Sequence[float]] | None = None
    caption: str = ""


@dataclass(frozen=True)
class SimpleFeatures:
    """What a classical model is fitted on.

    Args:
        name: what the features are, in words.
        train: of M training rows, float [M, F], dense or sparse.
        of: gives those of any N rows, [N, F].
        model: what suits them: `sparse linear`, `dense linear` (of standardised features), or `trees`.
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
        results: N results, as `Task.summarize` leaves them.
        references: N references; those of an evaluation are read from the rows when they are asked for.
        losses: N row losses divided by the row's own count, or None where the split has no loss.
        metrics: what `Metrics.compute` gives; `loss` is the sum of row losses over the sum of counts.
        intervals: metric name -> (low, high).
        baselines: name in words -> N results of `Task.baselines`, the trivial answer first.
        baseline: name in words -> metrics of these results, on the rows that the baseline answers.
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

    @property
    def tables(self) -> list[ResultTable]:
        """The tables among the metrics, in their order."""
        titles = self.metrics.get("tables", {})
        return [ResultTable(name, title, self.metrics[name]) for name, title in titles.items()]


class Task:
    """Base class of all tasks. A subclass sets the class attributes and fills in the methods."""

    # The Hub's pipeline tag where it has one, equal to the file's name with dashes.
    name: ClassVar[str]
    # One line for `hf-ft tasks` and `hf-ft init`.
    summary: ClassVar[str]
    # What builds the model: a class of transformers (`AutoModelForImageClassification`), or a
    # `package.module:Class`.
    auto_class: ClassVar[str]
    # role name -> Role, inputs first.
    roles: ClassVar[Mapping[str, Role]]
    # The metric that picks the best checkpoint by default, and the direction of every metric of the task.
    # Both may depend on the options, and `fit` may narrow them.
    main_metric: str
    greater_is_better: Mapping[str, bool]
    # Metrics shown beside the main one.
    headline_metrics: tuple[str, ...] = ()
    # What a user hands to the Predictor, for the lines of code in the report and the model card.
    example_input: Any = "input"
    # The Hub's name for such models; None where it has none.
    pipeline_tag: ClassVar[str | None] = None
    # Options of transformers' pipeline of that name with which it answers as the Predictor does; None where
    # there are no such options. The gate compares the two.
    pipeline_options: Mapping[str, Any] | None = None
    # Name -> Trait of what can be unusual about an input; the audit counts them, the gate tries them first.
    traits: Mapping[str, Trait] = {}
    # Batch keys that are for the loss and not for the model.
    targets: tuple[str, ...] = ("labels",)
    # Further batch keys that the model is not called with: what `finish` or `predict` needs of a row.
    side_keys: tuple[str, ...] = ()
    # The key of an item whose first dimension is the row's length (tokens, steps); None: all of one length.
    length_key: str | None = None
    # The roles whose media `media` decodes, and which `encode` takes decoded, too: an image, and its mask.
    media_roles: tuple[str, ...] = ()
    # Whether several threads may call `encode` at once; a tokenizer, for one, must not be called so.
    encodes_in_threads: bool = False
    # The role whose classes stratify the splits and are counted by the audit; None: there are no classes.
    class_role: str | None = None
    # What turns raw inputs into tensors; set by `load` and `load_processor`.
    processor: Any = None
    # Whether `encode` may call the processor otherwise than its library does, where that was seen to give
    # the same. The gate's fresh process may not, so that what was trained is not judged by itself.
    shortcuts: bool = True
    # The task's own recipe keys: inside `task:`, and the sections `augment:` and `loss:`.
    Options: ClassVar[type[Section]] = Empty
    Augment: ClassVar[type[Section]] = Empty
    Loss: ClassVar[type[Section]] = Empty

    def __init__(
        self,
        options: Section | None = None,
        augment: Section | None = None,
        loss: Section | None = None,
        extra_metrics: Sequence[str] = (),
    ):
        self.options: Any = options or self.Options()
        self.augment: Any = augment or self.Augment()
        self.loss_options: Any = loss or self.Loss()
        # Names of further metrics that the recipe asks for; `metrics` loads them.
        self.extra_metrics = tuple(extra_metrics)

    def parts(self) -> list[Any]:
        """Give the objects that the task is made of; their source code, too, decides what a row becomes."""
        return []

    # Data

    def times(self, rows: Any) -> np.ndarray | None:
        """Give the moment of each row where rows are steps in time and splits are cut by it, else None."""
        return None

    def examples(self, splits: dict[str, Any]) -> dict[str, Any]:
        """Turn the tables of the splits into sequences of rows; a time series makes its windows here, lazily.

        Each sequence has `len`, `[index] -> Row`, and `ids`. The default: one table row is one example.
        """
        return dict(splits)

    def inspect(self, row: Row) -> Inspection:
        """Look at one row for the audit, decoding what there is to decode. Must not raise on bad data.

        Called before `fit`, and kept for later runs: what is found may depend on the row and the recipe's
        options alone.
        """
        raise NotImplementedError

    def fit(self, train: Any) -> None:
        """Learn labels, scalers and thresholds from the training rows that the audit found usable."""

    def check(self, split: str, rows: Any) -> Mapping[int, str]:
        """Look for rows that do not fit what was learned; called for every split, train first.

        Returns:
            Position -> why the row cannot be used, for rows that could be left out.

        Raises:
            DataError: the split as a whole does not fit, such as a class that train does not have.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as JSON: saved as task.json beside the model, all that prediction needs."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""

    def labels(self) -> list[str] | None:
        """Class names in id order, or None. The gate compares them in config, data and metric."""
        return None

    def pipeline_options_for(self, traits: Iterable[str]) -> Mapping[str, Any] | None:
        """Give `pipeline_options`; None where the pipeline reads inputs with these traits otherwise."""
        alike = all(self.traits[name].as_pipeline for name in traits)
        return self.pipeline_options if self.pipeline_tag is not None and alike else None

    def pipeline_input(self, row: Row) -> Any:
        """Give the input of a row as transformers' pipeline takes it, untouched."""
        raise NotImplementedError

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load or build the model and its processor, sized for what `fit` learned; sets `self.processor`."""
        raise NotImplementedError

    def load_processor(self, folder: str) -> None:
        """Set `self.processor` from a saved model folder; by default there is none."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Turn rows into model inputs; without target roles, into inputs alone.

        Args:
            rows: raw rows.
            rngs: one generator a row, seeded by (seed, epoch, row), for random augmentation; None: no
                randomness.
        """
        raise NotImplementedError

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Encode and collate many rows at once, where they can be gathered without an object for each.

        Must equal `collate(encode(...))` of the same rows bit for bit, which is tried on two of them first.
        Not called where rows are changed at random, for prediction, nor without `supports_batch_encode`.

        Args:
            rows: the rows of a split, as `examples` gave them.
            indices: which of them, int [B].

        Returns:
            The batch, tensors alone; None where these rows are encoded one by one.
        """
        return None

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` does what `encode` and `collate` do; it may return None all the same."""
        return inherited_together(type(self), "encode_batch", "encode", "collate")

    def media(self, rows: Sequence[Row], *, ready: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors that can be kept (`cache.decoded`).

        Put in the row's `media_roles` again, as numpy arrays, or as `Ready` where they are ready, `encode`
        must make of them what it makes of the row itself, bit for bit.

        Args:
            rows: raw rows.
            ready: whether to go on as far as `encode` goes without randomness: all of one shape.

        Returns:
            For each row, one tensor for each of `media_roles`; None where they cannot be made `ready`.
        """
        raise NotImplementedError

    def media_numbers(self, row: Row) -> int:
        """Count the numbers of all of a row's decoded media, without decoding them."""
        raise NotImplementedError

    def mix(self, item: Item, others: Sequence[Item], rng: np.random.Generator) -> Item:
        """Mix an encoded training item with others: mixup, cutmix, mosaic. Called only where `mixes` is true.

        Args:
            item: of the row itself.
            others: `mixed_with` items of rows drawn at random, each augmented on its own.
            rng: the generator of the row, after its own augmentation and the drawing of the others.
        """
        raise NotImplementedError

    def lengths(self, rows: Any) -> list[int] | None:
        """Give the length of each row (tokens, steps), or None where all are of one length.

        Training puts rows of like length into one batch, and evaluation goes from the longest to the
        shortest.
        """
        return None

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """Say what was decided about the data and what the model will not see of it; called after `load`.

        Args:
            rows: split -> raw rows.
        """
        return []

    @property
    def is_random(self) -> bool:
        """Whether `encode` changes training rows at random, and so needs generators."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether training items are mixed with randomly drawn ones."""
        return False

    @property
    def mixed_with(self) -> int:
        """How many other rows are drawn for each that is mixed: mixup needs one, a mosaic three."""
        return 1

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack B items into a batch of tensors."""
        raise NotImplementedError

    def finish(self, batch: Batch) -> Batch:
        """Do what is best done to a whole batch once it is on the device: normalise pixels sent as bytes.

        Called for every batch before the model sees it, once or twice: a finished batch must stay as it is.
        """
        return batch

    def forward(self, model: Any, batch: Batch) -> Any:
        """Call the model on a batch without its targets, so that no model guesses its own loss."""
        withheld = {*self.targets, *self.side_keys, *ENGINE_KEYS}
        return model(**{key: value for key, value in batch.items() if key not in withheld})

    def loss(self, model: Any, outputs: Any, batch: Batch) -> torch.Tensor:
        """Give the loss of each row, float [B], *summed* over what it counts (tokens, boxes) and weighted."""
        raise NotImplementedError

    def count(self, batch: Batch) -> torch.Tensor:
        """Give what each row counts in the mean, float [B]: 1, its class weight, its tokens, its boxes.

        The engine's loss is sum(loss) / sum(count) over the whole global batch, whatever the number of
        processes and accumulation steps. Must not depend on the model.
        """
        import torch

        return torch.ones_like(batch["real"], dtype=torch.float32)

    def predict(self, model: Any, outputs: Any, batch: Batch) -> list[Any]:
        """Reduce outputs to one small CPU result per row; generation calls `model.generate` here."""
        raise NotImplementedError

    # Evaluation

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Choose on the validation rows what turns scores into answers; called once, after training.

        Returns:
            What was chosen, one line each; empty where nothing was, and the figures of validation stand as
            they are.
        """
        return []

    def has_loss(self, split: str) -> bool:
        """Tell whether rows of a split have a loss; identities that were not trained on have none."""
        return True

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Give what the results of rows are compared with, in order.

        Asked for batch by batch, and not kept: a mask is decoded here. A class must not cost a decoded image.

        Args:
            rows: the rows of a split.
            indices: which of them, int [B]; None: all.
        """
        raise NotImplementedError

    def summarize(self, results: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """Reduce results to the small values that an evaluation keeps, where that takes the references.

        The confusion counts of a mask, for one. `metrics`, `difference`, `decode` and `figures` then see what
        this leaves; `decode` of a prediction, which has no reference, sees the result itself.

        Args:
            results: B results of `predict`.
            references: their references.
        """
        return list(results)

    def groups(self, rows: Any) -> Sequence[Hashable] | None:
        """Give the group of each row where rows of a group are not independent, such as overlapping windows.

        The interval then draws whole groups, as rows would make it too narrow. None: every row stands alone.
        """
        return None

    def metrics(self) -> Metrics:
        """Give a fresh accumulator."""
        raise NotImplementedError

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer rows without the model: what a result has to beat, fitted on the training rows.

        Returns:
            Name in words ("the mean of train") -> one result a row, in the form of `predict`, or None
            where this baseline has no answer. The trivial answer comes first.
        """
        return {}

    def fit_classical(
        self, features: SimpleFeatures, rows: Any
    ) -> tuple[str, Callable[[Any], list[Any]]] | None:
        """Fit a classical model, with which the result of a run is compared.

        Args:
            features: of training rows.
            rows: the same rows, raw.

        Returns:
            Its name in words, and what answers rows with results; None where there is no such model.
        """
        return None

    def decode(self, result: Any) -> dict[str, Any]:
        """Give what a person reads of a result: label and score, boxes, text, a number with its unit."""
        raise NotImplementedError

    def describe(self, result: Any) -> str:
        """Give a result as one short line, for the list of worst rows."""
        return ", ".join(
            f"{value:.3g}" if isinstance(value, float) else str(value)
            for value in self.decode(result).values()
        )

    def preview(self, row: Row, result: Any, reference: Any) -> Preview | None:
        """Show a row small, with what was answered and what is true where that can be drawn into it."""
        return None

    def decode_reference(self, reference: Any) -> Any:
        """Give a reference as a person reads it: a class name, a number."""
        return reference

    def difference(self, a: Any, b: Any) -> float:
        """Give the largest absolute difference between two summarized results; the gate allows 1e-4."""
        raise NotImplementedError

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw what is worth seeing about an evaluation.

        Args:
            evaluation: of one split.
            rows: its raw rows, in the same order.
        """
        return []

    # Prediction

    def input_note(self) -> str | None:
        """Say what inputs must hold beyond their columns; told before anything is predicted."""
        return None

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Turn what a user hands to the Predictor (paths, images, texts, arrays, rows) into rows with ids."""
        raise NotImplementedError


def inherited_together(kind: type, method: str, *others: str) -> bool:
    """Tell whether a class has a method from the class that it has others from, or from one below.

    A class that changes `encode` and inherits `encode_batch` makes two different things of a row, which two
    rows that are tried may not show.
    """

    def depth(name: str) -> int:
        return next(number for number, cls in enumerate(kind.__mro__) if name in vars(cls))

    return depth(method) <= min(depth(name) for name in others)
