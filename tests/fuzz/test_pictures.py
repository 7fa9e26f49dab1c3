"""Pictures of every mode and format, and damaged ones: each opens as RGB at its size, or its row is named."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fuzzing import drawn, mutated
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFile

from hf_ft.inputs.image_files import (
    content_digest,
    count_pixels,
    open_image,
    open_with_traits,
    perceptual_hash,
)

ROW = "train/7"
# Format -> modes that it can store.
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I", "LAB"),
    "WEBP": ("L", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "ICO": ("RGB", "RGBA"),
    "JPEG2000": ("L", "RGB", "RGBA", "I;16"),
    "TGA": ("L", "RGB", "RGBA"),
}
ANIMATED = ("GIF", "WEBP", "TIFF", "PNG")


def some_picture(rng: random.Random) -> tuple[bytes, tuple[int, int]]:
    """Write a valid picture; return it and the size at which it must open."""
    kind = rng.choice([*FORMATS])
    mode, size = rng.choice(FORMATS[kind]), (rng.randint(1, 40), rng.randint(1, 40))
    image = pixels(rng, mode, size)
    options: dict[str, Any] = {}
    turned = False
    if kind == "ICO":
        options["sizes"] = [size]
    if kind in ANIMATED and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [pixels(rng, mode, size) for _ in range(2)]}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.5 and "save_all" not in options:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 77])
        turned = exif[0x0112] in (5, 6, 7, 8)
        options["exif"] = exif
    if kind == "JPEG" and rng.random() < 0.3:
        options["progressive"] = True
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue(), (size[1], size[0]) if turned else size


def pixels(rng: random.Random, mode: str, size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32))
    wide, high = size
    if mode == "I;16":
        return Image.fromarray(noise.integers(0, 65536, (high, wide), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(noise.integers(0, 65536, (high, wide), dtype=np.int32))
    if mode == "F":
        return Image.fromarray(noise.random((high, wide), dtype=np.float32))
    colours = Image.fromarray(noise.integers(0, 256, (high, wide, 4), dtype=np.uint8))
    if mode == "LAB":
        return Image.frombytes("LAB", size, noise.bytes(3 * wide * high))
    return colours.convert("RGB").quantize(8) if mode == "P" else colours.convert("RGB").convert(mode)


def declared(rng: random.Random, data: bytes) -> bytes:
    """Declare another size, such as a decompression bomb, in the header of a PNG, GIF or BMP file."""
    wide, high = (rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1]) for _ in range(2))
    if data.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", wide, high) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data.startswith(b"GIF8"):
        return data[:6] + struct.pack("<HH", wide % 2**16, high % 2**16) + data[10:]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<II", wide, high) + data[26:]
    place = data.find(b"\xff\xc0")
    if place > 0:
        return data[: place + 5] + struct.pack(">HH", high % 2**16, wide % 2**16) + data[place + 9 :]
    return data[: rng.randrange(len(data) + 1)]


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        # Most of what decoders trust stands at the beginning.
        changed[rng.randrange(min(len(changed), rng.choice([40, 400, 10**6])))] = rng.randrange(256)
    return bytes(changed)


def spliced(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:]


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip,
    flip,
    declared,
    spliced,
    lambda rng, data: data[: rng.randrange(len(data))],
    lambda rng, data: data + data,
    lambda rng, data: rng.randbytes(rng.randrange(30)) + data,
    lambda rng, data: data[: rng.randrange(len(data))] + rng.randbytes(200),
    lambda rng, data: rng.choice([b"", b"\0", b"GIF89a", b"<svg/>", b"P6 99999999 99999999 255\n", b"II*\0"]),
)


def opened(value: Any) -> Image.Image:
    """Open a picture in all the ways that the audit and the tasks do."""
    image, traits = open_with_traits(value, ROW)
    assert content_digest(open_image(value, ROW)) == content_digest(image), "opened alike"
    assert count_pixels(value, ROW) == image.width * image.height, "pixels in the header"
    assert isinstance(perceptual_hash(image), int) and isinstance(traits, list)
    return image


def wrong_picture(size: tuple[int, int] | None, image: Image.Image) -> str | None:
    if image.mode != "RGB" or (size is not None and image.size != size):
        return f"opened as {image.mode} {image.size}, expected RGB {size}"
    return None


@pytest.mark.parametrize("cases", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_files(cases, seed, tally, tmp_path):
    def try_case(rng: random.Random) -> None:
        data, size = some_picture(rng)
        changes = rng.choice([0, 1, 1, 1, 2])
        for _ in range(changes):
            data = rng.choice(MUTATIONS)(rng, data) if data else data
        path = tmp_path / f"picture.{rng.choice(['png', 'jpg', 'gif', 'tif', 'txt'])}"
        path.write_bytes(data)
        stored = (
            {"bytes": data, "path": path.name} if rng.random() < 0.5 else {"bytes": None, "path": str(path)}
        )
        expected = None if changes else size
        try:
            tally.tried(
                lambda: opened(stored), (ROW,), lambda image: wrong_picture(expected, image), changes > 0
            )
        except BaseException as error:
            error.add_note(f"{changes} changes: {data[:300]!r}")
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES and not failures, "\n".join(failures)


NUMBERS = st.sampled_from(
    [np.uint8, np.uint16, np.int16, np.int64, np.float32, np.float64, np.bool_, np.float16]
)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
SMALL = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))
ARRAYS = (
    arrays.arrays(np.uint8, SMALL)
    | arrays.arrays(np.float32, SMALL, elements=st.floats(0, 1, width=32))
    | arrays.arrays(NUMBERS.map(np.dtype), SHAPES)
)
OTHERS = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.binary(max_size=20), st.lists(st.integers(), max_size=3)
)
STORED = st.fixed_dictionaries({}, optional={"bytes": OTHERS, "path": OTHERS})


@pytest.mark.parametrize("cases", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_values_in_memory(cases, seed, tally):
    """Arrays of any shape and type, and what is no picture at all."""

    @drawn(cases, seed, ARRAYS | OTHERS | STORED)
    def try_value(value: Any) -> None:
        size = value.shape[1::-1] if isinstance(value, np.ndarray) and value.ndim > 1 else None
        tally.tried(lambda: opened(value), (ROW,), lambda image: wrong_picture(size, image))

    try_value()
