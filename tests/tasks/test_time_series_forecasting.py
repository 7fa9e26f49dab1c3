"""Forecasting: from a table to a verified model, and to forecasts in original units."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
import torch
from series_tables import frame

from hf_ft import Predictor, finetune
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.prepare import prepare
from hf_ft.errors import DataError, ModelError
from hf_ft.evaluate.loop import evaluate_rows
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task
from hf_ft.tasks.time_series_forecasting import TimeSeriesForecasting

PATCHTST = {
    "d_model": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "pooling_type": None,
}
MIXER = {"d_model": 8, "num_layers": 1, "dropout": 0.0, "head_dropout": 0.0}
SIZES = {"patchtst": PATCHTST, "patchtsmixer": MIXER}


def data(rows=260, **columns):
    found = frame(rows, **columns)
    found["target"] += np.random.default_rng(0).normal(0, 0.1, rows)
    return found


def recipe(folder, model="patchtst", *, columns=None, train=None, split=None, loss=None, config=None, **task):
    lengths = {"context_length": 24, "horizon": 4, "trees": False}
    return load_recipe(
        {
            "task": {"name": "time-series-forecasting", **lengths, **task},
            "name": "series",
            "output_dir": str(folder / "run"),
            "data": {"source": "unused", "columns": columns or {}, "split": split or {"validation": 0.2}},
            "model": {"name": model, "from_scratch": True, "config": SIZES.get(model, {}) | (config or {})},
            "loss": loss or {},
            "train": {"num_train_epochs": 1, "global_batch_size": 32, "learning_rate": 1e-2, **(train or {})},
            "evaluate": {"resamples": 100},
        }
    )


def prepare_task(chosen, table):
    task = new_task(chosen)
    prepared = prepare(chosen, task, data=table, cache=None)
    return task, prepared


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("model", ["patchtst", "patchtsmixer"])
def test_a_whole_run(model, tmp_path):
    run = finetune(recipe(tmp_path, model, split={"validation": 0.2, "test": 0.2}), data=data())
    assert all(item["passed"] for item in run.verification)
    test = run.results["splits"]["test"]
    assert test["rows"] == 52 - 4 + 1
    assert {"mae", "rmse", "mse_scaled", "mae_scaled", "mase"} <= set(test["metrics"])
    assert list(test["baseline"]) == ["the last value", "the value a season ago"]
    assert all("mae" in scores for scores in test["baseline"].values())
    predictions = pandas.read_parquet(run.folder / "predictions.parquet")
    predictions = predictions[predictions["split"] == "test"].reset_index()
    assert len(predictions) == 49 and len(predictions["forecast"][0]) == 4
    assert (run.folder / "report.html").exists()
    # Predict from a table of recent rows, and from a window of the run.
    whole = data()
    forecast = Predictor.load(run.folder)(whole[: len(whole) - 4])[0]
    assert forecast["start"] == pandas.Timestamp(whole["timestamp"].iloc[-4]).isoformat()
    assert np.allclose(forecast["forecast"], predictions["forecast"].iloc[-1], atol=1e-4)


@pytest.mark.slow
def test_training_learns_the_wave(tmp_path):
    chosen = recipe(tmp_path, train={"num_train_epochs": 12}, config={"scaling": None})
    run = finetune(chosen, data=data(500))
    found = run.results["splits"]["validation"]
    assert found["metrics"]["mae"] < 0.5 * found["baseline"]["the last value"]["mae"]


def test_the_interval_draws_days_and_not_overlapping_windows(tmp_path):
    task, prepared = prepare_task(recipe(tmp_path, split={"validation": 72}), data())
    rows = prepared.rows["validation"]
    groups = task.groups(rows)
    days = {(row["series"], pandas.Timestamp(row["start"]).date()) for row in rows}
    assert len(groups) == len(rows) and len(set(groups)) == len(days) == 4
    assert task.groups(rows.select(range(4))) is None


def test_random_rows_are_never_drawn_from_a_series(tmp_path):
    """Splits are cut by time by default: a random split of steps would train on the future."""
    _, prepared = prepare_task(recipe(tmp_path), data())
    train, validation = prepared.rows["train"], prepared.rows["validation"]
    assert train.target_times().max() < validation.target_times().min()
    assert validation.ids[0] == "train/208"


def test_a_split_by_a_column_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data.split.by: the rows are steps in time"):
        prepare_task(recipe(tmp_path, split={"validation": 0.2, "by": "site"}), data(site="a"))


def test_the_standard_protocol_of_row_ranges(tmp_path):
    chosen = recipe(tmp_path, split={"validation": 40, "test": 40})
    section = chosen.data.model_copy(update={"rows": [0, 200]})
    _, prepared = prepare_task(chosen.model_copy(update={"data": section}), data())
    assert {split: len(rows) for split, rows in prepared.rows.items()} == {
        "train": 93,
        "validation": 37,
        "test": 37,
    }
    assert prepared.rows["test"].ids[-1] == "train/196"


def test_the_scale_is_learned_from_train_alone(tmp_path):
    table = data()
    later = table.copy()
    later.loc[208:, "target"] = 1e6
    first, second = (prepare_task(recipe(tmp_path), one)[0] for one in (table, later))
    assert first.state() == second.state()
    assert first.input.scaler.mean[0] == pytest.approx(table["target"][:208].mean())
    assert first.input.scaler.std[0] == pytest.approx(table["target"][:208].std(ddof=0))


def test_known_columns_arrive_shifted_by_the_horizon_and_past_ones_do_not(tmp_path):
    table = data(plan=np.arange(260.0), load=np.arange(260.0))
    chosen = recipe(tmp_path, columns={"past": "load", "known": "plan"}, calendar=["hour_of_day"])
    task, prepared = prepare_task(chosen, table)
    rows = prepared.rows["train"]
    items = task.encode([rows[0]], None)
    past = items[0]["past_values"]
    assert past.shape == (24, 5)
    plan = past[:, 2] * task.input.scaler.std[2] + task.input.scaler.mean[2]
    load = past[:, 1] * task.input.scaler.std[1] + task.input.scaler.mean[1]
    assert np.allclose(load, np.arange(24), atol=1e-4), "nothing after the present"
    assert np.allclose(plan, np.arange(4, 28), atol=1e-4), "up to the last step to forecast"


def _with_holes(table):
    table = table.copy()
    table.loc[[40, 41, 90], "target"] = np.nan
    table.loc[[3, 60], "load"] = np.nan
    return table


COVARIATES = {"load": np.linspace(0, 1, 260) ** 3, "plan": np.arange(260)}
ROLES = {"past": "load", "known": "plan"}
TWO_SITES = pandas.concat([data(130, site="a"), data(130, site="b")], ignore_index=True)
WAYS = {
    "one target": (data(), {}),
    "covariates": (data(**COVARIATES), {"columns": ROLES, "calendar": ["hour_of_day"]}),
    "calendar alone": (data(), {"calendar": ["weekend"]}),
    "several targets": (data(**COVARIATES), {"columns": {"target": ["load", "target"], "known": "plan"}}),
    "several series": (TWO_SITES, {"columns": {"series_id": "site"}}),
    "holes left out": (_with_holes(data(**COVARIATES)), {"columns": ROLES, "missing": "drop_windows"}),
    "holes filled": (_with_holes(data(**COVARIATES)), {"columns": ROLES, "missing": "interpolate"}),
    "float32 source": (data().astype({"target": np.float32}), {"stride": 3}),
}


def encoded(task, prepared, split, train=False):
    return EncodedRows(task, prepared.rows[split], split=split, seed=prepared.seed, train=train)


@pytest.mark.parametrize("way", WAYS)
def test_a_gathered_batch_is_that_of_its_rows_bit_for_bit(way, tmp_path):
    table, options = WAYS[way]
    task, prepared = prepare_task(recipe(tmp_path, **options), table)
    for split, train in (("train", True), ("validation", False)):
        rows = encoded(task, prepared, split, train=train)
        assert rows.supports_batch_encode
        order = np.random.default_rng(0).permutation(len(rows)).tolist()
        indices = [(2, row, row % 5 > 0) for row in [*order, order[0]]]
        gathered = rows.collate(rows.__getitems__(indices))
        single = rows.collate(rows.items(indices))
        assert list(gathered) == list(single)
        for key, value in single.items():
            assert gathered[key].dtype == value.dtype and torch.equal(gathered[key], value), key
        assert gathered["past_values"].dtype == gathered["future_values"].dtype == torch.float32


class Shifted(TimeSeriesForecasting):
    """Overrides `encode` of a base class that has `encode_batch`."""

    def encode(self, rows, rngs):
        return [{**item, "past_values": item["past_values"] + 1} for item in super().encode(rows, rngs)]


def test_a_task_that_overrides_encode_does_not_inherit_encode_batch(tmp_path):
    task, prepared = prepare_task(recipe(tmp_path), data())
    other = Shifted(task.options)
    other.restore(task.state())
    plain, rows = (encoded(one, prepared, "train", train=True) for one in (task, other))
    assert plain.supports_batch_encode and not rows.supports_batch_encode
    found, shifted = (one.collate(one.__getitems__([(0, 5, True)]))["past_values"] for one in (plain, rows))
    assert torch.equal(shifted, found + 1)


def test_covariates_reach_the_targets(tmp_path):
    """PatchTST and PatchTSMixer do not mix channels by default: covariates would be read but not used."""
    table = data(load=np.random.default_rng(1).normal(0, 1, 260))
    for model in SIZES:
        chosen = recipe(tmp_path, model, columns={"past": "load"})
        task, prepared = prepare_task(chosen, table)
        network = task.load(chosen.model).model
        batch = task.collate(task.encode([prepared.rows["train"][0]], None))
        moved = dict(batch, past_values=batch["past_values"].clone())
        moved["past_values"][..., 1] += torch.randn(24)
        with torch.no_grad():
            answers = [task.answer(task.forward(network, one)) for one in (batch, moved)]
        targets = [answer[..., :1] for answer in answers]
        assert not torch.allclose(*targets), model
        assert targets[0].shape == (1, 4, 1)


def test_unmixed_channels_are_refused_with_covariates(tmp_path):
    chosen = recipe(tmp_path, columns={"past": "load"}, config={"channel_attention": False})
    task, _ = prepare_task(chosen, data(load=1.0 * np.arange(260)))
    with pytest.raises(ModelError, match="channel_attention: with False the channels are not mixed"):
        task.load(chosen.model)


def test_another_kind_of_model_is_refused(tmp_path):
    chosen = recipe(tmp_path, "bert")
    with pytest.raises(ModelError, match="of the type 'bert'; expected patchtst or patchtsmixer"):
        prepare_task(chosen, data())[0].load(chosen.model)


def test_a_checkpoint_is_read_and_its_context_length_is_required(tmp_path):
    chosen = recipe(tmp_path)
    task, _ = prepare_task(chosen, data())
    task.load(chosen.model).model.save_pretrained(tmp_path / "checkpoint")
    section = chosen.model.model_copy(
        update={"name": str(tmp_path / "checkpoint"), "from_scratch": False, "config": {}}
    )
    assert task.load(section).new == []
    task, _ = prepare_task(recipe(tmp_path, context_length=32), data())
    with pytest.raises(ModelError, match=r"pretrained on 24 steps .* set task.context_length: 24"):
        task.load(section)


def test_another_horizon_makes_a_new_head_and_nothing_else(tmp_path):
    chosen = recipe(tmp_path)
    task, _ = prepare_task(chosen, data())
    task.load(chosen.model).model.save_pretrained(tmp_path / "checkpoint")
    section = chosen.model.model_copy(
        update={"name": str(tmp_path / "checkpoint"), "from_scratch": False, "config": {}}
    )
    other, _ = prepare_task(recipe(tmp_path, horizon=6), data())
    assert set(other.load(section).new) == {"head.projection.weight", "head.projection.bias"}


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_one_loss_a_row(kind, tmp_path):
    chosen = recipe(tmp_path, loss={"kind": kind, "delta": 0.5})
    task, prepared = prepare_task(chosen, data())
    network = task.load(chosen.model).model
    batch = task.collate(task.encode([prepared.rows["train"][i] for i in range(3)], None))
    outputs = task.forward(network, batch)
    found = task.loss(network, outputs, batch)
    difference = task.answer(outputs)[..., :1] - batch["future_values"]
    small = difference.abs() < 0.5
    expected = {
        "mse": difference**2,
        "mae": difference.abs(),
        "huber": torch.where(small, 0.5 * difference**2, 0.5 * (difference.abs() - 0.25)),
    }[kind]
    assert torch.allclose(found, expected.mean(dim=(1, 2)))
    assert found.shape == (3,)


def test_the_loss_of_mse_is_the_scaled_mse(tmp_path):
    chosen = recipe(tmp_path)
    task, prepared = prepare_task(chosen, data())
    network = task.load(chosen.model).model
    found = evaluate_rows(task, network, encoded(task, prepared, "validation"), batch_size=13).metrics
    assert found["loss"] == pytest.approx(found["mse_scaled"], rel=1e-4)


def test_the_state_restores_everything_that_prediction_needs(tmp_path):
    task, prepared = prepare_task(recipe(tmp_path, calendar=["weekend"]), data())
    again = new_task(recipe(tmp_path, calendar=["weekend"]))
    again.restore(json.loads(json.dumps(task.state(), allow_nan=False)))
    row = prepared.rows["validation"][3]
    assert np.array_equal(
        task.encode([row], None)[0]["past_values"], again.encode([row], None)[0]["past_values"]
    )
    assert again.state() == task.state()


def test_several_series_and_several_targets_in_one_table(tmp_path):
    sites = [data(150, site=name, flow=np.arange(150.0) + level) for name, level in (("a", 0), ("b", 500))]
    columns = {"target": ["target", "flow"], "series_id": "site"}
    chosen = recipe(tmp_path, columns=columns, calendar=["hour_of_day"])
    run = finetune(chosen, data=pandas.concat(sites, ignore_index=True))
    assert [row["target"] for row in run.results["splits"]["validation"]["metrics"]["per_target"]] == [
        "target",
        "flow",
    ]
    found = run.predictor()(pandas.concat(sites, ignore_index=True))
    assert len(found) == 2 and set(found[0]["forecast"]) == {"target", "flow"}
    assert found[1]["forecast"]["flow"][0] > found[0]["forecast"]["flow"][0] + 100


def test_prediction_inputs_are_checked(tmp_path):
    chosen = recipe(tmp_path, columns={"known": "plan"})
    table = data(plan=1.0 * np.arange(260))
    task, _ = prepare_task(chosen, table)
    with pytest.raises(DataError, match="missing columns: plan"):
        task.read_inputs(table.drop(columns="plan"))
    with pytest.raises(DataError, match="found 10 steps with values; the model needs 24"):
        task.read_inputs(table[:10])
    with pytest.raises(
        DataError, match=r"found 0 rows after the last target value; expected plan for the 4 steps"
    ):
        task.read_inputs(table)
    ahead = table.copy()
    ahead.loc[256:, "target"] = np.nan
    row = task.read_inputs(ahead)[0]
    assert row["id"] == "255" and np.allclose(row["ahead"][-4:, 0], np.arange(256, 260))
    ahead.loc[250, "target"] = np.nan
    with pytest.raises(DataError, match="1 values that the model reads are missing"):
        task.read_inputs(ahead)


def test_files_are_read_for_prediction(tmp_path):
    task, prepared = prepare_task(recipe(tmp_path, calendar=["hour_of_day"]), data())
    data().to_csv(tmp_path / "history.csv", index=False)
    row = task.read_inputs(tmp_path / "history.csv")[0]
    last = prepared.rows["validation"][len(prepared.rows["validation"]) - 1]
    assert np.allclose(row["history"][:20], last["history"][4:])
    assert np.allclose(row["ahead"][:24], last["ahead"][4:])
    assert pandas.Timestamp(row["start"]) == pandas.Timestamp(
        data()["timestamp"].iloc[-1]
    ) + pandas.Timedelta("1h")
