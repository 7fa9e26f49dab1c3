import io
import os
import random

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny import drawing

from hf_ft.errors import DataError
from hf_ft.inputs.image import ImageInput
from hf_ft.inputs.image_files import (
    content_digest,
    open_image,
    open_with_traits,
    perceptual_hash,
)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return {"bytes": file.getvalue(), "path": f"x.{kind.lower()}"}


def pixel(value, place=(0, 0)):
    return open_image(value, "r1").getpixel(place)


def test_every_way_to_hold_a_picture_gives_the_same_pixels(tmp_path):
    image = drawing()
    image.save(tmp_path / "a.png")
    digest = content_digest(image)
    array = np.asarray(image)
    path = str(tmp_path / "a.png")
    for value in (
        image,
        array,
        array / 255.0,
        path,
        {"bytes": None, "path": path},
        stored(image),
        stored(image, "BMP"),
    ):
        assert content_digest(open_image(value, "r1")) == digest


def odd_pictures():
    """Files that a picture can be, by what is unusual about them."""
    colours = np.random.default_rng(0).integers(0, 256, (24, 16, 4), dtype=np.uint8)
    rgba = Image.fromarray(colours)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    opaque = rgba.copy()
    opaque.putalpha(255)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = rgb.quantize(8)
    return [
        (stored(rgb), []),
        (stored(opaque), []),
        (stored(rgba), ["transparent"]),
        (stored(rgba.convert("LA")), ["transparent", "grey"]),
        (stored(rgb, transparency=(1, 2, 3)), []),
        (stored(palette), ["palette"]),
        (stored(palette, transparency=0), ["transparent", "palette"]),
        (stored(grey), ["grey"]),
        (stored(grey.convert("1")), ["grey"]),
        (stored(rgb.convert("CMYK"), "JPEG"), ["CMYK"]),
        (stored(rgb, "JPEG", exif=exif), ["rotated by EXIF"]),
        (stored(rgb.resize((200, 20))), ["very wide or tall"]),
        (stored(rgb, "GIF"), ["palette"]),
    ]


@pytest.mark.parametrize("number", range(len(odd_pictures())))
def test_a_file_is_read_as_transformers_reads_it(number):
    """Or the saved folder would answer otherwise in transformers' pipeline than it was trained."""
    from transformers.image_utils import load_image

    value, traits = odd_pictures()[number]
    expected = load_image(Image.open(io.BytesIO(value["bytes"])))
    image, found = open_with_traits(value, "r1")
    assert content_digest(open_image(value, "r1")) == content_digest(image) == content_digest(expected)
    assert found == traits and set(found) <= set(ImageInput.traits)


def test_grey_and_other_modes():
    assert pixel(stored(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(stored(Image.new("1", (4, 4), 1))) == (255, 255, 255)
    assert pixel(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)


def test_sixteen_bits_are_scaled_and_not_clipped():
    """Pillow's own conversion clips 16-bit grey to white, and so does transformers' pipeline."""
    array = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    image = open_image(stored(Image.fromarray(array)), "r1")
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]
    assert content_digest(open_image(array, "r1")) == content_digest(image)
    assert open_with_traits(stored(Image.fromarray(array)), "r1")[1] == ["over 8 bits", "very wide or tall"]
    assert not ImageInput.traits["over 8 bits"].as_pipeline
    wide = Image.fromarray(np.array([[0, 70000]], dtype=np.int32))
    with pytest.raises(DataError, match="16-bit values"):
        open_image(wide, "r1")


def test_rotation_of_the_camera_is_applied():
    image = drawing(size=(40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_image(stored(image, "PNG", exif=exif), "r1")
    assert turned.size == (20, 40)
    assert content_digest(turned) == content_digest(image.rotate(-90, expand=True))


def test_a_picture_that_is_as_it_should_be_is_not_copied():
    image = drawing()
    assert open_image(image, "r1") is image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_rotation_is_applied_as_pillow_does(orientation):
    image = drawing(size=(40, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    before = stored(image, "JPEG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(before["bytes"])))
    assert content_digest(open_image(before, "r1")) == content_digest(expected)
    turned = Image.open(io.BytesIO(before["bytes"]))
    open_image(turned, "r1")
    assert turned.size == (40, 20), "a picture that is handed over is not changed"


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": "empty.png"},
        {"bytes": b"\x89PNG\r\n\x1a\nno more", "path": "head.png"},
        {"bytes": None, "path": "not/there.png"},
        "not/there.png",
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.full((4, 4), 2.0),
        np.zeros((4, 4), np.int64),
        3,
    ],
)
def test_what_is_no_picture_names_row_and_file(value):
    with pytest.raises(DataError, match="row r1") as caught:
        open_image(value, "r1")
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    assert path is None or path in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damaged_files_give_an_error_of_ours_or_pixels(kind):
    """ds#6470: whatever is wrong with a file, the audit must be able to name it."""
    whole = stored(drawing(), kind)["bytes"]
    rng = random.Random(1)
    refused = 0
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            for _ in range(rng.randrange(1, 20)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            open_image({"bytes": bytes(damaged), "path": "x"}, "r1")
        except DataError:
            refused += 1
    assert refused > 20


def test_perceptual_hash_is_near_for_copies_and_far_for_others():
    image = drawing(3, (200, 160))
    copies = [
        image.resize((100, 80)),
        open_image(stored(image, "JPEG", quality=60), "r1"),
        Image.eval(image, lambda value: min(255, int(value * 0.9 + 10))),
    ]
    base = perceptual_hash(image)
    assert 0 <= base < 2**64
    assert all((base ^ perceptual_hash(copy)).bit_count() <= 3 for copy in copies)
    others = [(base ^ perceptual_hash(drawing(seed, (200, 160)))).bit_count() for seed in range(4, 14)]
    assert min(others) > 10


# Augmentation


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for value in (str(tmp_path / "a.png"), {"bytes": None, "path": str(tmp_path / "a.png")}):
        with pytest.raises(DataError, match=r"train/7.*a\.png is no regular file"):
            open_image(value, "train/7")
