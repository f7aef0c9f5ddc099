"""Continues a prompt with any model: a Hugging Face folder, a GGUF file, a workdir.

    python tools/generate.py --model=runs/quickstart/pretrain --prompt="def main("
    python tools/generate.py --model=smollm2 --prompt="The capital of France is"
    python tools/generate.py --model=DIR --prompt_ids=1,2,3 --json
    python tools/generate.py --model=DIR --prompt="A" --temperature=0.8 --num_samples=4
    python tools/generate.py --model=DIR --prompt="A" --num_beams=4
    python tools/generate.py --model=DIR --prompt="A" --draft=lookup
    python tools/generate.py --model=DIR --prompt="A" --adapter=PEFT_DIR
    python tools/generate.py --model=DIR --prompt="A" --temperature=1 --best_of=16 \
        --reward=runs/reward_model

--reward is a reward model's workdir, or MODULE:FUNCTION, any fn(prompts, answers).
The prompt of an encoder-decoder is the text that its encoder reads.
"""

import json
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags as absl_flags

from llmjax import flags, host, load
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate import draft, speculative, steps
from llmjax.generate.beam import beam_search
from llmjax.generate.engine import Engine, Request
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.stream import TextStream
from llmjax.generate.text import check_fits, generate
from llmjax.models import quantise, transformer
from llmjax.rl import best_of, scores
from llmjax.types import Model, Params

ROUND_TOKENS = 64

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
ADAPTER = absl_flags.DEFINE_string(
    "adapter", None, "LoRA adapters for the model: a PEFT folder or a workdir"
)
PROMPT = absl_flags.DEFINE_string("prompt", None, "text to continue")
PROMPT_IDS = absl_flags.DEFINE_list("prompt_ids", None, "token ids to continue")
MAX_NEW_TOKENS = absl_flags.DEFINE_integer("max_new_tokens", 64, "longest text", 1)
SAMPLING = flags.define("", SamplingConfig())
NUM_SAMPLES = absl_flags.DEFINE_integer("num_samples", 1, "so many continuations", 1)
STOP = absl_flags.DEFINE_multi_string("stop", [], "a text to end before; repeatable")
NUM_BEAMS = absl_flags.DEFINE_integer("num_beams", 1, "above 1: beam search", 1)
LENGTH_PENALTY = absl_flags.DEFINE_float(
    "length_penalty", 1.0, "of beams: above 0 favours long texts, below 0 short ones"
)
DRAFT = absl_flags.DEFINE_string(
    "draft", None, "guess ahead: a smaller model's path, or 'lookup' in the text so far"
)
NUM_DRAFTS = absl_flags.DEFINE_integer("num_drafts", 4, "tokens guessed ahead", 1)
BEST_OF = absl_flags.DEFINE_integer(
    "best_of", None, "draw so many, and give the one that --reward likes most", 2
)
REWARD = absl_flags.DEFINE_string(
    "reward", None, "a reward model's workdir, or MODULE:FUNCTION"
)
WEIGHTS = absl_flags.DEFINE_enum(
    "weights", "float32", quantise.DTYPES, "what weights are held in"
)
CACHE = absl_flags.DEFINE_enum(
    "cache_dtype", "float32", quantise.DTYPES, "what keys and values are kept in"
)
JSON = absl_flags.DEFINE_boolean("json", False, "print {ids, text, ...} a line")
COMPUTE = flags.define("compute", ComputeConfig(dtype="float32"))

Answer = dict[str, Any]  # what --json prints


class Opened(NamedTuple):
    """A model, ready to run."""

    cfg: ModelConfig
    model: Model
    params: Params
    tokenizer: Tokenizer | None
    endings: load.Endings


class Writer:
    """One continuation: its ids and its text, printed as they come if `at_once`."""

    def __init__(self, opened: Opened, prompt_ids: list[int], at_once: bool = False):
        tokenizer = opened.tokenizer
        self._at_once = at_once
        before = prompt_ids if opened.cfg.encoder is None else ()
        self._stream = tokenizer and TextStream(tokenizer, STOP.value, before)
        self._answer: Answer = {"ids": [], "text": ""}
        if self._at_once:
            print(prompt_text(opened, prompt_ids), end="", flush=True)

    @property
    def ended(self) -> bool:
        return self._stream is not None and self._stream.stopped

    def write(self, token: int) -> None:
        if not self.ended:
            self._answer["ids"].append(token)
            self._add(self._stream and self._stream.push(token))

    def close(self, **more: Any) -> Answer:
        """All there is, and `more` that is known about it."""
        self._add(self._stream and self._stream.close())
        if self._at_once:
            print()
        return self._answer | more

    def _add(self, text: str | None) -> None:
        self._answer["text"] += text or ""
        if self._at_once:
            print(text, end="", flush=True)


def main():
    sampling = SAMPLING()
    if not MODEL.value:
        raise ValueError("--model is needed: a folder, a .gguf file or a workdir")
    host.start()
    opened = open_model(MODEL.value, ADAPTER.value)
    prompt_ids = read_prompt(opened.cfg, opened.tokenizer)
    run = choose(opened)
    answers = run(opened, prompt_ids, sampling)
    if JSON.value:
        print("\n".join(map(json.dumps, answers)))
    elif opened.tokenizer is None:
        print("\n".join(",".join(map(str, answer["ids"])) for answer in answers))
    elif run is not follow or NUM_SAMPLES.value > 1:  # it has not been shown as it came
        start = "" if opened.cfg.encoder else prompt_text(opened, prompt_ids)
        print("\n".join(start + answer["text"] for answer in answers))


def open_model(path: str, adapter: str | None = None) -> Opened:
    loaded = load.load(path)
    if adapter:
        loaded = load.merge_adapter(adapter, loaded)
    cfg, params, tokenizer = loaded
    params = quantise.narrow(params, WEIGHTS.value)
    params = steps.by_layer(jax.device_put(params))
    endings = load.endings(path)
    stop_ids = set(endings.stop_ids)
    if tokenizer is not None and tokenizer.eos_id is not None:
        stop_ids.add(tokenizer.eos_id)
    endings = endings._replace(stop_ids=tuple(sorted(stop_ids)))
    return Opened(cfg, transformer.make(cfg, COMPUTE()), params, tokenizer, endings)


def choose(opened: Opened):
    """Which of the functions below the flags ask for."""
    if STOP.value and opened.tokenizer is None:
        raise ValueError(f"--stop: {MODEL.value} has no tokenizer.json, so no text")
    if BEST_OF.value is not None:
        check_best_of(opened)
        return best
    if REWARD.value:
        raise ValueError("--reward chooses among several: give it --best_of=N")
    if NUM_BEAMS.value > 1:
        return search
    if DRAFT.value:
        return speculate
    return follow if opened.cfg.encoder is None else translate


def follow(opened: Opened, prompt_ids: list[int], sampling) -> list[Answer]:
    """Token by token, so that a text is shown as it comes."""
    check_fits(len(prompt_ids), MAX_NEW_TOKENS.value, opened.cfg.context)
    num_tokens = len(prompt_ids) + MAX_NEW_TOKENS.value
    engine = Engine(
        opened.model, opened.params, vocab_size=opened.cfg.vocab_size,
        num_slots=NUM_SAMPLES.value, cache_dtype=CACHE.value,
        # Rounded up, so that prompts of about one length share what is compiled.
        num_tokens=-(-num_tokens // ROUND_TOKENS) * ROUND_TOKENS,
    )  # fmt: skip
    request = Request(
        tuple(prompt_ids), MAX_NEW_TOKENS.value, sampling, opened.endings.stop_ids,
        num_samples=NUM_SAMPLES.value,
    )  # fmt: skip
    at_once = NUM_SAMPLES.value == 1 and not JSON.value and opened.tokenizer is not None
    writers = [Writer(opened, prompt_ids, at_once) for _ in range(NUM_SAMPLES.value)]
    log_probs: list[list[float]] = [[] for _ in writers]
    number = engine.submit(request)
    while (engine.num_active or engine.num_waiting) and not all(
        writer.ended for writer in writers
    ):
        for token in engine.step():
            if token.finish != "stop":
                writers[token.sample].write(token.token)
                log_probs[token.sample].append(token.log_prob)
    engine.cancel(number)
    return [
        writer.close(log_probs=found)
        for writer, found in zip(writers, log_probs, strict=True)
    ]


def translate(opened: Opened, prompt_ids: list[int], sampling) -> list[Answer]:
    """What an encoder-decoder makes of the source."""
    found = generate(
        opened.model, opened.params, sampling=sampling, num_samples=NUM_SAMPLES.value,
        **shared(opened, prompt_ids),
    )  # fmt: skip
    return [write(opened, prompt_ids, ids) for ids in found]


def check_best_of(opened: Opened) -> None:
    """Raises ValueError for flags that cannot be with --best_of."""
    flag = f"--best_of={BEST_OF.value}"
    if not REWARD.value:
        raise ValueError(f"{flag} needs --reward: a workdir, or MODULE:FUNCTION")
    if NUM_BEAMS.value > 1 or DRAFT.value or NUM_SAMPLES.value > 1:
        raise ValueError(f"{flag}: not with --num_beams, --draft or --num_samples")
    if not SAMPLING().temperature:
        raise ValueError(f"{flag}: --temperature=0 draws all alike; give it 1, say")
    if opened.tokenizer is None:
        raise ValueError(f"{flag}: {MODEL.value} has no tokenizer.json, so no text")


def best(opened: Opened, prompt_ids: list[int], sampling) -> list[Answer]:
    """The best of --best_of draws; for --json all of them, the best first."""
    reward = scores.load(REWARD.value)
    found = generate(
        opened.model, opened.params, sampling=sampling, num_samples=BEST_OF.value,
        **shared(opened, prompt_ids),
    )  # fmt: skip
    drawn = [write(opened, prompt_ids, ids) for ids in found]
    texts = [answer["text"] for answer in drawn]
    ranked = best_of.rank(reward, prompt_text(opened, prompt_ids), texts)
    print(
        f"the best of {BEST_OF.value} scores {ranked[0].score:.4g}, their mean "
        f"{np.mean([one.score for one in ranked]):.4g}; that is at most "
        f"{best_of.most_kl(BEST_OF.value):.3f} nats of KL from one draw",
        file=sys.stderr,
    )
    shown = ranked if JSON.value else ranked[:1]
    return [drawn[one.place] | {"score": one.score} for one in shown]


def search(opened: Opened, prompt_ids: list[int], _) -> list[Answer]:
    """The likeliest texts; --num_samples of them."""
    [found] = beam_search(
        opened.model, opened.params, num_beams=NUM_BEAMS.value,
        length_penalty=LENGTH_PENALTY.value, num_returned=NUM_SAMPLES.value,
        **shared(opened, prompt_ids),
    )  # fmt: skip
    return [write(opened, prompt_ids, ids, score=score) for ids, score in found]


def speculate(opened: Opened, prompt_ids: list[int], sampling) -> list[Answer]:
    """As without guessing ahead, sooner where guesses are good."""
    if DRAFT.value == "lookup":
        guesses = draft.from_text()
    else:
        other = open_model(DRAFT.value)
        if other.cfg.vocab_size != opened.cfg.vocab_size:
            raise ValueError(
                f"--draft={DRAFT.value} has a vocabulary of {other.cfg.vocab_size}, "
                f"{MODEL.value} one of {opened.cfg.vocab_size}: they must be the same"
            )
        guesses = draft.from_model(other.model, other.params)
    found = speculative.speculate(
        opened.model, opened.params, draft=guesses, num_drafts=NUM_DRAFTS.value,
        sampling=sampling, **shared(opened, prompt_ids),
    )  # fmt: skip
    rate = {"acceptance_rate": round(found.acceptance_rate, 3)}
    return [write(opened, prompt_ids, ids, **rate) for ids in found.ids]


def shared(opened: Opened, prompt_ids: list[int]) -> dict[str, Any]:
    """The options that all ways to generate have."""
    options = dict(
        prompts=[prompt_ids], max_new_tokens=MAX_NEW_TOKENS.value,
        context=opened.cfg.context, stop_ids=opened.endings.stop_ids,
        cache_dtype=CACHE.value,
    )  # fmt: skip
    if opened.cfg.encoder is not None:
        start, num_forced = [opened.cfg.start_id], opened.endings.last_id is not None
        if opened.endings.first_id is not None:
            start.append(opened.endings.first_id)
            num_forced += 1
        options |= dict(
            prompts=[start], sources=[prompt_ids],
            max_new_tokens=max(MAX_NEW_TOKENS.value - num_forced, 0),
        )  # fmt: skip
    return options


def write(opened: Opened, prompt_ids: list[int], ids: list[int], **more) -> Answer:
    writer = Writer(opened, prompt_ids)
    if opened.cfg.encoder is not None and opened.endings.first_id is not None:
        ids = [opened.endings.first_id, *ids]
    for token in ids:
        writer.write(token)
    return writer.close(**more)


def prompt_text(opened: Opened, prompt_ids: list[int]) -> str:
    return PROMPT.value or opened.tokenizer.decode(prompt_ids)


def read_prompt(cfg, tokenizer) -> list[int]:
    """The ids of --prompt or --prompt_ids, if the model can take them."""
    if (PROMPT.value is None) == (PROMPT_IDS.value is None):
        raise ValueError("give either --prompt or --prompt_ids")
    if PROMPT_IDS.value is not None:
        try:
            ids = [int(text) for text in PROMPT_IDS.value]
        except ValueError:
            text = ",".join(PROMPT_IDS.value)
            raise ValueError(f"--prompt_ids={text}: not numbers") from None
    elif tokenizer is None:
        raise ValueError(f"{MODEL.value} has no tokenizer.json: give --prompt_ids")
    else:
        ids = tokenizer.encode(PROMPT.value)
        start_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if tokenizer.bos_id is not None or not (ids or cfg.encoder):
            ids = [start_id, *ids]
        if cfg.encoder is not None:
            ids = [*ids, tokenizer.eos_id]  # a source is whole, and says so
    vocab_size = (cfg.encoder or cfg).vocab_size
    bad = [token for token in ids if not 0 <= token < vocab_size]
    if bad:
        raise ValueError(f"id {bad[0]} is outside the vocabulary of {vocab_size}")
    return ids


if __name__ == "__main__":
    flags.run(main)
