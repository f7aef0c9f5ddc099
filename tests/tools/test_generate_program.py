"""tools/generate.py as a user runs it: transformers' greedy ids, and clear refusals."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def run(*args, cwd=ROOT):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate.py", *args], cwd=cwd,
        capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["gpt2", "llama_biased"])
def test_greedy_ids_equal_transformers(name):
    golden = np.load(GOLDEN / name / "golden.npz")
    prompt = golden["plain/input_ids"][0, :5].tolist()
    expected = golden["generated_ids"][0].tolist()[len(prompt) :]
    code, out, err = run(
        f"--model={GOLDEN / name}", f"--prompt_ids={','.join(map(str, prompt))}",
        f"--max_new_tokens={len(expected)}", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["ids"] == expected


def test_an_adapter_of_peft():
    """The likeliest next id is that of peft's logits, and not the base's."""
    with np.load(GOLDEN / "peft" / "llama" / "golden.npz") as golden:
        ids, expected = golden["input_ids"], golden["logits"][:, -1].argmax(-1)
    flags = f"--model={GOLDEN / 'llama_biased'}", "--max_new_tokens=1", "--json"
    prompt = f"--prompt_ids={','.join(map(str, ids[0]))}"
    code, out, err = run(*flags, prompt, f"--adapter={GOLDEN / 'peft' / 'llama'}")
    assert code == 0, err
    assert json.loads(out)["ids"] == [expected[0]]
    code, _, err = run(*flags, prompt, f"--adapter={GOLDEN / 'peft' / 'qwen2'}")
    assert code == 1 and "has shape" in err and err.count("\n") == 1


def test_the_prompt_of_an_encoder_decoder_is_its_source():
    with np.load(GOLDEN / "bart" / "golden.npz") as golden:
        source = golden["plain/input_ids"][0, :5].tolist()
        expected = golden["generated_ids"][0, 1:].tolist()
    code, out, err = run(
        f"--model={GOLDEN / 'bart'}", f"--prompt_ids={','.join(map(str, source))}",
        f"--max_new_tokens={len(expected)}",
    )  # fmt: skip
    assert code == 0, err
    assert out.strip() == ",".join(map(str, expected))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_forced_ids_are_those_of_transformers(tmp_path, num_beams):
    """The expected ids are those of `generate` of transformers 4.46."""
    shutil.copytree(GOLDEN / "bart", tmp_path / "bart")
    forced = {"forced_bos_token_id": 5, "forced_eos_token_id": 2, "eos_token_id": [2]}
    (tmp_path / "bart" / "generation_config.json").write_text(json.dumps(forced))
    code, out, err = run(
        f"--model={tmp_path / 'bart'}", "--prompt_ids=7,9,4,11,3,8,2", "--json",
        "--max_new_tokens=9", f"--num_beams={num_beams}",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["ids"] == [5, 55, 55, 55, 44, 44, 44, 44]  # and the end


PROMPT = [f"--model={GOLDEN / 'llama_biased'}", "--prompt_ids=1,2,3,1,2", "--json"]


def test_guessing_ahead_changes_nothing():
    outs = [
        run(*PROMPT, *more)[1]
        for more in ([], ["--draft=lookup"], [f"--draft={GOLDEN / 'llama_biased'}"])
    ]
    plain, looked_up, drafted = map(json.loads, outs)
    assert plain["ids"] == looked_up["ids"] == drafted["ids"]
    assert drafted["acceptance_rate"] == 1  # the same model guesses


def test_samples_beams_and_narrow_weights():
    code, out, err = run(*PROMPT, "--temperature=1", "--num_samples=3")
    assert code == 0, err
    samples = [json.loads(line) for line in out.splitlines()]
    assert len({tuple(sample["ids"]) for sample in samples}) == 3
    assert all(len(s["ids"]) == len(s["log_probs"]) for s in samples)
    code, out, err = run(*PROMPT, "--num_beams=3", "--num_samples=2")
    assert code == 0, err
    scores = [json.loads(line)["score"] for line in out.splitlines()]
    assert len(scores) == 2 and scores[0] > scores[1]
    code, out, err = run(*PROMPT, "--weights=int8", "--cache_dtype=int8")
    assert code == 0 and len(json.loads(out)["ids"]) == 64, err


CHAT = [f"--model={GOLDEN / 'sft'}", "--prompt=Say 3", "--max_new_tokens=8"]
BEST = ["--temperature=1", "--best_of=5", "--reward=own_reward:letters"]


def test_the_best_of_several_draws(tmp_path):
    """All of them for --json, the best first; else the best alone after its prompt."""
    (tmp_path / "own_reward.py").write_text(
        "def letters(prompts, answers):\n"
        "    assert set(prompts) == {'Say 3'}\n"
        "    return [answer.count('e') - len(answer) / 64 for answer in answers]\n"
    )
    code, out, err = run(*CHAT, *BEST, "--json", cwd=tmp_path)
    assert code == 0, err
    drawn = [json.loads(line) for line in out.splitlines()]
    scores = [one["text"].count("e") - len(one["text"]) / 64 for one in drawn]
    assert len(drawn) == 5 and len({one["text"] for one in drawn}) > 1
    assert [one["score"] for one in drawn] == pytest.approx(scores)
    assert scores == sorted(scores, reverse=True)
    assert f"at most {math.log(5) - 4 / 5:.3f} nats of KL" in err
    code, out, _ = run(*CHAT, *BEST, cwd=tmp_path)
    assert code == 0 and out == f"Say 3{drawn[0]['text']}\n"


@pytest.mark.parametrize(
    "args,message",
    [
        ([*CHAT, *BEST[:2]], "--best_of=5 needs --reward"),
        ([*CHAT, BEST[2]], "--reward chooses among several: give it --best_of=N"),
        ([*CHAT, *BEST, "--num_beams=2"], "not with --num_beams, --draft"),
        ([*CHAT, *BEST, "--draft=lookup"], "not with --num_beams, --draft"),
        ([*CHAT, *BEST[1:]], "--temperature=0 draws all alike"),
        ([*PROMPT, *BEST], "no tokenizer.json, so no text"),
        ([*CHAT, *BEST], "No module named 'own_reward'"),
        ([], "--model is needed"),
        (["--model=/nowhere"], "/nowhere: no model here"),
        ([f"--model={GOLDEN / 'gpt2'}"], "either --prompt or --prompt_ids"),
        ([f"--model={GOLDEN / 'gpt2'}", "--prompt=hello"], "no tokenizer.json"),
        ([*PROMPT, "--stop=x"], "so no text"),
        ([*PROMPT, f"--draft={GOLDEN / 'mistral'}"], "they must be the same"),
        ([f"--model={GOLDEN / 'gpt2'}", "--prompt_ids=1,x"], "not numbers"),
        ([f"--model={GOLDEN / 'gpt2'}", "--prompt_ids=1,99"], "id 99 is outside"),
        (
            [f"--model={GOLDEN / 'gpt2'}", "--prompt_ids=1", "--max_new_tokens=999"],
            "1 tokens and 999 new ones exceed the context",
        ),
    ],
)
def test_bad_input_is_one_line(args, message):
    code, _, err = run(*args)
    assert code == 1 and message in err and "Traceback" not in err


@pytest.mark.parametrize(
    "flag,message",
    [
        ("--top_p=2", "top_p must be from 0 to 1"),
        ("--best_of=1", "--best_of=1: 1 is not integer >= 2"),
    ],
)
def test_bad_flag_is_one_line(flag, message):
    code, _, err = run(*PROMPT, flag)
    assert code == 2 and message in err
    assert "Traceback" not in err
