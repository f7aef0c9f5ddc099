"""The programs that tools/bench.py tune times; see tools/bench_worker.py.

SPEC: program, folder, rank, batch_size, num_tokens, and base: what the frozen weights
are held in, or nothing where all are trained. A step comes to its loss.
"""

import collections
import functools
import math

import bench_worker
import numpy as np


def tune(spec):
    """A model and its batch, through what experiments/sft.py and lora.py call."""
    from llmjax import host

    host.start()

    import jax

    from llmjax import lora, losses, optim, sharding
    from llmjax.load import load
    from llmjax.models import quantise, transformer
    from llmjax.train.state import init_state
    from llmjax.train.step import make_step

    cfg, params, _ = load(spec["folder"])
    mesh, model = sharding.make_mesh(), transformer.make(cfg)
    tx, _ = optim.make(optim.OptimConfig("adamw", lr=1e-4, warmup_fraction=0), 1)
    loss_fn = functools.partial(losses.next_token, model)
    key, frozen = jax.random.key(0), None
    if spec["base"] is None:
        state = init_state(model.init, tx, mesh, key)
        state = state._replace(params=jax.device_put(params))
    else:
        frozen = jax.device_put(quantise.narrow(params, spec["base"]))
        adapters = lora.LoraConfig(rank=spec["rank"])
        state = init_state(
            functools.partial(lora.init, adapters, frozen), tx, mesh, key
        )
        loss_fn = lora.beside(loss_fn, adapters)
    del params
    step_fn = make_step(loss_fn, tx, state, frozen=frozen)
    shape = spec["batch_size"], spec["num_tokens"] + 1
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, shape, np.int32)
    batch = dict(tokens=tokens[:, :-1], targets=tokens[:, 1:])
    batch["weights"] = np.ones(batch["tokens"].shape, np.float32)
    batch = sharding.placer(mesh)(batch)

    def step():
        nonlocal state
        with jax.set_mesh(mesh):
            state, figures = step_fn(state, batch)
        total, number = figures["loss"]
        return float(total) / float(number)

    leaves = jax.tree.leaves
    return step, {
        "trained": sum(math.prod(leaf.shape) for leaf in leaves(state.params)),
        "optimizer_bytes": sum(leaf.nbytes for leaf in leaves(state.opt_state)),
        "frozen_bytes": sum(leaf.nbytes for leaf in leaves(frozen)),
    }


if __name__ == "__main__":
    bench_worker.main(collections.defaultdict(lambda: tune))
