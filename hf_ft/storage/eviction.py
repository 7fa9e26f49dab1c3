"""Room for row stores: which folder was used when, and which go when the cache would grow too large."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock, Timeout

from hf_ft.storage.atomic import write_json


def make_room(
    root: Path, size: int, most: int, own: Collection[Path] = (), *, delete: bool = True
) -> str | None:
    """Delete the stores that were used the longest ago until those of a run fit.

    Args:
        root: folder of stores, one folder each.
        size: bytes of the run's own stores once they are whole.
        most: bytes that all stores may take together.
        own: the run's stores, whole or not; never deleted.
        delete: whether to delete anything; otherwise it is only found out whether there would be room.

    Returns:
        Why there is no room, or None where there is.
    """
    if size > most:
        return f"{size / 1e9:.2g} GB are needed and cache.max_gb is {most / 1e9:g}"
    root.mkdir(parents=True, exist_ok=True)
    needed = max(0, size - sum(size_of(folder) for folder in own if folder.is_dir()))
    others = [folder for folder in root.iterdir() if (folder / "use").is_file() and folder not in own]
    sizes = {folder: size_of(folder) for folder in sorted(others, key=last_use)}
    room = shutil.disk_usage(root).free
    for folder in list(sizes):
        if sum(sizes.values()) + size <= most and needed < 0.9 * room:
            break
        if not delete:
            room += sizes.pop(folder)
            continue
        # A store that is being filled is left alone.
        with contextlib.suppress(Timeout), FileLock(f"{folder}.lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            room += sizes.pop(folder)
    if needed >= 0.9 * room:
        return f"{needed / 1e9:.2f} GB are needed and {room / 1e9:.2f} GB are free on that disk"
    return None


def size_of(folder: Path) -> int:
    """Count the bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def last_use(folder: Path) -> float:
    """Give the moment at which a store was last opened."""
    return (folder / "use").stat().st_mtime


def mark_use(folder: Path, description: dict[str, object]) -> None:
    """Note what a store holds, and that it is used now."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "use", description)
