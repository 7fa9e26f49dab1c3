"""Metrics of forecasts: equal to scikit-learn's in original units, and to benchmarks' when standardised."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hf_ft.errors import DataError, RecipeError, TrainError
from hf_ft.evaluate.forecast_metrics import FORECASTING_DIRECTIONS, ForecastMetrics


def made(targets=2, windows=40, horizon=3, units=None, naive=None, seed=0, offset=1000.0):
    """Return metrics after two batches; forecasts, truth and hours; the deviations of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, (windows, horizon, targets)) * np.arange(1, targets + 1) * 10 + offset
    predicted = truth + rng.normal(0.5, 2, truth.shape)
    std = truth.std(axis=(0, 1))
    metrics = ForecastMetrics([f"t{i}" for i in range(targets)], std, units, naive)
    hour = rng.integers(0, 24, (windows, horizon))
    references = [{"value": v, "last": v[0] - 1, "hour": h} for v, h in zip(truth, hour, strict=True)]
    for part in (slice(0, 17), slice(17, None)):
        metrics.update([{"value": one} for one in predicted[part]], references[part])
    return metrics, predicted, truth, std


def test_metrics_equal_scikit_learn_on_all_steps_of_a_target():
    metrics, predicted, truth, std = made(naive=np.array([2.0, 4.0]))
    flat_p, flat_t = predicted.reshape(-1, 2), truth.reshape(-1, 2)
    found = metrics.compute()
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(flat_t, flat_p))
    assert found["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(flat_t, flat_p))
    assert found["mape"] == pytest.approx(sklearn_metrics.mean_absolute_percentage_error(flat_t, flat_p))
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(flat_t, flat_p))
    assert found["explained_variance"] == pytest.approx(
        sklearn_metrics.explained_variance_score(flat_t, flat_p)
    )
    assert found["mase"] == pytest.approx((np.abs(flat_p - flat_t).mean(axis=0) / [2, 4]).mean())
    assert found["mse_scaled"] == pytest.approx((((flat_p - flat_t) / std) ** 2).mean())
    assert found["mae_scaled"] == pytest.approx((np.abs(flat_p - flat_t) / std).mean())


@pytest.mark.parametrize("name", [name for name in FORECASTING_DIRECTIONS if name not in ("loss", "mase")])
def test_value_of_a_selection_equals_metrics_of_these_rows(name):
    metrics, predicted, truth, std = made()
    rows = np.array([0, 3, 3, 17, 39])
    part = ForecastMetrics(["t0", "t1"], std)
    hour = np.zeros(3, dtype=int)
    part.update(
        [{"value": predicted[row]} for row in rows],
        [{"value": truth[row], "last": truth[row][0], "hour": hour} for row in rows],
    )
    assert metrics.value(name, rows) == pytest.approx(part.compute()[name])
    assert metrics.value(name) == pytest.approx(metrics.compute()[name])


def test_errors_are_given_in_original_units_too():
    """Granite's forecasting tools reported MSE in standardised units only (ibm-granite/granite-tsfm#48)."""
    metrics, predicted, truth, std = made(targets=1, offset=0)
    found = metrics.compute()
    assert found["mae"] == pytest.approx(np.abs(predicted - truth).mean())
    assert found["mae_scaled"] == pytest.approx(found["mae"] / std[0])


@pytest.mark.parametrize("targets", [1, 2])
def test_errors_by_step_ahead_and_by_hour(targets):
    metrics, predicted, truth, std = made(targets=targets)
    found = metrics.compute()
    error = (predicted - truth) / (std if targets > 1 else 1)
    steps = found["per_horizon"]
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert steps[2]["mae"] == pytest.approx(np.abs(error)[:, 2].mean())
    assert steps[2]["rmse"] == pytest.approx(np.sqrt((error[:, 2] ** 2).mean(axis=0)).mean())
    assert steps[0]["last_value_mae"] == pytest.approx((1 / std).mean() if targets > 1 else 1.0)
    assert steps[0]["scaled"] == (targets > 1)
    hours = np.random.default_rng(7).integers(5, size=(40, 3))
    again = ForecastMetrics(metrics.targets, std)
    references = [{"value": v, "last": v[0], "hour": hour} for v, hour in zip(truth, hours, strict=True)]
    again.update([{"value": one} for one in predicted], references)
    for row in again.compute()["per_hour"]:
        assert row["mae"] == pytest.approx(np.abs(error[hours == row["hour"]]).mean())
    assert [row["hour"] for row in again.compute()["per_hour"]] == [0, 1, 2, 3, 4]
    assert set(found["tables"]) == {"per_target", "per_horizon", "per_hour"} <= set(found)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_a_small_variance_at_a_high_level_is_not_lost_in_rounding(offset):
    metrics, predicted, truth, _ = made(targets=1, offset=offset)
    expected = sklearn_metrics.r2_score(truth.ravel(), predicted.ravel())
    assert metrics.compute()["r2"] == pytest.approx(expected, rel=1e-6)


def test_errors_in_different_units_are_not_averaged():
    found = made(units=["kW", "°C"])[0].compute()
    assert "mae" not in found and "rmse" not in found
    assert [row["unit"] for row in found["per_target"]] == ["kW", "°C"]
    assert any("units" in note for note in found["notes"])
    assert "mse_scaled" in found


def test_mape_leaves_out_zeros_and_r2_leaves_out_constants():
    metrics = ForecastMetrics(["a"], np.ones(1))
    zero = {"last": np.zeros(1), "hour": np.zeros(2, dtype=int)}
    metrics.update([{"value": np.array([[1.0], [3.0]])}], [{"value": np.array([[0.0], [2.0]]), **zero}])
    assert metrics.compute()["mape"] == pytest.approx(0.5)
    constant = ForecastMetrics(["a"], np.ones(1))
    # Three times 0.1 has a mean that is not 0.1.
    level = {"value": np.full((3, 1), 0.1), "last": np.zeros(1), "hour": np.zeros(3, dtype=int)}
    constant.update([{"value": np.array([[1.0], [3.0], [2.0]])}], [level])
    found = constant.compute()
    assert "r2" not in found and any("r2" in note for note in found["notes"])


def test_unusable_results_and_unknown_metrics_are_errors():
    metrics = ForecastMetrics(["a"], np.ones(1))
    with pytest.raises(DataError, match="no rows"):
        metrics.compute()
    one = {"value": np.array([[1.0]]), "last": np.zeros(1), "hour": np.zeros(1, dtype=int)}
    with pytest.raises(DataError, match="1 results came with 2 references"):
        metrics.update([{"value": np.array([[1.0]])}], [one, one])
    metrics.update([{"value": np.array([[np.nan]])}], [one])
    with pytest.raises(TrainError, match="1 of 1 forecasts are not finite"):
        metrics.compute()
    with pytest.raises(RecipeError, match="'accuracy'"):
        ForecastMetrics(["a"], np.ones(1), extra=["accuracy"])
    with pytest.raises(RecipeError, match="there is no metric 'rsme'; found: mae"):
        made()[0].value("rsme")
