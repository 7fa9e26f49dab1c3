import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiny import drawing
from torchvision.transforms import InterpolationMode, v2
from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask, Video

from hf_ft.errors import RecipeError
from hf_ft.inputs.image_augmentation import POLICIES, augmentation, cutmix, mixup
from hf_ft.inputs.image_files import content_digest


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
def test_augmentation_depends_on_its_generator_alone(policy):
    """tf#39215: a resumed run must see the same pixels."""
    change, image = augmentation(policy), drawing()

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
    image = drawing()
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
        expected = v2.Compose(steps)(drawing(seed)) if steps else drawing(seed)
        found = change({"image": drawing(seed)}, np.random.default_rng((seed, 1, 2)))["image"]
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
