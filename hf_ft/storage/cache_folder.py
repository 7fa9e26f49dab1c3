"""The user's cache folder, and how something is put there once, whole, by whichever process comes first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hf_ft.errors import HfFtError
from hf_ft.storage.atomic import new_folder


def cache_folder() -> Path:
    """Give the folder for what can be made again: `$HF_FT_CACHE`, or `~/.cache/hf_ft`."""
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
    """Give a folder, built first if it is not there.

    It is built beside its place and moved there by one rename, so that a folder that exists is whole; of two
    processes that build at once, one is first and the other throws its copy away.

    Args:
        folder: where it belongs.
        build: fills the empty folder it is given.
    """
    if not folder.is_dir():
        with new_folder(folder, keep_first=True) as fresh:
            build(fresh)
    return folder
