"""The user's cache folder, and a function that builds a folder in it exactly once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hf_ft.errors import HfFtError
from hf_ft.storage.atomic import new_folder


def cache_folder() -> Path:
    """Return the folder of everything that hf_ft can compute again: `$HF_FT_CACHE` or `~/.cache/hf_ft`.

    Raises:
        HfFtError: the folder cannot be created or written to.
    """
    folder = Path(os.environ.get("HF_FT_CACHE") or Path.home() / ".cache" / "hf_ft")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        raise HfFtError(f"{folder}: expected a folder that can be written to; name one in HF_FT_CACHE")
    return folder


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`; build it first if it does not exist.

    The folder is built under a temporary name and then renamed, so a folder that exists is complete. If two
    processes build it at the same time, the first rename wins and the other process deletes its copy.

    Args:
        folder: the final path.
        build: is called with an empty temporary folder and fills it.
    """
    if not folder.is_dir():
        with new_folder(folder, keep_first=True) as fresh:
            build(fresh)
    return folder
