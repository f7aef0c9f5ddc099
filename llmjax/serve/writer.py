"""A decoder that writes for clients: its engine, tokenizer and chat template."""

import asyncio
import copy
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from llmjax.data import chat
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.engine import Engine, Request
from llmjax.generate.text import check_fits
from llmjax.serve.errors import ApiError
from llmjax.serve.limits import Limits
from llmjax.serve.protocol import Call, Prompt
from llmjax.serve.worker import Worker


class Writer:
    """Turns calls into what the engine does.

    Prompts are tokenized in a thread of their own, by a tokenizer of their own, so that
    a long one holds up nobody else's answer.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, template: str | None):
        self.worker = Worker(engine)
        self.tokenizer = tokenizer
        self.template = template
        self.num_tokens = engine.num_tokens
        self._stop_ids = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
        self._chat_stop_ids = template and chat.stop_ids(tokenizer, template)
        self._encoder = copy.deepcopy(tokenizer)
        self._thread = ThreadPoolExecutor(1, "tokenizer")

    async def prepare(
        self, call: Call, limits: Limits, *, adapter: int | None = None
    ) -> list[Request]:
        """The engine's request for each prompt, for the adapter of that number.

        Raises ApiError for messages that the template refuses, and for what is longer
        than the limits allow.
        """
        if call.is_chat and self.template is None:
            raise ApiError(400, "this model has no chat template; use /v1/completions")
        loop = asyncio.get_running_loop()
        requests = await loop.run_in_executor(self._thread, self._prepare, call, limits)
        return [dataclasses.replace(one, adapter=adapter) for one in requests]

    def _prepare(self, call: Call, limits: Limits) -> list[Request]:
        return [
            self._request(call, tuple(self._encode(call, prompt)), limits)
            for prompt in call.prompts
        ]

    def _encode(self, call: Call, prompt: Prompt) -> Sequence[int]:
        if call.is_chat:
            try:
                return chat.prompt_ids(self._encoder, self.template, prompt)
            except ValueError as error:  # what the template says of the messages
                raise ApiError(400, str(error), param="messages") from None
        if not isinstance(prompt, str):
            return prompt
        ids = self._encoder.encode(prompt)
        if self._encoder.bos_id is not None:
            return [self._encoder.bos_id, *ids]
        return ids or self._stop_ids  # from the end of a text, the start of another

    def _request(self, call: Call, ids: tuple[int, ...], limits: Limits) -> Request:
        fits = max(1, min(limits.max_new_tokens, self.num_tokens - len(ids)))
        max_new_tokens = call.max_new_tokens or fits
        try:
            check_fits(len(ids), max_new_tokens, self.num_tokens)
            if len(ids) > limits.max_prompt_tokens:
                raise ValueError(
                    f"a prompt of {len(ids)} tokens; this server reads at most "
                    f"{limits.max_prompt_tokens}"
                )
        except ValueError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from None
        return Request(
            prompt_ids=ids,
            max_new_tokens=max_new_tokens,
            sampling=call.sampling,
            stop_ids=self._chat_stop_ids if call.is_chat else self._stop_ids,
            logit_bias=call.logit_bias,
            num_samples=call.num_samples,
            num_top=call.num_top or 0,
        )
