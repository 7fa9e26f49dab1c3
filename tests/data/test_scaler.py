"""The scaler: mean and deviation of the given values, exact `restore`, and equal after JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from hf_ft.data.scaler import Scaler
from hf_ft.errors import DataError


def test_it_agrees_with_scikit_learn():
    values = np.random.default_rng(0).normal(5, 3, (100, 2))
    assert np.allclose(Scaler.fit(values, ["a", "b"]).scale(values), StandardScaler().fit_transform(values))


def test_restore_and_json_are_exact():
    values = np.random.default_rng(0).normal(30_000, 4000, (50, 2))
    scaler = Scaler.from_json(json.loads(json.dumps(Scaler.fit(values, ["a", "b"]).to_json())))
    assert np.allclose(scaler.restore(scaler.scale(values)), values, rtol=1e-12)
    assert scaler.first(1).names == ["a"]


def test_missing_values_are_ignored_and_constants_are_not_divided():
    values = np.array([[1.0, 7.0], [np.nan, 7.0], [3.0, 7.0]])
    scaler = Scaler.fit(values, ["a", "b"])
    assert scaler.mean.tolist() == [2, 7] and scaler.std.tolist() == [1, 1]


def test_a_column_without_a_value_is_named():
    with pytest.raises(DataError, match="column 'b'"):
        Scaler.fit(np.array([[1.0, np.nan]]), ["a", "b"])


@pytest.mark.parametrize("columns", [0, 1, 7])
def test_windows_are_scaled_as_one_array_and_cast_once(columns):
    values = np.random.default_rng(0).normal(30_000, 4000, (11, 24, columns))
    names = [f"c{column}" for column in range(columns)]
    scaler = Scaler.fit(values.reshape(-1, columns), names) if columns else Scaler.none([])
    before = values.copy()
    found = scaler.scale_windows(values)
    assert found.dtype == np.float32 and np.array_equal(found, scaler.scale(values).astype(np.float32))
    assert np.array_equal(values, before), "windows of a series are views of it"
    assert np.array_equal(scaler.scale_windows(values[:, ::2][:, 3:]), found[:, ::2][:, 3:])


@pytest.mark.parametrize("value", [0.1, 3.3])
def test_the_deviation_of_equal_values_is_not_their_rounding(value):
    """It was 1e-17, so that another value in validation became 1e16."""
    scaler = Scaler.fit(np.full((36, 1), value), ["a"])
    assert scaler.std.tolist() == [1] and abs(scaler.scale(np.array([value + 1])) - 1) < 1e-9


@pytest.mark.parametrize("unit", [1e308, 1e200, 1e-200, 1e-320])
@pytest.mark.filterwarnings("error")
def test_numbers_that_cannot_be_squared_are_refused(unit):
    """Their deviation is infinite or 0, so that all scaled values were 0, or the same, without a word."""
    values = np.stack([np.linspace(0, 1, 40), unit * np.linspace(1, 1.7, 40)], axis=1)
    with pytest.raises(DataError, match=r"column 'b': the training rows run from .* choose another unit"):
        Scaler.fit(values, ["a", "b"])
