"""The audit: every row looked at once before any training, and what was found, for a person to read."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.duplicates import Duplicates, find_duplicates
from hf_ft.data.labels import count_classes
from hf_ft.errors import AuditError
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.row_hash import FileState, Known, recall, remember, stamp
from hf_ft.storage.source_hash import task_source_hash
from hf_ft.task import Inspection
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hf_ft.task import Task

# Above this share of bad rows, leaving them out would change what is being learned.
MOST_SKIPPED = 0.01
# Above this share of a split's rows seen in another split, its figures mean nothing.
MOST_DUPLICATES = 0.01
# The largest class may be this many times the smallest before the audit warns.
IMBALANCE = 10
_CHUNK = 256


@dataclass
class Findings:
    """What the audit found.

    Args:
        errors: what must be corrected before training.
        warnings: what should be looked at.
        bad: rows that cannot be used: {"split", "id", "reason"}.
        counts: split -> number of rows.
        classes: split -> class -> number of rows that can be used; empty where the task has no classes.
        duplicates: rows that occur twice.
        traits: split -> name of a trait of the input -> ids of the rows that can be used and have it.
        fingerprints: split -> hash of ids and contents of all its rows.
        contents: split -> hash of everything its rows hold, targets and spelling included.
        cached: whether the rows were known from an earlier run and not decoded again.
        notes: what `check` learned beyond the rows: the model, one training step, time and memory.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    duplicates: list[Duplicates] = field(default_factory=list)
    traits: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    cached: bool = False
    notes: list[str] = field(default_factory=list)

    def raise_for_errors(self) -> None:
        """Raise an AuditError that lists every error, if there is one."""
        if self.errors:
            raise AuditError(self)

    def table(self) -> RenderableType:
        """Give the findings for `rich` to print: rows and classes per split, duplicates, warnings, errors."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rows = Table(title="Data", title_justify="left")
        for column in ("split", "rows", "bad", "classes", "smallest", "largest"):
            rows.add_column(column, justify="left" if column == "split" else "right")
        bad = Counter(entry["split"] for entry in self.bad)
        for split, count in self.counts.items():
            sizes = sorted((size, name) for name, size in self.classes.get(split, {}).items())
            extremes = [f"{size} {name}" for size, name in (sizes[0], sizes[-1])] if sizes else ["", ""]
            cells = (split, str(count), str(bad[split]), str(len(sizes) or ""), *extremes)
            rows.add_row(*(Text(cell) for cell in cells))
        lines = [Text(f"warning: {line}", style="yellow") for line in self.warnings]
        lines += [Text(f"error: {line}", style="red") for line in self.errors]
        lines = lines or [Text("No problem found.", style="green")]
        return Group(rows, *lines, *map(Text, self.notes))


def audit(
    task: Task,
    examples: Mapping[str, Any],
    on_bad: str,
    cache_dir: str | os.PathLike[str] | None,
) -> Findings:
    """Look at every row of every split once, in parallel, before anything is learned from them.

    Args:
        task: knows how to inspect a row.
        examples: split -> rows with `len`, `[index] -> Row` and `ids`.
        on_bad: `error`: a row that cannot be used is an error; `skip`: it is left out, up to 1 % of a split.
        cache_dir: keeps what was learned of the rows under a hash of their content; None: nothing is kept.
    """
    findings = Findings(counts={split: len(rows) for split, rows in examples.items()})
    seen: dict[str, _Seen] = {}
    for split, rows in examples.items():
        seen[split] = _inspect_split(task, rows, cache_dir)
        findings.fingerprints[split] = seen[split].fingerprint
        findings.contents[split] = seen[split].content
    findings.cached = all(one.cached for one in seen.values())
    inspected = {split: one.inspections for split, one in seen.items()}
    ids = {split: rows.ids for split, rows in examples.items()}
    for split, inspections in inspected.items():
        found = {index: one.problem for index, one in enumerate(inspections) if one.problem is not None}
        add_bad_rows(findings, split, ids[split], found, on_bad)
        findings.traits[split] = _with_traits(ids[split], inspections)
    findings.warnings += _trait_warnings(task, findings)
    findings.duplicates = find_duplicates(ids, inspected)
    for pair in findings.duplicates:
        _judge_duplicates(findings, pair)
    return findings


def write_bad(bad: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write the bad rows as CSV: split, id, reason."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["split", "id", "reason"])
        writer.writeheader()
        writer.writerows(bad)


# Looking at the rows


@dataclass(frozen=True)
class _Seen:
    """What was learned of one split: each row's inspection, known before or not, and hashes of it.

    `fingerprint` is of ids and contents; `content` stands for all that the rows hold.
    """

    inspections: list[Inspection]
    cached: bool
    fingerprint: str
    content: str


def _inspect_split(task: Task, rows: Any, cache_dir: str | os.PathLike[str] | None) -> _Seen:
    """Inspect all rows of a split, or take what a run before learned of these rows with this code."""
    code, folder = task_source_hash(task), None if cache_dir is None else Path(cache_dir)
    known = None if folder is None else recall(folder, rows, code)
    if folder is not None and known is not None:
        found = _kept(folder / known.audit, len(rows))
        if found is not None:
            return _Seen(found, True, known.fingerprint, known.audit)
    files: dict[str, FileState] = {}
    stamps = [stamp(rows[index], files) for index in range(len(rows))]
    state = hashlib.blake2b(b"".join([code.encode(), *stamps]), digest_size=16)
    name = f"audit-{state.hexdigest()}.json"
    kept = None if folder is None else _kept(folder / name, len(rows))
    cached = kept is not None
    inspections = _inspect_all(task, rows) if kept is None else kept
    content = hashlib.blake2b(digest_size=16)
    for row_id, entry, mark in zip(rows.ids, inspections, stamps, strict=True):
        content.update(f"{row_id}\0{entry.digest or mark.hex()}\n".encode())
    if folder is not None:
        # What cannot be kept is looked at again by the next run.
        with suppress(OSError):
            if not cached:
                write_json(folder / name, [asdict(entry) for entry in inspections])
            remember(folder, rows, code, Known(name, content.hexdigest(), files))
    return _Seen(inspections, cached, content.hexdigest(), name)


def _inspect_all(task: Task, rows: Any) -> list[Inspection]:
    inspections: list[Inspection] = []
    # Threads: decoders release the interpreter lock, and no process is forked beside torch.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = [rows[index] for index in range(start, min(start + _CHUNK, len(rows)))]
            inspections += pool.map(task.inspect, chunk)
    return inspections


def _kept(path: Path, rows: int) -> list[Inspection] | None:
    """Read the inspections of as many rows; None where they are not there, or damaged."""
    found = read_json(path, list)
    try:
        return [Inspection(**entry) for entry in found] if found is not None and len(found) == rows else None
    except TypeError:
        return None


# Judging what was seen


def add_bad_rows(
    findings: Findings, split: str, ids: Sequence[str], problems: Mapping[int, str], on_bad: str
) -> None:
    """Add rows that cannot be used, and say whether they stop the run or are left out.

    Args:
        findings: what was found so far; completed in place.
        split: name of the split.
        ids: of all rows of the split.
        problems: position -> why the row cannot be used.
        on_bad: as for `audit`.
    """
    if not problems:
        return
    findings.bad += [
        {"split": split, "id": ids[index], "reason": _without_name(problem, ids[index])}
        for index, problem in problems.items()
    ]
    first = "; ".join(f"{entry['id']}: {entry['reason']}" for entry in findings.bad[-len(problems) :][:3])
    total = findings.counts[split]
    text = (
        f"{split}: {len(problems)} of {total} rows cannot be used "
        f"({first}{'; ...' if len(problems) > 3 else ''})"
    )
    if on_bad == "error":
        findings.errors.append(f"{text}. Mend or remove them, or set data.on_bad: skip")
    elif sum(entry["split"] == split for entry in findings.bad) > MOST_SKIPPED * total:
        findings.errors.append(f"{text}. data.on_bad: skip leaves out at most {MOST_SKIPPED:.0%}")
    else:
        findings.warnings.append(f"{text}. They are left out (data.on_bad: skip)")


def without_bad_rows(examples: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Give the rows of every split that can be used."""
    bad = {entry["id"] for entry in findings.bad}
    affected = {entry["split"] for entry in findings.bad}
    return {
        split: rows.select([index for index, row_id in enumerate(rows.ids) if row_id not in bad])
        if split in affected
        else rows
        for split, rows in examples.items()
    }


def _with_traits(ids: Sequence[str], inspections: Sequence[Inspection]) -> dict[str, list[str]]:
    """Give the ids of the rows that can be used by what is unusual about them."""
    found: dict[str, list[str]] = {}
    for row_id, inspection in zip(ids, inspections, strict=True):
        for trait in inspection.traits if inspection.problem is None else ():
            found.setdefault(trait, []).append(row_id)
    return found


def _trait_warnings(task: Task, findings: Findings) -> list[str]:
    """Say what a user should know about unusual inputs, in one line for each trait."""
    warnings = []
    for name, trait in task.traits.items():
        counts = {split: len(found[name]) for split, found in findings.traits.items() if name in found}
        if counts and trait.warning is not None:
            where = ", ".join(
                f"{count:,} of {findings.counts[split]:,} rows of {split}" for split, count in counts.items()
            )
            warnings.append(f"{name}: {where}: {trait.warning}")
    return warnings


def _without_name(problem: str, row_id: str) -> str:
    """Take away the row's name where a problem begins with it: it stands in front of the problem anyway."""
    return re.sub(rf"^row {re.escape(row_id)}[,:] ", "", problem)


def _judge_duplicates(findings: Findings, found: Duplicates) -> None:
    """Equal rows in two splits make the figures of the smaller one worthless; all others are worth a look."""
    split, other = found.splits
    where = "occur again in it" if split == other else f"are in {other} too"
    sign = "=" if found.kind == "equal" else "~"
    # The examples are a few of the rows: their number says nothing.
    pairs = ", ".join(f"{one} {sign} {two}" for one, two in found.examples[:3])
    pairs += ", ..." if len(found.examples) > 3 else ""
    text = f"{split}: {found.rows} rows ({found.share:.2%}) {where}, {found.kind}: {pairs}"
    if found.kind == "equal" and split != other and found.share > MOST_DUPLICATES:
        findings.errors.append(
            f"{text}. Figures would be of rows seen in training: remove the duplicates, or keep what belongs "
            "together in one split with data.split.by"
        )
    else:
        findings.warnings.append(text)


def judge_classes(
    findings: Findings, classes: Mapping[str, Sequence[Any]], *, balanced: bool = False
) -> None:
    """Count the classes of every split; warn of imbalance in train and of classes that a split lacks.

    Args:
        findings: completed in place.
        classes: split -> the label, or the list of labels, of each row.
        balanced: whether the recipe weighs or draws classes by how rare they are, so that it need not be
            advised.
    """
    findings.classes = {split: count_classes(values) for split, values in classes.items()}
    train = findings.classes["train"]
    most, least = max(train.values()), min(train.values())
    findings.warnings += _joined_labels(train)
    if most > IMBALANCE * least and not balanced:
        rare = [name for name, count in train.items() if most > IMBALANCE * count]
        findings.warnings.append(
            f"train: the largest class has {most} rows, the smallest {least} ({most / least:.0f}:1; small: "
            f"{listing(rare, 5)}). Consider loss.class_weights: balanced or data.sampler: balanced"
        )
    for split, counts in findings.classes.items():
        absent = [name for name in train if name not in counts]
        if absent:
            findings.warnings.append(
                f"{split}: no rows of {listing(absent, 5)}; nothing can be said about them there"
            )


def _joined_labels(counts: Mapping[str, int]) -> list[str]:
    """Warn of classes that are several others joined, such as `a;b` beside `a` and `b`."""
    for separator in (";", "|", ","):
        joined = [
            name
            for name in counts
            if separator in name and all(part.strip() in counts for part in name.split(separator))
        ]
        if joined:
            return [
                f"train: {len(joined)} classes are others joined by {separator!r}: {listing(joined, 3)}. "
                f'Where a row has several labels, write data.label_separator: "{separator}"'
            ]
    return []
