"""Serves a model over HTTP, to OpenAI's clients and to a page for people.

    python tools/serve.py --model=smollm2                       # open 127.0.0.1:8000
    python tools/serve.py --model=runs/quickstart/ppo --port=0  # any free port
    python tools/serve.py --model=ENCODER_FOLDER                # embeddings
    python tools/serve.py --model=DIR --adapters=poet=DIR2,clerk=runs/clerk

    curl 127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"messages": [{"role": "user", "content": "Hello"}], "stream": true}'

Adapters are LoRA's, of PEFT folders or of workdirs; "model" in a request names one of
them, or the base. It listens to this machine only unless --host says otherwise; then
give an --api_key. What one client may take is limited by the flags below. Needs `pip
install llmjax[serve]`.
"""

import contextlib
import dataclasses
import importlib.util
import os
import socket
import sys

import jax
from absl import flags as absl_flags

from llmjax import embed, flags, host, load, lora_rows
from llmjax.config import ComputeConfig
from llmjax.data import assets
from llmjax.generate.engine import Engine
from llmjax.models import quantise, transformer
from llmjax.serve.limits import Limits

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
ADAPTERS = absl_flags.DEFINE_list(
    "adapters", [], "LoRA adapters beside the model, each as name=folder"
)
NAME = absl_flags.DEFINE_string("name", None, "what clients call it; else its file's")
HOST = absl_flags.DEFINE_string("host", "127.0.0.1", "address to listen at")
PORT = absl_flags.DEFINE_integer("port", 8000, "0: any that is free", 0, 65535)
API_KEY = absl_flags.DEFINE_string(
    "api_key", None, "clients must send it; else $LLMJAX_API_KEY, else none is needed"
)
ANY_HOST = absl_flags.DEFINE_boolean(
    "any_host", False, "behind a proxy: also answer to other names than this machine's"
)
NUM_SLOTS = absl_flags.DEFINE_integer("num_slots", 8, "answers written together", 1)
NUM_TOKENS = absl_flags.DEFINE_integer(
    "num_tokens", 2048, "longest prompt and answer; at most the model's context", 1
)
WEIGHTS = absl_flags.DEFINE_enum(
    "weights", "float32", quantise.DTYPES, "what weights are held in"
)
CACHE_DTYPE = absl_flags.DEFINE_enum(
    "cache_dtype", "float32", quantise.DTYPES, "what keys and values are kept in"
)
COMPUTE = flags.define("compute", ComputeConfig())
LIMITS = flags.define("", Limits())


def main():
    if not MODEL.value:
        raise ValueError("--model is needed: a folder, a .gguf file or a workdir")
    for package in ("starlette", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{package} is missing: pip install llmjax[serve]")
    import uvicorn

    host.start()
    limits = LIMITS()
    limits = dataclasses.replace(
        limits, max_samples=min(limits.max_samples, NUM_SLOTS.value)
    )
    # At once, since a model takes long to load only to find the port in use.
    with listen(HOST.value, PORT.value) as listener:
        config = uvicorn.Config(
            make_app(limits), access_log=False, ws="none", timeout_graceful_shutdown=5
        )
        # Who comes before it has started waits at the socket, which listens already.
        print(f"running on {address(listener)}", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listener])


def make_app(limits: Limits):
    from llmjax.serve import app, gate

    api_key = API_KEY.value or os.environ.get("LLMJAX_API_KEY")
    is_local = HOST.value in gate.LOOPBACK
    if not (is_local or api_key):
        print("warning: without --api_key all who reach this address can use it")
    return app.make(
        load_served(limits),
        limits,
        api_key=api_key,
        any_host=ANY_HOST.value or not is_local,
    )


def address(listener: socket.socket) -> str:
    """Where a browser finds it."""
    name, port, *_ = listener.getsockname()
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def listen(host_name: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
    try:
        return socket.create_server((host_name, port), family=family)
    except OSError as error:
        raise ValueError(
            f"--host={host_name} --port={port}: {error.strerror}"
        ) from None


def load_served(limits: Limits):
    """The model, ready for what its structure can do."""
    from llmjax.serve.app import Served
    from llmjax.serve.embedder import Embedder
    from llmjax.serve.writer import Writer

    path = assets.model(MODEL.value)
    name = NAME.value or path.resolve().name
    loaded = load.load(path)
    if loaded.tokenizer is None:
        raise ValueError(f"{path} has no tokenizer.json, which serving needs")
    if ADAPTERS.value and (loaded.cfg.structure == "encoder" or loaded.cfg.encoder):
        raise ValueError("--adapters: a decoder is needed, which writes text")
    if loaded.cfg.structure == "encoder":
        run = embed.load_embed(path, COMPUTE())
        return Served(name, embedder=Embedder(run, loaded.tokenizer))
    if loaded.cfg.encoder is not None:
        raise ValueError(f"{path}: an encoder-decoder; use tools/generate.py")
    params = jax.device_put(quantise.narrow(loaded.params, WEIGHTS.value))
    folders = adapter_folders(name)
    if folders:
        kept = [load.load_adapter(folder, loaded) for folder in folders.values()]
        params = lora_rows.keep(params, kept)
    engine = Engine(
        transformer.make(loaded.cfg, COMPUTE()),
        params,
        vocab_size=loaded.cfg.vocab_size,
        num_slots=NUM_SLOTS.value,
        num_tokens=min(NUM_TOKENS.value, loaded.cfg.context),
        cache_dtype=CACHE_DTYPE.value,
        max_waiting=limits.max_waiting,
    )
    writer = Writer(engine, loaded.tokenizer, load.chat_template(path))
    return Served(name, writer=writer, adapters=tuple(folders))


def adapter_folders(base: str) -> dict[str, str]:
    """{name: folder} of --adapters; ValueError where a name is missing, or not free."""
    folders = {}
    for given in ADAPTERS.value:
        name, _, folder = given.partition("=")
        if not name or not folder:
            raise ValueError(f"--adapters={given}: write name=folder")
        if name in folders or name == base:
            raise ValueError(f"--adapters={given}: the name is taken already")
        folders[name] = folder
    return folders


if __name__ == "__main__":
    flags.run(main)
