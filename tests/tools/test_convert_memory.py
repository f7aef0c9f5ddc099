"""tools/convert.py on models of gigabytes: memory as for one group of tensors or less.

A group is all tensors that become one leaf: those of a kind, of all layers. Measured is
the peak of the program's resident memory, mapped files included, above its peak for a
model of a few kilobytes.
"""

import filecmp
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llmjax.interop import hf, leaves, safetensors, table
from tests.tools.test_convert import GOLDEN, ROOT, trained_run

pytestmark = pytest.mark.slow

# The most memory of the program itself: getrusage would count the process that has
# started it, which held as much as pytest does until it became Python anew.
MEASURED = """
import pathlib, runpy, sys
sys.argv = ["tools/convert.py", *sys.argv[1:]]
try:
    runpy.run_path("tools/convert.py", run_name="__main__")
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def peak_bytes(*arguments) -> int:
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return 1024 * int(result.stderr)


def write_llama(folder: pathlib.Path, **sizes: int) -> int:
    """A large Llama, in part noise; returns the bytes of its largest float32 leaf."""
    folder.mkdir()
    config = json.loads((GOLDEN / "llama_tied" / hf.CONFIG).read_text())
    (folder / hf.CONFIG).write_text(json.dumps(config | sizes))
    family, cfg = hf.read_config(folder)
    float32 = np.dtype(np.float32)
    specs = {
        name: (table.tensor_shape(slot.row, cfg), float32)
        for name, slot in table.slots(family, cfg)
    }
    safetensors.allocate(folder / hf.WEIGHTS, safetensors.make_header(specs))
    found = hf.open_folder(folder)
    noise = np.random.default_rng(0).normal(size=2**20 + 7).astype(np.float32)
    for name, tensor in found.items():
        if "layers.1." in name:  # the disk is slow: other layers stay zeros
            tensor.read("r+")[...] = np.resize(noise, tensor.shape)
    slots = table.match(found, family, cfg, folder)
    held = leaves.collect(found, slots, cfg)
    return max(4 * int(np.prod(leaf.shape)) for leaf in held.values())


LARGE = dict(
    vocab_size=32000, hidden_size=2048, intermediate_size=16384, num_hidden_layers=4,
    num_attention_heads=16, num_key_value_heads=16, head_dim=128,
)  # fmt: skip


@pytest.fixture
def idle_bytes(tmp_path):
    """What the program takes for a model of no size: Python, the imports, orbax."""
    return peak_bytes(GOLDEN / "llama_tied", tmp_path / "idle")


def test_memory_is_far_below_the_largest_group(tmp_path, idle_bytes):
    source = tmp_path / "source"
    group_bytes = write_llama(source, **LARGE)
    assert group_bytes == 4 * 4 * 2048 * 16384
    assert (source / hf.WEIGHTS).stat().st_size > 2e9
    limit_bytes = idle_bytes + 0.5 * group_bytes  # the bar is 1.3
    assert peak_bytes(source, tmp_path / "run") < limit_bytes
    assert peak_bytes(tmp_path / "run", tmp_path / "back") < limit_bytes
    weights = (source / hf.WEIGHTS, tmp_path / "back" / hf.WEIGHTS)
    assert filecmp.cmp(*weights, shallow=False)
    shutil.rmtree(tmp_path / "back")
    arguments = ("--format=hf", "--dtype=bfloat16", "--max_shard_bytes=500000000")
    assert peak_bytes(source, tmp_path / "small", *arguments) < limit_bytes

    process = subprocess.Popen(
        [sys.executable, "tools/convert.py", source, tmp_path / "killed"], cwd=ROOT
    )
    while not (tmp_path / "killed.tmp" / "checkpoints" / "0").is_dir():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert not list(tmp_path.glob("killed*"))


def test_memory_for_a_trained_run_is_one_group(tmp_path, idle_bytes):
    """Training writes a leaf as one chunk, which cannot be had in parts."""
    source = tmp_path / "source"
    group_bytes = write_llama(
        source, **LARGE | {"vocab_size": 1000, "num_hidden_layers": 2}
    )
    trained = trained_run(tmp_path / "run", source)
    got_bytes = peak_bytes(trained, tmp_path / "back", "--family=llama")
    assert got_bytes < idle_bytes + 1.3 * group_bytes
    weights = (source / hf.WEIGHTS, tmp_path / "back" / hf.WEIGHTS)
    assert filecmp.cmp(*weights, shallow=False)
