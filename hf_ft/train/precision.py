"""Numbers that the hardware is fast at; every choice comes with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_ft.errors import RecipeError


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


def choose_precision(setting: str) -> Precision:
    """Choose the precision of the forward and backward pass; weights stay in fp32.

    Args:
        setting: `auto`, or a precision to insist on.

    Raises:
        RecipeError: the setting is impossible on this hardware.
    """
    cuda = torch.cuda.is_available()
    if setting == "auto":
        if cuda:
            major, minor = torch.cuda.get_device_capability()
            if major >= 8:
                return Precision("bf16", f"CUDA capability {major}.{minor} computes bf16 natively")
            return Precision("fp32", f"CUDA capability {major}.{minor} has no native bf16")
        if torch.accelerator.is_available():
            return Precision(
                "fp32", f"bf16 is not known to be fast on {torch.accelerator.current_accelerator()}"
            )
        able = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
        if able:
            return Precision("bf16", f"the processor has {able[0]}")
        return Precision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
    if setting in ("fp16", "tf32") and not cuda:
        raise RecipeError(
            f"train.precision: {setting} needs a CUDA device, found none; write auto, fp32 or bf16"
        )
    return Precision(setting, "asked for by train.precision")
