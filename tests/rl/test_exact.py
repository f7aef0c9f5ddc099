"""The language with a known best policy: what is known, by other means."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from llmjax.models import presets, transformer
from llmjax.rl import exact, exact_page, health

SMALL = exact.LanguageConfig(num_symbols=4, length=3, num_good=2)


@pytest.fixture(name="known", scope="module")
def _known():
    """(log-probabilities of the chain, standardised gold) of all 64 answers."""
    ids, table = exact.all_answers(SMALL), exact.chain(SMALL)
    log_probs = table[-1][ids[:, 0]] + table[ids[:, :-1], ids[:, 1:]].sum(axis=1)
    return log_probs, exact.standardised(exact.gold(SMALL, ids), log_probs)


def test_answers_and_their_rewards():
    ids = exact.all_answers(SMALL)
    assert ids.tolist() == [list(one) for one in itertools.product(range(4), repeat=3)]
    gold = exact.gold(SMALL, np.array([[0, 1, 2], [0, 0, 1], [3, 3, 3], [0, 2, 0]]))
    assert gold.tolist() == [2.0, 0.5, -3.0, 1.0]


def test_the_chain_is_a_distribution_and_draws_are_from_it(known):
    log_probs, reward = known
    shares = np.exp(log_probs)
    np.testing.assert_allclose(shares.sum(), 1)
    np.testing.assert_allclose(
        [shares @ reward, shares @ reward**2], [0, 1], atol=1e-12
    )
    drawn = exact.draw(SMALL, 20_000, np.random.default_rng(0))
    counts = np.bincount(drawn @ [16, 4, 1], minlength=64)
    assert np.abs(counts / 20_000 - shares).max() < 0.012


@pytest.mark.parametrize("beta", [0.2, 0.5, 2.0])
def test_no_policy_is_better_than_the_optimum(known, beta):
    reference, reward = known
    best = exact.optimum(reference, reward, beta)
    point = exact.measure(best, reference, reward)
    shares = np.exp(reference + reward / beta)
    np.testing.assert_allclose(point.objective(beta), beta * np.log(shares.sum()))
    np.testing.assert_allclose(
        exact.most_reward(reference, reward, point.exact_kl),
        point.exact_reward,
        atol=1e-6,
    )
    rng = np.random.default_rng(1)
    for scale in (0.01, 0.3):
        other = best + scale * rng.normal(size=len(best))
        other -= np.log(np.exp(other).sum())
        found = exact.measure(other, reference, reward)
        assert found.objective(beta) < point.objective(beta)
        most = exact.most_reward(reference, reward, found.exact_kl)
        assert found.exact_reward < most


@pytest.mark.parametrize("num", [1, 2, 5])
def test_best_of_n_is_what_drawing_gives(known, num):
    reference, reward = known
    shares = np.exp(reference)
    proxy = np.round(reward + np.arange(64) % 7, 1)  # with ties
    found = np.exp(exact.best_of(num, reference, proxy))
    np.testing.assert_allclose(found.sum(), 1)
    rng = np.random.default_rng(0)
    drawn = rng.choice(64, size=(200_000, num), p=shares)
    best = drawn[np.arange(len(drawn)), proxy[drawn].argmax(axis=1)]
    # The first of equals is the likelier among them as they are: draws have no order.
    counts = np.bincount(best, minlength=64) / len(drawn)
    assert np.abs(counts - found).max() < 5e-3


def test_the_kl_of_best_of_n_is_known():
    even = np.full(4096, -np.log(4096.0))
    proxy = np.random.default_rng(0).normal(size=4096)
    for num in (4, 64):
        point = exact.measure(exact.best_of(num, even, proxy), even, proxy)
        want = np.log(num) - (num - 1) / num
        np.testing.assert_allclose(point.exact_kl, want, atol=0.01)
        # With ties it is less: here of a coin that is thrown until it shows heads.
        tied = exact.measure(exact.best_of(num, even, proxy > 0), even, proxy)
        share = (proxy <= 0).mean()
        low = share**num
        less = low * np.log(low / share) + (1 - low) * np.log((1 - low) / (1 - share))
        np.testing.assert_allclose(tied.exact_kl, less, atol=1e-9)
        assert less < want - 0.1


def test_a_model_is_listed_as_it_computes():
    cfg = dataclasses.replace(presets.get("tiny"), vocab_size=4)
    model = transformer.make(cfg)
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0)))
    found = exact.of_model(model, params, SMALL, 0, temperature=0.7)
    np.testing.assert_allclose(np.exp(found).sum(), 1)
    for index in (0, 17, 63):
        ids = exact.all_answers(SMALL)[index]
        tokens = np.array([[0, *ids[:-1]]])
        hidden = model.apply(params, {"tokens": tokens}).hidden_BTD
        logits = np.asarray(model.readout(params, hidden), np.float64)[0] / 0.7
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(found[index], logits[range(3), ids].sum(), atol=1e-5)


def test_the_page_says_where_policies_stand(known, tmp_path, capsys):
    reference, reward = known
    best = exact.measure(exact.optimum(reference, reward, 0.5), reference, reward)
    rows = exact_page.write(
        tmp_path, reference, reward, 0.5, {"ppo": [exact.Point(0.0, 0.0), best]}
    )
    assert rows[1]["share of best J"] == pytest.approx(1)
    assert (tmp_path / "report.html").is_file() and "ppo" in capsys.readouterr().out


def test_hints_are_given_for_what_is_ill():
    well = {
        "kl": 1.0, "entropy": 2.0, "clip_fraction": 0.1, "reward_deviation": 1.0,
        "explained_variance": 0.5, "ratio_high": 1.5, "endless": 0.1, "length": 10.0,
        "log_prob_gap": 1e-6,
    }  # fmt: skip
    assert health.hints(well, [well]) == []
    for name, value in {
        "kl": 40.0, "entropy": 0.1, "clip_fraction": 0.6, "reward_deviation": 0.0,
        "explained_variance": -1.0, "ratio_high": 50.0, "endless": 0.9,
        "length": 40.0, "log_prob_gap": 0.5,
    }.items():  # fmt: skip
        [hint] = health.hints(well | {name: value}, [well])
        assert hint.startswith(name)
