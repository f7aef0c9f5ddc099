"""What is drawn is what is learned from: tokens, masks, ends, log-probabilities."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.generate.sampling import SamplingConfig
from llmjax.models import presets, transformer
from llmjax.rl import logprobs, rollout, rows, scores
from llmjax.rl.rollout import RolloutConfig

CFG = dataclasses.replace(presets.get("tiny"), vocab_size=32)
MODEL = transformer.make(CFG)
STOPS = (3, 5)
PROMPTS = [[7, 8, 9], [1], [4, 6, 2, 8, 8]]
SHAPE = RolloutConfig(num_prompts=3, num_samples=16, max_new_tokens=6)


@pytest.fixture(name="params", scope="module")
def _params():
    made = MODEL.init(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf * 3, made)  # far from even


def draw(params, temperature=0.7, iteration=0, **changes):
    sampling = SamplingConfig(temperature=temperature, seed=5)
    return rollout.draw(
        MODEL, params, PROMPTS, dataclasses.replace(SHAPE, **changes),
        sampling=sampling, iteration=iteration, num_tokens=12, context=CFG.context,
        stop_ids=STOPS,
    )  # fmt: skip


def test_rows_are_prompts_with_answers_up_to_their_ends(params):
    batch, answers = draw(params)
    assert answers.ended_B.any() and not answers.ended_B.all()
    for row, (ids, ended) in enumerate(zip(*answers, strict=True)):
        prompt, real = PROMPTS[row // 16], batch["segment_ids"][row] > 0
        whole = [*batch["tokens"][row][real], batch["targets"][row][real][-1]]
        assert whole[: len(prompt)] == prompt
        said = batch["targets"][row][batch["weights"][row] > 0].tolist()
        assert whole[len(prompt) :] == said
        assert not set(ids) & set(STOPS)
        assert said[:-1] == ids and said[-1] in STOPS if ended else said == ids
        assert ended or len(said) == SHAPE.max_new_tokens


def test_both_passes_agree_on_what_each_token_was_drawn_with(params):
    batch, _ = draw(params, temperature=0.7)
    said = logprobs.of(MODEL, params, batch, temperature=0.7)
    mask = batch["weights"] > 0
    np.testing.assert_allclose(
        said.log_prob_BT[mask], batch["sampled"][mask], atol=2e-5
    )
    other = logprobs.of(MODEL, params, batch, temperature=1.0)
    assert np.abs(other.log_prob_BT - batch["sampled"])[mask].max() > 0.1


def test_logits_at_the_answers_alone_change_nothing(params):
    """Neither what is made of them nor gradients; elsewhere it is 0."""
    batch, answers = draw(params)
    assert len({len(ids) for ids in answers.ids}) > 2  # and prompts of three lengths
    others = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    mask_BT = batch["weights"]

    def total(params, num_tokens):
        said = logprobs.of(MODEL, params, batch, temperature=0.7, num_tokens=num_tokens)
        two = logprobs.compare(MODEL, params, others, batch, num_tokens=num_tokens)
        found = (said, two)
        sums = [(leaf * mask_BT).sum() for leaf in jax.tree.leaves(found)]
        return sum(place * one for place, one in enumerate(sums, 1)), found

    gradient = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    (want, all_), (found, some) = gradient(params, None), gradient(params, 6)
    for one, other in zip(*map(jax.tree.leaves, (all_, some)), strict=True):
        np.testing.assert_allclose(one * mask_BT, other * mask_BT, atol=1e-5)
        assert one[:16, 0].all() and not other[:16, 0].any()  # of a prompt of three
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), want, found)


def test_a_row_is_the_same_alone_and_wherever_it_lies(params):
    batch, _ = draw(params)
    together = logprobs.of(MODEL, params, batch).log_prob_BT
    for row in (0, 20, 47):
        length = int(batch["segment_ids"][row].sum())
        alone = {name: rows[row : row + 1, :length] for name, rows in batch.items()}
        found = logprobs.of(MODEL, params, alone).log_prob_BT
        np.testing.assert_allclose(found[0], together[row, :length], atol=2e-5)


def test_answers_depend_on_iteration_and_place_only(params):
    first, again, later = draw(params), draw(params), draw(params, iteration=1)
    np.testing.assert_array_equal(first[0]["tokens"], again[0]["tokens"])
    assert first[1].ids != later[1].ids
    assert len({tuple(ids) for ids in first[1].ids[:16]}) > 8


def test_frequencies_are_the_policys(params):
    """A first token's counts over many draws, against its probabilities."""
    batch, _ = draw(params, temperature=0.7, num_samples=1000, max_new_tokens=1)
    logits = MODEL.readout(params, MODEL.apply(
        params, {"tokens": jnp.array([PROMPTS[0]])}).hidden_BTD)[0, -1]  # fmt: skip
    shares = np.asarray(jax.nn.softmax(logits / 0.7))
    counts = np.bincount(batch["targets"][:1000, 2], minlength=CFG.vocab_size)
    spread = np.sqrt(1000 * shares * (1 - shares)) + 1e-9
    assert (np.abs(counts - 1000 * shares) < 4.5 * spread + 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0 draws nothing"),
        ({"top_p": 0.9}, "top_p=0.9: answers would be drawn from another"),
        ({"top_k": 5}, "top_k=5"),
        ({"min_p": 0.1}, "min_p=0.1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
    ],
)
def test_only_the_temperature_may_be_chosen(change, message):
    with pytest.raises(ValueError, match=message):
        rollout.check_sampling(SamplingConfig(**{"temperature": 1.0} | change))


def test_a_row_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="a prompt of 3 tokens and an answer of 4"):
        rows.make_batch([[1, 2, 3]], [[4, 5, 6, 7]], 5)
    with pytest.raises(ValueError, match="max_new_tokens=128 leaves no room"):
        RolloutConfig(max_new_tokens=128).room_tokens(CFG)


def raising(prompts, answers):
    raise KeyError("colour")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raising, "raising raised KeyError: 'colour'"),
        (lambda p, a: [1.0], r"shape \(1,\) for 2 answers"),
        (lambda p, a: np.ones((2, 1)), r"shape \(2, 1\) for 2 answers"),
        (lambda p, a: 1.0, r"shape \(\) for 2 answers"),
        (lambda p, a: [1.0, float("nan")], "gave nan for answer 1: 'b'"),
        (lambda p, a: [float("inf"), 0.0], "gave inf for answer 0"),
        (lambda p, a: ["good", "bad"], "gave <U4 where numbers are needed"),
        (lambda p, a: [None, 1.0], "gave object where numbers"),
        (lambda p, a: [[1.0], [1.0, 2.0]], "gave a ragged list"),
    ],
)
def test_bad_rewards_are_named(reward, message):
    with pytest.raises(scores.RewardError, match=message):
        scores.call(reward, ["p", "p"], ["a", "b"])


@pytest.mark.parametrize(
    "good", [[1, 0], np.array([True, False]), jnp.array([1.0, 0.0], jnp.bfloat16)]
)
def test_any_numbers_become_float32(good):
    found = scores.call(lambda prompts, answers: good, ["p", "p"], ["a", "b"])
    assert found.dtype == np.float32 and found.tolist() == [1, 0]
    half = scores.call(lambda prompts, answers: [0.5, 0.25], ["p", "p"], ["a", "b"])
    assert half.tolist() == [0.5, 0.25]


def test_a_reward_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "own_reward_of_test.py").write_text(
        "def one(p, a): return [1] * len(a)"
    )
    monkeypatch.chdir(tmp_path)
    assert scores.load("own_reward_of_test:one")([], ["x"]) == [1]
    for spec, message in (
        ("own_reward_of_test:two", "no attribute 'two'"),
        ("no_such_module:f", "No module named"),
    ):
        with pytest.raises(ValueError, match=message):
            scores.load(spec)
    with pytest.raises(FileNotFoundError):
        scores.load(str(tmp_path / "nothing"))
