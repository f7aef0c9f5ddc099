"""A chart as a section of a page and as a PNG."""

import pytest

from llmjax import charts
from llmjax.charts import Chart
from llmjax.report import Series


def test_a_chart_with_its_caption(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [Series("a", [1, 10], [0.2, 0.9], "marks", [(0.1, 0.3), (0.8, 1.0)])]
    chart = Chart("Rise", lines, "parameters", "share", caption="5 < 6 & more")
    title, html = charts.section(chart)
    assert title == "Rise" and "<p>5 &lt; 6 &amp; more</p>" in html
    assert html.count('class="span"') == 2
    assert charts.write_pngs(tmp_path, {"rise": chart}) == ["rise.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["rise.png"]
    assert (tmp_path / "rise.png").read_bytes().startswith(b"\x89PNG")
