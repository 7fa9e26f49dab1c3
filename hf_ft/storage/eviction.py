"""Eviction of row stores: record when a store was last used, and delete old ones when the cache is full."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock, Timeout

from hf_ft.storage.atomic import write_json


def make_room(
    root: Path,
    size: int,
    most: int,
    own: Collection[Path] = (),
    *,
    delete: bool = True,
    spared: int = 0,
) -> str | None:
    """Delete the least recently used stores until the stores of this run fit.

    Args:
        root: the folder that holds the stores, one subfolder per store.
        size: bytes of the run's own stores when they are completely filled.
        most: bytes that all stores together may take.
        own: folders of the run's own stores, filled or not; they are never deleted.
        delete: False: delete nothing, and only find out whether deleting would free enough bytes.
        spared: bytes of the same disk that something else will need.

    Returns:
        The reason why the stores do not fit, or None if they fit.
    """
    if size > most:
        return f"{size / 1e9:.2g} GB are needed and cache.max_gb is {most / 1e9:g}"
    root.mkdir(parents=True, exist_ok=True)
    needed = max(0, size - sum(size_of(folder) for folder in own if folder.is_dir()))
    others = [folder for folder in root.iterdir() if (folder / "use").is_file() and folder not in own]
    sizes = {folder: size_of(folder) for folder in sorted(others, key=last_use)}
    room = shutil.disk_usage(root).free - spared
    for folder in list(sizes):
        if sum(sizes.values()) + size <= most and needed < 0.9 * room:
            break
        if not delete:
            room += sizes.pop(folder)
            continue
        # Another process that fills the store holds its lock; such a store is not deleted.
        with contextlib.suppress(Timeout), FileLock(f"{folder}.lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            room += sizes.pop(folder)
    if needed >= 0.9 * room:
        rest = f" beside the {spared / 1e9:.2f} GB of the run's own files" if spared else ""
        return f"{needed / 1e9:.2f} GB are needed and {max(0, room) / 1e9:.2f} GB are free on that disk{rest}"
    return None


def size_of(folder: Path) -> int:
    """Return the total size of all files below a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def last_use(folder: Path) -> float:
    """Return the time at which `mark_use` last marked a store, in seconds since the epoch."""
    return (folder / "use").stat().st_mtime


def mark_use(folder: Path, description: dict[str, object]) -> None:
    """Write the file `use` of a store: its content describes the store, its time is the time of last use."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "use", description)
