"""The tables, the page and the summary of `experiments/instruction_tuning.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from llmjax import charts, report
from llmjax.charts import Chart
from llmjax.data.instructions import Example
from llmjax.evals.instructions import Said, Share, chance, known_pairs, share
from llmjax.report import Series
from llmjax.train import workdir

BAR_WORDINGS = 0.9  # of held-out wordings, at least
BAR_PAIRS = 0.15  # that held-out pairs rise by, from the fewest clusters to the most
NUM_TRANSCRIBED = 4  # questions of each set
READ = (
    "The base has read other text, and instructions of all tasks on inputs, without "
    "answers: no wording, input or pair that is held out, yet the words of tasks that "
    "no model is tuned on."
)


class Arm(NamedTuple):
    """Models tuned alike. num_clusters: 0 is a base before tuning.

    told: they are tuned on instructions with inputs, not on inputs alone."""

    num_clusters: int
    told: bool
    by_seed: list[Said]

    @property
    def name(self) -> str:
        if not self.num_clusters:
            return "before"
        return f"{self.num_clusters} clusters{'' if self.told else ', never told'}"


class Line(NamedTuple):
    """A figure over all arms: what share is right of some questions of a set."""

    name: str
    chance: float
    told: dict[str, Share]  # by the arm's name
    untold: dict[str, Share]


Sets = Mapping[str, Sequence[Example]]


def write(
    folder: Path,
    arms: Sequence[Arm],
    sets: Sets,
    settings: dict[str, Any],
    failed: dict[str, str],
) -> None:
    """Writes summary.json, report.html and PNGs; prints what matters of them.

    arms: the base, then from few clusters to many. failed: {run: why}.
    """
    gone = {f"FAILED {name}": why for name, why in failed.items()}
    if not tuned(arms):
        reasons = (f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"no model was tuned: {'; '.join(reasons)}")
    found = lines(arms, sets)
    said = verdicts(arms, found)
    drawn = make_charts(arms, found, "" if settings.get("base") else READ)
    shares = [line._asdict() for line in found]
    for line in shares:
        for word in ("told", "untold"):
            line[word] = {name: one._asdict() for name, one in line[word].items()}
    summary = {"said": said, "failed": failed, "settings": settings, "shares": shares}
    workdir.write_json(folder / "summary.json", summary)
    sections = [
        ("What came out", report.key_values(said | gone)),
        ("Right answers, told what to do (95 %)", report.table(table(arms, found))),
        *map(charts.section, drawn.values()),
        ("Right answers to the input alone", report.table(table(arms, found, False))),
        ("What they say", report.table(transcript(arms, sets))),
        ("Task by task", report.table(by_task(arms, sets))),
        ("Settings", report.key_values(settings)),
    ]
    report.write(folder / "report.html", "Instruction tuning", sections)
    charts.write_pngs(folder, drawn)
    show(arms, found, said | gone)
    print(f"report: {folder}/report.html")


def lines(arms: Sequence[Arm], sets: Sets) -> list[Line]:
    """All sets, and of the held-out pairs those that every model knows the steps of."""
    found = [
        _line(name, arms, name, examples, range(len(examples)))
        for name, examples in sets.items()
    ]
    fewest = tuned(arms)[0].num_clusters
    name = f"held-out pairs of {fewest} clusters"
    some = known_pairs(sets["held-out pairs"], fewest)
    return [*found, _line(name, arms, "held-out pairs", *some)]


def _line(name, arms, set_name, examples, numbers) -> Line:
    shares = {"told": {}, "untold": {}}
    for arm in arms:
        for word, by_arm in shares.items():
            answers = [said[set_name][word] for said in arm.by_seed]
            some = [[texts[number] for number in numbers] for texts in answers]
            by_arm[arm.name] = share(examples, some)
    return Line(name, chance(examples), **shares)


def tuned(arms: Sequence[Arm]) -> list[Arm]:
    """Those tuned on instructions, from few clusters to many."""
    return [arm for arm in arms if arm.num_clusters and arm.told]


def verdicts(arms: Sequence[Arm], found: Sequence[Line]) -> dict[str, str]:
    """The bars, and what has no bar."""
    base, (few, *_, most) = arms[0].name, [arm.name for arm in 2 * tuned(arms)]
    said = {}
    for line in found:
        last = line.told[most].mean
        text = f"{last:.1%} after tuning on {most}, {line.told[base].mean:.1%} before"
        if line.name == "held-out wordings":
            word = "met" if last >= BAR_WORDINGS else "MISSED"
            text += f"; {word}: {BAR_WORDINGS:.0%}"
        if line.name.startswith("held-out pairs") and few != most:
            rise = last - line.told[few].mean
            text += f"; {100 * rise:+.1f} points from {few} to {most}"
            if line.name == "held-out pairs":
                word = "met" if rise >= BAR_PAIRS else "MISSED"
                text += f"; {word}: {100 * BAR_PAIRS:.0f}"
            else:
                text += ", both of whose steps all models are tuned on"
        if line.name.startswith("new"):
            above = line.told[most].low > line.chance
            word = "above" if above else "NOT above"
            text += f"; {word} the best constant answer, {line.chance:.1%}"
        said[line.name] = text
    first = found[0]
    said["without the instruction"] = (
        f"{first.name}: {first.untold[most].mean:.1%} after tuning on {most}"
    )
    for arm in arms:
        if arm.num_clusters and not arm.told:
            share_of = first.untold[arm.name].mean
            said["without the instruction"] += f", {share_of:.1%} tuned without any"
    return said


def table(
    arms: Sequence[Arm], found: Sequence[Line], told: bool = True
) -> list[dict[str, str]]:
    """A row per line, a cell per arm."""
    rows = []
    for line in found:
        row = {"": line.name}
        for arm in arms:
            one = (line.told if told else line.untold)[arm.name]
            row[arm.name] = (
                f"{100 * one.mean:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"
            )
        rows.append(row | {"best constant": f"{100 * line.chance:.1f}"})
    return rows


def make_charts(
    arms: Sequence[Arm], found: Sequence[Line], read: str
) -> dict[str, Chart]:
    """By the names of their files. read: what the base has read."""
    shown = [arms[0], *tuned(arms)]
    xs = [arm.num_clusters for arm in shown]

    def series(name: str, by_arm: Mapping[str, Share], style: str = "marks") -> Series:
        some = [by_arm[arm.name] for arm in shown]
        spans = [(one.low, one.high) for one in some]
        return Series(name, xs, [one.mean for one in some], style, spans)

    labels = dict(x_label="clusters tuned on (0: before)", y_label="right answers")
    wanted = ("learned wordings", "held-out pairs", "new clusters")
    both = [
        one
        for line in found
        if line.name in wanted
        for one in (
            series(line.name, line.told),
            series(f"{line.name}, untold", line.untold, "dashed"),
        )
    ]
    return {
        "clusters": Chart(
            "Right answers over the clusters that a model is tuned on",
            [series(line.name, line.told) for line in found],
            log_x=False, caption=f"As many examples and steps each. {read}", **labels,
        ),
        "instruction": Chart(
            "With the instruction, and from the input alone", both, log_x=False,
            **labels,
        ),
    }  # fmt: skip


def transcript(arms: Sequence[Arm], sets: Sets) -> list[dict[str, str]]:
    """Some questions of each set, and what the first model of each arm says."""
    rows = []
    for name, examples in sets.items():
        for number in range(0, len(examples), -(-len(examples) // NUM_TRANSCRIBED)):
            one = examples[number]
            row = {"": name, "asked": one.question(), "right": one.answer}
            for arm in arms:
                if arm.told:
                    row[arm.name] = arm.by_seed[0][name]["told"][number]
            rows.append(row)
    return rows


def by_task(arms: Sequence[Arm], sets: Sets) -> list[dict[str, str]]:
    """The share right of each task and pair, by set."""
    rows = []
    for name, examples in sets.items():
        for kind in dict.fromkeys(example.kind.name for example in examples):
            numbers = [n for n, one in enumerate(examples) if one.kind.name == kind]
            line = _line(kind, arms, name, [examples[n] for n in numbers], numbers)
            shares = {arm: f"{100 * one.mean:.0f}" for arm, one in line.told.items()}
            rows.append({"": name, "task": kind} | shares)
    return rows


def show(arms: Sequence[Arm], found: Sequence[Line], said: dict[str, str]) -> None:
    """Prints a table that a terminal has room for, and a line on each thing to know."""
    shown = Table("right answers", *(arm.name for arm in arms), "constant", box=None)
    for line in found:
        cells = (f"{line.told[arm.name].mean:.1%}" for arm in arms)
        shown.add_row(line.name, *cells, f"{line.chance:.1%}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(shown)
    for name, text in said.items():
        console.print(f"{name}: {text}", markup=False)
