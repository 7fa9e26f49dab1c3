"""Decoded rows: their values, the two forms of their media, and the rows that are not stored."""

import io
import pickle

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.inputs.decoded_rows import DecodedRows, fields_of
from hf_ft.storage.row_store import RowStore
from hf_ft.task import Preprocessed
from hf_ft.tasks.image_classification import ImageClassification

SIZES = [(12, 30), (40, 8), (25, 25), (3, 3), (32, 32)]


@pytest.fixture
def table():
    from datasets import Dataset

    def stored(index, size):
        file = io.BytesIO()
        noise = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    images = [stored(index, size) for index, size in enumerate(SIZES)]
    labels, groups = ["cat", "dog", "cat", "dog", "cat"], [1, 1, 2, 2, 3]
    rows = Dataset.from_dict({"picture": images, "label": labels, "group": groups})
    return Table(rows, {"image": "picture", "label": "label"}, list("abcde"))


@pytest.fixture
def task(table):
    task = ImageClassification()
    task.fit(table)
    task.processor = tiny.image_processor()
    return task


def decoded(task, table, folder, *, preprocessed):
    lengths = [0 if preprocessed else 3 * height * width for height, width in SIZES]
    store = RowStore(folder, fields(tiny.SIDE if preprocessed else None), np.array(lengths, np.int64))
    return DecodedRows(task, table, store, preprocessed=preprocessed)


def fields(height, width=tiny.SIDE):
    media = None if height is None else {"image": torch.zeros(3, height, width)}
    return fields_of(["image"], media)


def batch_of(task, rows, chosen):
    encoded = EncodedRows(task, rows, split="train", seed=1, train=False)
    return encoded.collate(encoded.__getitems__([(0, row, True) for row in chosen])), encoded


@pytest.mark.parametrize("preprocessed", [True, False])
def test_decoded_rows_encode_like_the_raw_rows(task, table, tmp_path, monkeypatch, preprocessed):
    rows = decoded(task, table, tmp_path, preprocessed=preprocessed)
    expected, _ = batch_of(task, table, [3, 1, 1, 4])
    for _ in range(2):
        found, encoded = batch_of(task, rows, [3, 1, 1, 4])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert encoded.supports_batch_encode == preprocessed
    monkeypatch.setattr(task, "media", lambda *rows, **how: pytest.fail("decoded twice"))
    batch_of(task, rows, [1, 3, 4])
    row = rows[3]
    assert row["label"] == "dog" and row["id"] == "d"
    assert isinstance(row["image"], Preprocessed) if preprocessed else row["image"].shape == (3, 3, 3)
    assert (len(rows), rows.ids, rows.column("group")) == (5, list("abcde"), [1, 1, 2, 2, 3])


@pytest.mark.parametrize("preprocessed", [True, False])
def test_a_selection_reads_its_own_rows(task, table, tmp_path, preprocessed):
    rows = decoded(task, table, tmp_path, preprocessed=preprocessed)
    batch_of(task, rows, [0, 1])
    few = rows.select([4, 0]).select([1, 0])
    found, expected = batch_of(task, few, [0, 1])[0], batch_of(task, table, [0, 4])[0]
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    assert few.ids == ["a", "e"]
    assert rows.store.filled.tolist() == [0, 1, 4]


def test_a_spawned_process_opens_the_same_files(task, table, tmp_path):
    rows = decoded(task, table, tmp_path, preprocessed=True)
    other = pickle.loads(pickle.dumps(rows))
    batch_of(other.task, other, [2])
    # The comparison of encode_batch and encode reads the first and the last row.
    assert rows.store.filled.tolist() == [0, 2, 4] and torch.equal(
        rows.read_stored(2)["image"], other.read_stored(2)["image"]
    )


def test_a_row_whose_header_has_a_wrong_size_is_decoded_each_time(task, table, tmp_path):
    lengths = np.array([3 * height * width for height, width in SIZES], np.int64)
    lengths[1] -= 3
    rows = DecodedRows(task, table, RowStore(tmp_path, fields(None), lengths), preprocessed=False)
    expected = batch_of(task, table, range(5))[0]["pixel_values"]
    for _ in range(2):
        assert torch.equal(batch_of(task, rows, range(5))[0]["pixel_values"], expected)
    assert rows.store.missing.tolist() == [1]


def test_rows_of_another_shape_are_refused_by_name(task, table, tmp_path):
    store = RowStore(tmp_path, fields(30), np.zeros(5, np.int64))
    with pytest.raises(DataError, match=r"row b: .* its image the shape \(3, 32, 32\), .*\(3, 30, 32\)"):
        DecodedRows(task, table, store, preprocessed=True)[1]


def test_media_are_counted_without_being_decoded(task, table, monkeypatch):
    Image.init()  # some plugins draw a picture of their own as they are imported
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    counts = [task.media_numbers(table[index]) for index in range(5)]
    assert counts == [3 * height * width for height, width in SIZES]
    broken = {"id": "x", "image": {"bytes": b"no picture", "path": "x.png"}}
    with pytest.raises(DataError, match=r"row x, file x.png: cannot open the image"):
        task.media_numbers(broken)
