"""Kill runs at random moments, start them again, and compare the result with that of an undisturbed run.

    python -m reliability.kills --kills 100 --seed 0

For each case of `tiny_runs.CASES`, one run is left alone; its model, results.json and predictions.parquet
are the reference. Other runs of the same recipe are killed, started again with the same command, killed
again, and so on, until they finish. All files of the result must then equal the reference byte for byte, and
no file may be left over. Half of the moments are drawn from the time up to the gate, half follow the
appearance of a file of one stage. Most kills are SIGKILL to all processes at once; some are SIGTERM, SIGINT,
or SIGKILL to one of two processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from reliability.outcome import differences
from reliability.processes import (
    LONGEST,
    Forked,
    Launched,
    family,
    gone,
    is_running,
    kill_all,
    made,
    wait,
)
from reliability.tiny_runs import CASES, Case

# Stage -> what appears in the run folder, in the order of a run. Names with a dot are being written.
STAGES = {
    "assembled": "recipe.yaml",
    "writing a checkpoint": "checkpoints/.writing-*",
    "checkpoint written": "checkpoints/checkpoint-*",
    "writing the model": ".model.*",
    "model saved": "model",
    "writing results": ".results.json.*",
    "results written": "results.json",
    "predictions written": "predictions.parquet",
    "gate passed": "verify.json",
    "reported": "report.html",
    "times written": "timing.json",
    "sealed": "seal.json",
}
# The gate follows, and writes nothing while it waits for its fresh process.
BY_TIME, GATE = "any time", "predictions written"
# Stage -> name and inode of each of its files.
Versions = dict[str, set[tuple[str, int]]]
# What is sent, and how often out of ten.
SENT = ["KILL"] * 8 + ["TERM", "INT"]
MOST_STARTS = 3


@dataclass
class Kill:
    """One moment at which a run is killed.

    Args:
        case: name of the case.
        stage: of `STAGES`, or `BY_TIME`.
        seconds: after the appearance of the stage's file, or after the start.
        sent: KILL, TERM or INT, and to whom.
        number: how many files of the stage appear before.
        after: the last stage of which this start had written a file when it was killed; "ended before" if
            it had ended by itself.
    """

    case: str
    stage: str
    seconds: float
    sent: str
    number: int = 1
    after: str = ""

    @property
    def injected(self) -> bool:
        """Whether it met a run that was alive."""
        return self.after != "ended before"


@dataclass
class Trial:
    """A run that is killed several times and then left to finish.

    Args:
        case: name of the case.
        kills: in their order.
        lost: what is wrong with the finished run; empty if nothing is.
    """

    case: str
    kills: list[Kill] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Campaign:
    """Runs of all cases in one folder.

    Args:
        folder: for rows, models, caches and runs.
        seed: of the moments.
        launched: whether every start uses the documented command, imports included.
    """

    def __init__(self, folder: Path, seed: int, launched: bool = False):
        self.folder, self.random = folder, random.Random(seed)
        self.kind = Launched if launched else Forked
        # Case -> its recipe, its undisturbed run, and the seconds from its start to the gate.
        self.known: dict[str, tuple[dict, Path, float]] = {}
        self.trials: list[Trial] = []

    def start(self, case: Case, name: str) -> Launched | Forked:
        """Start a run of a case in the folder of this name, or go on with it."""
        here = self.folder / name
        here.mkdir(exist_ok=True)
        recipe, file = self.known[case.name][0], here / "recipe.yaml"
        file.write_text(json.dumps({**recipe, "output_dir": str(here / "run")}))
        return self.kind(file, case.processes, here / "cache", here / "log.txt")

    def reference(self, case: Case) -> tuple[Path, float]:
        """Return the undisturbed run of a case and its seconds up to the gate; it is made at the first call.

        Raises:
            SystemExit: it does not finish.
        """
        if case.name not in self.known:
            number = CASES.index(case)
            self.known[case.name] = (made(case, self.folder / f"rows-{number}"), Path(), 0.0)
            name = f"reference-{number}"
            begun = time.time()
            run = self.start(case, name)
            if wait(run):
                raise SystemExit(f"{case.name}: the undisturbed run failed:\n{run.log.read_text()[-3000:]}")
            folder = self.folder / name / "run"
            took = (folder / STAGES[GATE]).stat().st_mtime - begun
            self.known[case.name] = (self.known[case.name][0], folder, took)
        return self.known[case.name][1:]

    def moments(self, case: Case, seconds: float) -> Iterator[Kill]:
        """Draw moments: by time and by stage in turn, every stage once before any is repeated."""
        draw = self.random
        while True:
            for stage in draw.sample(list(STAGES), len(STAGES)):
                for tied in (False, True):
                    sent = draw.choice(SENT)
                    whom = draw.choice(["all", "one"]) if case.processes > 1 else "all"
                    after, number = draw.uniform(0, seconds), draw.randint(1, 3)
                    if tied:
                        yield Kill(case.name, stage, after % 0.03, f"{sent} {whom}", number)
                    else:
                        yield Kill(case.name, BY_TIME, after, f"{sent} {whom}")

    def trial(self, case: Case, kills: list[Kill]) -> Trial:
        """Kill one run at these moments, let it finish, and compare it with the undisturbed run."""
        reference, _ = self.reference(case)
        name = f"trial-{len(self.trials)}"
        folder, found = self.folder / name / "run", Trial(case.name)
        self.trials.append(found)
        try:
            # Nothing comes after the seal.
            for kill in sorted(kills, key=lambda kill: kill.stage == "sealed"):
                run = self.start(case, name)
                found.kills.append(kill)
                self.inject(run, folder, kill)
                _check_end(run, case, kill)
                if (folder / "seal.json").exists():
                    break
            for _ in range(MOST_STARTS):
                if (folder / "seal.json").exists():
                    break
                run = self.start(case, name)
                if code := wait(run):
                    raise AssertionError(f"exit code {code} without a kill; {_last_line(run)}")
            found.lost = differences(folder, reference)
        except (AssertionError, TimeoutError) as error:
            found.lost = [str(error)]
        if not found.lost:
            shutil.rmtree(self.folder / name)
        return found

    def inject(self, run: Launched | Forked, folder: Path, kill: Kill) -> None:
        """Wait for the moment, and kill the run."""
        before = _snapshot(folder)
        _await(run, folder, kill, before)
        kill.after = _reached(folder, before) if is_running(run) else "ended before"
        sent, whom = kill.sent.split()
        number = signal.Signals[f"SIG{sent}"]
        if (sent, whom) == ("KILL", "all"):
            kill_all(run)
            return
        members = family(run)
        ranks = [one for one in members if one.pid in run.roots or "hf_ft.run" in _command(one)]
        for process in ranks[-1:] if whom == "one" else ranks:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        gone(run, members)


def _await(run: Launched | Forked, folder: Path, kill: Kill, before: Versions) -> None:
    """Return at the moment of a kill, or when the run has ended; "any time" ends when the gate begins."""
    begun = time.monotonic()
    stage = GATE if kill.stage == BY_TIME else kill.stage
    latest = kill.seconds if kill.stage == BY_TIME else LONGEST
    # Every version of a checkpoint counts; of another file, the first one that this start writes.
    number = kill.number if "checkpoint" in kill.stage else 1
    seen = set[tuple[str, int]]()
    while is_running(run) and len(seen) < number and time.monotonic() < begun + latest:
        seen |= _versions(folder, STAGES[stage]) - before[stage]
        time.sleep(0.0005)
    end = time.monotonic() + kill.seconds
    while kill.stage != BY_TIME and is_running(run) and time.monotonic() < end:
        time.sleep(0.0005)


def _versions(folder: Path, pattern: str) -> set[tuple[str, int]]:
    """Return name and inode of what fits a pattern: a file that is written again is another one."""
    found = set()
    for path in folder.glob(pattern) if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            found.add((path.name, path.stat().st_ino))
    return found


def _snapshot(folder: Path) -> Versions:
    """Return stage -> what is there of it when a run is started: it may be that of an earlier start."""
    return {stage: _versions(folder, pattern) for stage, pattern in STAGES.items()}


def _reached(folder: Path, before: Versions) -> str:
    now = _snapshot(folder)
    return next((stage for stage in reversed(STAGES) if now[stage] - before[stage]), "nothing written")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _check_end(run: Launched | Forked, case: Case, kill: Kill) -> None:
    """A run that was asked to stop must say so with its exit code; one that was not killed must succeed."""
    codes = set(run.exit_codes())
    sent = kill.sent.split()[0]
    expected = {"KILL": {0, -9}, "TERM": {0, 75, -15}, "INT": {0, 130, -2}}[sent]
    if not kill.injected:
        expected = {0}
    # With several processes, those that were not killed report a lost connection.
    if codes - expected and (case.processes == 1 or not kill.injected):
        raise AssertionError(f"exit codes {codes} after {kill}; {_last_line(run)}")


def _last_line(run: Launched | Forked) -> str:
    return "; ".join(run.log.read_text(errors="replace").strip().splitlines()[-3:])[-600:]


def go_round(
    found: Campaign, cases: Sequence[Case], kills: int, per_run: int = 5, minutes: float = 1e9
) -> None:
    """Go round the cases until so many kills have met a run that was alive, or the time is over.

    Args:
        found: a new campaign.
        cases: in their order.
        kills: how many in all.
        per_run: how many kills a run gets before it may finish.
        minutes: after which no further run begins.
    """
    injected, until = 0, time.monotonic() + 60 * minutes
    draws: dict[str, Iterator[Kill]] = {}
    while injected < kills and time.monotonic() < until:
        case = cases[len(found.trials) % len(cases)]
        _, seconds = found.reference(case)
        moments = draws.setdefault(case.name, found.moments(case, seconds))
        begun = time.monotonic()
        trial = found.trial(case, [next(moments) for _ in range(min(per_run, kills - injected))])
        injected += sum(kill.injected for kill in trial.kills)
        what = ", ".join(f"{kill.sent} after {kill.after}" for kill in trial.kills)
        end = f"LOST: {'; '.join(trial.lost)}" if trial.lost else "equal"
        took = time.monotonic() - begun
        print(f"{len(found.trials):3}  {case.name}: {what}: {end} ({took:.0f} s)", flush=True)


def summary(trials: list[Trial]) -> dict[str, object]:
    """Count what was injected, survived and lost; a run that is lost counts with its last kill."""
    kills = [kill for trial in trials for kill in trial.kills if kill.injected]
    lost = sum(bool(trial.lost) for trial in trials)
    return {
        "injected": len(kills),
        "survived": len(kills) - lost,
        "lost": lost,
        "runs": len(trials),
        "by signal": dict(Counter(kill.sent for kill in kills)),
        "by stage reached": {
            stage: count
            for stage in ("nothing written", *STAGES)
            if (count := sum(kill.after == stage for kill in kills))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--per-run", type=int, default=5, help="kills of one run before it may finish")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further run after so many")
    parser.add_argument("--launched", action="store_true", help="start every run with the documented command")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="a file for everything that was done")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hf_ft-kills-"))
    found = Campaign(folder, options.seed, options.launched)
    cases = [case for case in CASES if options.only in case.name]
    go_round(found, cases, options.kills, options.per_run, options.minutes)
    counts = summary(found.trials)
    print(json.dumps(counts, indent=2))
    if options.json:
        trials = [asdict(trial) for trial in found.trials]
        options.json.write_text(
            json.dumps({"summary": counts, "seed": options.seed, "runs": trials}, indent=1)
        )
    if counts["lost"]:
        print(f"what was lost is kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
