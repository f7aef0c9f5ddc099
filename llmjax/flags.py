"""Command-line flags made from frozen dataclasses, and programs with short errors.

run_flags = flags.define("", flags.Run(workdir="runs/pretrain", num_steps=300))
optim_flags = flags.define("optim", optim.OptimConfig(lr=3e-4))  # --optim.lr=...
model_flags = flags.define_overrides("model", ModelConfig)  # --model.num_layers=...

def main():
    cfg = model_flags(presets.gpt2())  # the preset, with what the flags change
    ...
    flags.save(run_flags().workdir)

if __name__ == "__main__":
    flags.run(main)
"""

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

from absl import app, logging
from absl import flags as absl_flags

from llmjax.config import ModelConfig, field
from llmjax.models import presets

FLAGS = absl_flags.FLAGS
# Bad input, a diverged run, and Ctrl-C: a line says all that there is to say.
EXPECTED = (ValueError, OSError, FloatingPointError, KeyboardInterrupt)
# --help lists a program's own flags: those defined here belong to whoever calls.
absl_flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class Run:
    """What every experiment takes: `flags.define("", flags.Run(...))`."""

    workdir: str = field("runs/experiment", "where everything is written, and resumed")
    mesh: str = field("data=-1", "devices by axis, 'fsdp=4,tensor=2'; -1 is the rest")
    cpu_devices: int = field(1, "present the CPU as so many devices, to try a mesh")
    distributed: str = field("", "several processes: auto, or host:port,number,index")
    seed: int = field(0, "of parameters, data order and dropout")
    num_steps: int = field(100, "optimizer steps")
    init_from: str | None = field(
        None, "start from these weights: a model or a workdir"
    )
    allow_config_change: bool = field(False, "resume although the config has changed")


def define(prefix: str, defaults: Any) -> Callable[[], Any]:
    """Makes a flag `--prefix.field` for each field of the dataclass `defaults`.

    Returns the function that builds the dataclass, once the flags are parsed. Fields
    are scalars, `Literal` strings, tuples of these, dataclasses (whose fields become
    `--prefix.outer.inner`), or `X | None`, where the word none gives None. A tuple of
    dataclasses has no flag. With an empty prefix the flags are plain `--field`.
    """
    _define_all(prefix, type(defaults), defaults)
    return lambda: _read(prefix, type(defaults), defaults)


def define_overrides(prefix: str, cls: type) -> Callable[[Any], Any]:
    """As `define`, but the returned function takes the base that the flags change."""
    _define_all(prefix, cls, None)
    return lambda base: _read(prefix, cls, base)


def define_model(default: str) -> Callable[[], ModelConfig]:
    """Makes `--model`, a preset's name, `--model.depth`, and `--model.field` for all.

    A depth derives the model from it alone; the other flags change what that gives.
    """
    absl_flags.DEFINE_string("model", default, f"one of {', '.join(presets.PRESETS)}")
    absl_flags.DEFINE_integer("model.depth", None, "instead of --model: so many layers")
    override = define_overrides("model", ModelConfig)

    def read() -> ModelConfig:
        depth = FLAGS["model.depth"].value
        if depth is None:
            return override(presets.get(FLAGS.model))
        return override(presets.from_depth(depth))

    return read


def arguments(prefix: str, config: Any) -> list[str]:
    """The flags that make `define(prefix, ...)` give `config`, for another process."""
    given = []
    for name, flag, hint, _ in _fields(prefix, type(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint):
            given += arguments(flag, value)
        else:
            text = "none" if value is None else _Serializer().serialize(value)
            given.append(f"--{flag}={text}")
    return given


def run(main: Callable[..., None], *arguments: str) -> None:
    """Parses the flags, calls `main()` and exits.

    arguments: the names of what a user gives beside flags; `main` is called with these.

    Bad flags exit with code 2. Bad input, which is a ValueError or an OSError, and an
    interrupt exit with code 1. All say so in a line, without a traceback unless given
    --debug. Any other exception is a bug and keeps its traceback.
    """
    absl_flags.DEFINE_boolean("debug", False, "show where an error was raised")

    def guarded(argv: list[str]) -> None:
        try:
            # jax reports each kind of device that it did not find.
            logging.set_verbosity(logging.WARNING)
            if argv[1:] and not arguments:
                raise absl_flags.Error(f"what is {argv[1]!r}? Flags are --name=value")
            if len(argv) - 1 != len(arguments):
                raise absl_flags.Error(f"usage: {argv[0]} {' '.join(arguments)}")
            main(*argv[1:])
        except (absl_flags.Error, *EXPECTED) as error:
            if FLAGS.debug:
                raise
            _exit(error)

    app.run(guarded, flags_parser=_parse)


def save(workdir: str | os.PathLike) -> None:
    """Writes the flags that were given to `workdir`/flags.txt, except absl's own.

    `--flagfile=$workdir/flags.txt` repeats the run.
    """
    lines = []
    for module, group in sorted(FLAGS.flags_by_module_dict().items()):
        if module.partition(".")[0] == "absl":
            continue
        for flag in sorted(group, key=lambda flag: flag.name):
            if not flag.using_default_value:
                lines.append(flag.serialize() or f"--{flag.name}=none")
                if "\n" in lines[-1]:
                    raise ValueError(
                        f"--{flag.name} holds a line break, which a flagfile cannot"
                    )
    path = os.path.join(workdir, "flags.txt")
    os.makedirs(workdir, exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    os.replace(path + ".tmp", path)


class _Parser(absl_flags.ArgumentParser):
    """Parses the text of a flag to the type of a field."""

    def __init__(self, hint: Any):
        hint, self.may_be_none = _without_none(hint)
        self.is_tuple = typing.get_origin(hint) is tuple
        # The types of a tuple's items; the last goes on for ever after an ellipsis.
        items = typing.get_args(hint) if self.is_tuple else (hint,)
        self.any_length = items[-1] is ...
        self.items = [_scalar(item) for item in items if item is not ...]

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, tuple):  # a default
            return argument
        if self.may_be_none and str(argument).lower() == "none":
            return None
        if not self.is_tuple:
            return self.items[0].parse(argument)
        texts = absl_flags.ListParser().parse(argument)
        parsers = self.items * len(texts) if self.any_length else self.items
        if len(texts) != len(parsers):
            raise ValueError(f"needs {len(parsers)} values separated by commas")
        return tuple(p.parse(text) for p, text in zip(parsers, texts, strict=True))


class _Serializer(absl_flags.ArgumentSerializer):
    """Writes a value as the text that `_Parser` reads."""

    def serialize(self, value: Any) -> str:
        if isinstance(value, tuple):
            return absl_flags.CsvListSerializer(",").serialize(value)
        return str(value)


def _scalar(hint: Any) -> absl_flags.ArgumentParser:
    if typing.get_origin(hint) is Literal:
        return absl_flags.EnumParser(typing.get_args(hint))
    parsers = {
        bool: absl_flags.BooleanParser,
        int: absl_flags.IntegerParser,
        float: absl_flags.FloatParser,
        str: absl_flags.ArgumentParser,
    }
    if hint not in parsers:
        raise TypeError(f"a field of type {hint} cannot become a flag")
    return parsers[hint]()


def _without_none(hint: Any) -> tuple[Any, bool]:
    """`X | None` gives (X, True), any other X gives (X, False)."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    (inner,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return inner, True


def _fields(prefix: str, cls: type) -> Iterator[tuple[str, str, Any, str]]:
    """(field, flag, type, help) of each field that flags can set.

    A field that is a dataclass, or None, has that dataclass as its type.
    """
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        hint, plain = hints[item.name], _without_none(hints[item.name])[0]
        if any(dataclasses.is_dataclass(arg) for arg in typing.get_args(plain)):
            continue  # a tuple of dataclasses
        if plain is cls:
            continue  # an encoder in the config of its decoder: flags without end
        flag = f"{prefix}.{item.name}" if prefix else item.name
        is_nested = dataclasses.is_dataclass(plain)
        yield item.name, flag, plain if is_nested else hint, item.metadata.get("help")


def _define_all(prefix: str, cls: type, defaults: Any) -> None:
    for name, flag, hint, text in _fields(prefix, cls):
        default = None if defaults is None else getattr(defaults, name)
        if dataclasses.is_dataclass(hint):
            _define_all(flag, hint, default)
        elif hint is bool:  # also takes --flag and --noflag
            absl_flags.DEFINE_boolean(flag, default, text)
        else:
            absl_flags.DEFINE(
                _Parser(hint),
                flag,
                default,
                _help(hint, text),
                serializer=_Serializer(),
            )


def _help(hint: Any, text: str | None) -> str | None:
    hint, _ = _without_none(hint)
    if typing.get_origin(hint) is not Literal:
        return text
    return f"<{'|'.join(typing.get_args(hint))}>: {text or ''}"


def _read(prefix: str, cls: type, base: Any) -> Any:
    """`base` with the flags that were given; without a base, the rest are defaults."""
    changes = {}
    for name, flag, hint, _ in _fields(prefix, cls):
        if dataclasses.is_dataclass(hint):
            old = None if base is None else getattr(base, name)
            new = _read(flag, hint, old)
            if new is not old:
                changes[name] = new
        else:
            value = getattr(FLAGS, flag)  # an error before the flags are parsed
            if not FLAGS[flag].using_default_value:
                changes[name] = value
    if not changes:
        return base
    try:
        return cls(**changes) if base is None else dataclasses.replace(base, **changes)
    except ValueError as error:
        where = f"--{prefix}.*: " if prefix else ""
        raise absl_flags.IllegalFlagValueError(f"{where}{error}") from error


def _parse(argv: list[str]) -> list[str]:
    try:
        return FLAGS(argv)
    except absl_flags.Error as error:
        _exit(error)
    except SystemExit:  # absl's --help exits with 1, yet asking for it is no failure
        sys.exit(0)


def _exit(error: BaseException) -> None:
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    print(f"error: {text or 'interrupted'}", file=sys.stderr)
    sys.exit(2 if isinstance(error, absl_flags.Error) else 1)
