"""Names: natural order, the nearest valid one, and what a split may be called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# The three splits of hf_ft and the words that data sets use for them. Compared without case.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def split_of(word: str) -> str | None:
    """Give the split that a word names (`val` -> `validation`), or None."""
    return _SPLIT_OF.get(word.casefold())


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which `sign2` comes before `sign10` (pytorch/vision#714)."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Give the known name that is most like this one, without regard to case, or None when none is alike."""
    spelled = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), spelled, n=1)
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
