"""The side of hf_ft: run a recipe as `python -m hf_ft.run` does, and read the seconds of its steps.

python benchmarks/ours/ours_run.py RECIPE OUT.json [key=value ...]
"""

from __future__ import annotations

import json
import sys
import time

# Nothing else here imports transformers or torch: `finetune` starts the gate's process before it does.
from clock import Clock
from curve import Curve

from hf_ft import finetune, load_recipe


def main() -> None:
    recipe_file, out, *overrides = sys.argv[1:]
    clock = Clock()
    recipe = load_recipe(recipe_file, overrides)
    curve = Curve(recipe.evaluate.metric or "accuracy")

    begun = time.perf_counter()
    run = finetune(recipe, resume="never", callbacks=[curve])
    whole = time.perf_counter() - begun

    rooms = json.loads((run.folder / "timing.json").read_text())
    imports = whole - sum(rooms.values())
    until_training = ("recipe", "data", "model", "prepare", "preflight")
    clock.begun["train"] = begun + imports + sum(rooms[name] for name in until_training)
    clock.phases |= {**rooms, "recipe": rooms["recipe"] + imports}
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
        curve=clock.curve(curve.points),
    )


if __name__ == "__main__":
    main()
