"""Helpers for text: nearest name, natural order, lists in messages, split names, media suffixes, hashes."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable

# The three splits of hf_ft and the words that data sets use for them. Compared without case.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}

# What a file is by its suffix, and so which column it goes to. Fixed here, because the operating system's
# table of media types differs from machine to machine.
MEDIA = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
}
_KIND = {suffix: kind for kind, suffixes in MEDIA.items() for suffix in suffixes}


def split_of(word: str) -> str | None:
    """Give the split that a word names (`val` -> `validation`), or None."""
    return _SPLIT_OF.get(word.casefold())


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which `sign2` comes before `sign10` (pytorch/vision#714)."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Give the known name that is most like this one, without regard to case, or None when none is alike.

    Args:
        name: what was found.
        known: what could have been meant.
        cutoff: how alike it must be at least: 0 anything, 1 the same (difflib's ratio).
    """
    spelled = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), spelled, n=1, cutoff=cutoff)
    return spelled[found[0]] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Give `; did you mean 'x'?`, or nothing."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def listing(values: Iterable[object], limit: int = 10) -> str:
    """List values for a message, the first few spelled out."""
    shown = [str(value) for value in values]
    more = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def media_kind(path: str) -> str | None:
    """Tell by its suffix whether a file is an `image`, a `video` or `audio`; None if it is none of them."""
    return _KIND.get(os.path.splitext(path)[1].casefold())


def text_digest(texts: Iterable[str]) -> str:
    """Hash texts so that those which differ only in case, spaces or Unicode form are the same."""
    normal = (" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)
    return hashlib.blake2b("\0".join(normal).encode(), digest_size=16).hexdigest()
