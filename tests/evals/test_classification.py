"""Accuracy, its interval and the mistakes, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.held_out import Splits
from llmjax.data.label_corpus import LabelledRows
from llmjax.data.labelled import Labelled
from llmjax.data.tokenizer import byte_tokenizer
from llmjax.evals import classification

TEXTS = LabelledRows(
    [Labelled(text, "xy"["b" in text]) for text in ("ab", "aa", "ba", "aa", "bb")],
    ["x", "y"], byte_tokenizer(), 2,
)  # fmt: skip
SHARES = np.array([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4], [0.95, 0.05]])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_predict_keeps_the_order(batch_size):
    def logits_fn(params, batch):
        first_B = batch["tokens"][:, 0] - 97.0
        return jnp.stack([jnp.zeros_like(first_B), params * first_B], axis=1)

    shares = classification.predict(
        logits_fn, jnp.log(3.0), TEXTS, batch_size=batch_size
    )
    first_is_b = np.array([0, 0, 1, 0, 1])
    np.testing.assert_allclose(shares[:, 1], np.where(first_is_b, 0.75, 0.5), 1e-6)
    np.testing.assert_allclose(shares.sum(1), 1, 1e-6)


def test_score():
    score = classification.score(SHARES, TEXTS)
    # Right are the first and the fourth: 2 of 5; the interval is Wilson's.
    assert score["accuracy"] == pytest.approx(0.4)
    assert score["low"] == pytest.approx(0.1176, abs=1e-4)
    assert score["high"] == pytest.approx(0.7693, abs=1e-4)


def test_baselines():
    train = [Labelled(f"{word} {i}", word) for word in ("up", "down") for i in range(9)]
    train += [Labelled("down", "down")]
    test = [Labelled("up now", "up"), Labelled("down now", "down")]
    scores = classification.baselines(Splits(train, test, test))
    assert scores["majority class"]["accuracy"] == 0.5
    assert scores["bag of words"]["accuracy"] == 1
    assert scores["bag of words"]["high"] == 1
    assert scores["bag of words"]["low"] == pytest.approx(0.3424, abs=1e-4)


def test_mistakes_are_those_of_the_last_model_the_surest_first():
    shares = {"one": np.full((5, 2), 0.5), "two": SHARES}
    rows = classification.mistakes(shares, TEXTS)
    assert rows == [
        {"text": "bb", "label": "y", "one": "x (50%)", "two": "x (95%)"},
        {"text": "aa", "label": "x", "one": "x (50%)", "two": "y (80%)"},
        {"text": "ba", "label": "y", "one": "x (50%)", "two": "x (70%)"},
    ]
    assert classification.mistakes(shares, TEXTS, num=1) == rows[:1]
