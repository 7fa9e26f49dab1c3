"""Time-series regression: the model predicts a number from a whole series and sees its level."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
import torch

from hf_ft import Predictor, finetune
from hf_ft.data.prepare import prepare
from hf_ft.errors import DataError
from hf_ft.inputs.series.options import WholeSeriesOptions
from hf_ft.inputs.series.whole_series import SeriesInput
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task

SIZES = {
    "patchtst": {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32},
    "patchtsmixer": {"d_model": 8, "num_layers": 1, "dropout": 0.0, "head_dropout": 0.0},
}


def rows(count=60, channels=1, seed=0):
    """Series whose target is their level."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 10, count)
    series = {f"dim_{i}": [list(lev + rng.normal(0, 0.3, 16)) for lev in level] for i in range(channels)}
    return pandas.DataFrame({**series, "target": 100 * level})


def recipe(folder, model="patchtst", *, columns=None, train=None, config=None, **task):
    return load_recipe(
        {
            "task": {"name": "time-series-regression", "trees": False, **task},
            "name": "series",
            "output_dir": str(folder / "run"),
            "data": {"source": "unused", "columns": columns or {}, "split": {"validation": 0.25}},
            "model": {"name": model, "from_scratch": True, "config": {**SIZES[model], **(config or {})}},
            "train": {"num_train_epochs": 1, "global_batch_size": 16, "learning_rate": 1e-2, **(train or {})},
            "evaluate": {"resamples": 100},
        }
    )


def prepare_task(chosen, table):
    task = new_task(chosen)
    return task, prepare(chosen, task, data=table, cache=None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("model", "channels"), [("patchtst", 1), ("patchtsmixer", 2)])
def test_a_whole_run(model, channels, tmp_path):
    names = [f"dim_{i}" for i in range(channels)]
    run = finetune(
        recipe(tmp_path, model, columns={"series": names}, trees=channels == 1), data=rows(channels=channels)
    )
    assert all(item["passed"] for item in run.verification)
    found = run.results["splits"]["validation"]
    assert {"mae", "rmse", "r2"} <= set(found["metrics"])
    assert found["baseline"]["the mean of train"]["rmse"] > 0
    assert ("boosted trees on all values of the series" in found["baseline"]) == (channels == 1)
    table = rows(4, channels, seed=1)
    table.to_parquet(tmp_path / "new.parquet")
    predictor = Predictor.load(run.folder)
    from_file = [one["value"] for one in predictor(tmp_path / "new.parquet")]
    values = [np.array([row[name] for name in names]) for _, row in table.iterrows()]
    from_rows = [one["value"] for one in predictor([{"series": one} for one in values])]
    assert np.allclose(from_file, from_rows) and np.isfinite(from_file).all()


@pytest.mark.parametrize("model", SIZES)
def test_the_level_of_a_series_is_seen(model, tmp_path):
    """The models' own scaling removes the level of a series: FloodModeling1 0.0169 with it, 0.004 without."""
    chosen = recipe(tmp_path, model)
    task, prepared = prepare_task(chosen, rows())
    loaded = task.load(chosen.model)
    assert loaded.model.config.scaling is None
    assert any("scaling: null" in note for note in loaded.notes)
    batch = task.collate(task.encode([prepared.rows["train"][0]], None))
    raised = {"past_values": batch["past_values"] + 3}
    with torch.no_grad():
        assert not torch.allclose(
            *(task.answer(task.forward(loaded.model, one)) for one in (batch, raised)), atol=1e-4
        )
    asked = recipe(tmp_path, model, config={"scaling": "std"})
    assert task.load(asked.model).model.config.scaling == "std"


@pytest.mark.slow
def test_training_learns_the_level(tmp_path):
    run = finetune(recipe(tmp_path, train={"num_train_epochs": 15}), data=rows(120))
    found = run.results["splits"]["validation"]
    assert found["metrics"]["rmse"] < 0.4 * found["baseline"]["the mean of train"]["rmse"]


def test_bad_rows_are_named(tmp_path):
    table = rows()
    table.at[3, "dim_0"] = [1.0] * 9
    table.at[5, "dim_0"] = [np.nan, *[1.0] * 15]
    table.loc[7, "target"] = np.nan
    task, prepared = prepare_task(recipe(tmp_path), table)
    reasons = {entry["id"]: entry["reason"] for entry in prepared.findings.bad}
    assert set(reasons) == {"train/3", "train/5", "train/7"}
    assert "9 steps of 1 channels; most training rows have 16 steps of 1" in reasons["train/3"]
    assert "1 of 16 values are missing" in reasons["train/5"]
    assert "expected a finite number" in reasons["train/7"]
    with pytest.raises(DataError, match="rows cannot be used"):
        prepared.findings.raise_for_errors()
    assert task.input.length == 16


def test_a_whole_number_that_no_float_can_hold_is_named():
    reader = SeriesInput(WholeSeriesOptions(), None)
    with pytest.raises(DataError, match=r"row train/3: expected a list of numbers .*too large"):
        reader.values({"id": "train/3", "series": [1, 10**400]})


def test_missing_values_can_be_filled(tmp_path):
    table = rows()
    table.at[5, "dim_0"] = [0.0, np.nan, 2.0, *[1.0] * 13]
    task, prepared = prepare_task(recipe(tmp_path, missing="interpolate"), table)
    assert not prepared.findings.bad
    assert task.input.values({"id": "x", "series": table["dim_0"][5]})[1, 0] == 1.0


def test_the_state_restores_everything_that_prediction_needs(tmp_path):
    task, prepared = prepare_task(recipe(tmp_path), rows())
    again = new_task(recipe(tmp_path))
    again.restore(json.loads(json.dumps(task.state(), allow_nan=False)))
    row = prepared.rows["validation"][0]
    assert np.array_equal(
        task.encode([row], None)[0]["past_values"], again.encode([row], None)[0]["past_values"]
    )
    assert again.state() == task.state()


def test_targets_come_back_in_original_units(tmp_path):
    task, prepared = prepare_task(recipe(tmp_path), rows())
    batch = task.collate(task.encode([prepared.rows["train"][i] for i in range(4)], None))
    result = task.predict(None, {"regression_outputs": batch["labels"]}, batch)
    truth = task.references(prepared.rows["train"].select(range(4)))
    assert np.allclose([one["value"] for one in result], truth, rtol=1e-5)


def long_rows(wide):
    """The same series with one row for each step, the steps of all series shuffled."""
    steps = [
        {"pump": f"pump {number}", "day": f"2020-01-{step + 1:02}", "flow": value, "wear": row.target}
        for number, row in enumerate(wide.itertuples())
        for step, value in enumerate(row.dim_0)
    ]
    return pandas.DataFrame(steps).sample(frac=1, random_state=0)


def test_a_table_with_one_row_a_step(tmp_path):
    """Measurements come as rows of (machine, time, value) more often than as lists."""
    columns = {"series_id": "pump", "timestamp": "day", "series": "flow", "target": "wear"}
    wide = rows(24)
    run = finetune(recipe(tmp_path, columns=columns), data=long_rows(wide), verbose=False)
    assert all(item["passed"] for item in run.verification)
    assert run.task.input.length == 16 and run.results["splits"]["validation"]["rows"] == 6
    long_rows(wide).to_csv(tmp_path / "new.csv", index=False)
    predictor = Predictor.load(run.folder)
    found = {row["id"]: row["value"] for row in predictor([str(tmp_path / "new.csv")])}
    lists = [{"series": series} for series in wide["dim_0"]]
    expected = [row["value"] for row in predictor(lists)]
    assert found == {f"pump {number}": pytest.approx(value) for number, value in enumerate(expected)}


def test_single_numbers_without_a_series_id_say_what_is_missing(tmp_path):
    columns = {"series": "flow", "target": "wear"}
    _, prepared = prepare_task(recipe(tmp_path, columns=columns), long_rows(rows(24)))
    with pytest.raises(DataError, match=r"data\.columns\.series_id"):
        prepared.findings.raise_for_errors()


def test_two_numbers_with_units_of_their_own_have_no_mean_error(tmp_path):
    table = rows()
    table["depth"], table["cost"] = table["target"] / 100, table.pop("target") * 3
    chosen = recipe(tmp_path, columns={"target": ["depth", "cost"]}, units={"depth": "m", "cost": "EUR"})
    task, _ = prepare_task(chosen, table)
    assert task.main_metric == "r2" and "rmse" not in task.greater_is_better
    run = finetune(chosen, data=table, verbose=False)
    assert run.results["headline"]["metric"] == "r2"
    found = run.results["splits"]["validation"]["metrics"]
    assert [row["unit"] for row in found["per_target"]] == ["m", "EUR"] and "rmse" not in found
    answer = run.predictor()([{"series": table["dim_0"][0]}])[0]["value"]
    assert set(answer) == {"depth", "cost"}
