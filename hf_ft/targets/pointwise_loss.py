"""The loss of targets that are numbers: the mean error over the values of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_ft.recipe.schema import PositiveFloat, Section

if TYPE_CHECKING:
    import torch


class PointwiseLoss(Section):
    """Keys of `loss:` of targets that are numbers; the loss compares standardised values."""

    kind: Literal["mse", "mae", "huber"] = "mse"
    """mse: squared error; mae: absolute error; huber: squared below delta, absolute above (Huber 1964)."""
    delta: PositiveFloat = 1.0
    """Error at which the Huber loss changes from squared to absolute, in standard deviations."""


def row_losses(predicted: torch.Tensor, truth: torch.Tensor, loss: PointwiseLoss) -> torch.Tensor:
    """Compute the mean loss over all values of each row.

    Args:
        predicted: standardised predictions, float [B, ...].
        truth: standardised targets in the same shape.
        loss: the kind of loss.

    Returns:
        Losses, float [B].
    """
    import torch.nn.functional as functional

    if loss.kind == "huber":
        found = functional.huber_loss(predicted, truth, delta=loss.delta, reduction="none")
    else:
        kind = functional.mse_loss if loss.kind == "mse" else functional.l1_loss
        found = kind(predicted, truth, reduction="none")
    return found.flatten(1).mean(1)
