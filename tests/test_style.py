"""tools/style.py: the repository keeps its rules, and breaking any one is seen."""

from pathlib import Path

import pytest

from tools import style

ROOT = Path(__file__).resolve().parent.parent
DOC = '"""A module."""\n'

GOOD = {
    "llmjax/__init__.py": "",
    "llmjax/dims.py": DOC + "import math\n",
    "llmjax/config.py": DOC + "from llmjax import dims\n",
    "llmjax/flags.py": DOC + "from absl import app, flags\n",
    "llmjax/checkpoint.py": DOC + "def save():\n    import orbax.checkpoint\n",
    "llmjax/nn/__init__.py": "",
    "llmjax/nn/mlp.py": DOC + "from flax import linen\nfrom llmjax.ops import norm\n",
    "llmjax/ops/norm.py": (
        DOC + "def norm(x_BTD, eps: float = 1e-6):\n"
        '    """Returns nothing."""\n'
        '    jnp.einsum("...TD,DNH->...TNH", x_BTD, params["q_bias_NH"])\n'
        "EPS_MAX = 1\n"
    ),
    "llmjax/train/step.py": DOC + "import optax\nfrom llmjax import losses, types\n",
    "llmjax/interop/hf.py": DOC + "from llmjax.models import transformer\n",
    "experiments/pretrain.py": DOC
    + "from llmjax import models\nfrom absl import flags",
    "tools/bench.py": DOC + "def main():\n    import torch\n",
    "tests/test_it.py": DOC + "import torch\njax.config.update('a', 1)\n",
}

LONG = "def long():\n" + "    pass\n" * 60
# (rule, file, its text, what the message says)
PLANTED = [
    ("layers", "llmjax/ops/a.py", "from llmjax.nn import mlp", "ops imports llmjax.nn"),
    ("layers", "llmjax/losses.py", "from llmjax import optim", "not below it"),
    ("layers", "llmjax/models/a.py", "from llmjax import interop", "not below it"),
    (
        "layers",
        "llmjax/data/a.py",
        "def f():\n    import llmjax.train.step",
        "not below",
    ),
    (
        "layers",
        "llmjax/train/a.py",
        "from llmjax.models import transformer",
        "hand it a",
    ),
    ("layers", "llmjax/optim.py", "from llmjax import nn", "hand it a Model"),
    ("layers", "llmjax/nn/a.py", "from . import mlp", "relative import"),
    ("layers", "llmjax/load.py", "from experiments import pretrain", "llmjax imports"),
    ("layers", "llmjax/new.py", "", "has no layer"),
    ("packages", "llmjax/train/a.py", "import flax", "train imports flax"),
    ("packages", "experiments/a.py", "from flax import linen", "experiments imports"),
    ("packages", "llmjax/models/a.py", "import optax", "models imports optax"),
    ("packages", "llmjax/load.py", "def f():\n    import orbax.checkpoint", "orbax"),
    ("packages", "llmjax/train/a.py", "import tensorstore as ts", "tensorstore"),
    ("packages", "llmjax/train/a.py", "from absl import flags", "absl.flags"),
    ("packages", "llmjax/interop/a.py", "def f():\n    import torch", "torch"),
    ("packages", "llmjax/data/a.py", "import jax.numpy as jnp", "data imports jax"),
    ("lazy_imports", "llmjax/data/a.py", "import grain", "import grain in the func"),
    ("lazy_imports", "llmjax/report.py", "from matplotlib import pyplot", "matplotlib"),
    ("lazy_imports", "tools/a.py", "try:\n    import torch\nexcept: pass", "torch"),
    ("star_imports", "tests/a.py", "from llmjax.dims import *", "import llmjax.dims.*"),
    ("private_jax", "tests/a.py", "from jax._src import core", "jax._src.core"),
    ("private_jax", "llmjax/ops/a.py", "def f():\n    jax._src.core", "jax._src"),
    ("side_effects", "llmjax/ops/a.py", "print(1)", "print() at import"),
    ("side_effects", "experiments/a.py", "jax.config.update('a', 1)", "at import"),
    ("side_effects", "tools/a.py", "jax.config.jax_enable_x64 = True", "at import"),
    ("shadows", "tools/token.py", "", "hides the standard module 'token'"),
    ("file_size", "experiments/a.py", "x = 1\n" * 120, "121 lines, limit 120"),
    ("file_size", "llmjax/ops/a.py", "x = 1\n" * 400, "401 lines, limit 400"),
    ("function_size", "tests/a.py", LONG, "long has 61 lines"),
    ("annotations", "llmjax/ops/a.py", "def f(eps): pass", "f: eps has no type"),
    ("annotations", "llmjax/ops/a.py", "def f():\n    return 1", "no return type"),
    ("annotations", "llmjax/ops/a.py", "class A:\n    def f(self, b): 1", "b has no"),
    ("dims_names", "llmjax/ops/a.py", "x_BTX = 1", "unknown dimension 'X'"),
    ("dims_names", "llmjax/nn/a.py", "def f(x_BZ): pass", "unknown dimension 'Z'"),
    ("dims_names", "llmjax/models/a.py", "a = b['q_DNJ']", "unknown dimension 'J'"),
    ("einsum_letters", "llmjax/losses.py", "a = jnp.einsum('Bd,D->B', c)", "'d'"),
    ("experiments", "experiments/a.py", "from experiments import b", "experiments.b"),
]


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_repository():
    assert list(style.violations(ROOT)) == []


def test_good_code_passes(tmp_path):
    write(tmp_path, GOOD)
    assert list(style.violations(tmp_path)) == []


@pytest.mark.parametrize(
    ("rule", "name", "text", "message"), PLANTED, ids=[case[2][:30] for case in PLANTED]
)
def test_planted_violation(tmp_path, rule, name, text, message):
    write(tmp_path, GOOD | {name: DOC + text})
    (found,) = style.violations(tmp_path)
    assert found.startswith(f"{name}:")
    assert f": {rule}: " in found
    assert message in found


def test_missing_docstring(tmp_path):
    write(tmp_path, {"llmjax/ops/a.py": "x = 1\n"})
    (found,) = style.violations(tmp_path)
    assert found == "llmjax/ops/a.py:1: module_docstring: no module docstring"


def test_every_rule_is_planted():
    planted = {case[0] for case in PLANTED} | {"module_docstring"}
    assert {rule.__name__ for rule in style.RULES} == planted


def test_what_an_import_passes_by(tmp_path):
    guard = "if TYPE_CHECKING:\n    import grain\n"
    main = "if __name__ == '__main__':\n    print(1)\n"
    doc = '"""Doc.\n' + "\n" * 70 + '"""'
    documented = f"def f() -> None:\n    {doc}\n"
    write(tmp_path, {"llmjax/data/a.py": DOC + guard + main + documented})
    assert list(style.violations(tmp_path)) == []


def test_waivers_are_used():
    """Each waiver hides something that is still there."""
    waivers, style.WAIVERS = style.WAIVERS, {}
    try:
        found = list(style.violations(ROOT))
    finally:
        style.WAIVERS = waivers
    for name, rule, text in waivers:
        assert any(
            line.startswith(f"{name}:") and f": {rule}: " in line and text in line
            for line in found
        ), f"the waiver of {text} in {name} can go"
