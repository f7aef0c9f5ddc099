"""Decoder, encoder and encoder-decoder on a language whose answers are computable.

    python experiments/structures.py                            # 2 CPU cores
    python experiments/structures.py --workdir=runs/harder --hmm.num_states=12

All three have as many parameters and learn from the same texts with the same FLOPs, and
each is held against the least loss that its task allows. Then all are asked the same:
what is in a blank, texts of their own, and a translation of which two are right.
A run that is started again in its workdir resumes.
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
DECODER_LENGTHS = {"texts": LENGTH, "pairs": 2 * SOURCE_LENGTH}
NUM_TESTS, NUM_DRAWN = 1024, 256  # texts and sources asked about, and texts drawn
BARS = {"decoder": 0.02, "encoder": 0.03}  # nats above the floor
SMALL = ModelConfig(width=64, head_width=16, ff_width=176, qk_norm="head")

RUN = flags.define("", flags.Run(workdir="runs/structures", num_steps=1200))
HMM = flags.define("hmm", HmmConfig())
MODEL = flags.define("model", SMALL)
OPTIM = flags.define("optim", optim.OptimConfig(lr=2e-2, weight_decay=0.0))
TRAIN = flags.define("train", TrainConfig(batch_size=64, z_loss=0.0, eval_every=100))
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    folder, mesh = workdir.begin(RUN())
    sharding.check_batch(TRAIN().batch_size, LENGTH, mesh)
    flags.save(folder)
    ids = hmm_rows.make_ids(HMM().num_symbols, LENGTH)
    num_texts = RUN().num_steps * TRAIN().batch_size
    texts = hmm_rows.Texts(HMM(), LENGTH, num_texts)
    tests = hmm_rows.Texts(HMM(), LENGTH, NUM_TESTS, part=1)
    found = {}
    for name in hmm_rows.STRUCTURES:
        with jax.set_mesh(mesh):
            rows, asked = (hmm_rows.Rows(name, part, ids) for part in (texts, tests))
            model, params, took = learn("texts", rows, asked, folder, mesh)
            found[name] = {
                "texts": took,
                "gap": structures.gap(model, params, asked),
                "blanks": structures.fill_blanks(model, params, asked),
                "drawn": samples.draw(model, params, asked, NUM_DRAWN),
            }
            rows, asked = (Codebooks(name, ids, SOURCE_LENGTH, part) for part in (0, 1))
            model, params, found[name]["pairs"] = learn(
                "pairs", rows, asked, folder, mesh
            )
            found[name] |= samples.translations(model, params, asked, NUM_TESTS)
    if distributed.is_first():
        structures_page.write(folder, tests, num_texts, found, BARS)


def learn(task: str, rows, held_out, parent, mesh):
    """(model, parameters, what it took) of a structure that learned one of the tasks.

    An encoder-decoder passes each token through half of its parameters: the same FLOPs
    are more steps, in which it meets the same texts again and tells other symbols.
    """
    knobs, cfg = TRAIN(), structured(rows.structure, task)
    run = dataclasses.replace(RUN(), workdir=str(parent / f"{rows.structure}_{task}"))
    folder = workdir.open_workdir(run.workdir)
    row_flops = flops(cfg, *rows.lengths)
    budget = run.num_steps * flops(structured("decoder", task), DECODER_LENGTHS[task])
    num_steps = round(budget / row_flops)
    batches, looks = (
        Batches(part, knobs.batch_size, run.seed, **distributed.share())
        for part in (rows, held_out)
    )
    looks = [sharding.placer(mesh)(looks.batch(step)) for step in range(4)]
    model, optimizer = transformer.make(cfg, COMPUTE()), optim.make(OPTIM(), num_steps)
    config = dict(
        experiment="structures", seed=run.seed, num_steps=num_steps, model=cfg,
        data=HMM(), data_fingerprint=batches.fingerprint, optim=OPTIM(), train=knobs,
    )  # fmt: skip
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = workdir.resume_or_init(
            checkpoints, config, model.init, optimizer[0], mesh, run
        )
        outputs.begin(folder, config, state, mesh)
        loss_fn = partial(losses.next_token, model, z_loss=knobs.z_loss)
        state, record = fit(
            loss_fn, optimizer, state, batches.batch, make_mean_loss(loss_fn, looks),
            checkpoints, config, folder=folder, mesh=mesh, knobs=knobs,
            num_steps=num_steps, lengths=rows.lengths,
        )  # fmt: skip
    spent = {"num_steps": num_steps, "flops": num_steps * knobs.batch_size * row_flops}
    sizes = {"parameters": metrics.count(cfg).total, "rows": num_steps * knobs.batch_size}
    return model, averaged(state), spent | sizes | {"history": record.history}


def structured(structure: str, task: str) -> ModelConfig:
    """The decoder of --model, or as many parameters in another structure."""
    vocab_size = hmm_rows.make_ids(HMM().num_symbols, LENGTH).size
    cfg = dataclasses.replace(MODEL(), vocab_size=vocab_size)
    if task == "pairs":  # which symbol comes last is a question of absolute positions
        cfg = dataclasses.replace(cfg, positions="learned")
    if structure != "encoder-decoder":
        return dataclasses.replace(cfg, structure=structure)
    size, cfg = metrics.count(cfg).total, dataclasses.replace(cfg, num_layers=cfg.num_layers // 2)
    both = []
    for ff_width in range(8, cfg.ff_width + 1, 8):  # cross-attention takes its share
        half = dataclasses.replace(cfg, ff_width=ff_width)
        both.append(dataclasses.replace(half, encoder=transformer.encoder_of(half)))
    return min(both, key=lambda one: abs(metrics.count(one).total - size))


def flops(cfg: ModelConfig, *lengths: int) -> float:
    """Of training on a row of so many tokens, of the target and of a source."""
    return metrics.count(cfg, *lengths).exact * lengths[0]


if __name__ == "__main__":
    flags.run(main)
