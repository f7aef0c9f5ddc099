"""The report of a run: one HTML page that holds its own styles and charts.

Each helper returns a piece of HTML with all text escaped; `write` puts the pieces into
report.html. Curves have the colours of Okabe and Ito, which colour-blind readers can
tell apart.
"""

import html
import itertools
import math
import os
import pathlib
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
WIDTH, HEIGHT = 720, 340  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 30, 48  # margins of the plotting area
NUM_COLORS = 8
MAX_POINTS = 1500  # of a line; more than this no screen can show
NUM_HOVERS = 120  # places along x that tell their values


class Series(NamedTuple):
    """One curve, without the points that are not finite, or have no logarithm.

    style: `smooth` draws the points faintly and their running mean on top.
    spans: the interval around each point, if any.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: Literal["line", "smooth", "marks", "dots", "dashed"] = "line"
    spans: Sequence[tuple[float, float]] = ()


def write(
    path: str | os.PathLike, title: str, sections: Iterable[tuple[str, str]]
) -> None:
    """Writes the page: a heading and its HTML, section by section."""
    body = "\n".join(
        f"<section>\n<h2>{_escape(heading)}</h2>\n{content}\n</section>"
        for heading, content in sections
    )
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    page = template.substitute(title=_escape(title), body=body)
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(f"{path}.tmp", path)


def figures(values: Mapping[str, Any]) -> str:
    """The few numbers that matter, large."""
    tiles = (
        f"<div><dt>{_escape(name)}</dt><dd>{_escape(_text(value))}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="figures">{"".join(tiles)}</dl>'


def key_values(values: Mapping[str, Any]) -> str:
    """A list of settings; nested dicts become dotted names."""
    rows = (
        f"<div><dt>{_escape(name)}</dt><dd>{_escape(_text(value))}</dd></div>"
        for name, value in _flat(values)
    )
    return f'<dl class="values">{"".join(rows)}</dl>'


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table; its columns are the keys, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    is_number = {c: all(_is_number(row.get(c)) for row in rows) for c in columns}

    def cells(tag: str, row: Mapping[str, Any]) -> str:
        kinds = (' class="number"' if is_number[column] else "" for column in columns)
        texts = (_escape(_text(row.get(column))) for column in columns)
        cells = zip(kinds, texts, strict=True)
        return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in cells)

    head = cells("th", {column: column for column in columns})
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def text_block(text: str, caption: str = "") -> str:
    """Text as it is, in a fixed-width font."""
    title = f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{title}<pre>{_escape(text)}</pre></figure>"


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    rules: Mapping[str, float] | None = None,
) -> str:
    """The curves over common axes; `rules` are horizontal lines to compare with."""
    rules = rules or {}
    clean = [one._replace(**_clean(one, log_x, log_y)) for one in series]
    all_y = [y for one in clean for y in (*one.y, *itertools.chain(*one.spans))]
    all_y += rules.values()
    x_axis = _Axis.fit([x for one in clean for x in one.x], log_x, LEFT, WIDTH - RIGHT)
    y_axis = _Axis.fit(all_y, log_y, HEIGHT - BOTTOM, TOP)
    parts = [_grid(x_axis, y_axis, x_label, y_label)]
    for index, one in enumerate(clean):
        parts.append(_curve(one, index % NUM_COLORS, x_axis, y_axis))
    parts += [_rule(name, value, y_axis) for name, value in rules.items()]
    parts.append(_hovers(clean, x_label, x_axis))
    label = _escape(f"{y_label} over {x_label}")
    return (
        f'<figure class="chart">{_legend(clean)}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></figure>"
    )


class _Axis(NamedTuple):
    """Maps the values low..high to the coordinates start..end."""

    low: float
    high: float
    log: bool
    start: float
    end: float
    ticks: list[float]

    @classmethod
    def fit(cls, values: list[float], log: bool, start: float, end: float) -> "_Axis":
        """The axis that all values fit on, with a tick every 80 units or so."""
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        pad = (high - low or abs(low) or 1.0) / 20
        if log:
            pad = (high / low if high > low else 10.0) ** (1 / 20)
            low, high = low / pad, high * pad
        else:
            low, high = low - pad, high + pad
        ticks = (_log_ticks if log else _ticks)(low, high, int(abs(end - start) / 80))
        return cls(low, high, log, start, end, ticks)

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def _ticks(low: float, high: float, num: int) -> list[float]:
    """About `num` multiples of 1, 2 or 5 times a power of ten, from low to high."""
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    gap = min(
        (power * m for m in (1, 2, 5, 10)), key=lambda g: abs(math.log(g / rough))
    )
    first, last = math.ceil(low / gap), math.floor(high / gap)
    return [float(f"{index * gap:.12g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, num: int) -> list[float]:
    """Powers of ten from low to high; 2 and 5 times them too where these are few."""
    if high < 10 * low:
        return _ticks(low, high, num)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, round((last - first) / num))
    steps = (1, 2, 5) if last - first <= num / 2 else (1,)
    ticks = [m * 10.0**power for power in range(first, last + 1, every) for m in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _clean(one: Series, log_x: bool, log_y: bool) -> dict[str, list]:
    """The points that can be drawn, thinned to what can be seen."""
    points = [
        (float(x), float(y), span)
        for x, y, span in zip(one.x, one.y, one.spans or [()] * len(one.x), strict=True)
        if y is not None and math.isfinite(x) and math.isfinite(y)
        if (x > 0 or not log_x) and (y > 0 or not log_y)
    ]
    points = points[:: -(-len(points) // MAX_POINTS) or 1]
    xs, ys, spans = map(list, zip(*points, strict=True)) if points else ([], [], [])
    return {"x": xs, "y": ys, "spans": spans if one.spans else []}


def smooth(values: Sequence[float]) -> list[float]:
    """The running mean over a fiftieth of the values, as many before as after.

    Near both ends the window shrinks, so that the curve does not lag or flatten.
    """
    sums = list(itertools.accumulate(values, initial=0.0))
    reach, last = len(values) // 100, len(values) - 1
    means = []
    for index in range(len(values)):
        side = min(reach, index, last - index)
        means.append((sums[index + side + 1] - sums[index - side]) / (2 * side + 1))
    return means


def _grid(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" class="y">{_tick(tick)}</text>')
    for tick in x_axis.ticks:
        x = x_axis(tick)
        parts.append(f'<path class="axis" d="M{x} {bottom}v5"/>')
        parts.append(f'<text x="{x}" y="{bottom + 20}">{_tick(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(f'<text x="0" y="14" class="label">{_escape(y_label)}</text>')
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 5}">{_escape(x_label)}</text>'
    )
    return "".join(parts)


def _rule(name: str, value: float, y_axis: _Axis) -> str:
    y = y_axis(value)
    return (
        f'<path class="rule" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT + 6}" y="{y - 5}" class="note">'
        f"{_escape(name)} {_text(value)}</text>"
    )


def _curve(one: Series, color: int, x_axis: _Axis, y_axis: _Axis) -> str:
    if not one.x:
        return ""
    marks = "".join(
        f'<circle cx="{x_axis(x)}" cy="{y_axis(y)}" r="3"/>'
        for x, y in zip(one.x, one.y, strict=True)
        if one.style in ("marks", "dots")
    )
    lines = "".join(
        f'<path class="span" d="M{x_axis(x)} {y_axis(low)}V{y_axis(high)}"/>'
        for x, (low, high) in zip(one.x, one.spans, strict=False)
    )
    if one.style == "smooth":
        lines += f'<path class="faint" d="{_path(one.x, one.y, x_axis, y_axis)}"/>'
        lines += f'<path d="{_path(one.x, smooth(one.y), x_axis, y_axis)}"/>'
    elif one.style != "dots":
        lines += f'<path d="{_path(one.x, one.y, x_axis, y_axis)}"/>'
    return f'<g class="curve {one.style} c{color}">{lines}{marks}</g>'


def _path(xs, ys, x_axis: _Axis, y_axis: _Axis) -> str:
    points = (f"{x_axis(x)} {y_axis(y)}" for x, y in zip(xs, ys, strict=True))
    return "M" + "L".join(points)


def _hovers(series: Sequence[Series], x_label: str, x_axis: _Axis) -> str:
    """Invisible strips along x; the pointer over one shows the values nearest to it."""
    places = {}
    for one in series:
        for x, y in zip(one.x, one.y, strict=True):
            strip = round((x_axis(x) - LEFT) / (WIDTH - RIGHT - LEFT) * NUM_HOVERS)
            places.setdefault(strip, {})[one.name] = (x, y)
    width = (WIDTH - RIGHT - LEFT) / NUM_HOVERS
    parts = []
    for strip, values in sorted(places.items()):
        x = LEFT + strip * width
        text = [f"{x_label} {_text(next(iter(values.values()))[0])}"]
        text += [f"{name}: {_text(y)}" for name, (_, y) in values.items()]
        parts.append(
            f'<g class="hover"><rect x="{x - width / 2:.1f}" y="{TOP}" '
            f'width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
            f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f"<title>{_escape(chr(10).join(text))}</title></g>"
        )
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    entries = "".join(
        f'<span class="{one.style} c{index % NUM_COLORS}"><i></i>'
        f"{_escape(one.name)}</span>"
        for index, one in enumerate(series)
        if one.name
    )
    return f"<figcaption>{entries}</figcaption>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """Numbers to four digits, thousands apart; None as a dash."""
    if value is None:
        return "–"
    if not _is_number(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _tick(value: float) -> str:
    """The label of a tick: 1.5k, 20M; tiny ones as powers of ten."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3g}"
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _escape(text: str) -> str:
    return html.escape(str(text))
