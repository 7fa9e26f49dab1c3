"""How long, in which steps and at which rate a run trains, where the recipe leaves it open (`auto`).

Chosen from the number of rows, the strategy and the kind of network; `python -m benchmarks.defaults` measures
the choices on several data sets beside tuned recipes and simple baselines.
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

# Rows per step, by the number of training rows from which they are taken: few rows need many steps.
BATCH_SIZES = ((640, 32), (160, 16), (0, 8))
# Steps that pretrained weights are given, and the fewest and most epochs: a few hundred rows need many passes
# (Mosbach, Andriushchenko and Klakow, "On the Stability of Fine-tuning BERT", 2021), many rows few.
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 800, 3, 20
# A head on cached features costs little a step, and so does a small network from random weights.
HEAD_STEPS, FEWEST_HEAD_EPOCHS, MOST_HEAD_EPOCHS = 3000, 20, 100
# Evaluations without a better metric after which training ends.
PATIENCE, HEAD_PATIENCE = 4, 10

# Subject of a decision -> the key of the recipe that it fills in.
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
    """Choose what the recipe leaves to `auto`.

    Args:
        recipe: as asked for.
        rows: number of training rows.
        model: with what learns and what does not.
        recorded: the choices of the run that is resumed; they are taken again.

    Returns:
        Batch size, epochs, early stopping and learning rate, also where the recipe has written them.
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
    """Give the recipe with what was chosen written in wherever it says `auto`, so that it reruns the run.

    Args:
        recipe: as asked for.
        decisions: subject -> choice; those of `KEYS` are written in.
    """
    changes = []
    for subject, key in KEYS.items():
        section, _, name = key.partition(".")
        if subject in decisions and getattr(getattr(recipe, section), name) == "auto":
            value = decisions[subject].value
            changes.append(f"{key}={'null' if value is None else value}")
    return load_recipe(recipe, changes)


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
