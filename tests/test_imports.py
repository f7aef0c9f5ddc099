"""What importing llmjax costs, and what must work without an optional package."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llmjax"
HEAVY = ("jax", "numpy", "flax", "optax", "orbax", "grain", "tensorstore", "absl")


def module_names(*parts):
    """The modules of those of these parts of llmjax that there are."""
    names = []
    for part in parts:
        file = PACKAGE / f"{part}.py"
        paths = [file] if file.exists() else sorted((PACKAGE / part).rglob("*.py"))
        for path in paths:
            name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix()
            names.append(name.removesuffix("/__init__").replace("/", "."))
    return names


def imported_by(names, without=()):
    """The top-level packages that a new interpreter holds after the imports.

    An import of a package in `without` fails, as if it were not installed.
    """
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({list(without)!r}))
for name in {list(names)!r}:
    importlib.import_module(name)
print(*{{name.split(".")[0] for name, module in sys.modules.items() if module}})
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_llmjax_imports_nothing_heavy():
    assert not imported_by(["llmjax"]) & set(HEAVY)


def test_data_needs_no_jax():
    assert "jax" not in imported_by(module_names("data"), without=["jax"])


def test_models_step_and_generation_need_no_grain():
    parts = ("models", "train", "generate", "checkpoint", "optim", "losses", "interop")
    imported_by(module_names(*parts), without=["grain", "array_record"])


@pytest.mark.parametrize(
    ("package", "parts"),
    [
        ("orbax", ("checkpoint", "train", "load")),
        ("flax", ("ops", "losses", "optim", "train")),
        ("torch", ("interop", "load")),
        ("gguf", ("interop", "load")),
        ("matplotlib", ("report", "metrics")),
        ("pyarrow", ("data",)),
        ("grain", ("data",)),
    ],
)
def test_imported_only_where_used(package, parts):
    assert package not in imported_by(module_names(*parts), without=[package])


def test_every_module_imports():
    names = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    names += [
        path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()
    ]
    assert imported_by(module_names(*names)) >= {"jax", "llmjax"}
