"""Compare the default recipe with tuned recipes and with the baselines, on several data sets.

    python -m benchmarks.defaults --sets DIR [--data DIR] [--only NAME ...] [--no-tuning]

The default recipe names only rows and model, as `hf-ft init` writes it, and no key of training. The tuned
recipes try the learning rates and epochs in TUNED; the table shows the one with the best validation metric,
and its metric on the test rows. The sets in `--sets` are built from packages (`benchmarks/package_sets.py`),
those in `--data` are the copies that docs/results*.md describe. Finished runs below `--sets` in `runs`
are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.package_sets import SETS, make
from benchmarks.run import surroundings

TEXT, PICTURE = "text-classification", "image-classification"
MODELS = {TEXT: "sample:minilm", PICTURE: "sample:efficientnet-lite0"}
# Learning rate and epochs of the tuned recipes; early stopping is the default.
TUNED = {
    TEXT: [("2e-5", 10), ("5e-5", 10), ("2e-4", 10)],
    PICTURE: [("1e-4", 15), ("3e-4", 15), ("1e-3", 15)],
}
# Pictures have half the side, for a quarter of the time, in the default and the tuned recipes.
SMALLER = {PICTURE: {"task.image_size": 112}, TEXT: {}}


@dataclass(frozen=True)
class DataSet:
    """A data set of the comparison.

    Args:
        name: name of the data set, and of the folder with its rows.
        task: name of the task.
        data: the section `data` of the recipe; paths are relative to the folder.
        settings: further keys of every recipe.
    """

    name: str
    task: str
    data: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


TRAIN_TEST = {"source": {"train": "train.parquet", "test": "test.parquet"}}
# Rows of the sets of pictures, so that one core trains a set in about 20 minutes.
FEW = {"train": 1000, "test": 600}
OWN = [
    DataSet("debian", TEXT, {**TRAIN_TEST, "id": "id"}),
    DataSet("fortunes", TEXT, {**TRAIN_TEST, "id": "id"}),
    DataSet("emoji", PICTURE, {**TRAIN_TEST, "id": "id", "limit": FEW}),
]
REAL = [
    DataSet(
        "sst2",
        TEXT,
        {"source": {"train": "train.parquet", "test": "validation.parquet"}, "limit": {"train": 2000}},
    ),
    DataSet("trec6", TEXT, {"source": ".", "split": {"test": 0.2}, "limit": 2000}),
    DataSet("sms_spam", TEXT, {"source": ".", "split": {"test": "validation"}, "limit": {"train": 2000}}),
    DataSet("cifar10", PICTURE, {**TRAIN_TEST, "limit": FEW}),
    DataSet("rsscn7", PICTURE, {"source": "."}),
    DataSet("pneumonia_mnist", PICTURE, {**TRAIN_TEST, "limit": FEW}),
]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Args:
        results: content of results.json.
        epochs: number of trained epochs.
        minutes: duration of the run.
    """

    results: Mapping[str, Any]
    epochs: float
    minutes: float

    @property
    def headline(self) -> Mapping[str, Any]:
        """The main metric on the final split."""
        return dict(self.results["headline"])

    @property
    def validation(self) -> float:
        """The same metric on validation."""
        return float(self.results["splits"]["validation"]["metrics"][self.headline["metric"]])


def try_recipe(folder: Path, rows: Path, given: DataSet, name: str, changes: Sequence[str]) -> Outcome:
    """Run the recipe of a data set with overrides in a new process; reuse a finished run."""
    run = folder / f"{given.name}-{name}"
    if not (run / "timing.json").is_file():
        run.parent.mkdir(parents=True, exist_ok=True)
        recipe = run.with_suffix(".json")
        recipe.write_text(json.dumps(_recipe(rows, given)))
        command = ["-m", "hf_ft", "run", str(recipe), f"output_dir={run}", *changes, "--resume", "never"]
        with run.with_suffix(".log").open("w") as log:
            subprocess.run([sys.executable, *command], env=surroundings(), stdout=log, stderr=log, check=True)
    log_lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return Outcome(
        json.loads((run / "results.json").read_text()),
        max(line["epoch"] for line in log_lines if "epoch" in line),
        sum(json.loads((run / "timing.json").read_text()).values()) / 60,
    )


def _recipe(rows: Path, given: DataSet) -> dict[str, Any]:
    source = given.data["source"]
    placed = str(rows / source) if isinstance(source, str) else {k: str(rows / v) for k, v in source.items()}
    size = SMALLER[given.task]
    return {
        "task": {"name": given.task, **{key.removeprefix("task."): value for key, value in size.items()}},
        "data": {**given.data, "source": placed},
        "model": {"name": MODELS[given.task]},
        **given.settings,
    }


def compare(folder: Path, rows: Path, given: DataSet, *, tune: bool) -> str:
    """Run the default and the tuned recipes of a data set; return its line of the table."""
    default = try_recipe(folder, rows, given, "default", [])
    head, verdict = default.headline, default.results["verdict"]
    tuned = "not tried"
    if tune:
        tries = {
            (rate, epochs): try_recipe(
                folder,
                rows,
                given,
                f"{rate}-{epochs}",
                [f"train.learning_rate={rate}", f"train.num_train_epochs={epochs}"],
            )
            for rate, epochs in TUNED[given.task]
        }
        (rate, epochs), best = max(tries.items(), key=lambda item: item[1].validation)
        tuned = f"{best.headline['value']:.3f} ({rate}, {epochs} epochs)"
    baselines = ", ".join(f"{one['name']} {one['value']:.3f}" for one in verdict["baselines"])
    low, high = head["interval"]
    cells = [
        given.name,
        f"{head['metric']} {head['value']:.3f} ({low:.3f} to {high:.3f})",
        tuned,
        baselines,
        verdict["outcome"],
        f"{default.epochs:.0f}",
        f"{default.minutes:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets", type=Path, required=True, help="folder of the sets made from packages, and of runs"
    )
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--no-tuning", action="store_true", help="run the default recipes alone")
    options = parser.parse_args()
    print("| set | default | best of the tuned | baselines | verdict of the default | epochs | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for given in [*OWN, *(REAL if options.data else [])]:
        if options.only and given.name not in options.only:
            continue
        rows = make(given.name, options.sets) if given.name in SETS else options.data / given.name
        print(compare(options.sets / "runs", rows, given, tune=not options.no_tuning), flush=True)


if __name__ == "__main__":
    main()
