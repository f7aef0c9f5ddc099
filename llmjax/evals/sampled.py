"""Answers drawn from a model, to be compared: by a person, or by a gold scorer."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from llmjax.data import chat, comparisons
from llmjax.data.comparisons import Comparison
from llmjax.data.template import Messages
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.text import generate
from llmjax.types import Model, Params

PROMPTS_AT_ONCE = 8


def draw_answers(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    form: str,
    prompts: Iterable[Messages],
    *,
    num_answers: int,
    max_new_tokens: int,
    context: int,
    sampling: SamplingConfig,
) -> Iterator[tuple[Messages, list[str]]]:
    """Each prompt, with so many answers of the model to it in the chat template `form`.

    Some of them may be alike, or empty.
    """
    stop_ids, seed = chat.stop_ids(tokenizer, form), sampling.seed
    prompts = list(prompts)
    for first in range(0, len(prompts), PROMPTS_AT_ONCE):
        some = prompts[first : first + PROMPTS_AT_ONCE]
        how = SamplingConfig(**{**vars(sampling), "seed": seed + first * num_answers})
        ids = generate(
            model, params, [chat.prompt_ids(tokenizer, form, one) for one in some],
            max_new_tokens=max_new_tokens, context=context, stop_ids=stop_ids,
            sampling=how, num_samples=num_answers,
        )  # fmt: skip
        texts = list(map(tokenizer.decode, ids))
        for number, prompt in enumerate(some):
            yield prompt, texts[number * num_answers : (number + 1) * num_answers]


def compare(
    answered: Iterable[tuple[Messages, Sequence[str]]],
    gold: Callable[[Messages, str], float],
    *,
    seed: int = 0,
    strength: float = np.inf,
    flips: float = 0.0,
) -> Iterator[Comparison]:
    """Comparisons of drawn answers by a gold scorer that errs as `comparisons.judge`.

    Of answers that are alike one is kept, and empty ones are left out, as are prompts
    with fewer than two that remain, or of which the gold scorer prefers none.
    """
    rng = np.random.default_rng(seed)
    for number, (prompt, texts) in enumerate(answered):
        texts = different(texts)
        scores = [float(gold(prompt, text)) for text in texts]
        if len(set(scores)) < 2:
            continue
        ranks = comparisons.judge(scores, rng, strength=strength, flips=flips)
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        where = f"sampled:{number}"
        yield Comparison(where, list(prompt), answers, ranks, gold=scores)


def different(texts: Sequence[str]) -> list[str]:
    """The texts that say something, each once."""
    return [text for text in dict.fromkeys(texts) if text.strip()]
