"""Talks with a model in the terminal, in the words of its own chat template.

    python tools/chat.py --model=smollm2
    python tools/chat.py --model=DIR --system="Answer in French." --temperature=0
    echo "What is the capital of France?" | python tools/chat.py --model=DIR

Ctrl-C ends an answer, Ctrl-D the conversation; /help lists the commands.
"""

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags as absl_flags

from llmjax import flags, host, load
from llmjax.config import ComputeConfig
from llmjax.data import chat
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.engine import Engine, Request
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.stream import TextStream
from llmjax.models import quantise, transformer

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
TEMPLATE = absl_flags.DEFINE_string(
    "template", None, "a file with a chat template, instead of the model's own"
)
SYSTEM = absl_flags.DEFINE_string("system", "", "what the model is told at first")
MAX_NEW_TOKENS = absl_flags.DEFINE_integer(
    "max_new_tokens", 512, "longest answer; at most half a conversation", 1
)
NUM_TOKENS = absl_flags.DEFINE_integer(
    "num_tokens", 2048, "longest conversation; at most the model's context", 1
)
# A small model does not stay with its subject for long at more than this.
SAMPLING = flags.define("", SamplingConfig(temperature=0.2, top_p=0.9))
WEIGHTS = absl_flags.DEFINE_enum(
    "weights", "float32", quantise.DTYPES, "what weights are held in"
)
CACHE_DTYPE = absl_flags.DEFINE_enum(
    "cache_dtype", "float32", quantise.DTYPES, "what keys and values are kept in"
)
COMPUTE = flags.define("compute", ComputeConfig())

HELP = """\
/reset         forget the conversation
/system TEXT   tell the model this at first, and begin anew; without TEXT, nothing
/help          this
/quit          end, as Ctrl-D does; Ctrl-C ends an answer"""


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A model, and how it speaks."""

    engine: Engine
    tokenizer: Tokenizer
    template: str
    stop_ids: tuple[int, ...]
    sampling: SamplingConfig
    max_new_tokens: int


def main() -> None:
    speaker = open_speaker()
    print(f"{Path(MODEL.value).name}: /help lists the commands")
    messages = first_messages(SYSTEM.value)
    for line in read_lines():
        command, _, text = line.partition(" ")
        if command == "/quit":
            break
        if command == "/help":
            print(HELP)
        elif command == "/reset":
            messages = [message for message in messages if message["role"] == "system"]
        elif command == "/system":
            messages = first_messages(text)
        elif command.startswith("/"):
            print(f"{command}: no such command; /help lists them")
        elif line:
            messages = talk(speaker, messages, line)


def open_speaker() -> Speaker:
    """The model of --model, ready to answer."""
    if not MODEL.value:
        raise ValueError("--model is needed: a folder, a .gguf file or a workdir")
    sampling, compute = SAMPLING(), COMPUTE()
    host.start()
    cfg, params, tokenizer = load.load(MODEL.value)
    if cfg.structure != "decoder" or cfg.encoder is not None:
        raise ValueError(f"{MODEL.value}: only a decoder alone can talk")
    if tokenizer is None:
        raise ValueError(f"{MODEL.value}: no tokenizer.json, so there are no words")
    template, num_tokens = read_template(), min(NUM_TOKENS.value, cfg.context)
    engine = Engine(
        transformer.make(cfg, compute),
        jax.device_put(quantise.narrow(params, WEIGHTS.value)),
        vocab_size=cfg.vocab_size,
        num_slots=1,
        num_tokens=num_tokens,
        cache_dtype=CACHE_DTYPE.value,
    )
    engine.warm_up()
    return Speaker(
        engine, tokenizer, template, chat.stop_ids(tokenizer, template), sampling,
        min(MAX_NEW_TOKENS.value, num_tokens // 2),
    )  # fmt: skip


def read_template() -> str:
    """The text of --template, or what came with the model."""
    if TEMPLATE.value:
        return Path(TEMPLATE.value).expanduser().read_text(encoding="utf-8")
    template = load.chat_template(MODEL.value)
    if template is None:
        raise ValueError(
            f"{MODEL.value}: no chat template, so it has hardly learned to talk; give "
            "--template=FILE, or let tools/generate.py continue a text"
        )
    return template


def first_messages(system: str) -> list[dict]:
    """A conversation before its first question."""
    return [{"role": "system", "content": system}] if system else []


def read_lines() -> Iterator[str]:
    """What is typed or piped in, line by line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (from here on, `input` lets one edit a line)
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not sys.stdin.isatty():
            print(line)  # a terminal has shown it
        yield line.strip()


def talk(speaker: Speaker, messages: list[dict], question: str) -> list[dict]:
    """The conversation with the question and, printed as it comes, its answer."""
    asked = [*messages, {"role": "user", "content": question}]
    try:
        asked, prompt_ids = fit(speaker, asked)
    except ValueError as error:  # of the question, which can be put in another way
        print(f"error: {error}")
        return messages
    return [*asked, {"role": "assistant", "content": answer(speaker, prompt_ids)}]


def fit(speaker: Speaker, messages: list[dict]) -> tuple[list[dict], list[int]]:
    """(messages, their ids), without the oldest turns if there is no room for all."""
    first = int(messages[0]["role"] == "system")
    room = speaker.engine.num_tokens - speaker.max_new_tokens
    num_forgotten = 0
    while True:
        ids = chat.prompt_ids(speaker.tokenizer, speaker.template, messages)
        if len(ids) <= room:
            break
        if len(messages) == first + 1:
            raise ValueError(
                f"{len(ids)} tokens, and room for {max(room, 0)}: a context of "
                f"{speaker.engine.num_tokens}, of which --max_new_tokens is "
                f"{speaker.max_new_tokens}"
            )
        messages = messages[:first] + messages[first + 2 :]
        num_forgotten += 1
    if num_forgotten:
        print(f"[full: forgets the oldest {num_forgotten} of the questions]")
    return messages, ids


def answer(speaker: Speaker, prompt_ids: list[int]) -> str:
    """What the model says, printed as it comes, and how fast that was."""
    stream, text, num_tokens, finish = TextStream(speaker.tokenizer), "", 0, None
    start_secs = first_secs = time.perf_counter()
    request = Request(
        tuple(prompt_ids), speaker.max_new_tokens, speaker.sampling, speaker.stop_ids
    )
    number = speaker.engine.submit(request)
    with interruptible() as interrupted:
        while finish is None and not interrupted.is_set():
            for token in speaker.engine.step():
                finish, num_tokens = token.finish, num_tokens + 1
                if num_tokens == 1:
                    first_secs = time.perf_counter()
                piece = "" if finish == "stop" else stream.push(token.token)
                print(piece, end="", flush=True)
                text += piece
    speaker.engine.cancel(number)
    rest = stream.close()
    print(rest)
    secs = time.perf_counter() - first_secs
    speed = f", {(num_tokens - 1) / secs:.1f} tokens/s" if num_tokens > 1 else ""
    cut = {"stop": "", "length": "; cut, by --max_new_tokens", None: "; cut"}[finish]
    waited = f"the first after {first_secs - start_secs:.2f} s"
    print(f"[{num_tokens} tokens{speed}, {waited}{cut}]\n")
    return text + rest


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, instead of breaking into what is being computed."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    flags.run(main)
