"""Pre-trains a decoder on text: next tokens, packed documents, any mesh.

    python experiments/pretrain.py                                     # 2 CPU cores
    python experiments/pretrain.py --workdir=runs/mine --data.source="notes/*.txt"
    python experiments/pretrain.py --model=gpt2 --mesh=fsdp=8 --data.source=web.jsonl

The defaults are the quickstart: a small decoder learns Python from the standard library
of this machine. A run that is started again in its workdir resumes, to the bit.
"""

import dataclasses
import time
from functools import partial

import jax

from llmjax import distributed, flags, host, losses, metrics, optim, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig, field
from llmjax.data import corpus
from llmjax.data.baselines import compression_baselines
from llmjax.data.batches import Batches
from llmjax.data.prefetch import Prefetch
from llmjax.generate import complete
from llmjax.load import load
from llmjax.models import decoder
from llmjax.train import hooks, outputs, workdir
from llmjax.train.evaluate import make_evaluate
from llmjax.train.loop import train
from llmjax.train.record import Recorder
from llmjax.train.step import make_step


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The batch, the objective, and how often something is looked at."""

    batch_size: int = field(16, "rows of a step, over all devices")
    accumulate: int = field(1, "parts that a batch is gone through in")
    z_loss: float = field(1e-4, "weight of logsumexp^2 in the objective")
    ema_decay: float = field(0.0, "of an average of the weights; 0: none is kept")
    log_every: int = field(10, "steps between lines of metrics.jsonl")
    eval_every: int = field(500, "steps between evaluations and samples; 0: at the end")
    save_every: int = field(250, "steps between checkpoints; the last is always kept")
    profile_at: int = field(0, "first of three steps to trace into workdir/profile")


RUN = flags.define("", flags.Run(workdir="runs/pretrain", num_steps=1200))
MODEL = flags.define_model("quickstart")
DATA = flags.define("data", corpus.TextConfig())
OPTIM = flags.define(
    "optim", optim.OptimConfig(name="muon", lr=1e-2, schedule="linear")
)
TRAIN = flags.define("train", TrainConfig())
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs = time.perf_counter()
    run, knobs, cfg = RUN(), TRAIN(), MODEL()
    folder = workdir.open_workdir(run.workdir)
    num_params = metrics.count(cfg).total
    host.start(run.cpu_devices or host.cpu_devices_for(num_params, knobs.batch_size))
    distributed.start(run.distributed)
    mesh = sharding.make_mesh(run.mesh)
    place = sharding.placer(mesh)

    loaded = load(run.init_from) if run.init_from else None
    cfg = loaded.cfg if loaded else cfg
    sharding.check_batch(knobs.batch_size, cfg.context, mesh)
    text = corpus.prepare(DATA(), folder, cfg.context, is_first=distributed.is_first())
    cfg = cfg if loaded else cfg.with_vocab(text.tokenizer.vocab_size)
    batches = Batches(text.train, knobs.batch_size, run.seed, **distributed.share())

    model = decoder.make(cfg, COMPUTE())
    loss_fn = partial(losses.next_token, model, z_loss=knobs.z_loss)
    tx, schedule = optim.make(OPTIM(), run.num_steps)
    config = dict(
        experiment="pretrain", seed=run.seed, num_steps=run.num_steps, model=cfg,
        data=DATA(), data_fingerprint=batches.fingerprint, optim=OPTIM(), train=knobs,
    )  # fmt: skip

    with jax.set_mesh(mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        state = workdir.resume_or_init(
            checkpoints, config, model.init, tx, mesh, seed=run.seed,
            ema=knobs.ema_decay > 0, init_from=loaded and loaded.params,
            allow_config_change=run.allow_config_change,
        )  # fmt: skip
        start = int(state.step)
        flags.save(run.workdir)
        outputs.announce(folder, config, text, state.params, mesh, start)

        evaluate = make_evaluate(loss_fn, text, knobs.batch_size, place)
        sample = partial(
            complete, model, tokenizer=text.tokenizer, prompts=text.prompts(),
            max_new_tokens=64, context=cfg.context, temperature=0.5,
        )  # fmt: skip
        samples = {"before training": sample(state.params)}
        step_fn = make_step(
            loss_fn, tx, state, accumulate=knobs.accumulate, ema_decay=knobs.ema_decay
        )
        data = Prefetch(batches.batch, start, place=place)
        record = Recorder(
            folder, start=start, num_steps=run.num_steps, log_every=knobs.log_every,
            tokens_per_step=knobs.batch_size * cfg.context, cfg=cfg,
            waited_secs=lambda: data.waited_secs, is_first=distributed.is_first(),
        )  # fmt: skip
        log = hooks.Log(record.step, schedule)

        def save(step, state, metrics):
            checkpoints.save(step, state, {"config": workdir.as_json(config)})

        def look(step, state, metrics):
            log.flush()
            figures = evaluate(state.extras.get("ema", state.params))
            record.write(step, figures)
            record.say(f"step {step}: {figures['val_bits_per_byte']:.3f} bits per byte")

        with data, record:
            every = [log, hooks.every(knobs.eval_every, look)]
            every += [hooks.every(knobs.save_every, save)]
            if knobs.profile_at:
                every.append(hooks.profile(folder / "profile", knobs.profile_at))
            state = train(
                step_fn, state, data, every, start=start, num_steps=run.num_steps
            )
            log.flush()
            save(run.num_steps, state, None)
            look(run.num_steps, state, None)
            samples["after training"] = sample(state.extras.get("ema", state.params))

    if distributed.is_first():
        summary = record.summary() | {"secs": time.perf_counter() - start_secs}
        baselines = compression_baselines(text.held_out_texts())
        outputs.finish(folder, config, record.history, summary, baselines, samples)


if __name__ == "__main__":
    flags.run(main)
