"""What is asked of models whose knowledge is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import ModelConfig
from llmjax.data import arithmetic
from llmjax.data.arithmetic import Kind
from llmjax.data.tokenizer import byte_tokenizer
from llmjax.evals import arithmetic as asking
from llmjax.evals.arithmetic import Answers, AskConfig, Question
from llmjax.models import transformer
from llmjax.types import Model, Output

TOKENIZER = byte_tokenizer()
KIND = Kind("+", "reversed", 3)


def knows(pairs, sure=50.0, wrong=()):
    """A model that tells the next byte of these texts by heart, in which the problems
    numbered `wrong` have another last digit."""
    texts = []
    for number, (prompt, answer) in enumerate(pairs):
        if number in wrong:
            answer = f"{answer[:-2]}{(int(answer[-2]) + 1) % 10}\n"
        texts.append([TOKENIZER.eos_id, *TOKENIZER.encode(prompt + answer)])
    longest = max(map(len, texts))
    table = jnp.array([ids + [0] * (longest + 40 - len(ids)) for ids in texts])

    def apply(params, batch, **_):
        tokens_BT = batch["tokens"]
        T = tokens_BT.shape[1]
        shots = len(pairs[0][0])  # the question is told by its first bytes
        same = table[None, :, 1:shots] == tokens_BT[:, None, 1:shots]
        row_B = same.all(-1).argmax(1)
        return Output(sure * jax.nn.one_hot(table[row_B, 1 : T + 1], 257))

    return Model(None, apply, lambda params, hidden: hidden, None)


def test_one_who_knows_is_right():
    pairs = arithmetic.prompts(KIND, 1, 150)
    found = asking.ask(knows(pairs), {}, TOKENIZER, pairs)
    assert found.exact.all() and len(found.exact) == 150
    np.testing.assert_allclose(found.nats, 0, atol=1e-6)
    assert (found.digits == 1).all()


def test_one_wrong_digit_is_a_wrong_answer():
    """And costs what a digit costs that is as sure as e^sure to 1 against 256."""
    pairs = arithmetic.prompts(KIND, 1, 30)
    found = asking.ask(knows(pairs, sure=8.0, wrong=(3, 7)), {}, TOKENIZER, pairs)
    assert set(np.flatnonzero(~found.exact)) == {3, 7}
    lengths = np.array([len(answer) - 1 for _, answer in pairs])
    right = lengths - np.isin(np.arange(30), (3, 7))
    np.testing.assert_allclose(found.digits, right / lengths)
    per_token = -np.log1p(256 * np.exp(-8.0))
    expected = per_token * (lengths + 1) - 8.0 * (right < lengths)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)


def test_one_who_knows_nothing():
    pairs = arithmetic.prompts(KIND, 2, 20)
    model = Model(
        None, lambda p, b, **_: Output(jnp.zeros((*b["tokens"].shape, 257))),
        lambda params, hidden: hidden, None,
    )  # fmt: skip
    found = asking.ask(model, {}, TOKENIZER, pairs)
    lengths = np.array([len(answer) for _, answer in pairs])
    np.testing.assert_allclose(found.nats, -np.log(257) * lengths, rtol=1e-5)
    assert not found.exact.any() and not found.digits.any()


def test_exact_is_what_greedy_generation_gets_right():
    """With random weights that know of digits and line ends only, what is written
    itself is the right answer, and with another last digit it is not."""
    cfg = ModelConfig(vocab_size=257, num_layers=2, width=32, num_heads=2,
                      num_kv_heads=2, head_width=16, ff_width=64)  # fmt: skip
    whole = transformer.make(cfg)
    known = jnp.array(TOKENIZER.encode("0123456789\n"))

    def readout(params, hidden):
        logits = whole.readout(params, hidden)
        return jnp.full_like(logits, -1e9).at[..., known].set(logits[..., known])

    model = whole._replace(readout=readout)
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0)))
    prompts = [prompt for prompt, _ in arithmetic.prompts(KIND, 2, 24)]
    written = asking.write(model, params, TOKENIZER, prompts)
    assert len(set(written)) > 8 and max(map(len, written)) == 18
    pairs, is_right = [], []
    for prompt, text in zip(prompts, written, strict=True):
        end = "\n" * (0 < len(text) < 18)  # else it was still writing
        pairs += [
            (prompt, text + end),
            (prompt, f"{text[:-1]}{9 - int(text[-1])}{end}"),
        ]
        is_right += [True, False]
    found = asking.ask(model, params, TOKENIZER, pairs)
    assert found.exact.tolist() == is_right


def test_questions_and_their_length():
    found = asking.questions(4, (8, 0, 2))
    assert len([q for q in found if q.shots == 8]) == 20
    fewer = [q for q in found if q.shots < 8]
    assert {q.kind.num_digits for q in fewer} == {3} and len(fewer) == 8
    longest = [
        1 + len(prompt + answer)
        for kind in arithmetic.kinds(5)
        for prompt, answer in arithmetic.prompts(kind, 8, 300)
    ]
    asking.check_context(4, (0, 8), 172)
    assert 165 < max(longest) <= 172
    with pytest.raises(ValueError, match="exceed the context of 100 tokens"):
        asking.check_context(4, (0, 8), 100)


def test_summary():
    answers = [
        Answers(np.array([1, 1, 1, 0], bool), np.array([-1.0, -2, -3, -4]), np.ones(4)),
        Answers(np.array([1, 1, 1, 1], bool), np.array([-1.0, -2, -3, -6]), np.ones(4)),
    ]
    found = asking.summarise(answers)
    assert found["exact"]["mean"] == 7 / 8 and found["exact"]["seeds"] == [0.75, 1.0]
    # Resampled, 7 in 8 reaches from 0.5 to 1; Wilson's, of any table, to 0.978 only.
    assert found["exact"]["low"] == 0.5 and found["exact"]["high"] == 1
    same = [answers[1], answers[1]]
    # Where all are right nothing differs from draw to draw: Wilson's 8 in 8.
    assert asking.summarise(same)["exact"]["low"] == pytest.approx(0.6756, abs=1e-4)
    # One model that can, and one that cannot, say that another may do either.
    cannot = answers[1]._replace(exact=np.zeros(4, bool))
    found = asking.summarise([answers[1], cannot])["exact"]
    assert (found["mean"], found["low"], found["high"]) == (0.5, 0, 1)
    found = asking.summarise(answers)
    assert found["nats"]["mean"] == -2.75
    assert found["nats"]["low"] < -2.75 < found["nats"]["high"]
    assert found["digits"]["low"] == found["digits"]["high"] == 1


def test_intervals_cover_models_and_problems():
    """Of a normal draw per model plus one per problem, the variance of the mean of
    8 x 50 is that of both: 0.3^2 / 8 + 1 / 50. A bootstrap of n sees (n - 1) / n."""
    rng, widths = np.random.default_rng(0), []
    for number in range(30):
        values = rng.normal(size=(8, 1)) * 0.3 + rng.normal(size=(1, 50))
        some = [Answers(np.ones(50, bool), row, np.ones(50)) for row in values]
        nats = asking.summarise(some, seed=number)["nats"]
        widths.append((nats["high"] - nats["low"]) ** 2)
    expected = (2 * 1.96) ** 2 * (0.3**2 / 8 * 7 / 8 + 1 / 50 * 49 / 50)
    assert np.mean(widths) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("values", "share"),
    [([0, 0, 1], 1.0), ([0, 0.5, 1], 0.5), ([-4, -3, -2, -1], 1 / 3), ([1, 1], None)],
)
def test_steepest(values, share):
    assert asking.steepest(values) == (share and pytest.approx(share))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="num_problems must be positive, got 0"):
        AskConfig(num_problems=0)
    with pytest.raises(ValueError, match="shots must be numbers from 0 on"):
        AskConfig(shots=())
    assert asking.questions(1, (2,))[0] == Question(Kind("+", "plain", 1), 2)
