"""What a row holds, as a hash; and what earlier runs learned of the same rows, found without hashing them."""

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

# What is hashed part by part; a list of plain numbers is hashed whole.
_HOLDERS = (dict, list, tuple, bytes, str)

# Size of a file, and when its content and its entry were changed, in nanoseconds; None where there is none.
FileState = tuple[int, int, int] | None


@dataclass(frozen=True)
class Known:
    """What is known of the rows of a split.

    Args:
        audit: name of the file with the inspection of each row.
        fingerprint: hash of ids and contents.
        files: the files that rows name, as they were when the rows were hashed.
    """

    audit: str
    fingerprint: str
    files: Mapping[str, FileState]


def stamp(row: Row, files: dict[str, FileState] | None = None) -> bytes:
    """Hash the content of a row; a file that is only named is stood for by its size and time of change.

    Args:
        row: a raw row.
        files: collects the files that the row names, with their state.
    """
    state = hashlib.blake2b(digest_size=16)
    _feed(state, row, {} if files is None else files)
    return state.digest()


def _feed(state: Any, value: Any, files: dict[str, FileState]) -> None:
    """Add a value to a hash, in a form that is equal in every process."""
    if isinstance(value, dict):
        for key, inner in value.items():
            state.update(f"{key!r}:".encode())
            _feed(state, inner, files)
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, _HOLDERS) for inner in value):
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
        state.update(repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, str) and len(value) < 4096 and (os.path.isabs(value) or media_kind(value)):
            files[value] = _file_state(value)
            state.update(repr(files[value]).encode())


def _file_state(path: str) -> FileState:
    if not os.path.isfile(path):
        return None
    state = os.stat(path)
    # A tool may set the time of the content back to what it was (rsync, cp -p); that of the entry it cannot.
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def recall(folder: Path, rows: Any, code: str) -> Known | None:
    """Give what an earlier run learned of the same rows; None where it must be learned.

    `datasets` gives an equal fingerprint to equal rows read from unchanged files, or to equal rows in memory;
    only files that rows name are looked at again, by size and time of change.

    Args:
        folder: the cache.
        rows: the rows of a split.
        code: what the lesson depends on besides the rows.
    """
    path = _place(folder, rows, code)
    entry = None if path is None else read_json(path, dict)
    if entry is None:
        return None
    try:
        files = {name: None if state is None else tuple(state) for name, state in entry.pop("files").items()}
        known = Known(**entry, files=files)
    except (AttributeError, KeyError, TypeError):
        # Damaged, or written by another version.
        return None
    if any(_file_state(name) != state for name, state in files.items()):
        return None
    return known


def remember(folder: Path, rows: Any, code: str, known: Known) -> None:
    """Keep what `recall` gives; nothing is kept of rows without a fingerprint, such as windows."""
    path = _place(folder, rows, code)
    if path is not None:
        write_json(path, asdict(known))


def _place(folder: Path, rows: Any, code: str) -> Path | None:
    # Rows that are made lazily, such as windows, have none.
    fingerprint = getattr(rows, "fingerprint", None)
    if fingerprint is None or not hasattr(rows, "columns"):
        return None
    ids = hashlib.blake2b("\0".join(rows.ids).encode("utf-8", "surrogatepass")).hexdigest()
    parts = [code, fingerprint, ids, repr(sorted(rows.columns.items()))]
    name = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return folder / f"known-{name}.json"
