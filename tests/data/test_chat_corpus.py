"""From files to rows: what is learned, held out, cut and refused, and no more."""

import json
from pathlib import Path

import numpy as np
import pytest

from llmjax.config import ModelConfig
from llmjax.data import chat, template
from llmjax.data.chat_corpus import ChatConfig, prepare
from llmjax.data.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "sft"
DECODER = ModelConfig(vocab_size=300, context=64)
REFUSES = "{% if 'bad' in messages[0].content %}{{ raise_exception('bad') }}{% endif %}"


@pytest.fixture(name="tokenizer", scope="module")
def _tokenizer():
    return load_tokenizer(GOLDEN)


@pytest.fixture(name="make")
def _make(tmp_path, tokenizer):
    """make(pairs, ...) -> the corpus of these questions and answers."""

    def make(pairs, model=DECODER, own=None, **fields):
        lines = [json.dumps({"prompt": q, "completion": a}) for q, a in pairs]
        (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
        cfg = ChatConfig(source=str(tmp_path / "a.jsonl"), **fields)
        return prepare(cfg, tokenizer, model, own)

    return make


PAIRS = [(f"Question {n}?", f"Answer {n}.") for n in range(40)]


def test_rows_say_what_the_files_say(make, tokenizer, tmp_path):
    corpus = make(PAIRS, validation_fraction=0.2)
    assert corpus.template == chat.named("chatml")
    names = [tokenizer.core.id_to_token(index) for index in corpus.stop_ids]
    assert names == ["<|endoftext|>", "<|im_end|>"]
    rows = corpus.tally.rows()
    assert [row["conversations"] for row in rows] == ["learned", "held out"]
    assert sum(row["number"] for row in rows) == 40 and rows[1]["number"] > 1
    assert corpus.counts.conversations == corpus.counts.ends == rows[0]["number"]
    batch = corpus.train.rows(np.arange(len(corpus.train)))
    found = set()
    for row in range(len(corpus.train)):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            where = (batch["segment_ids"][row] == segment) & (batch["weights"][row] > 0)
            found.add(tokenizer.decode(batch["targets"][row][where].tolist()))
    unseen = {tokenizer.decode(list(next(e.turns())[1])) for e in corpus.held_out}
    assert found | unseen == {f"{answer}<|im_end|>" for _, answer in PAIRS}
    assert not found & unseen
    assert {one.where.partition(":")[0] for one in corpus.held_out} == {
        str(tmp_path / "a.jsonl")
    }


def test_the_same_question_is_on_one_side(make):
    pairs = [(f"Question {n % 8}?", f"Answer {n}.") for n in range(40)]
    corpus = make(pairs, validation_fraction=0.3)
    keys = {one.key for one in corpus.held_out}
    assert len(corpus.held_out) == 5 * len(keys) and 0 < len(keys) < 8
    # At least one is held out, and the rest learned.
    assert len({one.key for one in make(pairs, validation_fraction=0).held_out}) == 1
    with pytest.raises(ValueError, match="all 40 conversations are held out"):
        make([("Same?", f"{n}") for n in range(40)])


def test_what_is_too_long_is_cut_and_counted(make, tmp_path):
    long = [*PAIRS, ("A long answer?", "Yes. " * 60)]
    corpus = make(long, max_cut=0.05)
    [row] = [row for row in corpus.tally.rows() if "cut" in row["conversations"]]
    assert (row["number"], row["first"]) == (1, f"{tmp_path}/a.jsonl:41")
    with pytest.raises(ValueError) as caught:
        make(long, max_cut=0.02)
    assert str(caught.value) == (
        f"{tmp_path}/a.jsonl:41: this and others, 1 of 41 conversations, are longer "
        "than 64 tokens, more than --data.max_cut=0.02 of them; raise --data.context"
    )
    # Cut off before its answer, a conversation trains nothing.
    lost = [*PAIRS, ("A long question? " * 20, "Yes.")]
    with pytest.raises(ValueError, match=r"jsonl:41: trains no token: none of the fir"):
        make(lost)
    rows = make(lost, on_bad="skip", max_cut=0.0).tally.rows()
    assert rows[-1]["conversations"] == "refused: trains no token"
    assert sum(row["number"] for row in rows) == 41


def test_what_a_template_refuses_is_named(make, tmp_path):
    own = REFUSES + chat.named("chatml")
    pairs = [PAIRS[0], ("a bad one", "a"), *PAIRS[1:], ("bad again", "a")]
    with pytest.raises(ValueError, match=r"jsonl:2: template fails: .* refuses: bad;"):
        make(pairs, own=own)
    last = make(pairs, own=own, on_bad="skip").tally.rows()[-1]
    assert last == {
        "conversations": "refused: template fails",
        "number": 2,
        "first": f"{tmp_path}/a.jsonl:2, {tmp_path}/a.jsonl:42",
    }


def test_a_template_without_an_end_is_refused(make):
    own = chat.named("chatml").replace(
        "{{ message.content + '<|im_end|>' }}{% endgeneration %}",
        "{{ message.content }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    with pytest.raises(ValueError, match="of 39 answers is not trained"):
        make(PAIRS, own=own)
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match=r"no answer has an end \(<.endoftext.>\)"):
        make(PAIRS, own=plain)
    masked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    with pytest.raises(ValueError, match="masked away, as the padding is"):
        make(PAIRS, own=masked + "{{ eos_token }}{% endfor %}")


def test_rows_of_an_encoder_and_a_decoder(make, tokenizer):
    encoder = ModelConfig(structure="encoder", vocab_size=300, context=48)
    model = ModelConfig(vocab_size=300, context=32, encoder=encoder, start_id=5)
    corpus = make(PAIRS, model, template="plain", context=99, answer_tokens=99)
    assert corpus.train.lengths == (32, 48)
    batch = corpus.train.rows(np.arange(1))
    source = batch["encoder_tokens"][0][batch["encoder_segment_ids"][0] > 0].tolist()
    target = batch["targets"][0][batch["weights"][0] > 0].tolist()
    question, answer = PAIRS[int(corpus.tally.places["learned"][0].split(":")[1]) - 1]
    assert tokenizer.decode(source) == f"{question}\n<|endoftext|>"
    assert tokenizer.decode(target) == f"{answer}<|endoftext|>"
    assert batch["tokens"][0][0] == 5
    with pytest.raises(ValueError, match="are longer than 48 tokens"):
        make(PAIRS, model, template="plain", answer_tokens=3)


def test_a_role_other_than_the_assistant(make, tokenizer):
    with pytest.raises(ValueError, match="no answer has an end"):
        make(PAIRS, roles=("user",), own=chat.named("plain"))
    corpus = make(PAIRS, roles=("user",))
    turn = tokenizer.decode(list(next(corpus.held_out[0].turns())[1]))
    assert turn.startswith("<|im_start|>user\nQuestion") and turn.endswith(
        "<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": ""}, "--data.source is needed"),
        ({"source": "/nowhere.jsonl"}, "/nowhere.jsonl: no such file"),
        ({"source": "{}"}, "{}: no conversation to learn from"),
        ({"source": "{}", "template": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_input(fields, message, tokenizer, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    file = str(tmp_path / "empty.jsonl")
    fields = {name: value.format(file) for name, value in fields.items()}
    with pytest.raises((ValueError, OSError)) as caught:
        prepare(ChatConfig(**fields), tokenizer, DECODER, None)
    assert message.format(file) in str(caught.value)


def test_held_out_prompts_are_what_a_model_is_asked(make, tokenizer):
    corpus = make(PAIRS)
    [one] = corpus.held_out[:1]
    messages = [{"role": "user", "content": one.key}]
    assert one.prompt_ids == chat.prompt_ids(tokenizer, corpus.template, messages)
    text = template.render(corpus.template, messages, **chat.names(tokenizer))
    assert corpus.train.ask(one) == (chat.encode_chat(tokenizer, text), None)
