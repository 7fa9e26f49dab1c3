"""Open pictures as 8-bit RGB, as transformers opens them; hash them, and make small pictures of them."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

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
    return _from_file(value) if isinstance(value, str) else _from_array(value)


def _from_stored(value: dict[str, Any]) -> Image:
    from PIL import Image

    # torchvision's decode_jpeg gives the same pixels 3 to 7 % faster (measured at 1000 x 800), but processors
    # and augmentation need a Pillow image, and converting to one made it slower in total.
    if value.get("bytes") is not None:
        return Image.open(io.BytesIO(value["bytes"]))
    if value.get("path"):
        return _from_file(value["path"])
    raise ValueError("it has neither bytes nor a path")


def _from_file(path: str) -> Image:
    from PIL import Image

    # Opening a named pipe would wait for ever.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is no regular file")
    return Image.open(path)


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
