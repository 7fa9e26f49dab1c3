"""Write report.html: one self-contained page that a person reads to judge a run.

The page needs no network and runs no script; its content security policy forbids both. The template escapes
labels, row ids, texts and messages, because they come from untrusted data.
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
from hf_ft.storage.atomic import new_file, write_text
from hf_ft.task import Figure

# A long table shows this many rows at its top and at its end; the rows between them are folded.
_TOP, _BOTTOM = 8, 4
# Units of a duration: seconds and name of the small and of the large unit; seconds from which the next pair
# is used.
_UNITS = ((1, "s", 60, "min", 3600), (60, "min", 3600, "h", 86400), (3600, "h", 86400, "d", float("inf")))


@dataclass(frozen=True)
class MetricRow:
    """A metric of the model with its interval and the values of the baselines.

    Args:
        name: metric name.
        value: the value of the model.
        interval: (low, high), or None.
        greater: whether a greater value is better; None: not known.
        unit: unit of the value, "" for none.
        headline: whether the metric is shown at the top; others are folded.
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
        """The formatted value."""
        return show_metric(self.name, self.value, self.interval, self.unit)

    def shown_baseline(self, name: str) -> str:
        """Format the value of a baseline; "" where the baseline has none."""
        value = self.baselines.get(name)
        return "" if value is None else show_metric(self.name, value, self.interval, self.unit)

    @property
    def shown_interval(self) -> str:
        """The formatted interval; "" where there is none."""
        return show_interval(self.name, self.interval, self.unit) if self.interval else ""


@dataclass(frozen=True)
class ReportTable:
    """A table of the evaluation.

    Args:
        title: the heading.
        rows: one dict for each row, all with the same keys: the columns. `label` names a class.
        ordered_by: the column to sort by, which is also drawn as bars; None: keep the order.
        folded: whether the table is folded until a reader opens it.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    ordered_by: str | None = None
    folded: bool = False


@dataclass(frozen=True)
class Check:
    """One item of the gate: its name, whether it passed, and the details."""

    item: str
    ok: bool
    detail: str = ""


@dataclass
class ReportContent:
    """The content of the report, in the order of the page.

    Args:
        name: name of the run.
        task: name of the task.
        summary: sentences: which model was trained, on which data, and which share of its weights.
        verdict: comparison of the model with the baselines, on the final split.
        metrics: every metric, the main one first.
        interval_over: what the bootstrap drew: "rows", or groups of rows.
        examples: rows to show.
        tables: tables of the evaluation: by class, by target.
        curve: the learning curve.
        figures: figures of the evaluation.
        splits: split -> number of rows, and their source.
        warnings: warnings of the recipe and the audit, and notes of the metrics.
        usage: lines of code that load and use the model.
        recipe: key -> value for the keys that the recipe sets.
        recipe_text: the resolved recipe as YAML.
        model_facts: subject -> text, about the network.
        train_facts: subject -> text, the decisions for training.
        checks: the items of the gate.
        timing: stage -> seconds.
        environment: versions and hardware.
        drawn: name of a figure -> the figure as SVG, after `draw_figures`.
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
        """The learning curve, and the figures of the evaluation."""
        return [*([self.curve] if self.curve else []), *self.figures]


def draw_figures(run_folder: Path, content: ReportContent) -> None:
    """Write the figures as PNG files into `figures/` of the run folder, and render them as SVG for the page.

    `write_report` calls this function. An earlier call lets the figures be drawn while another process works.

    Args:
        run_folder: an existing folder.
        content: the content of the report; figures that are already in `content.drawn` are skipped.
    """
    (run_folder / "figures").mkdir(exist_ok=True)
    for figure in content.all_figures:
        if figure.name not in content.drawn:
            path = run_folder / "figures" / f"{_slug(figure.name)}.png"
            with new_file(path) as fresh:
                figure.figure.savefig(fresh, format="png", facecolor="white", dpi=160)
            # The layout was computed for the PNG, which took as long as drawing; the SVG has the same.
            figure.figure.set_layout_engine("none")
            content.drawn[figure.name] = _svg(figure)


def write_report(run_folder: Path, content: ReportContent) -> Path:
    """Write `report.html`, and the figures as PNG files in `figures/`, into the run folder.

    Args:
        run_folder: an existing folder.
        content: the content of the report.

    Returns:
        The path of the page.

    Raises:
        DataError: there is no metric, a picture is not a `data:` address, or two figures have the same name.
    """
    _check(content)
    draw_figures(run_folder, content)
    page = run_folder / "report.html"
    write_text(page, _render(content))
    return page


def show_seconds(seconds: float) -> str:
    """Format a duration: 3.2 s, 4 min 10 s, 2 h 5 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    small, small_unit, large, large_unit, _ = next(
        unit for unit in _UNITS if round(seconds / unit[0]) * unit[0] < unit[4]
    )
    count = round(seconds / small)
    return f"{count * small // large} {large_unit} {count % (large // small)} {small_unit}"


def _check(content: ReportContent) -> None:
    if not content.metrics:
        raise DataError("the report needs at least one metric; found none")
    for example in (one for group in content.examples for one in group.examples):
        picture = example.preview.picture
        if picture is not None and not re.match(r"data:image/(png|jpeg|webp|gif);base64,", picture):
            raise DataError(
                f"the picture of row {example.id!r} begins with {picture[:20]!r}; expected a base64 "
                "data:image/... address, because the page must not load anything"
            )
    names = [_slug(figure.name) for figure in content.all_figures]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"two figures are named {twins[0]!r}; expected a different name for each figure")


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
        # The length of a full bar: 1 for metrics between 0 and 1, else the greatest value.
        full=1.0 if is_share(verdict.metric) else max(abs(verdict.value), *compared, 1e-12),
        on_a_scale=is_share(main.name) or main.name.endswith("auc"),
        baselines=list(dict.fromkeys(name for row in content.metrics for name in row.baselines)),
        failed=[check.item for check in content.checks if not check.ok],
        has_curves=_longest_forecast(content) > 0,
        tables=[_split_table(table) for table in content.tables],
        figures=sorted(
            (figure for figure in content.figures if not _is_redundant(figure, content)),
            key=lambda figure: float(figure.figure.get_figheight()),
        ),
    )


def _is_redundant(figure: Figure, content: ReportContent) -> bool:
    """Tell whether a table with bars, or the examples, already show what a figure shows."""
    return {
        "baselines": bool(content.verdict.comparisons),
        "per_class": any("label" in table.rows[0] for table in content.tables),
        "forecast": _longest_forecast(content) > 1,
    }.get(figure.name, False)


def _longest_forecast(content: ReportContent) -> int:
    """Return the number of steps of the longest forecast among the examples; 0 where there is none."""
    previews = [one.preview for group in content.examples for one in group.examples]
    return max((len((preview.curves or {}).get("forecast", ())) for preview in previews), default=0)


def _split_table(table: ReportTable) -> dict[str, Any]:
    """Sort a table, and divide a long one into top, folded middle, and end."""
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
    """Render a figure as inline SVG that is drawn in the text colour of the page."""
    import matplotlib
    from markupsafe import Markup

    buffer = io.StringIO()
    slug = _slug(figure.name)
    # Draw text as outlines: the page then needs no font, and a label in a figure cannot become markup.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": slug}):
        figure.figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # Ids are unique only within one figure, so prefix them: the page has several figures.
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{slug}-", drawn).replace(INK, "currentColor")
    return Markup(drawn)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)
