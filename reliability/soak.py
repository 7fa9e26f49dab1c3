"""Train for long, evaluate and save often, and look whether memory, open files, threads or checkpoints grow.

    python -m reliability.soak --steps 2000 --every 20

After every checkpoint the process is measured. The slope of a straight line through the second half of the
measurements is printed; the first half fills caches and allocators.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Before torch is imported: small networks are much slower with many threads on a busy processor.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from transformers import TrainerCallback

from hf_ft import finetune
from reliability.tiny_runs import CASES, Case

NAMES = ("series, a class", "texts, last block with cache", "pictures, full, 2 workers")
# What may be gained over the second half, by the straight line. Python's heap and the log of the Trainer,
# which is held in memory, explain some memory; a file, thread or process is never needed once more.
LIMITS = {"memory (MiB)": 8.0, "open files": 0.5, "threads": 0.5, "processes": 0.5, "checkpoints": 0.5}


class Meter(TrainerCallback):
    """Measures the process after every checkpoint: `rows` holds a dict for each."""

    def __init__(self) -> None:
        self.process, self.rows = psutil.Process(), list[dict[str, float]]()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rows.append(
            {
                "step": state.global_step,
                "memory (MiB)": self.process.memory_info().rss / 2**20,
                "open files": self.process.num_fds(),
                "threads": self.process.num_threads(),
                "processes": len(self.process.children(recursive=True)),
                "checkpoints": len(list(Path(args.output_dir).iterdir())),
            }
        )


def soak(case: Case, folder: Path, steps: int, every: int) -> list[dict[str, float]]:
    """Train a case for so many steps; return what was measured after each checkpoint."""
    recipe = case.recipe(folder / "rows")
    train = {"max_steps": steps, "eval_strategy": "steps", "eval_steps": every, "logging_steps": every}
    recipe["train"] |= {**train, "save_minutes": None}
    os.environ["HF_FT_CACHE"] = str(folder / "cache")
    meter = Meter()
    finetune({**recipe, "output_dir": str(folder / "run")}, callbacks=[meter], verbose=False)
    return meter.rows


def slopes(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return how much of each quantity a step adds, by a straight line through the second half."""
    half = rows[len(rows) // 2 :]
    steps = [row["step"] for row in half]
    return {name: float(np.polyfit(steps, [row[name] for row in half], 1)[0]) for name in LIMITS}


def grown(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return what has grown by more than its limit over the second half: name -> by how much."""
    half = rows[len(rows) // 2 :]
    gained = {name: slope * (half[-1]["step"] - half[0]["step"]) for name, slope in slopes(rows).items()}
    return {name: gain for name, gain in gained.items() if gain > LIMITS[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20, help="steps between evaluations")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="a file for all measurements")
    options = parser.parse_args()
    measured, failed = {}, False
    for case in (case for case in CASES if case.name in NAMES and options.only in case.name):
        folder = Path(tempfile.mkdtemp(prefix="hf_ft-soak-"))
        rows = measured[case.name] = soak(case, folder, options.steps, options.every)
        shutil.rmtree(folder)
        print(f"{case.name}: {options.steps} steps, {len(rows)} checkpoints written", flush=True)
        for name, slope in slopes(rows).items():
            values = [row[name] for row in rows]
            at = f"first {values[0]:.0f}, at half {values[len(values) // 2]:.1f}, last {values[-1]:.1f}"
            print(f"  {name:13} {at}, most {max(values):.1f}; slope {1000 * slope:+.3f} per 1,000 steps")
        too_much = grown(rows)
        failed |= bool(too_much)
        print(f"  GROWS: {too_much}" if too_much else "  flat", flush=True)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))
    sys.exit(failed)


if __name__ == "__main__":
    main()
