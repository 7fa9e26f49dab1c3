"""Rows that show a reader what a model gets right and wrong."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.task import Preview

if TYPE_CHECKING:
    from hf_ft.task import Evaluation, Row, Task

# How many examples a group shows.
WRONG, RIGHT, OF_NUMBERS, OF_A_CLASS, CLASSES = 12, 8, 6, 3, 6
# How many rows are looked at for them, so that a large split costs no more than a small one.
_SCANNED = 500
_LONGEST_TEXT, _LONGEST_ANSWER = 320, 120


@dataclass(frozen=True)
class Example:
    """A row with its truth and the model's answer.

    Args:
        id: of the row.
        truth: as a person reads it; "" where the preview shows it.
        answer: the model's, as a person reads it.
        right: whether the answer is right; None where there is only a distance.
        loss: of the row, or None.
        preview: what a person sees of the row.
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
        examples: in the order in which they are shown.
        note: a sentence on how they were chosen.
        folded: whether a reader opens it first.
    """

    title: str
    examples: Sequence[Example]
    note: str = ""
    folded: bool = False


def choose_examples(
    task: Task, rows: Any, evaluation: Evaluation, groups: Sequence[Hashable] | None = None
) -> list[ExampleGroup]:
    """Choose what to show: wrong and right answers, and some of each difficult class; or worst and best.

    Args:
        task: the fitted task.
        rows: the raw rows of the split.
        evaluation: of this split.
        groups: group of each row, such as frames of one track; of a group, one row is shown. None: every row
            stands alone.
    """
    maker = _Maker(task, rows, evaluation, groups)
    groups = maker.of_classes() if maker.has_classes else maker.of_numbers()
    return [group for group in groups if group.examples]


def plain(value: Any, longest: int = _LONGEST_ANSWER) -> str:
    """Give any value as a person writes it: no quotes, no braces, four digits, cut where it is long."""
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
    """Cut a text behind a word, and mark the cut."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    cut = text[:longest]
    return (cut.rpartition(" ")[0] if " " in cut[longest // 2 :] else cut) + " …"


def preview_of(task: Task, row: Row, result: Any, reference: Any) -> Preview:
    """Give what a person sees of a row, its text shortened."""
    preview = task.preview(row, result, reference) or Preview()
    return preview if preview.text is None else replace(preview, text=shorten(preview.text, _LONGEST_TEXT))


class _Maker:
    """Makes examples of one evaluation; looks at no row twice.

    Args:
        task: the fitted task.
        rows: the raw rows of the split.
        evaluation: of this split.
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
        # Seeded: the same run gives the same page.
        self.at_random = np.random.default_rng(0).permutation(count)[:_SCANNED]
        self._made: dict[int, Example] = {}

    @property
    def has_classes(self) -> bool:
        """Whether an answer is right or wrong."""
        return self.task.labels() is not None and len(self.rows) > 0 and self._right(0) is not None

    def of_classes(self) -> list[ExampleGroup]:
        """Give wrong answers, right ones of different classes, and some rows of each difficult class."""
        wrong = self._first(WRONG, (row for row in self.hardest_first[:_SCANNED] if not self._right(row)))
        right = self._first(
            RIGHT, self._of_different_truths(row for row in self.at_random if self._right(row))
        )
        by_loss = "The highest loss first." if self.evaluation.losses is not None else ""
        return [
            ExampleGroup("Wrong answers", self._examples(wrong), by_loss),
            ExampleGroup("Right answers", self._examples(right), "Drawn at random, of different classes."),
            *(
                ExampleGroup(f"Rows of {label}", self._examples(rows), folded=True)
                for label, rows in self._of_difficult_classes()
            ),
        ]

    def of_numbers(self) -> list[ExampleGroup]:
        """Give the rows with the highest, a middling and the lowest loss; a sample where there is none."""
        order, some = self.hardest_first, OF_NUMBERS
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

    def _of_difficult_classes(self) -> Iterator[tuple[str, list[int]]]:
        """Give rows of the classes with the lowest F1: what is wrong with them, and a right one beside it."""
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
            wrong = self._first(OF_A_CLASS - 1, (row for row in own[:_SCANNED] if not self._right(row)))
            right = self._first(1, (row for row in reversed(own[-_SCANNED:]) if self._right(row)))
            yield str(entry["label"]), [*wrong, *right]

    def _first(self, count: int, rows: Iterable[int]) -> list[int]:
        """Give the first rows of what may be long, one of each group."""
        found: dict[Hashable, int] = {}
        for row in rows:
            found.setdefault(row if self.groups is None else self.groups[row], int(row))
            if len(found) == count:
                break
        return list(found.values())

    def _of_different_truths(self, rows: Iterable[int]) -> list[int]:
        """Put rows whose truth was not met before in front."""
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
        if row not in self._made:
            one = self.evaluation
            preview = preview_of(self.task, self.rows[row], one.results[row], one.references[row])
            drawn = preview.curves is not None and "truth" in preview.curves
            self._made[row] = Example(
                one.ids[row],
                "" if drawn else plain(self._truth(row)) or "none",
                "" if drawn else self._answer(row),
                self._right(row),
                None if one.losses is None else one.losses[row],
                preview,
            )
        return self._made[row]

    def _truth(self, row: int) -> Any:
        return self.task.decode_reference(self.evaluation.references[row])

    def _answer(self, row: int) -> str:
        result = self.evaluation.results[row]
        if self._right(row) is not None:
            return shorten(self.task.describe(result), _LONGEST_ANSWER)
        said = [value for key, value in self.task.decode(result).items() if key != "scores"]
        return plain(said[0] if len(said) == 1 else said)

    def _right(self, row: int) -> bool | None:
        """Tell whether the answer is the truth, as a person reads both; None where there is no such thing."""
        said = self.task.decode(self.evaluation.results[row])
        if "label" in said:
            return bool(said["label"] == self._truth(row))
        return sorted(said["labels"]) == sorted(self._truth(row)) if "labels" in said else None
