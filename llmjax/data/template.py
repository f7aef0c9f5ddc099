"""Chat templates: programs in Jinja that write a conversation as a model reads it.

They come with the model, in the dialect that transformers made:
https://huggingface.co/docs/transformers/chat_templating. A template runs in a sandbox,
where it reaches nothing but the messages. `render` bounds neither its time nor its
memory; `Renderer` does, by running it in a process of its own: this very file.

messages: [{"role": "system" | "user" | "assistant", "content": text}, ...]
"""

import contextlib
import datetime
import functools
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Messages = Sequence[Mapping[str, Any]]

LIMIT_SECS = 10  # of processor time, where a conversation takes about a millisecond
LIMIT_CHARS = 2**24  # of its text
LIMIT_BYTES = 2**30  # of the memory of the process that writes it

# Around what a model learns to write: signs that Unicode leaves to a program's own use.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
GENERATION = re.compile(r"{%[-+]?\s*generation\b")


class Piece(NamedTuple):
    """A part of a conversation's text, and whether a model learns to write it."""

    text: str
    is_trained: bool


def render(
    template: str,
    messages: Messages,
    *,
    bos_token: str | None,
    eos_token: str | None,
    add_generation_prompt: bool = True,
    **extra: Any,
) -> str:
    """The text of a conversation; `extra` is what else this template asks for.

    add_generation_prompt: the text ends where the next answer begins.

    Raises ValueError, in one line, for a template that is no Jinja, that fails, that
    refuses the messages, or that wants out of its sandbox.
    """
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    given = extra | {"add_generation_prompt": add_generation_prompt} | tokens
    return _render(template, messages, ("", ""), given)


def write(
    template: str,
    messages: Messages,
    *,
    roles: Sequence[str] = ("assistant",),
    **given: Any,
) -> list[Piece]:
    """The text of a whole conversation in pieces; what `roles` say is trained.

    A template that marks answers by {% generation %} says itself where they begin and
    end. Of others, a turn is what the text with it has more than the text without; that
    of an assistant begins where a prompt ends.

    given: what `render` takes; ValueError also where the text without a turn is not the
      beginning of that with it.
    """
    if tuple(roles) == ("assistant",) and GENERATION.search(template):
        return _split_marked(template, messages, given)
    return _split_turns(template, messages, roles, given)


def _split_marked(template: str, messages: Messages, given) -> list[Piece]:
    given = given | {"add_generation_prompt": False}
    marked = _render(template, messages, (OPEN, CLOSE), given)
    parts = re.split(f"[{OPEN}{CLOSE}]", marked)
    marks = "".join(re.findall(f"[{OPEN}{CLOSE}]", marked))
    if marks != (len(parts) // 2) * (OPEN + CLOSE):
        raise ValueError("{% generation %} within another, or a mark of it in the text")
    if "".join(parts) != _render(template, messages, ("", ""), given):
        raise ValueError("the chat template changes what {% generation %} marks")
    return [Piece(text, bool(index % 2)) for index, text in enumerate(parts) if text]


def _split_turns(template: str, messages: Messages, roles, given) -> list[Piece]:
    pieces, written = [], ""

    def go_on(num_messages: int, is_trained: bool, is_prompt: bool = False) -> None:
        nonlocal written
        text = render(
            template, messages[:num_messages], add_generation_prompt=is_prompt, **given
        )
        if not text.startswith(written):
            raise ValueError(
                "the chat template writes earlier turns otherwise once message "
                f"{num_messages} follows; give one that marks answers by "
                "{% generation %}"
            )
        pieces.append(Piece(text[len(written) :], is_trained))
        written = text

    for number, message in enumerate(messages):
        if message["role"] in roles:
            if number:
                go_on(number, False, is_prompt=message["role"] == "assistant")
            go_on(number + 1, True)
    go_on(len(messages), False)
    return [piece for piece in pieces if piece.text]


def _render(template: str, messages: Messages, marks: tuple[str, str], given) -> str:
    # A template asks whether it was given tools, but writes names without asking.
    given = {"tools": None, "documents": None} | {
        name: value
        for name, value in given.items()
        if value is not None or name not in ("bos_token", "eos_token")
    }
    try:
        text = _compile(template, marks).render(messages=messages, **given)
    except jinja2.TemplateSyntaxError as error:
        where = f"line {error.lineno} of the chat template"
        raise ValueError(f"{where}: {_line(error)}") from error
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses: {_line(error)}") from error
    except Exception as error:  # the template's own, which may be any
        kind = type(error).__name__
        raise ValueError(f"the chat template fails: {kind}: {_line(error)}") from error
    if len(text) > LIMIT_CHARS:
        raise ValueError(f"the chat template writes {len(text):,} signs")
    return text


@functools.lru_cache(maxsize=16)
def _compile(template: str, marks: tuple[str, str]) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.extend(generation_marks=marks)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment.from_string(template)


class _Generation(Extension):
    """{% generation %} puts a mark before and after what a model learns to write."""

    tags = frozenset(["generation"])

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        before, after = (
            nodes.Output([nodes.TemplateData(mark)]).set_lineno(line)
            for mark in self.environment.generation_marks
        )
        return [before, *body, after]


class _Namespace(Namespace):
    """A template's variables; Python would take some names for its own, like __call__.

    Those the sandbox lets no template read, but without this it lets it write them.
    """

    def __init__(self, /, *args: Any, **kwargs: Any):
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.sandbox.SecurityError(f"the name {name!r} is not allowed")
        super().__setitem__(name, value)


def _to_json(value: Any, **options: Any) -> str:
    """Jinja's own escapes for HTML, which no model has been trained on."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class Renderer:
    """`write` in a process of its own, which is ended when it takes too long.

    given: what `write` is given beside the messages, for all conversations.
    """

    def __init__(self, template: str, *, limit_secs: int = LIMIT_SECS, **given: Any):
        self.limit_secs = limit_secs
        self._setup = [limit_secs, {"template": template} | given]
        self._child = None

    def write(
        self, conversations: Sequence[Messages]
    ) -> list[list[Piece] | ValueError]:
        """The pieces of each, or in one line why there are none to be had.

        To ask for many at once is much faster than for one after the other.
        """
        if self._child is None:
            self._start()
        found = self._ask(conversations)
        if found is not None:
            return [_read(one) for one in found]
        self.close()
        if len(conversations) > 1:  # whose fault was it?
            return [self.write([one])[0] for one in conversations]
        what = f"takes over {self.limit_secs} s or more memory than there is"
        return [ValueError(f"the chat template {what}; it was stopped")]

    def _start(self) -> None:
        # Out of reach of Ctrl-C, which is for the parent; it ends where its input does.
        self._child = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._ask(self._setup)

    def _ask(self, question: Any) -> Any:
        """The answer; None where the process is gone."""
        try:
            self._child.stdin.write(json.dumps(question).encode() + b"\n")
            self._child.stdin.flush()
            return json.loads(self._child.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return None

    def close(self) -> None:
        """Ends the process; another one is started when it is needed."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(BrokenPipeError):
                self._child.communicate()
            self._child = None

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _serve() -> None:
    """The other end: answers each line of JSON by one; the first is the setup."""
    limit_secs, setup = json.loads(sys.stdin.readline())
    print("[]", flush=True)
    for line in sys.stdin:
        _limit(limit_secs)
        answers = []
        for messages in json.loads(line):
            try:
                answers.append(write(messages=messages, **setup))
            except ValueError as error:
                answers.append(str(error))
        print(json.dumps(answers), flush=True)


def _limit(secs: int) -> None:
    """Lets this process go on for so long, in so much memory, and be killed then."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        until = math.ceil(time.process_time() + secs)
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))


def _read(answer: list | str) -> list[Piece] | ValueError:
    if isinstance(answer, str):
        return ValueError(answer)
    return [Piece(*piece) for piece in answer]


if __name__ == "__main__":
    _serve()
