"""Run the saved image processor in two stages, so that pixels are transferred to the device as uint8.

The first stage is the processor's geometry (resize, crop), row by row on the CPU; the second stage is its
arithmetic (rescale, normalise), batch by batch on the device. uint8 pixels need a quarter of the bytes of
floats. Both stages run the processor's own code, and they are used only where a test shows that they give the
processor's own pixels bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# Number of pictures on which the two stages are compared with one call of the processor.
_PROOF_IMAGES = 4
# Several threads may encode; only one of them tests the stages.
_LOCK = threading.Lock()


@dataclass
class TwoStageProcessor:
    """An image processor that runs in two stages, or in one call where two stages are not possible.

    Args:
        processor: the processor that is saved with the model.
        table: the float that the processor computes from each of the 256 uint8 values, float [C, 256]; None:
            the processor runs in one call.
        reason: why the processor runs in one call.
    """

    processor: Any
    table: torch.Tensor | None
    reason: str = ""
    # device -> whether the processor's arithmetic on this device gives the values of `table`, bit for bit.
    _exact: dict[str, bool] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        name = type(self.processor).__name__
        if self.table is None:
            return f"pixels: {name} computes floats on the CPU, because {self.reason}"
        return f"pixels: uint8, normalised on the device, bit for bit as {name} does it"

    def encode(self, images: Sequence[Image]) -> torch.Tensor:
        """Run the first stage on RGB images: uint8 [B, C, H, W]; or floats where there is one stage."""
        return (
            process_in_one_call(self.processor, images)
            if self.table is None
            else _geometry(self.processor, images)
        )

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the second stage: uint8 [B, C, H, W] to the processor's floats; floats stay as they are."""
        import torch

        if self.table is None or pixels.dtype != torch.uint8:
            return pixels
        place = str(pixels.device)
        if place not in self._exact:
            ramp = _ramp(len(self.table)).to(pixels.device)
            found = _arithmetic(self.processor, ramp)
            self._exact[place] = found is not None and torch.equal(
                found.cpu().view_as(self.table), self.table
            )
        if self._exact[place]:
            return _arithmetic(self.processor, pixels)  # type: ignore[return-value]
        return self.look_up(pixels)

    def look_up(self, pixels: torch.Tensor) -> torch.Tensor:
        """Read the floats from the table: an accelerator that multiplies by 1/255 rounds differently."""
        import torch

        numbers: Any = self.table
        table = numbers.to(pixels.device).flatten()
        channel = torch.arange(len(numbers), dtype=torch.int32, device=pixels.device) * 256
        places = pixels.to(torch.int32) + channel.view(-1, 1, 1)
        return table.index_select(0, places.flatten()).view_as(pixels)


def two_stage_processor(
    processor: Any, images: Sequence[Image], known: TwoStageProcessor | None = None
) -> TwoStageProcessor:
    """Split a processor into two stages; test on a few pictures that they equal one call of the processor.

    Args:
        processor: an image processor of transformers.
        images: RGB images; the first few are tested as they are, rotated, and cropped to another shape.
            Empty: one picture with all 256 values is tested.
        known: the result of an earlier call, which is returned if it is for the same processor.
    """
    with _LOCK:
        if known is not None and known.processor is processor:
            return known
        return _prove_stages(processor, images)


def _prove_stages(processor: Any, images: Sequence[Image]) -> TwoStageProcessor:
    """Compare the two stages with one call of the processor on every variant of the first pictures."""
    import torch
    from transformers.image_processing_utils import BaseImageProcessor

    def one_call(reason: str) -> TwoStageProcessor:
        return TwoStageProcessor(processor, None, reason)

    if not isinstance(processor, BaseImageProcessor):
        return one_call("it is no image processor of transformers")
    if _timm_parts(processor) is None and _is_timm(processor):
        return one_call("it has no step that turns a picture into a tensor")
    images = images or [_ramp_image()]
    try:
        first = _geometry(processor, images[:1])
        if first.dtype != torch.uint8:
            return one_call(f"its geometry gives {first.dtype}")
        table = _table(processor, first.shape[1])
    except (TypeError, ValueError, RuntimeError) as error:
        return one_call(f"it cannot be called in two stages: {error}")
    if table is None:
        return one_call("its arithmetic needs its geometry")
    stages = TwoStageProcessor(processor, table)
    for image in [variant for picture in images[:_PROOF_IMAGES] for variant in _proof_variants(picture)]:
        expected = process_in_one_call(processor, [image])
        found = stages.look_up(_geometry(processor, [image]))
        if expected.dtype != found.dtype or not torch.equal(expected, found):
            return one_call("two stages differ from one call")
    return stages


def process_in_one_call(processor: Any, images: Sequence[Image]) -> torch.Tensor:
    """Compute pixels with one call of the processor, as prediction with transformers does."""
    pixels: torch.Tensor = processor(list(images), return_tensors="pt")["pixel_values"]
    return pixels


def _proof_variants(image: Image) -> list[Image]:
    """Return a picture unchanged, rotated, and cropped: its shape decides whether it is padded or cropped."""
    from PIL.Image import Transpose

    width, height = image.size
    return [image, image.transpose(Transpose.ROTATE_90), image.crop((0, 0, max(1, 2 * width // 3), height))]


def _geometry(processor: Any, images: Sequence[Image]) -> torch.Tensor:
    """Run the first stage: resize, crop, pad."""
    import torch
    from torchvision.transforms.functional import pil_to_tensor

    if (parts := _timm_parts(processor)) is not None:
        placed = []
        for image in images:
            for step in parts[0]:
                image = step(image)
            placed.append(pil_to_tensor(image))
        return torch.stack(placed)
    pixels: torch.Tensor = processor(list(images), do_rescale=False, do_normalize=False, return_tensors="pt")[
        "pixel_values"
    ]
    return pixels


def _ramp(channels: int) -> torch.Tensor:
    """Make a picture that has each of the 256 values in every channel, uint8 [1, C, 16, 16]."""
    import torch

    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, channels, 1, 1)


def _ramp_image() -> Image:
    from torchvision.transforms.functional import to_pil_image

    image: Image = to_pil_image(_ramp(3)[0])
    return image


def _table(processor: Any, channels: int) -> torch.Tensor | None:
    """Let the processor compute the float of each of the 256 values; None where its output does not fit."""
    import torch

    ramp = _ramp_image()
    if (parts := _timm_parts(processor)) is not None:
        value: Any = ramp
        for step in parts[1]:
            value = step(value)
        found = value[None]
    else:
        found = processor([ramp], do_resize=False, do_center_crop=False, do_pad=False, return_tensors="pt")[
            "pixel_values"
        ]
    if found.shape != (1, channels, 16, 16) or found.dtype != torch.float32:
        return None
    return found.reshape(channels, 256).contiguous()


def _arithmetic(processor: Any, pixels: torch.Tensor) -> torch.Tensor | None:
    """Run the second stage (rescale, normalise) on the batch's device; None where the processor cannot."""
    from transformers.image_processing_backends import TorchvisionBackend

    if isinstance(processor, TorchvisionBackend):
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        return processor.rescale_and_normalize(pixels, **{name: getattr(processor, name) for name in names})
    parts = _timm_parts(processor)
    if parts is None:
        return None
    return _timm_arithmetic(parts[1], pixels)


def _timm_arithmetic(steps: Sequence[Any], pixels: torch.Tensor) -> torch.Tensor | None:
    import torch
    from torchvision.transforms import Normalize
    from torchvision.transforms.functional import normalize

    if not all(isinstance(step, Normalize) for step in steps[1:]):
        return None
    # The first step is ToTensor, which accepts only pictures; it divides their values by 255.
    found = pixels.to(torch.float32).div_(255)
    for step in steps[1:]:
        found = normalize(found, step.mean, step.std, inplace=True)
    return found


def _is_timm(processor: Any) -> bool:
    from transformers import TimmWrapperImageProcessor

    return isinstance(processor, TimmWrapperImageProcessor)


def _timm_parts(processor: Any) -> tuple[list[Any], list[Any]] | None:
    """Split the transforms of timm's processor before the one that turns a picture into a tensor."""
    from torchvision.transforms import ToTensor

    if not _is_timm(processor):
        return None
    steps = processor.val_transforms.transforms
    cut = next((index for index, step in enumerate(steps) if isinstance(step, ToTensor)), None)
    return None if cut is None else (steps[:cut], steps[cut:])
