"""Make the splits train, validation and test: take those of the source, and draw the others from train."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_ft.data.class_folders import ROW_ID
from hf_ft.data.columns import read_table
from hf_ft.data.labels import are_amounts, count_classes, name_of, require_names
from hf_ft.data.split_sampling import draw_distinct, draw_groups, draw_latest, draw_sample
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing, split_of, text_digest

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from hf_ft.data.split_sampling import Draw
    from hf_ft.recipe.schema import DataSection, SplitSection
    from hf_ft.task import Role


@dataclass
class Splits:
    """The splits of a run.

    Args:
        tables: `train`, `validation` and, if there is one, `test`, in this order.
        info: JSON values for data.json: origin, size, class counts and hash of the row ids of each split,
            columns, seed and notes.
    """

    tables: dict[str, Table]
    info: dict[str, Any] = field(default_factory=dict)


def make_splits(
    sources: Mapping[str, Dataset],
    section: DataSection,
    roles: Mapping[str, Role],
    seed: int,
    class_role: str | None,
    times: Callable[[Table], np.ndarray | None] = lambda table: None,
) -> Splits:
    """Make the splits of a run from the splits of its source.

    A split that the source has is used as it is, whatever share the recipe asks for. The others are drawn
    from train, first test and then validation; their shares refer to all training rows of the source.

    Args:
        sources: name of the split in the source -> rows.
        section: the section `data` of the recipe.
        roles: the task's roles.
        seed: random seed of every draw.
        class_role: role of the classes whose proportions are preserved, or None; amounts (3.25) are ignored.
        times: returns the time of each row of a table if its rows are steps in time, else None. Such rows are
            always split by time.

    Raises:
        DataError: columns, ids, splits or groups do not fit the recipe, or there are too few rows.
    """
    chosen, unused = _assign(sources, section.split)
    tables = {split: read_table(sources[name], name, split, section, roles) for split, name in chosen.items()}
    labelled = class_role is not None and tables["train"].has(class_role)
    for split, table in tables.items() if labelled else ():
        require_names(table, str(class_role), split)
    if labelled and are_amounts(tables["train"].column(str(class_role))):
        class_role = None
    info: dict[str, Any] = {
        "seed": seed,
        "columns": tables["train"].columns,
        "by": section.split.by,
        "unused": unused,
        "splits": {},
        "notes": [],
    }
    origin = {split: f"given by the source as {name!r}" for split, name in chosen.items()}
    tables["train"] = _select_range(tables["train"], section.rows)
    train, total = tables["train"], len(tables["train"])
    for split in ("test", "validation"):
        amount = getattr(section.split, split)
        if split in tables or amount is None:
            continue
        key = f"data.split.{split}"
        rows = _count_rows(amount, total, len(train), key)
        (left, drawn), notes = _draw(train, rows, section.split, seed, class_role, key, times, roles)
        tables[split], train = train.select(drawn.tolist()), train.select(left.tolist())
        info["notes"] += notes
        origin[split] = f"drawn from train: {len(drawn)} of {total} rows (asked for: {amount})"
    if "validation" not in tables:
        raise DataError(
            "data.split.validation is null and the source gives no validation split; the best checkpoint "
            "is chosen on validation: set data.split.validation: 0.1"
        )
    tables["train"] = train
    for split, asked in section.limits.items():
        if split not in tables:
            raise DataError(
                f"data.limit.{split}: there is no {split} split (splits: {listing(tables)}); remove the key"
            )
        tables[split], note = _limit(tables[split], split, asked, section, seed, class_role, times)
        info["notes"].append(note)
    tables = {split: tables[split] for split in ("train", "validation", "test") if split in tables}
    _check_ids(tables, section.id)
    if section.split.by not in (None, "time"):
        _check_groups(tables, str(section.split.by))
    for split, table in tables.items():
        info["splits"][split] = {"origin": origin[split], "rows": len(table), "ids": hash_ids(table.ids)}
        if class_role is not None and table.has(class_role):
            info["splits"][split]["classes"] = count_classes(table.column(class_role))
    return Splits(tables, info)


def hash_ids(ids: Sequence[str]) -> str:
    """Hash row ids in their order; two runs used the same rows if the hashes are equal."""
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


def _assign(sources: Mapping[str, Dataset], split: SplitSection) -> tuple[dict[str, str], list[str]]:
    """Decide which splits of the source become train, validation and test.

    Returns:
        Split -> name of the split in the source, and the names of the splits that are not used.
    """
    usual: dict[str, str] = {}
    for name in sources:
        canonical = split_of(name)
        # If the source has both `validation` and `val`, `validation` is used.
        if canonical and (canonical not in usual or name == canonical):
            usual[canonical] = name
    if "train" not in usual:
        raise DataError(
            f"data.source: found the splits {listing(sources)}, but none is named train; name it with "
            "data.source: {train: ...}"
        )
    chosen = {"train": usual["train"]}
    for key in ("validation", "test"):
        wanted = getattr(split, key)
        if not isinstance(wanted, str):
            continue
        name = wanted if wanted in sources else usual.get(split_of(wanted) or "", "")
        if not name:
            raise DataError(
                f"data.split.{key}: the source has no split {wanted!r}{hint(wanted, sources)} "
                f"(splits found: {listing(sources)})"
            )
        if name in chosen.values():
            raise DataError(
                f"data.split.{key}: the split {name!r} of the source is already used for another purpose."
            )
        chosen[key] = name
    for key in ("validation", "test"):
        if key not in chosen and key in usual and usual[key] not in chosen.values():
            chosen[key] = usual[key]
    return chosen, [name for name in sources if name not in chosen.values()]


def _check_ids(tables: Mapping[str, Table], column: str | None) -> None:
    counts = Counter(row for table in tables.values() for row in table.ids)
    twice = [f"{row} ({count} times)" for row, count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"data.id: the values of {column or ROW_ID!r} do not name the rows uniquely: {listing(twice, 5)}"
        )


def _check_groups(tables: Mapping[str, Table], by: str) -> None:
    groups = {split: set(map(str, _groups(table, by))) for split, table in tables.items()}
    names = list(groups)
    lines = [
        f"{first} and {second} share {len(shared)} ({listing(sorted(shared), 3)})"
        for position, first in enumerate(names)
        for second in names[position + 1 :]
        if (shared := groups[first] & groups[second])
    ]
    if lines:
        raise DataError(
            f"data.split.by: values of {by!r} occur in several of the splits that the source gives: "
            f"{'; '.join(lines)}. Give only train as the source, so that whole groups are drawn, or remove "
            "data.split.by."
        )


def _groups(table: Table, by: str) -> list[Any]:
    if not table.has(by):
        names = table.dataset.column_names
        raise DataError(
            f"data.split.by: there is no column {by!r}{hint(by, names)} (found columns: {listing(names)})"
        )
    values = table.column(by)
    missing = [row for row, value in zip(table.ids, values, strict=True) if value is None]
    if missing:
        raise DataError(f"data.split.by: {len(missing)} rows have no {by!r}: {listing(missing, 5)}")
    return values


def _count_rows(amount: float | int, total: int, left: int, key: str) -> int:
    """Turn the size of a split, a share of `total` or a number, into a number of rows less than `left`."""
    rows = amount if isinstance(amount, int) else max(1, round(amount * total))
    if rows >= left:
        raise DataError(
            f"{key}: {amount} of the training rows is {rows} rows, but there are only {left} to draw from."
        )
    return rows


def _select_range(table: Table, rows: list[int] | None) -> Table:
    """Return the rows of `data.rows` (first, end); None: all rows."""
    if rows is None:
        return table
    if not 0 <= rows[0] < rows[1] <= len(table):
        raise DataError(
            f"data.rows: {rows} is not a range of the {len(table)} training rows; expected [first, end]"
        )
    return table.select(range(*rows))


def _draw(
    table: Table,
    rows: int,
    split: SplitSection,
    seed: int,
    class_role: str | None,
    key: str,
    times: Callable[[Table], np.ndarray | None],
    roles: Mapping[str, Role],
) -> tuple[Draw, list[str]]:
    """Draw about `rows` rows; return the draw, and notes about it for data.json."""
    moments = times(table)
    if moments is not None and split.by not in (None, "time"):
        raise DataError(
            f"data.split.by: the rows are steps in time, so a split by {split.by!r} would let the model see "
            "the future; remove the key"
        )
    if moments is not None or split.by == "time":
        return draw_latest(_times(table) if moments is None else moments, rows), []
    classes, notes = _classes(table, class_role, split.stratify)
    if split.by is not None:
        groups = [str(value) for value in _groups(table, split.by)]
        return draw_groups(rows, groups, classes, seed, key), notes
    single = [name for name, count in Counter(classes).items() if count == 1]
    if single:
        notes.append(f"{key}: classes with one row stay in train: {listing(single)}")
    first = _first_equal(table, roles)
    if repeated := int((first != range(len(first))).sum()):
        notes.append(
            f"{repeated} of {len(table)} training rows are equal to an earlier row: "
            "equal rows stay in one split"
        )
    return draw_distinct(first, rows, classes, seed, key), notes


def _first_equal(table: Table, roles: Mapping[str, Role]) -> np.ndarray:
    """Return for each row the position of the first row with equal texts, int [N].

    If the inputs are not all text, rows are not compared, and each row is its own first.
    """
    import numpy as np
    from datasets import Value

    inputs = [name for name, role in roles.items() if not role.target and table.has(name)]
    columns = [part for name in inputs for part in _as_list(table.columns[name])]
    kinds = [table.dataset.features[column] for column in columns]
    if not kinds or any(kind not in (Value("string"), Value("large_string")) for kind in kinds):
        return np.arange(len(table))
    places: dict[str, int] = {}
    rows = zip(*(table.column(column) for column in columns), strict=True)
    digests = (text_digest(map(str, texts)) for texts in rows)
    return np.asarray([places.setdefault(digest, row) for row, digest in enumerate(digests)])


def _as_list(column: str | list[str]) -> list[str]:
    return [column] if isinstance(column, str) else column


def _classes(table: Table, class_role: str | None, stratify: bool) -> tuple[list[str] | None, list[str]]:
    """Return the class of each row, or None if class proportions are not preserved; and notes."""
    if class_role is None or not stratify or not table.has(class_role):
        return None, []
    values = table.column(class_role)
    if any(isinstance(value, (list, tuple)) for value in values):
        return None, ["rows have several labels each: they are drawn without preserving class proportions"]
    return [str(name_of(value)) for value in values], []


def _times(table: Table) -> np.ndarray:
    """Return the timestamps of the rows as numbers, [N]."""
    import numpy as np
    import pandas

    if not table.has("timestamp"):
        names = table.dataset.column_names
        raise DataError(
            "data.split.by: time needs a time column: name it in data.columns.timestamp, or call it "
            f"`timestamp`. Found columns: {listing(names)}"
        )
    values = pandas.Series(table.column("timestamp"))
    if not pandas.api.types.is_numeric_dtype(values):
        try:
            values = pandas.to_datetime(values, utc=True)
        except ValueError as error:
            raise DataError(f"data.split.by: time: cannot read a timestamp: {error}") from error
    missing = [table.ids[index] for index in np.flatnonzero(values.isna())]
    if missing:
        raise DataError(f"data.split.by: time: {len(missing)} rows have no timestamp: {listing(missing, 5)}")
    kind = "float64" if pandas.api.types.is_float_dtype(values) else "int64"
    return np.asarray(values.astype(kind))


def _limit(
    table: Table,
    split: str,
    asked: float | int,
    section: DataSection,
    seed: int,
    class_role: str | None,
    times: Callable[[Table], np.ndarray | None],
) -> tuple[Table, str]:
    """Draw the sample of a split that `data.limit` asks for; return it and a note for data.json.

    Of training rows that are split by time, the latest are used, because validation follows them in time.
    """
    key = f"data.limit.{split}" if isinstance(section.limit, dict) else "data.limit"
    total, kind = len(table), "training" if split == "train" else split
    of = f"of {total} {kind} rows"
    rows = asked if isinstance(asked, int) else max(1, round(asked * total))
    if rows >= total:
        return table, f"{key}: {asked} uses all {total} {kind} rows"
    moments = times(table)
    if moments is not None and split != "train":
        raise DataError(
            f"{key}: the rows are steps in time, and a sample would leave gaps in the series; remove the "
            "key. For fewer windows set task.eval_stride, or ask for a smaller split in data.split"
        )
    if split == "train" and (moments is not None or section.split.by == "time"):
        latest = draw_latest(_times(table) if moments is None else moments, rows)[1][-rows:]
        return table.select(latest.tolist()), f"{key}: the latest {rows} {of}"
    classes, _ = _classes(table, class_role, section.split.stratify)
    drawn = draw_sample(total, rows, classes, seed, key)
    return table.select(drawn.tolist()), f"{key}: a sample of {rows} {of}"
