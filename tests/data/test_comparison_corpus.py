"""From files to rows of answers: what is learned, held out, cut and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from llmjax.config import ModelConfig
from llmjax.data import chat, template
from llmjax.data.batches import Batches, eval_batches
from llmjax.data.comparison_corpus import ComparisonConfig, prepare
from llmjax.data.comparison_rows import Scribe
from llmjax.data.tokenizer import Tokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "sft"
DECODER = ModelConfig(vocab_size=300, context=64)
ENCODER = ModelConfig(vocab_size=30, context=12, structure="encoder")


@pytest.fixture(name="tokenizer", scope="module")
def _tokenizer():
    return load_tokenizer(GOLDEN)


@pytest.fixture(name="make")
def _make(tmp_path, tokenizer):
    """make(records, ...) -> the corpus of these comparisons."""

    def make(records, model=DECODER, own=None, tokenizer=tokenizer, **fields):
        lines = [json.dumps(record) for record in records]
        (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
        cfg = ComparisonConfig(source=str(tmp_path / "a.jsonl"), **fields)
        return prepare(cfg, tokenizer, model, own)

    return make


PAIRS = [
    {"prompt": f"Q {n}?", "chosen": f"Yes {n}.", "rejected": "No."} for n in range(30)
]
RANKING = {"prompt": "Which?", "answers": ["a", "b", "c"], "ranks": [3, 1, 1]}


def texts(batch, tokenizer):
    """{row: the text of each answer}, up to the last token that counts."""
    return [
        [
            tokenizer.decode(ids[real > 0].tolist())
            for ids, real, rank in zip(*parts, strict=True)
            if rank
        ]
        for parts in zip(
            batch["tokens_BAT"], batch["segments_BAT"], batch["rank_BA"], strict=True
        )
    ]


def test_rows_say_what_the_files_say(make, tokenizer):
    corpus = make([*PAIRS, RANKING], validation_fraction=0.2)
    assert corpus.form == chat.named("chatml")
    rows = corpus.tally.rows()
    assert [row["comparisons"] for row in rows] == ["learned", "held out"]
    assert sum(row["number"] for row in rows) == 31 and rows[1]["number"] > 1
    assert (corpus.train.num_answers, corpus.train.num_tokens % 8) == (3, 0)
    found = []
    for side in (corpus.train, corpus.validation):
        batch = side.rows(np.arange(len(side)))
        for one, ranks in zip(texts(batch, tokenizer), batch["rank_BA"], strict=True):
            found.append((one, ranks[ranks > 0].tolist()))
    frame = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"
    expected = [
        ([frame.format(p["prompt"], p[k]) for k in ("chosen", "rejected")], [1, 2])
        for p in PAIRS
    ]
    expected.append(([frame.format("Which?", a) for a in "abc"], [2, 1, 1]))
    assert sorted(found) == sorted(expected)


def test_a_prompt_is_on_one_side_only(make):
    records = [p | {"prompt": f"Q {n % 6}?"} for n, p in enumerate(PAIRS)]
    corpus = make(records, validation_fraction=0.4)
    sides = [
        {example.comparison.key for example in side.examples}
        for side in (corpus.train, corpus.validation)
    ]
    assert all(sides) and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 6
    # At least one prompt is held out; and never all.
    assert len(make(PAIRS, validation_fraction=0).validation) == 1
    with pytest.raises(ValueError, match="all 30 comparisons are held out"):
        make(PAIRS, validation_fraction=1)


def test_others_may_be_held_out(make, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(RANKING) + "\n")
    corpus = make(PAIRS, held_out=str(other), validation_fraction=0.5)
    assert (len(corpus.train), len(corpus.validation)) == (30, 1)
    assert corpus.train.num_answers == corpus.validation.num_answers == 3


def test_long_answers_are_cut_and_counted(make):
    long = {"prompt": "Q?", "chosen": "yes " * 40, "rejected": "no"}
    corpus = make([*PAIRS, long], context=40)
    assert corpus.tally.count("cut off") == 1 and corpus.train.num_tokens == 40
    [cut] = [
        answers[0]
        for side in (corpus.train, corpus.validation)
        for comparison, answers in side.examples
        if comparison.prompt[0]["content"] == "Q?"
    ]
    assert len(cut.ids) == 40 and cut.num_tokens == 40 - cut.num_prompt
    with pytest.raises(ValueError, match=r":31: this and others, 1 of 31 comp.*40 tok"):
        make([*PAIRS, long], context=40, max_cut=0.01)


BAD = {
    "prompt": ({"prompt": "why " * 60}, "prompt longer than the context: 1"),
    "same once cut": (
        {"chosen": "ab " * 60 + "x", "rejected": "ab " * 60 + "y"},
        "identical answers: the same in 40 tokens",
    ),
    "template": ({"prompt": "bad"}, "template fails: the chat template refuses: no!"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_row_cannot_hold_is_refused(name, make, tmp_path):
    fields, message = BAD[name]
    (tmp_path / "own.jinja").write_text(
        "{% if messages[0].content == 'bad' %}{{ raise_exception('no!') }}{% endif %}"
        + chat.named("chatml")
    )
    more = dict(context=40, template=str(tmp_path / "own.jinja"))
    with pytest.raises(ValueError) as caught:
        make([*PAIRS, PAIRS[0] | fields], **more)
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl:31: {message}")
    corpus = make([*PAIRS, PAIRS[0] | fields], on_bad="skip", **more)
    assert corpus.tally.count("refused") == 1
    assert len(corpus.train) + len(corpus.validation) == 30


def test_batches_are_whole_examples(make):
    rows = make([*PAIRS, RANKING]).train
    batches = Batches(rows, 4, seed=1)
    batch = batches.batch(3)
    assert batch["tokens_BAT"].shape == (4, 3, rows.num_tokens)
    assert batch["rank_BA"].shape == (4, 3) and batch["margin_B"].shape == (4,)
    assert (batch["segments_BAT"][..., 0] == 1).all()
    seen = np.concatenate([batches.batch(step)["rank_BA"] for step in range(20)])
    assert (seen.sum(1) > 3).sum() == (seen[:, 2] > 0).sum() > 0
    other = make([*PAIRS, RANKING | {"ranks": [1, 2, 3]}]).train
    assert other.fingerprint != rows.fingerprint
    # The last batch is filled with rows that compare nothing.
    *_, last = eval_batches(rows, 8)
    assert (last["rank_BA"].max(1) > 0).sum() == len(rows) % 8


def test_the_end_of_an_answer_is_where_generation_stops(tokenizer):
    """What a policy writes, with its stop token, is what is scored, to the token."""
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello, you."},
    ]
    plain = (  # a template that does not mark what is generated
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    for form in (
        chat.named("chatml"),
        plain,
        chat.named("llama3"),
        chat.named("plain"),
    ):
        [answer] = Scribe(tokenizer, form).encode([talk])
        prompt = chat.prompt_ids(tokenizer, form, talk[:1])
        assert answer.ids[: answer.num_prompt] == prompt
        assert answer.ids[-1] in chat.stop_ids(tokenizer, form)
        body = answer.ids[len(prompt) : -1]
        assert tokenizer.decode(body) == "Hello, you."


def test_an_encoder_reads_texts_in_its_frame(make):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    vocab = {word: number for number, word in enumerate(words)}
    core = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    records = [
        {"prompt": f"a {letter}", "chosen": "b c", "rejected": "d " * 20}
        for letter in "bcdefgh"
    ]
    corpus = make(records, ENCODER, tokenizer=Tokenizer(core), max_cut=1.0)
    assert corpus.form is None
    for _, (chosen, rejected) in corpus.train.examples:
        prompt = chosen.ids[:3]
        assert chosen.ids == [2, 4, prompt[2], 5, 6, 3] and chosen.num_prompt == 3
        assert rejected.ids == [*prompt, *[7] * 8, 3]  # cut, within the frame


def test_templates_are_run_in_process_for_scoring(tokenizer):
    """`Scribe` without a renderer writes what `template.Renderer` does."""
    talk = [*[{"role": "user", "content": "x"}], {"role": "assistant", "content": "y"}]
    form = chat.named("chatml")
    with template.Renderer(form, **chat.names(tokenizer)) as renderer:
        outside = Scribe(tokenizer, form, renderer.write).encode([talk])
    assert outside == Scribe(tokenizer, form).encode([talk])
