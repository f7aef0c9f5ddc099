"""The tables, the page and the summary of `experiments/emergent_arithmetic.py`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from llmjax import charts, report
from llmjax.charts import Chart
from llmjax.data.arithmetic import OPERATIONS, ORDERS, Kind
from llmjax.evals.arithmetic import Answers, Question, Sample, steepest, summarise
from llmjax.report import Series
from llmjax.train import workdir

FIGURES = {
    "exact": "right answers",
    "nats": "log-likelihood of the right answer, nats",
    "digits": "digits right, told those before",
}
BAR = 0.99  # of 3-digit reversed sums, at least
BAR_LONGER = 0.05  # of a digit more than was learned, at most
GPT3 = (  # Brown et al. (2020), Language Models are Few-Shot Learners: section 3.9.1
    "GPT-3 with 175 B parameters, few-shot, plain order, sums and differences: "
    "2 digits 100 % and 98.9 %, 3 digits 80.2 % and 94.2 %, 4 digits 25 to 26 %, "
    "5 digits 9 to 10 %; with 13 B, about 50 % of 2 digits (Brown et al. 2020)"
)


class Run(NamedTuple):
    """What one model came to; bits_per_byte: of the plain text held out."""

    answers: dict[Question, Answers]
    samples: list[Sample]
    bits_per_byte: float


class Size(NamedTuple):
    """Models of one size. shape: layers x width. flops: of the training of one.

    found: by question, what `evals.arithmetic.summarise` tells of all runs."""

    shape: str
    parameters: int
    flops: float
    runs: list[Run]
    found: dict[Question, dict[str, dict]]

    @property
    def name(self) -> str:
        return f"{self.parameters / 1e6:.3g} M"


def pool(shape: str, parameters: int, flops: float, runs: list[Run]) -> Size:
    """The size of these models."""
    found = {
        question: summarise([run.answers[question] for run in runs])
        for question in runs[0].answers
    }
    return Size(shape, parameters, flops, runs, found)


def write(
    folder: Path,
    sizes: Sequence[Size],
    settings: dict[str, Any],
    failed: dict[str, str],
) -> None:
    """Writes summary.json, report.html and PNGs; prints what matters of them.

    sizes: from small to large. failed: {run: why}.
    """
    gone = {f"FAILED {name}": why for name, why in failed.items()}
    if not sizes:
        lines = (f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"no run came to its end: {'; '.join(lines)}")
    drawn, said = make_charts(sizes), verdicts(sizes)
    workdir.write_json(folder / "summary.json", summary(sizes, settings, failed, said))
    sections = [
        ("What came out", report.key_values(said | gone)),
        ("Right answers (95 %), and their log-likelihood", report.table(table(sizes))),
        ("How much of the rise is in one step", report.table(steps(sizes))),
        *map(charts.section, drawn.values()),
        ("What they write", report.table(written(sizes))),
        ("Settings", report.key_values(settings)),
    ]
    report.write(folder / "report.html", "Arithmetic that emerges with scale", sections)
    charts.write_pngs(folder, drawn)
    show(sizes, said | gone)
    print(f"report: {folder}/report.html")


def verdicts(sizes: Sequence[Size]) -> dict[str, str]:
    """The bars, and where the jump lives."""
    most, said = most_shots(sizes), {}
    kinds = [question.kind for question in sizes[-1].found]
    longest = max(kind.num_digits for kind in kinds)

    def exact(size: Size, kind: Kind) -> float:
        return size.found[Question(kind, most)]["exact"]["mean"]

    asked = Kind("+", "reversed", 3)
    if asked in kinds:
        best = max(sizes, key=lambda size: exact(size, asked))
        share = exact(best, asked)
        word = "met" if share >= BAR else "MISSED"
        said[f"{asked}"] = f"{share:.1%} at {best.name}; {word}: {BAR:.0%}"
    longer = [kind for kind in kinds if kind.num_digits == longest]
    share, kind, size = max(
        (exact(size, kind), kind, size.name) for size in sizes for kind in longer
    )
    word = "near 0, as expected" if share <= BAR_LONGER else "NOT near 0"
    said[f"{longest} digits, learned up to {longest - 1}"] = (
        f"at most {share:.1%} ({kind}, {size}): {word}; what is learned does not "
        "stretch to longer numbers"
    )
    for row in steps(sizes):
        if len(sizes) > 1 and row[""] == str(asked):
            said["the jump"] = (
                f"{row['exact']} of the rise of right answers, {row['nats']} of that "
                f"of the log-likelihood and {row['digits']} of that of single digits "
                f"is in one step of {len(sizes) - 1}"
            )
    return said


def most_shots(sizes: Sequence[Size]) -> int:
    return max(question.shots for question in sizes[0].found)


def rows_of(sizes: Sequence[Size]) -> list[Kind]:
    """The kinds that all sizes were asked with the most shots, in their order."""
    most = most_shots(sizes)
    return [one.kind for one in sizes[0].found if one.shots == most]


def table(sizes: Sequence[Size]) -> list[dict[str, str]]:
    """A row per kind, a cell per size."""
    most, rows = most_shots(sizes), []
    for kind in rows_of(sizes):
        row = {"": str(kind)}
        for size in sizes:
            found = size.found[Question(kind, most)]
            exact, nats = found["exact"], found["nats"]["mean"]
            span = f"{100 * exact['low']:.1f} to {100 * exact['high']:.1f}"
            row[size.name] = f"{100 * exact['mean']:.1f} ({span}) {nats:.2f}"
        rows.append(row)
    return rows


def steps(sizes: Sequence[Size]) -> list[dict[str, str]]:
    """The share of a figure's rise, from the smallest size to the largest, that is in
    one step from a size to the next."""
    most, rows = most_shots(sizes), []
    for kind in rows_of(sizes):
        shares = {}
        for name in FIGURES:
            means = [size.found[Question(kind, most)][name]["mean"] for size in sizes]
            shares[name] = steepest(means)
        cells = {
            name: "-" if share is None else f"{share:.0%}"
            for name, share in shares.items()
        }
        rows.append({"": str(kind)} | cells)
    return rows


def written(sizes: Sequence[Size]) -> list[dict[str, str]]:
    """The same problems, and what the first model of each size makes of them."""
    rows = []
    for same in zip(*(size.runs[0].samples for size in sizes), strict=True):
        answers = {
            size.name: one.written for size, one in zip(sizes, same, strict=True)
        }
        first = same[0]
        rows.append({"": str(first.kind), "asked": first.problem, "right": first.right}
                    | answers)  # fmt: skip
    return rows


def make_charts(sizes: Sequence[Size]) -> dict[str, Chart]:
    """By the names of their files."""
    drawn, most = {}, most_shots(sizes)
    for (sign, name), order in itertools.product(OPERATIONS.items(), ORDERS):
        kinds = [k for k in rows_of(sizes) if (k.operation, k.order) == (sign, order)]
        lines = {f"{kind.num_digits} digits": Question(kind, most) for kind in kinds}
        for figure, label in FIGURES.items():
            heading = f"{name.capitalize()}, {order}: {label}, {most} shots"
            caption = f"Bars: 95 %. {GPT3}." if figure == "exact" else "Bars: 95 %."
            drawn[f"{name}_{order}_{figure}"] = Chart(
                heading, curves(sizes, lines, figure), "parameters", label,
                caption=caption,
            )  # fmt: skip
    kinds = [k for k in rows_of(sizes) if k.num_digits == curve_digits(sizes)]
    for figure, label in FIGURES.items():
        lines = {str(kind): Question(kind, most) for kind in kinds}
        drawn[f"flops_{figure}"] = Chart(
            f"Over training FLOPs: {label}", curves(sizes, lines, figure, "flops"),
            "training FLOPs", label,
        )  # fmt: skip
    for kind in kinds:
        name = f"shots_{OPERATIONS[kind.operation]}_{kind.order}"
        drawn[name] = Chart(
            f"Few shots and none: {kind}", shot_curves(sizes, kind), "shots",
            FIGURES["exact"], log_x=False,
        )  # fmt: skip
    return drawn


def curve_digits(sizes: Sequence[Size]) -> int:
    """How many digits the problems have that were asked with fewer shots too."""
    few = [q.kind.num_digits for q in sizes[0].found if q.shots < most_shots(sizes)]
    return few[0] if few else 1


def curves(
    sizes: Sequence[Size], lines: dict[str, Question], figure: str,
    over: str = "parameters",
) -> list[Series]:  # fmt: skip
    """A figure of each question over the sizes."""
    xs = [getattr(size, over) for size in sizes]
    return [
        series(name, xs, [size.found[question][figure] for size in sizes])
        for name, question in lines.items()
    ]


def shot_curves(sizes: Sequence[Size], kind: Kind) -> list[Series]:
    """Right answers of each size over the shots."""
    shots = sorted(one.shots for one in sizes[0].found if one.kind == kind)
    return [
        series(
            size.name, shots,
            [size.found[Question(kind, num)]["exact"] for num in shots],
        )
        for size in sizes
    ]  # fmt: skip


def series(name: str, xs: Sequence[float], found: Sequence[dict]) -> Series:
    means = [one["mean"] for one in found]
    spans = [(one["low"], one["high"]) for one in found]
    return Series(name, xs, means, "marks", spans)


def summary(
    sizes: Sequence[Size], settings: dict, failed: dict, said: dict
) -> dict[str, Any]:
    """All figures as JSON keeps them."""
    rows = []
    for size in sizes:
        answers = {}
        for question, found in size.found.items():
            answers.setdefault(str(question.kind), {})[question.shots] = found
        bits = [run.bits_per_byte for run in size.runs]
        rows.append({
            "shape": size.shape, "parameters": size.parameters, "flops": size.flops,
            "bits_per_byte": bits, "answers": answers,
        })  # fmt: skip
    return {
        "said": said, "failed": failed, "gpt3": GPT3, "settings": settings,
        "sizes": rows,
    }  # fmt: skip


def show(sizes: Sequence[Size], said: dict[str, str]) -> None:
    """Prints a table that a terminal has room for, and a line on each thing to know."""
    most, columns = most_shots(sizes), [size.name for size in sizes]
    shown = Table(f"right, nats; {most} shots", *columns, box=None)
    for kind in rows_of(sizes):
        found = [size.found[Question(kind, most)] for size in sizes]
        cells = (
            f"{one['exact']['mean']:6.1%} {one['nats']['mean']:6.2f}" for one in found
        )
        shown.add_row(str(kind), *cells)
    console = Console(highlight=False, soft_wrap=True)
    console.print(shown)
    for name, text in said.items():
        console.print(f"{name}: {text}", markup=False)
