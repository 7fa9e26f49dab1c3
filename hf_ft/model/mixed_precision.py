"""Tell whether accelerate runs a model in mixed precision, and run a model in full precision for a while."""

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
    """Run the model without autocast and without TF32, in the precision of its weights, inside the block."""
    with _without_tf32():
        if not is_mixed(model):
            yield
            return
        wrapped = vars(model)["forward"]
        vars(model)["forward"] = vars(model)["_original_forward"]
        try:
            yield
        finally:
            vars(model)["forward"] = wrapped


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute float32 convolutions and products in float32 on CUDA.

    torch's default for convolutions is TF32, with 10 bits of mantissa: the logits of one picture then differ
    in the third decimal between batches of different size.
    """
    import torch

    backends: Any = torch.backends
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    everything, backends.fp32_precision = backends.fp32_precision, "none"
    # Read now, when none of them is inherited.
    conv, rnn, products = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision
    # By their older names: torch raises an error where a library reads one that disagrees with the new.
    cudnn.allow_tf32, matmul.allow_tf32 = False, False
    try:
        yield
    finally:
        cudnn.allow_tf32 = conv == "tf32"
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision = conv, rnn, products
        backends.fp32_precision = everything
