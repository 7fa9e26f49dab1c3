"""Compare hf_ft with plain scripts on the same rows, weights, epochs and global batch.

    make bench                           everything, in under half an hour on two cores; writes results.md
    make bench ONLY=head_image           one item, printed and not written (or: quality, scaling, start)
    make bench ONLY=head_image FULL=1    with the rows that its target was set for
    make bench BEFORE=DIR                also hf_ft of another checkout: a worktree of an earlier commit
    make bench DATA=DIR                  on real data (default: $HF_FT_DATA); without, on samples of packages

Every side is a fresh process. A round runs the sides of every item one after another (A B); rounds are
repeated until the time is used up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Measured, Round
from benchmarks.report import report
from benchmarks.works import BEFORE, QUALITY, SCALING, WORKS, Work

HERE = Path(__file__).parent
CHECKOUT = HERE.parent


@dataclass
class Bench:
    """The measurements of one call.

    Args:
        scratch: a folder for rows, weights, caches and runs.
        real: the folder with the real data sets; None: the samples are used.
        before: the checkout that computes the side `before`.
        rounds: item -> measurements of each round: side -> its JSON.
        facts: item -> paths and names of the prepared rows and weights.
        took: item -> seconds of its last round, start-up included.
    """

    scratch: Path
    real: Path | None = None
    before: Path | None = None
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)

    def measure(self, work: Work) -> Round:
        """Run all sides of an item once, one after another."""
        if work.name not in self.facts:
            self.facts[work.name] = self.prepare(work)
        begun = time.monotonic()
        rounds = self.rounds.setdefault(work.name, [])
        # A new folder for every round, so that filling the caches is measured too.
        folder = self.scratch / work.name / f"round-{len(rounds)}"
        found = {side: self.run(work, side, folder) for side in work.sides}
        rounds.append(found)
        self.took[work.name] = time.monotonic() - begun
        return found

    def prepare(self, work: Work) -> dict[str, str]:
        """Prepare rows and weights in a separate process."""
        folder = self.scratch / work.name
        sizes: list[object] = ["--train", work.train, "--validation", work.validation]
        sizes += [] if work.classes is None else ["--classes", work.classes]
        command = ["-m", "benchmarks.prepare", folder, "--data", work.data, "--model", work.model]
        sizes += [] if self.real is None else ["--real", self.real]
        call([*command, *sizes], CHECKOUT, folder / "prepare.log")
        return json.loads((folder / "facts.json").read_text())

    def run(self, work: Work, side: str, folder: Path) -> Measured:
        """Run one side in a fresh process, and read what it wrote."""
        checkout = self.before if side == BEFORE and self.before is not None else CHECKOUT
        command = work.sides[side].split()
        # `again` shares the caches of `ours`.
        own = folder / ("ours" if side == "again" else side.replace(" ", "-"))
        out = own / f"{side.replace(' ', '-')}.json"
        facts = self.facts[work.name] | {"epochs": str(work.epochs), "out": str(out), "folder": str(own)}
        script, *arguments = [part.format(**facts) for part in command]
        here = checkout / "benchmarks"
        arguments = [str(here / part) if part.startswith("recipes/") else part for part in arguments]
        caches = {"HF_FT_CACHE": str(own / "cache"), "HF_DATASETS_CACHE": str(own / "datasets")}
        call([here / script, *arguments], checkout, out.with_suffix(".log"), caches)
        return json.loads(out.read_text())

    def go_round(
        self, works: Sequence[Work], rounds: int, deadline: float, after: Callable[[], object] = lambda: None
    ) -> None:
        """Measure every item once, and repeat the rounds while they fit into the time.

        Args:
            works: the items.
            rounds: most rounds.
            deadline: in seconds of the monotonic clock; no repetition begins that would end later.
            after: called after each measurement, to write the results so far.
        """
        for number in range(rounds):
            for work in works:
                left = deadline - time.monotonic()
                if number >= work.rounds or (number and self.took[work.name] > left):
                    continue
                self.measure(work)
                print(f"round {number + 1}: {work.name} took {self.took[work.name]:.0f} s", flush=True)
                after()


def surroundings(checkout: Path = CHECKOUT) -> dict[str, str]:
    """Return the environment of every process: no network, no bars, modules of both sides on the path."""
    path = os.pathsep.join([str(checkout / "benchmarks" / "plain"), str(checkout)])
    return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}


def call(
    arguments: Sequence[object], checkout: Path, log: Path, variables: Mapping[str, str] | None = None
) -> None:
    """Run this Python with arguments in a checkout, its output in a log.

    Raises:
        SystemExit: the process failed; the message ends with the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *map(str, arguments)]
    environment = surroundings(checkout) | dict(variables or {}) | {"BENCH_STARTED": str(time.time())}
    with log.open("w") as file:
        done = subprocess.run(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=checkout, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{log.read_text()[-3000:]}")


def start_up(times: int = 3) -> dict[str, list[float]]:
    """Time the start-up: of the command line, of checking a recipe, and of the launcher."""
    hf_ft = [sys.executable, "-m", "hf_ft"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    commands = {
        "hf-ft --help": [*hf_ft, "--help"],
        "hf-ft check --schema-only": [*hf_ft, "check", "recipes/traffic_signs.yaml", "--schema-only"],
        "accelerate launch of nothing": [*launcher, "accelerate_configs/cpu.yaml", "--no_python", "true"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            begun = time.monotonic()
            subprocess.run(command, cwd=CHECKOUT, env=surroundings(), capture_output=True, check=True)
            found[name].append(time.monotonic() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [*(work.name for work in WORKS), "quality", "scaling", "start"]
    parser.add_argument("--only", choices=names, help="one item; printed, not written")
    parser.add_argument("--full", action="store_true", help="the rows of the targets, however long it takes")
    parser.add_argument("--minutes", type=float, default=28, help="begin no round that would end later")
    parser.add_argument("--rounds", type=int, default=5, help="at most so many")
    data = os.environ.get("HF_FT_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(data) if data else None,
        help="folder with the real data sets (default: $HF_FT_DATA); without one, samples are used",
    )
    parser.add_argument("--before", type=Path, help="another checkout, whose hf_ft is compared with this one")
    options = parser.parse_args()
    if options.before is not None and not (options.before / "benchmarks").is_dir():
        parser.error(f"--before: {options.before} is no checkout with benchmarks/")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data: there is no folder {options.data}")

    works = [work for work in (*WORKS, *QUALITY, *SCALING) if work.name.startswith(options.only or "")]
    if options.full:
        works = [work.full() for work in works]
    if options.before is not None:
        works = [work.with_before() for work in works]
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="hf_ft-bench-") as scratch:
        bench = Bench(
            Path(scratch),
            options.data and options.data.resolve(),
            options.before and options.before.resolve(),
        )
        starts = start_up() if options.only in (None, "start") else {}

        def write() -> str:
            text = report(bench.rounds, works, bench.facts, starts)
            if options.only is None:
                (HERE / "results.md").write_text(text)
            return text

        bench.go_round(works, options.rounds, deadline, write)
    print(write())


if __name__ == "__main__":
    main()
