import io
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask, Video

from hf_ft.errors import DataError, RecipeError
from hf_ft.inputs.image import ImageInput
from hf_ft.inputs.image_transforms import (
    POLICIES,
    augmentation,
    content_digest,
    cutmix,
    mixup,
    open_image,
    open_with_traits,
    perceptual_hash,
)


def picture(seed=0, size=(48, 40)):
    rng = random.Random(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        color = tuple(rng.randrange(256) for _ in range(3))
        draw.ellipse([x - 9, y - 9, x + 9, y + 9], fill=color)
    return image


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return {"bytes": file.getvalue(), "path": f"x.{kind.lower()}"}


def pixel(value, place=(0, 0)):
    return open_image(value, "r1").getpixel(place)


def test_every_way_to_hold_a_picture_gives_the_same_pixels(tmp_path):
    image = picture()
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
    image = picture(size=(40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_image(stored(image, "PNG", exif=exif), "r1")
    assert turned.size == (20, 40)
    assert content_digest(turned) == content_digest(image.rotate(-90, expand=True))


def test_a_picture_that_is_as_it_should_be_is_not_copied():
    image = picture()
    assert open_image(image, "r1") is image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_rotation_is_applied_as_pillow_does(orientation):
    image = picture(size=(40, 20))
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
    whole = stored(picture(), kind)["bytes"]
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
    image = picture(3, (200, 160))
    copies = [
        image.resize((100, 80)),
        open_image(stored(image, "JPEG", quality=60), "r1"),
        Image.eval(image, lambda value: min(255, int(value * 0.9 + 10))),
    ]
    base = perceptual_hash(image)
    assert 0 <= base < 2**64
    assert all((base ^ perceptual_hash(copy)).bit_count() <= 3 for copy in copies)
    others = [(base ^ perceptual_hash(picture(seed, (200, 160)))).bit_count() for seed in range(4, 14)]
    assert min(others) > 10


# Augmentation


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
def test_augmentation_depends_on_its_generator_alone(policy):
    """tf#39215: a resumed run must see the same pixels."""
    change, image = augmentation(policy), picture()

    def digests(seed):
        rng = np.random.default_rng((seed, 0, 5))
        return [content_digest(change({"image": image}, rng)["image"]) for _ in range(5)]

    torch.manual_seed(1)
    first = digests(7)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert digests(7) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert digests(8) != first
    assert len(set(first)) > 1


def test_no_policy_changes_nothing_and_flip_mirrors_half():
    image = picture()
    assert augmentation("none")({"image": image}, np.random.default_rng(0))["image"] is image
    rng = np.random.default_rng(0)
    mirrored = content_digest(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    flip = augmentation("none", flip="horizontal")
    seen = [content_digest(flip({"image": image}, rng)["image"]) for _ in range(40)]
    assert 10 < seen.count(mirrored) < 30 and seen.count(mirrored) + seen.count(content_digest(image)) == 40


def test_light_never_mirrors_unless_told():
    """A mirrored arrow is another sign."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle([0, 0, 31, 63], fill="black")
    rng = np.random.default_rng(0)
    for _ in range(30):
        changed = augmentation("light")({"image": image}, rng)["image"]
        left, right = np.split(np.asarray(changed).mean(axis=(0, 2)), 2)
        assert left.mean() < right.mean()


ALL_SETTINGS = [
    {"policy": policy, "flip": flip, "crop": crop}
    for policy in POLICIES
    for flip, crop in (("none", 1.0), ("both", 0.5), ("horizontal", 1.0))
]


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_a_picture_alone_is_what_torchvision_makes_of_it_for_the_same_seed(settings):
    """What a seed gave before masks and boxes moved with a picture is what it gives."""
    smooth = InterpolationMode.BILINEAR
    steps = []
    if settings["crop"] < 1:
        steps.append(lambda image: v2.RandomResizedCrop(image.size[::-1], scale=(0.5, 1.0))(image))
    steps += [v2.RandomHorizontalFlip()] if settings["flip"] != "none" else []
    steps += [v2.RandomVerticalFlip()] if settings["flip"] == "both" else []
    steps += {
        "none": [],
        "light": [
            v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=smooth, fill=128),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.02),
        ],
        "randaugment": [v2.RandAugment(2, 9, interpolation=smooth, fill=128)],
        "trivialaugment": [v2.TrivialAugmentWide(interpolation=smooth, fill=128)],
    }[settings["policy"]]
    change = augmentation(settings["policy"], flip=settings["flip"], crop=settings["crop"])
    for seed in range(6):
        torch.manual_seed(int(np.random.default_rng((seed, 1, 2)).integers(2**63)))
        expected = v2.Compose(steps)(picture(seed)) if steps else picture(seed)
        found = change({"image": picture(seed)}, np.random.default_rng((seed, 1, 2)))["image"]
        assert content_digest(found) == content_digest(expected)


def scene():
    """A bright square on dark ground, with its box, its mask, its corners, and three equal frames."""
    pixels = np.zeros((64, 80, 3), np.uint8)
    pixels[20:36, 30:54] = (250, 20, 20)
    square = torch.from_numpy(pixels[:, :, 0] > 100)
    corners = torch.tensor([[30.0, 20.0], [53.0, 35.0]])
    frames = torch.from_numpy(pixels).permute(2, 0, 1).repeat(3, 1, 1, 1)
    return {
        "image": Image.fromarray(pixels),
        "boxes": BoundingBoxes([[30.0, 20.0, 54.0, 36.0]], format="XYXY", canvas_size=(64, 80)),
        "mask": Mask(square.to(torch.uint8)),
        "points": KeyPoints(corners, canvas_size=(64, 80)),
        "frames": Video(frames),
    }


@pytest.mark.parametrize(
    "settings", [{"flip": "both"}, {"crop": 0.5}, {"policy": "light"}, {"policy": "light", "crop": 0.7}]
)
def test_boxes_masks_points_and_frames_stay_on_the_object(settings):
    change = augmentation(**{"policy": "none", **settings})
    moved = set()
    for seed in range(25):
        sample = change(scene(), np.random.default_rng(seed))
        pixels = np.asarray(sample["image"]).astype(int)
        seen = pixels[:, :, 0] - pixels[:, :, 1] > 90
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        mask = sample["mask"].numpy().astype(bool)
        assert (seen & mask).sum() / (seen | mask).sum() > 0.8
        # A turned box is the box around the turned one.
        left, top, right, bottom = sample["boxes"][0].tolist()
        assert left - 2 <= columns[0] <= left + 6 and right - 7 <= columns[-1] <= right + 1
        assert top - 2 <= rows[0] <= top + 6 and bottom - 7 <= rows[-1] <= bottom + 1
        # A point that the crop leaves out lies outside of the picture; a box is cut at its border.
        for x, y in sample["points"].clamp(torch.zeros(2), torch.tensor([80.0, 64.0])).tolist():
            assert left - 2 <= x <= right + 2 and top - 2 <= y <= bottom + 2
        frames = sample["frames"].numpy().astype(int)
        assert (frames[0] == frames[2]).all()
        inside = frames[0, 0] - frames[0, 1] > 90
        assert (inside & mask).sum() / (inside | mask).sum() > 0.8
        moved.add((int(columns[0]), int(rows[0])))
    assert len(moved) > 2


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_that_change_a_picture_alone_say_so(policy):
    with pytest.raises(RecipeError, match=rf"augment\.policy: {policy} .* boxes, mask, .* must move with it"):
        augmentation(policy)(scene(), np.random.default_rng(0))


def test_what_is_uncovered_of_a_mask_is_what_was_asked_for():
    change = augmentation("light", mask_fill=255)
    values = {
        int(value)
        for seed in range(9)
        for value in change(scene(), np.random.default_rng(seed))["mask"].unique()
    }
    assert values == {0, 1, 255}


def test_unknown_policy():
    with pytest.raises(RecipeError, match="no 'lite'; did you mean 'light'"):
        augmentation("lite")


def test_mixup_and_cutmix_say_the_share_of_what_is_seen():
    a, b = torch.zeros(3, 16, 12), torch.ones(3, 16, 12)
    shares = []
    for mix in (mixup, cutmix):
        for seed in range(30):
            pixels, share = mix(a, b, 1.0, np.random.default_rng(seed))
            again, _ = mix(a, b, 1.0, np.random.default_rng(seed))
            assert torch.equal(pixels, again)
            assert pixels.mean().item() == pytest.approx(1 - share, abs=1e-5)
            shares.append(round(share, 3))
        assert a.sum() == 0
    assert len(set(shares)) > 30
