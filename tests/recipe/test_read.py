from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from toy import ToyTask

from hf_ft.errors import RecipeError
from hf_ft.recipe.read import load_recipe
from hf_ft.recipe.task_schema import recipe_model

MINIMAL = {"task": "toy:ToyTask", "data": {"source": "a.csv"}, "model": {"name": "m"}}
TEXT = {"task": {"name": "text-classification"}, "data": {"source": "a.csv"}, "model": {"name": "m"}}


def recipe_file(folder, text, name="signs.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_of_a_minimal_recipe():
    recipe = load_recipe(MINIMAL)
    assert recipe.task.name == "toy:ToyTask"
    assert recipe.task.size == 8
    assert (recipe.name, recipe.output_dir, recipe.seed) == ("ToyTask", "runs/ToyTask", 17)
    assert recipe.freeze.strategy == "full"
    assert recipe.freeze.method_options == {}
    assert recipe.augment.policy == "none"
    assert recipe.loss.class_weights is None
    assert recipe.train.global_batch_size == recipe.train.learning_rate == "auto"
    assert recipe.train.arguments == {
        "num_train_epochs": "auto",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
    }
    assert recipe.warnings == []


def test_the_name_is_the_stem_of_the_file(tmp_path):
    text = "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\n"
    recipe = load_recipe(recipe_file(tmp_path, text, "traffic signs v2.yaml"))
    assert recipe.name == "traffic_signs_v2"
    assert recipe.output_dir == "runs/traffic_signs_v2"
    assert load_recipe(tmp_path / "traffic signs v2.yaml", ["name=b"]).output_dir == "runs/b"


def test_one_word_stands_for_a_section():
    recipe = load_recipe(MINIMAL | {"freeze": "head", "augment": "light"})
    assert recipe.freeze.strategy == "head"
    assert recipe.augment.policy == "light"
    assert recipe == load_recipe(MINIMAL | {"freeze": {"strategy": "head"}, "augment": {"policy": "light"}})


def test_an_empty_section_is_its_defaults(tmp_path):
    text = "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\ntrain:\nloss:\naugment:\nfreeze:\n"
    assert load_recipe(recipe_file(tmp_path, text), ["name=ToyTask"]) == load_recipe(MINIMAL)


def test_library_keys_are_handed_on():
    recipe = load_recipe(
        MINIMAL
        | {
            "freeze": {"strategy": "lora", "r": 16, "target_modules": ["query", "value"]},
            "train": {"optim": "sgd", "optim_args": "momentum=0.9", "max_grad_norm": 1, "precision": "bf16"},
        }
    )
    assert recipe.freeze.method_options == {"r": 16, "target_modules": ["query", "value"]}
    handed_on = recipe.train.arguments
    assert handed_on["optim"] == "sgd"
    assert handed_on["max_grad_norm"] == 1.0
    assert "precision" not in handed_on
    assert "global_batch_size" not in handed_on


@pytest.mark.parametrize(
    ("section", "attribute", "value"),
    [
        ({"strategy": "last", "n": 2}, "n", 2),
        ({"strategy": "patterns", "patterns": ["vit.layers.11.*"]}, "patterns", ["vit.layers.11.*"]),
        ({"strategy": "head", "head_lr_multiplier": 10}, "head_lr_multiplier", 10.0),
        ({"strategy": "full", "head_weight_decay": 0.0}, "head_weight_decay", 0.0),
        ({"strategy": "dora", "r": 4}, "method_options", {"r": 4}),
        ({"strategy": "oft", "r": 0, "oft_block_size": 4}, "method_options", {"r": 0, "oft_block_size": 4}),
        (
            {"strategy": "lora", "init_lora_weights": "pissa"},
            "method_options",
            {"init_lora_weights": "pissa"},
        ),
        ({"strategy": "lora", "init_lora_weights": "pissa_niter_16"}, "init_lora_weights", "pissa_niter_16"),
    ],
)
def test_freeze(section, attribute, value):
    assert getattr(load_recipe(MINIMAL | {"freeze": section}).freeze, attribute) == value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze": {"strategy": "lora", "r": 16, "lora_dropout": 0.1}},
        {"freeze": {"strategy": "last", "n": 3}},
        {"freeze": {"strategy": "patterns", "patterns": ["a", "b.*"]}},
        {
            "data": {
                "source": {"train": "a.csv", "test": "b.csv"},
                "columns": {"image": ["x", "y"]},
                "limit": 0.5,
            }
        },
        {"data": {"source": "a.csv", "split": {"validation": 100, "test": None, "by": "010"}}},
        {
            "train": {
                "learning_rate": 5e-5,
                "lr_scheduler_type": "exponential",
                "lr_scheduler_kwargs": {"final": 0.01},
            }
        },
        {"task": {"name": "toy:ToyTask", "size": 16}, "name": "no", "output_dir": "2016-01-04", "seed": 0},
        {"model": {"name": "null", "revision": "1e5", "config": {"id2label": {"0": "停", "1": "yes: no"}}}},
        {"loss": {"class_weights": {"Стоп": 2.0, "~": 1.0, "=": 1.0}}},
    ],
)
def test_the_resolved_recipe_gives_an_equal_recipe(tmp_path, changes):
    recipe = load_recipe(MINIMAL | changes)
    text = recipe.to_yaml()
    again = load_recipe(recipe_file(tmp_path, text, "other.yaml"))
    assert again == recipe
    assert again.to_yaml() == text


def test_the_resolved_recipe_writes_every_default_of_ours():
    resolved = load_recipe(MINIMAL).resolved()
    for section in ("data", "model", "evaluate"):
        assert list(resolved[section]) == list(type(getattr(load_recipe(MINIMAL), section)).model_fields)
    assert resolved["train"]["precision"] == "auto"
    assert resolved["data"]["split"]["validation"] == 0.1


def test_overrides_change_single_keys(tmp_path):
    text = "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\nfreeze: lora\naugment: light\n"
    overrides = ["freeze.r=4", "train.learning_rate=5e-5", "data.split.by=patient", "augment=none"]
    overrides += ["loss.class_weights={a: 2.0}"]
    recipe = load_recipe(recipe_file(tmp_path, text), overrides)
    assert recipe.freeze.r == 4
    assert recipe.train.learning_rate == 5e-5
    assert recipe.data.split.by == "patient"
    assert recipe.augment.policy == "none"
    assert recipe.loss.class_weights == {"a": 2.0}


def test_an_override_replaces_a_wrong_value_of_the_file(tmp_path):
    text = "task: toy:ToyTask\ndata: {source: a.csv, id: 010}\nmodel: {name: m}\nseed: x\n"
    recipe = load_recipe(recipe_file(tmp_path, text), ["seed=3", "data.id='010'"])
    assert (recipe.seed, recipe.data.id) == (3, "010")


def test_a_recipe_can_be_overridden():
    recipe = load_recipe(MINIMAL | {"freeze": {"strategy": "lora", "r": 16}})
    assert load_recipe(recipe) == recipe
    changed = load_recipe(recipe, ["seed=3", "freeze.r=4"])
    assert (changed.seed, changed.freeze.r, recipe.freeze.r) == (3, 4, 16)


def test_a_mapping_may_hold_paths_and_tuples_and_is_not_changed():
    source = MINIMAL | {"data": {"source": Path("folder") / "a.csv", "columns": {"image": ("x", "y")}}}
    recipe = load_recipe(source, ["data.id=row"])
    assert recipe.data.source == str(Path("folder") / "a.csv")
    assert recipe.data.columns == {"image": ["x", "y"]}
    assert "id" not in source["data"]
    assert isinstance(source["task"], str)


def test_the_home_folder_is_expanded_and_variables_are_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    recipe = load_recipe(
        {
            "task": "toy:ToyTask",
            "data": {"source": {"train": "~/a", "test": "$HOME/b"}},
            "model": {"name": "~/m"},
        },
        ["output_dir=~/runs"],
    )
    assert recipe.data.source == {"train": "/home/somebody/a", "test": "$HOME/b"}
    assert recipe.model.name == "/home/somebody/m"
    assert recipe.output_dir == "/home/somebody/runs"


def test_probable_mistakes_are_warnings():
    recipe = load_recipe(MINIMAL | {"train": {"learning_rate": 0.5, "max_steps": 10, "num_train_epochs": 3}})
    rate, epochs = recipe.warnings
    assert rate.startswith("train.learning_rate: ") and "0.5" in rate and "1e-5 to 1e-2" in rate
    assert epochs.startswith("train.num_train_epochs: ") and "train.max_steps" in epochs


def test_a_recipe_cannot_be_changed_in_place():
    recipe = load_recipe(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_the_same_task_and_strategy_give_the_same_class():
    assert recipe_model(ToyTask, "lora") is recipe_model(ToyTask, "lora")


def test_missing_file_names_the_near_one(tmp_path):
    recipe_file(tmp_path, "", "signs.yaml")
    with pytest.raises(RecipeError, match=r"sings.yaml: no such file; did you mean .*signs.yaml\?"):
        load_recipe(tmp_path / "sings.yaml")


@pytest.mark.parametrize(
    ("content", "place", "pieces"),
    [
        (b"name: caf\xe9\n", "bad.yaml:1: ", ["0xe9", "UTF-8"]),
        (b"a: 1\nb: \xff\n", "bad.yaml:2: ", ["0xff", "UTF-8"]),
        (b"\x00\x01", "bad.yaml: ", ["YAML", "#x0000"]),
        (b"a" * 1_000_001, "bad.yaml: ", ["1,000,001", "1,000,000"]),
    ],
)
def test_files_that_are_no_text(tmp_path, monkeypatch, content, place, pieces):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe("bad.yaml")
    message = str(caught.value)
    assert message.startswith(place) and all(piece in message for piece in pieces)


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError, match="a folder, not a recipe file"):
        load_recipe(tmp_path)


def test_a_mapping_that_holds_itself_is_refused():
    source: dict = dict(MINIMAL)
    source["model"] = {"name": "m", "config": source}
    with pytest.raises(RecipeError, match="nested more than 20 levels deep"):
        load_recipe(source)


def test_a_mapping_with_a_key_that_is_not_text_is_refused():
    with pytest.raises(RecipeError, match=r"recipe.model.config: found the key 0; a key is text"):
        load_recipe(MINIMAL | {"model": {"name": "m", "config": {0: "a"}}})


def test_objects_of_python_are_not_taken_for_numbers():
    with pytest.raises(RecipeError, match="recipe: seed: found a Python complex; expected a whole number"):
        load_recipe(MINIMAL | {"seed": 1j})


def test_secrets_are_never_repeated(tmp_path):
    secret = "hf_" + "aBcD" * 8
    for source, overrides in (
        (MINIMAL | {"name": secret}, []),
        (MINIMAL | {"model": {"name": "m", secret: 1}}, []),
        (MINIMAL, [f"model.name={secret}"]),
        (MINIMAL, [f"train.hub_token={secret}"]),
        (MINIMAL, ["model.api_key=swordfish"]),
        (MINIMAL, ["model.api_key=[swordfish"]),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe(source, overrides)
        assert secret not in str(caught.value)
        assert "swordfish" not in str(caught.value)


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(
        "\ufefftask: toy:ToyTask\r\ndata: {source: a.csv}\r\nmodel: {name: m}\r\nseed: x\r\n".encode()
    )
    with pytest.raises(RecipeError, match=r"windows.yaml:4: seed: found the text 'x'"):
        load_recipe(path)


def test_a_metric_from_elsewhere_needs_its_direction():
    recipe = load_recipe(
        MINIMAL | {"evaluate": {"metric": "mine", "mode": "max", "extra": ["metrics/mine.py"]}}
    )
    assert (recipe.evaluate.metric, recipe.evaluate.mode) == ("mine", "max")
    assert load_recipe(MINIMAL | {"evaluate": {"metric": "accuracy", "mode": "max"}}).evaluate.mode == "max"


HEADS = MINIMAL | {"task": {"name": "toy:HeadsTask", "heads": ["colour", "shape"]}}


@pytest.mark.parametrize(
    ("recipe", "evaluate", "message"),
    [
        (HEADS, {"metric": "shape/accuracy"}, None),
        (HEADS, {"metric": "shape/acuracy"}, r"evaluate\.metric: .*'shape/acuracy'.* shape/accuracy"),
        (HEADS, {"metric": "accuracy"}, r"evaluate\.metric: .*'accuracy'.*colour/accuracy, shape/accuracy"),
        (HEADS, {"mode": "min"}, r"evaluate\.mode: found min, .*colour/accuracy"),
        (
            MINIMAL | {"task": "toy:HeadsTask"},
            {"metric": "accuracy"},
            r"^recipe: task\.heads: missing[^\n]*$",
        ),
        (TEXT, {"metric": "rmse"}, None),
        (TEXT | {"task": {**TEXT["task"], "problem": "regression"}}, {"metric": "rmse"}, None),
        (
            TEXT | {"task": {**TEXT["task"], "problem": "regression"}},
            {"metric": "accuracy"},
            r"evaluate\.metric: .*'accuracy'.*rmse",
        ),
    ],
)
def test_the_options_of_a_task_decide_which_metrics_there_are(recipe, evaluate, message):
    """A misspelled metric is an error before any data is read, not at the first evaluation."""
    if message is None:
        assert load_recipe(recipe | {"evaluate": evaluate}).evaluate.metric == evaluate["metric"]
        return
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe | {"evaluate": evaluate})


def test_contradicting_sections_are_reported_with_all_other_errors():
    task = {"name": "text-classification", "problem": "multi-label"}
    with pytest.raises(RecipeError) as caught:
        load_recipe(TEXT | {"task": task, "loss": {"label_smoothing": 0.1}, "seed": "x"})
    found = dict(line.split(": ", 2)[1:] for line in str(caught.value).splitlines())
    assert set(found) == {"loss.label_smoothing", "seed"}
    assert "multi-label" in found["loss.label_smoothing"]


@pytest.mark.parametrize("seed", range(3))
def test_damaged_recipes_are_errors_of_recipes(tmp_path, seed):
    """For any content of a file, the reader returns a recipe or raises RecipeError."""
    rng = random.Random(seed)
    tokens = [
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "'",
        '"',
        "&a ",
        "*a",
        "!!str ",
        "| ",
        "#",
        "~",
        "010",
        "\t",
    ]
    tokens += [
        "\x00",
        "\ufeff",
        "---\n",
        "<<: ",
        "1e999",
        "9" * 200,
        "lora",
        "strategy",
        "train",
        "2016-01-01",
    ]
    good = load_recipe(MINIMAL | {"freeze": {"strategy": "lora", "r": 4}, "augment": "light"}).to_yaml()
    refused = 0
    for _ in range(100):
        text = good
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(text))
            cut = at + rng.choice([0, 0, rng.randint(1, 8)])
            text = text[:at] + rng.choice([*tokens, ""]) + text[cut:]
        try:
            load_recipe(recipe_file(tmp_path, text))
        except RecipeError as error:
            assert str(error)
            refused += 1
    assert refused > 50


def test_the_examples_in_the_docstrings():
    import doctest

    from hf_ft.recipe import read

    assert doctest.testmod(read).attempted == 3
    assert doctest.testmod(read).failed == 0


def test_must_beat_needs_intervals():
    beat = {**MINIMAL, "evaluate": {"must_beat": "baseline"}}
    assert load_recipe(beat).evaluate.must_beat == "baseline"
    assert load_recipe(MINIMAL).evaluate.must_beat is None
    with pytest.raises(RecipeError, match=r"evaluate\.must_beat: .*intervals: none.*bootstrap"):
        load_recipe(beat, ["evaluate.intervals=none"])
    with pytest.raises(RecipeError, match=r"evaluate\.must_beat: found the text 'trees'.*baseline"):
        load_recipe(beat, ["evaluate.must_beat=trees"])


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"output_dir": "a\ud800"}, [], r"output_dir: found 'a\\ud800', which holds half of a pair"),
        (
            {"model": {"name": "m", "config": {"\ud800": 1}}},
            [],
            r"config.\\ud800: the key holds half",
        ),
        ({}, ["output_dir=\ud800"], r"override output_dir=\\ud800: not UTF-8"),
        ({}, ["\ud800"], r"override \\ud800: not UTF-8"),
        ({"freeze": {"\ud800": 1}}, [], r"freeze.\\ud800: "),
    ],
)
def test_half_of_a_pair_of_surrogates(changes, overrides, message):
    """JSON can hold it, UTF-8 cannot: the recipe could not be written, and its error not be printed."""
    with pytest.raises(RecipeError) as caught:
        load_recipe({**MINIMAL, **changes}, overrides)
    assert re.search(message, str(caught.value)) and str(caught.value).encode()


def test_the_home_folder_of_somebody_who_does_not_exist():
    with pytest.raises(RecipeError, match=r"data\.source: found '~nobody-here/a\.csv'; the home folder"):
        load_recipe({**MINIMAL, "data": {"source": "~nobody-here/a.csv"}})
    with pytest.raises(RecipeError, match=r"~nobody-here/a\.yaml: no such file"):
        load_recipe("~nobody-here/a.yaml")


def test_a_long_override_is_not_repeated_in_full():
    with pytest.raises(RecipeError) as caught:
        load_recipe(MINIMAL, [f"train.optim={'x' * 5000}"])
    assert len(str(caught.value)) < 1000 and "override train.optim=xxx" in str(caught.value)
