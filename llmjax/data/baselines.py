"""What is reached without a language model: the bars that one is held against."""

import collections
import gzip
import lzma
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.data.labelled import Labelled
from llmjax.data.pack import Batch

Predict = Callable[[Sequence[str]], list[str]]  # texts -> labels

L2_STRENGTHS = (0.1, 0.3, 1.0, 3.0)
CONSTANT = ""  # the feature that all texts have; no word is empty


def compression_baselines(texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte of the texts, joined to one stream, under each compressor.

    `byte unigram` is the entropy of the stream's own byte frequencies.
    """
    stream = "".join(texts).encode()
    counts = np.bincount(np.frombuffer(stream, np.uint8), minlength=256)
    shares = counts[counts > 0] / len(stream)
    return {
        "gzip -9": 8 * len(gzip.compress(stream, 9)) / len(stream),
        "xz": 8 * len(lzma.compress(stream)) / len(stream),
        "byte unigram": float(-(shares * np.log2(shares)).sum()),
    }


def unigram_loss(train: Iterable[Batch], held_out: Iterable[Batch]) -> float:
    """Nats per held-out target, told by how frequent each id is in the training ones.

    Only targets with weight count; ids are counted once more than they are seen, so
    that none is impossible.
    """
    seen = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in train])
    true = np.concatenate([b["targets"][b["weights"] > 0] for b in held_out])
    counts = np.bincount(seen, minlength=true.max() + 1) + 1
    return float(np.log(counts.sum()) - np.log(counts[true]).mean())


def classification_baselines(
    train: Sequence[Labelled], validation: Sequence[Labelled], test: Sequence[Labelled]
) -> dict[str, float]:
    """The share of the test labels that each guess gets right.

    `majority class` always says the most frequent label of the training examples; `bag
    of words` is the `word_classifier` whose strength of L2 does best in validation.
    """
    [(majority, _)] = collections.Counter(e.label for e in train).most_common(1)
    classifiers = [word_classifier(train, l2=l2) for l2 in L2_STRENGTHS]
    by_words = max(classifiers, key=lambda predict: _accuracy(predict, validation))
    return {
        "majority class": _accuracy(lambda texts: [majority] * len(texts), test),
        "bag of words": _accuracy(by_words, test),
    }


def _accuracy(predict: Predict, examples: Sequence[Labelled]) -> float:
    labels = predict([example.text for example in examples])
    pairs = zip(labels, examples, strict=True)
    return sum(label == example.label for label, example in pairs) / len(examples)


def word_classifier(train: Sequence[Labelled], *, l2: float) -> Predict:
    """The likeliest label of each text, by logistic regression on its words.

    The features of a text are which words it has, of those that two training texts
    have, and a constant, scaled to length one.
    """
    counts = collections.Counter(word for e in train for word in _words(e.text))
    vocab = [CONSTANT, *(word for word, count in counts.items() if count > 1)]
    columns = {word: number for number, word in enumerate(vocab)}
    names = sorted({example.label for example in train})
    classes = np.searchsorted(names, [example.label for example in train])
    table = _features([example.text for example in train], columns)
    weights = fit_logistic(table, classes, len(names), l2=l2)

    def predict(texts: Sequence[str]) -> list[str]:
        best = (_features(texts, columns) @ weights).argmax(1)
        return [names[number] for number in best]

    return predict


def _words(text: str) -> list[str]:
    """Each word once, in the order in which they come."""
    return list(dict.fromkeys(re.findall(r"\w+", text.casefold())))


class Table(NamedTuple):
    """A sparse matrix: entry i is `values[i]`, at `rows[i]` and `columns[i]`."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @property
    def T(self) -> "Table":
        return Table(self.columns, self.rows, self.values, self.shape[::-1])

    def __matmul__(self, right: np.ndarray) -> np.ndarray:
        num_rows = self.shape[0]
        parts = [
            np.bincount(self.rows, self.values * column[self.columns], num_rows)
            for column in right.T
        ]
        return np.stack(parts, axis=1)


def _features(texts: Sequence[str], columns: dict[str, int]) -> Table:
    found = [
        [columns[word] for word in (CONSTANT, *_words(text)) if word in columns]
        for text in texts
    ]
    lengths = np.array([len(row) for row in found])
    rows = np.repeat(np.arange(len(texts)), lengths)
    flat = np.array([column for row in found for column in row])
    return Table(rows, flat, 1 / np.sqrt(lengths)[rows], (len(texts), len(columns)))


def fit_logistic(
    table: Table,
    classes: np.ndarray,
    num_classes: int,
    *,
    l2: float,
    num_steps: int = 400,
) -> np.ndarray:
    """[columns, num_classes]: the weights of softmax regression.

    They minimise the sum of the cross-entropies plus l2 / 2 times their squares, found
    by Nesterov's accelerated gradient for strongly convex functions (2004).
    """
    wanted = np.eye(num_classes)[classes]
    # No curvature is larger: that of the cross-entropy is at most 1/2 in each score.
    largest = 0.5 * _largest_eigenvalue(table) + l2
    ratio = math.sqrt(l2 / largest)
    momentum = (1 - ratio) / (1 + ratio)
    weights = ahead = np.zeros((table.shape[1], num_classes))
    for _ in range(num_steps):
        gradient = table.T @ (softmax(table @ ahead) - wanted) + l2 * ahead
        before, weights = weights, ahead - gradient / largest
        ahead = weights + momentum * (weights - before)
    return weights


def softmax(scores: np.ndarray) -> np.ndarray:
    """The shares of each row's exponentials."""
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _largest_eigenvalue(table: Table, num_steps: int = 50) -> float:
    """Of table.T @ table, by power iteration; exact enough as no entry is negative."""
    vector = np.ones((table.shape[1], 1))
    for _ in range(num_steps):
        vector = table.T @ (table @ (vector / np.linalg.norm(vector)))
    return float(np.linalg.norm(vector))


def wilson_interval(
    num_right: int, num_all: int, *, z: float = 1.959964
) -> tuple[float, float]:
    """The bounds of the 95 % interval of a share (Wilson, 1927); `z` for another."""
    if not 0 <= num_right <= num_all or not num_all:
        raise ValueError(f"{num_right} right of {num_all} is not a share")
    share, strength = num_right / num_all, z * z / num_all
    middle = (share + strength / 2) / (1 + strength)
    spread = math.sqrt(strength * (share * (1 - share) + strength / 4)) / (1 + strength)
    return max(0.0, middle - spread), min(1.0, middle + spread)


def bootstrap_interval(
    values: np.ndarray, rng: np.random.Generator, num: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of the mean of [models, questions], both drawn again."""
    weights = [
        rng.multinomial(size, np.full(size, 1 / size), num) / size
        for size in values.shape
    ]
    means = ((weights[0] @ values) * weights[1]).sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high
