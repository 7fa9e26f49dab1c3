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
