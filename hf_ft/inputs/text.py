"""The input of texts, or pairs of texts: join their columns and tokenize them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.inputs.base_input import Input
from hf_ft.inputs.raw_inputs import no_row_file, read_rows, without_usual_names
from hf_ft.inputs.token_cache import KNOWN_NAMES, CachedTokens, cache_tokens
from hf_ft.recipe.schema import Section
from hf_ft.task import Batch, Inspection, Item, Preview, Role, Row, SimpleFeatures, Trait
from hf_ft.text_utils import listing, text_digest

if TYPE_CHECKING:
    import numpy as np

    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded

_TEXT_COLUMNS = (
    "sentence content review question document message sms tweet comment body sentence1 premise question1"
)
_PAIR_COLUMNS = "text_pair sentence2 hypothesis question2"
# The largest number of words and word pairs that the classical baseline uses.
_MOST_FEATURES = 50_000
# A text of more than _LONG characters is very long, and one of fewer than _SHORT characters is very short.
_LONG, _SHORT = 2000, 4


class TextOptions(Section):
    """Keys inside `task:` of tasks that read texts."""

    max_length: Annotated[int, Field(ge=4)] | None = None
    """Longest text, or pair of texts, in tokens; null: the limit of the model, at most 512."""
    separator: str = "\n"
    """Separator between the columns of a text that is joined from several columns."""


class TextInput(Input):
    """A text, or a pair of texts, encoded as the tokenizer's outputs [L]."""

    roles: ClassVar = {
        "text": Role("the text, or the first of a pair", usual=tuple(_TEXT_COLUMNS.split()), several=True),
        "pair": Role(
            "the second text of a pair", required=False, usual=tuple(_PAIR_COLUMNS.split()), several=True
        ),
    }
    Options = TextOptions
    traits: ClassVar = {name: Trait() for name in ("very long", "very short", "space at an end", "not ASCII")}
    length_key = "input_ids"

    def __init__(self, options: Any, augment: Any):
        super().__init__(options, augment)
        self.columns = {"text": "text"}
        self.max_length = 0
        # By the fingerprint of the rows: their tokens, and their lengths before truncation.
        self._tokens: dict[str, CachedTokens] = {}
        self._lengths: dict[str, list[int]] = {}

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Check that there is a text. The digest ignores case, spacing and the form of Unicode."""
        texts = [row[role] for role in self.roles if role in row]
        for text in texts:
            if (problem := problem_of(text)) is not None:
                return Inspection(problem=problem)
        joined = [self._joined(text) for text in texts]
        return Inspection(digest=text_digest(joined), traits=_traits("".join(joined)))

    def check(self, split: str, rows: Any) -> Mapping[int, str]:
        """Refuse a split that has a second text where train has none, or none where train has one."""
        if ("pair" in rows.columns) != ("pair" in self.columns):
            raise DataError(
                f"{split}: only one of train and {split} has a second text; see data.columns.pair"
            )
        return {}

    def state(self) -> dict[str, Any]:
        """Return the columns, and the number of tokens at which texts are truncated."""
        return {**super().state(), "max_length": self.max_length}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        super().restore(state)
        self.max_length = state["max_length"]

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """Say which columns are read, and how many texts are truncated."""
        train = rows["train"]
        used = {
            name
            for column in train.columns.values()
            for name in ([column] if isinstance(column, str) else column)
        }
        unused = [name for name in train.dataset.column_names if name not in used]
        read = ", ".join(f"{role} from {column}" for role, column in train.columns.items())
        found = [f"columns: {read}" + (f"; not used: {listing(unused)}" if unused else "")]
        for split, part in rows.items():
            lengths = self._full_lengths(part)
            cut = sum(length > self.max_length for length in lengths)
            share = f"{cut} ({cut / len(lengths):.2%}) are cut at {self.max_length} (task.max_length)"
            found.append(
                f"{split}: {sum(lengths) / len(lengths):.0f} tokens a row, longest {max(lengths)}; {share}"
            )
        return found

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load a model and its tokenizer, and adapt them to each other."""
        from hf_ft.inputs.tokenizer import load_tokenizer
        from hf_ft.model.load import load_model

        loaded = load_model(auto_class, section, config)
        loaded.processor, notes = load_tokenizer(section, loaded.model, self.options.max_length)
        loaded.notes += notes
        self.processor, self.max_length = loaded.processor, loaded.processor.model_max_length
        self._tokens, self._lengths = {}, {}
        return loaded

    def load_processor(self, folder: str) -> None:
        """Load the tokenizer that was saved with the model."""
        from transformers import AutoTokenizer

        self.processor = AutoTokenizer.from_pretrained(folder)

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Tokenize texts, truncated at `max_length` tokens."""
        second = [row["pair"] for row in rows] if "pair" in self.columns else None
        texts, pairs = self._texts([row["text"] for row in rows], second)
        encoded = self._tokenize(texts, pairs, truncation=True, max_length=self.max_length)
        return [{name: values[i] for name, values in encoded.items()} for i in range(len(rows))]

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather the cached tokens of rows; None where the token cache does not have them."""
        tokens = self._tokens.get(rows.fingerprint) if isinstance(rows, Table) else None
        if tokens is None or not KNOWN_NAMES.issuperset(self.processor.model_input_names):
            return None
        return dict(tokens.batch(indices, self.processor))

    def _texts(self, texts: Sequence[Any], pairs: Sequence[Any] | None) -> tuple[list[str], list[str] | None]:
        """Return the tokenizer's arguments: first texts, and second texts or None."""
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
        """Join the columns of a text to one string; empty columns are left out."""
        return text if isinstance(text, str) else self.options.separator.join(part for part in text if part)

    def lengths(self, rows: Any) -> list[int]:
        """Count the tokens of each row after truncation."""
        return [min(length, self.max_length) for length in self._full_lengths(rows)]

    def _full_lengths(self, rows: Any) -> list[int]:
        """Count the tokens of each row before truncation; this fills the token cache."""
        if rows.fingerprint not in self._lengths:
            second = rows.column("pair") if "pair" in self.columns else None
            texts, pairs = self._texts(rows.column("text"), second)
            self._lengths[rows.fingerprint] = self._cache(rows.fingerprint, texts, pairs)
        return self._lengths[rows.fingerprint]

    def _cache(self, fingerprint: str, texts: list[str], pairs: list[str] | None) -> list[int]:
        """Cache the tokens of all rows; return the number of tokens of each. Slow tokenizers only count."""
        if not self.processor.is_fast:
            encoded = self._tokenize(texts, pairs, truncation=False)
            return [len(tokens) for tokens in encoded["input_ids"]]
        in_use = [tokens.folder for tokens in self._tokens.values()]
        tokens = cache_tokens(self.processor, texts, pairs, self.max_length, in_use)
        self._tokens[fingerprint] = tokens
        lengths: list[int] = tokens.lengths.tolist()
        return lengths

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack token ids and masks [B, L], padded to the longest row of the batch."""
        from transformers.data.data_collator import pad_without_fast_tokenizer_warning

        pad: Any = pad_without_fast_tokenizer_warning
        return dict(pad(self.processor, list(items), return_tensors="pt"))

    # Evaluation and prediction

    def simple_features(self, train: Any) -> SimpleFeatures | None:
        """Return TF-IDF features of words and of pairs of neighbouring words, fitted on the training rows."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_features=_MOST_FEATURES)
        try:
            learned = vectorizer.fit_transform(self._plain(train))
        except ValueError:
            return None  # no text contains a word
        return SimpleFeatures(
            "TF-IDF", learned, lambda rows: vectorizer.transform(self._plain(rows)), "sparse linear"
        )

    def _plain(self, rows: Any) -> list[str]:
        """Return the text of each row; the two texts of a pair are joined."""
        columns = [[self._joined(text) for text in rows.column(role)] for role in self.columns]
        return ["\n".join(texts) for texts in zip(*columns, strict=True)]

    def preview(self, row: Row) -> Preview:
        """Show the text, or both texts of a pair."""
        return Preview(text=" / ".join(self._joined(row[role]) for role in self.columns))

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Read texts, pairs as tuples, dicts, DataFrames, or paths of CSV, JSON lines or Parquet files."""
        roles = without_usual_names({role: self.roles[role] for role in self.columns})
        rows = read_rows(inputs, roles, self.columns, self._single)
        for row in rows:
            problem = next(filter(None, (problem_of(row[role]) for role in roles)), None)
            if problem is not None:
                raise DataError(f"input {row['id']}: {problem}")
        return rows

    def _single(self, value: Any, number: str) -> list[Row]:
        if isinstance(value, Path):
            raise no_row_file(value)
        parts = [value] if isinstance(value, str) else list(value)
        if len(parts) != len(self.columns):
            raise DataError(f"input {number}: {len(parts)} texts; expected {' and '.join(self.columns)}")
        return [{"id": number, **dict(zip(self.columns, parts, strict=True))}]

    @property
    def example(self) -> Any:
        """A text, or a pair of texts."""
        first = "This is a text."
        return (first, "This is another text.") if "pair" in self.columns else first

    @property
    def pipeline_options(self) -> Mapping[str, Any] | None:
        """Truncate at the same length; None for pairs and joined columns, which a pipeline cannot read."""
        if "pair" in self.columns or not isinstance(self.columns["text"], str):
            return None
        return {"truncation": True, "top_k": None}

    def pipeline_input(self, row: Row) -> Any:
        """Return the text."""
        return row["text"]


def _traits(text: str) -> list[str]:
    """List the traits of a text."""
    found = {
        "very long": len(text) > _LONG,
        "very short": len(text) < _SHORT,
        "space at an end": text != text.strip(),
        "not ASCII": not text.isascii(),
    }
    return [name for name, has in found.items() if has]


def problem_of(text: Any) -> str | None:
    """Say why a text, or the columns that are joined to one, cannot be used; None where it can."""
    parts = text if isinstance(text, (list, tuple)) else [text]
    for part in parts:
        if not isinstance(part, str) and part is not None:
            return f"found {type(part).__name__} {part!r}; expected a text; see data.columns.text"
    return None if any(part and part.strip() for part in parts) else "the text is empty"
