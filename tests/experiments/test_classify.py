"""Texts told apart as a user does it, in miniature, and what is said of bad input."""

import csv
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from llmjax.data import baselines
from llmjax.data.label_corpus import LabelConfig, LabelledRows, prepare
from llmjax.load import load
from llmjax.models import transformer
from tests import programs

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
NAMES = ["ada", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ivy", "jon"]
VERBS = ("helps", "hurts")
MODEL = ["--model=tiny", "--model.context=16", "--data.vocab_size=300"]
LEARN = [
    "--num_steps=30", "--train.log_every=1", "--train.eval_every=15",
    "--compute.dropout=0.05", "--scratch.lr=1e-2", "--optim.lr=1e-2",
]  # fmt: skip


def run(workdir, *args):
    """(exit code, output, errors)."""
    return programs.run("experiments/classify.py", f"--workdir={workdir}", *args)


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory):
    """Whether the one before the verb helps or hurts the one after it: words in a bag
    do not tell who comes first in the alphabet, which is the label."""
    rng, rows = random.Random(0), {}
    while len(rows) < 400:
        one, other = rng.sample(NAMES[:4], 2)
        words = [rng.choice(NAMES[4:]) for _ in range(3)]
        text = " ".join([*words, one, rng.choice(VERBS), other])
        rows[text] = "rising" if one < other else "falling"
    path = tmp_path_factory.mktemp("texts") / "rule.csv"
    with open(path, "w", newline="") as out:
        csv.writer(out).writerows([("words", "order"), *rows.items()])
    return path


def flags_of(file):
    return [
        f"--data.file={file}", "--data.text_column=words", "--data.label_column=order"
    ]  # fmt: skip


@pytest.fixture(name="bert", scope="module")
def _bert(tmp_path_factory):
    """The tiny BERT of the golden tests, with a tokenizer of the words above."""
    folder = tmp_path_factory.mktemp("bert")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "bert" / name, folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *NAMES, *VERBS]
    vocab = {word: number for number, word in enumerate(words)}
    core = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    core.save(str(folder / "tokenizer.json"))
    return folder


def accuracy_of(folder, file):
    """Of what was saved, one text at a time, without padding."""
    loaded = load(folder)
    cfg = LabelConfig(str(file), text_column="words", label_column="order")
    sides = prepare(cfg)
    test, labels = sides.test, sorted({e.label for side in sides for e in side})
    rows = LabelledRows(test, labels, loaded.tokenizer, loaded.cfg.context)
    model, num_right = transformer.make(loaded.cfg), 0
    for example, ids in zip(test, rows.ids, strict=True):
        hidden_TD = model.apply(loaded.params, {"tokens": np.array([ids])}).hidden_BTD[
            0
        ]
        logits = model.readout(loaded.params, hidden_TD.mean(0))
        num_right += labels[int(logits.argmax())] == example.label
    return num_right, len(test)


@pytest.mark.slow
def test_from_scratch_and_fine_tuned(bert, file, tmp_path):
    args = [*LEARN, *flags_of(file), f"--init_from={bert}"]
    code, out, err = run(tmp_path, *args)
    assert code == 0, err
    scores = json.loads((tmp_path / "summary.json").read_text())
    assert list(scores) == [
        "majority class", "bag of words", "from scratch", "fine-tuned"
    ]  # fmt: skip
    for name in ("from scratch", "fine-tuned"):
        folder = tmp_path / name.replace(" ", "-")
        num_right, num = accuracy_of(folder, file)
        assert scores[name]["accuracy"] == pytest.approx(num_right / num)
        low, high = baselines.wilson_interval(num_right, num)
        assert (scores[name]["low"], scores[name]["high"]) == (low, high)
        config = json.loads((folder / "config.json").read_text())
        assert config["labels"] == ["falling", "rising"]
        assert config["init_from"] == (str(bert) if name == "fine-tuned" else None)
        assert json.loads((folder / "summary.json").read_text())["val_accuracy"] > 0
        assert "<svg" in (folder / "report.html").read_text()
        assert name in out
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "bag of words" in page
    is_perfect = scores["fine-tuned"]["accuracy"] == 1
    assert is_perfect != ("rising (" in page or "falling (" in page)  # its mistakes
    # Started again it trains no more, and says the same.
    code, again, err = run(tmp_path, *args)
    assert code == 0 and again.count("resumed at step 30") == 2, err
    assert json.loads((tmp_path / "summary.json").read_text()) == scores


@pytest.mark.slow
def test_fine_tuning_begins_where_the_weights_were(bert, file, tmp_path):
    code, _, err = run(
        tmp_path, *LEARN, *flags_of(file), f"--init_from={bert}", "--num_steps=1",
        "--optim.lr=1e-12", "--scratch.lr=1e-12",
    )  # fmt: skip
    assert code == 0, err
    trunk, tuned = load(bert).params, load(tmp_path / "fine-tuned").params
    scratch = load(tmp_path / "from-scratch").params
    for name, part in (("embed", "embed_VD"), ("blocks/mlp", "up_DF")):
        found = [params for params in (trunk, tuned, scratch)]
        for key in name.split("/"):
            found = [params[key] for params in found]
        expected, tuned_part, scratch_part = (np.asarray(one[part]) for one in found)
        np.testing.assert_allclose(tuned_part, expected, atol=1e-9)
        assert np.abs(scratch_part - expected).max() > 1e-2


@pytest.mark.slow
def test_a_model_of_ones_own_learns_the_order_that_a_bag_of_words_cannot(
    file, tmp_path
):
    code, _, err = run(
        tmp_path, *LEARN, *MODEL, *flags_of(file), "--init_from=none",
        "--num_steps=60", "--cpu_devices=4", "--mesh=data=2,fsdp=2",
    )  # fmt: skip
    assert code == 0, err
    scores = json.loads((tmp_path / "summary.json").read_text())
    assert list(scores) == ["majority class", "bag of words", "from scratch"]
    assert scores["from scratch"]["low"] > scores["bag of words"]["high"]
    assert scores["from scratch"]["accuracy"] > 0.95


BAD = {
    "column": (["--data.text_column=text"], "no column 'text'"),
    "one label": (["--data.label_column=same"], "fewer than two labels"),
    "decoder": ([f"--init_from={GOLDEN / 'gpt2'}"], "give it an encoder"),
    "no tokenizer": ([f"--init_from={GOLDEN / 'bert'}"], "no tokenizer.json"),
    "no model": (["--init_from=/nowhere"], "/nowhere: no model here"),
    "batch": (["--cpu_devices=4", "--train.batch_size=6"], "multiple of 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path):
    file = tmp_path / "texts.csv"
    rows = [f"text {'abcdefghij'[i % 10]} {i // 10 * 'x'},{i % 2},1" for i in range(80)]
    file.write_text("words,order,same\n" + "\n".join(rows) + "\n")
    args, message = BAD[name]
    code, _, err = run(
        tmp_path / "run", *flags_of(file), *MODEL, "--init_from=none", *args
    )
    assert code == 1 and message in err
    assert err.startswith("error: ") and err.count("\n") == 1
