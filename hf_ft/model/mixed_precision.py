"""Models whose passes accelerate has wrapped in mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def is_mixed(model: Any) -> bool:
    """Tell whether a pass of the model rounds to half of the bits."""
    unwrapped = vars(model).get("_original_forward")
    return unwrapped is not None and vars(model).get("forward") is not unwrapped


@contextmanager
def full_precision(model: Any) -> Iterator[None]:
    """Let a model compute in the precision of its weights."""
    if not is_mixed(model):
        yield
        return
    wrapped = vars(model)["forward"]
    vars(model)["forward"] = vars(model)["_original_forward"]
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped
