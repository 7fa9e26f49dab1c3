"""Read every kind of `data.source` into `datasets.Dataset`s with undecoded media and class names.

Media columns hold {"bytes", "path"}. Class labels are turned from ids into names, because two splits may
number the same classes in a different order (ds PR#2457).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.class_folders import ROW_ID, read_class_folders, visible
from hf_ft.data.datasets_cache import cache_named
from hf_ft.data.files import download, format_of, from_frame, from_records, read_files
from hf_ft.data.hub_lookup import did_you_mean, why_not_on_hub
from hf_ft.data.parquet_files import first_line
from hf_ft.data.plain_columns import with_plain_columns
from hf_ft.data.samples import data_samples, sample_data
from hf_ft.errors import DataError, HfFtError
from hf_ft.recipe.schema import IN_MEMORY
from hf_ft.text_utils import hint, listing, media_kind, natural_key, split_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.recipe.schema import DataSection

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def read_source(section: DataSection) -> dict[str, Dataset]:
    """Read `data.source` of any kind.

    Args:
        section: the section `data` of the recipe.

    Returns:
        Name of the split in the source -> rows. Image, audio and video columns are undecoded
        {"bytes", "path"}; ClassLabel columns hold names, or None for the label -1.

    Raises:
        DataError: the source cannot be read or has no rows; the message lists what was found.
    """
    with _quiet():
        if isinstance(section.source, str):
            found = _read_one(section.source, section)
        else:
            found = {split: _read_split(split, path, section) for split, path in section.source.items()}
        empty = [split for split, rows in found.items() if not len(rows)]
        if empty or not found:
            raise DataError(
                f"data.source: {section.source!r} gives no rows in {listing(empty) or 'any split'}."
            )
        return {str(split): with_plain_columns(rows) for split, rows in found.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Disable the progress bars of `datasets` inside the block."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _read_split(split: str, source: str, section: DataSection) -> Dataset:
    """Read the source of one split, where `data.source` maps splits to sources."""
    found = _read_one(source, section)
    if split in found:
        rows = found[split]
    elif len(found) == 1:
        rows = next(iter(found.values()))
    else:
        raise DataError(
            f"data.source.{split}: {source!r} holds the splits {listing(found)} and none of them is "
            f"{split!r}; name one file or folder."
        )
    if ROW_ID in rows.column_names:
        ids = [f"{split}/{name}" for name in rows[ROW_ID]]
        rows = rows.remove_columns(ROW_ID).add_column(ROW_ID, ids)
    return rows


def _read_one(source: str, section: DataSection) -> dict[str, Dataset]:
    try:
        return _read_any(source, section)
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"data.source: cannot read {source!r}: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(
                f"data.source: no file can have the name {source[:60]!r}...: {error.strerror}"
            ) from error
        raise


def _read_any(source: str, section: DataSection) -> dict[str, Dataset]:
    if source == IN_MEMORY:
        raise DataError(
            "data.source: this recipe was run on rows from Python (data=...); pass data=... again, or write "
            "the rows to a file and name that file here"
        )
    if source.startswith("sample:"):
        return sample_data(source.removeprefix("sample:"))
    if source.startswith("py:"):
        return _read_python(source)
    if source.startswith(("https://", "http://")):
        return {"train": read_files([download(source)])}
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, section)
    if path.is_file():
        return {"train": read_files([str(path)])}
    if glob.has_magic(source):
        files = sorted(glob.glob(str(path), recursive=True), key=natural_key)
        if not files:
            raise DataError(f"data.source: no file matches {source!r} (current folder: {os.getcwd()}).")
        return _read_many(files, Path(os.path.commonpath([os.path.dirname(file) for file in files])))
    if on_hub(source):
        return _read_hub(source, section)
    raise DataError(
        f"data.source: there is no file or folder {source!r} (current folder: {os.getcwd()})"
        f"{_nearest_sibling(path)}"
    )


def on_hub(source: str) -> bool:
    """Tell whether a source is the id of a data set on the Hub, and not a local file or folder."""
    return bool(_HUB_ID.fullmatch(source)) and format_of(source) is None and not Path(source).exists()


def _nearest_sibling(path: Path) -> str:
    parent = path.parent
    return hint(path.name, [entry.name for entry in parent.iterdir()]) if parent.is_dir() else ""


def _read_folder(root: Path, section: DataSection) -> dict[str, Dataset]:
    if _declares_configs(root):
        return _load(str(root), section, revision=None)
    files = [
        str(path)
        for path in sorted(root.rglob("*"), key=lambda path: natural_key(str(path)))
        if path.is_file()
        and format_of(path.name)
        and not any(part[0] == "." for part in path.relative_to(root).parts)
    ]
    if section.config is not None:
        raise DataError(
            f"data.config: {root} declares no configurations in a README.md; remove data.config, or name a "
            "file."
        )
    beside = [file for file in files if any(map(media_kind, os.listdir(os.path.dirname(file))))]
    if any(Path(file).parent != root for file in beside):
        raise DataError(
            f"data.source: {root} holds tables beside pictures or other media ({listing(beside, 3)}), so it "
            "may be a table or class folders; name the table as data.source, or move it out of the class "
            "folders."
        )
    if files:
        return _read_many(files, root)
    if not visible(root):
        raise DataError(f"data.source: the folder {root} is empty.")
    return read_class_folders(root)


def _declares_configs(root: Path) -> bool:
    """Tell whether the folder's README.md has a YAML header with `configs:`, as data sets on the Hub have."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    readme = root / "README.md"
    if not readme.is_file():
        return False
    header = re.match(r"---\r?\n(.*?\n)---\s*(\n|$)", readme.read_text(encoding="utf-8"), re.DOTALL)
    if header is None:
        return False
    try:
        declared = YAML(typ="safe").load(StringIO(header[1]))
    except YAMLError as error:
        raise DataError(f"data.source: the header of {readme} is not YAML: {error}") from error
    return isinstance(declared, dict) and "configs" in declared


def _read_many(files: Sequence[str], root: Path) -> dict[str, Dataset]:
    """Read files, each into the split that its name contains (`test-00001.parquet`, `val/part.csv`)."""
    groups: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[\W_]+", str(Path(file).relative_to(root)))
        named = {split for word in words if (split := split_of(word))}
        if len(named) > 1:
            raise DataError(
                f"data.source: {file} is named like several splits; write source: {{train: ..., test: ...}}."
            )
        groups.setdefault(next(iter(named), ""), []).append(file)
    unnamed = groups.pop("", [])
    if unnamed and groups:
        raise DataError(
            f"data.source: it is not clear which split {listing(unnamed, 3)} belongs to, beside files for "
            f"{listing(groups)}; write source: {{train: ..., test: ...}}."
        )
    return {split: read_files(paths) for split, paths in (groups or {"train": unnamed}).items()}


def _read_hub(source: str, section: DataSection) -> dict[str, Dataset]:
    reason = why_not_on_hub(source, "data set", section.revision)
    if reason is not None:
        near = did_you_mean(source, {"sample:{}": data_samples(), "{!r}, which is here": os.listdir()})
        raise DataError(
            f"data.source: there is no file or folder {source!r} (current folder: {os.getcwd()}), "
            f"and {reason}{near}"
        )
    try:
        return _load(source, section, section.revision)
    except (OSError, RuntimeError) as error:
        if "script" in str(error):
            raise DataError(
                f"data.source: {source!r} is defined by a Python script, which `datasets` no longer runs. "
                "The Hub keeps a Parquet copy of many such sets: set data.revision: refs/convert/parquet"
            ) from error
        raise DataError(
            f"data.source: {source!r} is not a file or folder (current folder: {os.getcwd()}) and could "
            f"not be read from the Hub: {str(error).strip()}"
        ) from error


def _load(source: str, section: DataSection, revision: str | None) -> dict[str, Dataset]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        with cache_named():
            return dict(load_dataset(source, name=section.config, revision=revision))
    except (ValueError, DatasetGenerationError) as error:
        cause = error if isinstance(error, ValueError) else first_line(error)
        raise DataError(
            f"data.source: cannot read {source!r} with data.config {section.config!r}: {cause}"
        ) from error


def _read_python(source: str) -> dict[str, Dataset]:
    """Call the function of `py:package.module:function` and read the rows that it returns."""
    module_name, _, name = source.removeprefix("py:").partition(":")
    if not module_name or not name:
        raise DataError(f"data.source: {source!r} is not of the form py:package.module:function")
    with _as_data_error(source):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise DataError(
                f"data.source: cannot import {module_name!r} ({error}); is it on PYTHONPATH?"
            ) from error
        if name not in vars(module):
            raise DataError(f"data.source: {module_name} has no function {name!r}{hint(name, vars(module))}")
        rows = vars(module)[name]()
    return as_datasets(rows, f"data.source: {source}")


@contextlib.contextmanager
def _as_data_error(source: str) -> Iterator[None]:
    """Say that a user's own code failed, and where; `sys.exit(0)` would end a run as if it had succeeded."""
    try:
        yield
    except HfFtError:
        raise
    except (Exception, SystemExit) as error:  # the code is the user's, and may raise anything
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"data.source: the code of {source!r} raised {type(error).__name__} ({error}) in "
            f"{last.filename}, line {last.lineno}; correct it"
        ) from error


def rows_in_memory(data: Any) -> dict[str, Dataset]:
    """Read rows that are passed in Python as `data=`, into the same form as `read_source`.

    Args:
        data: as for `as_datasets`.

    Raises:
        DataError: `data` has another type, or no rows.
    """
    found = {split: with_plain_columns(rows) for split, rows in as_datasets(data, "data=").items()}
    empty = [split for split, rows in found.items() if not len(rows)]
    if empty or not found:
        raise DataError(f"data=: there are no rows in {listing(empty) or 'any split'}")
    return found


def as_datasets(data: Any, name: str) -> dict[str, Dataset]:
    """Turn rows in memory into data sets.

    Args:
        data: a Dataset, a DataFrame or a list of dicts, which is the split `train`; or split -> one of these.
        name: what the rows are called in messages.

    Raises:
        DataError: `data` has another type.
    """
    import pandas
    from datasets import Dataset

    if isinstance(data, Mapping):
        return {str(split): _rows_of_split(rows, f"{name}[{split!r}]") for split, rows in data.items()}
    if isinstance(data, Dataset):
        return {"train": data}
    if isinstance(data, pandas.DataFrame):
        return {"train": from_frame(data, name)}
    if isinstance(data, list):
        return {"train": from_records(data, name)}
    raise DataError(
        f"{name}: found {type(data).__name__}; expected a Dataset, a DataFrame, a list of dicts, or a dict "
        "of these by split."
    )


def _rows_of_split(data: Any, name: str) -> Dataset:
    if isinstance(data, Mapping):
        raise DataError(
            f"{name}: found the splits {listing(data)}; expected rows, not splits inside a split."
        )
    return as_datasets(data, name)["train"]
