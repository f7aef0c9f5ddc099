"""Tokenizers: text to ids and back without loss, all through the `tokenizers` package.

Byte-level byte-pair encoding is that of Sennrich et al. (2016) on bytes, as in GPT-2.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
# The names under which known tokenizers keep their end, when no config says which.
END_NAMES = (END, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")

# Where merges end: a word takes one sign (".join", "_id") or the white space before it
# along, digits go by three, punctuation takes the white space on both sides: a line's
# end and the next one's indentation are one token. On Python's source this gives 9 %
# (vocabulary of 2,048) to 12 % (4,096) more bytes per token than the rule of GPT-2.
WORDS = r"(?:[^\s\p{L}\p{N}]|\s+)?\p{L}+| ?\p{N}{1,3}|\s*[^\s\p{L}\p{N}]+\s*|\s+"

BATCH_CHARS = 2**22  # encoded at once: enough for every core, little enough for memory


class Tokenizer:
    """A `tokenizers.Tokenizer`, with the ids of its control tokens.

    eos_id ends a document; bos_id begins one (None where the model has none); pad_id
    is the eos_id where the tokenizer names no padding.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        *,
        eos: str | None = None,
        bos: str | None = None,
        pad: str | None = None,
    ):
        self.core = core
        self.eos_id = core.token_to_id(eos) if eos else None
        self.bos_id = core.token_to_id(bos) if bos else None
        self.pad_id = core.token_to_id(pad) if pad else self.eos_id

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self.core.get_vocab(with_added_tokens=True).values())

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that do the same, in hexadecimal."""
        ids = (self.eos_id, self.bos_id, self.pad_id)
        text = self.core.to_str() + json.dumps(ids)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text, without a start or an end.

        special: names of control tokens in the text ("<|im_end|>") become those tokens,
        as a chat template wants. Otherwise they are text like any other, so that no
        document can end itself.
        """
        self.core.encode_special_tokens = not special
        return self.core.encode(text, add_special_tokens=False).ids

    def encode_framed(self, texts: Iterable[str], max_tokens: int) -> list[list[int]]:
        """The ids of each text within its frame, such as [CLS] and [SEP] of BERT.

        Which frame there is, if any, the tokenizer.json says. Of a longer text the end
        is left out, but never the frame.
        """
        self.core.encode_special_tokens = True
        self.core.enable_truncation(max_tokens)
        found = self.core.encode_batch(list(texts))
        self.core.no_truncation()
        return [encoding.ids for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, control tokens by name. Broken UTF-8 becomes U+FFFD."""
        return self.core.decode(list(ids), skip_special_tokens=False)

    def encode_documents(
        self, texts: Iterable[str]
    ) -> Iterator[tuple[np.ndarray, int]]:
        """(ids, number of UTF-8 bytes) of each text, encoded on all cores.

        The ids have a start (`bos_id`, else `eos_id`) and an end (`eos_id`), so that
        every token of the text is predicted from something, and then the end.
        """
        if self.eos_id is None:
            raise ValueError("this tokenizer names no end-of-text token; give it one")
        start_id = self.eos_id if self.bos_id is None else self.bos_id
        self.core.encode_special_tokens = True
        for batch in _batched(texts, BATCH_CHARS):
            found = self.core.encode_batch_fast(batch, add_special_tokens=False)
            for text, encoding in zip(batch, found, strict=True):
                ids = np.array([start_id, *encoding.ids, self.eos_id], np.int64)
                yield ids, len(text.encode())

    def token_bytes(self) -> np.ndarray:
        """[V] int32: the UTF-8 bytes of the text that each token stands for.

        Control tokens have none. Exact for byte-level tokenizers: the sum over a text's
        tokens is the length of the text. Tokens of a SentencePiece vocabulary are taken
        at their face: "▁" is a space, "<0x0A>" a byte.
        """
        sizes = np.zeros(self.vocab_size, np.int32)
        byte_level = isinstance(self.core.decoder, decoders.ByteLevel)
        for token, index in self.core.get_vocab(with_added_tokens=True).items():
            sizes[index] = _token_size_bytes(token, byte_level)
        for index, added in self.core.get_added_tokens_decoder().items():
            sizes[index] = 0 if added.special else len(added.content.encode())
        return sizes

    def save(self, path: str | os.PathLike) -> None:
        """Writes tokenizer.json, and beside it what its control tokens are."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_text(path, self.core.to_str(pretty=True))
        names = {
            f"{role}_token": self.core.id_to_token(index)
            for role in ("eos", "bos", "pad")
            if (index := getattr(self, f"{role}_id")) is not None
        }
        _write_text(
            path.with_name("tokenizer_config.json"), json.dumps(names, indent=2)
        )


def _token_size_bytes(token: str, byte_level: bool) -> int:
    if byte_level:
        return len(token)  # written with one character to a byte
    if len(token) == 6 and token.startswith("<0x"):
        return 1
    return len(token.replace("▁", " ").encode())


def byte_tokenizer() -> Tokenizer:
    """Ids 0..255 are the bytes of UTF-8; 256 is the end of a document."""
    vocab = {letter: byte for byte, letter in enumerate(_byte_letters())}
    core = tokenizers.Tokenizer(models.BPE(vocab, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([END])
    return Tokenizer(core, eos=END)


def _byte_letters() -> list[str]:
    """The printable character that byte-level vocabularies write for each byte.

    Printable Latin-1 stands for itself; the other bytes, in order, for U+0100 on.
    """
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(b) if b in kept else chr(256 + others.index(b)) for b in range(256)]


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` ids, the same each time for the same texts.

    Id 0 is `<|endoftext|>`, 1 to 256 are the bytes; the rest are learned.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size must be at least 257, got {vocab_size}")
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=_byte_letters(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return Tokenizer(core, eos=END)


def load_tokenizer(path_or_name: str | os.PathLike) -> Tokenizer:
    """`bytes`, a tokenizer.json, or a folder that holds one.

    The control tokens are those that tokenizer_config.json beside it names; without it,
    the end is the first of the usual names that the vocabulary holds.
    """
    if str(path_or_name) == "bytes":
        return byte_tokenizer()
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tokenizer; give 'bytes' or a file")
    try:
        core = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a tokenizer.json ({reason})") from error
    core.no_truncation()
    core.no_padding()
    names = _control_tokens(path.with_name("tokenizer_config.json"))
    vocab = core.get_vocab(with_added_tokens=True)
    usual = next((name for name in END_NAMES if name in vocab), None)
    names.setdefault("eos", usual)
    return Tokenizer(core, **names)


def _control_tokens(config: Path) -> dict[str, str]:
    """The end, start and padding tokens that a tokenizer_config.json names."""
    if not config.is_file():
        return {}
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{config}: not JSON ({error})") from error
    names = {}
    for role in ("eos", "bos", "pad"):
        token = fields.get(f"{role}_token")
        if token is not None:  # older files wrap the name: {"content": "</s>", ...}
            names[role] = token["content"] if isinstance(token, dict) else token
    return names


def _batched(texts: Iterable[str], batch_chars: int) -> Iterator[list[str]]:
    """Lists of texts of at least `batch_chars` in all, but for the last."""
    batch, num_chars = [], 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= batch_chars:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
