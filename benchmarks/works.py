"""The items of work: which processes are compared, on which data, and which ratio is the goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# Side of the same work as `ours`, computed by another checkout of hf_ft.
BEFORE = "before"


@dataclass(frozen=True)
class Goal:
    """A ratio of two sides with its goal.

    Args:
        over: side in the numerator.
        under: side in the denominator; None: `figure` is a ratio already.
        least: smallest ratio that reaches the goal.
        most: largest ratio that reaches the goal.
        figure: `seconds` of data, training and evaluation; `finish`, the seconds of the whole process; or
            another number that the process writes.
    """

    over: str
    under: str | None
    least: float | None = None
    most: float | None = None
    figure: str = "seconds"


@dataclass(frozen=True)
class Work:
    """One item of work.

    Args:
        name: short name, for ONLY=.
        title: what is computed.
        data: kind of rows that `prepare` writes.
        model: kind of weights that `prepare` writes.
        train: training rows within the time of `make bench`.
        validation: validation rows, likewise.
        sides: side -> script and arguments, run in this order, each in a process of its own; `{train}` and
            other names in braces are replaced by what `prepare` wrote.
        goals: goals for ratios of sides.
        issue_train: training rows for which the goal was set, for `FULL=1`; None: the same.
        issue_validation: validation rows, likewise.
        epochs: passes over the training rows, on every side.
        classes: number of classes of the rows; None: as many as the data.
        rounds: most rounds.
        note: what a reader must know to judge the ratio.
    """

    name: str
    title: str
    data: str
    model: str
    train: int
    validation: int
    sides: dict[str, str]
    goals: tuple[Goal, ...] = ()
    issue_train: int | None = None
    issue_validation: int | None = None
    epochs: int = 1
    classes: int | None = None
    rounds: int = 5
    note: str = ""

    def equal_sides(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sides that should do equal work: all except the second run at another learning rate."""
        return {side: one for side, one in found.items() if side != "again"}

    def full(self) -> Work:
        """Return the same work with the rows for which the goal was set."""
        return replace(
            self,
            train=self.issue_train or self.train,
            validation=self.issue_validation or self.validation,
            classes=None if self.issue_train else self.classes,
        )

    def with_before(self) -> Work:
        """Return the same work with a further side: hf_ft of another checkout, compared with this one's."""
        if "ours" not in self.sides:
            return self
        goals = (Goal(BEFORE, "ours"), Goal(BEFORE, "ours", figure="finish"))
        return replace(self, sides={BEFORE: self.sides["ours"], **self.sides}, goals=self.goals + goals)


FILES = "--train {train} --validation {validation} --model {model} --epochs {epochs} --out {out}"
PLAIN_IMAGE = f"plain/plain_image.py {FILES} --folder {{folder}}/run"
PLAIN_TEXT = f"plain/plain_text.py {FILES} --folder {{folder}}/run"
FLOOR = f"plain/floor_image.py {FILES}"
OVERRIDES = (
    "{out} data.source.train={train} data.source.validation={validation} model.name={model} "
    "output_dir={folder}/run train.num_train_epochs={epochs}"
)


def ours(recipe: str, *overrides: str) -> str:
    """Return the command of hf_ft's side."""
    return " ".join([f"ours/ours_run.py recipes/{recipe}.yaml {OVERRIDES}", *overrides])


HEAD_IMAGE = Work(
    "head_image",
    "head only, Lite0, train and evaluate",
    "images",
    "lite0",
    train=430,
    validation=107,
    issue_train=860,
    issue_validation=215,
    epochs=10,
    sides={
        "plain": f"{PLAIN_IMAGE} --learn classifier --rate 1e-3",
        "ours": ours("head_image"),
        # After `ours` and with its caches: a second run at another learning rate.
        "again": ours("head_image", "train.learning_rate=3e-3", "output_dir={folder}/again"),
        "one pass": f"{FLOOR} --loop forward",
    },
    goals=(
        Goal("plain", "ours", least=20),
        Goal("plain", "again", least=100),
        Goal("ours", "one pass", most=1.3),
        Goal("plain", "ours", least=20, figure="finish"),
        Goal("plain", "again", least=37, figure="finish"),
    ),
    note="`again` is a second run at another learning rate; the plain script does the same work at any rate",
)

HEAD_FEW = Work(
    "few_image",
    "head only, Lite0, few rows",
    "images",
    "lite0",
    train=215,
    validation=54,
    epochs=10,
    sides={"plain": f"{PLAIN_IMAGE} --learn classifier --rate 1e-3", "ours": ours("head_image")},
    goals=(Goal("plain", "ours", least=6, figure="finish"),),
    note="with few rows the fixed costs (start, gate, report) decide",
)

LAST_IMAGE = Work(
    "last_image",
    "last 2 blocks, ViT-B/16 of random weights",
    "images",
    "vit",
    train=64,
    validation=16,
    classes=8,
    issue_train=860,
    issue_validation=215,
    epochs=5,
    sides={
        "plain": f"{PLAIN_IMAGE} --learn layers.10. layers.11. vit.layernorm classifier --rate 1e-4 "
        "--batch 16",
        "ours": ours("last_image"),
    },
    goals=(Goal("plain", "ours", least=3.5),),
    note="the target was set in bf16, which only a processor with avx512_bf16 or AMX is fast at; with fp32 "
    "on both sides the arithmetic allows about 2.2 (README.md)",
)

FULL_IMAGE = Work(
    "full_image",
    "full, Lite0",
    "images",
    "lite0",
    train=215,
    validation=86,
    issue_train=4300,
    issue_validation=860,
    sides={
        "plain": f"{PLAIN_IMAGE} --rate 1e-3",
        "ours": ours("full_image"),
        "bare loop": f"{FLOOR} --loop train --rate 1e-3",
    },
    goals=(Goal("plain", "ours", least=1.7), Goal("ours", "bare loop", most=1.1)),
)

FULL_TEXT = Work(
    "full_text",
    "full, MiniLM",
    "texts",
    "minilm",
    train=512,
    validation=256,
    issue_train=6920,
    issue_validation=872,
    sides={
        "pad to 128": f"{PLAIN_TEXT} --pad max_length",
        "pad to batch": f"{PLAIN_TEXT} --pad batch",
        "ours": ours("full_text"),
    },
    goals=(Goal("pad to 128", "ours", least=6), Goal("pad to batch", "ours", least=2)),
)

HEAD_TEXT = Work(
    "head_text",
    "head only, MiniLM",
    "texts",
    "minilm",
    train=128,
    validation=64,
    issue_train=6920,
    issue_validation=872,
    epochs=10,
    sides={
        "pad to 128": f"{PLAIN_TEXT} --pad max_length --learn classifier --rate 1e-3",
        "pad to batch": f"{PLAIN_TEXT} --pad batch --learn classifier --rate 1e-3",
        "ours": ours("head_text"),
    },
    goals=(Goal("pad to 128", "ours", least=20), Goal("pad to batch", "ours")),
)

PREDICT = Work(
    "predict",
    "predict, Lite0, against transformers.pipeline",
    "images",
    "trained",
    train=430,
    validation=86,
    issue_train=2000,
    sides={
        "pipeline": "plain/plain_predict.py --rows {train} --model {model} --out {out}",
        "pipeline, 8": "plain/plain_predict.py --rows {train} --model {model} --out {out} --batch 8",
        "ours": "ours/ours_predict.py {model} {train} {out}",
    },
    goals=(Goal("pipeline", "ours", least=2), Goal("pipeline, 8", "ours", least=2)),
    note="batches of 32, and of 8, which a CPU's caches like better",
)

WINDOWS = Work(
    "windows",
    "windows per second, against one window per `__getitem__`",
    "series",
    "none",
    train=0,
    validation=720,
    sides={
        "plain": "plain/plain_series.py --series {series} --timestamp {timestamp} --targets {targets} "
        "--first {first} --context 512 --horizon 96 --batch 64 --epochs {epochs} --out {out}",
        "ours": "ours/ours_series.py recipes/windows.yaml {out} data.source={series} "
        "data.columns.timestamp={timestamp} data.columns.target=[{targets}] train.num_train_epochs={epochs}",
    },
    goals=(Goal("plain", "ours", least=10), Goal("ours", None, most=1.2, figure="held")),
    note="`held`: memory of all windows over that of the series as pandas reads it",
)

FORECAST = (
    "ours/ours_run.py recipes/forecast.yaml {out} data.source={series} data.columns.timestamp={timestamp} "
    "data.columns.target=[{targets}] output_dir={folder}/run train.num_train_epochs={epochs}"
)


def quality(data: str, model: str, command: str, **sizes: int) -> Work:
    """Return one line of the table of equal quality: the same training in fp32 and in bf16."""
    return Work(
        f"quality_{data}",
        {"images": "full, Lite0", "texts": "full, MiniLM", "series": "full, a small PatchTST"}[data],
        data,
        model,
        rounds=1,
        sides={name: f"{command} train.precision={name}" for name in ("fp32", "bf16")},
        **sizes,  # type: ignore[arg-type]
    )


QUALITY = (
    quality("images", "lite0", ours("full_image"), train=860, validation=430, epochs=2),
    quality("texts", "minilm", ours("full_text"), train=2000, validation=872),
    quality("series", "none", FORECAST, train=0, validation=2000, epochs=2),
)

WORKS = (HEAD_IMAGE, HEAD_FEW, LAST_IMAGE, FULL_IMAGE, FULL_TEXT, HEAD_TEXT, PREDICT, WINDOWS)


def scaling(train: int, epochs: int, classes: int) -> Work:
    """Return one point of the scaling table: head only, Lite0, on made-up pictures of 32 pixels."""
    return Work(
        f"scaling_{train}_{epochs}_{classes}",
        "head only, Lite0, 32 pixels",
        "blocks",
        "lite0",
        train=train,
        validation=max(64, classes),
        epochs=epochs,
        classes=classes,
        rounds=1,
        sides={"ours": ours("head_image", "task.image_size=32")},
    )


SCALING = (
    scaling(1000, 1, 10),
    scaling(4000, 1, 10),
    scaling(16000, 1, 10),
    scaling(1000, 10, 10),
    scaling(1000, 100, 10),
    scaling(4000, 1, 100),
    scaling(4000, 1, 1000),
)
