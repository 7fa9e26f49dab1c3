"""A picture's way through the saved processor in two halves: uint8 until the device, floats from there on.

The first half is the processor's geometry (resize, crop), row by row; the second its arithmetic (rescale,
normalise), batch by batch on the device. What travels between them is a quarter of the bytes. Both are the
processor's own code, and are taken only where they give its own pixels bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# Pictures that the two halves are compared on with the whole.
_TRIED = 4
# Encoding may be in several threads, and one proof is enough.
_LOCK = threading.Lock()


@dataclass
class Pixels:
    """A processor, whole or in two halves.

    Args:
        processor: as it is saved with the model.
        table: the float that the processor makes of each of the 256 values, float [C, 256]; None: it is used
            whole.
        reason: why it is used whole.
    """

    processor: Any
    table: torch.Tensor | None
    reason: str = ""
    # Device -> whether the processor's own arithmetic gives there, to the last bit, what the table holds.
    _exact: dict[str, bool] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        name = type(self.processor).__name__
        if self.table is None:
            return f"pixels: floats of the whole {name}, because {self.reason}"
        return f"pixels: uint8 until they are on the device, there normalised bit for bit as {name} does"

    def encode(self, images: Sequence[Image]) -> torch.Tensor:
        """Make pixels of RGB images: uint8 [B, C, H, W] after the geometry, or the processor's own floats."""
        return whole(self.processor, images) if self.table is None else _geometry(self.processor, images)

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn uint8 [B, C, H, W] into the processor's own floats; floats stay as they are."""
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
        """Finish pixels without any arithmetic: an accelerator that multiplies by 1/255 rounds otherwise."""
        import torch

        numbers: Any = self.table
        table = numbers.to(pixels.device).flatten()
        channel = torch.arange(len(numbers), dtype=torch.int32, device=pixels.device) * 256
        places = pixels.to(torch.int32) + channel.view(-1, 1, 1)
        return table.index_select(0, places.flatten()).view_as(pixels)


def pixels_of(processor: Any, images: Sequence[Image], known: Pixels | None = None) -> Pixels:
    """Take a processor apart, and prove on a few pictures that its halves give what it gives whole.

    Args:
        processor: an image processor of transformers.
        images: RGB images; the first few are tried, upright, turned and cut to another shape. None: a picture
            with all values.
        known: what was found before, which stands as long as the processor is the same.
    """
    with _LOCK:
        if known is not None and known.processor is processor:
            return known
        return _taken_apart(processor, images)


def _taken_apart(processor: Any, images: Sequence[Image]) -> Pixels:
    import torch
    from transformers.image_processing_utils import BaseImageProcessor

    if not isinstance(processor, BaseImageProcessor):
        return Pixels(processor, None, "it is no image processor of transformers")
    if _timm_parts(processor) is None and _is_timm(processor):
        return Pixels(processor, None, "it has no step that turns a picture into a tensor")
    images = images or [_ramp_image()]
    try:
        first = _geometry(processor, images[:1])
        if first.dtype != torch.uint8:
            return Pixels(processor, None, f"its geometry gives {first.dtype}")
        table = _table(processor, first.shape[1])
    except (TypeError, ValueError, RuntimeError) as error:
        return Pixels(processor, None, f"it cannot be called in two halves: {error}")
    if table is None:
        return Pixels(processor, None, "its arithmetic cannot be had without its geometry")
    halves = Pixels(processor, table)
    for image in [shape for picture in images[:_TRIED] for shape in _shapes(picture)]:
        expected, found = whole(processor, [image]), halves.look_up(_geometry(processor, [image]))
        if expected.dtype != found.dtype or not torch.equal(expected, found):
            return Pixels(processor, None, "its geometry and its arithmetic cannot be told apart")
    return halves


def whole(processor: Any, images: Sequence[Image]) -> torch.Tensor:
    """Make pixels with one call of the processor, as prediction with transformers does."""
    pixels: torch.Tensor = processor(list(images), return_tensors="pt")["pixel_values"]
    return pixels


def _shapes(image: Image) -> list[Image]:
    """Give a picture as it is, turned, and cut: padding or cropping depends on the shape."""
    from PIL.Image import Transpose

    width, height = image.size
    return [image, image.transpose(Transpose.ROTATE_90), image.crop((0, 0, max(1, 2 * width // 3), height))]


def _geometry(processor: Any, images: Sequence[Image]) -> torch.Tensor:
    """Run what decides where pixels are: resize, crop, pad."""
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
    """Give a picture with each of the 256 values in every channel, uint8 [1, C, 16, 16]."""
    import torch

    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, channels, 1, 1)


def _ramp_image() -> Image:
    from torchvision.transforms.functional import to_pil_image

    image: Image = to_pil_image(_ramp(3)[0])
    return image


def _table(processor: Any, channels: int) -> torch.Tensor | None:
    """Let the processor itself say what becomes of each of the 256 values; None where it does not."""
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
    """Run what decides the values, on a batch where it is; None where the processor does not offer it so."""
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
    # The first of them is ToTensor, which takes pictures only; this is what it does to their numbers.
    found = pixels.to(torch.float32).div_(255)
    for step in steps[1:]:
        found = normalize(found, step.mean, step.std, inplace=True)
    return found


def _is_timm(processor: Any) -> bool:
    from transformers import TimmWrapperImageProcessor

    return isinstance(processor, TimmWrapperImageProcessor)


def _timm_parts(processor: Any) -> tuple[list[Any], list[Any]] | None:
    """Cut the transforms of timm's processor before the one that turns a picture into a tensor."""
    from torchvision.transforms import ToTensor

    if not _is_timm(processor):
        return None
    steps = processor.val_transforms.transforms
    cut = next((index for index, step in enumerate(steps) if isinstance(step, ToTensor)), None)
    return None if cut is None else (steps[:cut], steps[cut:])
