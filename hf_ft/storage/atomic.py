"""Files and folders that are whole or absent: written beside their place, flushed to disk, moved there."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; several processes may do it at once, and one of them wins."""
    with new_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write JSON whole or not at all; what is not a finite number becomes null."""
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text)


def read_json(path: Path, kind: type = object) -> Any:
    """Read what `write_json` wrote; None where there is nothing of this type that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, kind) else None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, and put that file in the place of `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield fresh
        _flush(fresh)
        fresh.replace(path)
        _flush(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path, *, keep_first: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, and put it in the place of `folder` if all goes well.

    Args:
        folder: its place.
        keep_first: whether a folder that another process has put there meanwhile stays, and this one goes.
    """
    fresh = folder.absolute().with_name(f".{folder.name}.new-{os.getpid()}")
    fresh.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if not (keep_first and folder.is_dir()):
            replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Flush a folder and move it to its place; what is there before goes only once the new one is there."""
    folder = folder.absolute()
    for path in fresh.rglob("*"):
        _flush(path)
    _flush(fresh)
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        _flush(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Let the disk have what was written to a file, or which names a folder holds."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
