"""Class names in any script on a figure: fonts that have the glyphs, or a readable spelling and a note."""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST = 28
# Ships with matplotlib, so it is always there.
_DEFAULT = "DejaVu Sans"
# Control characters, private and unassigned code points, line separators.
_INVISIBLE = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class Lettering:
    """How a set of texts is drawn.

    Args:
        families: font families, tried in this order for each glyph.
        note: a sentence for the caption where characters are spelled out, or "".
        missing: characters that cannot be drawn.
    """

    families: tuple[str, ...]
    note: str
    missing: frozenset[str]

    def spell(self, text: str, longest: int = _LONGEST) -> str:
        """Return the text as it is drawn: missing characters as `U+4E2D`, long texts without their middle."""
        drawn = "".join(_code(letter) if letter in self.missing else letter for letter in text)
        drawn = " ".join(drawn.split())
        half = longest // 2
        return drawn if len(drawn) <= longest else f"{drawn[:half]}…{drawn[-half + 1 :]}"

    @property
    def style(self) -> dict[str, Any]:
        """Keywords for every matplotlib text that shows a name; a name is never read as a formula."""
        return {"fontfamily": list(self.families), "parse_math": False}


def lettering(texts: Iterable[str]) -> Lettering:
    """Choose installed fonts that together have every character of these texts.

    matplotlib looks in them one after the other for each glyph. It is not given all installed fonts, since it
    opens every one that it is given: with 28 of them, a figure took half as long again.
    """
    # The ellipsis is what `spell` puts in.
    wanted = {letter for text in texts for letter in text} | {"…"}
    invisible = {letter for letter in wanted if unicodedata.category(letter) in _INVISIBLE}
    needed = {ord(letter) for letter in wanted - invisible}
    families, missing = _covering(needed, _families())
    if missing:
        # matplotlib remembers its list of fonts, and does not notice one that was installed since.
        families, missing = _covering(needed, _families_found_again())
    return Lettering(tuple(families), _note(missing), frozenset(invisible | {chr(code) for code in missing}))


def _covering(needed: set[int], families: Mapping[str, str]) -> tuple[list[str], set[int]]:
    """Return the families that have some of these code points, and the code points that none has."""
    chosen, missing = [], set(needed)
    for family, path in families.items():
        found = missing & _glyphs(path) if missing else set()
        if found:
            chosen.append(family)
            missing -= found
    return chosen, missing


def _note(without: set[int]) -> str:
    if not without:
        return ""
    return (
        f"No installed font has {len(without)} of the characters in these names; they are spelled as code "
        f"points, like {_code(chr(min(without))).strip()}. Fonts of their scripts (fonts-noto-cjk, "
        f"fonts-noto-core) would draw them."
    )


def _code(letter: str) -> str:
    return f" U+{ord(letter):04X} "


def _families() -> dict[str, str]:
    """Installed families and a file of each; Noto and plain sans-serif first, as they read best."""
    from matplotlib.font_manager import fontManager

    # Last Resort draws every character as a box, and colour bitmaps cannot be drawn as outlines.
    fonts = [font for font in fontManager.ttflist if not re.search("Last ?Resort|Emoji", font.name)]
    files = {font.name: font.fname for font in fonts}
    order = sorted((name != _DEFAULT, "Noto Sans" not in name, "Sans" not in name, name) for name in files)
    return {name: files[name] for *_, name in order}


@functools.cache
def _families_found_again() -> dict[str, str]:
    """The same after a search of the system's font folders, which takes a third of a second: once."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        # A font that is broken or a bitmap is no use here, and no reason to stop.
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            fontManager.addfont(path)
    return _families()


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    """Code points for which the font has a glyph."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())
