"""The image task without a run: encoding, mixing, weights, inputs."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import DataError, RecipeError
from hf_ft.inputs.image import ImageAugment as Augment
from hf_ft.targets.classes import ClassLoss as Loss
from hf_ft.tasks.image_classification import ImageClassification, Options


def picture(value):
    return Image.new("RGB", (40, 30), (value, 255 - value, 7))


@pytest.fixture
def table(tmp_path):
    from datasets import Dataset

    paths = []
    for index in range(6):
        picture(40 * index).save(tmp_path / f"{index}.png")
        paths.append({"bytes": None, "path": str(tmp_path / f"{index}.png")})
    labels = ["cat", "dog", "cat", "cat", "cat", "dog"]
    return Table(
        Dataset.from_dict({"image": paths, "label": labels}),
        {"image": "image", "label": "label"},
        list("abcdef"),
    )


def fitted(table, **sections):
    task = ImageClassification(Options(), sections.get("augment"), sections.get("loss"))
    task.fit(table)
    task.processor = tiny.image_processor()
    return task


def batch_of(task, table, *, epoch=0, train=True, rows=range(6)):
    encoded = EncodedRows(task, table, split="train", seed=3, train=train)
    return task.finish(encoded.collate(encoded.__getitems__([(epoch, row, True) for row in rows])))


def test_the_saved_processor_makes_the_pixels(table):
    task = fitted(table)
    batch = batch_of(task, table, train=False)
    expected = task.processor([picture(40 * index) for index in range(6)], return_tensors="pt")[
        "pixel_values"
    ]
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == [0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("augment", [{}, {"policy": "light"}, {"mixup": 0.4}])
def test_pixels_travel_as_bytes_unless_they_are_mixed(table, augment, train):
    task = fitted(table, augment=Augment(**augment))
    rows = EncodedRows(task, table, split="train", seed=3, train=train)
    raw = rows.collate(rows.__getitems__([(0, row, True) for row in range(6)]))
    mixed = train and "mixup" in augment
    assert raw["pixel_values"].dtype == (torch.float32 if mixed else torch.uint8)
    assert task.finish(raw)["pixel_values"].dtype == torch.float32


def test_a_batch_of_worker_processes_is_finished_by_a_task_that_encoded_nothing(table):
    encoding, finishing = fitted(table), fitted(table)
    rows = EncodedRows(encoding, table, split="train", seed=3, train=False)
    raw = rows.collate(rows.__getitems__([(0, row, True) for row in range(6)]))
    assert torch.equal(
        finishing.finish(raw)["pixel_values"], batch_of(encoding, table, train=False)["pixel_values"]
    )


def test_notes_say_how_pixels_are_processed(table):
    task = fitted(table)
    notes = task.notes({"train": table})
    assert "uint8, normalised on the device" in notes[-1]
    assert task.notes({"train": table}) == notes and task.input.two_stage is None
    mixing = fitted(table, augment=Augment(cutmix=1.0))
    assert mixing.notes({"train": table})[-1].startswith("pixels: floats of the processor in training")


@pytest.mark.parametrize(
    "augment",
    [
        {"policy": "light"},
        {"policy": "randaugment"},
        {"policy": "trivialaugment"},
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"mixup": 0.4, "cutmix": 1.0, "policy": "light", "flip": "both", "crop": 0.5},
    ],
)
def test_pixels_depend_on_seed_epoch_and_row_alone(table, augment):
    """tf#39215: however the rows are divided into batches, and whatever else draws random numbers."""
    task = fitted(table, augment=Augment(**augment))
    whole = batch_of(task, table, epoch=1)
    torch.manual_seed(5)
    parts = [batch_of(task, table, epoch=1, rows=rows) for rows in ([4, 5], [0, 1, 2, 3])]
    assert torch.equal(torch.cat([parts[1]["pixel_values"], parts[0]["pixel_values"]]), whole["pixel_values"])
    assert torch.equal(torch.cat([parts[1]["labels"], parts[0]["labels"]]), whole["labels"])
    assert not torch.equal(batch_of(task, table, epoch=2)["pixel_values"], whole["pixel_values"])
    plain = batch_of(task, table, train=False)
    assert not torch.equal(plain["pixel_values"], whole["pixel_values"])


def test_mixed_labels_are_shares(table):
    batch = batch_of(fitted(table, augment=Augment(mixup=1.0)), table)
    assert batch["labels"].shape == (6, 2) and torch.allclose(batch["labels"].sum(1), torch.ones(6))
    assert ((batch["labels"] > 0.01) & (batch["labels"] < 0.99)).any()


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_class_weights_give_the_weighted_mean(table, mixup):
    """tf#15450: class weights without a subclass; sum of losses over sum of counts is torch's mean."""
    task = fitted(table, loss=Loss(class_weights="balanced"), augment=Augment(mixup=mixup))
    assert task.target.weights == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])
    batch = batch_of(task, table)
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))

    outputs = {"logits": logits}
    model = torch.nn.Linear(1, 1).eval()
    mean = task.loss(model, outputs, batch).sum() / task.count(batch).sum()
    weights = torch.tensor(task.target.weights)
    if mixup:
        expected = (
            -(batch["labels"] * weights * logits.log_softmax(-1)).sum() / (batch["labels"] @ weights).sum()
        )
    else:
        expected = torch.nn.functional.cross_entropy(logits, batch["labels"], weight=weights)
    assert mean.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_configuration_says_what_kind_of_answer_it_is(table):
    """tf PR#11012: else a model that is trained on guesses its loss from its first batch."""
    assert fitted(table).target.config["problem_type"] == "single_label_classification"


def test_weights_by_name_and_an_unknown_name(table):
    assert fitted(table, loss=Loss(class_weights={"dog": 3.0})).target.weights == [1.0, 3.0]
    with pytest.raises(RecipeError, match=r"loss.class_weights: no class 'dgo'"):
        fitted(table, loss=Loss(class_weights={"dgo": 3.0}))


def test_inputs_of_every_kind(table, tmp_path):
    import pandas

    task = fitted(table)
    frame = pandas.DataFrame(
        {"picture": [str(tmp_path / "0.png"), str(tmp_path / "1.png")], "note": ["x", "y"]}
    )
    frame.to_csv(tmp_path / "list.csv", index=False)
    kinds = [
        (str(tmp_path / "0.png"), 1),
        (tmp_path, 6),
        ([tmp_path / "0.png", picture(3)], 2),
        (frame, 2),
        (tmp_path / "list.csv", 2),
        (np.zeros((8, 8, 3), np.uint8), 1),
        ([{"image": picture(1)}], 1),
    ]
    for given, count in kinds:
        rows = task.read_inputs(given)
        assert len(rows) == count and len(task.encode(rows, None)) == count
        assert len({row["id"] for row in rows}) == count
    with pytest.raises(DataError, match="there is no such file or folder"):
        task.read_inputs("missing.png")


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_must_be_positive(weight):
    with pytest.raises(ValueError, match="greater than 0"):
        Loss(class_weights={"dog": weight})
