"""The tables of results.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

import torch

from benchmarks.figures import (
    APART,
    Round,
    ratios,
    same_metric,
    seconds,
    seconds_to_finish,
    short,
    unequal_work,
    verdict,
)
from benchmarks.works import Work

Rounds = Mapping[str, Sequence[Round]]


def report(
    rounds: Rounds,
    works: Sequence[Work],
    facts: Mapping[str, Mapping[str, str]],
    starts: Mapping[str, list[float]],
) -> str:
    """Write all tables that were measured: ratios, phases, quality, scaling and start-up."""
    compared = [work for work in works if work.goals and work.name in rounds]
    others = [work for work in works if not work.goals and work.name in rounds]
    judged = [work for work in others if work.name.startswith("quality")]
    scaled = [work for work in others if work not in judged]
    parts = ["# Results of `make bench`", machine()]
    if compared:
        parts += ["## Ratios", ratio_table(rounds, compared, facts)]
        parts += ["## Where the time went", phase_table(rounds, compared)]
    if judged:
        parts += ["## Quality in bf16", quality_table(rounds, judged, facts)]
    if scaled:
        parts += ["## Scaling of hf_ft", scaling_table(rounds, scaled)]
    if starts:
        parts += ["## Start-up", start_table(starts)]
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """Describe the machine, the packages and the threads."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "datasets"))
    able = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
    half = able[0] if able else "no bf16"
    threads = f"{os.environ.get('OMP_NUM_THREADS', 'as many as torch chooses')}, the same for every side"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, {half}), {packages}; threads: {threads}.\n"
        "Medians; in brackets the smallest and the largest of the paired ratios.\n"
        "README.md beside this file says how to read them."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio_table(rounds: Rounds, works: Sequence[Work], facts: Mapping[str, Mapping[str, str]]) -> str:
    """Write one line for each goal."""
    rows = []
    notes = []
    for work in works:
        found = rounds[work.name]
        for goal in work.goals:
            measured = ratios(goal, found)
            against = goal.figure if goal.under is None else f"{goal.over} / {goal.under}"
            against += ", to finish" if goal.figure == "finish" else ""
            sides = [goal.over] if goal.under is None else [goal.over, goal.under]
            rows.append(
                [
                    work.title,
                    amount(work, facts[work.name]),
                    against,
                    str(measured),
                    verdict(goal, measured.median),
                    metrics(found, sides),
                    to_the_same(found, goal.over, goal.under),
                    to_finish(found, goal.over, goal.under),
                    " / ".join(f"{middle(found, side, 'peak'):.0f}" for side in sides),
                ]
            )
        notes += [f"- {work.title}: {note}" for note in [work.note, *differences(work, found)] if note]
    head = [
        "work",
        "on",
        "compared",
        "ratio",
        "wanted",
        "metric",
        "to the same metric",
        "to finish",
        "peak MB",
    ]
    return table(head, rows) + ("\n\n" + "\n".join(notes) if notes else "")


def amount(work: Work, facts: Mapping[str, str]) -> str:
    """Describe data and amount of work, and whether the goal was set for more rows."""
    if work.data == "series":
        return f"{facts['data']}, {work.epochs} epoch(s)"
    if work.epochs == 1 and work.model == "trained":
        text = f"{facts['data']}, {work.train} rows"
    else:
        text = f"{facts['data']}, {work.train} + {work.validation} rows, {work.epochs} epoch(s)"
    text += f", {work.classes} classes" if work.classes else ""
    fewer = work.issue_train is not None and work.issue_train != work.train
    return text + (f" (the target: {work.issue_train})" if fewer else "")


def middle(found: Sequence[Round], side: str, key: str) -> float:
    return statistics.median(one[side][key] for one in found)


def metrics(found: Sequence[Round], sides: Sequence[str]) -> str:
    """Return the median metric of each side that has one."""
    known = [side for side in sides if found[0][side].get("metric") is not None]
    return " / ".join(f"{middle(found, side, 'metric'):.3f}" for side in known) or "-"


def to_the_same(found: Sequence[Round], over: str, under: str | None) -> str:
    """Return the ratio of the times until each side reached the lower of both best metrics."""
    reached = [] if under is None else [same_metric(one[over], one[under]) for one in found]
    pairs = [pair for pair in reached if pair is not None]
    if not pairs:
        return "-"
    metric = statistics.median(pair[0] for pair in pairs)
    return f"{short(statistics.median(pair[1] / pair[2] for pair in pairs))} (to {metric:.3f})"


def to_finish(found: Sequence[Round], over: str, under: str | None) -> str:
    """Return the ratio of whole processes: start-up, loading, gate and report included."""
    if under is None:
        return "-"
    whole = [seconds_to_finish(one[over]) / seconds_to_finish(one[under]) for one in found]
    return short(statistics.median(whole))


def differences(work: Work, found: Sequence[Round]) -> list[str]:
    """List where the sides did not do equal work, each difference once."""
    every = [problem for one in found for problem in unequal_work(work.equal_sides(one))]
    return [f"**not equal** in {problem}" for problem in dict.fromkeys(every)]


def phase_table(rounds: Rounds, works: Sequence[Work]) -> str:
    """Write the median seconds of every phase of every side, compared phases and others apart."""
    rows = []
    for work in works:
        found = rounds[work.name]
        for side in work.sides:
            names = dict.fromkeys(name for one in found for name in one[side]["phases"])
            spent = {
                name: statistics.median(one[side]["phases"].get(name, 0.0) for one in found) for name in names
            }
            rows.append(
                [
                    work.name,
                    f"{side} ({found[0][side]['precision']})" if "precision" in found[0][side] else side,
                    short(statistics.median(seconds(one[side]) for one in found)),
                    short(statistics.median(seconds_to_finish(one[side]) for one in found)),
                    ", ".join(f"{name} {short(value)}" for name, value in spent.items() if name not in APART),
                    ", ".join(f"{name} {short(value)}" for name, value in spent.items() if name in APART),
                ]
            )
    return table(["work", "side", "compared, s", "to finish, s", "of which", "on lines of their own"], rows)


def quality_table(rounds: Rounds, works: Sequence[Work], facts: Mapping[str, Mapping[str, str]]) -> str:
    """Write the final metrics in fp32 and bf16, and whether that of bf16 is in the interval of fp32."""
    rows = []
    for work in works:
        one = rounds[work.name][0]
        full, half = one["fp32"], one["bf16"]
        low, high = full["interval"]
        inside = low <= half["metric"] <= high
        rows.append(
            [
                work.title,
                amount(work, facts[work.name]),
                f"{full['metric']:.4f} ({low:.4f} to {high:.4f})",
                f"{half['metric']:.4f}: {'inside' if inside else '**outside**'}",
                short(seconds(full) / seconds(half)),
            ]
        )
    head = ["work", "on", "fp32 (95 % interval)", "bf16", "seconds fp32 / bf16"]
    return "The same seed and settings, one run each.\n\n" + table(head, rows)


def scaling_table(rounds: Rounds, works: Sequence[Work]) -> str:
    """Write time and memory by rows, epochs and classes."""
    rows = []
    for work in works:
        one = rounds[work.name][0]["ours"]
        spent = one["phases"]
        parts = [short(spent[name]) for name in ("data", "train", "evaluate", "verify")]
        sizes = [f"{work.train:,}", str(work.epochs), str(work.classes)]
        rows.append(
            [*sizes, short(seconds(one)), *parts, short(seconds_to_finish(one)), f"{one['peak']:.0f}"]
        )
    head = [
        "rows",
        "epochs",
        "classes",
        "compared, s",
        "data",
        "train",
        "evaluate",
        "verify",
        "to finish, s",
        "peak MB",
    ]
    return f"{works[0].title}, made-up pictures, one run each.\n\n" + table(head, rows)


def start_table(starts: Mapping[str, list[float]]) -> str:
    """Write the median seconds of the start-up commands."""
    return table(["command", "s"], ([name, short(statistics.median(v))] for name, v in starts.items()))
