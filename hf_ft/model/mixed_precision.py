"""Tell whether accelerate runs a model in mixed precision, and run it in full precision for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def is_mixed(model: Any) -> bool:
    """Tell whether accelerate has wrapped the forward pass of a model in autocast (bf16 or fp16)."""
    unwrapped = vars(model).get("_original_forward")
    return unwrapped is not None and vars(model).get("forward") is not unwrapped


@contextmanager
def full_precision(model: Any) -> Iterator[None]:
    """Run the model without autocast, in the precision of its weights, inside the block."""
    if not is_mixed(model):
        yield
        return
    wrapped = vars(model)["forward"]
    vars(model)["forward"] = vars(model)["_original_forward"]
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped
