"""Proxies of a known reward: fitted as well as can be, and trusted too far."""

import numpy as np
import pytest

from llmjax.rl import exact, proxy, proxy_page
from llmjax.rl.proxy import Proxy

CFG = exact.LanguageConfig()


@pytest.fixture(name="known", scope="module")
def _known():
    """(log-probabilities of the chain, standardised gold) of all 262,144 answers."""
    ids, table = exact.all_answers(CFG), exact.chain(CFG)
    log_probs = table[-1][ids[:, 0]] + table[ids[:, :-1], ids[:, 1:]].sum(axis=1)
    log_probs -= np.log(np.exp(log_probs).sum())
    return log_probs, exact.standardised(exact.gold(CFG, ids), log_probs)


def test_the_best_policies_are_those_worked_out_elsewhere(known):
    """(beta, KL, gold), computed once without this code."""
    for beta, kl, gold in ((2, 0.11, 0.45), (1, 0.39, 0.83), (0.5, 1.09, 1.32),
                           (0.25, 1.79, 1.58)):  # fmt: skip
        point = exact.measure(exact.optimum(*known, beta), *known)
        np.testing.assert_allclose(point, (kl, gold), atol=0.006)
    np.testing.assert_allclose(known[1].max(), 1.605, atol=1e-3)


def test_features_are_counts():
    ids = np.array([[0, 0, 1, 7, 7, 7]])
    bag = proxy.count(CFG, ids, "bag")
    assert bag.tolist() == [[2, 1, 0, 0, 0, 0, 0, 3]]
    both = proxy.count(CFG, ids, "bigram")[0]
    assert both[:8].tolist() == bag[0].tolist()
    pairs = both[8:].reshape(8, 8)
    assert pairs.sum() == 5 and pairs[7, 7] == 2
    assert pairs[0, 0] == pairs[0, 1] == pairs[1, 7] == 1


def test_the_fit_is_where_the_slope_is_zero():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(300, 5)) + 0.5
    weights = proxy.fit(differences)
    shares = 1 / (1 + np.exp(-differences @ weights))
    slope = differences.T @ (1 - shares) - proxy.RIDGE * weights
    np.testing.assert_allclose(slope, 0, atol=1e-8)


def curves(known, one, num_fits=2):
    reference, gold = known
    rngs = map(np.random.default_rng, range(num_fits))
    fits = [proxy.learn(CFG, one, reference, gold, rng) for rng in rngs]
    best = [proxy_page.optima(reference, fit, gold) for fit in fits]
    return proxy_page.row("", proxy_page.mean(best)), fits[0]


@pytest.mark.slow
def test_a_weak_proxy_is_over_optimised_and_a_strong_one_is_not(known):
    reference, gold = known
    weak, scores = curves(known, Proxy("bag", 500, 0.25))
    assert weak["proxy only rises"] and weak["peak gold"] > 0.5 and weak["fall"] > 0.5
    strong, _ = curves(known, Proxy("bigram", 5000))
    assert strong["proxy only rises"] and strong["fall"] < 0.2
    assert strong["peak gold"] > 1.4
    few, _ = curves(known, Proxy("bigram", 100))
    simple, _ = curves(known, Proxy("bag", 5000))
    assert few["peak gold"] < strong["peak gold"] > simple["peak gold"]
    drawn = proxy_page.row("", proxy_page.best_of_n(reference, scores, gold))
    assert drawn["fall"] > 0.1  # the best of n draws, too, can be too many
    near = exact.measure(exact.optimum(reference, scores, 1.0), reference, gold)
    nearer = exact.measure(exact.optimum(reference, scores, 2.0), reference, gold)
    assert near.exact_reward > nearer.exact_reward  # at a large weight of the KL


def test_the_page_is_written(known, tmp_path, capsys):
    """Also of a policy that is the reference, whose KL is rounded to below 0."""
    reference, gold = known
    curve = [
        proxy_page.place(exact.best_of(num, reference, gold), reference, gold, gold)
        for num in (1, 4, 64)
    ]
    assert curve[0].kl == pytest.approx(0, abs=1e-9) and curve[0].kl >= 0
    np.testing.assert_allclose([one.gold for one in curve[1:]], [0.92, 1.6], atol=0.02)
    rows = proxy_page.write(
        tmp_path, {"gold": curve}, {"gold": {"best policy": curve, "PPO": curve}}
    )
    assert len(rows) == 2 and rows[0]["proxy only rises"] and rows[0]["fall"] == 0
    assert (tmp_path / "report.html").is_file() and "PPO" in capsys.readouterr().out
