"""Helpers for text: nearest name, natural sort order, lists in messages, split names, media suffixes."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable

# The three splits of hf_ft and the names that data sets use for them, compared without case.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}

# Kind of media -> file suffixes. The table is fixed here because the operating system's table of media types
# (`mimetypes`) differs from machine to machine.
MEDIA = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
}
_KIND = {suffix: kind for kind, suffixes in MEDIA.items() for suffix in suffixes}


def split_of(word: str) -> str | None:
    """Return the split that a word names (`val` -> `validation`), or None if it names none."""
    return _SPLIT_OF.get(word.casefold())


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key for natural order: `sign2` comes before `sign10` (pytorch/vision#714)."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most similar to `name`, ignoring case, or None if none is similar.

    Args:
        name: the name that was found.
        known: the valid names.
        cutoff: the least similarity, as difflib's ratio: 0 accepts any name, 1 only an equal one.
    """
    spelled = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), spelled, n=1, cutoff=cutoff)
    return spelled[found[0]] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest known name, or an empty text if none is similar."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def listing(values: Iterable[object], limit: int = 10) -> str:
    """Join values for a message; of more than `limit` values, only the first `limit` and the count."""
    shown = [str(value) for value in values]
    more = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def media_kind(path: str) -> str | None:
    """Return `image`, `video` or `audio` by the suffix of a file name, or None for any other suffix."""
    return _KIND.get(os.path.splitext(path)[1].casefold())


def text_digest(texts: Iterable[str]) -> str:
    """Hash texts so that texts which differ only in case, spaces or Unicode form get the same hash."""
    normal = (" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)
    return hashlib.blake2b("\0".join(normal).encode(), digest_size=16).hexdigest()
