"""Decoder, encoder and encoder-decoder on a language whose answers are computable.

    python experiments/structures.py                            # 2 CPU cores
    python experiments/structures.py --workdir=runs/harder --hmm.num_states=12

All three have as many parameters and learn from the same texts with the same FLOPs, and
each is held against the least loss that its task allows. Then all are asked the same:
what is in a blank, texts of their own, and a translation of which two are right.
A run that is started again in its workdir resumes.
"""

import dataclasses
import time
from functools import partial

import jax
import numpy as np

from llmjax import distributed, flags, losses, metrics, optim, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig, ModelConfig, field
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


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is learned beside the texts, and how much is asked."""

    translation_steps: int = field(800, "of a decoder, to learn to translate")
    test_rows: int = field(1024, "held-out texts, and sources to translate")
    drawn_rows: int = field(256, "texts drawn from each model")


START = ModelConfig(
    num_layers=4, width=64, num_heads=4, num_kv_heads=4, head_width=16, ff_width=176,
    context=LENGTH, qk_norm="head",
)  # fmt: skip
RUN = flags.define("", flags.Run(workdir="runs/structures", num_steps=1200))
HMM = flags.define("hmm", HmmConfig())
SIZES = flags.define("sizes", Sizes())
MODEL = flags.define("model", START)
OPTIM = flags.define("optim", optim.OptimConfig(lr=2e-2, weight_decay=0.0))
TRAIN = flags.define("train", TrainConfig(batch_size=64, z_loss=0.0, eval_every=200))
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs = time.perf_counter()
    folder, mesh = workdir.begin(RUN())
    sharding.check_batch(TRAIN().batch_size, LENGTH, mesh)
    flags.save(folder)
    known, able, drawn, curves = {}, {}, {}, {}
    with jax.set_mesh(mesh):
        for name in hmm_rows.STRUCTURES:
            known[name], asked, drawn[name], curve = study(name, folder, mesh)
            translated, translation_curve = study_translation(name, folder, mesh)
            able[name] = asked | translated
            curves[name] = (curve, translation_curve)
    if distributed.is_first():
        secs = time.perf_counter() - start_secs
        structures_page.write(folder, HMM(), known, able, drawn, curves, secs)


def study(name: str, folder, mesh):
    """Learns the language; what the model knows of it, and what it can do with it."""
    run, ids = RUN(), hmm_rows.make_ids(HMM().num_symbols, LENGTH)
    cfg = structured(name, dataclasses.replace(MODEL(), vocab_size=ids.size))
    num_texts, num_tests = run.num_steps * TRAIN().batch_size, SIZES().test_rows
    texts = hmm_rows.Texts(HMM(), LENGTH, num_texts)
    tests = hmm_rows.Texts(HMM(), LENGTH, num_tests, part=1)
    rows, held_out = (hmm_rows.rows(name, part, ids) for part in (texts, tests))
    lengths = hmm_rows.row_lengths(name, LENGTH)
    num_steps, cost = same_flops(run.num_steps, (LENGTH,), cfg, lengths)
    model, params, record = learn(
        folder / name / "texts", cfg, rows, held_out, lengths, num_steps, mesh
    )
    test = held_out.take(np.arange(num_tests), run.seed)
    nats = structures.nats_per_target(
        structures.log_shares(model, params, test), test
    )
    floor = structures.floor_per_target(name, texts.hmm, test, ids)
    known = structures.compare(nats, floor) | cost | {"unique_texts": num_texts}
    blanks = hmm_rows.rows("encoder-decoder", tests, ids).take(
        np.arange(num_tests), run.seed
    )
    asked = structures.fill_blanks(name, model, params, texts.hmm, blanks, ids)
    drawn = samples.draw(
        name, model, params, ids, num_rows=SIZES().drawn_rows, length=LENGTH,
        seed=run.seed,
    )  # fmt: skip
    return known, asked | samples.score(texts.hmm, drawn), drawn, record.history
