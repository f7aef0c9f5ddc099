"""Chat in tokens: from a conversation and a template to the ids that a model reads.

The templates themselves, and who may write what in them, are in `template`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmjax.data.template import Messages, Piece, render
from llmjax.data.tokenizer import Tokenizer

ANSWER = "ANSWER"  # stands for an answer where only what surrounds it counts

# The templates of `named`, by a control token without which they make no sense.
NEEDS = {
    "chatml": "<|im_start|>",
    "llama3": "<|start_header_id|>",
    "gemma": "<start_of_turn>",
    "plain": None,
}


def find(folder: str | os.PathLike) -> str | None:
    """The template that lies in a model's folder, if there is one.

    It has a file of its own, or is a field in a JSON file; of several the default one.
    """
    folder = Path(folder)
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for file in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}: not JSON ({error})") from error
        if isinstance(found, list):
            found = {one["name"]: one["template"] for one in found}.get("default")
        if found is not None:
            return found
    return None


def named(name: str) -> str:
    """One of the templates that are part of llmjax; see NEEDS."""
    return Path(__file__).with_name(f"{name}.jinja").read_text(encoding="utf-8")


def choose(name: str, tokenizer: Tokenizer, own: str | None) -> str:
    """The template `auto`, of a name of NEEDS, or in a file.

    auto: the model's `own`; without one, the first for which the tokenizer has the
      control tokens. That of no control tokens but the text's end is "plain".
    """
    vocab = tokenizer.core.get_vocab(with_added_tokens=True)
    if name == "auto" and own is not None:
        return own
    if name == "auto":
        fitting = (one for one, token in NEEDS.items() if token in (None, *vocab))
        return named(next(fitting))
    if name not in NEEDS:
        return Path(name).expanduser().read_text(encoding="utf-8")
    if NEEDS[name] not in (None, *vocab):
        raise ValueError(
            f"the template {name} needs the token {NEEDS[name]}, which this tokenizer "
            "does not have; take another template"
        )
    return named(name)


def encode_chat(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of what `render` gives: control tokens by name, and none added.

    A message that spells the name of a control token is that token.
    """
    return tokenizer.encode(text, special=True)


def encode_pieces(
    tokenizer: Tokenizer, pieces: Sequence[Piece]
) -> tuple[list[int], list[bool]]:
    """(ids, whether each is trained) of a conversation's text.

    A piece's ids are those that the text with it has more than the text without it: the
    ids are those of the whole text. Where the end of one piece would melt into the next
    one, a new text begins: so it is when a model answers, whose prompt is encoded
    before there is an answer.
    """
    ids, is_trained = [], []
    text, known = "", []
    for piece in pieces:
        found = encode_chat(tokenizer, text + piece.text)
        if found[: len(known)] != known:
            text, known = "", []
            found = encode_chat(tokenizer, piece.text)
        new, text, known = found[len(known) :], text + piece.text, found
        ids += new
        is_trained += [piece.is_trained] * len(new)
    return ids, is_trained


def prompt_ids(
    tokenizer: Tokenizer, template: str, messages: Messages, **extra: Any
) -> list[int]:
    """The ids after which a model writes the next answer; see `render`."""
    text = render(template, messages, **names(tokenizer), **extra)
    return encode_chat(tokenizer, text)


def stop_ids(tokenizer: Tokenizer, template: str) -> tuple[int, ...]:
    """The ids that end an answer: the text's end, and what the template puts there.

    Llama 3, say, ends a turn with another token than a document.
    """
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": ANSWER},
    ]
    tokens = names(tokenizer)
    text = render(template, messages, add_generation_prompt=False, **tokens)
    after = encode_chat(tokenizer, text.rpartition(ANSWER)[2])
    ends = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    if after and after[0] in tokenizer.core.get_added_tokens_decoder():
        ends.append(after[0])
    return tuple(dict.fromkeys(ends))


def names(tokenizer: Tokenizer) -> dict[str, str | None]:
    """How a template may call a text's beginning and end: bos_token and eos_token."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    return {
        name: None if index is None else tokenizer.core.id_to_token(index)
        for name, index in ids.items()
    }
