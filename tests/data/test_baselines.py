"""The baselines of classification, against scipy and figures worked by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from llmjax.data import baselines
from llmjax.data.baselines import (
    Table,
    classification_baselines,
    fit_logistic,
    wilson_interval,
    word_classifier,
)
from llmjax.data.labelled import Labelled


def sparse(dense):
    rows, columns = np.nonzero(dense)
    return Table(rows, columns, dense[rows, columns], dense.shape)


def draw(rng, shape):
    return rng.random(shape) * (rng.random(shape) < 0.4)


def test_a_table_is_a_matrix():
    rng = np.random.default_rng(0)
    dense = draw(rng, (7, 5))
    dense[3] = 0
    right, left = rng.normal(size=(5, 2)), rng.normal(size=(7, 3))
    np.testing.assert_allclose(sparse(dense) @ right, dense @ right, atol=1e-12)
    np.testing.assert_allclose(sparse(dense).T @ left, dense.T @ left, atol=1e-12)
    found = baselines._largest_eigenvalue(sparse(dense))
    assert found == pytest.approx(np.linalg.eigvalsh(dense.T @ dense)[-1], rel=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("l2", [0.1, 2.0])
def test_logistic_regression_finds_the_minimum(num_classes, l2):
    rng = np.random.default_rng(num_classes)
    dense, classes = draw(rng, (60, 8)), rng.integers(0, num_classes, 60)

    def objective(flat):
        weights = flat.reshape(8, num_classes)
        scores = dense @ weights
        right = scores[np.arange(60), classes]
        return (logsumexp(scores, axis=1) - right).sum() + l2 / 2 * (flat**2).sum()

    best = minimize(objective, np.zeros(8 * num_classes), tol=1e-9)
    weights = fit_logistic(sparse(dense), classes, num_classes, l2=l2)
    assert objective(weights.ravel()) <= best.fun + 1e-9
    np.testing.assert_allclose(weights.ravel(), best.x, atol=1e-4)


def test_words_that_tell_labels_apart():
    train = [Labelled(f"a {word} film", word) for word in ("good", "bad", "long")] * 4
    predict = word_classifier(train, l2=0.1)
    texts = ["GOOD!", "so bad", "the long one", "a good good film"]
    assert predict(texts) == ["good", "bad", "long", "good"]
    more = [*train, Labelled("nothing known", "bad")]
    assert word_classifier(more, l2=0.1)(["", "unheard-of"]) == ["bad", "bad"]


def test_the_strength_is_chosen_in_validation():
    """A word that says little in training says nothing if L2 is strong."""
    train = [Labelled("yes", "a")] * 60 + [Labelled("odd", "b")] * 2
    asked = [Labelled("odd", "b"), Labelled("odd", "b"), Labelled("yes", "a")]
    right = {
        l2: np.mean(
            [
                guess == e.label
                for guess, e in zip(
                    word_classifier(train, l2=l2)([e.text for e in asked]),
                    asked,
                    strict=True,
                )
            ]
        )
        for l2 in baselines.L2_STRENGTHS
    }
    assert right[0.1] == 1 and right[3.0] == 1 / 3
    found = classification_baselines(train, asked, asked)
    assert found == {"majority class": 1 / 3, "bag of words": 1.0}
    others = [example._replace(label="a") for example in asked]
    found = classification_baselines(train, others, asked)
    assert found == {"majority class": 1 / 3, "bag of words": 1 / 3}


@pytest.mark.parametrize(
    ("num_right", "num_all", "low", "high"),
    # By the formula in exact fractions; 8 of 10 is in textbooks as 0.490 to 0.943.
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(num_right, num_all, low, high):
    assert wilson_interval(num_right, num_all) == pytest.approx((low, high), abs=1e-4)


def test_wilson_bounds_are_where_the_share_is_two_errors_away():
    for num_right, num_all in ((3, 7), (2099, 2767)):
        share = num_right / num_all
        for bound in wilson_interval(num_right, num_all, z=2.0):
            error = np.sqrt(bound * (1 - bound) / num_all)
            assert abs(share - bound) == pytest.approx(2 * error, rel=1e-9)
    with pytest.raises(ValueError, match="3 right of 2"):
        wilson_interval(3, 2)
