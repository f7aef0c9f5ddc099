"""Tunes a language model on conversations: it learns to answer, and when to stop.

    python experiments/sft.py --init_from=DIR --data.source=chats.jsonl
    python experiments/sft.py --init_from=smollm2 --data.source="chats/*.gz"
    python experiments/sft.py --init_from=runs/pretrain --data.source=hf:NAME:train

A line has `messages`, or `instruction`, `input` and `output`, or `prompt` and
`completion`. Only answers are trained, with their ends: tools/show_batch.py shows these
tokens, and tools/chat.py talks with the result. An encoder-decoder reads what comes
before an answer. A run that is started again in its workdir resumes.
"""

import json
import time
from functools import partial

import jax

from llmjax import distributed, flags, losses, optim, report, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig
from llmjax.data import chat_corpus
from llmjax.data.batches import Batches, eval_batches
from llmjax.evals.answers import Interview
from llmjax.load import chat_template, load_writer
from llmjax.models import transformer
from llmjax.train import outputs, workdir
from llmjax.train.config import TrainConfig
from llmjax.train.evaluate import make_mean_loss
from llmjax.train.fit import fit
from llmjax.train.state import averaged

TUNED = optim.OptimConfig(
    name="adamw", lr=2e-5, warmup_fraction=0.05, weight_decay=0.0, b2=0.999
)
RUN = flags.define("", flags.Run(workdir="runs/sft", num_steps=300))
DATA = flags.define("data", chat_corpus.ChatConfig())
OPTIM = flags.define("optim", TUNED)
TRAIN = flags.define("train", TrainConfig(z_loss=0.0, eval_every=100))
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs = time.perf_counter()
    run, knobs = RUN(), TRAIN()
    folder, mesh = workdir.begin(run)
    cfg, params, tokenizer = load_writer(run.init_from)
    corpus = chat_corpus.prepare(DATA(), tokenizer, cfg, chat_template(run.init_from))
    lengths = corpus.train.lengths
    sharding.check_batch(knobs.batch_size, lengths[0], mesh)
    if distributed.is_first():  # tools/chat.py needs these to talk to the workdir
        tokenizer.save(folder / "tokenizer.json")
        workdir.write_text(folder / "chat_template.jinja", corpus.template)
        outputs.print_table(corpus.tally.rows())
    share = distributed.share()
    batches = Batches(corpus.train, knobs.batch_size, run.seed, **share)
    looks = eval_batches(corpus.validation, knobs.batch_size, **share)
    model = transformer.make(cfg, COMPUTE())
    optimizer = optim.make(OPTIM(), run.num_steps)
    config = dict(
        experiment="sft", seed=run.seed, num_steps=run.num_steps, model=cfg,
        init_from=run.init_from, data=DATA(), data_fingerprint=batches.fingerprint,
        optim=OPTIM(), train=knobs,
    )  # fmt: skip
    interview = Interview(model, cfg, corpus, tokenizer)
    with jax.set_mesh(mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        state = workdir.resume_or_init(
            checkpoints, config, model.init, optimizer[0], mesh, run,
            ema=knobs.ema_decay > 0, init_from=params,
        )  # fmt: skip
        flags.save(folder)
        outputs.begin(folder, config, state, mesh)
        if not state.step:
            before = interview.ask(averaged(state))
            if distributed.is_first():
                workdir.write_json(folder / "before.json", before)
        loss_fn = partial(losses.next_token, model, z_loss=knobs.z_loss)
        look = make_mean_loss(loss_fn, list(map(sharding.placer(mesh), looks)))
        state, record = fit(
            loss_fn, optimizer, state, batches.batch, look, checkpoints, config,
            folder=folder, mesh=mesh, knobs=knobs, num_steps=run.num_steps,
            lengths=lengths,
        )  # fmt: skip
        after = interview.ask(averaged(state))

    if distributed.is_first():
        before = json.loads((folder / "before.json").read_text(encoding="utf-8"))
        rows = interview.table({"before": before, "after": after})
        sections = [
            ("Answers to held-out prompts", report.table(rows)),
            ("Conversations", report.table(corpus.tally.rows())),
            ("Tokens to learn", report.figures(corpus.counts._asdict())),
        ]
        num_trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        secs = time.perf_counter() - start_secs
        summary = record.summary() | {"num_trained": num_trained, "secs": secs}
        outputs.write(folder, "Conversations", config, record, summary, sections)
        outputs.print_table(rows)
        print(f"report: {folder}/report.html; python tools/chat.py --model={folder}")


if __name__ == "__main__":
    flags.run(main)
