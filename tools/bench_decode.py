"""`tools/bench.py decode`: new tokens a second, beside transformers and llama.cpp.

All programs open one temporary Hugging Face folder, read the same random prompts, take
the likeliest token each time, and must come to the same ids.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags as absl_flags
from bench_turns import (
    LLAMA,
    ROUNDS,
    TORCH,
    Worker,
    at_work,
    has,
    missing_torch,
    paired_ratio,
    show,
    take_turns,
)

from llmjax.data import assets

# Presets, random: the weights of GPT-2 shapes; SmolLM2 is what it is.
MODELS = {
    "tiny": dict(vocab_size=256, num_layers=2, width=32, num_heads=4, context=256),
    "b": dict(vocab_size=8192, num_layers=8, width=256, num_heads=8, context=256),
    "c": dict(vocab_size=50257, num_layers=12, width=768, num_heads=12, context=512),
    "smollm2": None,
}
# Two ids whose logits differ by less are a tie, which rounding may break either way.
TIE = 1e-3

BATCH_SIZES = absl_flags.DEFINE_list("batch_sizes", ["1", "16"], "rows, to decode")
PROMPT_TOKENS = absl_flags.DEFINE_integer("prompt_tokens", 32, "tokens of a prompt")
NEW_TOKENS = absl_flags.DEFINE_integer("new_tokens", 128, "tokens that follow it")


def decode(config: str) -> None:
    """Prints a table for each batch size."""
    if not has(TORCH.value, "torch", "transformers"):
        raise missing_torch()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_folder(config, Path(scratch))
        gguf = make_gguf(config, Path(scratch))
        for batch_size in map(int, BATCH_SIZES.value):
            programs = {"llmjax": None, "transformers": TORCH.value}
            if gguf and batch_size == 1:
                programs["llama.cpp"] = LLAMA.value
            programs["copy"] = None
            compare(config, batch_size, folder, gguf, programs)


def make_gguf(config: str, scratch: Path) -> Path | None:
    """The float32 GGUF file of a model that llama.cpp can be compared on."""
    if MODELS[config] is not None:
        return None
    if not has(LLAMA.value, "llama_cpp"):
        print(
            f"llama.cpp is left out: {LLAMA.value} has no llama-cpp-python; install "
            "it, or name another Python by --llama_python"
        )
        return None
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize

    reader = GGUFReader(assets.smollm2())
    path, architecture = scratch / "model.gguf", "general.architecture"
    writer = GGUFWriter(path, reader.fields[architecture].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in (architecture, "general.file_type"):
            continue
        kind, item_kind = field.types[0], field.types[-1]
        item_kind = item_kind if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, item_kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_folder(config: str, scratch: Path) -> Path:
    """A Hugging Face folder of the model, in float32."""
    folder = scratch / config
    if MODELS[config] is None:
        convert = [sys.executable, Path(__file__).with_name("convert.py")]
        done = subprocess.run(
            [*convert, assets.smollm2(), folder, "--format=hf", "--dtype=float32"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1])
        return folder
    import jax
    import numpy as np

    from llmjax.config import ModelConfig
    from llmjax.interop import hf
    from llmjax.models import transformer

    sizes = MODELS[config]
    cfg = ModelConfig(
        **sizes, num_kv_heads=sizes["num_heads"],
        head_width=sizes["width"] // sizes["num_heads"], ff_width=4 * sizes["width"],
        norm="layer", activation="gelu_tanh", gated=False, positions="learned",
        qkv_bias=True, out_bias=True, mlp_bias=True,
    )  # fmt: skip
    random = np.random.default_rng(0)

    def draw(leaf):
        # Of this scale every leaf counts, biases too, and no two logits are close.
        return np.float32(0.1) * random.standard_normal(leaf.shape, np.float32)

    shapes = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    hf.save(folder, cfg, jax.tree.map(draw, shapes), family="gpt2")
    return folder


def compare(config: str, batch_size: int, folder: Path, gguf, programs: dict) -> None:
    """Turns of all programs, and their table; programs: in which Python each runs."""
    spec = {
        "folder": str(folder), "gguf": str(gguf), "batch_size": batch_size,
        "prompt_tokens": PROMPT_TOKENS.value, "new_tokens": NEW_TOKENS.value,
    }  # fmt: skip
    jobs = [
        (spec | {"program": program}, python) for program, python in programs.items()
    ]
    with at_work("bench_decode_worker.py", jobs) as workers:
        take_turns(workers)
    *others, copy = workers
    show(
        f"{config}: {batch_size} x ({spec['prompt_tokens']} + {spec['new_tokens']} "
        f"tokens), {others[0].ready['weight_bytes'] / 1e6:,.0f} MB of weights, copying "
        f"{copy.ready['bytes'] / min(copy.secs()) / 1e9:.1f} GB/s, "
        f"{ROUNDS.value} rounds",
        [figures(worker, others[0], copy, config, spec) for worker in others],
    )
    for other in others[1:]:
        for line in differences(folder, others[0].ready, other):
            print(line)


def figures(worker: Worker, ours: Worker, copy: Worker, config: str, spec) -> dict:
    """A row of the table."""
    num_steps = spec["new_tokens"]
    read_bytes = num_steps * ours.ready["weight_bytes"]
    same = sum(
        mine == yours
        for mine, yours in zip(
            worker.ready["result"], ours.ready["result"], strict=True
        )
    )
    return {
        "config": config,
        "batch_size": f"{spec['batch_size']}",
        "program": worker.program,
        "malloc": worker.malloc,
        "tokens_per_s": spec["batch_size"]
        * num_steps
        / statistics.median(worker.secs()),
        "time_over_llmjax": paired_ratio(worker.secs(), ours.secs()),
        # The weights that are read, over what could be copied in that time.
        "of_copy_speed": read_bytes
        / copy.ready["bytes"]
        * paired_ratio(copy.secs(), worker.secs()),
        "same_rows": f"{same} of {spec['batch_size']}",
    } | worker.usual()


def differences(folder: Path, ours: dict, other: Worker) -> list[str]:
    """A line for each row of other ids, if they part at a tie; else ValueError."""
    lines = []
    rows = zip(ours["prompts"], ours["result"], other.ready["result"], strict=True)
    for number, (prompt, mine, theirs) in enumerate(rows):
        if mine == theirs:
            continue
        place = [a == b for a, b in zip(mine, theirs, strict=True)].index(False)
        gap = logit_gap(folder, prompt + mine[:place], mine[place], theirs[place])
        where = (
            f"row {number} and that of {other.program} part at new token {place}, by "
            f"ids whose logits differ by {gap:.2g}"
        )
        if gap > TIE:
            raise ValueError(f"{where}: not the same model")
        lines.append(f"{where}: a tie")
    return lines


def logit_gap(folder: Path, ids: list[int], one: int, other: int) -> float:
    """Between two ids that might follow, without a cache."""
    import jax
    import numpy as np

    from llmjax import load
    from llmjax.models import transformer

    cfg, params, _ = load.load(folder)
    model = transformer.make(cfg)

    @jax.jit
    def forward(params, tokens_BT):
        hidden_BTD = model.apply(params, {"tokens": tokens_BT}).hidden_BTD
        return model.readout(params, hidden_BTD[:, -1])

    [logits_V] = np.asarray(forward(params, np.array([ids], np.int32)))
    return abs(float(logits_V[one] - logits_V[other]))
