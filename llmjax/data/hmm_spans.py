"""What can be known of each symbol of span corruption, exactly; see `hmm`."""

import numpy as np

from llmjax.data.hmm import Hmm


def told_posteriors(hmm: Hmm, symbols_BT, cut_BT) -> np.ndarray:
    """[B, T, symbols]: p(each symbol at t | the encoder's tokens, all told before it).

    That a symbol comes next, and not the end of its span, is given. Elsewhere than
    where cut_BT is true, 0. All rows have as many tokens cut, in as many spans.

    The text before t is known: its filter says which state is there. The encoder's
    tokens after the span are known, but not how far from t they lie: any lengths of the
    spans that add up are as likely, and are summed over, from the right to the left.
    """
    cut_BT = np.asarray(cut_BT, bool)
    is_first_BT = cut_BT & (np.diff(cut_BT.astype(np.int8), axis=1, prepend=0) > 0)
    keep_BT = ~cut_BT | is_first_BT
    num_cut = cut_BT[0].sum()
    open_BSNI = _open_spans(hmm, *_source(symbols_BT, cut_BT, keep_BT), num_cut)
    column_BT = np.cumsum(keep_BT, axis=1) - 1  # of the encoder's tokens
    left_BT = num_cut - np.cumsum(cut_BT, axis=1) + 1  # of the cut ones, from t on
    shares = np.zeros((*symbols_BT.shape, hmm.emission.shape[1]))
    state = np.tile(hmm.initial, (len(symbols_BT), 1))
    rows = np.arange(len(symbols_BT))
    for t, cut in enumerate(cut_BT.T):
        after = open_BSNI[rows, column_BT[:, t], left_BT[:, t] * cut]
        states = state * after
        states /= np.where(cut, states.sum(-1), 1)[:, None]
        shares[:, t] = np.where(cut[:, None], states @ hmm.emission, 0)
        state = state * hmm.emission.T[symbols_BT[:, t]]
        state = (state / state.sum(-1, keepdims=True)) @ hmm.transition
    return shares


def _source(symbols_BT, cut_BT, keep_BT) -> tuple[np.ndarray, np.ndarray]:
    """(the encoder's tokens, which of them stand for a span), both [B, S]."""
    shape = (len(symbols_BT), -1)
    return symbols_BT[keep_BT].reshape(shape), cut_BT[keep_BT].reshape(shape)


def _open_spans(hmm: Hmm, source, is_span, num_cut: int) -> np.ndarray:
    """[B, S, num_cut + 1, states], up to a factor for each row and column:

    p(the tokens after column s | this state, whose symbol is in the span at s, and so
    many cut symbols from it on), summed over the lengths of the spans.
    """
    num_states = len(hmm.initial)
    opened = np.zeros((*source.shape, num_cut + 1, num_states))
    after = np.zeros((len(source), num_cut + 1, num_states))
    after[:, 0] = 1
    for s in reversed(range(source.shape[1])):
        seen = (after @ hmm.transition.T) * hmm.emission.T[source[:, s]][:, None]
        here = opened[:, s]
        for n in range(num_cut):  # the span ends here, or goes on
            here[:, n + 1] = (after[:, n] + here[:, n]) @ hmm.transition.T
        after = np.where(is_span[:, s, None, None], here, seen)
        after = after / after.max(axis=(1, 2), keepdims=True)
    return opened
