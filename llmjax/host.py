"""What this machine decides: allocator, number of CPU devices, compilation cache."""

import ctypes
import os
import platform
from pathlib import Path

import jax

# Options of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def start(cpu_devices: int = 1, cache_dir: str = "") -> None:
    """Prepares the process; call once, before the first array is made.

    cpu_devices: how many devices the CPU is presented as, for trying a mesh. One is the
      fastest: all cores work on it.
    cache_dir: compiled programs are kept here; "" is a folder of the user's cache.
    """
    _keep_freed_memory(one_heap=cpu_devices > 1)
    jax.config.update("jax_num_cpu_devices", cpu_devices)
    # A collective that waits for another device holds a thread, and several of a step
    # may wait at once: with as many threads as devices they can lock each other out.
    os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, 4 * (cpu_devices - 1))))
    if cpu_devices == 1:
        # Steps that run on the calling thread reuse one heap; on a pool's threads they
        # would take two to three times the memory, and be no faster.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    # XLA compiles for the cores at hand, but does not tell their number from the cache.
    folder = Path(cache_dir or Path.home() / ".cache" / "llmjax" / "xla")
    folder /= f"{_num_cores()}_cores"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only programs that took over a second are kept, which on a CPU is few.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _num_cores() -> int:
    """How many cores this process may use: `taskset` and containers give it fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compiler_options() -> dict[str, str] | None:
    """How XLA should compile what differentiates a model, for `jax.jit`.

    On a CPU it drops the barriers behind which `jax.checkpoint` computes again, and
    then finds that all of it has been computed before, and keeps that.
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def _keep_freed_memory(one_heap: bool) -> None:
    """Tells glibc to keep what is freed instead of giving it back to the kernel.

    one_heap: for all threads. Needed where steps run on a pool's threads, whose own
      heaps would not keep it; else what compilation leaves behind is better apart.

    XLA on a CPU allocates its working memory anew at every step; fetched from the
    kernel each time, every page of it faults. Does nothing where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        return
    libc = ctypes.CDLL(None)
    options = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 64 * 2**20}
    if one_heap:
        options[_M_ARENA_MAX] = 1
    for option, value in options.items():
        libc.mallopt(option, value)
