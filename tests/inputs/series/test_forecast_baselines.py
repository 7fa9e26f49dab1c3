"""The baselines use only values that are known at the time of the forecast."""

from __future__ import annotations

import numpy as np
import pandas
from series_tables import frame, split_tables, table

from hf_ft.inputs.series import forecast_baselines as module
from hf_ft.inputs.series.forecast_baselines import (
    Trees,
    choose_lags,
    default_season,
    forecast_baselines,
    last_value,
    naive_error,
    seasonal_naive,
)
from hf_ft.inputs.series.options import SeriesOptions
from hf_ft.inputs.series.series_table import read_series
from hf_ft.inputs.series.windows import Shape, cut_windows

HOUR = 3_600_000_000_000


def windows_of(data, *cuts, context=12, horizon=6, **options):
    chosen = SeriesOptions(**options)
    series = read_series(split_tables(data, *cuts), chosen)
    return cut_windows(series, Shape(context, horizon), (1, 1), chosen.missing)


def test_last_value():
    data = frame(60)
    rows = windows_of(data)["train"]
    assert np.allclose(last_value(rows)[5, :, 0], data["target"][16])


def test_seasonal_naive_reaches_beyond_the_context():
    data = frame(100)
    rows = windows_of(data, 60)["validation"]
    forecast, known = seasonal_naive(rows, 24)
    assert known.all()
    assert np.allclose(forecast[0, :, 0], data["target"][36:42])


def test_seasonal_naive_never_looks_at_what_it_forecasts():
    data = frame(120)
    rows = windows_of(data, 90, context=24, horizon=30)["validation"]
    changed = data.copy()
    changed.loc[90:, "target"] = 1e6
    again = windows_of(changed, 90, context=24, horizon=30)["validation"]
    forecast, _ = seasonal_naive(rows, 24)
    assert np.array_equal(forecast[0], seasonal_naive(again, 24)[0][0])
    # The 25th step is more than a season ahead, so the value of two seasons ago is used.
    assert forecast[0, 24, 0] == data["target"][90 + 24 - 48]


def test_seasonal_naive_says_where_it_has_no_answer():
    rows = windows_of(frame(60))["train"]
    _, known = seasonal_naive(rows, 24)
    assert not known[0] and known[-1]
    data = frame(24 * 9)
    absent = data.drop(index=range(48, 96)).reset_index(drop=True)
    rows = cut_windows(
        read_series({"train": table(absent)}, SeriesOptions(gaps="ignore")), Shape(12, 6), (1, 1), "error"
    )["train"]
    forecast, known = seasonal_naive(rows, 24)
    after = rows.ids.index("train/48")  # the first row after two absent days
    assert known[after]
    assert np.allclose(forecast[after, :, 0], data["target"][24:30]), (
        "three days before, where there are rows"
    )


def test_seasons_follow_the_step():
    assert default_season(HOUR) == 24
    assert default_season(HOUR // 12) == 288
    assert default_season(24 * HOUR) == 7


def test_the_error_of_the_naive_forecast_is_of_train_alone():
    data = frame(100)
    series = read_series(split_tables(data, 60), SeriesOptions())
    found = naive_error(series, 24)
    assert np.allclose(
        found, np.abs(data["target"][24:60].to_numpy() - data["target"][:36].to_numpy()).mean()
    )
    constant = frame(60)
    constant["target"] = 1.0
    assert naive_error(read_series(split_tables(constant, 50), SeriesOptions()), 24) is None


def test_lags():
    assert choose_lags(12, 24).tolist() == list(range(1, 13))
    long = choose_lags(512, 24)
    assert long[0] == 1 and 24 in long and 48 in long and 504 in long and len(long) < 60


def test_trees_learn_from_train_and_beat_the_last_value_on_a_wave():
    rng = np.random.default_rng(0)
    data = frame(700)
    data["target"] += rng.normal(0, 0.2, len(data))
    data["load"] = rng.normal(0, 1, len(data))
    series = read_series(split_tables(data, 600, past=["load"]), SeriesOptions(calendar=["hour_of_day"]))
    rows = cut_windows(series, Shape(24, 6), (1, 1), "error")
    trees = Trees(rows["train"], 24, seed=0)
    found = forecast_baselines(rows["validation"], season=24, trees=trees)
    assert list(found) == ["the last value", "the value a season ago", "boosted trees on the same lags"]
    truth = rows["validation"].targets()
    errors = [
        np.sqrt(np.mean((np.stack([one["value"] for one in results]) - truth) ** 2))
        for results in found.values()
    ]
    assert errors[2] < 0.6 * errors[0]


def test_a_baseline_without_a_forecast_of_a_window_says_none(monkeypatch):
    monkeypatch.setattr(module, "TREE_PAIRS", 500)
    monkeypatch.setattr(module, "TREE_FORECASTS", 40)
    rows = windows_of(frame(300), 250)
    trees = Trees(rows["train"], 24, seed=0)
    found = forecast_baselines(rows["validation"], season=500, trees=trees)
    assert "the value a season ago" not in found
    assert all(one["value"].shape == (6, 1) for one in found["the last value"])
    name = next(name for name in found if name.startswith("boosted trees"))
    assert "fitted on 500 of" in name
    answered = [one for one in found[name] if one is not None]
    assert len(found[name]) == len(rows["validation"]) > len(answered) > 0


def test_trees_of_one_target_do_not_depend_on_rows_after_the_forecast_is_made():
    data = pandas.concat([frame(300)], ignore_index=True)
    rows = windows_of(data, 250)
    trees = Trees(rows["train"], 24, seed=0)
    changed = data.copy()
    changed.loc[250:, "target"] = 1e6
    again = windows_of(changed, 250)
    first = np.array([0])
    assert np.array_equal(
        trees.forecast(rows["validation"], first), trees.forecast(again["validation"], first)
    )
