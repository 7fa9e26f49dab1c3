"""The label map of a run: class names in the order of their ids, learned from the training rows."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing, natural_key

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.data.table import Table

# If all class names are integers and there are more of them, a message asks whether they are amounts.
MOST_NUMBERED_CLASSES = 20


@dataclass(frozen=True)
class LabelMap:
    """Class names in the order of their ids.

    Every split, the model's configuration and the metrics use this one map. Labels are looked up by name and
    never by an id from a file (optimum PR#197, ds PR#2457, tf#28589).

    Args:
        names: K class names; the position of a name is its id.
    """

    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Sequence[Any], ids: Sequence[str]) -> LabelMap:
        """Learn the names from the training labels; numbers are sorted by value, other names naturally.

        Args:
            values: one label per row (text, integer or bool), or a list of labels per row.
            ids: ids of the rows, for messages.

        Raises:
            DataError: a label is missing or empty, two names differ only in case, spaces, invisible
                characters or Unicode form ("Stop", "stop "), or there are fewer than two classes.
        """
        rows = _names_of_rows("train", values, ids)
        first: dict[str, str] = {}
        for name, row in rows:
            first.setdefault(name, row)
        twins: dict[str, list[str]] = {}
        for name in first:
            twins.setdefault(_normalize(name), []).append(name)
        lines = [
            ", ".join(f"{name!r} (row {first[name]})" for name in group)
            for group in twins.values()
            if len(group) > 1
        ]
        if lines:
            raise DataError(
                "train: labels that differ only in case, spaces, invisible characters or Unicode form: "
                + "; ".join(lines)
                + ". Write each class in one spelling."
            )
        if len(first) < 2:
            found = f"all {len(rows)} labels are {rows[0][0]!r}" if rows else f"{len(values)} rows, no label"
            raise DataError(
                f"train: {found}; a classifier needs at least two classes. Is data.columns.label the column "
                "with the classes?"
            )
        return cls(tuple(sorted(first, key=_sort_key(first))))

    def __len__(self) -> int:
        return len(self.names)

    def id(self, name: Any) -> int:
        """Return the id of a class name.

        Raises:
            DataError: there is no such class; the message names the nearest class.
        """
        text = name_of(name)
        if text is None or text not in self.ids:
            raise DataError(
                f"there is no class {name!r}{hint(str(text), self.names)} (classes: {listing(self.names)})"
            )
        return self.ids[text]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Class name -> id."""
        return {name: index for index, name in enumerate(self.names)}

    def check(self, split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Check that every label of a split is one of these classes.

        Args:
            split: name of the split, for messages.
            values: the labels, as for `fit`.
            ids: ids of the rows, for messages.

        Raises:
            DataError: labels are missing or are no class of train; the message gives the number of rows, a
                row, and the nearest class for each of them.
        """
        known = set(self.names)
        unknown: dict[str, list[str]] = {}
        for name, row in _names_of_rows(split, values, ids):
            if name not in known:
                unknown.setdefault(name, []).append(row)
        if not unknown:
            return
        spelled = {_normalize(name): name for name in self.names}
        lines = []
        for name, rows in unknown.items():
            twin = spelled.get(_normalize(name))
            meant = f", which train spells {twin!r}" if twin else hint(name, self.names)
            lines.append(f"{name!r} in {len(rows)} rows (first: {rows[0]}){meant}")
        raise DataError(
            f"{split}: labels that train does not have: {'; '.join(lines)}. Classes: {listing(self.names)}"
        )

    def to_json(self) -> list[str]:
        """Return the class names in the order of their ids, as JSON values."""
        return list(self.names)

    @classmethod
    def from_json(cls, names: Sequence[str]) -> LabelMap:
        """Build a map from the result of `to_json`."""
        return cls(tuple(names))

    @property
    def config(self) -> dict[str, Mapping[Any, Any]]:
        """The entries `id2label` and `label2id` of a model's configuration."""
        return {"id2label": dict(enumerate(self.names)), "label2id": self.ids}


def name_of(value: Any) -> str | None:
    """Return a label as text, such as `3` for 3 and 3.0; None for None, NaN and empty text."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else None


def are_amounts(values: Sequence[Any]) -> bool:
    """Tell whether labels are amounts and not classes: all are floats, and some have a fractional part."""
    present = [value for value in values if value is not None and value == value]
    return all(isinstance(value, (float, Decimal)) for value in present) and any(
        math.isfinite(value) and value % 1 for value in present
    )


def is_number_text(text: str) -> bool:
    """Tell whether a text is a number with a decimal point or comma, such as `1,5`."""
    return re.fullmatch(r"\s*[-+]?\d*[.,]\d+([eE][-+]?\d+)?\s*", text) is not None


def require_names(table: Table, role: str, split: str) -> None:
    """Refuse a column of labels that are neither names nor numbers, such as bytes.

    Raises:
        DataError: names the column and the kind of its values.
    """
    from datasets import LargeList, List, Value

    column = table.columns.get(role)
    feature = table.dataset.features.get(column) if isinstance(column, str) else None
    inner = feature.feature if isinstance(feature, (List, LargeList)) else feature
    if inner is None or (isinstance(inner, Value) and "binary" not in inner.dtype):
        return
    kind, advice = "lists or objects", ""
    if isinstance(inner, Value):
        kind, advice = "bytes", ': turn them into text, as in value.decode("utf-8")'
    raise DataError(
        f"{split}: the column {column!r} holds {kind}; expected labels, names or whole numbers{advice}"
    )


def split_label_cells(rows: Dataset, column: str | list[str] | None, separator: str, split: str) -> Dataset:
    """Split the text of each label cell into a list of labels; an empty cell gives an empty list.

    Args:
        rows: the rows of one split.
        column: the column of the role `label`, or None.
        separator: `data.label_separator` of the recipe.
        split: name of the split, for messages.

    Raises:
        DataError: there is not exactly one label column, or its cells are not text.
    """
    from datasets import List, Value

    if not isinstance(column, str):
        raise DataError(
            "data.label_separator: the key splits the text of one label column, but "
            f"{'none was found' if column is None else f'there are {len(column)}'}; remove the key"
        )
    values = rows[column][:]
    other = [value for value in values if value is not None and not isinstance(value, str)]
    if other:
        raise DataError(
            f"data.label_separator: {split}: column {column!r} holds {type(other[0]).__name__} "
            f"({other[0]!r}), not text; remove the key"
        )
    lists = [[name for part in (value or "").split(separator) if (name := part.strip())] for value in values]
    order = rows.column_names
    # The new column is added before the old one is removed: a data set without columns has no rows.
    rows = rows.add_column(f"{column} as lists", lists, feature=List(Value("string")))
    return rows.remove_columns(column).rename_column(f"{column} as lists", column).select_columns(order)


def find_problem(values: Sequence[Any], among: Sequence[str]) -> tuple[str, str]:
    """Infer the kind of problem from the labels of all training rows, not of a first batch (tf#14180).

    Args:
        values: the label of every training row.
        among: the problems that the task supports: `single-label`, `multi-label`, `regression`.

    Returns:
        The problem, and the reason as text.

    Raises:
        DataError: the labels are ambiguous: lists beside plain labels, or integers as floats (1.0, 2.0).
    """
    lists = sum(isinstance(value, (list, tuple)) for value in values)
    if lists and lists < sum(value is not None for value in values):
        raise DataError(
            f"train: {lists} of {len(values)} labels are lists and the others are not; write all as lists"
        )
    if lists:
        return "multi-label", "the training labels are lists"
    if "regression" not in among:
        return "single-label", "each training row has one label"
    if are_amounts(values):
        return "regression", "the training labels are fractional numbers"
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if texts and all(map(is_number_text, texts)):
        shown = listing([repr(text) for text in dict.fromkeys(texts)], 4)
        raise DataError(
            f"train: the labels are numbers written as text ({shown}), which may be classes or amounts; "
            "write amounts without quotes and with a decimal point, or write task.problem: single-label"
        )
    floats = [value for value in values if isinstance(value, float) and value == value]
    if floats:
        raise DataError(
            f"train: the labels are whole numbers written as decimals ({listing(sorted(set(floats)), 4)}), "
            "which may be classes or amounts; write task.problem: single-label or task.problem: regression"
        )
    names = {name for value in values if (name := name_of(value)) is not None}
    if advice := advice_on_amounts(Counter(names)):
        return "single-label", f"the training labels are whole numbers, one per row{advice}"
    return "single-label", "the training labels are names or whole numbers, one per row"


def advice_on_amounts(counts: Mapping[str, int]) -> str:
    """Return advice if the classes are many numbers, which may be amounts; an empty text otherwise.

    Args:
        counts: class -> number of rows.
    """
    if len(counts) > MOST_NUMBERED_CLASSES and all(re.fullmatch(r"-?\d+", name) for name in counts):
        kind = "whole numbers"
    elif counts and all(map(is_number_text, counts)):
        kind = "numbers written as text"
    else:
        return ""
    return (
        f". The labels are {len(counts)} different {kind}: if they are amounts and not classes, write "
        "task.problem: regression"
    )


def count_classes(values: Sequence[Any]) -> dict[str, int]:
    """Count the rows of each class, largest class first; a row counts for each of its labels."""
    rows = (value if isinstance(value, (list, tuple)) else [value] for value in values)
    # A list may hold a label twice.
    names = (name for row in rows for name in dict.fromkeys(str(name_of(one)) for one in row))
    return dict(Counter(names).most_common())


def _names_of_rows(split: str, values: Sequence[Any], ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return (class name, row id) for every label of every row."""
    pairs = [(name_of(value), row) for value, row in _flatten(values, ids)]
    missing = [row for name, row in pairs if name is None]
    if missing:
        raise DataError(
            f"{split}: {len(missing)} rows have no label: {listing(missing, 5)}. Label or remove them."
        )
    return [(name, row) for name, row in pairs if name is not None]


def _flatten(values: Sequence[Any], ids: Sequence[str]) -> Iterator[tuple[Any, str]]:
    for value, row in zip(values, ids, strict=True):
        if isinstance(value, (list, tuple)):
            yield from ((inner, row) for inner in value)
        else:
            yield value, row


def _normalize(name: str) -> str:
    """Return the form in which names that a reader cannot tell apart, or that differ in case, are equal."""
    visible = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).casefold().split())


def _sort_key(names: Mapping[str, str]) -> Any:
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return natural_key
    return lambda name: (numbers[name], name)
