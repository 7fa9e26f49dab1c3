"""The evaluation loop: every row once, and a loss that does not depend on the batch."""

import points
import pytest
import torch

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.evaluate.loop import evaluate_rows


@pytest.fixture
def evaluated():
    from datasets import Dataset

    rows = points.rows(23)
    table = Table(Dataset.from_list(rows), {"point": "point", "label": "label"}, [f"r{i}" for i in range(23)])
    task = points.Points()
    task.fit(table)
    torch.manual_seed(0)
    model = points.PointModel(points.PointConfig(num_labels=2))
    encoded = EncodedRows(task, table, split="test", seed=0, train=False)
    return lambda **options: evaluate_rows(task, model, encoded, **options), model


@pytest.mark.parametrize("batch_size", [1, 3, 8, 23, 64, None])
def test_loss_and_metrics_do_not_depend_on_the_batch(evaluated, batch_size):
    """tf#39241: the Trainer's eval_loss is a mean of batch means; 23 rows divide by nothing."""
    run, _ = evaluated
    whole, parts = run(batch_size=23), run(batch_size=batch_size)
    assert parts.ids == [f"r{i}" for i in range(23)]
    assert parts.losses == pytest.approx(whole.losses, abs=1e-6)
    assert parts.metrics["loss"] == pytest.approx(sum(whole.losses) / 23, abs=1e-6)
    assert parts.metrics["accuracy"] == whole.metrics["accuracy"]


def test_mode_and_random_state_are_given_back(evaluated):
    run, model = evaluated
    model.train()
    state = torch.get_rng_state()
    first, again = run(batch_size=5), run(batch_size=5)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert first.losses == again.losses  # dropout was off


def test_a_lost_row_is_noticed(evaluated, monkeypatch):
    """tf#25939: images missed by the metric."""
    from hf_ft.data import samplers as sampler

    honest = sampler.EvalBatchSampler.__iter__
    monkeypatch.setattr(sampler.EvalBatchSampler, "__iter__", lambda self: iter(list(honest(self))[:-1]))
    with pytest.raises(DataError, match="rows not counted exactly once"):
        evaluated[0](batch_size=4)


def test_a_repeated_row_is_noticed(evaluated, monkeypatch):
    """accelerate#226: rows repeated to fill the last batch."""
    from hf_ft.data import samplers as sampler

    honest = sampler.EvalBatchSampler.__iter__
    monkeypatch.setattr(
        sampler.EvalBatchSampler, "__iter__", lambda self: iter([*honest(self), [(0, 0, True)]])
    )
    with pytest.raises(DataError, match="r0 x2"):
        evaluated[0](batch_size=4)
