"""SHA-256 of files and of all files below a folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, without: re.Pattern[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path inside it.

    Args:
        folder: an existing folder.
        without: paths that match it from their start are left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not (without is not None and without.match(name)):
            found[name] = sha256_of(path)
    return found
