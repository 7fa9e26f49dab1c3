"""Run the same recipe twice at each number of threads and processes, and compare the results.

    python -m reliability.repeat

Two runs at the same setting must give the same bytes: model, results.json, predictions.parquet. Between
settings the order of sums differs, and with it the last bits of every weight; the largest difference of a
metric is printed. Models have no dropout here, whose masks depend on the number of processes, and no batch
norms, which learn from the rows of one process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from reliability.outcome import result
from reliability.processes import Forked, Launched, made, wait
from reliability.tiny_runs import Case, pictures, still, texts, windows

SETTINGS = tuple(product((1, 2), (1, 2)))  # threads, processes
CASES = (
    Case("pictures, full, augmented", still(pictures), {}),
    Case("texts, last block with cache", still(texts), {"freeze": {"strategy": "last", "n": 1}}),
    Case("forecast", still(windows), {}),
)
# How much a metric may differ between settings, absolute or relative.
TOLERANCE = 1e-3


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Return path -> number of everything in a JSON value that is a fraction."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value} if isinstance(value, float) else {}
    return {name: leaf for key, inner in items for name, leaf in numbers(inner, f"{path}/{key}").items()}


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, str]:
    """Return the largest difference, relative where the value is above 1, and the path of it."""
    if one.keys() != other.keys():
        return float("inf"), str(sorted(one.keys() ^ other.keys())[:3])
    gaps = {path: abs(value - other[path]) / max(1.0, abs(value)) for path, value in one.items()}
    return max((gap, path) for path, gap in gaps.items())


def compare(case: Case, folder: Path, start: Callable[..., Any], times: int = 2) -> list[str]:
    """Run a case several times at each setting, and print a line for each; return what is wrong."""
    recipe, wrong = made(case, folder / "rows"), []
    first: dict[str, float] = {}
    for threads, processes in SETTINGS:
        found = []
        for turn in range(times):
            here = folder / f"{threads}-{processes}-{turn}"
            here.mkdir()
            train = {**recipe["train"], "threads": threads}
            content = {**recipe, "train": train, "output_dir": str(here / "run")}
            (here / "recipe.yaml").write_text(json.dumps(content))
            run = start(here / "recipe.yaml", processes, here / "cache", here / "log.txt")
            if code := wait(run):
                raise SystemExit(f"{case.name}: exit code {code}:\n{run.log.read_text()[-2000:]}")
            found.append(result(here / "run"))
        same = all(one == found[0] for one in found)
        # Only what the model gives: intervals and baselines follow from it.
        splits = json.loads((here / "run" / "results.json").read_text())["splits"]
        metrics = numbers({split: about["metrics"] for split, about in splits.items()})
        first = first or metrics
        gap, path = difference(first, metrics)
        setting = f"{case.name}: {threads} thread(s), {processes} process(es)"
        told = "equal" if same else f"DIFFERENT: {[f for f in found[0] if found[0][f] != found[1].get(f)]}"
        print(f"{setting}: {times} runs {told}; {gap:.1e} from the first setting ({path})", flush=True)
        wrong += [] if same and gap <= TOLERANCE else [setting]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--times", type=int, default=2, help="runs at each setting")
    parser.add_argument("--launched", action="store_true", help="start every run with the documented command")
    options = parser.parse_args()
    wrong = []
    for case in (case for case in CASES if options.only in case.name):
        folder = Path(tempfile.mkdtemp(prefix="hf_ft-repeat-"))
        wrong += compare(case, folder, Launched if options.launched else Forked, options.times)
        shutil.rmtree(folder)
    print(f"different: {'; '.join(wrong)}" if wrong else "all equal at each setting")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
