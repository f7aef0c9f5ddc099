"""Ranking by hand: the file that comes of it, the server, and the page in a browser."""

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from llmjax.data.comparisons import read, text_of
from llmjax.data.conversations import Tally
from llmjax.serve.label import Desk, Item, LabelServer
from tests.serve import test_page


def ask(text):
    return [{"role": "user", "content": text}]


ITEMS = [
    Item(ask("first"), ["one", "two", "three"]),
    Item(ask("second"), ["<b>bold</b>", "naïve 🙂\n  indented"]),
    Item([{"role": "system", "content": "s"}, *ask("third")], ["x", "y", "z"]),
]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(name="out")
def _out(tmp_path):
    return tmp_path / "labels.jsonl"


def test_what_is_ranked_is_what_comparisons_read(out):
    desk = Desk(ITEMS, out)
    assert desk.state()["item"]["prompt"] == ask("first")
    desk.rank(0, [2, 1, 2])
    desk.skip(1)
    assert desk.rank(2, [1, 2, 3])["item"] is None
    found = list(read(str(out), Tally()))
    assert [one.ranks for one in found] == [[2, 1, 2], [1, 2, 3]]
    assert [text_of(answer) for answer in found[0].answers] == ["one", "two", "three"]
    assert found[1].prompt == ITEMS[2].prompt
    state = desk.state()
    assert (state["ranked"], state["skipped"], state["total"]) == (2, 1, 3)


def test_it_goes_on_where_one_left_off(out):
    Desk(ITEMS, out).rank(0, [1, 2, 3])
    desk = Desk(ITEMS, out)
    assert desk.num_ranked == 1 and desk.state()["item"]["number"] == 1
    desk.skip(1)
    # In another order, and with more to do, what is done is still known.
    more = [Item(ask("new"), ["a", "b"]), *reversed(ITEMS)]
    desk = Desk(more, out)
    assert (desk.num_ranked, desk.state()["item"]["number"]) == (1, 0)
    assert desk.rank(0, [2, 1])["item"]["prompt"] == ITEMS[2].prompt


def test_undo_takes_back_one_after_the_other(out):
    desk = Desk(ITEMS, out)
    desk.rank(0, [1, 2, 3])
    desk.skip(1)
    before = out.read_bytes()
    desk.rank(2, [1, 1, 2])
    assert desk.undo()["item"]["number"] == 2 and out.read_bytes() == before
    assert desk.undo()["item"]["number"] == 1
    assert not desk.skips.read_bytes() and out.read_bytes() == before
    # What was done before the program was started again can be taken back too.
    again = Desk(ITEMS, out)
    assert again.undo()["item"]["number"] == 0 and not out.read_bytes()
    assert again.undo()["ranked"] == 0


def test_a_line_that_was_not_finished_is_cut_off(out):
    desk = Desk(ITEMS, out)
    desk.rank(0, [1, 2, 3])
    whole = out.read_bytes()
    out.write_bytes(whole + b'{"prompt": [{"ro')
    assert Desk(ITEMS, out).num_ranked == 1 and out.read_bytes() == whole
    out.write_bytes(b"not a ranking\n")
    with pytest.raises(ValueError, match=r"labels.jsonl:1: not a ranking; .* --out"):
        Desk(ITEMS, out)


def test_ranks_that_are_none_are_refused(out):
    desk = Desk(ITEMS, out)
    for ranks in ([1, 2], [1, 3, 4], [0, 1, 2], [1, 2, "3"], [1.0, 2, 3], [[1], 2, 3]):
        with pytest.raises(ValueError, match="one for each answer"):
            desk.rank(0, ranks)
    with pytest.raises(ValueError, match="in another window"):
        desk.rank(1, [1, 2])
    assert not out.exists()
    with pytest.raises(ValueError, match="nothing to rank"):
        Desk([], out)


def test_answers_are_shown_in_an_order_that_says_nothing(out):
    items = [Item(ask(str(n)), ["a", "b", "c"]) for n in range(60)]
    desk, orders = Desk(items, out), []
    for number in range(60):
        shown = desk.state()["item"]["answers"]
        assert shown == desk.state()["item"]["answers"]
        assert all(items[number].answers[one["id"]] == one["text"] for one in shown)
        orders.append(tuple(one["id"] for one in shown))
        desk.rank(number, [1, 2, 3])
    assert len(set(orders)) == 6


@contextmanager
def serving(desk):
    with LabelServer(desk, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def call(url, body=None, **headers):
    """(status, JSON or text)"""
    headers = {"Content-Type": "application/json"} | headers
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_server_answers_its_own_page_only(out):
    with serving(Desk(ITEMS, out)) as url:
        status, page = call(f"{url}/")
        assert status == 200 and "https://" not in page and "src=" not in page
        assert call(f"{url}/", Host="evil.example:80")[0] == 403
        ranked = {"number": 0, "ranks": [1, 2, 3]}
        assert call(f"{url}/rank", ranked, Host="evil.example")[0] == 403
        assert call(f"{url}/rank", ranked, **{"Content-Type": "text/plain"})[0] == 415
        assert call(f"{url}/elsewhere")[0] == 404
        assert not out.exists()
        status, text = call(f"{url}/rank", ranked)
        assert status == 200 and json.loads(text)["ranked"] == 1
        status, text = call(f"{url}/rank", ranked)
        assert status == 409 and "another window" in json.loads(text)["error"]
        for body in ({}, {"number": 1}, [], {"number": 1, "ranks": None}):
            assert call(f"{url}/rank", body)[0] == 409
        assert len(lines(out)) == 1


browser = test_page._browser


@pytest.fixture(name="page")
def _page(browser, out):
    page = browser.new_page(viewport={"width": 900, "height": 1000})
    page.set_default_timeout(600_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    with serving(Desk(ITEMS, out)) as url:
        page.on("request", lambda r: r.url.startswith(url) or problems.append(r.url))
        page.goto(url)
        yield page
        page.close()
    assert not problems


def keys(page, *names):
    for name in names:
        page.keyboard.press(name)


def shown(page, where):
    return page.locator(f"#{where} .answer .text").all_text_contents()


def await_counts(page, text):
    page.locator("#counts", has_text=text).wait_for()


@pytest.mark.slow
def test_ranking_by_keys(page, out):
    await_counts(page, "0 of 3 ranked")
    before = shown(page, "others")
    assert sorted(before) == sorted(ITEMS[0].answers)
    keys(page, "Enter")  # nothing is ranked yet
    keys(page, "3", "1", "=", "Backspace", "Backspace", "2", "3", "=")
    assert shown(page, "ranked") == [before[1], before[2]]
    keys(page, "Enter")
    await_counts(page, "1 of 3 ranked")
    [line] = lines(out)
    ranks = dict(zip(line["answers"], line["ranks"], strict=True))
    assert [ranks[text] for text in before] == [2, 1, 1]
    # What looks like markup is text.
    assert sorted(shown(page, "others")) == sorted(ITEMS[1].answers)
    keys(page, "s")
    await_counts(page, "1 of 3 ranked, 1 skipped")
    assert page.locator("#prompt small").all_text_contents() == ["system", "user"]
    keys(page, "u")
    page.locator("#prompt", has_text="second").wait_for()
    keys(page, "1", "Enter")
    await_counts(page, "2 of 3 ranked")
    keys(page, "1", "2", "3", "Enter")
    page.locator("#done").wait_for()
    assert len(lines(out)) == 3
    page.click("#undo")
    page.locator("#prompt", has_text="third").wait_for()
    assert len(lines(out)) == 2


@pytest.mark.slow
def test_ranking_by_mouse(page, out):
    await_counts(page, "0 of 3 ranked")
    first, second, third = shown(page, "others")
    page.locator("#others .answer", has_text=first).drag_to(page.locator(".empty"))
    page.locator("#others .answer", has_text=second).click()
    assert shown(page, "ranked") == [first, second]
    # The last one to the very top, the first one to the bottom.
    top = {"x": 60, "y": 3}
    ranked = page.locator("#ranked .answer")
    page.locator("#others .answer").drag_to(ranked.nth(0), target_position=top)
    assert shown(page, "ranked") == [third, first, second]
    bottom = {"x": 60, "y": ranked.nth(2).bounding_box()["height"] - 3}
    ranked.nth(1).drag_to(ranked.nth(2), target_position=bottom)
    assert shown(page, "ranked") == [third, second, first]
    ranked.nth(2).locator(".tie").click()
    assert page.locator(".rank").all_text_contents() == ["1", "2=", "2="]
    ranked.nth(0).locator(".key").click()  # taken back, so the others move up
    assert page.locator(".rank").all_text_contents() == ["1=", "1="]
    page.click("#save")
    await_counts(page, "1 of 3 ranked")
    [line] = lines(out)
    ranks = dict(zip(line["answers"], line["ranks"], strict=True))
    assert [ranks[text] for text in (first, second, third)] == [1, 1, 2]
