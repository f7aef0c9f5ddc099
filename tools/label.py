"""A page on which a person ranks answers, from best to worst; it writes comparisons.

    python tools/label.py --answers=answers.jsonl --out=labels.jsonl
    python tools/label.py --model=runs/sft --prompts=prompts.jsonl --out=labels.jsonl
    python experiments/reward_model.py --data.source=labels.jsonl ...

A line of answers has `prompt` and `answers`; a line of prompts has `prompt`, or is a
conversation, whose last answer is left out. Answers that --model draws are kept in
OUT.answers.jsonl, and not drawn again. What has been ranked is in OUT, line by line:
end the program whenever you like, and start it again to go on.
"""

import contextlib
import json
import os
import signal
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from absl import flags as absl_flags

from llmjax import flags, host, load
from llmjax.config import ComputeConfig
from llmjax.data import chat, comparisons, conversations
from llmjax.evals import sampled
from llmjax.generate.sampling import SamplingConfig
from llmjax.models import transformer
from llmjax.serve.label import Desk, Item, LabelServer

ANSWERS = absl_flags.DEFINE_string("answers", None, ".jsonl of prompts with answers")
MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
PROMPTS = absl_flags.DEFINE_string("prompts", None, ".jsonl of prompts for --model")
NUM_ANSWERS = absl_flags.DEFINE_integer("num_answers", 4, "of --model to each", 2, 9)
MAX_NEW_TOKENS = absl_flags.DEFINE_integer("max_new_tokens", 128, "longest answer", 1)
SAMPLING = flags.define("", SamplingConfig(temperature=0.8, top_p=0.95))
COMPUTE = flags.define("compute", ComputeConfig())
OUT = absl_flags.DEFINE_string("out", "labels.jsonl", "where the rankings are written")
PORT = absl_flags.DEFINE_integer("port", 8017, "of this machine; 0 is any free one")
OPEN = absl_flags.DEFINE_boolean("open", True, "show the page in a browser")


def main() -> None:
    if (ANSWERS.value is None) == (MODEL.value is None):
        raise ValueError("give either --answers, or --model and --prompts")
    source = ANSWERS.value or draw(f"{OUT.value}.answers.jsonl")
    desk = Desk(list(read_items(source)), OUT.value)
    try:
        server = LabelServer(desk, PORT.value)
    except OSError as error:
        raise OSError(f"--port={PORT.value}: {error.strerror}; try another") from None
    url = f"http://127.0.0.1:{server.server_port}/"
    done = f"{desk.num_ranked} of {len(desk.items)} ranked, in {OUT.value}"
    print(f"{done}\n{url}  (Ctrl-C ends)", flush=True)
    if OPEN.value:
        webbrowser.open(url)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()
    print(f"\n{desk.num_ranked} of {len(desk.items)} ranked, in {OUT.value}")


def read_items(source: str) -> Iterator[Item]:
    """What there is to rank; prompts with fewer than two different answers are not."""
    for where, line in conversations.records(source):
        try:
            record = conversations.parse(line)
            if "prompt" not in record or "answers" not in record:
                raise ValueError("no prompt and answers")
            count = range(1, len(record["answers"]) + 1)
            found = comparisons.to_comparison(where, {"ranks": [*count], **record})
            texts = sampled.different(map(comparisons.text_of, found.answers))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from None
        if len(texts) > 1:
            yield Item(found.prompt, texts)


def draw(path: str) -> str:
    """The file with the model's answers, made or completed."""
    if not PROMPTS.value:
        raise ValueError("--prompts is needed: a .jsonl of prompts for --model")
    prompts = [read_prompt(*one) for one in conversations.records(PROMPTS.value)]
    known = set()
    if Path(path).is_file():
        lines = Path(path).read_bytes().splitlines(keepends=True)
        known = {json.dumps(json.loads(line)["prompt"]) for line in lines}
    missing = [one for one in prompts if json.dumps(one) not in known]
    if not missing:
        return path
    host.start()
    cfg, params, tokenizer = load.load_writer(MODEL.value)
    form = chat.choose("auto", tokenizer, load.chat_template(MODEL.value))
    answered = sampled.draw_answers(
        transformer.make(cfg, COMPUTE()), params, tokenizer, form, missing,
        num_answers=NUM_ANSWERS.value, max_new_tokens=MAX_NEW_TOKENS.value,
        context=cfg.context, sampling=SAMPLING(),
    )  # fmt: skip
    for number, (prompt, answers) in enumerate(answered, start=1):
        with open(path, "a", encoding="utf-8") as file:
            record = {"prompt": prompt, "answers": answers}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"\ranswers to {number} of {len(missing)} prompts", end="", flush=True)
    print()
    return os.fspath(path)


def read_prompt(where: str, line) -> comparisons.Messages:
    """The messages before the answer."""
    try:
        record = conversations.parse(line)
        prompt = record.get("prompt")
        if prompt is None:
            return conversations.to_messages(record)[:-1]
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}]
        return conversations.read_messages(prompt)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


if __name__ == "__main__":
    flags.run(main)
