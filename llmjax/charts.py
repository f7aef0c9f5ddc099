"""A chart, once described: in a page, and as a PNG."""

import html
import os
import textwrap
from pathlib import Path
from typing import NamedTuple

from llmjax import report
from llmjax.report import Series

COLORS = (  # those of report.html
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6b7280",
    "#7b3f00",
)  # fmt: skip
CAPTION_CHARS = 130  # of a line
MAX_TICKS = 8  # where each x has one of its own


class Chart(NamedTuple):
    """Curves over common axes, with what to say about them."""

    title: str
    series: list[Series]
    x_label: str
    y_label: str
    log_y: bool = False
    log_x: bool = True
    caption: str = ""


def section(chart: Chart) -> tuple[str, str]:
    """The chart as a section of `report.write`."""
    drawn = report.line_chart(
        chart.series, x_label=chart.x_label, y_label=chart.y_label,
        log_x=chart.log_x, log_y=chart.log_y,
    )  # fmt: skip
    caption = f"<p>{html.escape(chart.caption)}</p>" if chart.caption else ""
    return chart.title, drawn + caption


def write_pngs(folder: Path, charts: dict[str, Chart]) -> list[str]:
    """Writes the charts, by file name, if matplotlib is there; returns the files."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError:
        print("no PNGs: they need matplotlib, pip install llmjax[plot]")
        return []
    for name, chart in charts.items():
        figure = matplotlib.figure.Figure(figsize=(8, 4.5), layout="constrained")
        matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), chart)
        if chart.caption:
            lines = textwrap.fill(chart.caption, CAPTION_CHARS)
            figure.supxlabel(lines, fontsize=8, x=0.01, ha="left")
        figure.savefig(folder / f"{name}.tmp", dpi=150, format="png")
        os.replace(folder / f"{name}.tmp", folder / f"{name}.png")
    return [f"{name}.png" for name in charts]


def _draw(axes, chart: Chart) -> None:
    for index, one in enumerate(chart.series):
        look = {"marks": "o-", "dots": "o", "dashed": "--"}.get(one.style, "-")
        color = COLORS[index % len(COLORS)]
        axes.plot(one.x, one.y, look, color=color, label=one.name, markersize=4)
        for x, span in zip(one.x, one.spans, strict=False):
            axes.plot([x, x], span, color=color, alpha=0.35, linewidth=4)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_xscale("log" if chart.log_x else "linear")
    axes.set_yscale("log" if chart.log_y else "linear")
    xs = sorted({x for one in chart.series for x in one.x})
    if chart.log_x and len(xs) <= MAX_TICKS:  # such as ranks, which are few
        axes.set_xticks(xs, labels=[f"{x:g}" for x in xs])
        axes.set_xticks([], minor=True)
    axes.set_title(chart.title, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
