"""Shows what a model would learn of conversations: which tokens are trained.

    python tools/show_batch.py --model=DIR --data.source=chats.jsonl
    python tools/show_batch.py --model=runs/sft --data.source=chats.jsonl --step=3

The batches are those of experiments/sft.py with the same --data.*, --seed and
--batch_size. What is trained is in colour, or in [[ ]] where there is no terminal. A
data set that a model could not learn to answer from is refused, with exit code 1.
"""

from absl import flags as absl_flags
from rich.console import Console

from llmjax import flags, load
from llmjax.data import chat_corpus, chat_rows
from llmjax.data.batches import Batches
from llmjax.evals import marked
from llmjax.train import outputs

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
DATA = flags.define("data", chat_corpus.ChatConfig())
STEP = absl_flags.DEFINE_integer("step", 0, "which batch", lower_bound=0)
BATCH_SIZE = absl_flags.DEFINE_integer("batch_size", 2, "its rows", lower_bound=1)
SEED = absl_flags.DEFINE_integer("seed", 0, "of the order of rows")


def main() -> None:
    if not MODEL.value:
        raise ValueError("--model is needed: a folder, a .gguf file or a workdir")
    cfg, _, tokenizer = load.load(MODEL.value)
    if tokenizer is None:
        raise ValueError(f"{MODEL.value}: no tokenizer.json beside the model")
    own_template = load.chat_template(MODEL.value)
    corpus = chat_corpus.prepare(DATA(), tokenizer, cfg, own_template)
    batch = Batches(corpus.train, BATCH_SIZE.value, SEED.value).batch(STEP.value)
    marked.show(batch, tokenizer, Console(highlight=False, soft_wrap=True))
    here = chat_rows.count(batch, corpus.stop_ids)._asdict()
    everywhere = corpus.counts._asdict()
    step = f"step {STEP.value}"
    outputs.print_table(
        [{"": name, step: here[name], "all": everywhere[name]} for name in here]
    )
    outputs.print_table(corpus.tally.rows())


if __name__ == "__main__":
    flags.run(main)
