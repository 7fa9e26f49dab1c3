"""Join sections of a recipe: those of the input and the targets of a composed task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional

from pydantic import create_model
from pydantic.fields import FieldInfo

from hf_ft.recipe.schema import Empty, Section


def joined_section(
    parts: Sequence[type[Section]], choices: Mapping[str, Sequence[str]] | None = None
) -> type[Section]:
    """Make a section that has the keys of several sections.

    Args:
        parts: the sections; a section from which another one inherits is left out.
        choices: further keys -> the values that the key may have; null is allowed too and is the default.
    """
    different = [part for part in dict.fromkeys(parts) if part is not Empty]
    bases = [
        part
        for part in different
        if not any(issubclass(other, part) for other in different if other is not part)
    ]
    fields: dict[str, Any] = {
        key: (
            Optional[Literal[tuple(values)]],  # noqa: UP045
            FieldInfo(default=None, description="The kind of target; null: chosen from the training labels."),
        )
        for key, values in (choices or {}).items()
    }
    if not fields and len(bases) <= 1:
        return bases[0] if bases else Empty
    return create_model("JoinedSection", __base__=tuple(bases) or Section, **fields)
