"""Batch samplers: a global batch has the same rows for any number of processes and micro-batches."""

import itertools

import pytest

from hf_ft.data.samplers import (
    EvalBatchSampler,
    GlobalBatchSampler,
    balanced_weights,
    batches_of,
    forward_batch,
)
from hf_ft.errors import DataError


def global_batches(rows, size, accumulation, processes, **options):
    """Join the micro-batches of all processes: one set of rows per optimizer step."""
    samplers = [
        GlobalBatchSampler(
            rows,
            global_batch_size=size,
            accumulation=accumulation,
            processes=processes,
            rank=rank,
            seed=5,
            **options,
        )
        for rank in range(processes)
    ]
    shares = [list(sampler) for sampler in samplers]
    assert len({len(share) for share in shares}) == 1, "processes must stay in step"
    assert len(shares[0]) == len(samplers[0]) == samplers[0].steps * accumulation
    steps = []
    for step in range(samplers[0].steps):
        micro = [share[step * accumulation : (step + 1) * accumulation] for share in shares]
        indices = [index for batch in itertools.chain(*micro) for index in batch]
        steps.append(sorted(row for _, row, real in indices if real))
    return steps


@pytest.mark.parametrize("accumulation", [1, 3, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("rows", [11, 32, 33, 7])
def test_global_batches_are_the_same_however_they_are_divided(rows, processes, accumulation):
    """tf#47688: the recipe sets the global batch size, for any number of processes."""
    whole = global_batches(rows, 8, 1, 1)
    assert global_batches(rows, 8, accumulation, processes) == whole
    assert sorted(itertools.chain(*whole)) == list(range(rows))


def test_order_depends_on_seed_and_epoch_alone():
    sampler = GlobalBatchSampler(50, global_batch_size=10, seed=1)
    first, again = sampler.order(0), sampler.order(0)
    assert (first == again).all()
    assert (first != sampler.order(1)).any()
    assert (first != GlobalBatchSampler(50, global_batch_size=10, seed=2).order(0)).any()


def test_the_epoch_is_part_of_the_index():
    """tf#39215: a worker process takes the epoch from the index; `set_epoch` does not reach it."""
    sampler = GlobalBatchSampler(4, global_batch_size=2, seed=1)
    sampler.epoch = 3
    assert {epoch for batch in sampler for epoch, _, _ in batch} == {3}


def test_balanced_weights_draw_classes_equally_often():
    classes = ["a"] * 90 + ["b"] * 10
    sampler = GlobalBatchSampler(100, global_batch_size=100, seed=0, weights=balanced_weights(classes))
    drawn = [row for epoch in range(20) for row in sampler.order(epoch)]
    share = sum(row >= 90 for row in drawn) / len(drawn)
    assert 0.45 < share < 0.55


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("rows", [1, 7, 13])
def test_evaluation_gives_every_row_to_one_process(rows, batch, processes):
    """tf#25939, accelerate#226: rows that fill up a batch must not be evaluated twice."""
    samplers = [
        EvalBatchSampler(rows, batch_size=batch, processes=processes, rank=rank) for rank in range(processes)
    ]
    shares = [list(sampler) for sampler in samplers]
    assert len({len(share) for share in shares}) == 1 and len(shares[0]) == len(samplers[0])
    assert all(len(one) <= batch and one for share in shares for one in share)
    seen = sorted(row for share in shares for one in share for _, row, real in one if real)
    assert seen == list(range(rows))


LENGTHS = [(row * 37) % 101 for row in range(203)]


def test_rows_of_similar_length_share_a_batch_and_every_row_is_used_once():
    sampler = GlobalBatchSampler(203, global_batch_size=8, seed=3, lengths=LENGTHS)
    order = sampler.order(0)
    assert sorted(order) == list(range(203))
    batches = [order[start : start + 8] for start in range(0, 200, 8)]
    spread = [max(LENGTHS[row] for row in batch) - min(LENGTHS[row] for row in batch) for batch in batches]
    assert max(spread) <= 12 < 101
    longest = [max(LENGTHS[row] for row in batch) for batch in batches]
    assert longest != sorted(longest), "the batches themselves must come in random order"
    assert (order == sampler.order(0)).all() and (order != sampler.order(1)).any()


def test_the_short_last_batch_does_not_hold_the_longest_rows():
    sampler = GlobalBatchSampler(203, global_batch_size=8, seed=3, lengths=LENGTHS)
    last = [LENGTHS[row] for epoch in range(40) for row in sampler.order(epoch)[200:]]
    assert 35 < sum(last) / len(last) < 65


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches_by_length_are_the_same_however_they_are_divided(processes):
    """tf#47688, with rows sorted by length."""
    whole = global_batches(203, 8, 1, 1, lengths=LENGTHS)
    assert global_batches(203, 8, 2, processes, lengths=LENGTHS) == whole
    assert sorted(itertools.chain(*whole)) == list(range(203))


def test_drawn_rows_are_sorted_by_length_too():
    weights = balanced_weights(["a"] * 200 + ["b"] * 3)
    sampler = GlobalBatchSampler(203, global_batch_size=8, seed=3, weights=weights, lengths=LENGTHS)
    order = sampler.order(0)
    assert len(order) == 203 and sum(row >= 200 for row in order) > 50
    spread = [
        max(LENGTHS[row] for row in b) - min(LENGTHS[row] for row in b) for b in order[:200].reshape(-1, 8)
    ]
    assert max(spread) <= 30


def test_balanced_drawing_refuses_rows_with_several_classes():
    with pytest.raises(DataError, match=r"data\.sampler: balanced needs one class per row"):
        balanced_weights([["a"], ["a", "b"]])


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_by_length_starts_with_the_longest_rows_and_uses_every_row_once(processes):
    lengths = [3, 9, 1, 9, 5]
    samplers = [
        EvalBatchSampler(5, batch_size=2, processes=processes, rank=r, lengths=lengths)
        for r in range(processes)
    ]
    assert [row for _, row, _ in next(iter(samplers[0]))] == [1, 3]
    seen = sorted(row for sampler in samplers for batch in sampler for _, row, real in batch if real)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("tokens", [50, 200, 1000])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_with_a_token_limit_uses_every_row_once(tokens, processes):
    samplers = [
        EvalBatchSampler(203, batch_size=64, processes=processes, rank=r, lengths=LENGTHS, tokens=tokens)
        for r in range(processes)
    ]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])}
    seen = [row for share in shares for batch in share for _, row, real in batch if real]
    assert sorted(seen) == list(range(203))


def test_batches_with_padding_stay_below_the_token_limit():
    batches = batches_of(203, 64, LENGTHS, 200)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(LENGTHS[row] for row in batch) <= 200
    assert max(len(batch) for batch in batches) > 4 * len(batches[0]), "short rows come many at a time"
    assert batches_of(3, 64, [500, 2, 0], 200) == [[0], [1, 2]]
    assert batches_of(3, 1, [1, 1, 0], 200) == [[0], [1], [2]]
    assert batches_of(5, 2) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("numbers", "device", "lengths", "expected"),
    [
        (3 * 224 * 224, "cpu", False, (8, None)),
        (3 * 1024 * 1024, "cpu", False, (1, None)),
        (2, "cpu", False, (64, None)),
        (3 * 224 * 224, "cuda", False, (64, None)),
        (64, "cpu", True, (256, 2048)),
        (64, "cuda", True, (256, 16384)),
    ],
)
def test_the_batch_size_of_forward_passes_without_gradients(numbers, device, lengths, expected):
    assert forward_batch(numbers, device, lengths=lengths) == expected


def test_a_single_last_row_joins_the_batch_before_it():
    """A batch norm cannot be trained on one row."""
    assert [len(step) for step in global_batches(9, 4, 1, 1)] == [4, 5]
    assert [len(step) for step in global_batches(1, 4, 1, 1)] == [1]
