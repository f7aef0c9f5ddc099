"""Finds the lines of a text that mean the same as a question, whatever the words.

    python experiments/semantic_search.py --query="make a copy of a whole folder"
    python experiments/semantic_search.py --model=DIR --texts=notes.txt --query="..."

The default model is all-MiniLM-L6-v2 (a BERT of 22.7 M parameters, Apache-2.0, from
PyPI); the default text, what the modules and functions of the standard library of this
machine say of themselves, about 1,300 lines: a minute on 2 CPU cores.
The question above finds `shutil.copytree: Recursively copy a directory tree`.
"""

import ast
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags as absl_flags

from llmjax import flags
from llmjax.config import ComputeConfig
from llmjax.data.assets import read_text
from llmjax.embed import load_embed

QUERY = absl_flags.DEFINE_multi_string("query", None, "what to look for; repeatable")
MODEL = absl_flags.DEFINE_string("model", "minilm", "an encoder's Hugging Face folder")
TEXTS = absl_flags.DEFINE_string("texts", None, "a text file; each line is found alone")
TOP = absl_flags.DEFINE_integer("top", 5, "lines shown for each query", lower_bound=1)
MAX_LINES = absl_flags.DEFINE_integer("max_lines", 2000, "of the text", lower_bound=1)
COMPUTE = flags.define("compute", ComputeConfig())
absl_flags.mark_flag_as_required("query")


def main():
    embed = load_embed(MODEL.value, COMPUTE())
    if TEXTS.value:
        lines = [line.strip() for line in read_text(TEXTS.value).splitlines()]
    else:
        lines = list(standard_library())
    lines = list(dict.fromkeys(filter(None, lines)))[: MAX_LINES.value]
    if not lines:
        raise ValueError(f"--texts={TEXTS.value}: no lines to search")

    start_secs = time.perf_counter()
    lines_ND, queries_QD = embed(lines), embed(QUERY.value)
    secs = time.perf_counter() - start_secs
    print(f"{len(lines)} lines embedded, {len(lines) / secs:.0f} a second")
    for query, vector_D in zip(QUERY.value, queries_QD, strict=True):
        print(f"\n{query}")
        cosines_N = lines_ND @ vector_D
        for index in np.argsort(-cosines_N, kind="stable")[: TOP.value]:
            print(f"  {cosines_N[index]:.3f}  {lines[index]}")


def standard_library() -> Iterator[str]:
    """What each module, and each function and class in it, says first of itself."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        module = ast.parse(read_text(path))
        for node in (module, *module.body):
            if not isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                continue
            name = getattr(node, "name", "")
            says = (ast.get_docstring(node) or "").partition("\n")[0].strip()
            if says and not name.startswith("_"):
                yield f"{path.stem}{'.' if name else ''}{name}: {says}"


if __name__ == "__main__":
    flags.run(main)
