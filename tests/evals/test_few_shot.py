"""Few shots: what a prompt holds, and whose label counts as said."""

import collections
from types import SimpleNamespace

import numpy as np
import pytest

from llmjax.data.labelled import Labelled
from llmjax.evals import few_shot

TEMPLATE = "Review: {text}\nSentiment: {label}"
TRAIN = [
    Labelled(text=f"{name} text {n}", label=name)
    for name in ("bad", "good")
    for n in range(20)
]
TEST = [Labelled(text=f"asked {n}", label=("bad", "good")[n % 2]) for n in range(19)]


def test_each_prompt_has_shots_of_its_own_and_as_many_of_each_label():
    found = few_shot.prompts(TRAIN, TEST, 4, TEMPLATE)
    orders, shots_seen = set(), set()
    for prompt, example in zip(found, TEST, strict=True):
        lines = prompt.split("\n")
        assert lines[-2:] == [f"Review: {example.text}", "Sentiment:"]
        texts, labels = lines[0:-2:2], lines[1:-2:2]
        said = [label.removeprefix("Sentiment: ") for label in labels]
        assert sorted(said) == ["bad", "bad", "good", "good"]
        for text, label in zip(texts, said, strict=True):
            assert text.startswith(f"Review: {label} text")
        orders.add(tuple(said))
        shots_seen.update(texts)
    assert len(orders) > 3 and len(shots_seen) > 20
    assert few_shot.prompts(TRAIN, TEST, 0, TEMPLATE)[0].startswith("Review: asked 0")


def test_shuffled_labels_tell_nothing_of_the_texts():
    found = few_shot.prompts(TRAIN, TEST, 16, TEMPLATE, is_shuffled=True)
    agree = collections.Counter()
    for prompt in found:
        lines = prompt.split("\n")[:-2]
        for text, label in zip(lines[0::2], lines[1::2], strict=True):
            agree[text.split()[1] == label.split()[1]] += 1
    num = sum(agree.values())
    assert num == 16 * len(TEST) and abs(agree[True] / num - 0.5) < 0.1


def test_the_likeliest_label_counts_wherever_the_prompt_ends(monkeypatch):
    """Logits that favour a label by the prompt's last token, whatever is padding."""
    words = {" bad": [7, 1], " good": [9, 1]}

    def encode(text):
        return words.get(text) or [int(text[-1]) + 1] * len(text)

    def apply(params, batch):
        hidden = np.zeros((*batch["tokens"].shape, 16), np.float32)
        even = batch["tokens"] % 2 == 0
        hidden[..., 7], hidden[..., 9], hidden[..., 3] = ~even, even, 99
        hidden[batch["segment_ids"] == 0] = np.nan  # padding is never read
        return SimpleNamespace(hidden_BTD=hidden)

    def logits_at(model, params, batch, last_B):
        return apply(params, batch).hidden_BTD[np.arange(len(last_B)), last_B]

    monkeypatch.setattr(few_shot, "_logits_at", logits_at)
    tokenizer = SimpleNamespace(encode=encode, bos_id=None)
    asked = [f"{'x' * n} {n % 10}" for n in range(len(TEST))]
    found = few_shot.accuracy(None, None, tokenizer, asked, TEST, context=64)
    # The last digit is even: its token is odd, and "bad" is said; which is right.
    assert found == {"accuracy": 1.0, "chosen": {"bad": 10, "good": 9}}
    with pytest.raises(ValueError, match="exceeds the context of 8"):
        few_shot.accuracy(None, None, tokenizer, asked, TEST, context=8)
    words[" good"] = [7, 2]
    with pytest.raises(ValueError, match="begin with the same token"):
        few_shot.accuracy(None, None, tokenizer, asked, TEST, context=64)
