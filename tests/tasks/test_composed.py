"""Interaction of an input and a target: a mask that is augmented with its picture."""

import io

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from PIL import Image
from torchvision.tv_tensors import Mask

from hf_ft import ComposedTask, Input, Target
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import RecipeError
from hf_ft.inputs.decoded_rows import DecodedRows, fields_of
from hf_ft.inputs.image import ImageAugment, ImageInput
from hf_ft.recipe.joined_section import joined_section
from hf_ft.recipe.schema import Empty
from hf_ft.registry import get_task, list_tasks
from hf_ft.storage.row_store import RowStore
from hf_ft.targets.classes import ClassLoss, ClassWeights, MultiLabel, SingleLabel
from hf_ft.targets.numbers import Number
from hf_ft.task import MOVING, Preprocessed, Role

SIDE = tiny.SIDE


def grey(value, row_id):
    """Decode a mask; return a decoded mask unchanged."""
    if isinstance(value, Preprocessed):
        return value.tensor
    return torch.from_numpy(np.array(Image.open(io.BytesIO(value)) if isinstance(value, bytes) else value))


class DiscMask(Target):
    """Whether each pixel belongs to the disc; augmented with the picture; stores the original size."""

    problem, main_metric, greater_is_better = "mask", "iou", {"iou": True}
    media_roles = ("mask",)
    side_keys = ("sizes",)

    def fit(self, train):
        """Learn nothing from the rows."""

    def moving(self, row):
        return {"mask": Mask(grey(row["mask"], row["id"]))}

    def encode_row(self, row, item):
        mask = item[MOVING]["mask"]
        return {self.key: torch.as_tensor(mask) > 0, "sizes": torch.tensor(mask.shape)}

    def collate(self, items):
        return {key: torch.stack([item[key] for item in items]) for key in (self.key, "sizes")}

    def media(self, rows, *, preprocessed):
        return [{"mask": grey(row["mask"], row["id"])} for row in rows]

    def media_numbers(self, row):
        return grey(row["mask"], row["id"]).numel()


class Discs(ComposedTask):
    name = "discs"
    summary = "the disc in a picture"
    auto_class = "none"
    roles = {**ImageInput.roles, "mask": Role("its mask", target=True)}  # noqa: RUF012
    input_class, target_classes = ImageInput, (DiscMask,)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def table():
    """Red discs on black ground, and their masks."""
    images, masks = [], []
    for number in range(6):
        x, y = np.random.default_rng(number).integers(10, 22, 2)
        down, right = np.ogrid[:SIDE, :SIDE]
        disc = ((right - x) ** 2 + (down - y) ** 2 < 40).astype(np.uint8)
        red = np.stack([200 * disc, 0 * disc, 0 * disc], axis=2)
        images.append({"bytes": png(Image.fromarray(red)), "path": None})
        masks.append(png(Image.fromarray(disc)))
    rows = Dataset.from_dict({"image": images, "mask": masks, "note": ["x"] * 6})
    return Table(rows, {"image": "image", "mask": "mask"}, list("abcdef"))


def task_of(table, **augment):
    task = Discs(None, ImageAugment(**augment))
    task.fit(table)
    task.processor = tiny.image_processor()
    return task


def batch_of(task, rows, *, train=True, epoch=0):
    encoded = EncodedRows(task, rows, split="train", seed=5, train=train)
    return task.finish(encoded.collate(encoded.__getitems__([(epoch, row, True) for row in range(6)])))


@pytest.mark.parametrize(
    "augment", [{}, {"flip": "both"}, {"crop": 0.4}, {"policy": "light"}, {"policy": "light", "flip": "both"}]
)
def test_a_mask_moves_with_its_picture(table, augment):
    task = task_of(table, **augment)
    moved = False
    for epoch in range(4):
        batch = batch_of(task, table, epoch=epoch)
        # Pixels that a rotation uncovers are grey.
        red = batch["pixel_values"][:, 0] - batch["pixel_values"][:, 1] > 0.6
        overlap = (red & batch["labels"]).sum((1, 2)) / (red | batch["labels"]).sum((1, 2))
        assert overlap.min() > 0.7
        assert batch["sizes"].tolist() == [[SIDE, SIDE]] * 6
        moved |= not torch.equal(batch["labels"], batch_of(task, table, train=False)["labels"])
    assert moved == bool(augment)


def test_a_policy_that_moves_the_picture_alone_is_refused(table):
    with pytest.raises(RecipeError, match=r"augment\.policy: randaugment .* mask must move with it; .*light"):
        batch_of(task_of(table, policy="randaugment"), table)


def test_neither_targets_nor_side_keys_reach_the_model(table):
    task, seen = task_of(table), {}
    task.forward(lambda **inputs: seen.update(inputs), batch_of(task, table))
    assert set(seen) == {"pixel_values"} and task.side_keys == ("sizes",)


@pytest.mark.parametrize("preprocessed", [True, False])
def test_picture_and_mask_are_cached_decoded(table, tmp_path, preprocessed, monkeypatch):
    task = task_of(table, **({} if preprocessed else {"policy": "light"}))
    assert task.media_roles == ("image", "mask")
    media = task.media([table[0]], preprocessed=preprocessed)[0] if preprocessed else None
    lengths = [0 if preprocessed else task.media_numbers(row) for row in table]
    assert preprocessed or lengths == [4 * SIDE * SIDE] * 6
    store = RowStore(tmp_path, fields_of(task.media_roles, media), np.array(lengths, np.int64))
    rows = DecodedRows(task, table, store, preprocessed=preprocessed)
    expected = batch_of(task, table)
    for _ in range(2):
        found = batch_of(task, rows)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    monkeypatch.setattr(ImageInput, "media", lambda *given, **how: pytest.fail("decoded twice"))
    batch_of(task, rows)
    assert set(rows.others.columns) == set() and rows.read_stored(2)["mask"].shape == (SIDE, SIDE)


# Which classes may gather whole batches


def test_a_part_that_overrides_encode_is_not_gathered():
    class Inverted(ImageInput):
        def encode(self, rows, rngs):
            return super().encode(rows, rngs)

    class Whole(Inverted):
        def encode_batch(self, rows, indices):
            return super().encode_batch(rows, indices)

    class Rounded(Number):
        def encode(self, value):
            return super().encode(round(value))

    class OfItem(Number):
        def encode_row(self, row, item):
            return super().encode_row(row, item)

    def supported(input_class, target):
        kind = type("Made", (ComposedTask,), {
            "name": "made", "roles": {"label": Role("it", target=True)},
            "input_class": input_class, "target_classes": (target,),
        })  # fmt: skip
        return kind().supports_batch_encode

    assert supported(ImageInput, Number) and supported(Whole, SingleLabel) and supported(ImageInput, Rounded)
    assert not supported(Inverted, Number) and not supported(ImageInput, OfItem)


# Sections of the recipe


def test_sections_are_those_of_input_and_targets():
    found = get_task("text-classification")
    assert {"problem", "max_length", "thresholds", "standardise", "units"} <= set(found.Options.model_fields)
    assert set(found.Loss.model_fields) == {"class_weights", "label_smoothing", "kind", "delta"}
    assert found.Augment is Empty
    kind = type("Made", (ComposedTask,), {
        "name": "made", "roles": {}, "input_class": Input, "target_classes": (SingleLabel, Number),
    })  # fmt: skip
    assert kind.Options(problem="regression").problem == "regression" and kind.Options().problem is None
    with pytest.raises(ValueError, match="single-label"):
        kind.Options(problem="mask")
    with pytest.raises(ValueError, match="Extra inputs"):
        kind.Augment(policy="light")


def test_a_section_that_another_inherits_from_is_not_joined_twice():
    assert joined_section([ClassWeights, ClassLoss]) is ClassLoss
    assert joined_section([Empty, Empty]) is Empty


def test_keys_of_another_problem_are_refused():
    task = get_task("text-classification")
    with pytest.raises(RecipeError, match=r"task\.thresholds: .* problem single-label"):
        task(task.Options(problem="single-label", thresholds="tuned"))
    with pytest.raises(RecipeError, match=r"task\.units: .* problem multi-label"):
        task(task.Options(problem="multi-label", units={"label": "m"}))
    assert task(task.Options(problem="multi-label", thresholds="tuned")).target.problem == "multi-label"


# Mixing


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        (SingleLabel, ["a", "b"], [0.75, 0.25]),
        (MultiLabel, [["a", "b"], ["b"]], [0.75, 1.0]),
        (Number, [1.0, 3.0], [1.5]),
    ],
)
def test_targets_mix_by_the_share_of_each(target, values, expected):
    column = values * 3
    rows = Table(Dataset.from_dict({"label": column}), {"label": "label"}, [str(row) for row in range(6)])
    options = target.Options(**({"standardise": False} if target is Number else {}))
    made = target(options, target.Loss())
    made.fit(rows)
    mixed = made.mix([made.encode(value) for value in values], (0.75, 0.25))
    assert mixed.tolist() == expected and mixed.dtype == torch.float32
    assert made.collate([{"labels": mixed}, {"labels": mixed}])["labels"].shape == (2, len(expected))


@pytest.mark.parametrize("name", list_tasks())
def test_a_built_in_task_is_short(name):
    import inspect

    module = inspect.getmodule(get_task(name))
    assert len(inspect.getsource(module).splitlines()) <= 90
