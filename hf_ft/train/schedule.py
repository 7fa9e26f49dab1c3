"""Defaults for batch size, epochs, early stopping and learning rate: the keys that a recipe sets to `auto`.

They depend on the number of rows, the freezing strategy and the kind of network. `python -m
benchmarks.defaults` compares them with tuned recipes and with baselines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_ft.model.parameter_groups import default_learning_rate, network_kind
from hf_ft.recipe.read import load_recipe
from hf_ft.train.decisions import Decision

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.recipe.schema import Recipe

# (Smallest number of training rows, batch size): with few rows, small batches give enough steps.
BATCH_SIZES = ((640, 32), (160, 16), (0, 8))
# Steps for fine-tuning pretrained weights, and the limits of the number of epochs. A few hundred rows need
# many epochs (Mosbach, Andriushchenko and Klakow, "On the Stability of Fine-tuning BERT", 2021).
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 800, 3, 20
# The same for a head on cached features and for small networks from random weights, whose steps are cheap.
HEAD_STEPS, FEWEST_HEAD_EPOCHS, MOST_HEAD_EPOCHS = 3000, 20, 100
# Evaluations without an improvement after which training ends.
PATIENCE, HEAD_PATIENCE = 4, 10

# Name of a decision -> the recipe key that it sets.
KEYS = {
    "batch size": "train.global_batch_size",
    "epochs": "train.num_train_epochs",
    "early stopping": "train.early_stopping_patience",
    "learning rate": "train.learning_rate",
    "precision": "train.precision",
    "threads": "train.threads",
}


def choose_schedule(
    recipe: Recipe, rows: int, model: nn.Module, recorded: Mapping[str, Decision]
) -> dict[str, Decision]:
    """Choose values for the keys that the recipe sets to `auto`.

    Args:
        recipe: the recipe of the user.
        rows: number of training rows.
        model: the frozen and adapted model.
        recorded: the decisions of the interrupted run, which a resumed run repeats.

    Returns:
        Decisions on batch size, epochs, early stopping and learning rate, including values that the recipe
        sets itself.
    """
    train = recipe.train
    chosen: dict[str, Decision] = {}

    def settle(subject: str, asked: Any, choice: Decision) -> Any:
        if asked != "auto":
            choice = Decision(asked, "as written in the recipe")
        elif subject in recorded:
            choice = Decision(recorded[subject].value, "as the run began")
        chosen[subject] = choice
        return choice.value

    batch = next(size for least, size in BATCH_SIZES if rows >= least)
    batch = settle("batch size", train.global_batch_size, Decision(batch, f"{rows} training rows"))
    steps = math.ceil(rows / batch)
    quick = recipe.freeze.strategy == "head" or recipe.model.from_scratch
    settle("epochs", train.num_train_epochs, _epochs(steps, quick=quick))
    settle("early stopping", train.early_stopping_patience, _patience(recipe, quick=quick))
    if train.learning_rate == "auto" and "learning rate" not in recorded:
        optimizer = train.arguments.get("optim", "adamw_torch")
        rate, reason = default_learning_rate(
            recipe.freeze.strategy, optimizer, network_kind(model), recipe.model.from_scratch
        )
        chosen["learning rate"] = Decision(rate, reason)
    else:
        settle("learning rate", train.learning_rate, Decision(None))
    return chosen


def with_choices(recipe: Recipe, decisions: Mapping[str, Decision]) -> Recipe:
    """Return the recipe with every `auto` replaced by the chosen value, so that it repeats the run.

    Args:
        recipe: the recipe of the user.
        decisions: name -> decision; only those in `KEYS` are used.
    """
    changes = []
    for subject, key in KEYS.items():
        section, _, name = key.partition(".")
        if subject in decisions and getattr(getattr(recipe, section), name) == "auto":
            value = decisions[subject].value
            changes.append(f"{key}={'null' if value is None else value}")
    return load_recipe(recipe, changes)


def epochs_in(recipe: Recipe, rows: int) -> float:
    """Return how often training goes through its rows; `train.max_steps` may end it earlier or later.

    Args:
        recipe: the resolved recipe, without any `auto`.
        rows: number of training rows.
    """
    steps = recipe.train.arguments.get("max_steps", -1)
    if steps > 0:
        return float(steps * int(recipe.train.global_batch_size) / rows)
    return float(recipe.train.num_train_epochs)


def _epochs(steps: int, *, quick: bool) -> Decision:
    wanted, fewest, most = (
        (HEAD_STEPS, FEWEST_HEAD_EPOCHS, MOST_HEAD_EPOCHS) if quick else (STEPS, FEWEST_EPOCHS, MOST_EPOCHS)
    )
    epochs = min(max(round(wanted / steps), fewest), most)
    return Decision(epochs, f"at most, of {steps} steps each; early stopping may end them sooner")


def _patience(recipe: Recipe, *, quick: bool) -> Decision:
    if recipe.train.eval_strategy == "no":
        return Decision(None, "nothing is evaluated (train.eval_strategy)")
    patience = HEAD_PATIENCE if quick else PATIENCE
    return Decision(
        patience,
        "evaluations with neither a better metric nor a lower loss end the training; the best is kept",
    )
