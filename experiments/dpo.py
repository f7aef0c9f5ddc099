"""Tunes a model on comparisons of answers directly, without a reward model: DPO.

    python experiments/dpo.py --init_from=runs/sft --data.source=pairs.jsonl
    python experiments/dpo.py --init_from=DIR --data.source=... --dpo.loss=ipo
    python experiments/dpo.py --init_from=DIR --data.source=... --lora.rank=16

A line has `prompt`, `chosen` and `rejected`, or `prompt`, `answers` and their `ranks`,
as for reward_model.py. The reference is the model at first. Losses: sigmoid (DPO),
robust, ipo, hinge, kto; held-out accuracy is of implicit rewards. A run that is started
again in its workdir resumes.
"""

import time

import jax

from llmjax import distributed, flags, lora, optim, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig
from llmjax.data import comparison_corpus
from llmjax.data.batches import Batches, eval_batches
from llmjax.load import chat_template, load_writer
from llmjax.models import quantise, transformer
from llmjax.rl import dpo, trained
from llmjax.train import outputs, workdir
from llmjax.train.config import TrainConfig
from llmjax.train.evaluate import make_mean_loss
from llmjax.train.fit import fit

TUNED = optim.OptimConfig(
    name="adamw", lr=1e-6, warmup_fraction=0.1, weight_decay=0.0, b2=0.999
)
RUN = flags.define("", flags.Run(workdir="runs/dpo", num_steps=300))
DATA = flags.define("data", comparison_corpus.ComparisonConfig(source=""))
DPO = flags.define("dpo", dpo.DpoConfig())
OPTIM = flags.define("optim", TUNED)
TRAIN = flags.define("train", TrainConfig(z_loss=0.0, eval_every=50))
LORA = flags.define("lora", lora.OptionalLora())
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs, run, knobs = time.perf_counter(), RUN(), TRAIN()
    folder, mesh = workdir.begin(run)
    cfg, params, tokenizer = load_writer(run.init_from)
    corpus = comparison_corpus.prepare(
        DATA(), tokenizer, cfg, chat_template(run.init_from)
    )
    rows, unseen = (
        dpo.PairRows(side.examples, side.num_tokens)
        for side in (corpus.train, corpus.validation)
    )
    sharding.check_batch(knobs.batch_size, rows.num_tokens, mesh)
    if distributed.is_first():  # tools/chat.py needs these to talk to the workdir
        tokenizer.save(folder / "tokenizer.json")
        workdir.write_text(folder / "chat_template.jinja", corpus.form)
        outputs.print_table(corpus.tally.rows())
    share = distributed.share()
    batches = Batches(rows, knobs.batch_size, run.seed, **share)
    looks = eval_batches(unseen, knobs.batch_size, **share)
    model = transformer.make(cfg, COMPUTE())
    optimizer = optim.make(OPTIM(), run.num_steps)
    config = dict(
        experiment="dpo", seed=run.seed, num_steps=run.num_steps, model=cfg,
        init_from=run.init_from, data=DATA(), data_fingerprint=corpus.train.fingerprint,
        dpo=DPO(), optim=OPTIM(), train=knobs, **trained.base_of(run, LORA()),
    )  # fmt: skip
    with jax.set_mesh(mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        if LORA().rank:
            params = quantise.narrow(params, LORA().base)
        reference = jax.device_put(params, sharding.param_shardings(params, mesh))
        own = trained.begin(reference, LORA())

        def loss_fn(trainable, batch, key, reference):
            policy = own.whole(trainable)
            return dpo.loss(model, DPO(), policy, batch, key, reference)

        state = workdir.resume_or_init(
            checkpoints, config, own.init, optimizer[0], mesh, run, init_from=own.start
        )
        flags.save(folder)
        outputs.begin(folder, config, state, mesh)
        look = make_mean_loss(
            loss_fn, list(map(sharding.placer(mesh), looks)), reference
        )
        state, record = fit(
            loss_fn, optimizer, state, batches.batch, look, checkpoints, config,
            folder=folder, mesh=mesh, knobs=knobs, num_steps=run.num_steps,
            frozen=reference, lengths=rows.lengths,
        )  # fmt: skip
    if distributed.is_first():
        summary = record.summary() | {"secs": time.perf_counter() - start_secs}
        outputs.write(folder, "Preferences", config, record, summary, [])
        print(f"report: {folder}/report.html")
        print(f"next: python tools/chat.py --model={folder}")


if __name__ == "__main__":
    flags.run(main)
