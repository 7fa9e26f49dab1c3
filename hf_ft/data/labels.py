"""The one label map of a run: class names in id order, learned from the training rows and applied by name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing, natural_key

if TYPE_CHECKING:
    from datasets import Dataset

# With more classes than this that are whole numbers, a message asks whether they are amounts.
MOST_NUMBERED_CLASSES = 20


@dataclass(frozen=True)
class LabelMap:
    """Class names in id order.

    Every split, the model's config and the metrics use this one map, and rows reach it by name only, never by
    an id that some file happened to use (optimum PR#197, ds PR#2457, tf#28589).

    Args:
        names: K class names; the position is the id.
    """

    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Sequence[Any], ids: Sequence[str]) -> LabelMap:
        """Learn the names from the training labels: numbers in numeric order, else natural order.

        Args:
            values: one label per row (text, whole number or bool), or a list of labels per row.
            ids: the row ids, for messages.

        Raises:
            DataError: a label is missing or empty, two names differ only in case, spaces or Unicode form
                ("Stop", "stop "), or there are fewer than two classes.
        """
        rows = _names_of_rows("train", values, ids)
        first: dict[str, str] = {}
        for name, row in rows:
            first.setdefault(name, row)
        twins: dict[str, list[str]] = {}
        for name in first:
            twins.setdefault(_folded(name), []).append(name)
        lines = [
            ", ".join(f"{name!r} (row {first[name]})" for name in group)
            for group in twins.values()
            if len(group) > 1
        ]
        if lines:
            raise DataError(
                "train: labels that differ only in case, spaces or Unicode form: "
                + "; ".join(lines)
                + ". Write each class in one spelling."
            )
        if len(first) < 2:
            found = f"all {len(rows)} labels are {rows[0][0]!r}" if rows else f"{len(values)} rows, no label"
            raise DataError(
                f"train: {found}; a classifier needs at least two classes. Is data.columns.label the column "
                "with the classes?"
            )
        return cls(tuple(sorted(first, key=_order(first))))

    def __len__(self) -> int:
        return len(self.names)

    def id(self, name: Any) -> int:
        """Give the id of a class name.

        Raises:
            DataError: there is no such class; the message names the nearest one.
        """
        text = name_of(name)
        if text is None or text not in self.ids:
            raise DataError(
                f"there is no class {name!r}{hint(str(text), self.names)} (classes: {listing(self.names)})"
            )
        return self.ids[text]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Name -> id."""
        return {name: index for index, name in enumerate(self.names)}

    def check(self, split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Make sure that every label of another split is one of these classes.

        Raises:
            DataError: labels are missing, or unknown in train; each is named with its count, a row, and the
                class it is probably meant to be.
        """
        known = set(self.names)
        unknown: dict[str, list[str]] = {}
        for name, row in _names_of_rows(split, values, ids):
            if name not in known:
                unknown.setdefault(name, []).append(row)
        if not unknown:
            return
        spelled = {_folded(name): name for name in self.names}
        lines = []
        for name, rows in unknown.items():
            twin = spelled.get(_folded(name))
            meant = f", a twin of {twin!r} in train" if twin else hint(name, self.names)
            lines.append(f"{name!r} in {len(rows)} rows (first: {rows[0]}){meant}")
        raise DataError(
            f"{split}: labels that train does not have: {'; '.join(lines)}. Classes: {listing(self.names)}"
        )

    def to_json(self) -> list[str]:
        """Give the map as JSON: the names in id order."""
        return list(self.names)

    @classmethod
    def from_json(cls, names: Sequence[str]) -> LabelMap:
        """Take back what `to_json` gave."""
        return cls(tuple(names))

    @property
    def config(self) -> dict[str, Mapping[Any, Any]]:
        """The two entries of a model's configuration."""
        return {"id2label": dict(enumerate(self.names)), "label2id": self.ids}


def name_of(value: Any) -> str | None:
    """Give a label as text: numbers and bools by their usual spelling; None where there is no label."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else None


def are_amounts(values: Sequence[Any]) -> bool:
    """Tell whether labels are amounts on a scale, not classes: all are floats, and some have a fraction."""
    present = [value for value in values if value is not None and value == value]
    return all(isinstance(value, float) for value in present) and any(value % 1 for value in present)


def part_labels(rows: Dataset, column: str | list[str] | None, separator: str, split: str) -> Dataset:
    """Part the labels that one cell of text holds, so that each row has a list; an empty cell gives none.

    Args:
        rows: of one split.
        column: the column that plays the role `label`, or None.
        separator: `data.label_separator`.
        split: for messages.

    Raises:
        DataError: no such column, or its cells are not text.
    """
    from datasets import List, Value

    if not isinstance(column, str):
        raise DataError(
            "data.label_separator: parts the text of one label column, and "
            f"{'none was found' if column is None else f'there are {len(column)}'}; remove the key"
        )
    values = rows[column][:]
    other = [value for value in values if value is not None and not isinstance(value, str)]
    if other:
        raise DataError(
            f"data.label_separator: {split}: column {column!r} holds {type(other[0]).__name__} "
            f"({other[0]!r}), not text; remove the key"
        )
    parted = [[name for part in (value or "").split(separator) if (name := part.strip())] for value in values]
    order = rows.column_names
    # Under another name first: a table that loses its only column loses its rows.
    rows = rows.add_column(f"{column} parted", parted, feature=List(Value("string")))
    return rows.remove_columns(column).rename_column(f"{column} parted", column).select_columns(order)


def find_problem(values: Sequence[Any], among: Sequence[str]) -> tuple[str, str]:
    """Say what kind of problem labels pose, from all of them: never from a first batch (tf#14180).

    Args:
        values: the label of every training row.
        among: the problems that the task has: of `single-label`, `multi-label` and `regression`.

    Returns:
        One of these, and the reason in words.

    Raises:
        DataError: it cannot be told: lists beside plain labels, or whole numbers as floats (1.0, 2.0).
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
    floats = [value for value in values if isinstance(value, float) and value == value]
    if floats:
        raise DataError(
            f"train: the labels are whole numbers written as fractions ({listing(sorted(set(floats)), 4)}): "
            "classes or amounts? Write task.problem: single-label or regression"
        )
    names = {name for value in values if (name := name_of(value)) is not None}
    if advice := advice_on_amounts(Counter(names)):
        return "single-label", f"the training labels are whole numbers, one a row{advice}"
    return "single-label", "the training labels are names or whole numbers, one a row"


def advice_on_amounts(counts: Mapping[str, int]) -> str:
    """Give what to write where classes are many whole numbers, which may be meant as amounts; or nothing."""
    if len(counts) <= MOST_NUMBERED_CLASSES or not all(re.fullmatch(r"-?\d+", name) for name in counts):
        return ""
    return (
        f". The labels are {len(counts)} different whole numbers: if they are amounts and not classes, write "
        "task.problem: regression"
    )


def count_classes(values: Sequence[Any]) -> dict[str, int]:
    """Count the rows of each class, largest first; where rows have several labels, each counts."""
    names = (str(name_of(value)) for value, _ in _flat(values, [""] * len(values)))
    return dict(Counter(names).most_common())


def _names_of_rows(split: str, values: Sequence[Any], ids: Sequence[str]) -> list[tuple[str, str]]:
    """Give (name, row id) for every label; a list of labels gives several, an empty list none."""
    pairs = [(name_of(value), row) for value, row in _flat(values, ids)]
    missing = [row for name, row in pairs if name is None]
    if missing:
        raise DataError(
            f"{split}: {len(missing)} rows have no label: {listing(missing, 5)}. Label or remove them."
        )
    return [(name, row) for name, row in pairs if name is not None]


def _flat(values: Sequence[Any], ids: Sequence[str]) -> Iterator[tuple[Any, str]]:
    for value, row in zip(values, ids, strict=True):
        if isinstance(value, (list, tuple)):
            yield from ((inner, row) for inner in value)
        else:
            yield value, row


def _folded(name: str) -> str:
    """Give the form under which twins are equal."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _order(names: Mapping[str, str]) -> Any:
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return natural_key
    return lambda name: (numbers[name], name)
