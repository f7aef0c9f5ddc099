"""What models of a hidden Markov language know, beside what can be known.

Both are taken on the same rows: the mean of their differences is far surer than either.
"""

from functools import partial

import jax
import numpy as np

from llmjax.data import hmm as hmm_lib
from llmjax.data import spans
from llmjax.data.hmm_rows import Ids, Rows, shifted
from llmjax.data.hmm_spans import told_posteriors
from llmjax.sharding import replicate
from llmjax.types import Batch, Model, Params

NUM_ERRORS = 3  # standard errors below its floor at which a model is said to cheat


def among(model: Model, num_ids: int) -> Model:
    """The same model, which knows of no ids but the first ones."""

    def readout(params, hidden):
        return model.readout(params, hidden)[..., :num_ids]

    return model._replace(readout=readout)


def log_shares(
    model: Model, params: Params, batch: Batch, *, batch_size: int = 64
) -> np.ndarray:
    """[B, T, V] float64: the logarithm of what the model gives each id."""
    parts = []
    for first in range(0, len(batch["tokens"]), batch_size):
        part = {k: rows[first : first + batch_size] for k, rows in batch.items()}
        parts.append(np.asarray(_log_shares(model, params, part), np.float64))
    return np.concatenate(parts)


@partial(jax.jit, static_argnums=0)
def _log_shares(model: Model, params: Params, batch: Batch) -> jax.Array:
    logits_BTV = model.readout(params, model.apply(params, batch).hidden_BTD)
    return replicate(jax.nn.log_softmax(logits_BTV))


def nats_per_target(log_shares_BTV: np.ndarray, batch: Batch) -> np.ndarray:
    """[B]: the mean cross-entropy of the targets of each row."""
    nats_BT = -_pick(log_shares_BTV, batch["targets"])
    return (nats_BT * batch["weights"]).sum(axis=1) / batch["weights"].sum(axis=1)


def floor_per_target(tests: Rows, batch: Batch) -> np.ndarray:
    """[B]: what `nats_per_target` is for the best of all models of the structure.

    batch: of `tests`.
    """
    hmm, targets_BT, weights_BT = tests.texts.hmm, batch["targets"], batch["weights"]
    if tests.structure == "decoder":
        return -hmm_lib.filter_log_probs(hmm, targets_BT).mean(axis=1)
    if tests.structure == "encoder":
        nats_BT = -hmm_lib.masked_log_probs(hmm, targets_BT, weights_BT > 0)
        return (nats_BT * weights_BT).sum(axis=1) / weights_BT.sum(axis=1)
    nats = -hmm_lib.spans_log_prob(hmm, *read_spans(batch, tests.ids))
    return nats / weights_BT.sum(axis=1)


def gap(model: Model, params: Params, tests: Rows, *, seed: int = 0) -> dict:
    """`compare` of the model and its floor, on all of the texts, each once."""
    batch = tests.take(np.arange(len(tests)), seed)
    nats = nats_per_target(log_shares(model, params, batch), batch)
    return compare(nats, floor_per_target(tests, batch))


def compare(nats: np.ndarray, floor: np.ndarray) -> dict:
    """nats, floor and gap, means over rows, the gap's standard error, and whether the
    model is so far below its floor that it must see what it should not."""
    gap, error = mean_and_error(nats - floor)
    return {
        "nats": float(nats.mean()), "floor": float(floor.mean()), "gap": gap,
        "error": error, "leaks": gap < -NUM_ERRORS * error,
    }  # fmt: skip


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of independent values, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def read_spans(batch: Batch, ids: Ids) -> tuple[np.ndarray, np.ndarray]:
    """(texts, which of their symbols were cut), both [B, T], of span corruption."""
    pairs = [
        spans.fill_spans(
            source[:-1], answer[:-1], vocab_size=ids.size,
            num_sentinels=ids.num_sentinels,
        )
        for source, answer in zip(
            batch["encoder_tokens"], batch["targets"], strict=True
        )
    ]  # fmt: skip
    texts, cuts = zip(*pairs, strict=True)
    return np.stack(texts), np.stack(cuts)


def fill_blanks(
    model: Model, params: Params, tests: Rows, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """How well blanks are filled: {"single": figures, "longer": figures}.

    The blanks are those of span corruption, the same for all structures: some of a
    single symbol, some longer. Of their symbols: nats, and right, the share where the
    likeliest one is true. Beside them floor_nats and floor_right, of who knows all that
    follows from what the structure sees: the text before the symbol (decoder), the text
    around all blanks (encoder), or that and the blanks told before (encoder-decoder).
    A model says which symbol it is: that it is one, it is told.
    """
    ids, hmm = tests.ids, tests.texts.hmm
    blanks = Rows("encoder-decoder", tests.texts, ids)
    batch = blanks.take(np.arange(len(tests)), seed)
    texts_BT, cut_BT = read_spans(batch, ids)
    is_asked_BT, everything = cut_BT, np.ones_like(cut_BT)
    if tests.structure == "decoder":
        batch = shifted(texts_BT, ids.end)
        exact_BTV = hmm_lib.posteriors(hmm, texts_BT, everything, ~everything)
    elif tests.structure == "encoder":
        batch = {"tokens": np.where(cut_BT, ids.mask, texts_BT).astype(np.int32)}
        exact_BTV = hmm_lib.posteriors(hmm, texts_BT, ~cut_BT, ~cut_BT)
    else:
        exact_BTV = told_posteriors(hmm, texts_BT, cut_BT)
        is_asked_BT = batch["targets"] < ids.num_symbols
    found_BTV = log_shares(among(model, ids.num_symbols), params, batch)
    # Row by row, and from left to right in each: the same order on either side.
    truth, found, exact = texts_BT[cut_BT], found_BTV[is_asked_BT], exact_BTV[cut_BT]
    figures = {
        "nats": -_pick(found, truth),
        "floor_nats": -np.log(_pick(exact, truth)),
        "right": found.argmax(-1) == truth,
        "floor_right": exact.argmax(-1) == truth,
    }
    single = _lengths_of_runs(cut_BT) == 1
    return {
        name: {key: float(value[chosen].mean()) for key, value in figures.items()}
        for name, chosen in (("single", single), ("longer", ~single))
    }


def _lengths_of_runs(cut_BT: np.ndarray) -> np.ndarray:
    """Of each symbol that is cut, row by row: how many are cut together with it."""
    begins_BT = np.diff(cut_BT.astype(np.int8), axis=1, prepend=0) > 0
    run = begins_BT.ravel().cumsum()[cut_BT.ravel()]
    return np.bincount(run)[run]


def _pick(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, ids[..., None], -1)[..., 0]
