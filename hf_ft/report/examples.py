"""Select example rows for the report: what the model predicts correctly and what it gets wrong."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.task import Preview

if TYPE_CHECKING:
    from hf_ft.task import Evaluation, Row, Task

# Numbers of examples: wrong answers, right answers, rows of each group by loss, rows of each class; and the
# number of difficult classes.
WRONG, RIGHT, ROWS_BY_LOSS, ROWS_BY_CLASS, CLASSES = 12, 8, 6, 3, 6
# Examples are searched among at most this many rows, so that a large split needs no more time than a small
# one.
_SCANNED = 500
_LONGEST_TEXT, _LONGEST_ANSWER = 320, 120


@dataclass(frozen=True)
class Example:
    """A row with its truth and the model's answer.

    Args:
        id: the id of the row.
        truth: the formatted truth; "" where the preview shows it.
        answer: the formatted answer of the model; "" where the preview shows it.
        right: whether the answer is right; None where answers are numbers, which differ more or less.
        loss: the loss of the row, or None.
        preview: how the report shows the row.
    """

    id: str
    truth: str
    answer: str
    right: bool | None
    loss: float | None
    preview: Preview = field(default_factory=Preview)


@dataclass(frozen=True)
class ExampleGroup:
    """Examples under one heading.

    Args:
        title: the heading.
        examples: the examples, in order.
        note: a sentence on how they were chosen.
        folded: whether the group is folded until a reader opens it.
    """

    title: str
    examples: Sequence[Example]
    note: str = ""
    folded: bool = False


def choose_examples(
    task: Task, rows: Any, evaluation: Evaluation, groups: Sequence[Hashable] | None = None
) -> list[ExampleGroup]:
    """Choose examples: for classes, wrong and right answers and difficult classes; else worst and best rows.

    Args:
        task: the fitted task.
        rows: the raw rows of the split.
        evaluation: the evaluation of this split.
        groups: group of each row, such as frames of one track; only one row of a group is shown. None: the
            rows are independent.
    """
    selector = _ExampleSelector(task, rows, evaluation, groups)
    groups = selector.groups_of_classes() if selector.has_classes else selector.groups_by_loss()
    return [group for group in groups if group.examples]


def plain(value: Any, longest: int = _LONGEST_ANSWER) -> str:
    """Format any value for a reader: without quotes and braces, with four digits, shortened if long."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return shorten(", ".join(f"{key} {plain(inner)}" for key, inner in value.items()), longest)
    if isinstance(value, list | tuple | np.ndarray):
        return shorten(
            ", ".join(plain(inner) for inner in value[:8]) + (", …" if len(value) > 8 else ""), longest
        )
    return shorten(str(value), longest)


def shorten(text: str, longest: int) -> str:
    """Shorten a text at the end of a word, and mark the cut with an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    cut = text[:longest]
    return (cut.rpartition(" ")[0] if " " in cut[longest // 2 :] else cut) + " …"


def preview_of(task: Task, row: Row, result: Any, reference: Any) -> Preview:
    """Return the task's preview of a row, with its text shortened."""
    preview = task.preview(row, result, reference) or Preview()
    return preview if preview.text is None else replace(preview, text=shorten(preview.text, _LONGEST_TEXT))


class _ExampleSelector:
    """Selects examples from one evaluation, and builds the example of each row only once.

    Args:
        task: the fitted task.
        rows: the raw rows of the split.
        evaluation: the evaluation of this split.
        groups: group of each row, or None.
    """

    def __init__(self, task: Task, rows: Any, evaluation: Evaluation, groups: Sequence[Hashable] | None):
        self.task, self.rows, self.evaluation, self.groups = task, rows, evaluation, groups
        count = len(evaluation.ids)
        self.hardest_first = (
            np.arange(count)
            if evaluation.losses is None
            else np.argsort(-np.asarray(evaluation.losses), kind="stable")
        )
        # With a fixed seed, the same run gives the same page.
        self.at_random = np.random.default_rng(0).permutation(count)[:_SCANNED]
        self._built: dict[int, Example] = {}

    @property
    def has_classes(self) -> bool:
        """Whether answers are classes, which are right or wrong."""
        return self.task.labels() is not None and len(self.rows) > 0 and self._right(0) is not None

    def groups_of_classes(self) -> list[ExampleGroup]:
        """Return wrong answers, right answers of different classes, and rows of each difficult class."""
        wrong = self._first(WRONG, (row for row in self.hardest_first[:_SCANNED] if not self._right(row)))
        right = self._first(
            RIGHT, self._different_truths_first(row for row in self.at_random if self._right(row))
        )
        by_loss = "The highest loss first." if self.evaluation.losses is not None else ""
        return [
            ExampleGroup("Wrong answers", self._examples(wrong), by_loss),
            ExampleGroup("Right answers", self._examples(right), "Drawn at random, of different classes."),
            *(
                ExampleGroup(f"Rows of {label}", self._examples(rows), folded=True)
                for label, rows in self._difficult_classes()
            ),
        ]

    def groups_by_loss(self) -> list[ExampleGroup]:
        """Return the rows with the highest, median and lowest loss; without losses, the first rows."""
        order, some = self.hardest_first, ROWS_BY_LOSS
        if self.evaluation.losses is None or len(order) < 3 * some:
            title = "A few rows" if self.evaluation.losses is None else "From the worst to the best"
            return [ExampleGroup(title, self._examples(order[: 3 * some]))]
        chosen = {
            "Worst": (order, "The highest loss first."),
            "Typical": (order[(len(order) - some) // 2 :], "Around the median loss."),
            "Best": (order[::-1], "The lowest loss first."),
        }
        return [
            ExampleGroup(title, self._examples(self._first(some, rows[:_SCANNED])), note)
            for title, (rows, note) in chosen.items()
        ]

    def _difficult_classes(self) -> Iterator[tuple[str, list[int]]]:
        """Return the classes with the lowest F1, each with some wrong answers and one right answer."""
        table = [row for row in self.evaluation.metrics.get("per_class", []) if row.get("support")]
        if not table or "f1" not in table[0]:
            return
        truths = [self.task.decode_reference(reference) for reference in self.evaluation.references]
        for entry in sorted(table, key=lambda row: row["f1"])[:CLASSES]:
            own = [
                row
                for row in self.hardest_first
                if entry["label"] == truths[row]
                or (isinstance(truths[row], list) and entry["label"] in truths[row])
            ]
            wrong = self._first(ROWS_BY_CLASS - 1, (row for row in own[:_SCANNED] if not self._right(row)))
            right = self._first(1, (row for row in reversed(own[-_SCANNED:]) if self._right(row)))
            yield str(entry["label"]), [*wrong, *right]

    def _first(self, count: int, rows: Iterable[int]) -> list[int]:
        """Return the first `count` rows, at most one of each group."""
        found: dict[Hashable, int] = {}
        for row in rows:
            found.setdefault(row if self.groups is None else self.groups[row], int(row))
            if len(found) == count:
                break
        return list(found.values())

    def _different_truths_first(self, rows: Iterable[int]) -> list[int]:
        """Sort the first row of each truth before all other rows."""
        seen: set[str] = set()
        new: list[int] = []
        again: list[int] = []
        for row in rows:
            truth = plain(self._truth(row))
            (again if truth in seen else new).append(row)
            seen.add(truth)
        return [*new, *again]

    def _examples(self, rows: Iterable[int]) -> list[Example]:
        return [self._example(int(row)) for row in rows]

    def _example(self, row: int) -> Example:
        if row not in self._built:
            one = self.evaluation
            preview = preview_of(self.task, self.rows[row], one.results[row], one.references[row])
            drawn = preview.curves is not None and "truth" in preview.curves
            self._built[row] = Example(
                one.ids[row],
                "" if drawn else plain(self._truth(row)) or "none",
                "" if drawn else self._answer(row),
                self._right(row),
                None if one.losses is None else one.losses[row],
                preview,
            )
        return self._built[row]

    def _truth(self, row: int) -> Any:
        return self.task.decode_reference(self.evaluation.references[row])

    def _answer(self, row: int) -> str:
        result = self.evaluation.results[row]
        if self._right(row) is not None:
            return shorten(self.task.describe(result), _LONGEST_ANSWER)
        values = [value for key, value in self.task.decode(result).items() if key != "scores"]
        return plain(values[0] if len(values) == 1 else values)

    def _right(self, row: int) -> bool | None:
        """Tell whether the predicted label or labels equal the truth; None where answers are not classes."""
        answer = self.task.decode(self.evaluation.results[row])
        if "label" in answer:
            return bool(answer["label"] == self._truth(row))
        return sorted(answer["labels"]) == sorted(self._truth(row)) if "labels" in answer else None
