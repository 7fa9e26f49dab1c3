"""The audit: inspect every row before training, and report bad rows, duplicates and class imbalance."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.duplicates import EARLIER, LATER, Duplicates, find_duplicates, rows_in_other_splits
from hf_ft.data.labels import count_classes
from hf_ft.data.table import Table
from hf_ft.errors import AuditError, DataError
from hf_ft.processor_cores import usable_cores
from hf_ft.storage.atomic import new_file, read_json, write_json
from hf_ft.storage.row_hash import FileState, SplitRecord, find_record, hash_row, hash_values, save_record
from hf_ft.storage.source_hash import task_source_hash
from hf_ft.task import Inspection
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hf_ft.task import Task

# With a larger share of bad rows, leaving them out would change what the model learns.
MOST_SKIPPED = 0.01
# With a larger share of rows that are in another split too, the metrics of a split mean nothing.
MOST_DUPLICATES = 0.01
# The audit warns if the largest class has more than this many times the rows of the smallest.
IMBALANCE = 10
_CHUNK = 256
# How other programs write a missing value; in a column of text it is a text.
_MISSING = ("nan", "NaN", "NAN", "None", "null", "NULL", "N/A", "#N/A", "<NA>", "NaT")


@dataclass
class Findings:
    """The result of the audit.

    Args:
        errors: one line for each problem that must be corrected before training.
        warnings: one line for each problem that a person should look at.
        bad: rows that cannot be used: {"split", "id", "reason"}.
        counts: split -> number of rows.
        classes: split -> class -> number of usable rows; empty if the task has no classes.
        duplicates: the rows that occur twice.
        traits: split -> name of a trait of the input -> ids of the usable rows that have it.
        fingerprints: split -> hash of the ids and contents of its rows.
        contents: split -> hash of everything that its rows hold, including targets and spelling.
        cached: whether the inspections were read from the cache, so that no row was decoded again.
        left_out: split -> id of a row that is left out because it is equal to a row of a later split -> id of
            that row; with `data.duplicates: drop_from_train`.
        seen: split -> id of a row that is equal to a row of an earlier split -> id of that row; with
            `data.duplicates: report`.
        decisions: one line for each decision about the rows; they are copied to data.json.
        notes: lines that `check` adds about the model: one training step, time and memory.
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
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: dict[str, dict[str, str]] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def raise_for_errors(self) -> None:
        """Raise an AuditError that lists all errors, if there are any."""
        if self.errors:
            raise AuditError(self)

    def table(self) -> RenderableType:
        """Return a table for `rich` to print: rows and classes per split, then warnings, errors and notes."""
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
    duplicates: str = "error",
) -> Findings:
    """Inspect every row of every split, in threads, before the task is fitted.

    Args:
        task: its `inspect` is called for each row.
        examples: split -> rows with `len`, `[index] -> Row` and `ids`.
        on_bad: `error`: a row that cannot be used is an error; `skip`: it is left out, up to 1 % of a split.
        cache_dir: folder where inspections are stored under a hash of the rows; None: they are not stored.
        duplicates: `data.duplicates`: what becomes of equal rows in two splits.

    Raises:
        DataError: `duplicates` has no effect, because the task does not compare rows.
    """
    findings = Findings(counts={split: len(rows) for split, rows in examples.items()})
    inspected: dict[str, _InspectedSplit] = {}
    for split, rows in examples.items():
        inspected[split] = _inspect_split(task, rows, cache_dir)
        findings.fingerprints[split] = inspected[split].fingerprint
        findings.contents[split] = inspected[split].content
    findings.cached = all(one.cached for one in inspected.values())
    inspections = {split: one.inspections for split, one in inspected.items()}
    ids = {split: rows.ids for split, rows in examples.items()}
    for split, entries in inspections.items():
        problems = {index: one.problem for index, one in enumerate(entries) if one.problem is not None}
        add_bad_rows(findings, split, ids[split], problems, on_bad)
    labels = _labels(task, examples)
    if duplicates != "error":
        _require_digests(task, inspections, duplicates)
    if duplicates == "drop_from_train":
        _leave_out_duplicates(findings, ids, inspections, labels)
        gone = {name for found in findings.left_out.values() for name in found}
        inspections = {split: _kept(entries, ids[split], gone) for split, entries in inspections.items()}
        labels = {split: _kept(values, ids[split], gone) for split, values in labels.items()}
        ids = {split: _kept(names, names, gone) for split, names in ids.items()}
    elif duplicates == "report":
        findings.seen = rows_in_other_splits(ids, inspections, EARLIER)
    findings.traits = {split: _with_traits(ids[split], entries) for split, entries in inspections.items()}
    findings.warnings += _trait_warnings(task, findings)
    findings.duplicates = find_duplicates(ids, inspections, labels)
    for pair in findings.duplicates:
        _judge_duplicates(findings, pair, duplicates)
    return findings


def _labels(task: Task, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the label of each row of each split; empty where a task has no classes or rows no labels."""
    role = task.class_role
    if role is None or not all(isinstance(rows, Table) and rows.has(role) for rows in examples.values()):
        return {}
    return {split: rows.column(role) for split, rows in examples.items()}


def write_bad(bad: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write bad rows to a CSV file with the columns split, id and reason."""
    with new_file(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["split", "id", "reason"])
        writer.writeheader()
        writer.writerows(bad)


# Inspecting rows


@dataclass(frozen=True)
class _InspectedSplit:
    """The inspections of the rows of one split, in order, and hashes of the rows.

    Args:
        inspections: one per row.
        cached: whether the inspections were read from the cache.
        fingerprint: as for `Findings.fingerprints`.
        content: as for `Findings.contents`.
    """

    inspections: list[Inspection]
    cached: bool
    fingerprint: str
    content: str


def _inspect_split(task: Task, rows: Any, cache_dir: str | os.PathLike[str] | None) -> _InspectedSplit:
    """Inspect all rows of a split, or read what an earlier run with the same rows and code found."""
    code, folder = task_source_hash(task), None if cache_dir is None else Path(cache_dir)
    record = None if folder is None else find_record(folder, rows, code)
    if folder is not None and record is not None:
        found = _read_inspections(folder / record.audit, len(rows))
        if found is not None:
            return _InspectedSplit(found, True, record.fingerprint, record.audit)
    files: dict[str, FileState] = {}
    hashes, values = [], []
    for index in range(len(rows)):
        named: dict[str, FileState] = {}
        row = rows[index]
        hashes.append(hash_row(row, named))
        values.append(hash_values(row) if named else hashes[-1])
        files |= named
    state = hashlib.blake2b(b"".join([code.encode(), *hashes]), digest_size=16)
    name = f"audit-{state.hexdigest()}.json"
    stored = None if folder is None else _read_inspections(folder / name, len(rows))
    cached = stored is not None
    inspections = _inspect_all(task, rows) if stored is None else stored
    fingerprint = hashlib.blake2b(digest_size=16)
    for row_id, entry, row_hash, value_hash in zip(rows.ids, inspections, hashes, values, strict=True):
        # A digest of what was read is the same wherever the files lie; the labels are in the values.
        content = row_hash.hex() if entry.digest is None else f"{value_hash.hex()} {entry.digest}"
        fingerprint.update(f"{row_id}\0{content}\n".encode("utf-8", "surrogatepass"))
    if folder is not None:
        # If the disk fails, the next run inspects the rows again.
        with suppress(OSError):
            if not cached:
                write_json(folder / name, [asdict(entry) for entry in inspections])
            save_record(folder, rows, code, SplitRecord(name, fingerprint.hexdigest(), files))
    return _InspectedSplit(inspections, cached, fingerprint.hexdigest(), name)


def _inspect_all(task: Task, rows: Any) -> list[Inspection]:
    inspections: list[Inspection] = []
    # Threads and not processes: decoders release the interpreter lock, and forking beside torch is unsafe.
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = [rows[index] for index in range(start, min(start + _CHUNK, len(rows)))]
            inspections += pool.map(task.inspect, chunk)
    return inspections


def _read_inspections(path: Path, rows: int) -> list[Inspection] | None:
    """Read the inspections of this number of rows; None if the file is missing or damaged."""
    found = read_json(path, list)
    try:
        return [Inspection(**entry) for entry in found] if found is not None and len(found) == rows else None
    except TypeError:
        return None


# Equal rows in two splits


def _require_digests(task: Task, inspections: Mapping[str, Sequence[Inspection]], setting: str) -> None:
    """Refuse `data.duplicates` where the task does not compare rows, such as windows of one series."""
    usable = [entry for entries in inspections.values() for entry in entries if entry.problem is None]
    if usable and all(entry.digest is None for entry in usable):
        raise DataError(
            f"data.duplicates: {setting} has no effect, because the rows of {task.name} are not compared "
            "with each other; remove the key"
        )


def _leave_out_duplicates(
    findings: Findings,
    ids: Mapping[str, Sequence[str]],
    inspections: Mapping[str, Sequence[Inspection]],
    labels: Mapping[str, Sequence[Any]],
) -> None:
    """Find the rows that `drop_from_train` leaves out, and say which.

    The later split keeps its row: test stays as it is given, so that its figure can be compared with others.
    """
    findings.left_out = rows_in_other_splits(ids, inspections, LATER)
    label_of = {
        name: str(label) for split in labels for name, label in zip(ids[split], labels[split], strict=True)
    }
    for split, rows in findings.left_out.items():
        pairs = [f"{one} = {other}" for one, other in rows.items()]
        text = (
            f"{split}: {len(rows)} of {findings.counts[split]} rows are left out (data.duplicates: "
            f"drop_from_train), because {' or '.join(LATER[split])} has an equal row: {listing(pairs, 5)}"
        )
        other_label = [name for name, twin in rows.items() if label_of.get(name) != label_of.get(twin)]
        if other_label:
            text += f"; {len(other_label)} of them have another label there: {listing(other_label, 5)}"
        findings.decisions.append(text)


def _kept(values: Sequence[Any], ids: Sequence[str], gone: Collection[str]) -> list[Any]:
    """Return the values of the rows that are not left out."""
    return [value for value, name in zip(values, ids, strict=True) if name not in gone]


# Judging the inspections


def add_bad_rows(
    findings: Findings, split: str, ids: Sequence[str], problems: Mapping[int, str], on_bad: str
) -> None:
    """Add bad rows to the findings, with an error that stops the run or a warning that they are left out.

    Args:
        findings: changed in place.
        split: name of the split.
        ids: ids of all rows of the split.
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
    can_skip = sum(entry["split"] == split for entry in findings.bad) <= MOST_SKIPPED * total
    if len(problems) == total:
        other = " If this split has no labels, name another one in data.split.test." * (split == "test")
        findings.errors.append(f"{text}. Do task, task.problem and data.columns fit these rows?{other}")
    elif on_bad == "error":
        skip = ", or set data.on_bad: skip" if can_skip else ""
        findings.errors.append(f"{text}. Correct or remove them{skip}")
    elif not can_skip:
        findings.errors.append(f"{text}. data.on_bad: skip leaves out at most {MOST_SKIPPED:.0%}")
    else:
        findings.warnings.append(f"{text}. They are left out (data.on_bad: skip)")


def usable_rows(examples: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return split -> rows without the bad rows of the findings, and without those that are left out."""
    bad = {entry["id"] for entry in findings.bad} | {
        name for rows in findings.left_out.values() for name in rows
    }
    affected = {entry["split"] for entry in findings.bad} | set(findings.left_out)
    return {
        split: rows.select([index for index, row_id in enumerate(rows.ids) if row_id not in bad])
        if split in affected
        else rows
        for split, rows in examples.items()
    }


def _with_traits(ids: Sequence[str], inspections: Sequence[Inspection]) -> dict[str, list[str]]:
    """Return name of a trait -> ids of the usable rows that have it."""
    found: dict[str, list[str]] = {}
    for row_id, inspection in zip(ids, inspections, strict=True):
        for trait in inspection.traits if inspection.problem is None else ():
            found.setdefault(trait, []).append(row_id)
    return found


def _trait_warnings(task: Task, findings: Findings) -> list[str]:
    """Return one warning for each trait that rows have and that a user should know about."""
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
    """Remove the id of the row from the start of a problem, because the message shows the id anyway."""
    return re.sub(rf"^row {re.escape(row_id)}[,:] ", "", problem)


def _judge_duplicates(findings: Findings, found: Duplicates, setting: str) -> None:
    """Add an error if too many equal rows are in two splits, and a warning for all other duplicates."""
    split, other = found.splits
    where = "occur again in it" if split == other else f"are in {other} too"
    sign = "=" if found.kind == "equal" else "~"
    # `examples` holds a few pairs only, so their number is not shown.
    pairs = ", ".join(f"{one} {sign} {two}" for one, two in found.examples[:3])
    pairs += " and more" if len(found.examples) > 3 else ""
    if found.contradictory:
        one, two = found.contradictory[0]
        pairs += f"; equal inputs have different labels, as in {one} and {two}: correct one of them"
    text = f"{split}: {found.rows} rows ({found.share:.2%}) {where}, {found.kind}: {pairs}"
    shared = found.kind == "equal" and split != other
    if shared and setting == "report":
        findings.warnings.append(f"{text}. They are kept (data.duplicates: report)")
    elif shared and found.share > MOST_DUPLICATES:
        findings.errors.append(
            f"{text}. Metrics would be measured on rows seen in training: remove the duplicates, or keep "
            "rows that belong together in one split with data.split.by. Where the splits are given, "
            "data.duplicates: drop_from_train leaves them out of train, and data.duplicates: report keeps "
            "them and measures without them, too"
        )
    else:
        findings.warnings.append(text)


def judge_classes(
    findings: Findings, classes: Mapping[str, Sequence[Any]], *, balanced: bool = False
) -> None:
    """Count the classes of every split; warn of imbalance in train and of classes that a split lacks.

    Args:
        findings: changed in place.
        classes: split -> the label, or the list of labels, of each row.
        balanced: whether the recipe already weights the loss or the sampler by class frequency; then the
            audit does not warn of imbalance.
    """
    findings.classes = {split: count_classes(values) for split, values in classes.items()}
    train = findings.classes["train"]
    most, least = max(train.values()), min(train.values())
    findings.warnings += _joined_labels(train) + _missing_labels(train)
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
                f"{split}: no rows of {listing(absent, 5)}; the metrics of this split say nothing about them"
            )


def _joined_labels(counts: Mapping[str, int]) -> list[str]:
    """Warn if classes are several other classes joined, such as `a;b` beside `a` and `b`."""
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


def _missing_labels(counts: Mapping[str, int]) -> list[str]:
    """Warn of a class that is named as other programs write a missing value."""
    found = [f"{name!r} ({count} rows)" for name, count in counts.items() if name in _MISSING]
    question = "if this means that there is no label, label or remove these rows"
    return [f"train: there is a class {listing(found)}; {question}"] if found else []
