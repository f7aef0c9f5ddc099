"""The links are those of most weight; picture and page hold what they are given."""

import html.parser
import io
import json
import re
import sys

import numpy as np
import pytest

from llmjax import attention_picture
from llmjax.attention_picture import View
from llmjax.data.words import Word

HOSTILE = '</script><img src="//evil">'
WORDS = [Word("[CLS]", [0], True), Word("a", [1]), Word("b", [2]), Word(HOSTILE, [3])]


def view(num_layers=2, num_heads=3, **changes):
    """Rows of random weights, of which two are set by hand."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(4) * 50, (num_layers, num_heads, 4))
    weights[1, 2, 1] = [0.0, 0.1, 0.9, 0.0]  # a reads b
    weights[0, 1, 3] = [0.1, 0.5, 0.2, 0.2]  # the last reads a
    return View("attention", "self-attention", WORDS, WORDS, weights)._replace(
        **changes
    )


def test_the_strongest_links_are_between_different_words():
    one = view()
    links = attention_picture.strongest(one, 100)
    assert len(links) == 6
    assert [(x.query, x.key) for x in links[:2]] == [(1, 2), (3, 1)]
    first = links[0]
    assert (first.layer, first.head, first.peak) == (1, 2, 0.9)
    assert first.weight == pytest.approx(one.weights[:, :, 1, 2].mean())
    assert [x.weight for x in links] == sorted((x.weight for x in links), reverse=True)
    assert len(attention_picture.strongest(one, 2)) == 2


def test_links_of_one_layer_or_head():
    [first, *_] = attention_picture.strongest(view(layer=0, head=1), 9)
    assert (first.query, first.key, first.layer, first.head) == (3, 1, 0, 1)
    assert first.weight == first.peak == 0.5
    [first, *_] = attention_picture.strongest(view(layer=1), 9)
    assert (first.query, first.key, first.layer) == (1, 2, 1)


def test_in_cross_attention_a_word_may_read_its_like():
    links = attention_picture.strongest(view(is_self=False), 100)
    assert len(links) == 9 and (3, 3) in {(x.query, x.key) for x in links}


def test_what_all_give_to_a_decoders_first_word_is_no_link():
    weights = np.array(
        [[1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.3, 0.5, 0.2, 0], [0.2, 0.3, 0.4, 0.1]]
    )
    one = view(weights=weights[None, None])
    assert (one.sink, one.rest) == (1, 0.3)
    links = {(x.query, x.key): x.weight for x in attention_picture.strongest(one, 9)}
    assert links == {(3, 2): 0.4, (2, 1): pytest.approx(0.2)}
    assert view().sink is None  # words that see both sides have no first one


@pytest.mark.parametrize("num_layers, num_heads", [(2, 3), (12, 4)])
def test_the_picture_holds_everything(num_layers, num_heads):
    from PIL import Image

    for one in (
        view(num_layers, num_heads),
        view(num_layers, num_heads, name="cross", is_self=False, queries=WORDS[:3])
        ._replace(weights=view(num_layers, num_heads).weights[:, :, :3]),
    ):  # fmt: skip
        links = attention_picture.strongest(one, 5)
        figure = attention_picture.draw(one, links, "tiny")
        arcs, large, grid = figure.axes
        assert len(arcs.patches) == len(arcs.lines) == 5
        np.testing.assert_allclose(large.images[0].get_array(), one.mean)
        tiles = grid.images[0].get_array()
        assert tiles.count() == one.weights.size
        # The map of layer 1, head 2, wherever it is: layers go across if they are more.
        row, column = (2, 1) if num_layers > num_heads else (1, 2)
        num_queries = len(one.queries)
        row, column = row * (num_queries + 1), column * 5
        np.testing.assert_allclose(
            tiles[row : row + num_queries, column : column + 4], one.weights[1, 2]
        )
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=50)
        image = Image.open(file)
        assert image.size == tuple((figure.get_size_inches() * 50).astype(int))
        assert len(np.unique(np.asarray(image.convert("L")))) > 50


class Page(html.parser.HTMLParser):
    """The tags, the names of attributes and the data of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.names, self.scripts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.names += [name for name, _ in attributes]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def test_the_page_is_alone_and_holds_the_weights(tmp_path):
    path = tmp_path / "attention.html"
    one = view(layer=1)
    attention_picture.write_page(path, [one], HOSTILE, 7)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("script") == 2
    assert "src" not in page.names and "href" not in page.names
    # The name of SVG is the one address, and nothing is fetched from it.
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|url\(|fetch\(|import ", text)
    data = json.loads(page.scripts[0])
    assert (data["layer"], data["head"]) == (1, None)
    [found] = data["views"]
    np.testing.assert_allclose(found["weights"], one.weights, atol=5.1e-5)
    assert [w["text"] for w in found["keys"]] == [w.text for w in WORDS]
    assert [w["special"] for w in found["queries"]] == [True, False, False, False]
    assert found["self"] is True and found["sink"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["attention.html"]


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install llmjax\[plot\]"):
        attention_picture.import_matplotlib()
