"""Checks the rules of the house that ruff does not know; see `RULES` at the end.

`python tools/style.py` prints `file:line: rule: message` and exits with 1 if there are
any. A rule is a function of a parsed file that yields (line, message).
"""

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from llmjax import dims

# (file, rule, name in the message) -> why this one may.
WAIVERS = {
    ("llmjax/flags.py", "side_effects", "absl_flags.disclaim_key_flags"): (
        "absl asks for it at import, so that flags belong to the program"
    ),
    ("tools/make_golden.py", "lazy_imports", "torch"): "all it does is run torch",
    (
        "tools/golden_decoders.py",
        "lazy_imports",
        "transformers",
    ): "all of it is configs",
    (
        "tools/golden_encoders.py",
        "lazy_imports",
        "transformers",
    ): "all of it is configs",
    (
        "tools/golden_seq2seq.py",
        "lazy_imports",
        "transformers",
    ): "all of it is configs",
}

# A module imports from the layers below its own, and from itself.
LAYERS = (
    {"types", "dims", "config"},
    {"sharding", "distributed", "host"},
    {"ops"},
    {"nn"},
    {"models", "interop", "losses", "optim", "lora", "data", "metrics", "checkpoint",
     "checkpoint_stream", "report", "charts"},
    {"train", "generate", "load", "attention_picture"},
    {"flags", "embed", "rl", "scaling", "evals", "serve"},
)  # fmt: skip
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
# Beside those: the parts of the two lowest layers know each other.
MAY_ALSO = {"interop": {"models"}, "checkpoint_stream": {"checkpoint"},
            "charts": {"report"}}  # fmt: skip
MAY_ALSO |= {name: LAYERS[0] for name in LAYERS[0]}
MAY_ALSO |= {name: LAYERS[1] for name in LAYERS[1]}
# These are handed a `Model` or a loss.
NEVER_MODELS = {"train", "generate", "rl", "evals", "losses", "optim", "lora", "data",
                "checkpoint", "checkpoint_stream", "metrics", "report"}  # fmt: skip

# Package -> the parts that may import it; tests may import anything.
USERS = {
    "flax": {"nn", "models"},
    "optax": {"optim", "train", "rl"},
    "orbax": {"checkpoint"},
    "tensorstore": {"checkpoint_stream", "data"},
    "absl.flags": {"flags", "experiments", "tools"},
    "absl.app": {"flags", "experiments", "tools"},
    "starlette": {"serve"},
    "uvicorn": {"tools"},
    "torch": {"tools"},
    "transformers": {"tools"},
}
LAZY = {"grain", "orbax", "transformers", "matplotlib", "torch", "gguf", "pyarrow"}

MAX_FILE_LINES = {"experiments": 120}
DEFAULT_MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

Found = Iterator[tuple[int, str]]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DIMS_SUFFIX = re.compile(r"[a-z]\w*_[A-Z]+")


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported name: `from llmjax import ops` is `llmjax.ops`."""

    line: int
    name: str
    deferred: bool

    def is_from(self, package: str) -> bool:
        return f"{self.name}.".startswith(f"{package}.")


class File:
    """A parsed file; its area is llmjax, experiments, tools or tests."""

    def __init__(self, root: Path, path: Path):
        self.name = path.relative_to(root).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, self.name)
        self.area, *rest = self.name.removesuffix(".py").split("/")
        # The part of llmjax, such as "ops"; elsewhere the area.
        self.part = rest[0] if self.area == "llmjax" else self.area
        self.nodes = list(_walk(self.tree, deferred=False))
        self.imports = [
            Import(node.lineno, name, deferred)
            for node, deferred in self.nodes
            for name in _imported(node)
        ]

    def all(self, *kinds: type) -> list:
        return [node for node, _ in self.nodes if isinstance(node, kinds)]


def _walk(node: ast.AST, deferred: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, and whether importing the file passes them by."""
    yield node, deferred
    if isinstance(node, ast.If) and ast.unparse(node.test) in (
        "__name__ == '__main__'",
        "TYPE_CHECKING",
    ):
        deferred = True
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, deferred or isinstance(node, (*FUNCTIONS, ast.Lambda)))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return [f"{module}.{alias.name}" for alias in node.names]
    return []


def layers(file: File) -> Found:
    if file.area == "llmjax" and file.part != "__init__" and file.part not in LAYER:
        yield 1, f"llmjax.{file.part} has no layer; see LAYERS in tools/style.py"
    for item in file.imports:
        if item.name.startswith("."):
            yield item.line, f"relative import of {item.name}"
        if file.area != "llmjax":
            continue
        if item.name.split(".")[0] in ("experiments", "tools", "tests"):
            yield item.line, f"llmjax imports {item.name}"
        elif item.is_from("llmjax") and item.name != "llmjax":
            yield from _between_layers(file.part, item)


def _between_layers(part: str, item: Import) -> Found:
    other = item.name.split(".")[1]
    if other not in LAYER:  # a name of llmjax/__init__.py, or a part without a layer
        return
    below = LAYER[other] < LAYER.get(part, 0)
    if not (below or other == part or other in MAY_ALSO.get(part, ())):
        yield item.line, f"{part} imports {item.name}, which is not below it"
    elif part in NEVER_MODELS and other in ("nn", "models"):
        yield item.line, f"{part} imports {item.name}; hand it a Model or a loss"


def packages(file: File) -> Found:
    if file.area == "tests":
        return
    for item in file.imports:
        for package, users in USERS.items():
            if item.is_from(package) and file.part not in users:
                yield item.line, f"{file.part} imports {package}"
        if file.part == "data" and item.is_from("jax"):
            yield item.line, "data imports jax"


def lazy_imports(file: File) -> Found:
    for item in file.imports if file.area != "tests" else ():
        if item.name.split(".")[0] in LAZY and not item.deferred:
            yield item.line, f"import {item.name} in the function that uses it"


def star_imports(file: File) -> Found:
    for item in file.imports:
        if item.name.endswith(".*"):
            yield item.line, f"import {item.name}"


def private_jax(file: File) -> Found:
    for item in file.imports:
        if item.is_from("jax._src"):
            yield item.line, f"import of {item.name}"
    for node in file.all(ast.Attribute):
        if ast.unparse(node) == "jax._src":
            yield node.lineno, "use of jax._src"


def side_effects(file: File) -> Found:
    """At import, llmjax calls nothing for its effect; only tests set jax.config."""
    if file.area == "tests":
        return
    for node, deferred in file.nodes:
        if deferred:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called.endswith(".defvjp"):  # the second half of a definition
                continue
            if file.area == "llmjax" or called.startswith("jax.config."):
                yield node.lineno, f"{called}() at import"
        if isinstance(node, ast.Assign) and "jax.config." in ast.unparse(
            node.targets[0]
        ):
            yield node.lineno, "jax.config set at import"


def shadows(file: File) -> Found:
    """A program's folder comes first on its path, and so would hide Python's own."""
    *folders, name = file.name.removesuffix(".py").split("/")
    if folders in (["tools"], ["experiments"]) and name in sys.stdlib_module_names:
        yield 1, f"hides the standard module {name!r} from the programs beside it"


def file_size(file: File) -> Found:
    limit = MAX_FILE_LINES.get(file.area, DEFAULT_MAX_FILE_LINES)
    num_lines = file.text.count("\n")
    if num_lines > limit:
        yield limit, f"{num_lines} lines, limit {limit}"


def function_size(file: File) -> Found:
    for node in file.all(*FUNCTIONS):
        num_lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            num_lines -= docstring.end_lineno - docstring.lineno + 1
        if num_lines > MAX_FUNCTION_LINES:
            yield node.lineno, f"{node.name} has {num_lines} lines"


def module_docstring(file: File) -> Found:
    if file.tree.body and not ast.get_docstring(file.tree):
        yield 1, "no module docstring"


def annotations(file: File) -> Found:
    """Public functions of llmjax have types; an array's suffix says more than one."""
    if file.area != "llmjax":
        return
    for holder in (file.tree, *file.all(ast.ClassDef)):
        if getattr(holder, "name", "").startswith("_"):
            continue
        for node in holder.body:
            if isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
                args = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                for arg in args:
                    typed = arg.annotation or DIMS_SUFFIX.fullmatch(arg.arg)
                    if not typed and arg.arg not in ("self", "cls"):
                        yield node.lineno, f"{node.name}: {arg.arg} has no type"
                if node.returns is None and _returns_value(node):
                    yield node.lineno, f"{node.name} has no return type"


def _returns_value(function: ast.AST) -> bool:
    kinds = (ast.Return, ast.Yield, ast.YieldFrom)
    return any(
        isinstance(node, kinds) and node.value is not None
        for node in ast.walk(function)
    )


def dims_names(file: File) -> Found:
    """Where arrays are, a suffix in capitals is made of known dimensions."""
    if file.area != "llmjax" or file.part not in ("ops", "nn", "models"):
        return
    for node, _ in file.nodes:
        name = getattr(node, "id", None) or getattr(node, "arg", None)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value  # a parameter's name
        if name and DIMS_SUFFIX.fullmatch(name):
            try:
                dims.parse(name)
            except ValueError as error:
                yield node.lineno, str(error)


def einsum_letters(file: File) -> Found:
    """Outside tests, whose references may have letters of their own."""
    for node in file.all(ast.Call) if file.area != "tests" else ():
        called = ast.unparse(node.func)
        equation = node.args[0] if node.args else None
        if called.endswith("einsum") and isinstance(equation, ast.Constant):
            for letter in sorted(
                set(equation.value) - set(dims.ALPHABET) - set(",->. ")
            ):
                yield node.lineno, f"{equation.value!r}: unknown dimension {letter!r}"


def experiments(file: File) -> Found:
    for item in file.imports if file.area == "experiments" else ():
        if item.is_from("experiments"):
            yield item.line, f"an experiment imports {item.name}"


RULES = (
    layers, packages, lazy_imports, star_imports, private_jax, side_effects, shadows,
    file_size, function_size, module_docstring, annotations, dims_names,
    einsum_letters, experiments,
)  # fmt: skip


def violations(root: Path) -> Iterator[str]:
    """`file:line: rule: message` of everything under `root` that breaks a rule."""
    for area in ("llmjax", "experiments", "tools", "tests"):
        for path in sorted((root / area).rglob("*.py")):
            file = File(root, path)
            for rule in RULES:
                for line, message in rule(file):
                    if not _waived(file.name, rule.__name__, message):
                        yield f"{file.name}:{line}: {rule.__name__}: {message}"


def _waived(file: str, rule: str, message: str) -> bool:
    return any(
        (file, rule) == (name, of) and text in message for name, of, text in WAIVERS
    )


def main() -> None:
    """Checks the repository that this file is in."""
    found = list(violations(Path(__file__).resolve().parent.parent))
    print("\n".join(found) or "style: no violations")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
