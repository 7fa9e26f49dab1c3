import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_ft.data.dataset import EncodedRows
from hf_ft.errors import DataError
from hf_ft.task import Task


class Noise(Task):
    """A task whose item is the number of the row and, in training, a random number."""

    is_random = True

    mixing = False

    def encode(self, rows, rngs):
        draws = [0.0] * len(rows) if rngs is None else [float(rng.random()) for rng in rngs]
        return [{"x": row["x"], "noise": draw} for row, draw in zip(rows, draws, strict=True)]

    @property
    def mixes(self):
        return self.mixing

    def mix(self, item, others, rng):
        noise = sum(10 * other["noise"] for other in others)
        return {"x": item["x"], "noise": item["noise"] + noise + rng.random(), "other": others[0]["x"]}

    def collate(self, items):
        assert all("row" not in item and "real" not in item for item in items)
        return {key: torch.tensor([item[key] for item in items]) for key in items[0]}


class Rows(list):
    ids = tuple(map(str, range(20)))


def encoded(*, mixing=False, train=True, seed=3):
    task = Noise()
    task.mixing = mixing
    return EncodedRows(
        task, Rows({"x": x, "id": str(x)} for x in range(20)), split="train", seed=seed, train=train
    )


def run(data, indices, workers=0):
    batches = [indices[start : start + 4] for start in range(0, len(indices), 4)]
    loader = DataLoader(data, batch_sampler=batches, collate_fn=data.collate, num_workers=workers)
    return {
        (epoch, int(row)): float(noise)
        for part, batch in zip(batches, loader, strict=True)
        for (epoch, _, _), row, noise in zip(part, batch["row"], batch["noise"], strict=True)
    }


@pytest.mark.parametrize("mixing", [False, True])
def test_randomness_belongs_to_seed_epoch_and_row(mixing):
    """tf#39215, tf PR#46628: augmentation of a row must not depend on the rows read before it."""
    indices = [(epoch, row, True) for epoch in (0, 1) for row in range(20)]
    whole = run(encoded(mixing=mixing), indices)
    shuffled = [indices[place] for place in np.random.default_rng(0).permutation(40)]
    assert run(encoded(mixing=mixing), shuffled) == whole
    assert run(encoded(mixing=mixing), indices[24:]) == dict(list(whole.items())[24:])
    assert len(set(whole.values())) == 40
    assert not set(run(encoded(mixing=mixing, seed=4), indices).values()) & set(whole.values())


def test_workers_see_the_same_rows():
    indices = [(1, row, True) for row in range(20)]
    assert run(encoded(mixing=True), indices, workers=2) == run(encoded(mixing=True), indices)


def test_evaluation_is_not_random_and_never_mixes():
    assert set(run(encoded(mixing=True, train=False), [(5, row, True) for row in range(20)]).values()) == {
        0.0
    }


def test_batches_hold_the_position_of_rows_and_whether_they_are_real():
    data = encoded()
    batch = data.collate(data.__getitems__([(0, 7, True), (0, 2, False)]))
    assert batch["row"].tolist() == [7, 2] and batch["row"].dtype == torch.int64
    assert batch["real"].tolist() == [True, False] and batch["real"].dtype == torch.bool
    assert len(data) == 20 and data[(0, 7, True)]["x"] == 7


def test_mixing_draws_from_all_rows():
    data = encoded(mixing=True)
    items = data.__getitems__([(epoch, 0, True) for epoch in range(200)])
    assert {item["other"] for item in items} == set(range(20))


class Mosaic(Noise):
    """A task whose items mix four rows."""

    mixing = True
    mixed_with = 3

    def mix(self, item, others, rng):
        parts = [item, *others]
        return {"rows": [part["x"] for part in parts], "noise": [part["noise"] for part in parts]}


def test_a_task_says_how_many_rows_it_mixes():
    """Each of the mixed rows is augmented independently of the rest of the batch."""
    rows = Rows({"x": x, "id": str(x)} for x in range(20))
    data = EncodedRows(Mosaic(), rows, split="train", seed=3, train=True)
    indices = [(epoch, row, True) for epoch in range(30) for row in (4, 9)]
    whole = data.collate(data.__getitems__(indices))
    alone = data.collate(data.__getitems__(indices[7:8]))
    assert torch.equal(whole["rows"][7], alone["rows"][0])
    assert torch.equal(whole["noise"][7], alone["noise"][0])
    assert whole["rows"].shape == (60, 4) and whole["rows"][:, 0].tolist() == [4, 9] * 30
    assert all(len(set(noise.tolist())) == 4 for noise in whole["noise"])
    assert set(whole["rows"][:, 1:].flatten().tolist()) == set(range(20))


def test_the_random_numbers_of_mixing_have_a_fixed_order():
    """A seed gives the same rows as in earlier versions: partner, augmentation of it, then `mix`."""
    data = encoded(mixing=True)
    (item,) = data.__getitems__([(2, 5, True)])
    rng = np.random.default_rng((3, 2, 5))
    noise, other = rng.random(), int(rng.integers(20))
    expected = noise + 10 * np.random.default_rng((3, 2, 5, 1)).random() + rng.random()
    assert item["other"] == other and item["noise"] == expected


class Gathering(Noise):
    """A task that encodes whole batches if nothing is random."""

    def encode_batch(self, rows, indices):
        assert rows is not None and indices.dtype.kind == "i"
        x = torch.tensor([rows[index]["x"] for index in indices])
        return {"x": x, "noise": torch.zeros(len(indices))}


def gathering(*, train):
    rows = Rows({"x": x, "id": str(x)} for x in range(20))
    return EncodedRows(Gathering(), rows, split="train", seed=3, train=train)


def test_whole_batches_are_encoded_if_the_task_supports_it_and_rows_are_not_random():
    indices = [(0, 7, True), (0, 2, False)]
    data = gathering(train=False)
    assert isinstance(data.__getitems__(indices), dict)
    batch = data.collate(data.__getitems__(indices))
    assert batch["x"].tolist() == batch["row"].tolist() == [7, 2] and batch["real"].tolist() == [True, False]
    assert data[(0, 7, True)]["x"] == 7
    drawn = gathering(train=True)
    assert not drawn.supports_batch_encode and drawn.collate(drawn.__getitems__(indices))["noise"].all()
    assert not encoded(train=False).supports_batch_encode


def test_worker_processes_encode_the_same_batches():
    indices = [(1, row, True) for row in range(20)]
    assert run(gathering(train=False), indices, workers=2) == run(gathering(train=False), indices)


def test_encode_batch_that_differs_from_encode_is_refused():
    data = gathering(train=False)
    data.task.encode_batch = lambda rows, indices: {"x": torch.tensor(indices), "other": torch.ones(2)}
    with pytest.raises(DataError, match=r"Gathering.encode_batch: noise, other of the train rows \[0, 19\]"):
        data.__getitems__([(0, 0, True)])
