"""From files to packed rows, kept in a folder; and the program that prepares one."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmjax.data.batches import eval_batches
from llmjax.data.corpus import TextConfig, prepare, tokenize
from llmjax.data.mixture import Mixture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg(tmp_path):
    def lines(word):
        records = [{"text": f"{word} number {n} {'na ' * n}"} for n in range(80)]
        return "".join(json.dumps(record) + "\n" for record in records)

    (tmp_path / "a.jsonl").write_text(lines("song"))
    (tmp_path / "b.jsonl").write_text(lines("poem"))
    return TextConfig(source=f"{tmp_path}/a.jsonl", vocab_size=300)


def test_what_is_prepared_is_found_again(tmp_path, cfg):
    first = prepare(cfg, tmp_path / "run", 16)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    second = prepare(cfg, tmp_path / "run", 16)
    assert second.train.fingerprint == first.train.fingerprint
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert after == files
    texts = list(first.held_out_texts())
    assert texts and all(text.startswith("song number") for text in texts)
    sizes = first.tokenizer.token_bytes()
    counted = sum(
        batch["target_bytes"].sum()
        for batch in eval_batches(first.validation, 4, sizes)
    )
    assert counted == sum(len(text.encode()) for text in texts)
    whole = (tmp_path / "a.jsonl").read_text().splitlines()
    num_bytes = sum(len(json.loads(line)["text"].encode()) for line in whole)
    assert first.num_bytes + counted == num_bytes


def test_a_tokenized_folder_is_a_source(tmp_path, cfg):
    tokenize(cfg, tmp_path / "songs")
    poems = dataclasses.replace(
        cfg, source=f"{tmp_path}/b.jsonl", tokenizer=f"{tmp_path}/songs"
    )
    tokenize(poems, tmp_path / "poems")
    direct = prepare(cfg, tmp_path / "run", 16)
    songs = TextConfig(source=f"{tmp_path}/songs")
    assert prepare(songs, tmp_path / "run2", 16).train.fingerprint == (
        direct.train.fingerprint
    )
    both = TextConfig(source=f"{tmp_path}/songs; {tmp_path}/poems", weights=(3, 1))
    mixed = prepare(both, tmp_path / "run3", 16)
    assert isinstance(mixed.train, Mixture) and mixed.train.weights == [3, 1]
    words = mixed.tokenizer.decode(
        mixed.train.take(np.arange(40), seed=0)["tokens"].ravel().tolist()
    )
    assert "song" in words and "poem" in words
    assert (tmp_path / "run3" / "tokenizer.json").exists()


def test_tokens_of_another_tokenizer_are_refused(tmp_path, cfg):
    tokenize(cfg, tmp_path / "songs")
    tokenize(dataclasses.replace(cfg, source=f"{tmp_path}/b.jsonl"), tmp_path / "poems")
    both = TextConfig(source=f"{tmp_path}/songs;{tmp_path}/poems")
    with pytest.raises(ValueError, match=r"poems/train: not in the tokens"):
        prepare(both, tmp_path / "run", 16)
    with pytest.raises(ValueError, match="exists already"):
        tokenize(cfg, tmp_path / "songs")


def test_a_bad_source_leaves_no_folder(tmp_path, cfg):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "x"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: no column 'text'"):
        tokenize(cfg, tmp_path / "songs")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.jsonl", "b.jsonl"]


def run_tool(*flags):
    command = [sys.executable, ROOT / "tools" / "tokenize_corpus.py", *flags]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_the_program(tmp_path, cfg):
    output = tmp_path / "songs"
    flags = (f"--output={output}", f"--source={cfg.source}", "--vocab_size=300")
    result = run_tool(*flags)
    assert result.returncode == 0, result.stderr
    assert "bytes per token" in result.stdout
    assert prepare(TextConfig(source=str(output)), tmp_path / "run", 16).num_bytes
    for wrong, code, word in (
        (flags, 1, "exists already"),
        ((f"--output={tmp_path}/x", f"--source={tmp_path}/no.txt"), 1, "no.txt"),
        ((f"--output={tmp_path}/x", "--sauce=a.txt"), 2, "sauce"),
    ):
        result = run_tool(*wrong)
        assert result.returncode == code and word in result.stderr
        assert "Traceback" not in result.stderr and not (tmp_path / "x").exists()


def test_data_needs_neither_jax_nor_grain():
    names = [path.stem for path in (ROOT / "llmjax" / "data").glob("*.py")]
    imports = ", ".join(f"llmjax.data.{name}" for name in sorted(names))
    code = f"import {imports.replace('.__init__', '')}, sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    heavy = {"jax", "grain", "pyarrow", "tensorstore", "array_record", "torch"}
    assert heavy.isdisjoint(result.stdout.split())
