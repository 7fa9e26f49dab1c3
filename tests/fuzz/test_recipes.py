"""Recipes and overrides: each is valid and reads back as the same, or every error names its place."""

from __future__ import annotations

import copy
import datetime
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import drawn, mutated
from hypothesis import strategies as st
from ruamel.yaml import YAML
from small_tasks import recipe_and_data

from hf_ft import check
from hf_ft.recipe.messages import all_key_paths
from hf_ft.recipe.read import SECTIONS, load_recipe
from hf_ft.recipe.schema import Recipe
from hf_ft.recipe.task_schema import recipe_model
from hf_ft.registry import get_task, list_tasks

RECIPES = {file.name: file.read_text() for file in (Path(__file__).parents[2] / "recipes").glob("*.yaml")}
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    -0.0,
    1e-300,
    1e300,
    10**400,
    2**62,
    2**63,
    2**64,
    7,
)
ODD += (float("nan"), float("inf"), "", " ", "auto", "no", "none", "null", "full", "head", "lora", "balanced")
ODD += (
    "a.csv",
    "~",
    "~nobody-is-called-so/x",
    "../..",
    "/",
    "\0",
    "größer",
    "停",
    "🙂",
    "\ud800",
    "x" * 3000,
)
ODD += ("[", "{}", "1e5", "0x1F", "2016-01-04", "a: b", "%s%d{}", "hf_" + "a" * 30, "{0.__class__}", "C:\\x")
ODD += ([], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": {}}}}, ["a", "a"], [1, 2], {"train": 5}, {"x": 0.5})
ODD += ("text-classification", "sample:digits", "sample:", "py:", "py:x", "https://", "a/b", "*", "**/[", "-")
# Only in mappings from Python: YAML has no such values.
UNUSUAL: tuple[Any, ...] = (
    b"x",
    (1, 2),
    {1, 2},
    object(),
    Path("x"),
    np.float32(1),
    np.int64(3),
    datetime.date.today(),
)
VALID_TEXTS = ("task: text-classification\ndata: {source: a.csv}\nmodel: {name: m}\n", *RECIPES.values())


def key_paths() -> list[str]:
    """Return the paths of all keys of all tasks, and those of LoRA."""
    models = [recipe_model(get_task(name)) for name in list_tasks()]
    models.append(recipe_model(get_task("text-classification"), "lora"))
    return sorted({path for model in models for path in all_key_paths(model)})


@pytest.fixture(scope="module")
def paths():
    return key_paths()


# Mutations of the text


PIECES = (
    "&a [*a]",
    "&a ",
    "*a",
    "!!python/object:os.system x",
    "!tag ",
    "---\n",
    "...\n",
    "\t",
    "\0",
    "\ufeff",
    "\x85",
)
PIECES += (
    "- ",
    ": ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    "|\n",
    ">\n",
    "# ",
    "%YAML 1.1\n---\n",
    "<<: *a\n",
    "\u2028",
)
PIECES += (
    "train: {seed: 1}\n",
    "seed: 1\n",
    "seed: 010\n",
    "[" * 60,
    "&a {x: &b {y: *a}}",
    "\r",
    "\r\n",
    "{" * 400,
)
PIECES += (
    "x: " * 50,
    "9" * 5000,
    "0x" + "f" * 200,
    "0o777",
    ".inf",
    "1_000",
    "é",
    "\ud7ff",
    "@",
    "`",
    "1" + "e9" * 3,
)


def spliced(rng: random.Random, text: str) -> str:
    """Repeat, leave out or move a piece of the text."""
    start, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    return rng.choice([text[:start] + text[end:], text[:end] + text[start:], text[end:] + text[:start]])


def inserted(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(PIECES) + text[place:]


def lines_changed(rng: random.Random, text: str) -> str:
    """Double, drop, move or indent a line."""
    lines = text.splitlines(keepends=True) or [""]
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(["", "", "  ", " ", "\t"]) + line)
    return "".join(lines)


def misspelt(rng: random.Random, text: str) -> str:
    """Change a letter, as a near miss of a name."""
    if not text:
        return text
    place = rng.randrange(len(text))
    return text[:place] + rng.choice(["", text[place] * 2, "_", "x", text[place].upper()]) + text[place + 1 :]


def many_aliases(text: str) -> str:
    """Add aliases of aliases, which would be billions of values."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    return "\n".join(lines) + "\n" + text


TEXT_MUTATIONS: tuple[Callable[[random.Random, str], str], ...] = (
    spliced,
    inserted,
    inserted,
    lines_changed,
    lines_changed,
    misspelt,
    misspelt,
    lambda rng, text: text[: rng.randrange(len(text) + 1)],
    lambda rng, text: text.replace(": ", rng.choice([":", " : ", "= ", ":\n  "])),
    lambda rng, text: "",
)


# Mutations of the values


@functools.cache
def cached_values(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def parsed(text: str) -> dict[str, Any]:
    """Return the values of a valid recipe, to be changed."""
    return copy.deepcopy(cached_values(text))


def set_at(value: dict[str, Any], path: str, new: Any) -> None:
    """Set a value at a path such as train.optim, and make the mappings around it."""
    *parents, last = path.split(".")
    for part in parents:
        if not isinstance(value.get(part), dict):
            value[part] = {} if value.get(part) is None else {"name": value[part]}
        value = value[part]
    value[last] = new


def changed_mapping(
    rng: random.Random, value: dict[str, Any], paths: list[str], odd: tuple[Any, ...]
) -> None:
    """Set, misspell, move or remove a key."""
    way, path = rng.randrange(5), rng.choice(paths)
    if way <= 1:
        set_at(value, path, copy.deepcopy(rng.choice(odd)))
    elif way == 2:
        set_at(value, misspelt(rng, path).strip(".") or "x", rng.choice([1, "auto", True]))
    elif way == 3:
        key = rng.choice([*value] or ["task"])
        value[rng.choice(["data", "train", "freeze", "x", key + "s"])] = value.pop(key, None)
    else:
        section = value.get(rng.choice([*value] or ["task"]))
        if isinstance(section, dict) and section:
            section.pop(rng.choice([*section]))


def some_override(rng: random.Random, paths: list[str]) -> str:
    """Return a valid or an odd override."""
    path = rng.choice(paths)
    if rng.random() < 0.3:
        path = rng.choice(
            ["", ".", "a..b", "train", "train.", ".x", "data.limit.train.x", misspelt(rng, path), "\0"]
        )
    if rng.random() < 0.3:
        path = rng.choice([" ", ""]) + path + rng.choice([".x", ".0", " "])
    value = rng.choice(
        [json.dumps(rng.choice(ODD)), str(rng.choice(ODD)), rng.choice(PIECES), "a=b", "[1, 2", "&x *x"]
    )
    return path + rng.choice(["=", "=", "=", "=", "==", " = ", ":", ""]) + value


# What holds for each


def read(source: Any, overrides: list[str]) -> Recipe:
    """Read a recipe, and all that a run asks of it before it reads data."""
    recipe = load_recipe(source, overrides)
    assert isinstance(recipe.warnings, list)
    return recipe


def reads_back(path: Path) -> Callable[[Recipe], str | None]:
    """Return what writes a recipe and reads it again, as a resumed run does."""

    def differs(recipe: Recipe) -> str | None:
        if len(recipe.resolved()["data"]["source"]) % 3:  # reading text takes long
            return None
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        again = load_recipe(path)
        return None if again == recipe else f"its own text reads as another recipe: {recipe.to_yaml()[:500]}"

    return differs


def with_note(error: BaseException, source: Any, overrides: list[str]) -> None:
    error.add_note(f"{str(source)[:900]!r} {overrides}")


@pytest.mark.parametrize("cases", [40, pytest.param(3000, marks=pytest.mark.slow)])
def test_text(cases, seed, tally, tmp_path, paths):
    """Files that are hardly YAML."""

    def try_case(rng: random.Random) -> None:
        text, overrides = rng.choice(VALID_TEXTS), []
        changes = rng.choice([0, 1, 1, 1, 2, 4])
        for _ in range(changes):
            text = rng.choice(TEXT_MUTATIONS)(rng, text)
        if rng.random() < 0.02:
            text = many_aliases(text)
        data = text.encode(rng.choice(["utf-8"] * 8 + ["utf-16", "utf-8-sig"]), "surrogatepass")
        if changes and rng.random() < 0.1:
            place = rng.randrange(len(data) + 1)
            data = data[:place] + rng.choice([b"\xff", b"\0", b"\xed\xa0\x80", b"\xc3"]) + data[place:]
        if rng.random() < 0.2:
            overrides = [some_override(rng, paths)]
        path = tmp_path / "odd name.yaml"
        path.write_bytes(data)
        try:
            tally.tried(
                lambda: read(path, overrides), (path.name, "override"), reads_back(tmp_path / "again.yaml")
            )
        except BaseException as error:
            with_note(error, text, overrides)
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("cases", [50, pytest.param(5000, marks=pytest.mark.slow)])
def test_values_and_overrides(cases, seed, tally, tmp_path, paths):
    """Mappings with a few odd values, and overrides."""

    def try_case(rng: random.Random) -> None:
        value = parsed(rng.choice(VALID_TEXTS))
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            changed_mapping(rng, value, paths, ODD + UNUSUAL if rng.random() < 0.1 else ODD)
        overrides = [some_override(rng, paths) for _ in range(rng.choice([0, 0, 1, 2]))]
        try:
            again = tmp_path / "again.yaml"
            tally.tried(lambda: read(value, overrides), ("recipe", "override"), reads_back(again))
        except BaseException as error:
            with_note(error, value, overrides)
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)


KEYS = st.sampled_from([*SECTIONS, "name", "source", "seed", "strategy"])
NAMES = KEYS | st.text(max_size=4)
VALUES = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)
MAPPINGS = st.dictionaries(NAMES, VALUES, max_size=6)


@pytest.mark.parametrize("cases", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_drawn_values(cases, seed, tally, tmp_path):
    """Mappings of anything, over a valid recipe or over nothing; and overrides of any text."""

    @drawn(cases, seed, MAPPINGS, st.booleans(), st.lists(st.text(max_size=12), max_size=1))
    def try_recipe(sections: dict[str, Any], valid: bool, overrides: list[str]) -> None:
        value = {**(parsed(VALID_TEXTS[0]) if valid else {}), **sections}
        names = ("recipe", "override")
        tally.tried(lambda: read(value, overrides), names, reads_back(tmp_path / "again.yaml"))

    try_recipe()


# A few whole checks: data, model and one step of training

OPTIONS: dict[str, tuple[Any, ...]] = {
    "train.global_batch_size": (1, 7, 2**31, 2**62, 2**63 - 1, 10**30),
    "train.per_device_train_batch_size": (1, 3, 2**62),
    "train.num_train_epochs": (1e-9, 1, 1e18, 1e300),
    "train.max_steps": (-1, 0, 1, 2**62),
    "train.learning_rate": (5e-324, 1e-4, 1e30, 1e300),
    "train.weight_decay": (0.0, 1e300),
    "train.warmup_steps": (0.0, 1e300, 2**62),
    "train.optim": ("adamw_torch", "sgd", "adafactor", "adamw_torch_fused", "lion_32bit", "x"),
    "train.lr_scheduler_type": ("linear", "constant", "exponential", "cosine_with_restarts", "polynomial"),
    "train.lr_scheduler_kwargs": ({}, {"final": 0.01}, {"x": 1}, {"num_cycles": 3}),
    "train.threads": (1, 2, 10**6),
    "train.precision": ("fp32", "bf16", "fp16", "tf32"),
    "train.batch_norm_rows": (0, 2**62),
    "train.dataloader_num_workers": (0, -1),
    "train.eval_strategy": ("no", "steps", "epoch"),
    "train.eval_steps": (0, 1, 0.5, 1e-9, 2**62),
    "train.logging_steps": (0, 1, 0.1, 2**62),
    "train.max_grad_norm": (0.0, 1e-300, 1e300, -1.0),
    "train.early_stopping_patience": (1, 2**62, None),
    "train.save_total_limit": (0, 1, -1),
    "train.neftune_noise_alpha": (0.0, 5.0, -1.0),
    "data.limit": (1, 2, 5, 0.001, 2**62, {"train": 5, "validation": 2}),
    "data.rows": ([0, 5], [3, 1], [0, 2**62]),
    "data.split": (
        {"validation": 0.5},
        {"validation": 2**62},
        {"validation": "x"},
        {"validation": 2, "test": 2},
    ),
    "data.id": ("text", "label", "nothing"),
    "data.sampler": ("balanced", "shuffle"),
    "data.columns": ({"text": "label"}, {"label": "text"}, {"x": "y"}, {"text": ["text", "label"]}),
    "data.label_separator": (" ", "a"),
    "freeze": (
        "head",
        "full",
        "lora",
        "ia3",
        {"strategy": "last", "n": 2**62},
        {"strategy": "patterns", "patterns": ["("]},
    ),
    "loss.class_weights": ("balanced", {"x": 1.0}),
    "loss.label_smoothing": (0.0, 0.99),
    "task.max_length": (1, 2, 2**62, 512),
    "model.config": (
        {"hidden_size": 0},
        {"hidden_dropout_prob": 7},
        {"num_labels": 3},
        {"x": 1},
        {"vocab_size": 1},
    ),
    "model.processor": ({"model_max_length": 3}, {"x": 1}, {"padding_side": "left"}),
    "model.from_scratch": (True,),
    "model.attn_implementation": ("eager", "sdpa", "flash_attention_2"),
    "evaluate.metric": ("accuracy", "f1", "x", "loss"),
    "evaluate.resamples": (100, 100_000),
    "evaluate.confidence": (1e-300, 0.5, 1 - 1e-16),
    "cache.max_gb": (1e-300, 1e300),
    "cache.views": (1, 2**62),
    "seed": (0, 2**32 - 1),
}


@pytest.mark.parametrize("cases", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_checks(cases, seed, tally, tmp_path):
    """`check` with a tiny model: it ends with findings, or with an error that says what to change."""
    recipe, rows = recipe_and_data("text-classification", tmp_path)

    def try_case(rng: random.Random) -> None:
        value = copy.deepcopy(recipe) | {"output_dir": str(tmp_path / "run")}
        for key in rng.sample(sorted(OPTIONS), rng.choice([1, 1, 2])):
            set_at(value, key, copy.deepcopy(rng.choice(OPTIONS[key])))
        try:
            tally.tried(lambda: check(value, data=rows), ())
        except BaseException as error:
            with_note(error, {key: value[key] for key in value if value[key] != recipe.get(key)}, [])
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)
