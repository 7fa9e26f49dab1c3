"""The side of hf_ft: run a recipe as `python -m hf_ft.run` does, and read the seconds of its steps.

python benchmarks/ours/ours_run.py RECIPE OUT.json [key=value ...]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

# Imported here so that imports count as start-up on both sides; hf_ft imports these modules on first use.
import evaluate  # noqa: F401
import sklearn.metrics  # noqa: F401
import transformers.trainer  # noqa: F401
from clock import Clock
from curve import Curve

import hf_ft.run
import hf_ft.train.assemble
from hf_ft import load_recipe
from hf_ft.train import preflight


class Timed:
    """A function that adds up the seconds of its calls."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = self.function(*arguments, **options)
        self.seconds += time.perf_counter() - start
        return result


def main() -> None:
    recipe_file, out, *overrides = sys.argv[1:]
    clock = Clock()
    recipe = load_recipe(recipe_file, overrides)
    curve = Curve(recipe.evaluate.metric or "accuracy")
    # The self-test belongs to the gate (its item d) but runs during `train`, so it is timed separately.
    tests = [Timed(preflight.check_loss_division), Timed(preflight.probe_step)]
    preflight.check_loss_division, preflight.probe_step = tests

    begun = time.perf_counter()
    run = hf_ft.run.finetune(recipe, resume="never", callbacks=[curve])
    whole = time.perf_counter() - begun

    rooms = json.loads((run.folder / "timing.json").read_text())
    before = whole - sum(rooms.values())
    tested = sum(test.seconds for test in tests)
    clock.begun["train"] = begun + before + sum(rooms[name] for name in ("recipe", "data", "model"))
    clock.phases |= {**rooms, "recipe": rooms["recipe"] + before, "self-test": tested}
    clock.phases["train"] -= tested
    headline = run.results["headline"]
    clock.write(
        out,
        rows=json.loads((run.folder / "data.json").read_text())["sizes"],
        steps=curve.steps,
        epochs=curve.epochs,
        learning=sum(weight.numel() for weight in run.model.parameters() if weight.requires_grad),
        metric=headline["value"],
        precision=json.loads((run.folder / "decisions.json").read_text())["precision"]["value"],
        interval=headline["interval"],
        curve=[(seconds - tested, value) for seconds, value in clock.curve(curve.points)],
    )


if __name__ == "__main__":
    main()
