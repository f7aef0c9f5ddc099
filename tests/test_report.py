"""The report: well-formed, self-contained, its charts in the right place."""

import html.parser
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from llmjax import report
from llmjax.report import Series

HOSTILE = '</pre><script>alert("x")</script> & $title {body} \'"<img src=//evil>'


class Checker(html.parser.HTMLParser):
    """Collects tags and text; every tag must be closed, in order."""

    void = ("meta", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def everything(text):
    points = Series(text, [1, 2, 3], [3.0, 2.0, 1.5], "smooth")
    marks = Series("b", [1, 3], [2.0, 1.0], "marks")
    labels = dict(x_label=text, y_label=text)
    return [
        (text, report.figures({text: text, "n": 1})),
        ("chart", report.line_chart([points, marks], **labels, rules={text: 1.7})),
        ("table", report.table([{text: text, "n": 1.5}, {"n": 2}])),
        ("text", report.text_block(text, text)),
        ("settings", report.key_values({text: {text: text}})),
    ]


def test_page_is_well_formed_and_alone(tmp_path):
    path = tmp_path / "report.html"
    report.write(path, "a run", everything("plain"))
    page = path.read_text(encoding="utf-8")
    checker = Checker(page)
    for tag in ("main", "h1", "h2", "svg", "table", "pre", "dl", "style"):
        assert tag in checker.tags
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    names = [name for name, _ in checker.attributes]
    assert "src" not in names and "href" not in names
    assert "http" not in page and "@import" not in page and "url(" not in page
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_hostile_text_stays_text(tmp_path):
    path = tmp_path / "report.html"
    report.write(path, HOSTILE, everything(HOSTILE))
    checker = Checker(path.read_text(encoding="utf-8"))
    assert "script" not in checker.tags and "img" not in checker.tags
    assert ("aria-label", f"{HOSTILE} over {HOSTILE}") in checker.attributes
    # Title, h1, h2, two labels and so on: each shows the text as it was given.
    assert checker.text.count(HOSTILE) >= 12


def chart(series, **options):
    """The parsed svg of a chart."""
    markup = report.line_chart(series, x_label="x", y_label="y", **options)
    Checker(markup)
    return ElementTree.fromstring(re.search("(?s)<svg.*</svg>", markup)[0])


def points(svg, name="curve"):
    """The corners of the first path of a class, as (x, y) of the drawing."""
    group = next(g for g in svg.iter("g") if name in g.get("class").split())
    path = group.find("path").get("d")
    return [tuple(map(float, pair.split())) for pair in path[1:].split("L")]


def ticks(svg):
    """{label: its coordinates} of all texts."""
    return {t.text: (float(t.get("x")), float(t.get("y"))) for t in svg.iter("text")}


def test_points_stand_where_the_axes_say():
    svg = chart([Series("a", [0, 50, 100], [0.0, 1.0, 0.5])])
    (x0, y0), (x50, y50), (x100, y100) = points(svg)
    label = ticks(svg)
    assert x100 == label["100"][0]
    assert x50 == pytest.approx((label["40"][0] + label["60"][0]) / 2, abs=0.2)
    assert x50 - x0 == pytest.approx(x100 - x50, abs=0.2)
    # A label's baseline is 4 below its line; y grows downwards.
    assert y50 == pytest.approx(label["1"][1] - 4, abs=0.2)
    assert y0 - y100 == pytest.approx(y100 - y50, abs=0.2)
    assert y0 > y100 > y50


def test_log_axes():
    svg = chart([Series("a", [1, 10, 100], [1.0, 10.0, 100.0])], log_x=True, log_y=True)
    (x0, y0), (x1, y1), (x2, y2) = points(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x1 == ticks(chart([Series("a", [1, 100], [2, 3])], log_x=True))["10"][0]


def test_points_that_cannot_be_drawn_are_left_out():
    y = [1.0, math.nan, None, math.inf, 2.0]
    assert len(points(chart([Series("a", range(5), y)]))) == 2
    assert len(points(chart([Series("a", range(-1, 4), [1.0] * 5)], log_x=True))) == 3
    assert len(points(chart([Series("a", range(10_000), [1.0] * 10_000)]))) <= 1500
    chart([Series("none", [], [])])
    chart([])
    chart([Series("one", [3], [0.0])])
    chart([Series("one", [3], [5.0])], log_x=True, log_y=True)


def test_hovering_tells_the_values():
    svg = chart([Series("train", [1, 2], [3.5, 2.5]), Series("val", [2], [2.25])])
    titles = [title.text for title in svg.iter("title")]
    assert titles == ["x 1\ntrain: 3.5", "x 2\ntrain: 2.5\nval: 2.25"]


def test_rules_widen_the_axis():
    svg = chart([Series("a", [0, 1], [1.0, 2.0])], rules={"gzip -9": 5.0})
    (rule,) = (p for p in svg.iter("path") if p.get("class") == "rule")
    y = float(rule.get("d").split()[1].split("H")[0])
    assert report.TOP < y < min(y for _, y in points(svg))
    assert "gzip -9 5" in ticks(svg)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 1200, [0, 200, 400, 600, 800, 1000, 1200]),
        (1.71, 2.43, [1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4]),
        (-3, 3, [-3, -2, -1, 0, 1, 2, 3]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert report._ticks(low, high, 6) == expected


def test_log_ticks_are_round():
    assert report._log_ticks(1e12, 1e13, 8) == [1e12, 2e12, 5e12, 1e13]
    assert report._log_ticks(1, 1e6, 8) == [10.0**power for power in range(7)]
    assert report._log_ticks(2, 5, 4) == report._ticks(2, 5, 4)
    assert len(report._log_ticks(1, 1e24, 8)) <= 9


def test_smooth_is_a_centred_mean():
    line = [2.0 * index for index in range(500)]
    assert report.smooth(line) == pytest.approx(line)  # no lag
    bump = [0.0] * 500
    bump[250] = 11.0
    expected = [1.0 if 245 <= index <= 255 else 0.0 for index in range(500)]
    assert report.smooth(bump) == pytest.approx(expected)
    assert report.smooth([3.0, 1.0]) == [3.0, 1.0]
    assert report.smooth([]) == []


@pytest.mark.parametrize(
    "value, text",
    [
        (1.72314, "1.723"), (124439808, "124,439,808"), (9123.4, "9,123"),
        (1e-5, "1e-05"), (None, "–"), (True, "True"), ("rms", "rms"), (0.0, "0"),
    ],
)  # fmt: skip
def test_how_values_are_shown(value, text):
    assert report._text(value) == text


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (1500, "1.5k"), (2e7, "20M"), (0.25, "0.25"), (1e18, "1e+18")],
)
def test_how_ticks_are_shown(value, text):
    assert report._tick(value) == text


def test_table_and_settings_hold_what_they_are_given():
    page = report.table(
        [{"method": "gzip", "secs": 0.4}, {"method": "xz", "note": "a"}]
    )
    assert re.findall(r"<th(?: [^>]*)?>(.*?)</th>", page) == ["method", "secs", "note"]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert cells == ["gzip", "0.4", "–", "xz", "–", "a"]
    assert page.count('class="number"') == 3  # the heading, and two cells
    page = report.key_values(
        {"model": {"width": 64, "rope": {"theta": 1e4}}, "seed": 0}
    )
    assert re.findall(r"<dt>(.*?)</dt>", page) == [
        "model.width",
        "model.rope.theta",
        "seed",
    ]
    assert re.findall(r"<dd>(.*?)</dd>", page) == ["64", "10,000", "0"]


def test_spans_are_drawn_on_the_axis_and_make_room():
    """Of a point at 0.5 with the interval 0 to 1, the bar's middle is the point."""
    one = Series("a", [1, 2], [0.5, None], "marks", [(0.0, 1.0), (0.0, 9.0)])
    chart = report.line_chart([one], x_label="x", y_label="y")
    [(low, high)] = re.findall(r'class="span" d="M[\d.]+ ([\d.]+)V([\d.]+)"', chart)
    [middle] = re.findall(r'cy="([\d.]+)"', chart)
    assert float(low) > float(middle) > float(high) > report.TOP
    assert float(middle) == pytest.approx((float(low) + float(high)) / 2, abs=0.1)
