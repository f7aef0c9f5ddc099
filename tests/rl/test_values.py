"""What TRL does not have, or does otherwise, against float64 sums spelt out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.rl import advantages, kl, logprobs, losses, preference

BAR = 1e-6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def f32(array):
    return jnp.asarray(array, jnp.float32)


def gae_by_hand(rewards, values, mask, gamma, lam):
    """The definition: a sum over what comes later in the same answer."""
    found = np.zeros_like(rewards)
    for row in range(len(rewards)):
        places = np.flatnonzero(mask[row])
        own = [values[row, place] for place in places] + [0.0]
        for at, place in enumerate(places):
            for later in range(at, len(places)):
                delta = rewards[row, places[later]] + gamma * own[later + 1]
                delta -= own[later]
                found[row, place] += (gamma * lam) ** (later - at) * delta
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1, 0.95), (0.9, 0.5), (1, 1), (0.99, 0)])
def test_advantages_wherever_an_answer_lies(gamma, lam):
    """After a prompt, before padding, with tokens of others in between."""
    rewards, values = draw(2, 4, 10)
    mask = np.array(
        [
            [0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
            [0, 1, 1, 0, 0, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ],
        float,
    )
    want = gae_by_hand(rewards, values, mask, gamma, lam)
    found, returns = advantages.gae(
        f32(rewards), f32(values), f32(mask), gamma=gamma, lam=lam
    )
    np.testing.assert_allclose(found, want, atol=BAR)
    np.testing.assert_allclose(returns, (want + values) * mask, atol=BAR)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_has_either_variance(unbiased, shift_mean):
    values, mask = draw(3, 5), np.array([[1, 1, 0, 0, 0], [0] * 5, [1] * 5], float)
    kept = values[mask > 0]
    want = (values - kept.mean()) / np.sqrt(kept.var(ddof=int(unbiased)) + 1e-8)
    found = advantages.whiten(
        f32(values), f32(mask), shift_mean=shift_mean, unbiased=unbiased
    )
    want = want + (0 if shift_mean else kept.mean())
    np.testing.assert_allclose(found, want, atol=BAR)


def test_the_score_is_at_the_last_token_and_nothing_is_differentiated():
    mask = f32([[0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 1]])
    per_token, score = f32(draw(3, 4)), f32([1, 2, 3])

    def total(per_token):
        found = advantages.shape_rewards(score, per_token, mask, jnp.float32(0.5))
        return found.sum(), found

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(per_token)
    plain = found + 0.5 * per_token * mask
    np.testing.assert_allclose(
        plain, [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 0, 3]], atol=BAR
    )
    assert not gradient.any()


def test_answers_without_an_end_are_penalised():
    score, ended = f32([2.0, 3.0]), jnp.array([True, False])
    found = advantages.penalise_endless(score, ended, 1.0)
    np.testing.assert_array_equal(found, [2.0, 2.0])
    found = advantages.penalise_endless(score, ended, 1.0, replace=True)
    np.testing.assert_array_equal(found, [2.0, -1.0])


def test_only_float32_is_taken():
    half = jnp.ones((2, 3), jnp.bfloat16)
    with pytest.raises(TypeError, match="float32, not bfloat16"):
        advantages.gae(half, half, f32(np.ones((2, 3))))
    with pytest.raises(TypeError, match="float32, not int32"):
        advantages.of_group(jnp.arange(4), 2)


def test_estimators_are_estimates_of_the_full_kl():
    """The mean of k1 and k3 over all tokens, by their probability, is the KL."""
    logits, other = draw(2, 1, 1, 7)
    p, q = (np.log(np.exp(x) / np.exp(x).sum())[0, 0] for x in (logits, other))
    want = np.sum(np.exp(p) * (p - q))
    np.testing.assert_allclose(kl.full(f32(logits), f32(other))[0, 0], want, atol=BAR)
    for estimate in (kl.k1, kl.k3):
        np.testing.assert_allclose(np.sum(np.exp(p) * estimate(p, q)), want, atol=BAR)
    np.testing.assert_allclose(kl.k3(f32(p), f32(q)), np.exp(q - p) - (q - p) - 1,
                               atol=BAR)  # fmt: skip
    np.testing.assert_allclose(kl.k2(p, q), (p - q) ** 2 / 2, atol=BAR)


def test_explained_variance():
    returns, mask = draw(2, 6), np.array([[1] * 6, [1] * 3 + [0] * 3], float)
    values = returns + 0.5 * draw(2, 6, seed=1)
    kept = mask > 0
    want = 1 - (returns - values)[kept].var() / returns[kept].var()
    found = advantages.explained_variance(f32(values), f32(returns), f32(mask))
    np.testing.assert_allclose(found, want, atol=BAR)


def test_clip_higher_lets_probabilities_rise_further():
    log_ratio = f32(np.log([1.25, 1.25, 0.7]))
    found = losses.clipped_policy(log_ratio, f32([1, -1, -1]), 0.2, 0.28)
    np.testing.assert_allclose(found, [-1.25, 1.25, 0.8], atol=BAR)


def test_smoothing_mixes_and_robust_undoes_flips():
    ratios = f32(draw(5)), f32(draw(5, seed=1))
    plain, flipped = preference.sigmoid(*ratios), preference.sigmoid(*ratios[::-1])
    found = preference.sigmoid(*ratios, smoothing=0.3)
    np.testing.assert_allclose(found, 0.7 * plain + 0.3 * flipped, atol=BAR)
    mixed = 0.7 * preference.robust(*ratios, smoothing=0.3)
    mixed += 0.3 * preference.robust(*ratios[::-1], smoothing=0.3)
    np.testing.assert_allclose(mixed, plain, atol=BAR)


def test_the_level_of_kto_is_the_mean_but_never_below_zero():
    def by_hand(chosen, rejected, level):
        right, wrong = (0.1 * (chosen - level), 0.1 * (level - rejected))
        return 2 - 1 / (1 + np.exp(-right)) - 1 / (1 + np.exp(-wrong))

    for chosen, rejected, level in ((-3, -1, 0), (3, -1, 1)):
        found = preference.kto(f32([chosen]), f32([rejected]))
        np.testing.assert_allclose(found, [by_hand(chosen, rejected, level)], atol=BAR)


@pytest.mark.parametrize("num_rows", [2, 300])  # whole, and in parts
def test_log_probs_are_of_the_logits_over_the_temperature(num_rows):
    hidden, table = draw(num_rows, 7, 4), draw(4, 5, seed=1)
    ids = np.random.default_rng(2).integers(5, size=(num_rows, 7))
    logits = hidden @ table / 0.7
    want = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    entropy = -(np.exp(want) * want).sum(axis=-1)
    want = np.take_along_axis(want, ids[..., None], axis=2)[..., 0]
    weight = f32(table)

    def said(weight):
        return logprobs.read(
            lambda hidden: jnp.einsum("btd,dv->btv", hidden, weight),
            f32(hidden), {"targets": jnp.asarray(ids)}, 0.7,
        )  # fmt: skip

    found = said(weight)
    np.testing.assert_allclose(found.log_prob_BT, want, atol=5e-6)
    np.testing.assert_allclose(found.entropy_BT, entropy, atol=5e-6)
    # And the gradient of their sum: sum of hidden x (is_id - p) / temperature.
    gradient = jax.grad(lambda weight: said(weight).log_prob_BT.sum())(weight)
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    pull = (np.eye(5)[ids] - share) / 0.7
    want = np.einsum("btd,btv->dv", hidden, pull)
    np.testing.assert_allclose(gradient, want, atol=2e-4)
