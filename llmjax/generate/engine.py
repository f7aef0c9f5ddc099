"""Continuous batching: requests join and leave a running batch of fixed shape.

The batch has a fixed number of rows, so its step is compiled once. A request waits for
free rows, its prompt is read chunk by chunk between the steps of the others, then it
draws a token a step until it ends and its rows are free again (Yu et al. 2022).
"""

import dataclasses
from collections import deque
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax import lora_rows
from llmjax.generate import sampling, steps
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.text import begin, check_fits
from llmjax.types import Model, Params

MIN_CHUNK = 16  # tokens of a prompt that are read at once
MIN_SLOTS = 256  # of a row; each step reads all of them
MAX_TOP = 20


class Full(Exception):
    """As many requests wait as may."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to continue, how, and how far.

    logit_bias: (id, what is added to its logit) pairs.
    num_samples: continuations; number s draws with the seed `sampling.seed + s`.
    num_top: how many of the likeliest ids to report beside each token, at most 20.
    adapter: the number of that of `lora_rows.keep` to use; None is the base alone.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingConfig = SamplingConfig()
    stop_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_samples: int = 1
    num_top: int = 0
    adapter: int | None = None


class Token(NamedTuple):
    """One drawn token of a request's sample.

    log_prob: under the model itself; `top` has (id, log-prob) of the likeliest.
    finish: "stop" if the token is a stop id (and no part of the text), "length" if no
      more may follow, else None.
    """

    request_id: int
    sample: int
    token: int
    log_prob: float
    top: list[tuple[int, float]]
    finish: str | None


@dataclasses.dataclass
class _Running:
    """A request and how far it has come."""

    number: int
    request: Request
    num_read: int = 0  # of the prompt's tokens
    logits_1V: jax.Array | None = None  # after those


class Engine:
    """Serves requests with one model. Not thread-safe: one thread owns it.

    params: of the model, or with several adapters beside it: see `lora_rows`.
    num_slots: rows of the batch. num_tokens: the longest prompt and continuation
      together. max_waiting: of requests, beyond which `submit` raises `Full`.

    The cache is as long as the longest row that runs, rounded up to a power of two, so
    that short rows do not pay for what they could have been.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        *,
        vocab_size: int,
        num_slots: int = 8,
        num_tokens: int = 1024,
        cache_dtype: jnp.dtype = jnp.float32,
        max_waiting: int = 64,
        chunk: int = 128,
    ):
        self.num_slots, self.num_tokens, self.max_waiting = (
            num_slots, num_tokens, max_waiting,
        )  # fmt: skip
        self._model, self._params = model, steps.by_layer(params)
        self._vocab_size, self._num_adapters = vocab_size, lora_rows.count(params)
        self._chunks = _sizes(min(MIN_CHUNK, chunk), chunk)
        self._sizes = _sizes(min(MIN_SLOTS, num_tokens), num_tokens)
        self._size = 0  # which of them the cache has
        self._least = 0  # tokens that it must have room for
        dtype = jnp.dtype(cache_dtype)
        cache = steps.new_cache(
            model, num_slots, num_tokens, dtype=dtype, first_slots=self._sizes[0]
        )
        self._state = _idle(cache, num_slots, vocab_size)
        for name, numbers in self._choice(None, num_slots).items():
            self._state[name] = jnp.asarray(numbers)
        self._scratch = steps.new_cache(model, 1, num_tokens, dtype=dtype)
        self._rows: list[tuple[_Running, int] | None] = [None] * num_slots
        self._num_drawn = [0] * num_slots
        self._waiting: deque[_Running] = deque()
        self._reading: _Running | None = None
        self._next_number = 0

    @property
    def num_active(self) -> int:
        """How many rows are drawing."""
        return sum(row is not None for row in self._rows)

    @property
    def num_waiting(self) -> int:
        """How many requests have no row yet."""
        return len(self._waiting) + (self._reading is not None)

    def submit(self, request: Request) -> int:
        """The request's number; its tokens come from `step` under that.

        Raises ValueError if it can never be served, `Full` if too many wait.
        """
        self._check(request)
        if len(self._waiting) >= self.max_waiting:
            raise Full(f"{self.max_waiting} requests wait already; try again later")
        number, self._next_number = self._next_number, self._next_number + 1
        self._waiting.append(_Running(number, request))
        return number

    def cancel(self, number: int) -> None:
        """Frees what the request holds; one that has ended is left alone."""
        self._waiting = deque(r for r in self._waiting if r.number != number)
        if self._reading is not None and self._reading.number == number:
            self._reading = None
        for row, owner in enumerate(self._rows):
            if owner is not None and owner[0].number == number:
                self._rows[row] = None
                self._state["active_B"] = _stop(self._state["active_B"], np.int32(row))

    def step(self) -> list[Token]:
        """Reads a chunk of a waiting prompt, then draws a token for all that run."""
        self._read()
        owners = [owner for owner in self._rows if owner is not None]
        if not owners:
            return []
        self._fit()
        top = ()
        if any(run.request.num_top for run, _ in owners):
            top = _top(self._state["logits_BV"], min(MAX_TOP, self._vocab_size))
        self._state, *drawn = _step(self._model, self._params, self._state)
        return self._report(*jax.device_get((*drawn, top)))

    def warm_up(self) -> None:
        """Compiles all that serving needs, so that no request waits for that."""
        lengths = [size for size in self._chunks if size + 2 <= self.num_tokens] or [1]
        for length in lengths:
            self._serve_and_forget(Request((0,) * length, 2, num_top=1))
        for size in self._sizes:
            self._least = size
            self._serve_and_forget(Request((0,), 1))
        self._least = 0
        self._fit()

    def _serve_and_forget(self, request: Request) -> None:
        number = self.submit(request)
        while self.num_waiting:
            self.step()
        self.cancel(number)

    def _fit(self, longest: int = 0) -> None:
        """Gives the cache the size that the longest row needs, or `longest`.

        It shrinks where half of less would do, so as not to grow again at once.
        """
        longest = max(longest, self._least)
        for owner, num_drawn in zip(self._rows, self._num_drawn, strict=True):
            if owner is not None:
                prompt_ids = owner[0].request.prompt_ids
                longest = max(longest, len(prompt_ids) + num_drawn + 1)
        while self._sizes[self._size] < longest:
            self._move(self._size + 1)
        while self._size and 2 * longest <= self._sizes[self._size - 1]:
            self._move(self._size - 1)

    def _move(self, size: int) -> None:
        num_more = self._sizes[size] - self._sizes[self._size]
        self._state["cache"] = steps.resize(self._state["cache"], num_more)
        self._size = size

    def _check(self, request: Request) -> None:
        if not request.prompt_ids:
            raise ValueError("an empty prompt: give at least one token")
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={request.max_new_tokens}: at least 1")
        check_fits(len(request.prompt_ids), request.max_new_tokens, self.num_tokens)
        if not 1 <= request.num_samples <= self.num_slots:
            raise ValueError(
                f"num_samples={request.num_samples}: from 1 to {self.num_slots}, the "
                "number of slots"
            )
        if not 0 <= request.num_top <= MAX_TOP:
            raise ValueError(f"num_top={request.num_top}: from 0 to {MAX_TOP}")
        if request.adapter not in (None, *range(self._num_adapters)):
            raise ValueError(
                f"adapter={request.adapter}: there are {self._num_adapters} adapters"
            )
        biased = [token for token, _ in request.logit_bias]
        for token in (*request.prompt_ids, *request.stop_ids, *biased):
            if not 0 <= token < self._vocab_size:
                raise ValueError(
                    f"id {token} is outside the vocabulary of {self._vocab_size}"
                )

    def _read(self) -> None:
        """One chunk of the prompt whose turn it is; at its end it gets its rows."""
        free = [row for row, owner in enumerate(self._rows) if owner is None]
        if self._reading is None:
            if not self._waiting or self._waiting[0].request.num_samples > len(free):
                return
            self._reading = self._waiting.popleft()
            self._scratch = self._scratch | {"index_B": np.zeros(1, np.int32)}
        run = self._reading
        left = run.request.prompt_ids[run.num_read :]
        size = next((s for s in self._chunks if s >= len(left)), self._chunks[-1])
        ids = left[:size]
        padding = [0] * (size - len(ids))
        batch = {
            "tokens": np.array([[*ids, *padding]], np.int32),
            "segment_ids": np.array([[1] * len(ids) + padding], np.int32),
        } | self._choice(run.request.adapter)
        run.logits_1V, self._scratch = steps.prefill(
            self._model, self._params, batch, self._scratch
        )
        run.num_read += len(ids)
        if len(ids) == len(left):
            self._reading = None
            self._admit(run, free)

    def _admit(self, run: _Running, free: list[int]) -> None:
        request, shape_1V = run.request, (1, self._vocab_size)
        bias_BV, seen_BV = np.zeros(shape_1V, np.float32), np.zeros(shape_1V, bool)
        for token, bias in request.logit_bias:
            bias_BV[0, token] = bias
        seen_BV[0, list(request.prompt_ids)] = True
        self._fit(len(request.prompt_ids))
        cut = self._sizes[self._size] - self.num_tokens
        for sample, row in enumerate(free[: request.num_samples]):
            config = dataclasses.replace(
                request.sampling, seed=request.sampling.seed + sample
            )
            new = begin(
                [config], [request.max_new_tokens], [request.stop_ids], shape_1V[1]
            ) | {
                "cache": self._scratch, "logits_BV": run.logits_1V,
                "bias_BV": bias_BV, "seen_BV": seen_BV, **self._choice(request.adapter),
            }  # fmt: skip
            self._state = _put(self._state, new, np.int32(row), cut)
            self._rows[row], self._num_drawn[row] = (run, sample), 0

    def _choice(self, adapter: int | None, num_rows: int = 1) -> dict[str, np.ndarray]:
        """The part of the state that says which adapter rows use, if there are any."""
        if not self._num_adapters:
            return {}
        number = -1 if adapter is None else adapter
        return {"adapter_B": np.full(num_rows, number, np.int32)}

    def _report(self, token_B, log_prob_B, top) -> list[Token]:
        tokens = []
        for row, owner in enumerate(self._rows):
            if owner is None:
                continue
            run, sample = owner
            request, token = run.request, int(token_B[row])
            self._num_drawn[row] += 1
            finish = None
            if token in request.stop_ids:
                finish = "stop"
            elif self._num_drawn[row] == request.max_new_tokens:
                finish = "length"
            if finish:
                self._rows[row] = None
            likeliest = []
            if request.num_top:
                values, ids = (array[row, : request.num_top].tolist() for array in top)
                likeliest = list(zip(ids, values, strict=True))
            log_prob = float(log_prob_B[row])
            tokens.append(Token(run.number, sample, token, log_prob, likeliest, finish))
        return tokens


def _idle(cache: Params, num_slots: int, vocab_size: int) -> steps.State:
    """Rows of which none is active."""
    shape_BV = (num_slots, vocab_size)
    nothing = [SamplingConfig()] * num_slots
    state = begin(nothing, [0] * num_slots, [()] * num_slots, vocab_size) | {
        "cache": cache,
        "logits_BV": jnp.zeros(shape_BV),
        "bias_BV": jnp.zeros(shape_BV),
        "seen_BV": jnp.zeros(shape_BV, bool),
    }
    return jax.tree.map(jnp.asarray, state)


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def _step(model: Model, params: Params, state: steps.State):
    """(the state after a step, the token of each row, its log-probability)."""
    after, drawn = steps.step(model, params, state)
    log_prob_B = sampling.log_probs(state["logits_BV"], drawn.token_B)
    return after, drawn.token_B, log_prob_B


_top = partial(jax.jit, static_argnames="num")(sampling.top_log_probs)


@partial(jax.jit, static_argnames="cut", donate_argnames="state")
def _put(state: steps.State, new: steps.State, row: jax.Array, cut: int) -> steps.State:
    new = new | {"cache": steps.resize(new["cache"], cut)}
    return steps.put(state, new, row)


@partial(jax.jit, donate_argnames="active_B")
def _stop(active_B: jax.Array, row: jax.Array) -> jax.Array:
    return active_B.at[row].set(False)


def _sizes(smallest: int, largest: int) -> list[int]:
    """Both, and between them the smallest doubled again and again."""
    found = [smallest]
    while found[-1] < largest:
        found.append(min(2 * found[-1], largest))
    return found
