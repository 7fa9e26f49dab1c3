"""Numbers that the hardware is fast at; every choice comes with its reason."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hf_ft.errors import RecipeError

# By how much bf16 must be faster to be worth its rounding.
CLEARLY = 1.1


@dataclass(frozen=True)
class Precision:
    """What the Trainer is told.

    Args:
        name: fp32, bf16, fp16 or tf32.
        reason: why, in a few words.
    """

    name: str
    reason: str

    @property
    def flags(self) -> dict[str, bool]:
        """The matching TrainingArguments."""
        return {name: self.name == name for name in ("bf16", "fp16")} | (
            {"tf32": True} if self.name == "tf32" else {}
        )


def choose_precision(setting: str, *, use_cpu: bool = False) -> Precision:
    """Choose the precision of the forward and backward pass; weights stay in fp32.

    Args:
        setting: `auto`, or a precision to insist on.
        use_cpu: whether the CPU trains even where there is an accelerator.

    Raises:
        RecipeError: the setting is impossible on this hardware.
    """
    cuda = torch.cuda.is_available() and not use_cpu
    if setting == "auto":
        if cuda:
            major, minor = torch.cuda.get_device_capability()
            if major >= 8:
                return Precision("bf16", f"CUDA capability {major}.{minor} computes bf16 natively")
            return Precision("fp32", f"CUDA capability {major}.{minor} has no native bf16")
        if torch.accelerator.is_available() and not use_cpu:
            return Precision(
                "fp32", f"bf16 is not known to be fast on {torch.accelerator.current_accelerator()}"
            )
        able = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
        if not able:
            return Precision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
        gain = _seconds(torch.float32) / _seconds(torch.bfloat16)
        measured = f"the processor has {able[0]}, and multiplies {gain:.1f} times as fast with it"
        return Precision("bf16" if gain > CLEARLY else "fp32", measured)
    if setting in ("fp16", "tf32") and not cuda:
        raise RecipeError(
            f"train.precision: {setting} needs a CUDA device, found none; write auto, fp32 or bf16"
        )
    return Precision(setting, "asked for by train.precision")


def _seconds(dtype: torch.dtype) -> float:
    """Give the time of a product of the size of a transformer's layers, the fastest of several."""
    left, right = torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times)


def choose_compile(setting: bool | str) -> tuple[bool, str]:
    """Decide whether to compile the model, and say why.

    Args:
        setting: `train.compile`.
    """
    if setting != "auto":
        return bool(setting), "asked for by train.compile"
    if not torch.cuda.is_available():
        return False, "compiling takes minutes on a CPU, more than it wins back"
    return (
        False,
        "not known to pay within this run; for a long one with inputs of one shape, write true",
    )
