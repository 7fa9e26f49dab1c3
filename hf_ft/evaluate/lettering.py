"""Class names in any script on a figure: fonts that have the glyphs, or a readable spelling and a word about it."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_LONGEST = 28
# Ships with matplotlib, so it is always there.
_DEFAULT = "DejaVu Sans"


@dataclass(frozen=True)
class Lettering:
    """How a set of texts is drawn.

    Args:
        families: font families, tried in this order for each glyph.
        note: a sentence for the caption where characters are spelled out, or "".
        missing: characters that no installed font has.
    """

    families: tuple[str, ...]
    note: str
    missing: frozenset[str]

    def spell(self, text: str, longest: int = _LONGEST) -> str:
        """Give the text as it is drawn: missing and control characters as `U+4E2D`, long texts without their middle."""
        drawn = "".join(_code(letter) if letter in self.missing else letter for letter in text)
        drawn = " ".join(drawn.split())
        half = longest // 2
        return drawn if len(drawn) <= longest else f"{drawn[:half]}…{drawn[-half + 1 :]}"

    @property
    def style(self) -> dict[str, Any]:
        """Keywords for every matplotlib text that shows a name; a name is never read as a formula."""
        return {"fontfamily": list(self.families), "parse_math": False}


def lettering(texts: Iterable[str]) -> Lettering:
    """Choose installed fonts that together have every character of these texts."""
    wanted = {letter for text in texts for letter in text}
    missing = {
        letter for letter in wanted if unicodedata.category(letter)[0] == "C" or letter in "\u2028\u2029"
    }
    needed = {ord(letter) for letter in wanted - missing}
    families = []
    for family, path in _families().items():
        found = needed & _glyphs(path) if needed else set()
        if found or family == _DEFAULT:
            families.append(family)
            needed -= found
    return Lettering(tuple(families), _note(needed), frozenset(missing | {chr(code) for code in needed}))


def _note(without: set[int]) -> str:
    if not without:
        return ""
    return (
        f"No installed font has {len(without)} of the characters in these names; they are spelled as code points "
        f"({_code(chr(min(without))).strip()}). A font of that script (fonts-noto-cjk, fonts-noto-core) would draw them."
    )


def _code(letter: str) -> str:
    return f" U+{ord(letter):04X} "


@functools.cache
def _families() -> dict[str, str]:
    """Installed families and a file of each, Noto and plain sans-serif first, as they read best on a figure."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    # matplotlib remembers its list of fonts, and does not notice one that was installed since.
    for path in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        fontManager.addfont(path)
    # Last Resort draws every character as a box, and colour bitmaps cannot be drawn as outlines.
    files = {
        font.name: font.fname
        for font in fontManager.ttflist
        if not re.search("Last ?Resort|Emoji", font.name)
    }
    order = sorted(
        files, key=lambda name: (name != _DEFAULT, "Noto Sans" not in name, "Sans" not in name, name)
    )
    return {name: files[name] for name in order}


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    """Code points for which the font has a glyph."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())
