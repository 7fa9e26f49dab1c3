"""The published protocols on the real series: the same windows, the same errors of the naive forecasts."""

from __future__ import annotations

import numpy as np
import pytest
from documented import ROOT, overrides_of

from hf_ft.data.sources import read_source
from hf_ft.data.splits import make_splits
from hf_ft.inputs.series.forecast_baselines import last_value, seasonal_naive
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task

pytestmark = pytest.mark.real


def windows_of(name, data):
    """Fit the task of a recipe; return it with its windows."""
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides_of(name, data))
    task = new_task(recipe)
    splits = make_splits(read_source(recipe.data), recipe.data, task.roles, recipe.seed, None, task.times)
    rows = task.examples(splits.tables)
    task.fit(rows["train"])
    return task, rows


def errors(task, rows, forecast):
    metrics = task.metrics()
    metrics.update([{"value": one} for one in forecast], task.references(rows))
    return metrics.compute()


def test_traffic_flow_has_the_published_windows(real_data):
    task, rows = windows_of("traffic_flow", real_data)
    assert len(rows["test"]) == 4308
    found = errors(task, rows["test"], last_value(rows["test"]))
    assert (found["mae"], found["rmse"]) == (pytest.approx(8.335, abs=1e-3), pytest.approx(11.310, abs=1e-3))
    assert found["r2"] == pytest.approx(0.9213, abs=1e-4)


def test_transformer_load_has_the_standard_protocol(real_data):
    task, rows = windows_of("transformer_load", real_data)
    test = rows["test"]
    assert len(test) == 2785
    found = errors(task, test, last_value(test))
    assert found["mse_scaled"] == pytest.approx(1.2944, abs=1e-3)
    assert found["mae_scaled"] == pytest.approx(0.7132, abs=1e-3)
    # Same hour yesterday, the last day known when the forecast is made repeated four times.
    forecast, known = seasonal_naive(test, 24)
    assert known.all()
    found = errors(task, test, forecast)
    assert found["mse_scaled"] == pytest.approx(0.5122, abs=1e-3)
    assert found["mae_scaled"] == pytest.approx(0.4333, abs=1e-3)


def test_air_quality_counts_what_it_leaves_out(real_data):
    task, rows = windows_of("air_quality", real_data)
    assert any("1968 of 35064 values are missing" in note for note in task.notes(rows))
    assert not np.isnan(rows["test"].histories()).any() and not np.isnan(rows["test"].targets()).any()
    assert any(note.startswith("test: ") and "left out" in note for note in task.notes(rows))


def test_city_energy_is_whole(real_data):
    task, rows = windows_of("city_energy", real_data)
    assert task.target.season == 144 and not rows["train"].series.notes
    assert rows["test"].ids[0] == f"train/{43776 - 4464}"
