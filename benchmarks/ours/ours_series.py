"""The side of hf_ft: iterate over the training loader of a forecasting recipe, without model steps.

python benchmarks/ours/ours_series.py RECIPE OUT.json [key=value ...]
"""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
from pathlib import Path

import pandas
from clock import Clock

from hf_ft import load_recipe
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.prepare import prepare
from hf_ft.registry import new_task
from hf_ft.train.assemble import assemble


def main() -> None:
    recipe_file, out, *overrides = sys.argv[1:]
    clock = Clock()
    recipe = load_recipe(recipe_file, overrides)
    with clock.phase("read"):
        with tempfile.TemporaryDirectory() as scratch:
            trainer = assemble(recipe, Path(scratch)).trainer
        loader = trainer.get_train_dataloader()
    seen = 0
    with clock.phase("windows"):
        for epoch in range(int(recipe.train.num_train_epochs)):
            trainer.sampler.epoch = epoch
            for batch in loader:
                seen += len(batch["past_values"])

    clock.write(out, rows={"windows": seen}, held=held_to_series(recipe))


def held_to_series(recipe) -> float:
    """Return the memory of all windows of all splits, divided by that of the series in pandas."""
    table = pandas.read_csv(recipe.data.source)
    if recipe.data.rows:
        table = table.iloc[slice(*recipe.data.rows)].reset_index(drop=True)
    series = int(table.memory_usage(deep=True).sum())
    task = new_task(recipe)
    tracemalloc.start()
    data = prepare(recipe, task)
    rows = EncodedRows(task, data.rows["train"], split="train", seed=recipe.seed, train=True)
    rows.__getitems__([(0, 0, True)])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.rows["train"]) > 0
    return held / series


if __name__ == "__main__":
    main()
