"""Two processes over loopback train as one, with the losses of a single one."""

import json
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from llmjax import distributed

PROGRAM = textwrap.dedent(
    """
    import json, sys
    import jax, numpy as np
    from functools import partial
    from llmjax import distributed, losses, optim, sharding
    from llmjax.config import ModelConfig
    from llmjax.models import transformer
    from llmjax.train.state import init_state
    from llmjax.train.step import make_step

    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    distributed.start(sys.argv[1])
    mesh = sharding.make_mesh("data=2,fsdp=2")
    cfg = ModelConfig(vocab_size=32, num_layers=2, width=32, num_heads=2,
                      num_kv_heads=2, head_width=16, ff_width=64, context=16)
    ids = np.random.default_rng(0).integers(0, 32, (8, 17)).astype(np.int32)
    weights = np.ones((8, 16), np.float32)
    batch = dict(tokens=ids[:, :-1], targets=ids[:, 1:], weights=weights)
    rows = 8 // jax.process_count()
    first = jax.process_index() * rows
    batch = {name: array[first : first + rows] for name, array in batch.items()}
    batch = sharding.placer(mesh)(batch)
    model = transformer.make(cfg)
    tx, _ = optim.make(optim.OptimConfig(lr=1e-2), 10)
    found = []
    with jax.set_mesh(mesh):
        state = init_state(model.init, tx, mesh, jax.random.key(0))
        step = make_step(partial(losses.next_token, model), tx, state)
        for _ in range(3):
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"][0]) / float(metrics["loss"][1]))
    print(json.dumps([distributed.is_first(), found]))
    """
)


def start(spec, num_devices):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, spec, str(num_devices)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_equal_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [start(f"127.0.0.1:{port},2,{index}", 2) for index in range(2)]
    try:
        results = [result(process) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [first for first, _ in results] == [True, False]
    _, expected = result(start("", 4))
    for _, found in results:
        np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("spec", ["here", "127.0.0.1:1,two,0", "a,b"])
def test_a_bad_spec_is_explained(spec):
    with pytest.raises(ValueError, match="host:port,num_processes,process_id"):
        distributed.start(spec)
