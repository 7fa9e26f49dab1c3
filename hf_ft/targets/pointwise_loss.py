"""What the two tasks of time series share: the loss of a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_ft.recipe.schema import PositiveFloat, Section

if TYPE_CHECKING:
    import torch


class PointwiseLoss(Section):
    """Keys of `loss:`; the loss is taken of standardised values."""

    kind: Literal["mse", "mae", "huber"] = "mse"
    """mse: squared error; mae: absolute error; huber: squared below delta, absolute above (Huber 1964)."""
    delta: PositiveFloat = 1.0
    """Where the Huber loss turns, in standard deviations."""


def row_losses(predicted: torch.Tensor, truth: torch.Tensor, loss: PointwiseLoss) -> torch.Tensor:
    """Give the mean loss over all values of each row, float [B], from [B, ...]."""
    import torch.nn.functional as functional

    if loss.kind == "huber":
        found = functional.huber_loss(predicted, truth, delta=loss.delta, reduction="none")
    else:
        kind = functional.mse_loss if loss.kind == "mse" else functional.l1_loss
        found = kind(predicted, truth, reduction="none")
    return found.flatten(1).mean(1)
