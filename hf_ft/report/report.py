"""report.html: one self-contained page that a person reads to judge a run, and the table for the terminal.

The page needs no network and runs no script; its own security policy forbids both. Labels, row ids and
messages are text of strangers and are escaped by the template.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.evaluate.figures import INK
from hf_ft.storage.atomic import write_text
from hf_ft.task import Figure

if TYPE_CHECKING:
    from rich.table import Table

# Metrics that are shares of rows and read best as a percentage.
_SHARES = ("accuracy", "precision", "recall", "f1", "mape")
# Two units of a duration, as seconds and name, and the seconds from which they are too small.
_UNITS = ((1, "s", 60, "min", 3600), (60, "min", 3600, "h", 86400), (3600, "h", 86400, "d", float("inf")))


@dataclass(frozen=True)
class Headline:
    """A metric with what it takes to judge it.

    Args:
        name: metric name.
        value: on the rows of the report.
        interval: (low, high), or None.
        baseline: the trivial answer's value on the same rows, or None.
        greater_is_better: its direction.
        unit: unit of the value, "" for none.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    baseline: float | None = None
    greater_is_better: bool = True
    unit: str = ""


@dataclass(frozen=True)
class WorstRow:
    """A row with a high loss.

    Args:
        id: of the row.
        truth: as a person reads it.
        prediction: as a person reads it.
        loss: of the row.
        thumbnail: a small picture as a base64 `data:image/...` address, or None.
    """

    id: str
    truth: str
    prediction: str
    loss: float
    thumbnail: str | None = None


@dataclass(frozen=True)
class Check:
    """One item of the gate: what must hold, whether it does, and what was seen."""

    item: str
    ok: bool
    detail: str = ""


@dataclass
class ReportContent:
    """What the report shows, room by room.

    Args:
        name: of the run.
        task: task name.
        model: the pretrained model's name.
        data: the source of the rows.
        split: name of the split that is reported.
        rows: how many rows it has.
        headlines: the metrics that matter, the most important one first.
        selected_on: name of the split that chose the checkpoint; None: nothing was chosen.
        confidence: nominal coverage of the intervals.
        interval_over: what the bootstrap drew: "rows", or the group column.
        baseline: what the trivial answer is ("always 'cat'"), or "".
        recipe: key -> value, the lines of the recipe that tell this run from others.
        recipe_text: the resolved recipe as YAML.
        splits: split name -> number of rows.
        data_facts: further facts about the data.
        warnings: what the audit and the metrics want to be known.
        model_facts: parameters, trainable share, frozen layers.
        train_facts: steps, learning rate, precision.
        metrics: every scalar metric.
        directions: metric -> whether greater is better.
        per_class: rows with label, support, precision, recall, f1.
        curve: the learning curve.
        figures: figures about the evaluation.
        worst: the worst mistakes, worst first.
        checks: the gate, item by item.
        timing: stage -> seconds.
        environment: versions and hardware.
        usage: lines that load and use the model.
    """

    name: str
    task: str
    model: str
    data: str
    split: str
    rows: int
    headlines: Sequence[Headline]
    selected_on: str | None = None
    confidence: float = 0.95
    interval_over: str = "rows"
    baseline: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    data_facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    model_facts: Mapping[str, Any] = field(default_factory=dict)
    train_facts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    directions: Mapping[str, bool] = field(default_factory=dict)
    per_class: Sequence[Mapping[str, Any]] = ()
    curve: Figure | None = None
    figures: Sequence[Figure] = ()
    worst: Sequence[WorstRow] = ()
    checks: Sequence[Check] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    usage: Sequence[str] = ()


def write_report(run_folder: Path, content: ReportContent) -> Path:
    """Write `report.html` and the figures, as PNG files in `figures/`, into the run folder.

    Args:
        run_folder: an existing folder.
        content: what to show.

    Returns:
        The path of the page.

    Raises:
        DataError: there is no headline metric, a thumbnail is no data address, or two figures share a name.
    """
    _check(content)
    figures = [*([content.curve] if content.curve else []), *content.figures]
    (run_folder / "figures").mkdir(exist_ok=True)
    for figure in figures:
        figure.figure.savefig(
            run_folder / "figures" / f"{_slug(figure.name)}.png", facecolor="white", dpi=160
        )
    page = run_folder / "report.html"
    write_text(page, _render(content))
    return page


def result_table(content: ReportContent) -> Table:
    """Give the result for the terminal: headline metrics first, then the rest."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"{content.name}: {content.split}, {content.rows:,} rows"), title_justify="left"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column(f"{content.confidence:.0%} interval", justify="right")
    table.add_column("baseline", justify="right")
    for index, one in enumerate(content.headlines):
        interval = (
            f"{show(one.name, one.interval[0])} to {show(one.name, one.interval[1])}" if one.interval else ""
        )
        baseline = "" if one.baseline is None else show(one.name, one.baseline)
        unit = f" {one.unit}" if one.unit else ""
        style = "bold" if index == 0 else None
        table.add_row(
            escape(one.name), escape(show(one.name, one.value) + unit), interval, baseline, style=style
        )
    shown = {one.name for one in content.headlines}
    for name, value in content.metrics.items():
        if name not in shown:
            table.add_row(escape(name), show(name, value), "", "", style="dim")
    return table


def show(name: str, value: float) -> str:
    """Give a metric's value as a person reads it: shares in percent, the rest with four digits."""
    if name.endswith(_SHARES):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def show_name(name: str) -> str:
    """Give a metric's name as a person reads it: `macro_f1` is macro F1, `roc_auc` is ROC-AUC."""
    plain = re.sub(r"\b(f1|mcc|mae|rmse|mape|mase|r2)\b", lambda found: found[0].upper(), _plain(name))
    return plain.replace("roc auc", "ROC-AUC")


def show_seconds(seconds: float) -> str:
    """Give a duration as a person reads it: 3.2 s, 4 min 10 s, 2 h 5 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    small, small_unit, large, large_unit, _ = next(
        unit for unit in _UNITS if round(seconds / unit[0]) * unit[0] < unit[4]
    )
    count = round(seconds / small)
    return f"{count * small // large} {large_unit} {count % (large // small)} {small_unit}"


def _check(content: ReportContent) -> None:
    if not content.headlines:
        raise DataError("the report needs at least one headline metric, and there is none")
    for row in content.worst:
        if row.thumbnail is not None and not re.match(
            r"data:image/(png|jpeg|webp|gif);base64,", row.thumbnail
        ):
            raise DataError(
                f"the thumbnail of row {row.id!r} begins with {row.thumbnail[:20]!r}; expected a base64 "
                f"data:image/... address, as the page may fetch nothing"
            )
    names = [_slug(figure.name) for figure in [*([content.curve] if content.curve else []), *content.figures]]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"two figures are named {twins[0]!r}; expected a name for each")


def _render(content: ReportContent) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hf_ft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _svg, "seconds": show_seconds, "plain": _plain, "metric": show_name}
    failed = [check.item for check in content.checks if not check.ok]
    return environment.get_template("report.html.j2").render(
        content=content,
        show=show,
        failed=failed,
        per_class=sorted(content.per_class, key=lambda row: (row["f1"], row["label"])),
        others={name: value for name, value in content.metrics.items() if name != content.headlines[0].name},
        judged={one.name: one for one in content.headlines},
    )


def _svg(figure: Figure) -> Any:
    """Give a figure as inline SVG whose ink takes the colour of the text around it."""
    import matplotlib
    from markupsafe import Markup

    buffer = io.StringIO()
    slug = _slug(figure.name)
    # Outlines instead of text: the page needs no font, and a name in a figure is never markup.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": slug}):
        figure.figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # Ids are only unique within one figure, and the page has several.
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{slug}-", drawn).replace(INK, "currentColor")
    return Markup(drawn)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)
