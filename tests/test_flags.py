"""llmjax.flags: from dataclass to flags and back, and what bad flags look like."""

import dataclasses
import subprocess
import sys
from typing import Literal

import pytest
from absl import flags as absl_flags

from llmjax import config, flags

PROGRAM = '''
"""A program."""
import dataclasses
from llmjax import config, flags

@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float = config.field(1e-3, "peak learning rate")
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")

RUN = flags.define("", flags.Run(workdir="unset", num_steps=7))
OPTIM = flags.define("optim", Optim())
FAIL = flags.define_overrides("fail", flags.Run)

def main():
    optim = OPTIM()
    with_what = FAIL(flags.Run(init_from="nothing")).init_from
    if with_what == "value":
        raise ValueError("data.txt is empty: give a file with text")
    if with_what == "file":
        open("missing.txt")
    if with_what == "interrupt":
        raise KeyboardInterrupt
    if with_what == "bug":
        raise TypeError("a bug")
    print(RUN(), optim)
    if RUN().workdir != "unset":
        flags.save(RUN().workdir)

if __name__ == "__main__":
    flags.run(main)
'''


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1
    kind: Literal["a", "none"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    number: int = config.field(3, "how many")
    rate: float = 0.5
    text: str = "x y"
    on: bool = True
    maybe: int | None = None
    maybe_on: bool | None = None
    limit: float | None = 1.0
    pair: tuple[float, float] = (0.9, 0.95)
    words: tuple[str, ...] = ("a",)
    numbers: tuple[int, ...] | None = None
    inner: Inner = Inner()
    absent: Inner | None = None
    layers: tuple[Inner, ...] = (Inner(),)


@pytest.fixture
def values():
    """A set of flags of the test's own, in the place of the program's."""
    with pytest.MonkeyPatch.context() as patch:
        fresh = absl_flags.FlagValues()
        patch.setattr(flags, "FLAGS", fresh)
        for name in ("DEFINE", "DEFINE_boolean"):
            define = getattr(absl_flags, name)
            patch.setattr(absl_flags, name, _defining_in(fresh, define))
        yield fresh


def _defining_in(values, define):
    return lambda *args, **kwargs: define(*args, flag_values=values, **kwargs)


CASES = {
    "--x.number=-1_000": dict(number=-1000),
    "--x.rate=1e-3": dict(rate=1e-3),
    "--x.text=a=b, c": dict(text="a=b, c"),
    "--nox.on": dict(on=False),
    "--x.on=false": dict(on=False),
    "--x.maybe=4": dict(maybe=4),
    "--x.maybe_on=true": dict(maybe_on=True),
    "--x.limit=none": dict(limit=None),
    "--x.pair=0.8,1": dict(pair=(0.8, 1.0)),
    '--x.words=p,"q,r"': dict(words=("p", "q,r")),
    "--x.words=": dict(words=()),
    "--x.numbers=1,2,3": dict(numbers=(1, 2, 3)),
    "--x.inner.size=5": dict(inner=Inner(size=5)),
    "--x.inner.kind=none": dict(inner=Inner(kind="none")),
    "--x.absent.size=2": dict(absent=Inner(size=2)),
}


@pytest.mark.parametrize("text", CASES)
def test_each_type_of_field(values, text):
    read = flags.define("x", Outer())
    values(["program", text])
    assert read() == dataclasses.replace(Outer(), **CASES[text])


@pytest.mark.parametrize("text", CASES)
def test_overrides_change_the_base_only_where_given(values, text):
    base = Outer(number=8, maybe=2, numbers=(7,), inner=Inner(size=3))
    read = flags.define_overrides("x", Outer)
    values(["program", text])
    want = {
        name: dataclasses.replace(base.inner, kind=value.kind)
        if value == Inner(kind="none")
        else value
        for name, value in CASES[text].items()
    }
    assert read(base) == dataclasses.replace(base, **want)


def test_without_flags_the_defaults_and_the_base_come_back(values):
    defaults, base = Outer(number=9), Outer(text="base")
    read, override = flags.define("x", defaults), flags.define_overrides("y", Outer)
    values(["program"])
    assert read() is defaults
    assert override(base) is base


def test_reading_before_parsing_is_an_error(values):
    read = flags.define("x", Outer())
    with pytest.raises(absl_flags.UnparsedFlagAccessError):
        read()


def test_help_shows_text_choices_and_default(values):
    flags.define("x", Outer())
    text = values.get_help()
    assert "--x.number: how many\n    (default: '3')" in text
    assert "<a|none>" in text
    assert "(default: '0.9,0.95')" in text
    assert "x.layers" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--x.number=many", "--x.number=many"),
        ("--x.inner.kind=b", "one of <a|none>"),
        ("--x.pair=1,2,3", "2 values separated by commas"),
    ],
)
def test_bad_values(values, text, message):
    flags.define("x", Outer())
    with pytest.raises(absl_flags.IllegalFlagValueError, match=message):
        values(["program", text])


def test_a_field_that_cannot_be_a_flag(values):
    bad = dataclasses.make_dataclass("Bad", [("table", dict[str, int])], frozen=True)
    with pytest.raises(TypeError, match="cannot become a flag"):
        flags.define("x", bad({}))


def test_the_model_config_takes_overrides(values):
    read = flags.define_overrides("model", config.ModelConfig)
    values(["program", "--model.num_layers=2", "--model.rope_scaling.kind=llama3"])
    assert read(config.ModelConfig()) == config.ModelConfig(
        num_layers=2, rope_scaling=config.RopeScaling(kind="llama3")
    )


@pytest.mark.parametrize("text", CASES)
def test_saved_flags_repeat_the_run(values, tmp_path, text):
    read = flags.define("x", Outer())
    values(["program", text, "--x.rate=77"])
    want = read()
    flags.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["flags.txt"]
    lines = (tmp_path / "flags.txt").read_text().splitlines()
    assert len(lines) == (1 if "x.rate" in text else 2)
    for name in values:
        values[name].unparse()
    values(["program", f"--flagfile={tmp_path}/flags.txt"])
    assert read() == want


def test_a_line_break_cannot_be_saved(values, tmp_path):
    flags.define("x", Outer())
    values(["program", "--x.text=a\nb"])
    with pytest.raises(ValueError, match=r"--x\.text holds a line break"):
        flags.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)

    def call(*args):
        command = [sys.executable, "program.py", *args]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    return call


ERRORS = [
    ("--optim.lrr=3", 2, "Unknown command line flag 'optim.lrr'. Did you mean: optim"),
    ("--optim.lr=x", 2, "--optim.lr=x: could not convert"),
    ("--optim.lr=-1", 2, "--optim.*: lr must be positive, got -1.0"),
    ("stray", 2, "what is 'stray'? Flags are --name=value"),
    ("--fail.init_from=value", 1, "data.txt is empty: give a file with text"),
    ("--fail.init_from=file", 1, "missing.txt: No such file or directory"),
    ("--fail.init_from=interrupt", 1, "interrupted"),
    ("--flagfile=absent.txt", 2, "absent.txt"),
]


@pytest.mark.parametrize(("argument", "code", "message"), ERRORS)
def test_errors_are_one_line(program, argument, code, message):
    result = program(argument)
    assert result.returncode == code
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


@pytest.mark.parametrize("argument", ["--fail.init_from=value", "--optim.lr=-1"])
def test_debug_keeps_the_traceback(program, argument):
    result = program(argument, "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_bugs_keep_their_traceback(program):
    result = program("--fail.init_from=bug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "TypeError: a bug" in result.stderr


def test_help_is_no_failure_and_shows_the_programs_flags(program):
    result = program("--help")
    assert result.returncode == 0
    assert "A program." in result.stdout
    assert "--optim.lr: peak learning rate" in result.stdout
    assert "--num_steps" in result.stdout


def test_a_program_repeats_its_run(program, tmp_path):
    first = program(f"--workdir={tmp_path}", "--optim.betas=0.5,0.6", "--seed=3")
    again = program(f"--flagfile={tmp_path}/flags.txt")
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    assert "betas=(0.5, 0.6)" in first.stdout
    assert "seed=3, num_steps=7" in first.stdout
    saved = (tmp_path / "flags.txt").read_text().splitlines()
    assert sorted(saved) == [
        "--optim.betas=0.5,0.6",
        "--seed=3",
        f"--workdir={tmp_path}",
    ]
