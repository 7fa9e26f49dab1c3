"""The Predictor: results are in the order of the rows and equal to the outputs of the model."""

import contextlib
import threading

import numpy as np
import pytest
import tiny
import torch

from hf_ft.data.labels import LabelMap
from hf_ft.errors import DataError
from hf_ft.model.memory_format import choose_memory_format
from hf_ft.model.predictor import Predictor
from hf_ft.tasks.image_classification import ImageClassification
from hf_ft.tasks.text_classification import TextClassification

CPU = torch.device("cpu")
LABELS = {"labels": LabelMap.fit(tiny.LABELS, ["a", "b", "c"]).to_json()}


@pytest.fixture
def pictures():
    """Return a Predictor of pictures, and 23 rows."""
    task = ImageClassification()
    task.restore(LABELS)
    task.processor = tiny.image_processor()
    rng = np.random.default_rng(0)
    rows = [{"id": str(n), "image": rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)} for n in range(23)]
    return Predictor(tiny.resnet(), task, CPU), rows


@pytest.fixture
def texts():
    """Return a Predictor of texts, and 23 rows of 1 to 19 words."""
    task = TextClassification()
    task.processor = tiny.tokenizer()
    task.restore({"problem": "single-label", "columns": {"text": "text"}, "max_length": 32, **LABELS})
    rows = [{"id": str(n), "text": "one two " * (n * 7 % 10) + "three"} for n in range(23)]
    return Predictor(tiny.bert(), task, CPU), rows


def one_by_one(predictor, rows):
    return [predictor.results([row])[0]["logits"] for row in rows]


@pytest.mark.parametrize("kind", ["pictures", "texts"])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_results_are_in_order_for_any_batch(kind, batch_size, request):
    predictor, rows = request.getfixturevalue(kind)
    found = [result["logits"] for result in predictor.results(rows, batch_size)]
    assert np.allclose(found, one_by_one(predictor, rows), rtol=0, atol=1e-5)
    assert len({tuple(logits) for logits in found}) > 5, "rows that all give the same could be in any order"
    assert predictor.results([], batch_size) == []


def test_texts_of_similar_length_share_a_batch(texts, monkeypatch):
    monkeypatch.setattr("hf_ft.data.samplers.CPU_TOKENS", 64)
    predictor, rows = texts
    shapes = []
    collate = predictor.task.collate

    def watched(items):
        batch = collate(items)
        shapes.append(tuple(batch["input_ids"].shape))
        return batch

    monkeypatch.setattr(predictor.task, "collate", watched)
    predictor.results(rows)
    batches = shapes[1:]  # the first call encodes one row to choose the batch size
    assert sum(count for count, _ in batches) == 23 and max(count for count, _ in batches) > 2
    assert all(count * length <= 64 or count == 1 for count, length in batches)
    assert [length for _, length in batches] == sorted((length for _, length in batches), reverse=True)


@pytest.mark.parametrize(("kind", "several"), [("pictures", True), ("texts", False)])
def test_rows_are_encoded_in_threads_only_if_the_task_allows_it(kind, several, request, monkeypatch):
    """A fast tokenizer raises "Already borrowed" if two threads call it at once (tokenizers#537)."""
    predictor, rows = request.getfixturevalue(kind)
    monkeypatch.setattr("hf_ft.model.predictor._CHUNK", 2)
    monkeypatch.setattr("hf_ft.model.predictor.usable_cores", lambda: 4)
    inside, most, lock, encode = [0], [0], threading.Lock(), predictor.task.encode
    together = threading.Barrier(2, timeout=2 if several else 0.05)

    def watched(part, rngs):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        if threading.current_thread() is not threading.main_thread() and not together.broken:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait()
        with lock:
            inside[0] -= 1
        return encode(part, rngs)

    monkeypatch.setattr(predictor.task, "encode", watched)
    predictor.results(rows, 2)
    assert (most[0] > 1) == several


def test_a_damaged_picture_is_named(pictures):
    predictor, rows = pictures
    rows[17] = {"id": "spoilt.png", "image": {"bytes": b"no picture", "path": None}}
    with pytest.raises(DataError, match=r"row spoilt\.png"):
        predictor.results(rows, 2)


def test_the_memory_format_does_not_change_the_outputs(pictures):
    predictor, rows = pictures
    before = [result["logits"] for result in predictor.results(rows)]
    assert choose_memory_format(predictor.model).startswith("channels_last")
    weights = [value for value in predictor.model.parameters() if value.ndim == 4 and value.shape[2] > 1]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
    after = [result["logits"] for result in predictor.results(rows)]
    assert np.allclose(before, after, rtol=0, atol=1e-5)
    assert choose_memory_format(tiny.vit()) is None


def test_batch_norms_are_folded_if_the_outputs_stay_equal(pictures, monkeypatch):
    monkeypatch.setattr("hf_ft.model.predictor._WORTH_FOLDING", 23)
    predictor, rows = pictures
    plain = one_by_one(Predictor(predictor.model, predictor.task, torch.device("cpu"), predictor.model), rows)
    found = [result["logits"] for result in predictor.results(rows)]
    assert predictor.faster is not predictor.model
    assert np.allclose(found, plain, rtol=0, atol=1e-5)
    monkeypatch.setattr(
        "hf_ft.model.predictor.fold_batch_norms", lambda *_: tiny.resnet(hidden_sizes=[8, 8, 8, 8])
    )
    predictor.faster = None
    predictor.results(rows)
    assert predictor.faster is predictor.model, "a network that answers otherwise must not be used"
