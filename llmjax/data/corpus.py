"""From a data config to packed rows: tokenizer and token stores, made once and kept."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from llmjax.config import field
from llmjax.data import sources, store
from llmjax.data.mixture import Mixture
from llmjax.data.pack import Packed
from llmjax.data.tokenizer import Tokenizer, load_tokenizer, train_bpe

SAMPLE_BYTES = 2**24  # of text, about, that a new tokenizer is trained on


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Which text is learned, and in which tokens."""

    source: str = field(
        "stdlib",
        "files, folders, globs by comma, or stdlib; or a folder made by "
        "tools/tokenize_corpus.py; ';' between mixed sources",
    )
    weights: tuple[float, ...] = field((), "of the mixed sources; (): by their size")
    column: str = field("text", "which field of .jsonl and .parquet is the text")
    tokenizer: str = field(
        "bpe", "bpe: train one, or take a tokenized source's; bytes; a tokenizer.json"
    )
    vocab_size: int = field(4096, "of a BPE that is trained")
    validation_fraction: float = field(0.02, "share of the documents held out")


# Sees the texts of a task ("tokenizer", "train" or "validation") go by: for a progress
# bar.
Watch = Callable[[Iterator[str], str], Iterable[str]]


class Corpus(NamedTuple):
    """Text ready for training: rows of `context` tokens, to learn and held out."""

    tokenizer: Tokenizer
    train: Packed | Mixture
    validation: Packed
    num_bytes: int  # of the training text

    def prompts(self) -> list[str]:
        """Openings to complete: code for the standard library, else held-out text."""
        longest = self.validation.context // 4
        if self.validation.store.meta.source == sources.STDLIB:
            known = ["def read_file(path):\n", "import ", "class Queue:\n    "]
            return [
                text for text in known if len(self.tokenizer.encode(text)) <= longest
            ]
        documents = self.validation.store
        stop = 1 + min(16, longest)
        starts = [documents.document(i)[1:stop] for i in range(min(3, len(documents)))]
        return [self.tokenizer.decode(start.tolist()) for start in starts]

    def held_out_texts(self) -> Iterator[str]:
        """The validation documents, back in text."""
        documents = self.validation.store
        for index in range(len(documents)):
            yield self.tokenizer.decode(documents.document(index)[1:-1].tolist())


def prepare(
    cfg: TextConfig, folder: Path, context: int, *, is_first: bool = True
) -> Corpus:
    """The corpus of `cfg`, tokenized under `folder` unless it lies there already.

    What lies there is named by all that it depends on but the text itself: a run that
    is resumed sees the text that it began with. Of several processes on one file
    system, only the first writes; the others wait for it.
    """
    tokenizer = _tokenizer(cfg, folder / "tokenizer.json", is_first)
    specs = [spec.strip() for spec in cfg.source.split(";")]
    train, held_out = [], []
    for spec in specs:
        for split, stores in (("train", train), ("validation", held_out)):
            if _is_tokenized(spec):
                path = Path(spec).expanduser() / split
            else:
                path = folder / "data" / _store_name(cfg, spec, split, tokenizer)
                if is_first and not path.exists():
                    _tokenize(cfg, spec, split, tokenizer, path)
                _wait_for(path)
            stores.append(Packed(_open(path, tokenizer), context))
    num_bytes = sum(packed.store.meta.num_bytes for packed in train)
    if len(train) == 1:
        return Corpus(tokenizer, train[0], held_out[0], num_bytes)
    weights = cfg.weights or tuple(len(packed) for packed in train)
    return Corpus(tokenizer, Mixture(train, weights), held_out[0], num_bytes)


def tokenize(
    cfg: TextConfig, folder: Path, *, watch: Watch = lambda texts, task: texts
) -> None:
    """Makes a folder that can be a source: tokenizer.json, train/ and validation/.

    It appears whole or not at all. Raises ValueError where it exists already, and what
    `documents` raises.
    """
    with store.new_folder(folder) as new:
        if cfg.tokenizer == "bpe":
            tokenizer = train_bpe(watch(_sample(cfg), "tokenizer"), cfg.vocab_size)
        else:
            tokenizer = load_tokenizer(cfg.tokenizer)
        tokenizer.save(new / "tokenizer.json")
        for split in ("train", "validation"):
            _tokenize(cfg, cfg.source, split, tokenizer, new / split, watch)


def _is_tokenized(spec: str) -> bool:
    return (Path(spec).expanduser() / "train" / store.META).is_file()


def _open(path: Path, tokenizer: Tokenizer) -> store.Store:
    opened = store.open_store(path)
    if opened.meta.tokenizer != tokenizer.fingerprint:
        raise ValueError(
            f"{path}: not in the tokens of this run's tokenizer; tokenize it with that"
        )
    return opened


def _tokenizer(cfg: TextConfig, path: Path, is_first: bool) -> Tokenizer:
    name = cfg.tokenizer
    tokenized = filter(_is_tokenized, map(str.strip, cfg.source.split(";")))
    if name == "bpe":  # a tokenized source brings its own
        name = next(tokenized, name)
    if name != "bpe":
        tokenizer = load_tokenizer(name)
        if is_first:
            tokenizer.save(path)
        return tokenizer
    if is_first and not path.exists():
        train_bpe(_sample(cfg), cfg.vocab_size).save(path)
    _wait_for(path.with_name("tokenizer_config.json"))
    return load_tokenizer(path)


def _sample(cfg: TextConfig) -> Iterator[str]:
    """Training documents spread evenly over all sources, `SAMPLE_BYTES` or all."""
    specs = [spec.strip() for spec in cfg.source.split(";")]
    share = SAMPLE_BYTES / max(1, sum(map(sources.size_bytes, specs)))
    due = 1.0  # a document is taken each time that the shares add up to one
    for spec in specs:
        for text in _documents(cfg, spec, "train"):
            if due >= 1.0:
                due -= 1.0
                yield text
            due += min(share, 1.0)


def _documents(cfg: TextConfig, spec: str, split: sources.Split) -> Iterator[str]:
    return sources.documents(
        spec.strip(),
        column=cfg.column,
        split=split,
        validation_fraction=cfg.validation_fraction,
    )


def _store_name(cfg: TextConfig, spec: str, split: str, tokenizer: Tokenizer) -> str:
    parts = (spec, cfg.column, cfg.validation_fraction, tokenizer.fingerprint)
    return f"{split}-{hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()}"


def _tokenize(
    cfg: TextConfig,
    spec: str,
    split: sources.Split,
    tokenizer: Tokenizer,
    path: Path,
    watch: Watch = lambda texts, task: texts,
) -> None:
    texts = watch(_documents(cfg, spec, split), split)
    store.write_store(
        path,
        tokenizer.encode_documents(texts),
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.fingerprint,
        source=spec,
    )


def _wait_for(path: Path, timeout_secs: float = 3600.0) -> None:
    """Returns once the first process has put `path` in its place."""
    deadline = time.monotonic() + timeout_secs
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{path} did not appear: is the folder shared by all hosts?"
            )
        time.sleep(0.5)
