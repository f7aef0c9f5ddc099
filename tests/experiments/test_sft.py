"""Tuning as a user does it, in miniature: it learns to answer, to stop, and resumes."""

import json
from pathlib import Path

import jax
import pytest

from llmjax.data.tokenizer import load_tokenizer
from llmjax.generate.text import generate
from llmjax.interop import hf
from llmjax.load import chat_template, load
from llmjax.models import transformer
from tests import programs

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sft"
COLOURS = ["red", "blue", "green", "pink"]
T5 = dict(
    model_type="t5", vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=1,
    num_decoder_layers=1, num_heads=4,
)  # fmt: skip
LEARN = [
    "--num_steps=40", "--train.eval_every=20", "--train.log_every=1", "--optim.lr=2e-2",
    "--data.context=48", "--data.validation_fraction=0.1",
]  # fmt: skip


def run(workdir, *args, program="experiments/sft.py"):
    """(exit code, output, errors)."""
    return programs.run(program, *args, *([f"--workdir={workdir}"] if workdir else []))


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory):
    """The answer is the colour in the question, whichever the number is."""
    path = tmp_path_factory.mktemp("chats") / "colours.jsonl"
    lines = [
        json.dumps({"prompt": f"{n} {colour}", "completion": colour})
        for n in range(30)
        for colour in COLOURS
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_it_learns_to_answer_and_to_stop(file, tmp_path):
    args = [f"--init_from={GOLDEN}", f"--data.source={file}", *LEARN]
    code, out, err = run(
        tmp_path, *args, "--cpu_devices=2", "--mesh=fsdp=2", "--train.accumulate=2"
    )
    assert code == 0, err
    assert "learned" in out and "held out" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["val_loss"] < 0.1 and summary["num_steps"] == 40
    page = (tmp_path / "report.html").read_text()
    assert "Answers to held-out prompts" in page and "before" in page
    # What lies in the workdir answers by itself, in the words it was tuned in.
    cfg, params, tokenizer = load(tmp_path)
    assert chat_template(tmp_path) == chat_template(GOLDEN)
    end = tokenizer.core.token_to_id("<|im_end|>")
    text = "<|im_start|>user\n77 green<|im_end|>\n<|im_start|>assistant\n"
    [ids] = generate(
        transformer.make(cfg), params, [tokenizer.encode(text, special=True)],
        max_new_tokens=8, context=cfg.context, stop_ids=[end],
    )  # fmt: skip
    assert tokenizer.decode(ids) == "green"
    # Started again it trains no more, and says the same.
    code, again, err = run(
        tmp_path, *args, "--cpu_devices=2", "--mesh=fsdp=2", "--train.accumulate=2"
    )
    assert code == 0 and "resumed at step 40" in again, err
    second = json.loads((tmp_path / "summary.json").read_text())
    assert second["val_loss"] == summary["val_loss"]
    code, out, err = run(
        None, f"--model={tmp_path}", f"--data.source={file}", "--data.context=48",
        program="tools/show_batch.py",
    )  # fmt: skip
    assert code == 0 and "[[" in out, err


@pytest.mark.slow
def test_an_encoder_decoder_answers_too(file, tmp_path):
    tokenizer = load_tokenizer(GOLDEN)
    fields = T5 | {"decoder_start_token_id": tokenizer.eos_id}
    cfg = hf.config_from_json(fields)
    params = jax.jit(transformer.make(cfg).init)(jax.random.key(0))
    model = tmp_path / "t5"
    hf.save(model, cfg, params, family="t5", config=fields)
    tokenizer.save(model / "tokenizer.json")
    code, _, err = run(
        tmp_path / "run", f"--init_from={model}", f"--data.source={file}", *LEARN,
        "--data.template=plain", "--data.answer_tokens=12", "--train.batch_size=16",
        "--num_steps=120",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["val_loss"] < 0.1
    found = load(tmp_path / "run")
    assert found.cfg.encoder is not None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--init_from is needed"),
        ([f"--init_from={ROOT / 'tests/golden/bert'}"], "is an encoder"),
        (
            [f"--init_from={GOLDEN}", "--data.source={}"],
            "{}:2: empty answer: message 2, of the assistant; mend it, or leave out",
        ),
    ],
)
def test_bad_input_is_one_line(args, message, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"prompt": "q", "completion": "a"}\n{"prompt": "q", "completion": ""}\n'
    )
    code, _, err = run(tmp_path / "run", *(arg.format(file) for arg in args))
    assert code == 1 and message.format(file) in err
    assert err.startswith("error: ") and err.count("\n") == 1
