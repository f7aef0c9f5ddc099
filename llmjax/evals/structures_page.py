"""The tables, the page and the summary of `experiments/structures.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmjax import distributed, report
from llmjax.data.hmm_rows import Texts
from llmjax.evals import samples
from llmjax.train import outputs, workdir

LANGUAGE = "the language itself"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NUM_SHOWN = 8  # texts and translations of each model
TASKS = {"texts": "nats per target", "pairs": "nats per symbol"}


def write(
    folder: Path,
    tests: Texts,
    num_texts: int,
    results: dict[str, Any],
    bars: dict[str, float],
) -> None:
    """Writes summary.json and report.html, and prints both tables, in one process.

    num_texts: unique ones that were learned from. results: by structure, what the
    experiment gathers. bars: the gaps, in nats, that a structure is to reach.
    """
    if not distributed.is_first():
        return
    drawn = {name: one["drawn"] for name, one in results.items()}
    num_drawn = len(next(iter(drawn.values())))
    drawn[LANGUAGE] = tests.take(np.arange(num_drawn), 0)["tokens"]
    scores = {name: samples.score(tests.hmm, rows) for name, rows in drawn.items()}
    known = [
        known_row(name, one, num_texts, bars.get(name)) for name, one in results.items()
    ]
    able = [able_row(name, one, scores[name]) for name, one in results.items()]
    able.append({"": LANGUAGE} | drawn_cells(scores[LANGUAGE]))
    workdir.write_json(folder / "summary.json", summarize(results, scores, bars))
    sections = [
        ("Loss, and the least that there can be", report.table(known)),
        ("Good at, bad at", report.table(able) + say(results, scores)),
        *(curves(task, results) for task in TASKS),
        ("Texts drawn", "".join(map(text_block, drawn, drawn.values()))),
        ("Translations drawn", report.table(translated_rows(results))),
    ]
    report.write(folder / "report.html", "Three structures", sections)
    outputs.print_table(known)
    outputs.print_table(able)
    print(f"report: {folder}/report.html")


def known_row(
    name: str, result: Mapping[str, Any], num_texts: int, bar: float | None
) -> dict:
    """What the model knows of the language, beside what can be known, and its cost."""
    gap, cost = result["gap"], result["texts"]
    return {
        "": name,
        "nats (least)": f"{gap['nats']:.4f} ({gap['floor']:.4f})",
        "gap": f"{gap['gap']:.4f} ± {gap['error']:.4f}",
        "bar": verdict(gap, bar),
        "size": f"{cost['parameters'] / 1e6:.3f} M",
        "texts": f"{num_texts:,} x {cost['rows'] / num_texts:.2f}",
        "TFLOP": f"{cost['flops'] / 1e12:.2f}",
    }


def verdict(gap: Mapping[str, Any], bar: float | None) -> str:
    """Whether the gap is small enough, and not so small that it cannot be."""
    if gap["leaks"]:
        return "LEAKS"
    if bar is None:
        return "-"
    return f"{'met' if gap['gap'] <= bar else 'MISSED'}: {bar:g}"


def able_row(name: str, result: Mapping[str, Any], score: Mapping[str, float]) -> dict:
    """How the model does what all are asked to do."""
    single, longer = result["blanks"]["single"], result["blanks"]["longer"]
    pairs = result["translations"]
    return {
        "": name,
        "single blanks (least)": f"{single['nats']:.3f} ({single['floor_nats']:.3f})",
        "right (most)": f"{single['right']:.1%} ({single['floor_right']:.1%})",
        "longer blanks (least)": f"{longer['nats']:.3f} ({longer['floor_nats']:.3f})",
        **drawn_cells(score),
        "pairs right (symbols)": f"{pairs['exact']:.1%} ({pairs['symbols']:.1%})",
    }


def drawn_cells(score: Mapping[str, float]) -> dict[str, str]:
    """Of texts drawn: what they cost under the language, and how far the frequencies of
    their bigrams are off."""
    return {
        "drawn: nats": f"{score['nats']:.3f} ± {score['error']:.3f}",
        "drawn: off": f"{score['bigrams_off']:.1%}",
    }


def summarize(results: dict, scores: dict, bars: dict[str, float]) -> dict:
    """All figures as JSON keeps them."""
    summary = {LANGUAGE: {"drawn": scores[LANGUAGE]}}
    for name, one in results.items():
        parts = {part: _figures(one[part]) for part in one if part != "drawn"}
        parts |= {"drawn": scores[name], "bar": verdict(one["gap"], bars.get(name))}
        summary[name] = parts
    return summary


def _figures(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if not isinstance(value, list)}


def say(results: dict, scores: dict) -> str:
    """A sentence on each of the three, with its figures."""

    def each(cell) -> str:
        return ", ".join(f"{name} {cell(name)}" for name in results)

    def blanks(name: str) -> str:
        single, longer = (results[name]["blanks"][k] for k in ("single", "longer"))
        return f"{single['nats']:.2f} and {longer['nats']:.2f}"

    def texts(name: str) -> str:
        return f"{scores[name]['nats']:.3f}"

    def pairs(name: str) -> str:
        right = results[name]["translations"]
        return f"{right['exact']:.1%} and {right['symbols']:.1%}"

    sentences = {
        "Blanks": "a decoder does not see what comes after one, and an encoder tells "
        "each symbol of a longer one without knowing what it says of the others; nats "
        f"per symbol of single and of longer blanks: {each(blanks)}.",
        "Texts": "a decoder draws them as it has learned to, an encoder from far more "
        "masks than it has met, an encoder-decoder into one blank longer than all it "
        f"has met; nats per symbol: {each(texts)}, {LANGUAGE} {texts(LANGUAGE)}.",
        "Translations": "two are right, and an encoder that tells all symbols at once "
        "cannot keep to one of them; whole rows and single symbols that are right in "
        f"either: {each(pairs)}.",
    }
    return report.key_values(sentences)


def curves(task: str, results: dict) -> tuple[str, str]:
    """The held-out losses while learning, over the FLOPs spent, and the least ones."""
    series, rules = [], {}
    if task == "pairs":  # which codebook is one bit, of a row or of each symbol
        length = len(next(iter(results.values()))["translations"]["rows"][0].source)
        bit = float(np.log(2))
        rules = {"least, told in turn": bit / length, "least, all at once": bit}
    for name, one in results.items():
        took = one[task]
        lines = [line for line in took["history"] if "val_loss" in line]
        teraflops = took["flops"] / took["history"][-1]["step"] / 1e12  # of a step
        spent = [line["step"] * teraflops for line in lines]
        losses = [line["val_loss"] for line in lines]
        series.append(report.Series(name, spent, losses, "marks"))
        if task == "texts":
            rules[f"least, {name}"] = one["gap"]["floor"]
    chart = report.line_chart(series, x_label="TFLOP", y_label=TASKS[task], rules=rules)
    return f"Learning the {task}", chart


def text_block(name: str, rows: np.ndarray) -> str:
    """The first rows, a letter a symbol."""
    return report.text_block("\n".join(map(spell, rows[:NUM_SHOWN])), name)


def spell(symbols: np.ndarray) -> str:
    """Symbols as letters; more than there are letters begin again."""
    return "".join(LETTERS[symbol % len(LETTERS)] for symbol in symbols)


def translated_rows(results: dict) -> list[dict[str, str]]:
    """The same sources and what each model makes of them, in which codebook."""
    rows = []
    for index in range(NUM_SHOWN):
        one = {
            name: one["translations"]["rows"][index] for name, one in results.items()
        }
        source = next(iter(one.values())).source
        cells = {name: f"{spell(row.target)} {row.books}" for name, row in one.items()}
        rows.append({"source": spell(source)} | cells)
    return rows
