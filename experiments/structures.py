"""Decoder, encoder and encoder-decoder on a language whose answers are computable.

    python experiments/structures.py                            # 2 CPU cores
    python experiments/structures.py --workdir=runs/harder --hmm.num_states=12

All three have as many parameters and learn from the same texts with the same FLOPs, and
each is held against the least loss that its task allows: 0.001, 0.017 and 0.021 nats
above it. Then all are asked the same: what is in a blank, texts of their own, and a
translation of which two are right. Started again in its workdir, a run resumes.
"""

import dataclasses
from functools import partial

import jax

from llmjax import distributed, flags, losses, metrics, optim, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.data import hmm_rows
from llmjax.data.batches import Batches
from llmjax.data.codebooks import Codebooks
from llmjax.data.hmm import HmmConfig
from llmjax.evals import samples, structures, structures_page
from llmjax.models import transformer
from llmjax.train import outputs, workdir
from llmjax.train.config import TrainConfig
from llmjax.train.evaluate import make_mean_loss
from llmjax.train.fit import fit
from llmjax.train.state import averaged

LENGTH, SOURCE_LENGTH = 64, 10  # symbols of a text, and of a source to translate
TASKS = {"texts": (LENGTH, 1.0, 1.0), "pairs": (2 * SOURCE_LENGTH, 0.4, 0.5)}  # `learn`
NUM_TESTS, NUM_DRAWN, NUM_LOOKS = 1024, 256, 256  # asked, drawn, looked at meanwhile
BARS = {"decoder": 0.02, "encoder": 0.03}  # nats above the floor
RUN = flags.define("", flags.Run(workdir="runs/structures", num_steps=1200))
HMM = flags.define("hmm", HmmConfig())
SMALL = ModelConfig(width=64, head_width=16, ff_width=176, qk_norm="head", context=64)
MODEL = flags.define("model", SMALL)
OPTIM = flags.define("optim", optim.OptimConfig(lr=2e-2, weight_decay=0.0))
TRAIN = flags.define("train", TrainConfig(batch_size=64, z_loss=0.0, eval_every=100))
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    folder, mesh = workdir.begin(RUN())
    sharding.check_batch(TRAIN().batch_size, LENGTH, mesh)
    flags.save(folder)
    ids = hmm_rows.make_ids(HMM().num_symbols, LENGTH)
    texts = hmm_rows.Texts(HMM(), LENGTH, RUN().num_steps * TRAIN().batch_size)
    tests = hmm_rows.Texts(HMM(), LENGTH, NUM_TESTS, part=1)
    found = {}
    for name in hmm_rows.STRUCTURES:
        rows, asked = (hmm_rows.Rows(name, part, ids) for part in (texts, tests))
        pairs, sources = (Codebooks(name, ids, SOURCE_LENGTH, part) for part in (0, 1))
        with jax.set_mesh(mesh):
            model, params, took = learn("texts", rows, asked, folder, mesh)
            one = {"texts": took, "gap": structures.gap(model, params, asked)}
            one["blanks"] = structures.fill_blanks(model, params, asked)
            one["drawn"] = samples.draw(model, params, asked, NUM_DRAWN)
            model, params, one["pairs"] = learn("pairs", pairs, sources, folder, mesh)
            right = samples.translations(model, params, sources, NUM_TESTS)
            found[name] = one | {"translations": right}
    structures_page.write(folder, tests, len(texts), found, BARS)


def learn(task: str, rows, held_out, parent, mesh):
    """(model, parameters, what it took) of a structure that learned one of the tasks.

    TASKS: tokens of a decoder's row, its share of --num_steps, and that of --optim.lr.
    An encoder-decoder passes each token through half of its parameters: the same FLOPs
    are more steps, in which it meets the same texts again and tells other symbols.
    """
    run, knobs, (length, share, lr_share) = RUN(), TRAIN(), TASKS[task]
    folder = workdir.open_workdir(str(parent / f"{rows.structure}_{task}"))
    cfg = structured(rows.structure, task)
    row_flops = metrics.count(cfg, *rows.lengths).exact * rows.lengths[0]
    decoder_flops = metrics.count(structured("decoder", task), length).exact * length
    num_steps = round(run.num_steps * share * decoder_flops / row_flops)
    hosts, place = distributed.share(), sharding.placer(mesh)
    batches = Batches(rows, knobs.batch_size, run.seed, **hosts)
    looks = [place(Batches(held_out, NUM_LOOKS, run.seed, **hosts).batch(0))]
    update = dataclasses.replace(OPTIM(), lr=lr_share * OPTIM().lr)
    model, optimizer = transformer.make(cfg, COMPUTE()), optim.make(update, num_steps)
    config = dict(
        experiment="structures", seed=run.seed, num_steps=num_steps, model=cfg,
        data=HMM(), data_fingerprint=batches.fingerprint, optim=update, train=knobs,
    )  # fmt: skip
    with Checkpoints(folder / "checkpoints") as kept:
        state = workdir.resume_or_init(
            kept, config, model.init, optimizer[0], mesh, run
        )
        outputs.begin(folder, config, state, mesh)
        loss_fn = partial(losses.next_token, model, z_loss=knobs.z_loss)
        state, record = fit(
            loss_fn, optimizer, state, batches.batch, make_mean_loss(loss_fn, looks),
            kept, config, folder=folder, mesh=mesh, knobs=knobs,
            num_steps=num_steps, lengths=rows.lengths,
        )  # fmt: skip
    num_rows, size = num_steps * knobs.batch_size, metrics.count(cfg).total
    took = dict(parameters=size, rows=num_rows, flops=num_rows * row_flops)
    return model, averaged(state), took | {"history": record.history}


def structured(structure: str, task: str) -> ModelConfig:
    """The decoder of --model, or as many parameters in another structure."""
    cfg = MODEL().with_vocab(hmm_rows.make_ids(HMM().num_symbols, LENGTH).size)
    if task == "pairs":  # which symbol comes last is a question of absolute positions
        cfg = dataclasses.replace(cfg, positions="learned")
    if structure != "encoder-decoder":
        return dataclasses.replace(cfg, structure=structure)
    # Every other layer has cross-attention, which the feed-forward layers make up for.
    cross_width = cfg.head_width * (cfg.num_heads + cfg.num_kv_heads)
    ff_width = cfg.ff_width - cross_width // (3 if cfg.gated else 2)
    half = dataclasses.replace(cfg, num_layers=cfg.num_layers // 2, ff_width=ff_width)
    return dataclasses.replace(half, encoder=transformer.encoder_of(half))


if __name__ == "__main__":
    flags.run(main)
