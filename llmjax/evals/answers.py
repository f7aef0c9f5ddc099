"""What a model answers to held-out prompts, beside what it should."""

from collections.abc import Sequence

from llmjax.config import ModelConfig
from llmjax.data.chat_corpus import ChatCorpus
from llmjax.data.chat_rows import Example
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.text import generate
from llmjax.types import Model, Params


def choose(
    corpus: ChatCorpus, cfg: ModelConfig, max_new_tokens: int, num: int = 6
) -> list[Example]:
    """The first held-out conversations whose prompt leaves room for an answer."""
    room = cfg.context - max_new_tokens
    fitting = (
        example
        for example in corpus.held_out
        if 0 < len(corpus.validation.ask(example)[0]) <= room
    )
    return [example for example, _ in zip(fitting, range(num), strict=False)]


def answer(
    model: Model,
    params: Params,
    examples: Sequence[Example],
    corpus: ChatCorpus,
    tokenizer: Tokenizer,
    cfg: ModelConfig,
    max_new_tokens: int,
) -> list[str]:
    """The likeliest first answer to each, up to its end."""
    if not examples:
        return []
    asked = [corpus.validation.ask(example) for example in examples]
    prompts, sources = zip(*asked, strict=True)
    longest = max(cfg.context, cfg.encoder.context if cfg.encoder else 0)
    found = generate(
        model, params, prompts, max_new_tokens=max_new_tokens, context=longest,
        stop_ids=corpus.stop_ids, sources=sources if cfg.encoder else None,
    )  # fmt: skip
    return [tokenizer.decode(ids) for ids in found]


def compare(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    answers: dict[str, Sequence[str]],
) -> list[dict[str, str]]:
    """The rows of a table: prompt, reference, and the answers by who gave them."""
    rows = []
    for number, example in enumerate(examples):
        _, turn = next(example.turns())
        rows.append(
            {
                "prompt": tokenizer.decode(example.prompt_ids),
                "reference": tokenizer.decode(turn.tolist()),
            }
            | {name: texts[number] for name, texts in answers.items()}
        )
    return rows
