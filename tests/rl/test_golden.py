"""Rewards, advantages and losses are TRL's to 1e-6; see tools/golden_rl.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.rl import advantages, kl, losses, preference

GOLDEN = Path(__file__).parents[1] / "golden" / "rl"
GAMMA_LAMBDA = ((1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0))
KL_COEF, CLIP, VALUE_CLIP, BETA, SMOOTHING = 0.15, 0.2, 0.25, 0.3, 0.2
NUM_SAMPLES, BAR = 3, 1e-6


def golden(name):
    """The float64 arrays of a file, and the same in float32 as jax takes them."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        want = dict(file)
    kinds = {np.dtype(np.float64): jnp.float32}
    return want, {
        name: jnp.asarray(array, kinds.get(array.dtype)) for name, array in want.items()
    }


@pytest.fixture(name="ppo", scope="module")
def _ppo():
    return golden("ppo")


@pytest.fixture(name="groups", scope="module")
def _groups():
    return golden("groups")


def close(found, want):
    np.testing.assert_allclose(np.asarray(found), want, atol=BAR, rtol=BAR)


def mean(total):
    return total[0] / total[1]


def test_kl_estimators(ppo):
    want, x = ppo
    pair = x["log_probs"], x["ref_log_probs"]
    close(kl.k1(*pair), want["kl_kl"])
    close(kl.k2(*pair), want["kl_mse"])
    close(kl.full(x["logits"], x["ref_logits"]), want["kl_full"])


def test_rewards_and_whitening(ppo):
    want, x = ppo
    per_token = kl.k1(x["old_log_probs"], x["ref_log_probs"])
    found = advantages.shape_rewards(
        x["scores"], per_token, x["mask"], jnp.float32(KL_COEF)
    )
    close(found * x["mask"], want["rewards"] * want["mask"])
    close(advantages.whiten(x["values"], x["mask"]), want["whitened"])
    found = advantages.whiten(x["values"], x["mask"], shift_mean=False)
    close(found, want["whitened_unshifted"])


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("gamma", "lam"), GAMMA_LAMBDA)
def test_generalised_advantages(ppo, gamma, lam, whiten):
    """TRL whitens padding too, which is then no longer 0 and counts as rewards: so it
    is here when all of a row is called the answer."""
    want, x = ppo
    values, mask = x["values"] * x["mask"], x["mask"]
    rewards, counted = x["rewards"] * mask, mask
    if whiten:
        rewards = advantages.whiten(rewards, mask, shift_mean=False)
        counted = jnp.ones_like(mask)
    found, returns = advantages.gae(rewards, values, counted, gamma=gamma, lam=lam)
    tag = f"{gamma}_{lam}_{whiten}"
    kept = want["mask"]
    close(returns * kept, want[f"returns_{tag}"] * kept)
    close(
        advantages.whiten(found, mask) * kept,
        want[f"advantages_{tag}"] * kept,
    )


def test_clipped_losses_and_their_gradients(ppo):
    want, x = ppo
    mask, advantage = x["mask"], x["advantages_1.0_0.95_False"]
    returns = x["returns_1.0_0.95_False"]

    def policy(log_probs):
        ratio = log_probs - x["old_log_probs"]
        return mean(
            losses.token_mean(losses.clipped_policy(ratio, advantage, CLIP, CLIP), mask)
        )

    def value(vpreds):
        one = losses.clipped_value(vpreds, x["values"] * mask, returns, VALUE_CLIP)
        return mean(losses.token_mean(one, mask))

    found = jax.value_and_grad(policy)(x["log_probs"])
    close(found[0], want["policy_loss"])
    close(found[1], want["policy_grad"])
    found = jax.value_and_grad(value)(x["vpreds"])
    close(found[0], want["value_loss"])
    close(found[1], want["value_grad"])
    assert np.abs(want["policy_grad"][want["mask"] > 0]).min() == 0  # some are clipped


def test_figures_of_an_update(ppo):
    want, x = ppo
    mask, advantage = x["mask"], x["advantages_1.0_0.95_False"]
    figures = losses.ratio_figures(
        x["log_probs"] - x["old_log_probs"], advantage, mask, CLIP, CLIP
    )
    figures |= losses.value_figures(
        x["vpreds"], x["values"], x["returns_1.0_0.95_False"], mask, VALUE_CLIP
    )
    for name in ("clip_fraction", "approx_kl", "value_clip_fraction"):
        close(mean(figures[name]), want[name])
    ratio = np.exp(want["log_probs"] - want["old_log_probs"])[want["mask"] > 0]
    close(mean(figures["ratio_low"]), ratio.min())
    close(mean(figures["ratio_high"]), ratio.max())


def test_adaptive_coefficient(ppo):
    want, _ = ppo
    coef = jnp.float32(KL_COEF)
    for number, wanted in zip(want["kls"], want["coefs"], strict=True):
        coef = kl.adapt(coef, jnp.float32(number), 512)
        close(coef, wanted)


def test_advantages_of_groups(groups):
    want, x = groups
    found = advantages.of_group(x["scores"], NUM_SAMPLES)
    close(found, want["advantages_group"])
    found = advantages.of_group(x["scores"], NUM_SAMPLES, scale=False)
    close(found, want["advantages_none"])
    found = advantages.leave_one_out(x["scores"], NUM_SAMPLES)
    close(found, want["advantages_rloo"])


@pytest.mark.parametrize(
    ("kind", "advantage", "high", "beta", "average"),
    [
        ("grpo", "group", 0.2, 0.04, losses.answer_mean),
        ("dr_grpo", "none", 0.2, 0.0, losses.length_mean(9)),
        ("dapo", "group", 0.28, 0.0, losses.token_mean),
    ],
)
def test_losses_of_groups(groups, kind, advantage, high, beta, average):
    want, x = groups
    per_token = x[f"advantages_{advantage}"][:, None]

    def loss(log_probs):
        one = losses.clipped_policy(
            log_probs - x["old_log_probs"], per_token, 0.2, high
        )
        one = one + beta * kl.k3(log_probs, x["ref_log_probs"])
        return mean(average(one, x["mask"]))

    found, gradient = jax.value_and_grad(loss)(x["log_probs"])
    close(found, want[f"{kind}_loss"])
    close(gradient, want[f"{kind}_grad"])


def test_loss_of_rloo(groups):
    want, x = groups

    def loss(log_probs):
        ratio = ((log_probs - x["old_log_probs"]) * x["mask"]).sum(axis=1)
        return losses.clipped_policy(ratio, x["advantages_rloo"]).mean()

    found, gradient = jax.value_and_grad(loss)(x["log_probs"])
    close(found, want["rloo_loss"])
    close(gradient, want["rloo_grad"])


def test_losses_of_pairs():
    want, x = golden("preference")
    chosen, rejected, ref_chosen, ref_rejected = x["parts"]
    ratios = chosen - ref_chosen, rejected - ref_rejected
    found = preference.sigmoid(*ratios, beta=BETA, smoothing=SMOOTHING)
    close(found, want["sigmoid_0.11"])
    close(preference.sigmoid(*ratios, beta=BETA), want["sigmoid_1"])
    found = preference.robust(*ratios, beta=BETA, smoothing=SMOOTHING)
    close(found, want["robust_0.11"])
    close(found, want["robust_1"])
    found = preference.hinge(*ratios, beta=BETA)
    close(found, want["hinge_0.11"])
    close(found, want["hinge_1"])
    num_chosen, num_rejected = x["lengths"]
    found = preference.ipo(ratios[0] / num_chosen, ratios[1] / num_rejected, beta=BETA)
    np.testing.assert_allclose(found, want["ipo_0.11"], rtol=1e-5)
    np.testing.assert_allclose(found, want["ipo_1"], rtol=1e-5)
    both = want["kto"].reshape(2, -1).sum(axis=0)
    close(preference.kto(*ratios, beta=BETA, level=x["kto_level"]), both)
    close(preference.kto(*ratios, beta=BETA), both)
