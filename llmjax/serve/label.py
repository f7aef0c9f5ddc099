"""Rankings by a person: what there is to rank, the file they go to, and the page."""

import base64
import hashlib
import json
import os
import random
import re
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from llmjax.data.template import Messages

PAGE = Path(__file__).with_name("label.html")
HOSTS = ("127.0.0.1", "localhost")
MAX_BODY_BYTES = 2**16


class Item(NamedTuple):
    """A prompt and different answers to it."""

    prompt: Messages
    answers: list[str]

    @property
    def key(self) -> str:
        """Equal for the same texts."""
        return json.dumps([self.prompt, self.answers])


class Desk:
    """What has been ranked, skipped, and is to come; safe to use from several threads.

    A ranking is a line of `out`, added at once or not at all. What was skipped is in
    `out`.skipped, and does not come again.
    """

    def __init__(self, items: Sequence[Item], out: str | os.PathLike):
        if not items:
            raise ValueError("nothing to rank: no prompt has two different answers")
        self.items, self.out = list(items), Path(out)
        self.skips = self.out.with_name(f"{self.out.name}.skipped")
        self._lock = threading.Lock()
        numbers = {item.key: number for number, item in enumerate(self.items)}
        self._done = []  # (file, number of the item), in the order of their lines
        for file in (self.skips, self.out):
            for record in _read(file):
                key = Item(record["prompt"], record["answers"]).key
                if key in numbers:
                    self._done.append((file, numbers[key]))

    @property
    def num_ranked(self) -> int:
        """How many of the items are in `out`."""
        return sum(file == self.out for file, _ in self._done)

    def state(self) -> dict[str, Any]:
        """What the page shows: the counts, and the next item, its answers shuffled."""
        with self._lock:
            return self._state()

    def rank(self, number: int, ranks: Sequence[int]) -> dict[str, Any]:
        """Writes the ranks of an item's answers, 1 the best; then as `state`.

        ValueError if these are no such ranks, or it is not that item's turn.
        """
        with self._lock:
            item = self._expect(number)
            places = set(ranks) if all(type(rank) is int for rank in ranks) else {None}
            if places != {*range(1, len(places) + 1)} or len(ranks) != len(
                item.answers
            ):
                raise ValueError(f"ranks={ranks!r}: one for each answer, from 1 on")
            self._add(self.out, number, {"ranks": list(ranks)})
            return self._state()

    def skip(self, number: int) -> dict[str, Any]:
        """Leaves an item out; then as `state`."""
        with self._lock:
            self._expect(number)
            self._add(self.skips, number, {})
            return self._state()

    def undo(self) -> dict[str, Any]:
        """Takes the last ranking or skip back; then as `state`."""
        with self._lock:
            if self._done:
                file, number = self._done.pop()
                _take_back(file, self.items[number])
            return self._state()

    def _state(self) -> dict[str, Any]:
        done = {number for _, number in self._done}
        num_ranked = sum(file == self.out for file, _ in self._done)
        found = {
            "total": len(self.items), "ranked": num_ranked,
            "skipped": len(self._done) - num_ranked, "item": None,
        }  # fmt: skip
        waiting = (n for n in range(len(self.items)) if n not in done)
        number = next(waiting, None)
        if number is not None:
            prompt, answers = self.items[number]
            order = list(range(len(answers)))
            # Where an answer stands must not say which it is, nor change on reloading.
            random.Random(self.items[number].key).shuffle(order)
            shown = [{"id": index, "text": answers[index]} for index in order]
            found["item"] = {"number": number, "prompt": prompt, "answers": shown}
        return found

    def _expect(self, number: Any) -> Item:
        item = self._state()["item"]
        if item is None or item["number"] != number:
            raise ValueError("this prompt has been dealt with, maybe in another window")
        return self.items[number]

    def _add(self, file: Path, number: int, more: dict[str, Any]) -> None:
        prompt, answers = self.items[number]
        record = {"prompt": prompt, "answers": answers} | more
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with open(file, "ab", buffering=0) as stream:  # one write for all of the line
            stream.write(line)
            os.fsync(stream.fileno())
        self._done.append((file, number))


def _read(file: Path) -> list[dict[str, Any]]:
    """The lines; the last one is cut off if writing it was interrupted."""
    if not file.is_file():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(file, len(whole))
    found = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            found.append({name: record[name] for name in ("prompt", "answers")})
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file}:{number}: not a ranking; name another file by --out"
            ) from None
    return found


def _take_back(file: Path, item: Item) -> None:
    """Removes the last line that is this item's."""
    lines = file.read_bytes().splitlines(keepends=True)
    for place in reversed(range(len(lines))):
        record = json.loads(lines[place])
        if Item(record["prompt"], record["answers"]).key == item.key:
            part = file.with_name(f"{file.name}.tmp")
            part.write_bytes(b"".join(lines[:place] + lines[place + 1 :]))
            os.replace(part, file)
            return


class LabelServer(ThreadingHTTPServer):
    """Serves the page to this machine only; `serve_forever` runs it."""

    def __init__(self, desk: Desk, port: int):
        self.desk, self.page = desk, PAGE.read_bytes()
        self.page_headers = _page_headers(self.page.decode())
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: "LabelServer"

    def do_GET(self):
        if not self._is_own():
            return
        if self.path == "/":
            self._send(
                HTTPStatus.OK,
                self.server.page,
                "text/html; charset=utf-8",
                self.server.page_headers,
            )
        elif self.path == "/state":
            self._send_json(self.server.desk.state())
        else:
            self._fail(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self):
        # No form of another page can send this type without being asked first.
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        if not self._is_own():
            return
        if kind != "application/json":
            self._fail(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
            return
        try:
            self._send_json(self._act())
        except (ValueError, KeyError, TypeError) as error:
            self._fail(HTTPStatus.CONFLICT, str(error))
        except OSError as error:
            message = f"cannot write {self.server.desk.out}: {error.strerror}"
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, message)

    def _act(self) -> dict[str, Any]:
        size = int(self.headers.get("Content-Length", 0))
        if size > MAX_BODY_BYTES:
            raise ValueError("the request is too long")
        body = json.loads(self.rfile.read(size) or b"{}")
        if self.path == "/rank":
            return self.server.desk.rank(body["number"], body["ranks"])
        if self.path == "/skip":
            return self.server.desk.skip(body["number"])
        if self.path == "/undo":
            return self.server.desk.undo()
        raise ValueError("no such page")

    def _is_own(self) -> bool:
        """Whether the browser was told this machine's name, and not another one."""
        name = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        if name.lower() in HOSTS:
            return True
        self._fail(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 only")
        return False

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode())

    def _send_json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode())

    def _send(self, status, content: bytes, kind="application/json", more=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in dict(more).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Says nothing of each request."""


def _page_headers(page: str) -> dict[str, str]:
    """The page runs its own script and style, and loads nothing else."""

    def own(tag: str) -> str:
        text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src {own('script')}; "
            f"style-src {own('style')}; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
