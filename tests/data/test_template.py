"""Conversations as transformers renders them, and templates that are up to no good."""

import datetime
import json
import pathlib

import pytest

from llmjax.data import template as templates
from llmjax.data.template import OPEN, Piece, Renderer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "chat.json"
KNOWN = {one["name"]: one for one in json.loads(GOLDEN.read_text(encoding="utf-8"))}
CASES = [(name, case) for name, one in KNOWN.items() for case in one["cases"]]
USER = {"role": "user", "content": "Hello"}


def render(template, messages=(USER,), **extra):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return templates.render(template, messages, **tokens | extra)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_text_is_that_of_transformers(name, case):
    known = KNOWN[name]
    given, extra = known["cases"][case], known["cases"][case]["extra"]
    tokens = {key: known[key] for key in ("bos_token", "eos_token")}
    text = templates.render(known["template"], given["messages"], **tokens, **extra)
    assert text == given["text"]


def test_what_a_template_can_ask_for():
    assert (
        render("{{ tools is none }} {{ bos_token }}{{ eos_token }}") == "True <s></s>"
    )
    assert render("[{{ bos_token }}]", bos_token=None) == "[]"
    year = str(datetime.datetime.now().year)
    assert render("{{ strftime_now('%Y') }}") == year
    assert render("{{ {'a': '<é>'} | tojson(indent=1) }}") == '{\n "a": "<é>"\n}'
    assert render("{% set n = namespace({'a': 1}, b=2) %}{{ n.a + n.b }}") == "3"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% for %}", "line 2 of the chat template: Expected"),
        ("{% include 'x' %}", "the chat template fails: TypeError: no loader"),
        ("{{ raise_exception('Only\nquestions!') }}", "refuses: Only questions!"),
        ("{{ messages[0].content + 1 }}", "fails: TypeError: can only concatenate"),
        ("{{ missing.field }}", "refuses: 'missing' is undefined"),
    ],
)
def test_an_error_is_one_line(template, message):
    with pytest.raises(ValueError) as caught:
        render(template)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "attribute '__class__' of 'str'"),
        ("{{ ''['__class__']['__mro__'] }}", "attribute '__class__' of 'str'"),
        (
            "{{ (messages | attr('__class__')).mro() }}",
            "attribute '__class__' of 'list",
        ),
        ("{{ '{0.__class__.__mro__}'.format(messages) }}", "attribute '__class__' of"),
        (
            "{{ raise_exception.__globals__.os }}",
            "attribute '__globals__' of 'function",
        ),
        ("{{ self.__init__.__globals__ }}", "attribute '__init__' of"),
        ("{{ cycler.__init__.__globals__.os }}", "attribute '__init__' of 'type'"),
        ("{{ messages.append(1) }}", "attribute 'append' of 'list'"),
        ("{{ messages[0].update(role='system') }}", "attribute 'update' of"),
        ("{% for i in range(1000000) %}{% endfor %}", "Range too big"),
        ("{% set n = namespace() %}{% set n.__call__ = 1 %}", "the name '__call__'"),
        ("{% set n = namespace(__call__=range) %}", "the name '__call__'"),
        ("{% set n = namespace({'__class__': 1}) %}", "the name '__class__'"),
    ],
)
def test_a_hostile_template_is_refused(template, message):
    messages = [dict(USER)]
    with pytest.raises(ValueError) as caught:
        render(template, messages)
    assert message in str(caught.value)
    assert messages == [USER]


def written(template, messages, roles=("assistant",)):
    """The pieces as text, what is trained in brackets."""
    pieces = templates.write(
        template, messages, roles=roles, bos_token="<s>", eos_token="</s>"
    )
    assert all(piece.text for piece in pieces)
    return "".join(f"[{text}]" if trained else text for text, trained in pieces)


TURNS = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]
PROMPT = "{% if add_generation_prompt %}A:{% endif %}"
UNMARKED = (
    "{% for m in messages %}{{ m.role[0] | upper }}:{{ m.content }};{% endfor %}"
    + PROMPT
)


def test_what_is_trained_is_told_by_the_template():
    marked = (
        "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }};{% endgeneration %}\n\n"
        "{% else %}{{ m.content }};{% endif %}{% endfor %}"
    )
    assert written(marked, TURNS) == "s:S;u:q1;a:[a1;]\nu:q2;a:[a2;]\n"
    macro = (
        "{% macro turn(m) %}{{ m.role[0] }}:{%- generation -%} {{ m.content }} "
        "{%- endgeneration %};{% endmacro %}"
        "{% for m in messages %}{% set text = turn(m) %}{{ text }}{% endfor %}"
    )
    assert written(macro, TURNS[1:3]) == "u:[q1];a:[a1];"


def test_without_a_mark_a_turn_is_what_it_adds():
    """An assistant's begins after the prompt; that of others, with its own name."""
    assert written(UNMARKED, TURNS) == "S:S;U:q1;A:[a1;]U:q2;A:[a2;]"
    assert written(UNMARKED, TURNS[:4]) == "S:S;U:q1;A:[a1;]U:q2;"
    assert written(UNMARKED, TURNS, ["user"]) == "S:S;[U:q1;]A:a1;[U:q2;]A:a2;"
    both = written(UNMARKED, TURNS, ["user", "assistant"])
    assert both == "S:S;[U:q1;]A:[a1;][U:q2;]A:[a2;]"
    assert written(UNMARKED, TURNS[1:3], ["user"]) == "[U:q1;]A:a1;"
    # The tag says nothing about a role that is not the assistant.
    marked = UNMARKED.replace(PROMPT, "{% generation %}{% endgeneration %}" + PROMPT)
    assert written(marked, TURNS[1:3], ["user"]) == "[U:q1;]A:a1;"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        # As Qwen3 does with thoughts: only the last answer is written in full.
        (
            "{% for m in messages %}{{ m.content if loop.last else m.content[:1] }};"
            "{% endfor %}",
            "earlier turns otherwise once message 3 follows; give one that marks",
        ),
        (UNMARKED.replace("A:", "Answer:"), "earlier turns otherwise once message 3"),
        (
            "{% set t %}{% generation %}a{% endgeneration %}{% endset %}{{ t|count }}",
            "changes what {% generation %} marks",
        ),
        (
            "{% generation %}{% generation %}{% endgeneration %}{% endgeneration %}",
            "{% generation %} within another",
        ),
        (
            f"{{% generation %}}a{OPEN}{{% endgeneration %}}",
            "or a mark of it in the text",
        ),
    ],
)
def test_what_is_trained_must_be_clear(template, message):
    with pytest.raises(ValueError) as caught:
        written(template, TURNS)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_process_of_its_own_writes_the_same():
    names = {"bos_token": None, "eos_token": "</s>"}
    refuses = (
        "{% if messages[-1].content == 'S' %}{{ raise_exception('S') }}{% endif %}"
    )
    with Renderer(refuses + UNMARKED, **names) as renderer:
        found = renderer.write([TURNS, TURNS[:1], TURNS[1:3]])
    assert found[0] == templates.write(UNMARKED, TURNS, **names)
    assert found[2] == [Piece("U:q1;A:", False), Piece("a1;", True)]
    assert str(found[1]) == "the chat template refuses: S"


LOOPS = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (LOOPS, "takes over 1 s or more memory than there is; it was stopped"),
        ("{{ (messages | count * 10) ** (10 ** 10) }}", "takes over 1 s"),
        ("{{ 'x' * 2000000000 }}", "fails: MemoryError"),
        ("{{ 'x' * 20000000 }}", "writes 20,000,001 signs"),
    ],
)
def test_a_template_that_loops_or_explodes_is_stopped(harm, message):
    """The conversations before and after are none the worse for it."""
    template = "{% if messages[0].content == 'bad' %}" + harm + "{% endif %}!"
    good, bad = [{"role": "user", "content": "good"}], [dict(USER, content="bad")]
    with Renderer(template, limit_secs=1, bos_token=None, eos_token=None) as renderer:
        found = renderer.write([good, bad, good])
        assert renderer.write([good]) == [[Piece("!", False)]]
    assert found[0] == found[2] == [Piece("!", False)]
    assert message in str(found[1])
