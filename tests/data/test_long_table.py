"""A table with one row per step becomes one row per series, and steps of two series are never mixed."""

import pytest
from datasets import Dataset

from hf_ft.data.long_table import gather_steps, is_long
from hf_ft.errors import DataError


def steps(**columns):
    table = {
        "pump": ["b", "a", "b", "a", "b"],
        "time": ["2020-01-02", "2020-01-01", "2020-01-01", "2020-01-03", "2020-01-03"],
        "flow": [2.0, 10.0, 1.0, 30.0, None],
        "wear": [0.5, 0.1, 0.5, None, 0.5],
    }
    return Dataset.from_dict({**table, **columns})


def test_the_steps_of_each_series_are_sorted_by_time():
    found = gather_steps(steps(), "pump", ["flow"], ["wear"], "time")
    assert found["pump"][:] == ["b", "a"]
    assert found["flow"][:] == [[1.0, 2.0, None], [10.0, 30.0]]
    assert found["wear"][:] == [0.5, 0.1]
    assert [str(moment)[:10] for moment in found["time"]] == ["2020-01-01", "2020-01-01"]


def test_without_a_timestamp_steps_keep_the_order_of_the_table():
    assert gather_steps(steps(), "pump", ["flow"], [])["flow"][:] == [[2.0, 1.0, None], [10.0, 30.0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pump": ["a", None, "a", "a", "b"]}, r"1 rows have no 'pump' \(data\.columns\.series_id\): 1"),
        ({"wear": [0.5, 0.1, 0.6, None, 0.5]}, r"'wear' needs one value per series.*b: 0\.6, 0\.5"),
        ({"time": ["2020-01-01"] * 5}, "3 times occur twice in their series: .*a at 2020-01-01"),
        ({"time": ["soon"] * 5}, "cannot read a time in column 'time'"),
    ],
)
def test_wrong_tables_are_refused_with_the_place(columns, message):
    with pytest.raises(DataError, match=f"(?s)train: .*{message}"):
        gather_steps(steps(**columns), "pump", ["flow"], ["wear"], "time")


def test_a_table_with_lists_is_not_a_long_table():
    columns = {"series_id": "pump", "series": "flow"}
    assert is_long(steps().features, columns, "series")
    assert not is_long(steps(flow=[[1.0]] * 5).features, columns, "series")
    assert not is_long(steps().features, {"series": "flow"}, "series")
