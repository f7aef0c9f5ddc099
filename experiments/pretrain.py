"""Pre-trains a decoder on text: next tokens, packed documents, any mesh.

    python experiments/pretrain.py                                     # 2 CPU cores
    python experiments/pretrain.py --workdir=runs/mine --data.source="notes/*.txt"
    python experiments/pretrain.py --model=gpt2 --mesh=fsdp=8 --data.source=web.jsonl

The defaults are the first stage of quickstart.py: a small decoder learns Python from
the standard library of this machine. A run that is started again in its workdir
resumes, to the bit. The learning rates are tuned for that size; for a model of 100 M
parameters begin with --optim.lr=1e-2 --optim.adam_lr_ratio=0.3.
"""

import time
from functools import partial

import jax

from llmjax import distributed, flags, losses, optim, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig
from llmjax.data import corpus
from llmjax.data.batches import Batches
from llmjax.data.prefetch import Prefetch
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.text import complete
from llmjax.load import load
from llmjax.models import transformer
from llmjax.train import hooks, outputs, workdir
from llmjax.train.config import TrainConfig
from llmjax.train.evaluate import make_evaluate
from llmjax.train.loop import train
from llmjax.train.record import Recorder
from llmjax.train.state import averaged
from llmjax.train.step import make_step

RUN = flags.define("", flags.Run(workdir="runs/pretrain", num_steps=1200))
MODEL = flags.define_model("quickstart")
DATA = flags.define("data", corpus.TextConfig())
OPTIM = flags.define("optim", optim.OptimConfig(lr=1.2e-2, adam_lr_ratio=4.0))
TRAIN = flags.define("train", TrainConfig())
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs = time.perf_counter()
    run, knobs, cfg = RUN(), TRAIN(), MODEL()
    folder, mesh = workdir.begin(run)
    loaded = load(run.init_from) if run.init_from else None
    cfg = loaded.cfg if loaded else cfg
    sharding.check_batch(knobs.batch_size, cfg.context, mesh)

    text = corpus.prepare(DATA(), folder, cfg.context, is_first=distributed.is_first())
    cfg = cfg if loaded else cfg.with_vocab(text.tokenizer.vocab_size)
    batches = Batches(text.train, knobs.batch_size, run.seed, **distributed.share())
    model = transformer.make(cfg, COMPUTE())
    tx, schedule = optim.make(OPTIM(), run.num_steps)
    config = dict(
        experiment="pretrain", seed=run.seed, num_steps=run.num_steps, model=cfg,
        data=DATA(), data_fingerprint=batches.fingerprint, optim=OPTIM(), train=knobs,
    )  # fmt: skip

    with jax.set_mesh(mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        state = workdir.resume_or_init(
            checkpoints, config, model.init, tx, mesh, run,
            ema=knobs.ema_decay > 0, init_from=loaded and loaded.params,
        )  # fmt: skip
        start = int(state.step)
        flags.save(folder)
        outputs.announce(folder, config, text, state, mesh)
        sample = partial(
            complete, model, tokenizer=text.tokenizer, prompts=text.prompts(),
            max_new_tokens=min(64, cfg.context // 2), context=cfg.context,
            sampling=SamplingConfig(0.8),
        )  # fmt: skip
        samples = {"before training": sample(averaged(state))}

        loss_fn = partial(losses.next_token, model, z_loss=knobs.z_loss)
        step_fn = make_step(
            loss_fn, tx, state, accumulate=knobs.accumulate, ema_decay=knobs.ema_decay
        )
        data = Prefetch(batches.batch, start, place=sharding.placer(mesh))
        record = Recorder(folder, cfg, knobs, start, run.num_steps, data)
        log = hooks.Log(record.step, schedule)
        look = hooks.evaluate(make_evaluate(loss_fn, text, knobs, mesh), record)
        save = hooks.save(checkpoints, config, log)
        with data, record:
            state = train(
                step_fn, state, data,
                [log, *hooks.timed(knobs, folder, run.num_steps, look=look, save=save)],
                start=start, num_steps=run.num_steps,
            )  # fmt: skip
        samples["after training"] = sample(averaged(state))

    if distributed.is_first():
        secs = time.perf_counter() - start_secs
        outputs.finish(folder, config, text, record, samples, secs)


if __name__ == "__main__":
    flags.run(main)
