"""Which rows make up a global batch, for any division into processes and micro-batches."""

import itertools

import pytest
from hf_ft.data.sampler import EvalBatchSampler, GlobalBatchSampler, balanced_weights


def global_batches(rows, size, accumulation, processes, **options):
    """Put the shares of all processes together again: one set of rows per optimizer step."""
    samplers = [
        GlobalBatchSampler(
            rows, global_batch_size=size, accumulation=accumulation, processes=processes, rank=rank, seed=5, **options
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
    """tf#47688: the batch is what the recipe says, not what the launcher makes of it."""
    whole = global_batches(rows, 8, 1, 1)
    assert global_batches(rows, 8, accumulation, processes) == whole
    assert sorted(itertools.chain(*whole)) == list(range(rows))


def test_order_depends_on_seed_and_epoch_alone():
    sampler = GlobalBatchSampler(50, global_batch_size=10, seed=1)
    first, again = sampler.order(0), sampler.order(0)
    assert (first == again).all()
    assert (first != sampler.order(1)).any()
    assert (first != GlobalBatchSampler(50, global_batch_size=10, seed=2).order(0)).any()


def test_the_epoch_travels_with_the_index():
    """tf#39215: a worker process knows the epoch from the index, not from a setter that never reaches it."""
    sampler = GlobalBatchSampler(4, global_batch_size=2, seed=1)
    sampler.epoch = 3
    assert {epoch for batch in sampler for epoch, _, _ in batch} == {3}


def test_drop_last_leaves_out_the_short_batch():
    assert [len(step) for step in global_batches(11, 4, 1, 1, drop_last=True)] == [4, 4]


def test_balanced_weights_draw_classes_equally_often():
    classes = ["a"] * 90 + ["b"] * 10
    sampler = GlobalBatchSampler(100, global_batch_size=100, seed=0, weights=balanced_weights(classes))
    drawn = [row for epoch in range(20) for row in sampler.order(epoch)]
    share = sum(row >= 90 for row in drawn) / len(drawn)
    assert 0.45 < share < 0.55


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("rows", [1, 7, 13])
def test_evaluation_deals_every_row_once(rows, batch, processes):
    """tf#25939, accelerate#226: rows repeated to fill a batch must not count."""
    samplers = [EvalBatchSampler(rows, batch_size=batch, processes=processes, rank=rank) for rank in range(processes)]
    shares = [list(sampler) for sampler in samplers]
    assert len({len(share) for share in shares}) == 1 and len(shares[0]) == len(samplers[0])
    assert all(len(one) <= batch and one for share in shares for one in share)
    seen = sorted(row for share in shares for one in share for _, row, real in one if real)
    assert seen == list(range(rows))
