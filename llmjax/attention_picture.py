"""Attention between the words of a text, as a picture and as a page.

Arcs lead from a word to those that it attends to most, above a heat map of the mean
and one for every layer and head. matplotlib, of the extra `plot`, draws the picture.
"""

import html
import json
import os
import string
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.words import Word

TEMPLATE = Path(__file__).with_suffix(".html")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
HEAT = ("#f1f4f7", "#c3dcec", "#56a3d0", "#0072b2", "#00385a")
TEXT, QUIET, SPECIAL = "#1c2128", "#5d6673", "#a0a8b3"


class View(NamedTuple):
    """The attention of words (queries) to words (keys): weights are [L, N, Q, K].

    is_self: both are the same words.
    layer, head: those whose links are looked at; None for the mean of all.
    """

    name: str
    title: str
    queries: list[Word]
    keys: list[Word]
    weights: np.ndarray
    is_self: bool = True
    layer: int | None = None
    head: int | None = None

    @property
    def chosen(self) -> tuple[slice, slice]:
        """Which layers and heads those are."""
        pair = (self.layer, self.head)
        return tuple(slice(None) if i is None else slice(i, i + 1) for i in pair)

    @property
    def mean(self) -> np.ndarray:
        """[Q, K]: their mean."""
        return self.weights[self.chosen].mean((0, 1))

    @property
    def sink(self) -> int | None:
        """The first word of a decoder, if several others read it: heads rest on it."""
        real = [i for i, word in enumerate(self.queries) if not word.special]
        is_causal = self.is_self and not np.triu(self.weights, 1).any()
        return real[0] if is_causal and len(real) > 2 else None

    @property
    def rest(self) -> float:
        """What every other word gives to the sink at least; 0 where there is none."""
        if self.sink is None:
            return 0.0
        readers = [not word.special for word in self.queries]
        readers[self.sink] = False
        return float(self.mean[readers, self.sink].min())

    @property
    def description(self) -> str:
        """The same in words."""
        num_layers, num_heads = self.weights.shape[:2]
        which = f"{num_layers} layers" if self.layer is None else f"layer {self.layer}"
        whose = f"{num_heads} heads" if self.head is None else f"head {self.head}"
        is_one = self.layer is not None and self.head is not None
        return f"{which}, {whose}" if is_one else f"mean of {which}, {whose}"


class Link(NamedTuple):
    """How much word `query` attends to word `key`, and where it does so most."""

    query: int
    key: int
    weight: float
    layer: int
    head: int
    peak: float


def strongest(view: View, top: int) -> list[Link]:
    """The links of most weight: between two words, neither special nor the same.

    Of those to a decoder's first word, only what is above the least of them counts.
    """
    mean, links = view.mean.copy(), []
    if view.sink is not None:
        mean[:, view.sink] = np.maximum(mean[:, view.sink] - view.rest, 0)
    asked = np.full(view.weights.shape[:2], False)
    asked[view.chosen] = True
    for q, k in np.ndindex(mean.shape):
        is_special = view.queries[q].special or view.keys[k].special
        if is_special or (view.is_self and q == k) or not mean[q, k]:
            continue
        weights = np.where(asked, view.weights[..., q, k], -1)
        layer, head = map(int, np.unravel_index(weights.argmax(), weights.shape))
        peak = float(weights[layer, head])
        links.append(Link(q, k, float(mean[q, k]), layer, head, peak))
    return sorted(links, key=lambda link: -link.weight)[:top]


def import_matplotlib() -> Any:
    """matplotlib with the parts that are used here."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.patches
        import matplotlib.path
    except ImportError:
        message = "the picture needs matplotlib: pip install llmjax[plot]"
        raise ValueError(message) from None
    return matplotlib


def draw(view: View, links: list[Link], name: str) -> Any:
    """The picture: arcs over the words, and heat maps below."""
    figure_of = import_matplotlib().figure.Figure
    down, across = sorted(view.weights.shape[:2])
    rows = [view.keys] if view.is_self else [view.queries, view.keys]
    units = max(_places(row)[-1] + len(row[-1].text) / 2 for row in rows) + 2
    side = float(np.clip(0.3 * len(view.keys) + 1.2, 3.9, 7.5))  # of the large map
    width = float(np.clip(max(0.125 * units, side + 2.9 + 0.42 * across), 14, 30))
    cell = min((width - side - 2.9) / across, 0.9)
    high = side * len(view.queries) / len(view.keys)
    height = 6.5 + max(high, cell * down)
    figure = figure_of(figsize=(width, height), facecolor="white")

    def axes(left, top, wide, high):
        box = (left / width, 1 - (top + high) / height, wide / width, high / height)
        return figure.add_axes(box)

    def write(left, top, text, **look):
        figure.text(left / width, 1 - top / height, text, **look)

    write(0.4, 0.42, name, size=15, weight="bold")
    what = f"{view.title}: {view.description}"
    write(width - 0.4, 0.42, what, size=11, color=QUIET, ha="right")
    top = 0.7 if view.is_self else 1.1  # with words above the arcs, too
    _draw_links(axes(0.3, top, width - 0.6, 4.1 - top), view, links, units)
    _draw_map(axes(1.3, 5.6, side, high), view)
    _draw_grid(axes(2.2 + side, 5.6, cell * across, cell * down), view)
    lines = textwrap.wrap(_caption(view), int(width * 12))
    write(0.4, height - 0.2, "\n".join(lines), size=9, color=QUIET)
    return figure


def _caption(view: View) -> str:
    """What the picture leaves out, and how much that is."""
    reads = view.mean[[not word.special for word in view.queries]]
    special = reads[:, [word.special for word in view.keys]].sum(1).mean()
    left_out = f"special tokens ({special:.0%} of what words read)"
    if view.is_self:
        own = np.mean(
            [view.mean[i, i] for i, w in enumerate(view.queries) if not w.special]
        )
        left_out += f" and the word itself ({own:.0%})"
    if view.sink is not None:
        first = view.keys[view.sink].text
        left_out += f", and what every word alike gives to {first!r} ({view.rest:.0%})"
    return (
        f"An arc leads from a word to one that it reads, the wider the more. It leaves "
        f"out {left_out}, which the heat maps show: rows read, columns are read, "
        "darkness is the root of the weight. Pieces of words are merged."
    )


def _places(words: list[Word]) -> np.ndarray:
    """Where the middle of each word is in a line of them, in letters."""
    sizes = np.array([max(len(word.text), 3) + 2.5 for word in words])
    return np.cumsum(sizes) - sizes / 2


def _ends(
    links: list[Link], x_query: np.ndarray, x_key: np.ndarray
) -> list[tuple[float, float]]:
    """Where the arc of each link begins and ends, side by side on a word.

    On either side of a word the longest arc stands innermost, so that fewer cross.
    """
    sides: dict[tuple[int, bool], list[tuple[float, int, int]]] = {}
    for index, link in enumerate(links):
        far = x_key[link.key] - x_query[link.query]
        sides.setdefault((link.query, far > 0), []).append((-abs(far), index, 0))
        sides.setdefault((link.key, far < 0), []).append((-abs(far), index, 1))
    shift = np.zeros((len(links), 2))
    for (_, is_right), side in sides.items():
        for rank, (_, index, end) in enumerate(sorted(side)):
            shift[index, end] = (0.45 + 0.75 * rank) * (1 if is_right else -1)
    return [
        (x_query[link.query] + begin, x_key[link.key] + end)
        for link, (begin, end) in zip(links, shift, strict=True)
    ]


def _draw_links(axes, view: View, links: list[Link], units: float) -> None:
    """The words in a line, or in two, and an arc for each link."""
    x_query, x_key = (
        x + (units - x[-1] - x[0]) / 2 for x in map(_places, (view.queries, view.keys))
    )
    if view.is_self:
        spans = _ends(links, x_query, x_key)
    else:
        spans = [(x_query[link.query], x_key[link.key]) for link in links]
    most = max((link.weight for link in links), default=1.0)
    for link, (start, stop) in reversed(list(zip(links, spans, strict=True))):
        high = 0.5 if not view.is_self else abs(stop - start) ** 0.7
        begin = 0.0 if view.is_self else 1.0
        corners = [(start, begin), (start, high), (stop, high), (stop, 0.0)]
        _draw_arc(axes, corners, link.weight / most, COLORS[link.query % len(COLORS)])
    readers = {link.query for link in links}
    _write_words(axes, view.keys, x_key, readers if view.is_self else set(), 0)
    if not view.is_self:
        _write_words(axes, view.queries, x_query, readers, 1)
    axes.set(xlim=(0, units), ylim=(0, None) if view.is_self else (0, 1))
    axes.axis("off")


def _draw_arc(axes, corners: list[tuple], share: float, color: str) -> None:
    """A curve with a tip; `share` of the thickest."""
    matplotlib = import_matplotlib()
    kind = matplotlib.path.Path
    curve = kind(corners, [kind.MOVETO, *[kind.CURVE4] * 3])
    look = dict(color=color, alpha=0.25 + 0.7 * share)
    arc = matplotlib.patches.PathPatch(curve, fill=False, lw=0.6 + 5 * share, **look)
    axes.add_patch(arc)
    tip = dict(marker="v", markersize=5 + 5 * share, clip_on=False)
    axes.plot(*corners[-1], markeredgewidth=0, **tip, **look)


def _write_words(axes, words: list[Word], x_words, readers: set[int], y: int) -> None:
    """A line of words, below arcs or above; those that read have their arcs' colour."""
    for index, (word, x) in enumerate(zip(words, x_words, strict=True)):
        color = COLORS[index % len(COLORS)] if index in readers else TEXT
        axes.annotate(
            word.text, (x, y), (0, 6 if y else -9), textcoords="offset points",
            ha="center", va="bottom" if y else "top", annotation_clip=False, size=13,
            color=SPECIAL if word.special else color,
            weight="normal" if word.special else "bold",
        )  # fmt: skip


def _heat() -> dict[str, Any]:
    """How weights become colours: by their root, for most are small."""
    colors = import_matplotlib().colors
    ramp = colors.LinearSegmentedColormap.from_list("heat", HEAT)
    return dict(cmap=ramp, norm=colors.PowerNorm(0.5, 0, 1), interpolation="nearest")


def _draw_map(axes, view: View) -> None:
    """The chosen layers and heads, with the words along both sides."""
    weights = view.mean
    axes.imshow(weights, aspect="auto", **_heat())
    size = float(np.clip(150 / len(view.keys), 5, 10.5))
    axes.set_xticks(range(len(view.keys)), [w.text for w in view.keys], rotation=45,
                    ha="left", rotation_mode="anchor", size=size)  # fmt: skip
    axes.set_yticks(range(len(view.queries)), [w.text for w in view.queries], size=size)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(view.keys) <= 14:
        for (q, k), weight in np.ndenumerate(weights):
            color = "white" if weight > 0.25 else TEXT
            axes.text(k, q, f"{100 * weight:.0f}", size=7.5, color=color,
                      ha="center", va="center")  # fmt: skip


def _draw_grid(axes, view: View) -> None:
    """A small heat map for each layer and head, of which the more go across."""
    weights, names = view.weights, ("layer", "head")
    if weights.shape[0] > weights.shape[1]:
        weights, names = weights.swapaxes(0, 1), ("head", "layer")
    # One row and one column are left free between two maps.
    tiles = np.pad(weights, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    down, across, high, wide = tiles.shape
    image = tiles.transpose(0, 2, 1, 3).reshape(down * high, across * wide)
    axes.imshow(np.ma.masked_invalid(image), aspect="auto", **_heat())
    axes.set_xticks(np.arange(across) * wide + wide / 2 - 1, range(across))
    axes.set_yticks(np.arange(down) * high + high / 2 - 1, range(down))
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(names[1], size=10, color=QUIET)
    axes.set_ylabel(names[0], size=10, color=QUIET)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def save(path: Path, figure: Any) -> None:
    """Writes a picture, to a temporary name first."""
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=150)
    os.replace(temporary, path)


def write_page(path: Path, views: Sequence[View], name: str, top: int) -> None:
    """Writes the page, which needs nothing else; it begins with `top` links."""
    data = {
        "layer": views[0].layer,
        "head": views[0].head,
        "views": [
            {
                "title": view.title,
                "self": view.is_self,
                "sink": view.sink,
                "queries": _labels(view.queries),
                "keys": _labels(view.keys),
                "weights": np.round(view.weights.astype(float), 4).tolist(),
            }
            for view in views
        ],
    }
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(name),
        top=top,
        # Inside a script element only this letter could end it.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)


def _labels(words: list[Word]) -> list[dict[str, Any]]:
    return [{"text": word.text, "special": word.special} for word in words]
