"""Atomic writes: a file or folder is written under a temporary name, flushed to disk, and then renamed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_ft.causes import naming

# The names that are used here, `.NAME.PID` among them, and those of checkpoints, which all processes write.
_TEMPORARY = re.compile(r"\.writing-.+|\.(?P<name>.+)\.(?P<kind>new-|old-)?\d+")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; if several processes write it at once, the last rename wins."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write a JSON file atomically; NaN and infinity are written as null."""
    write_text(path, as_json(value, indent=indent))


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON; NaN and infinity become null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_nan_to_none(value), indent=indent, ensure_ascii=False, allow_nan=False)


def read_json(path: Path, kind: type = object) -> Any:
    """Read a JSON file; return None if it is missing, is not valid JSON, or does not hold a `kind`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, kind) else None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file name to write to; rename that file to `path` unless the block raises.

    Raises:
        OSError: the file cannot be written; the error names it, and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path, written_as=temporary):
            yield temporary
            _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        with contextlib.suppress(OSError):  # an earlier error says more
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path, *, keep_first: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; rename it to `folder` unless the block raises.

    Args:
        folder: the final path; an existing folder is replaced as a whole.
        keep_first: if another process has created `folder` meanwhile, leave that one in place and delete the
            temporary one.

    Raises:
        OSError: a file cannot be written; the error names the file or `folder`, which is as it was.
    """
    temporary = folder.absolute().with_name(f".{folder.name}.new-{os.getpid()}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with naming(folder, written_as=temporary):
            yield temporary
        if not (keep_first and folder.is_dir()):
            replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(source: Path, folder: Path) -> None:
    """Flush the folder `source` to disk and rename it to `folder`; the old `folder` is deleted afterwards."""
    folder = folder.absolute()
    for path in source.rglob("*"):
        _flush(path)
    _flush(source)
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.exists():
            folder.rename(old)
        source.rename(folder)
        _flush(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Tell whether a file or folder is one that is being written, or one that is being replaced."""
    return _TEMPORARY.fullmatch(name) is not None


def clean_up(folder: Path) -> None:
    """Delete what killed processes were writing in a folder that this process alone uses.

    A folder that was just being replaced, when the new one was not yet there, is put back.
    """
    for path in list(folder.rglob(".*")):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or not path.exists():
            continue
        if found["kind"] == "old-" and not path.with_name(found["name"]).exists():
            path.rename(path.with_name(found["name"]))
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _flush(path: Path) -> None:
    """Flush a file's content, or a folder's list of entries, to the disk (fsync)."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _nan_to_none(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
