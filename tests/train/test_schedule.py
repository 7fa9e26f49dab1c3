"""What is chosen where a recipe says `auto`: batch, epochs, patience and learning rate."""

import pytest
import tiny

from hf_ft.recipe.read import load_recipe
from hf_ft.train.decisions import Decision
from hf_ft.train.schedule import choose_schedule, epochs_in, with_choices


def recipe(freeze="full", **train):
    return load_recipe(
        {
            "task": "text-classification",
            "data": {"source": "in memory"},
            "model": {"name": "x"},
            "freeze": freeze,
            "train": train,
        }
    )


def values(made):
    return {subject: choice.value for subject, choice in made.items()}


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(60, 8, 20), (500, 16, 20), (2570, 32, 10), (10_000, 32, 3), (10**6, 32, 3)]
)
def test_few_rows_get_many_passes_and_many_rows_few(rows, batch, epochs):
    found = values(choose_schedule(recipe(), rows, tiny.bert(), {}))
    assert (found["batch size"], found["epochs"], found["early stopping"]) == (batch, epochs, 4)


def test_a_head_is_trained_until_it_no_longer_gains():
    found = values(choose_schedule(recipe("head"), 860, tiny.bert(), {}))
    assert found["epochs"] == 100 and found["early stopping"] == 10


def test_what_the_recipe_says_is_left_alone():
    asked = recipe(num_train_epochs=2, global_batch_size=4, learning_rate=1e-2, early_stopping_patience=None)
    made = choose_schedule(asked, 500, tiny.bert(), {})
    assert values(made) == {"batch size": 4, "epochs": 2, "early stopping": None, "learning rate": 1e-2}
    assert {choice.reason for choice in made.values()} == {"as written in the recipe"}


def test_max_steps_decides_how_often_the_rows_are_trained_on():
    """The cost of training, to which that of the linear probe is compared."""
    assert epochs_in(recipe(num_train_epochs=3, global_batch_size=32), 100_000) == 3
    assert epochs_in(recipe(num_train_epochs=3, global_batch_size=32, max_steps=20), 6400) == 0.1


def test_without_evaluations_nothing_stops_early():
    made = choose_schedule(recipe(eval_strategy="no"), 500, tiny.bert(), {})
    assert made["early stopping"].value is None


def test_a_resumed_run_goes_on_with_what_it_began_with():
    """Another version of hf_ft may choose otherwise; a half-finished schedule must not change."""
    recorded = {"epochs": Decision(7, "chosen then"), "learning rate": Decision(0.5, "chosen then")}
    found = values(choose_schedule(recipe(), 500, tiny.bert(), recorded))
    assert (found["epochs"], found["learning rate"], found["batch size"]) == (7, 0.5, 16)


def test_choices_are_written_into_the_recipe_where_it_said_auto():
    asked = recipe(num_train_epochs=2)
    made = {**choose_schedule(asked, 500, tiny.bert(), {}), "threads": Decision(1, "measured")}
    chosen = with_choices(asked, made)
    assert (chosen.train.num_train_epochs, chosen.train.global_batch_size, chosen.train.threads) == (2, 16, 1)
    assert chosen.train.precision == "auto"  # nothing was chosen
    assert with_choices(chosen, {**made, "batch size": Decision(99)}) == chosen
    assert load_recipe(chosen.resolved()) == chosen
