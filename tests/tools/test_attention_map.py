"""tools/attention_map.py as a user runs it, on tiny models and on the real MiniLM."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from llmjax.interop import hf
from llmjax.models import transformer
from tests import programs

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
T5 = dict(
    model_type="t5", vocab_size=61, d_model=24, d_kv=6, d_ff=40, num_layers=2,
    num_decoder_layers=3, num_heads=4, decoder_start_token_id=2,
)  # fmt: skip


def run(*args):
    return programs.run("tools/attention_map.py", *args)


def write_tokenizer(folder):
    """Words of up to three letters are one token, longer ones two; id 2 is the end."""
    vocab = {"[UNK]": 0, "[PAD]": 1, "</s>": 2, "Nob": 3, "##el": 4, "who": 5, "op": 6}
    core = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(["[PAD]", "</s>"])
    core.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module", name="gpt2")
def _gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(GOLDEN / "gpt2", folder)
    write_tokenizer(folder)
    return folder


def page_data(folder):
    text = (folder / "attention.html").read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_a_decoder(gpt2, tmp_path):
    code, out, err = run(
        f"--model={gpt2}", "--text=Nobel who op", f"--output={tmp_path}", "--top=2"
    )
    assert code == 0, err
    assert {file.name for file in tmp_path.iterdir()} == {
        "attention.png",
        "attention.html",
    }
    [view] = page_data(tmp_path)["views"]
    assert [word["text"] for word in view["keys"]] == ["</s>", "Nobel", "who", "op"]
    weights = np.array(view["weights"])
    assert weights.shape == (3, 4, 4, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=3e-4)
    # Its second piece sees the first: only what comes after the word is hidden.
    assert (np.triu(weights, 1) == 0).all() and (weights[..., 1, 0] > 0).all()
    assert "mean of 3 layers, 4 heads" in out and out.count(" -> ") == 2


def test_an_encoder_decoder(tmp_path):
    folder = tmp_path / "t5"
    cfg = hf.config_from_json(T5)
    params = jax.jit(transformer.make(cfg).init)(jax.random.key(0))
    hf.save(folder, cfg, params, family="t5", config=T5)
    write_tokenizer(folder)
    code, out, err = run(
        f"--model={folder}", "--text=who op", "--target=Nobel", "--layer=1",
        f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    assert code == 0, err
    pictures = {"encoder.png", "cross.png", "decoder.png"}
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == pictures | {"attention.html"}
    encoder, cross, decoder = page_data(tmp_path / "out")["views"]
    assert np.shape(encoder["weights"]) == (2, 4, 2, 2)
    assert np.shape(cross["weights"]) == (3, 4, 2, 2) and not cross["self"]
    assert [word["text"] for word in cross["queries"]] == ["</s>", "Nobel"]
    assert [word["text"] for word in cross["keys"]] == ["who", "op"]
    assert np.shape(decoder["weights"]) == (3, 4, 2, 2)
    assert "cross-attention: mean of layer 1, 4 heads" in out


@pytest.mark.parametrize(
    "args, message",
    [
        (["--model=/nowhere"], "/nowhere: no model here"),
        ([f"--model={GOLDEN / 'gpt2'}"], "no tokenizer.json"),
        (["--model={}", "--text= "], "--text=' ': no words"),
        (["--model={}", "--text=" + "who " * 65], "66 words; a picture holds 64"),
        (["--model={}", "--text=" + "Nobel " * 20], "41 tokens; the model reads 29"),
        (["--model={}", "--text=who op", "--layer=3"], "--layer=3: of the self-atten"),
        (["--model={}", "--text=who op", "--head=-1"], "--head=-1: of the self-atten"),
        (["--model={}", "--text=who op", "--target=op"], "this model has no encoder"),
    ],
)
def test_bad_input_is_one_line(gpt2, tmp_path, args, message):
    args = [arg.format(gpt2) for arg in args]
    code, _, err = run(*args, f"--output={tmp_path / 'out'}")
    assert code == 1 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.assets
@pytest.mark.slow
def test_minilm_relates_the_words_of_the_sentence(tmp_path):
    """What a trained encoder knows: whose committee, who advanced, advanced what."""
    code, out, err = run(f"--output={tmp_path}", "--top=6")
    assert code == 0, err
    links = {tuple(line.split()[:3:2]) for line in out.splitlines() if "->" in line}
    known = {("committee", "Nobel"), ("who", "Strickland"), ("advanced", "optics")}
    assert known <= links
    [view] = page_data(tmp_path)["views"]
    names = [word["text"] for word in view["keys"]]
    assert " ".join(names[1:-1]) == (
        "Nobel committee awards Strickland who advanced optics"
    )
    assert np.shape(view["weights"]) == (6, 12, 9, 9)
