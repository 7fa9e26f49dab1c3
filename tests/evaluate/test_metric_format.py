"""Metrics as text: rounded to the digits that the interval leaves certain."""

import pytest

from hf_ft.evaluate.metric_format import (
    show_difference,
    show_difference_interval,
    show_interval,
    show_metric,
    show_name,
    unit_of,
)


@pytest.mark.parametrize(
    ("name", "value", "interval", "expected"),
    [
        ("accuracy", 0.98765, None, "98.8 %"),
        ("macro_f1", 0.5, None, "50.0 %"),
        ("mape", 0.123, None, "12.3 %"),
        ("roc_auc", 0.98765, None, "0.988"),
        ("mcc", 0.5, None, "0.500"),
        ("rmse", 123456.7, None, "123,457"),
        ("mae", -0.00012345, None, "-0.000123"),
        ("mae", 0.0, None, "0"),
        ("macro_f1", 0.0, None, "0.0 %"),
        ("pearson", float("nan"), None, "undefined"),
        # As many digits as the interval leaves certain.
        ("accuracy", 0.87234, (0.81, 0.93), "87 %"),
        ("accuracy", 0.87234, (0.862, 0.883), "87.2 %"),
        ("rmse", 7.21345, (6.9, 7.5), "7.21"),
        ("rmse", 4213.4, (3900.0, 4500.0), "4,213"),
        ("rmse", 7.21345, (7.21345, 7.21345), "7.21"),
        # An interval whose width is rounding alone has none.
        ("mcc", 1.0000000000000002, (0.9999999999999998, 1.0000000000000002), "1.00"),
        ("rmse", 4e-5, (3e-5, 5e-5), "0.000040"),
    ],
)
def test_show_metric(name, value, interval, expected):
    assert show_metric(name, value, interval) == expected


def test_a_unit_follows_the_number():
    assert show_metric("mae", 7.2134, (6.9, 7.5), "°C") == "7.21 °C"
    assert show_interval("mae", (6.9, 7.5), "°C") == "6.90 to 7.50 °C"
    assert show_interval("accuracy", (0.8383, 0.9031)) == "83.8 to 90.3 %"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("macro_f1", "macro F1"), ("roc_auc", "ROC-AUC"), ("rmse", "RMSE"), ("accuracy", "accuracy")],
)
def test_show_name(name, expected):
    assert show_name(name) == expected


def test_differences_of_shares_are_points():
    assert show_difference("accuracy", -0.0923, (-0.1, -0.08)) == "9.2 points"
    assert show_difference_interval("accuracy", (-0.104, -0.0789)) == "7.9 to 10.4 points"
    assert (
        show_difference_interval("accuracy", (-0.012, 0.0207)) == "from 1.2 points lower to 2.1 points higher"
    )


def test_differences_of_errors_have_the_unit():
    assert show_difference("rmse", 2.371, (2.1, 2.64), "°C") == "2.37 °C"
    assert show_difference_interval("rmse", (2.1, 2.64), unit="°C") == "2.10 to 2.64 °C"
    assert show_difference_interval("rmse", (0.0, 0.5)) == "0.00 to 0.50"


def test_the_unit_is_that_of_a_single_target():
    one, two = [{"unit": "°C"}], [{"unit": "°C"}, {"unit": "%"}]
    assert unit_of("rmse", {"per_target": one}) == "°C"
    assert (
        unit_of("r2", {"per_target": one}) == unit_of("rmse", {"per_target": two}) == unit_of("mae", {}) == ""
    )
