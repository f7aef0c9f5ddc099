"""A language whose answers are computable: the symbols of a hidden Markov model.

What the best model of each structure can know about a symbol is a sum over hidden
states, here made in float64 by the forward and backward recursions (Rabiner, A Tutorial
on Hidden Markov Models, 1989). No model is better on average; one that scores below
these figures sees symbols that it should not.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from llmjax.config import field


@dataclasses.dataclass(frozen=True)
class HmmConfig:
    """Which language: its tables are drawn from symmetric Dirichlet distributions.

    The smaller a concentration, the fewer states follow a state, or symbols come from
    one. Rows of the default, 64 symbols long, have these entropies in nats per symbol,
    estimated from 48,000 rows (standard errors up to 0.002):

        each symbol alone                                   1.975
        given those before it (decoder)                     1.342
        10 masked symbols, given the others (encoder)       1.018
        the same, also given the masked ones before it      0.984

    One symbol of context leaves a decoder 0.13 above its floor, two leave 0.02. Where a
    single symbol is masked, one on either side leaves an encoder 0.17 above, two 0.04.
    """

    num_states: int = field(6, "hidden states")
    num_symbols: int = field(12, "symbols, numbered from 0")
    transition_concentration: float = field(0.1, "of the next state, given a state")
    emission_concentration: float = field(0.1, "of the symbol, given its state")
    seed: int = field(18, "of the tables")

    def __post_init__(self):
        for name in ("num_states", "num_symbols"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: give at least 2, not {getattr(self, name)}")
        for name in ("transition_concentration", "emission_concentration"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: give more than 0, not {getattr(self, name)}")


class Hmm(NamedTuple):
    """The tables of a language, float64; each row of each is a distribution.

    initial[i]: probability of state i at any position: the chain begins stationary.
    transition[i, j]: of state j after state i.
    emission[i, v]: of symbol v in state i.
    """

    initial: np.ndarray
    transition: np.ndarray
    emission: np.ndarray


def make(cfg: HmmConfig) -> Hmm:
    """The language of `cfg`."""
    rng = np.random.default_rng(cfg.seed)
    states, symbols = np.ones(cfg.num_states), np.ones(cfg.num_symbols)
    transition = rng.dirichlet(cfg.transition_concentration * states, cfg.num_states)
    emission = rng.dirichlet(cfg.emission_concentration * symbols, cfg.num_states)
    # The stationary distribution solves p (transition - 1) = 0, sum(p) = 1.
    equations = np.vstack([transition.T - np.eye(cfg.num_states), states])
    initial = np.linalg.lstsq(equations, np.eye(cfg.num_states + 1)[-1])[0]
    initial = np.maximum(initial, 0)
    return Hmm(initial / initial.sum(), transition, emission)


def sample(
    hmm: Hmm, rng: np.random.Generator, num_rows: int, length: int
) -> np.ndarray:
    """[num_rows, length] int32: rows of symbols, each a chain of its own."""
    symbols_BT = np.empty((num_rows, length), np.int32)
    state = _draw(rng, np.broadcast_to(hmm.initial, (num_rows, len(hmm.initial))))
    for t in range(length):
        symbols_BT[:, t] = _draw(rng, hmm.emission[state])
        state = _draw(rng, hmm.transition[state])
    return symbols_BT


def _draw(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """One index for each row of probabilities."""
    below = np.cumsum(probabilities, axis=1)[:, :-1]  # the last one is the rest
    return (rng.random((len(below), 1)) >= below).sum(axis=1)


def log_probs(hmm: Hmm, symbols_BT, before_BT, after_BT) -> np.ndarray:
    """[B, T] float64: log p(symbol t | the known symbols before it and after it).

    A symbol at s < t is known where before_BT[:, s], one at s > t where after_BT[:, s].
    The floor of each structure is a choice of these:

        decoder, every symbol          before: all         after: none
        encoder, masked symbols        before: unmasked    after: unmasked
        infilling from left to right   before: all         after: unmasked
    """
    shares_BTV = posteriors(hmm, symbols_BT, before_BT, after_BT)
    return np.log(np.take_along_axis(shares_BTV, symbols_BT[..., None], 2)[..., 0])


def posteriors(hmm: Hmm, symbols_BT, before_BT, after_BT) -> np.ndarray:
    """[B, T, symbols]: p(each symbol at t | what is known), as `log_probs` has it."""
    likelihood = hmm.emission.T[symbols_BT]  # [B, T, states]
    known = np.where(np.asarray(before_BT, bool)[..., None], likelihood, 1)
    forward, _ = _forward(hmm, known)
    known = np.where(np.asarray(after_BT, bool)[..., None], likelihood, 1)
    states = forward * _backward(hmm, known)
    return (states / states.sum(-1, keepdims=True)) @ hmm.emission


def filter_log_probs(hmm: Hmm, symbols_BT) -> np.ndarray:
    """[B, T]: log p(symbol t | symbols before t), the floor of a decoder."""
    known = np.ones(symbols_BT.shape, bool)
    return log_probs(hmm, symbols_BT, known, ~known)


def masked_log_probs(hmm: Hmm, symbols_BT, masked_BT) -> np.ndarray:
    """[B, T]: log p(symbol t | unmasked symbols but t), the floor of an encoder.

    Exact where a masked symbol leaves no trace: every one becomes the mask's id.
    """
    return log_probs(hmm, symbols_BT, ~masked_BT, ~masked_BT)


def infill_log_probs(hmm: Hmm, symbols_BT, masked_BT) -> np.ndarray:
    """[B, T]: log p(symbol t | unmasked symbols, masked symbols before t).

    Over the masked positions of a row, these add up to log p(masked | unmasked).
    """
    return log_probs(hmm, symbols_BT, np.ones_like(masked_BT), ~masked_BT)


def _forward(hmm: Hmm, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """known: p(what is known at t | state t), [B, T, states].

    Returns p(state t | what is known before t), [B, T, states], and
    log p(what is known at t | what is known before t), [B, T].
    """
    states, evidence = np.empty_like(known), np.empty(known.shape[:2])
    state = hmm.initial
    for t in range(known.shape[1]):
        states[:, t] = state
        joint = state * known[:, t]
        evidence[:, t] = joint.sum(-1)
        state = (joint / evidence[:, t, None]) @ hmm.transition
    return states, np.log(evidence)


def _backward(hmm: Hmm, known: np.ndarray) -> np.ndarray:
    """p(what is known after t | state t), each [B, T] up to a factor."""
    messages = np.empty_like(known)
    message = np.ones(known.shape[::2])
    for t in reversed(range(known.shape[1])):
        messages[:, t] = message / message.max(-1, keepdims=True)
        message = (messages[:, t] * known[:, t]) @ hmm.transition.T
    return messages


def spans_log_prob(hmm: Hmm, symbols_BT, cut_BT) -> np.ndarray:
    """[B]: log p(targets | encoder tokens) of span corruption, all targets of a row.

    Beside the symbols of its spans, the targets tell how long each span is; the encoder
    tokens only tell how many there are, and their total length is the same in each row.
    All lengths that add up are as likely before the text is seen, so

        p(targets | encoder tokens) = p(text) / sum over lengths of p(kept symbols)

    where the kept symbols of the sum lie as far apart as the lengths put them.
    The order of the sentinels and the end are certain: they cost nothing.
    """
    keep_BS = ~cut_BT | (np.diff(cut_BT.astype(np.int8), axis=1, prepend=0) > 0)
    num_cut = np.unique(cut_BT.sum(axis=1))
    num_kept = np.unique(keep_BS.sum(axis=1))
    if len(num_cut) > 1 or len(num_kept) > 1:
        raise ValueError("rows differ in the tokens or spans cut; score them apart")
    shape = (len(symbols_BT), num_kept[0])
    source = symbols_BT[keep_BS].reshape(shape)
    is_span = cut_BT[keep_BS].reshape(shape)
    kept = _log_prob_around_spans(hmm, source, is_span, num_cut[0])
    return filter_log_probs(hmm, symbols_BT).sum(axis=1) - kept


def _log_prob_around_spans(hmm: Hmm, source, is_span, num_cut: int) -> np.ndarray:
    """[B]: log of the sum over span lengths of p(the symbols where no span is)."""
    # weight[b, n, i]: of being in state i next, after n cut tokens, with what was seen.
    weight = np.zeros((len(source), num_cut + 1, len(hmm.initial)))
    weight[:, 0] = hmm.initial
    log_scale = np.zeros(len(source))
    for column, here in zip(source.T, is_span.T, strict=True):
        seen = (weight * hmm.emission.T[column][:, None]) @ hmm.transition
        longer = np.zeros_like(
            weight
        )  # a span of one more token, begun or gone on with
        for n in range(num_cut):
            longer[:, n + 1] = (weight[:, n] + longer[:, n]) @ hmm.transition
        weight = np.where(here[:, None, None], longer, seen)
        scale = weight.sum(axis=(1, 2))
        weight /= scale[:, None, None]
        log_scale += np.log(scale)
    return log_scale + np.log(weight[:, num_cut].sum(axis=1))
