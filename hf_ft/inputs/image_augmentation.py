"""Augment pictures, and what moves with them, with a given random generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_ft.errors import RecipeError
from hf_ft.text_utils import hint, listing

if TYPE_CHECKING:
    import numpy as np
    import torch

POLICIES = ("none", "light", "randaugment", "trivialaugment")
# A picture or frames, and the tensors that are transformed with them.
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Augmentation:
    """A random augmentation that depends only on a given generator.

    Args:
        transform: a transform of torchvision, or None for no change.
        alone: name of the policy if it can transform nothing but the picture; else None.
    """

    transform: Any
    alone: str | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Augment a sample; equal states of `rng` give equal pixels, and no other generator is used.

        Args:
            sample: first key: an RGB image, or frames as a tv_tensors.Video. The other keys are transformed
                with it: tv_tensors of boxes (BoundingBoxes), masks (Mask) or points (KeyPoints).
            rng: source of all randomness.

        Raises:
            RecipeError: the policy cannot transform the other keys with the picture.
        """
        import torch

        if self.transform is None:
            return dict(sample)
        if self.alone is not None and len(sample) > 1:
            others = listing(list(sample)[1:])
            raise RecipeError(
                f"augment.policy: {self.alone} changes the picture alone, and {others} must move with it; "
                "write light, or use augment.flip and augment.crop"
            )
        # torchvision draws from torch's global generator: seed it for this sample, and restore it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            changed: dict[str, Any] = self.transform(dict(sample))
            return changed


def augmentation(
    policy: str,
    *,
    flip: str = "none",
    crop: float = 1.0,
    magnitude: int = 9,
    operations: int = 2,
    mask_fill: int = 0,
) -> Augmentation:
    """Build the augmentation of a policy.

    Args:
        policy: `none`; `light`: small rotations, shifts and scales, and changes of colour; `randaugment`:
            Cubuk et al., "RandAugment", 2020; `trivialaugment`: Müller and Hutter, "TrivialAugment", 2021.
        flip: `none`, `horizontal` or `both`; none by default, because arrows, digits and organs change
            meaning.
        crop: smallest share of the area that a random crop keeps, in (0, 1]; 1: no crop.
        magnitude: strength of randaugment, 0 to 30.
        operations: number of operations of randaugment.
        mask_fill: the value of a mask where the picture was moved away.

    Raises:
        RecipeError: there is no such policy.
    """
    if policy not in POLICIES:
        raise RecipeError(
            f"augment.policy: there is no {policy!r}{hint(policy, POLICIES)} (known: {listing(POLICIES)})"
        )
    if policy == "none" and flip == "none" and crop == 1:
        return Augmentation(None)
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.tv_tensors import Mask

    smooth = InterpolationMode.BILINEAR
    # Corners that a rotation uncovers become mid-grey, the value that normalisation brings near zero.
    fill: Any = {"others": 128, Mask: mask_fill}
    steps: list[Any] = []
    if crop < 1:
        steps.append(partial(_cropped, crop))
    if flip != "none":
        steps.append(v2.RandomHorizontalFlip())
    if flip == "both":
        steps.append(v2.RandomVerticalFlip())
    if policy == "light":
        steps.append(
            v2.RandomAffine(
                degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation=smooth, fill=fill
            )
        )
        steps.append(v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02))
    elif policy == "randaugment":
        steps.append(v2.RandAugment(operations, magnitude, interpolation=smooth, fill=128))
    elif policy == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(interpolation=smooth, fill=128))
    return Augmentation(v2.Compose(steps), policy if policy in ("randaugment", "trivialaugment") else None)


def _cropped(crop: float, sample: dict[str, Any]) -> dict[str, Any]:
    """Crop a sample at random, and resize it to its size before the crop."""
    from torchvision.transforms import v2

    size = v2.functional.get_size(next(iter(sample.values())))
    cropped: dict[str, Any] = v2.RandomResizedCrop(size, scale=(crop, 1.0))(sample)
    return cropped


def mixup(
    a: torch.Tensor, b: torch.Tensor, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Blend two images: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.

    Args:
        a: pixels, float [C, H, W].
        b: pixels, float [C, H, W].
        alpha: both parameters of the beta distribution the share is drawn from; larger mixes more evenly.
        rng: decides the share.

    Returns:
        The blended pixels [C, H, W], and the share of the first image in them.
    """
    share = float(rng.beta(alpha, alpha))
    return share * a + (1 - share) * b, share


def cutmix(
    a: torch.Tensor, b: torch.Tensor, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Paste a box of one image into another: Yun et al., "CutMix: Regularization Strategy", 2019.

    Args:
        a: pixels, float [C, H, W].
        b: pixels, float [C, H, W].
        alpha: both parameters of the beta distribution the kept area is drawn from.
        rng: decides area and place.

    Returns:
        The pixels [C, H, W], and the share of the area that is left of the first image, after the box is cut
        at the border.
    """
    height, width = a.shape[-2:]
    side = float((1 - rng.beta(alpha, alpha)) ** 0.5)
    middle_y, middle_x = int(rng.integers(height)), int(rng.integers(width))
    half_y, half_x = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(middle_y - half_y, 0), min(middle_y + half_y, height)
    left, right = max(middle_x - half_x, 0), min(middle_x + half_x, width)
    mixed = a.clone()
    mixed[..., top:bottom, left:right] = b[..., top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, share
