"""Fonts for names in any script on a figure; a character without a glyph is shown as its code point."""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Characters of a name that are shown at most.
_LONGEST = 28
# This font ships with matplotlib, so it is always installed.
_DEFAULT = "DejaVu Sans"
# Control characters, private and unassigned code points, line separators.
_INVISIBLE = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class NameFonts:
    """Fonts for a set of names.

    Args:
        families: font families; matplotlib takes each glyph from the first that has it.
        note: a sentence for the caption if characters are shown as code points, else "".
        missing: characters that no installed font can draw.
    """

    families: tuple[str, ...]
    note: str
    missing: frozenset[str]

    def spell(self, text: str) -> str:
        """Return the text to draw: missing characters as `U+4E2D`, long texts without their middle."""
        drawn = "".join(_code(letter) if letter in self.missing else letter for letter in text)
        drawn = " ".join(drawn.split())
        half = _LONGEST // 2
        return drawn if len(drawn) <= _LONGEST else f"{drawn[:half]}…{drawn[-half + 1 :]}"

    @property
    def style(self) -> dict[str, Any]:
        """Keywords for a matplotlib text that shows a name; a name is never parsed as a formula."""
        return {"fontfamily": list(self.families), "parse_math": False}


def choose_fonts(texts: Iterable[str]) -> NameFonts:
    """Choose installed fonts that together have every character of these texts.

    matplotlib opens every font that it is given: with all 28 fonts of a test machine, a figure took 1.5 times
    as long. So only the fonts that are needed are chosen.
    """
    # `spell` puts the ellipsis in.
    wanted = {letter for text in texts for letter in text} | {"…"}
    invisible = {letter for letter in wanted if unicodedata.category(letter) in _INVISIBLE}
    needed = {ord(letter) for letter in wanted - invisible}
    families, missing = _cover(needed, _families())
    if missing:
        # matplotlib stores its list of fonts in a file, which lacks fonts that were installed later.
        families, missing = _cover(needed, _search_families())
    return NameFonts(tuple(families), _note(missing), frozenset(invisible | {chr(code) for code in missing}))


def _cover(needed: set[int], families: Mapping[str, str]) -> tuple[list[str], set[int]]:
    """Choose families that cover these code points; return them, and the code points that none covers."""
    chosen, missing = [], set(needed)
    for family, path in families.items():
        found = missing & _glyphs(path) if missing else set()
        if found:
            chosen.append(family)
            missing -= found
    return chosen, missing


def _note(missing: set[int]) -> str:
    if not missing:
        return ""
    return (
        f"No installed font has {len(missing)} of the characters in these names; they are shown as code "
        f"points, like {_code(chr(min(missing))).strip()}. Install fonts of their scripts (fonts-noto-cjk, "
        f"fonts-noto-core) to see them."
    )


def _code(letter: str) -> str:
    return f" U+{ord(letter):04X} "


def _families() -> dict[str, str]:
    """Return the installed families and a file of each: the default first, then Noto, then sans-serif."""
    from matplotlib.font_manager import fontManager

    # The font Last Resort draws every character as a box; colour bitmaps (Emoji) have no outlines to draw.
    fonts = [font for font in fontManager.ttflist if not re.search("Last ?Resort|Emoji", font.name)]
    files = {font.name: font.fname for font in fonts}
    order = sorted((name != _DEFAULT, "Noto Sans" not in name, "Sans" not in name, name) for name in files)
    return {name: files[name] for *_, name in order}


@functools.cache
def _search_families() -> dict[str, str]:
    """Return `_families` after a search of the system's font folders: 0.3 seconds, so once per process."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        # A damaged font or a bitmap font cannot be used; the others can.
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            fontManager.addfont(path)
    return _families()


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    """Return the code points for which the font has a glyph."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())
