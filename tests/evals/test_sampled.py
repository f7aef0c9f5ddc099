"""Answers drawn from a model, and comparisons of them by a scorer that may err."""

from pathlib import Path

import numpy as np

from llmjax.data import chat, comparisons
from llmjax.evals.sampled import compare, different, draw_answers
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.text import generate
from llmjax.load import load
from llmjax.models import transformer

GOLDEN = Path(__file__).parents[1] / "golden" / "sft"


def ask(text):
    return [{"role": "user", "content": text}]


def test_answers_are_what_the_model_writes_after_the_prompt():
    cfg, params, tokenizer = load(GOLDEN)
    model, form = transformer.make(cfg), chat.named("chatml")
    prompts = [ask(f"Why {n}?") for n in range(9)]  # more than are drawn at once
    found = list(
        draw_answers(
            model,
            params,
            tokenizer,
            form,
            prompts,
            num_answers=2,
            max_new_tokens=5,
            context=cfg.context,
            sampling=SamplingConfig(temperature=1.0, seed=3),
        )
    )
    assert [prompt for prompt, _ in found] == prompts
    assert all(len(answers) == 2 for _, answers in found)
    assert len({text for _, answers in found for text in answers}) > 9
    [alone] = generate(
        model, params, [chat.prompt_ids(tokenizer, form, prompts[8])],
        max_new_tokens=5, context=cfg.context,
        stop_ids=chat.stop_ids(tokenizer, form),
        sampling=SamplingConfig(temperature=1.0, seed=3 + 16),
    )  # fmt: skip
    assert found[8][1][0] == tokenizer.decode(alone)


def test_comparisons_by_a_gold_scorer(tmp_path):
    answered = [
        (ask("a"), ["xx", "x", " ", "xx", "xxxx"]),
        (ask("b"), ["x", "x"]),  # nothing to compare
        (ask("c"), ["x", "y"]),  # nothing is better
        (ask("d"), ["x", "yyy"]),
    ]
    found = list(compare(answered, lambda prompt, text: len(text)))
    assert [one.prompt for one in found] == [ask("a"), ask("d")]
    first = found[0]
    assert list(map(comparisons.text_of, first.answers)) == ["xx", "x", "xxxx"]
    assert (first.ranks, first.gold) == ([2, 3, 1], [2.0, 1.0, 4.0])
    for one in found:
        comparisons.check(one)
    many = [(ask("q"), ["x", "yy"])] * 400
    gold = lambda prompt, text: len(text)  # noqa: E731
    flipped = [one.ranks == [1, 2] for one in compare(many, gold, flips=0.25)]
    assert 0.15 < np.mean(flipped) < 0.35
    assert different(["b", "", "a", "b", " "]) == ["b", "a"]
