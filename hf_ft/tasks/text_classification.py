"""Text classification: a text, or a pair of texts, in; one label, several labels, or a number out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hf_ft.data.labels import find_problem
from hf_ft.data.table import Table
from hf_ft.errors import DataError, RecipeError
from hf_ft.inputs.text_rows import joined, problem_of
from hf_ft.inputs.token_cache import KNOWN_NAMES, CachedTokens, cache_tokens
from hf_ft.recipe.schema import Fraction, PositiveFloat, Section
from hf_ft.targets.classes import MultiLabel, SingleLabel
from hf_ft.targets.numbers import Number
from hf_ft.task import Batch, Inspection, Item, Role, Row
from hf_ft.tasks._target import TargetTask
from hf_ft.text_utils import listing, text_digest

if TYPE_CHECKING:
    import numpy as np

    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded

_TEXT_COLUMNS = (
    "sentence content review question document message sms tweet comment body sentence1 premise question1"
)
_PAIR_COLUMNS = "text_pair sentence2 hypothesis question2"
_LABEL_COLUMNS = "labels class category target score topic intent sentiment"


class Options(Section):
    """Keys inside `task:` of text-classification."""

    problem: Literal["single-label", "multi-label", "regression"] | None = None
    """null: lists of labels are multi-label, numbers with fractions regression, all others single-label."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Most tokens of a text, or of both texts of a pair; null: what the model can take, at most 512."""
    separator: str = "\n"
    """What stands between the columns where a text is made of several."""
    thresholds: Literal["tuned"] | Fraction = 0.5
    """Multi-label: the score from which a label is given; tuned: one for each label, chosen on validation."""
    standardise: bool = True
    """Regression: learn (y - mean) / deviation of the training rows; figures stay in the original unit."""


class Loss(Section):
    """Keys of `loss:` of text-classification."""

    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """balanced (inverse frequency), or class -> weight; multi-label: weights of a label's positive rows."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Single label: share of the target that is spread over all classes (Szegedy et al. 2016)."""


class TextClassification(TargetTask):
    """Something to be said about a text; what kind of thing is settled once, before training."""

    name = "text-classification"
    summary = "a text or a pair of texts in; one label, several labels, or a number out (BERT, RoBERTa, ...)"
    auto_class = "AutoModelForSequenceClassification"
    length_key = "input_ids"
    roles: ClassVar = {
        "text": Role("the text, or the first of a pair", usual=tuple(_TEXT_COLUMNS.split()), several=True),
        "pair": Role(
            "the second text of a pair", required=False, usual=tuple(_PAIR_COLUMNS.split()), several=True
        ),
        "label": Role("what is to be said about it", target=True, usual=tuple(_LABEL_COLUMNS.split())),
    }
    main_metric = SingleLabel.main_metric
    greater_is_better = SingleLabel.greater_is_better
    headline_metrics = SingleLabel.headline_metrics
    baseline_name = SingleLabel.baseline_name
    class_role: str | None = "label"
    example_input: Any = "What a person would write."
    pipeline_tag = "text-classification"
    Options, Loss = Options, Loss

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.target: SingleLabel | Number = self._make_target(self.options.problem or SingleLabel.problem)
        if self.options.problem is None:
            # The data settles it: until then, a metric of any problem may be the one that is asked for.
            kinds = (SingleLabel, MultiLabel, Number)
            self.greater_is_better = {
                name: up for kind in kinds for name, up in kind.greater_is_better.items()
            }
        # The columns behind the roles, so that a prediction can read a table like the training table.
        self.columns: dict[str, str | list[str]] = {"text": "text"}
        self.reason = "as the recipe says"
        self.max_length = 0
        # By the fingerprint of the rows: tokens, lengths before cutting, and the values of the labels.
        self._tokens: dict[str, CachedTokens] = {}
        self._lengths: dict[str, list[int]] = {}
        self._labels: dict[str, list[Any]] = {}

    def _make_target(self, problem: str) -> SingleLabel | Number:
        weights, smoothing = self.loss_options.class_weights, self.loss_options.label_smoothing
        if smoothing and problem != "single-label":
            raise RecipeError(
                f"loss.label_smoothing: is for one label a row, and the problem is {problem}; remove it"
            )
        if weights and problem == "regression":
            raise RecipeError("loss.class_weights: a regression has no classes; remove the key")
        target: SingleLabel | Number
        if problem == "multi-label":
            target = MultiLabel(weights, self.options.thresholds)
        elif problem == "regression":
            target = Number("score", self.options.standardise)
        else:
            target = SingleLabel(weights, smoothing)
        self.main_metric, self.greater_is_better = target.main_metric, target.greater_is_better
        self.class_role = target.class_role
        self.headline_metrics, self.baseline_name = target.headline_metrics, target.baseline_name
        return target

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Is there a text? Equal texts, in whatever case, spacing and Unicode form, have the same digest."""
        texts = [row[role] for role in ("text", "pair") if role in row]
        for text in texts:
            if (problem := problem_of(text)) is not None:
                return Inspection(problem=problem)
        return Inspection(digest=text_digest(self._joined(text) for text in texts))

    def fit(self, train: Any) -> None:
        """Settle the kind of problem, and learn the classes or the scale from the training rows."""
        values = train.column("label")
        if self.options.problem is None:
            problem, self.reason = find_problem(values)
            self.target = self._make_target(problem)
        if isinstance(self.target, Number):
            self.target.name = str(train.columns["label"])
        self.target.fit(values, train.ids)
        self._read_from({role: column for role, column in train.columns.items() if role != "label"})

    def check(self, split: str, rows: Any) -> None:
        """Refuse labels that the training rows do not have, and a pair where they have none."""
        if ("pair" in rows.columns) != ("pair" in self.columns):
            raise DataError(
                f"{split}: only one of train and {split} has a second text; see data.columns.pair"
            )
        self.target.check(split, rows.column("label"), rows.ids)

    def state(self) -> dict[str, Any]:
        """What was settled: problem, columns, length; and what the target learned."""
        settled = {"problem": self.target.problem, "columns": self.columns, "max_length": self.max_length}
        return {**settled, **self.target.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.target = self._make_target(state["problem"])
        self.target.restore(state)
        self._read_from(state["columns"])
        self.max_length = state["max_length"]

    def _read_from(self, columns: Mapping[str, str | list[str]]) -> None:
        self.columns = dict(columns)
        if "pair" in columns:
            self.example_input = ("What a person would write.", "What another would answer.")
        elif isinstance(columns["text"], str) and self.labels() is not None:
            # The pipeline knows neither the scale of a number nor how columns are joined.
            self.pipeline_arguments = f"{self.example_input!r}, truncation=True, top_k=None"

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load a sequence classifier sized for the target, and its tokenizer, made to fit each other."""
        from hf_ft.inputs.tokenizer import load_tokenizer
        from hf_ft.model.load import load_model

        loaded = load_model(self.auto_class, section, self.target.config)
        loaded.processor, notes = load_tokenizer(section, loaded.model, self.options.max_length)
        loaded.notes += notes
        if isinstance(self.target, MultiLabel):
            loaded.notes += _start_at(loaded, self.target.log_odds)
        self.processor, self.max_length = loaded.processor, loaded.processor.model_max_length
        self._tokens, self._lengths, self._labels = {}, {}, {}
        return loaded

    def load_processor(self, folder: str) -> None:
        """Read the tokenizer that was saved with the model."""
        from transformers import AutoTokenizer

        self.processor = AutoTokenizer.from_pretrained(folder)

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Texts to token ids, cut at `max_length`; labels to ids, indicators or numbers."""
        second = [row["pair"] for row in rows] if "pair" in self.columns else None
        texts, pairs = self._inputs([row["text"] for row in rows], second)
        encoded = self._tokenize(texts, pairs, truncation=True, max_length=self.max_length)
        items: list[Item] = [{name: values[i] for name, values in encoded.items()} for i in range(len(rows))]
        for item, row in zip(items, rows, strict=True):
            if "label" in row:
                item["labels"] = self.target.encode(row["label"])
        return items

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather what is kept of rows whose lengths were asked for; None where nothing is."""
        import torch

        kept = self._tokens.get(rows.fingerprint) if isinstance(rows, Table) else None
        if kept is None or not KNOWN_NAMES.issuperset(self.processor.model_input_names):
            return None
        batch: Batch = dict(kept.batch(indices, self.processor))
        if "label" in rows.columns:
            if rows.fingerprint not in self._labels:
                self._labels[rows.fingerprint] = rows.column("label")
            values = self._labels[rows.fingerprint]
            batch["labels"] = torch.as_tensor(_stacked([self.target.encode(values[i]) for i in indices]))
        return batch

    def _inputs(
        self, texts: Sequence[Any], pairs: Sequence[Any] | None
    ) -> tuple[list[str], list[str] | None]:
        """Give what the tokenizer is called with: texts, and their pairs where there are any."""
        first = [self._joined(text) for text in texts]
        if pairs is None:
            return first, None
        second = [self._joined(text) for text in pairs]
        # A tokenizer without special tokens (GPT-2) would glue the two texts of a pair together.
        if self.processor.num_special_tokens_to_add(pair=True) == 0:
            return [f"{one}\n{other}" for one, other in zip(first, second, strict=True)], None
        return first, second

    def _tokenize(self, texts: list[str], pairs: list[str] | None, **options: Any) -> dict[str, list[Any]]:
        return dict(self.processor(texts, pairs, verbose=False, **options))

    def _joined(self, text: str | Sequence[str | None]) -> str:
        return joined(text, self.options.separator)

    def lengths(self, rows: Any) -> list[int]:
        """Tokens of each row that the model sees."""
        return [min(length, self.max_length) for length in self._whole_lengths(rows)]

    def _whole_lengths(self, rows: Any) -> list[int]:
        """Tokens of each row before it is cut; the tokens themselves are kept with their number."""
        if rows.fingerprint not in self._lengths:
            second = rows.column("pair") if "pair" in self.columns else None
            texts, pairs = self._inputs(rows.column("text"), second)
            self._lengths[rows.fingerprint] = self._keep(rows.fingerprint, texts, pairs)
        return self._lengths[rows.fingerprint]

    def _keep(self, fingerprint: str, texts: list[str], pairs: list[str] | None) -> list[int]:
        """Keep the tokens of all rows and give their number; a tokenizer without a file only counts."""
        if not self.processor.is_fast:
            encoded = self._tokenize(texts, pairs, truncation=False)
            return [len(tokens) for tokens in encoded["input_ids"]]
        in_use = [kept.folder for kept in self._tokens.values()]
        kept = cache_tokens(self.processor, texts, pairs, self.max_length, in_use)
        self._tokens[fingerprint] = kept
        lengths: list[int] = kept.lengths.tolist()
        return lengths

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """Say what kind of problem it is and why, what is read, and how many texts lose their end."""
        train = rows["train"]
        used = {
            name
            for column in train.columns.values()
            for name in ([column] if isinstance(column, str) else column)
        }
        unused = [name for name in train.dataset.column_names if name not in used]
        read = ", ".join(f"{role} from {column}" for role, column in train.columns.items())
        found = [
            f"problem: {self.target.problem}, {self.reason}",
            f"columns: {read}" + (f"; not used: {listing(unused)}" if unused else ""),
        ]
        for split, part in rows.items():
            lengths = self._whole_lengths(part)
            cut = sum(length > self.max_length for length in lengths)
            share = f"{cut} ({cut / len(lengths):.2%}) are cut at {self.max_length} (task.max_length)"
            found.append(
                f"{split}: {sum(lengths) / len(lengths):.0f} tokens a row, longest {max(lengths)}; {share}"
            )
        return found

    def collate(self, items: Sequence[Item]) -> Batch:
        """Token ids and masks [B, L], padded to the longest row of the batch; `labels` [B] or [B, K]."""
        import torch
        from transformers.data.data_collator import pad_without_fast_tokenizer_warning

        inputs = [{name: value for name, value in item.items() if name != "labels"} for item in items]
        pad: Any = pad_without_fast_tokenizer_warning
        batch: Batch = dict(pad(self.processor, inputs, return_tensors="pt"))
        if "labels" in items[0]:
            batch["labels"] = torch.as_tensor(_stacked([item["labels"] for item in items]))
        return batch

    # Prediction

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Texts, pairs as tuples, dicts, a DataFrame, or the path of a CSV, JSON lines or Parquet file."""
        from hf_ft.inputs.text_rows import read_texts

        return read_texts(inputs, self.columns)


def _start_at(loaded: Loaded, log_odds: Sequence[float]) -> list[str]:
    """Let the head's new bias start at the log-odds of the training labels; GPT-2's head has none."""
    import torch

    parameters = dict(loaded.model.named_parameters())
    found = [name for name in loaded.new if parameters[name].shape == (len(log_odds),)]
    biases = [name for name in found if name.endswith(("classifier.bias", "out_proj.bias"))]
    with torch.no_grad():
        for name in biases:
            parameters[name].copy_(torch.tensor(log_odds))
    return [f"{name} starts at the log-odds of the training labels" for name in biases]


def _stacked(labels: list[Any]) -> Any:
    """Class ids as int64, indicators and numbers as float32."""
    import numpy as np

    return np.asarray(labels, dtype=np.int64 if isinstance(labels[0], int) else np.float32)
