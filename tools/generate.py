"""Continues a prompt with any model: a Hugging Face folder, a GGUF file, a workdir.

python tools/generate.py --model=runs/quickstart --prompt="def main("
python tools/generate.py --model=SmolLM2.gguf --prompt="The capital of France is"
python tools/generate.py --model=DIR --prompt_ids=1,2,3 --json

The prompt of an encoder-decoder is the text that its encoder reads.
"""

import json
import time

from absl import flags as absl_flags

from llmjax import flags, host, load
from llmjax.config import ComputeConfig
from llmjax.generate import generate
from llmjax.models import transformer

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
PROMPT = absl_flags.DEFINE_string("prompt", None, "text to continue")
PROMPT_IDS = absl_flags.DEFINE_list("prompt_ids", None, "token ids to continue")
MAX_NEW_TOKENS = absl_flags.DEFINE_integer("max_new_tokens", 64, "longest continuation")
TEMPERATURE = absl_flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token")
SEED = absl_flags.DEFINE_integer("seed", 0, "of the draws at a temperature above 0")
JSON = absl_flags.DEFINE_boolean("json", False, "print {ids, text} instead of text")
COMPUTE = flags.define("compute", ComputeConfig(dtype="float32"))


def main():
    if not MODEL.value:
        raise ValueError("--model is needed: a folder, a .gguf file or a workdir")
    host.start()
    cfg, params, tokenizer = load.load(MODEL.value)
    prompt_ids = read_prompt(cfg, tokenizer)
    prompts, sources = [prompt_ids], None
    if cfg.encoder is not None:
        prompts, sources = [[cfg.start_id]], [prompt_ids]
    stop_ids = [] if tokenizer is None else [tokenizer.eos_id]
    start_secs = time.perf_counter()
    [ids] = generate(
        transformer.make(cfg, COMPUTE()),
        params,
        prompts,
        sources=sources,
        max_new_tokens=MAX_NEW_TOKENS.value,
        context=cfg.context,
        temperature=TEMPERATURE.value,
        seed=SEED.value,
        stop_ids=[stop for stop in stop_ids if stop is not None],
    )
    text = "" if tokenizer is None else tokenizer.decode(ids)
    if JSON.value:
        secs = time.perf_counter() - start_secs
        print(json.dumps({"ids": ids, "text": text, "secs": round(secs, 3)}))
    elif tokenizer is None:
        print(",".join(map(str, ids)))
    elif sources is not None:
        print(text)
    else:
        print((PROMPT.value or tokenizer.decode(prompt_ids)) + text)


def read_prompt(cfg, tokenizer) -> list[int]:
    """The ids of --prompt or --prompt_ids, if the model can take them."""
    if (PROMPT.value is None) == (PROMPT_IDS.value is None):
        raise ValueError("give either --prompt or --prompt_ids")
    if PROMPT_IDS.value is not None:
        try:
            ids = [int(text) for text in PROMPT_IDS.value]
        except ValueError:
            text = ",".join(PROMPT_IDS.value)
            raise ValueError(f"--prompt_ids={text}: not numbers") from None
    elif tokenizer is None:
        raise ValueError(f"{MODEL.value} has no tokenizer.json: give --prompt_ids")
    else:
        ids = tokenizer.encode(PROMPT.value)
        start_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if tokenizer.bos_id is not None or not (ids or cfg.encoder):
            ids = [start_id, *ids]
        if cfg.encoder is not None:
            ids = [*ids, tokenizer.eos_id]  # a source is whole, and says so
    vocab_size = (cfg.encoder or cfg).vocab_size
    bad = [token for token in ids if not 0 <= token < vocab_size]
    if bad:
        raise ValueError(f"id {bad[0]} is outside the vocabulary of {vocab_size}")
    return ids


if __name__ == "__main__":
    flags.run(main)
