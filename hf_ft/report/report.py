"""report.html: one self-contained page that a person reads to judge a run.

The page needs no network and runs no script; its own security policy forbids both. Labels, row ids, texts and
messages come from strangers and are escaped by the template.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_ft.errors import DataError
from hf_ft.evaluate.figures import INK
from hf_ft.evaluate.metric_format import is_share, show_interval, show_metric, show_name
from hf_ft.evaluate.verdict import Verdict
from hf_ft.report.curves import curve_svg
from hf_ft.report.examples import ExampleGroup, plain
from hf_ft.storage.atomic import write_text
from hf_ft.task import Figure

# Rows of a long table that are shown at its top and at its end; the others are folded.
_TOP, _BOTTOM = 8, 4
# Two units of a duration, as seconds and name, and the seconds from which they are too small.
_UNITS = ((1, "s", 60, "min", 3600), (60, "min", 3600, "h", 86400), (3600, "h", 86400, "d", float("inf")))


@dataclass(frozen=True)
class MetricRow:
    """A metric with what it takes to judge it.

    Args:
        name: metric name.
        value: the model's.
        interval: (low, high), or None.
        greater: whether a greater value is better; None: not known.
        unit: of the value, "" for none.
        headline: whether it is shown at once.
        baselines: baseline -> its value on the same rows.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    greater: bool | None = None
    unit: str = ""
    headline: bool = True
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The value as a person reads it."""
        return show_metric(self.name, self.value, self.interval, self.unit)

    def shown_baseline(self, name: str) -> str:
        """Give a baseline's value, "" where it has none."""
        value = self.baselines.get(name)
        return "" if value is None else show_metric(self.name, value, self.interval, self.unit)

    @property
    def shown_interval(self) -> str:
        """The interval as a person reads it, "" for none."""
        return show_interval(self.name, self.interval, self.unit) if self.interval else ""


@dataclass(frozen=True)
class ReportTable:
    """A table of the evaluation.

    Args:
        title: what it is about.
        rows: one dict a row, all with the same keys: the columns. `label` names a class.
        ordered_by: the column that the rows are ordered by, as bars show it; None: as they come.
        folded: whether a reader opens it first.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    ordered_by: str | None = None
    folded: bool = False


@dataclass(frozen=True)
class Check:
    """One item of the gate: what must hold, whether it does, and what was seen."""

    item: str
    ok: bool
    detail: str = ""


@dataclass
class ReportContent:
    """What the report shows, from what a reader asks first to what few ask.

    Args:
        name: of the run.
        task: task name.
        summary: what was trained, on what, and how much of it learned: sentences.
        verdict: on the split that is reported.
        metrics: every metric, the main one first.
        interval_over: what the bootstrap drew: "rows", or groups of them.
        examples: rows that are shown.
        tables: of the evaluation: by class, by target.
        curve: the learning curve.
        figures: about the evaluation.
        splits: split -> number of rows and where they come from.
        warnings: what the audit and the metrics want to be known.
        usage: lines that load and use the model.
        recipe: key -> value, what the recipe sets.
        recipe_text: the resolved recipe as YAML.
        model_facts: subject -> text, about the network.
        train_facts: subject -> text, what was decided for training.
        checks: the gate, item by item.
        timing: stage -> seconds.
        environment: versions and hardware.
        drawn: name of a figure -> it as SVG, once `draw_figures` has drawn it.
    """

    name: str
    task: str
    verdict: Verdict
    metrics: Sequence[MetricRow]
    summary: str = ""
    interval_over: str = "rows"
    examples: Sequence[ExampleGroup] = ()
    tables: Sequence[ReportTable] = ()
    curve: Figure | None = None
    figures: Sequence[Figure] = ()
    splits: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    usage: Sequence[str] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    model_facts: Mapping[str, Any] = field(default_factory=dict)
    train_facts: Mapping[str, Any] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)

    @property
    def all_figures(self) -> list[Figure]:
        """The learning curve, and what is drawn about the evaluation."""
        return [*([self.curve] if self.curve else []), *self.figures]


def draw_figures(run_folder: Path, content: ReportContent) -> None:
    """Write the figures as PNG files into `figures/` of the run folder, and draw them for the page.

    `write_report` calls it; to call it before lets the drawing be done while something else is awaited.

    Args:
        run_folder: an existing folder.
        content: whose figures are drawn; those that are drawn already are left as they are.
    """
    (run_folder / "figures").mkdir(exist_ok=True)
    for figure in content.all_figures:
        if figure.name not in content.drawn:
            path = run_folder / "figures" / f"{_slug(figure.name)}.png"
            figure.figure.savefig(path, facecolor="white", dpi=160)
            content.drawn[figure.name] = _svg(figure)


def write_report(run_folder: Path, content: ReportContent) -> Path:
    """Write `report.html` and the figures, as PNG files in `figures/`, into the run folder.

    Args:
        run_folder: an existing folder.
        content: what to show.

    Returns:
        The path of the page.

    Raises:
        DataError: there is no metric, a picture is no data address, or two figures share a name.
    """
    _check(content)
    draw_figures(run_folder, content)
    page = run_folder / "report.html"
    write_text(page, _render(content))
    return page


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
    if not content.metrics:
        raise DataError("the report needs at least one metric, and there is none")
    for example in (one for group in content.examples for one in group.examples):
        picture = example.preview.picture
        if picture is not None and not re.match(r"data:image/(png|jpeg|webp|gif);base64,", picture):
            raise DataError(
                f"the picture of row {example.id!r} begins with {picture[:20]!r}; expected a base64 "
                f"data:image/... address, as the page may fetch nothing"
            )
    names = [_slug(figure.name) for figure in content.all_figures]
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
    environment.filters |= {
        "svg": lambda figure: content.drawn[figure.name],
        "curve": curve_svg,
        "seconds": show_seconds,
        "words": lambda name: name.replace("_", " "),
        "metric": show_name,
        "plain": plain,
    }
    main, verdict = content.metrics[0], content.verdict
    compared = [abs(one.value) for one in verdict.comparisons]
    return environment.get_template("report.html.j2").render(
        content=content,
        main=main,
        verdict=verdict,
        percent=f"{100 * verdict.confidence:g} %",
        # A bar shows a share as it is, and any other metric as a share of the greatest.
        full=1.0 if is_share(verdict.metric) else max(abs(verdict.value), *compared, 1e-12),
        on_a_scale=is_share(main.name) or main.name.endswith("auc"),
        baselines=list(dict.fromkeys(name for row in content.metrics for name in row.baselines)),
        failed=[check.item for check in content.checks if not check.ok],
        has_curves=_longest_forecast(content) > 0,
        tables=[_split_table(table) for table in content.tables],
        figures=sorted(
            (figure for figure in content.figures if not _is_elsewhere(figure, content)),
            key=lambda figure: float(figure.figure.get_figheight()),
        ),
    )


def _is_elsewhere(figure: Figure, content: ReportContent) -> bool:
    """Tell whether a table with bars, or the examples, show what a figure does; its file is kept."""
    return {
        "baselines": bool(content.verdict.comparisons),
        "per_class": any("label" in table.rows[0] for table in content.tables),
        "forecast": _longest_forecast(content) > 1,
    }.get(figure.name, False)


def _longest_forecast(content: ReportContent) -> int:
    """Give the steps of the longest forecast among the examples, 0 where there is none."""
    previews = [one.preview for group in content.examples for one in group.examples]
    return max((len((preview.curves or {}).get("forecast", ())) for preview in previews), default=0)


def _split_table(table: ReportTable) -> dict[str, Any]:
    """Order a table, and divide a long one into its top, its end, and what is folded between them."""
    rows, key = list(table.rows), table.ordered_by
    if key is not None:
        rows.sort(key=lambda row: (row[key], str(row.get("label", ""))))
    short = len(rows) <= _TOP + _BOTTOM + 4
    return {
        "title": table.title,
        "columns": list(rows[0]),
        "ordered_by": key,
        "folded": table.folded,
        "rows": rows,
        "top": rows if short else rows[:_TOP],
        "middle": [] if short else rows[_TOP:-_BOTTOM],
        "end": [] if short else rows[-_BOTTOM:],
    }


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


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)
