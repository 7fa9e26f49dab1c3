from __future__ import annotations

import math

import pytest

from hf_ft.errors import RecipeError
from hf_ft.recipe.yaml_text import read_yaml


def value(text):
    document = read_yaml(text, "r.yaml")
    assert document.problems == []
    return document.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # LF#4014: 2e-5 was a string, so a learning rate was compared as text.
        ("5e-5", 5e-5),
        ("2E5", 2e5),
        ("1.5e-3", 1.5e-3),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("17", 17),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("0.1", 0.1),
        ("-0.0", -0.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # axolotl#1653: YAML 1.1 reads these as booleans.
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("NO", "NO"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("'010'", "010"),
        ("'2016-01-04'", "2016-01-04"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("1e", "1e"),
        ("e5", "e5"),
        (".", "."),
        ("-", [None]),
        ("a b", "a b"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("[1, no, 5e-5]", [1, "no", 5e-5]),
        ("{no: 1, 010: 2, 1: 3, null: 4}", {"no": 1, "010": 2, "1": 3, "null": 4}),
        ("停", "停"),
    ],
)
def test_scalars_by_yaml_1_2(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_not_a_number():
    assert math.isnan(value(".nan"))


@pytest.mark.parametrize(
    "text", ["010", "00", "-07", "01.5", "0123456789", "2016-01-04", "2016-1-4", "2016-01-04T10:00:00"]
)
def test_values_that_yaml_readers_interpret_differently_are_problems(text):
    assert len(read_yaml(f"a: {text}", "r.yaml").problems) == 1


def test_lines_of_keys_and_entries():
    document = read_yaml("# comment\na: 1\nb:\n  c: 2\n  d:\n    - x\n    - y\n", "r.yaml")
    assert document.place(("a",)) == "r.yaml:2"
    assert document.place(("b", "c")) == "r.yaml:4"
    assert document.place(("b", "d", 1)) == "r.yaml:7"
    assert document.place(("b", "missing")) == "r.yaml:3"
    assert document.place(("missing",)) == "r.yaml:1" or document.place(("missing",)) == "r.yaml"


def test_lines_inside_brackets():
    document = read_yaml("a: {b: 1,\n  c: {\n    d: 2,\n    e: [x,\n      y]}}\nf: 3\n", "r.yaml")
    lines = {("a", "b"): 1, ("a", "c"): 2, ("a", "c", "d"): 3, ("a", "c", "e"): 4, ("a", "c", "e", 1): 5}
    assert {path: document.lines[path] for path in lines} == lines
    assert document.place(("f",)) == "r.yaml:6" and document.place(("a", "c", "missing")) == "r.yaml:2"


def test_an_alias_repeats_its_value():
    assert value("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_aliases_that_explode_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(RecipeError, match="more than 20000 values, repeated aliases included"):
        read_yaml("\n".join(lines), "r.yaml")


@pytest.mark.parametrize("depth", [25, 100_000])
@pytest.mark.parametrize("bracket", ["[", "{a: "])
def test_deep_nesting_is_refused_without_recursion(depth, bracket):
    with pytest.raises(RecipeError, match="nested more than 20 levels deep"):
        read_yaml(bracket * depth, "r.yaml")


def test_a_very_long_number_is_text():
    """int() of a long text takes quadratic time, and Python refuses beyond 4300 digits."""
    assert value("9" * 5000) == "9" * 5000
