"""What a model answers to held-out prompts, beside what it should."""

from collections.abc import Mapping, Sequence

from llmjax.config import ModelConfig
from llmjax.data.chat_corpus import ChatCorpus
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.text import generate
from llmjax.types import Model, Params

MOST_NEW_TOKENS = 64


class Interview:
    """The first held-out prompts that leave room for an answer, to be put to a model.

    An answer has MOST_NEW_TOKENS at most, and a quarter of the context.
    """

    def __init__(
        self,
        model: Model,
        cfg: ModelConfig,
        corpus: ChatCorpus,
        tokenizer: Tokenizer,
        num_prompts: int = 6,
    ):
        self._model, self._corpus, self._tokenizer = model, corpus, tokenizer
        self._context = max(one.context for one in (cfg, cfg.encoder) if one)
        self._has_source = cfg.encoder is not None
        self._num_new = min(MOST_NEW_TOKENS, cfg.context // 4)
        room = cfg.context - self._num_new
        fitting = (
            example
            for example in corpus.held_out
            if 0 < len(corpus.validation.ask(example)[0]) <= room
        )
        self._asked = [one for one, _ in zip(fitting, range(num_prompts), strict=False)]

    def ask(self, params: Params) -> list[str]:
        """The likeliest first answer to each prompt, up to its end."""
        if not self._asked:
            return []
        asked = [self._corpus.validation.ask(example) for example in self._asked]
        prompts, sources = zip(*asked, strict=True)
        found = generate(
            self._model, params, prompts, max_new_tokens=self._num_new,
            context=self._context, stop_ids=self._corpus.stop_ids,
            sources=sources if self._has_source else None,
        )  # fmt: skip
        return [self._tokenizer.decode(ids) for ids in found]

    def table(self, answers: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
        """Prompt, reference, and the answers by who gave them, prompt by prompt."""
        rows = []
        for number, example in enumerate(self._asked):
            _, turn = next(example.turns())
            rows.append(
                {
                    "prompt": self._tokenizer.decode(example.prompt_ids),
                    "reference": self._tokenizer.decode(turn.tolist()),
                }
                | {name: texts[number] for name, texts in answers.items()}
            )
        return rows
