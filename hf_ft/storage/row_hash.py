"""Hashes of raw rows, and records of earlier runs that are found again without hashing every row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.storage.atomic import read_json, write_json
from hf_ft.text_utils import media_kind

if TYPE_CHECKING:
    from hf_ft.task import Row

# A list with an element of these types is hashed element by element; a list of numbers is hashed at once.
_NESTED_TYPES = (dict, list, tuple, bytes, str)

# Version of what a record holds; another version is not read.
RECORD = "2"

# Size of a file in bytes, time of its last change of content (mtime) and of its entry (ctime) in
# nanoseconds; None if there is no file.
FileState = tuple[int, int, int] | None


@dataclass(frozen=True)
class SplitRecord:
    """The result of an earlier audit of a split.

    Args:
        audit: name of the file that holds the inspection of each row.
        fingerprint: hash of the ids and contents of the rows.
        files: path -> state of each file that the rows name, at the time when the rows were hashed.
    """

    audit: str
    fingerprint: str
    files: Mapping[str, FileState]


def hash_row(row: Row, files: dict[str, FileState] | None = None) -> bytes:
    """Hash the content of a raw row, 16 bytes.

    A file that the row only names is not read: its size and its times of change are hashed.

    Args:
        row: a raw row.
        files: is filled with the path and state of each file that the row names.
    """
    state = hashlib.blake2b(digest_size=16)
    _feed(state, row, {} if files is None else files)
    return state.digest()


def hash_values(row: Row) -> bytes:
    """Hash a raw row like `hash_row`, but leave out the files that it names, with their paths.

    Together with a hash of what is in these files, it is the same on every machine.
    """
    state = hashlib.blake2b(digest_size=16)
    _feed(state, row, None)
    return state.digest()


def _feed(state: Any, value: Any, files: dict[str, FileState] | None) -> None:
    """Add a value to a hash, in a form that is the same in every process.

    Args:
        state: the hash.
        value: the value.
        files: is filled with the files that are named; None: they are left out.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            state.update(f"{key!r}:".encode())
            _feed(state, inner, files)
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, _NESTED_TYPES) for inner in value):
        state.update(f"[{len(value)}]".encode())
        for inner in value:
            _feed(state, inner, files)
    elif isinstance(value, bytes):
        state.update(f"{len(value)} bytes:".encode())
        state.update(value)
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
        state.update(f"{array.dtype}{array.shape}:".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    else:
        is_file = isinstance(value, str) and len(value) < 4096
        is_file = is_file and bool(os.path.isabs(value) or media_kind(value))
        if is_file and files is None:
            state.update(b"a file")
            return
        state.update(repr(value).encode("utf-8", "surrogatepass"))
        if is_file and files is not None:
            files[value] = _file_state(value)
            state.update(repr(files[value]).encode())


def _file_state(path: str) -> FileState:
    if not os.path.isfile(path):
        return None
    state = os.stat(path)
    # rsync and `cp -p` set mtime back to the time of the original; no tool can set ctime.
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def find_record(folder: Path, rows: Any, code: str) -> SplitRecord | None:
    """Return the record that `save_record` wrote for the same rows, or None if there is none.

    The rows themselves are not hashed: `datasets` gives equal fingerprints to rows that are read from
    unchanged files, and to equal rows in memory. Only the files that rows name are compared, by size and
    times of change.

    Args:
        folder: the folder of the cache.
        rows: the rows of a split.
        code: hash of the source code that the record depends on.
    """
    path = _record_path(folder, rows, code)
    entry = None if path is None else read_json(path, dict)
    if entry is None:
        return None
    try:
        files = {name: None if state is None else tuple(state) for name, state in entry.pop("files").items()}
        record = SplitRecord(**entry, files=files)
    except (AttributeError, KeyError, TypeError):
        # The file is damaged, or another version of hf_ft wrote it.
        return None
    if any(_file_state(name) != state for name, state in files.items()):
        return None
    return record


def save_record(folder: Path, rows: Any, code: str, record: SplitRecord) -> None:
    """Write a record for `find_record`; rows without a fingerprint, such as windows, get no record."""
    path = _record_path(folder, rows, code)
    if path is not None:
        write_json(path, asdict(record))


def _record_path(folder: Path, rows: Any, code: str) -> Path | None:
    # Rows that are made lazily, such as windows of a series, have no fingerprint.
    fingerprint = getattr(rows, "fingerprint", None)
    if fingerprint is None or not hasattr(rows, "columns"):
        return None
    ids = hashlib.blake2b("\0".join(rows.ids).encode("utf-8", "surrogatepass")).hexdigest()
    parts = [RECORD, code, fingerprint, ids, repr(sorted(rows.columns.items()))]
    name = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return folder / f"known-{name}.json"
