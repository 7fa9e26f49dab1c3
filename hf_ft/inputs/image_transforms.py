"""Open pictures as 8-bit RGB, hash them, and augment them with a given random generator."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError, RecipeError
from hf_ft.text_utils import hint, listing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

POLICIES = ("none", "light", "randaugment", "trivialaugment")
# Smallest ratio of the sides of a picture that is very wide or tall.
_VERY_WIDE = 4
# Exceptions of Pillow's decoders on damaged files, found by changing bytes of valid files.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)


def open_image(value: Any, row_id: str) -> Image:
    """Open one picture and convert it to 8-bit RGB, as transformers' `load_image` does.

    It applies the EXIF rotation, converts grey, palette and CMYK pictures, drops an alpha channel, and takes
    the first frame of an animation. One difference: 16-bit grey is scaled from 0..65535 to 0..255; Pillow's
    own conversion, which transformers uses, clips it to white.

    Args:
        value: {"bytes", "path"} as `datasets` stores it, a path, a PIL image, or an array [H, W] or [H, W, C]
            of uint8, uint16, or floats in 0..1.
        row_id: names the row in messages.

    Raises:
        DataError: there is no picture, or it is damaged; the message names the row and the file.
    """
    with _explained(value, row_id):
        return _to_rgb(_upright(found_image(value)))


def open_with_traits(value: Any, row_id: str) -> tuple[Image, list[str]]:
    """Open one picture as `open_image` does, and find its traits.

    Args:
        value: as for `open_image`.
        row_id: names the row in messages.

    Returns:
        The picture, and names of `ImageInput.traits`.

    Raises:
        DataError: as for `open_image`.
    """
    with _explained(value, row_id):
        image = found_image(value)
        upright = _upright(image)
        long, short = max(image.size), min(image.size)
        found = {
            "transparent": _is_transparent(image),
            "over 8 bits": image.mode.startswith(("I", "F")),
            "grey": image.mode in ("1", "L", "LA"),
            "palette": image.mode in ("P", "PA"),
            "CMYK": image.mode == "CMYK",
            "rotated by EXIF": upright is not image,
            "very wide or tall": long >= _VERY_WIDE * short,
        }
        return _to_rgb(upright), [name for name, has in found.items() if has]


def count_pixels(value: Any, row_id: str) -> int:
    """Count the pixels of a picture from its header, without decoding it.

    Args:
        value: as for `open_image`.
        row_id: names the row in messages.

    Raises:
        DataError: there is no picture, or its header is damaged.
    """
    with _explained(value, row_id):
        width, height = found_image(value).size
        return width * height


@contextmanager
def _explained(value: Any, row_id: str) -> Iterator[None]:
    """Raise a DataError that names row and file if a picture cannot be opened."""
    from PIL import Image

    try:
        yield
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        path = value.get("path") if isinstance(value, dict) else value
        place = f"row {row_id}" + (f", file {path}" if isinstance(path, str) and path else "")
        raise DataError(f"{place}: cannot open the image: {type(error).__name__}: {error}") from error


def found_image(value: Any) -> Image:
    """Open a picture without converting it; its pixels may not be decoded yet.

    Args:
        value: as for `open_image`.
    """
    from PIL import Image

    if isinstance(value, dict):
        return _from_stored(value)
    if isinstance(value, Image.Image):
        return value
    return Image.open(value) if isinstance(value, str) else _from_array(value)


def _from_stored(value: dict[str, Any]) -> Image:
    from PIL import Image

    # torchvision's decode_jpeg gives the same pixels 3 to 7 % faster (measured at 1000 x 800), but processors
    # and augmentation need a Pillow image, and converting to one made it slower in total.
    if value.get("bytes") is not None:
        return Image.open(io.BytesIO(value["bytes"]))
    if value.get("path"):
        return Image.open(value["path"])
    raise ValueError("it has neither bytes nor a path")


def _from_array(value: Any) -> Image:
    import numpy as np
    from PIL import Image

    if value is None:
        raise ValueError("there is none")
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"expected an array [H, W] or [H, W, 1|3|4], found shape {array.shape}")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError("expected floats in 0..1")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"expected uint8, uint16 or floats, found {array.dtype}")
    return Image.fromarray(array)


def _upright(image: Image) -> Image:
    """Apply the EXIF rotation, if there is one; Pillow's `exif_transpose` would copy every image."""
    from PIL import ExifTags, ImageOps

    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    return ImageOps.exif_transpose(image) if turned else image


def _to_rgb(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        array = np.asarray(image)
        if image.mode == "F":
            return _from_array(array).convert("RGB")
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"expected 16-bit values in 0..65535, found {array.min()}..{array.max()}")
        return Image.fromarray((array.astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    # Pillow's `convert` copies an image that is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_transparent(image: Image) -> bool:
    """Tell whether any pixel is not opaque; many files have an alpha channel that is opaque everywhere."""
    if not image.has_transparency_data:
        return False
    lowest: Any = image.convert("RGBA").getchannel("A").getextrema()[0]
    return bool(lowest < 255)


def content_digest(image: Image) -> str:
    """Hash the pixels of an RGB image, independent of the file format."""
    state = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    state.update(image.tobytes())
    return state.hexdigest()


def perceptual_hash(image: Image) -> int:
    """Return a 64-bit hash that differs in few bits for similar images (resized, recompressed, brightened).

    Each bit tells whether one of the 8 x 8 lowest frequencies of the cosine transform of the 32 x 32 grey
    image lies above their median: Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010, section 3.2.1.
    """
    import numpy as np
    from PIL.Image import Resampling
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((32, 32), Resampling.LANCZOS), dtype=np.float32)
    # Row and column 0 are left out: they hold the brightness and not the structure.
    low = dctn(grey, norm="ortho")[1:9, 1:9]
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def small_picture(image: Image, side: int = 96) -> str:
    """Return a small copy of a picture as a `data:image/png` address."""
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


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
