"""What all tests run under: eight CPU devices, strict ranks, shapes checked."""

import gc
import os
import tempfile
from pathlib import Path

# Before jax is imported, and so that programs started by a test stay on the CPU too.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads for collectives that wait for each other's devices; see llmjax/host.py.
os.environ.setdefault("NPROC", "32")

import jax
import pytest
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from llmjax import dims

NUM_DEVICES = 8
# Pieces of memory: Linux allows a process 65,530, each compiled program takes some, and
# one too many is a segmentation fault.
MOST_MAPS = 40_000
MAPS = Path("/proc/self/maps")


def pytest_configure() -> None:
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Tests compile much and compute little: keep what took long for the next run, per
    # user and version. An entry that another worker is still writing counts as absent.
    cache = f"llmjax_tests_{os.getuid()}_{jax.__version__}"
    jax.config.update(
        "jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), cache)
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True)
def check_dims():
    """`dims.check` compares the shapes of every array that a test passes by it."""
    with dims.checking():
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """A process that has run hundreds of tests keeps no program for ever."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def compile_afresh():
    """Compiles without the cache: for tests of what the compiler says or does."""
    jax.clear_caches()
    _use_cache(False)
    yield
    _use_cache(True)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # jax asks the config once, until told to forget
