"""The page, the summary and the last words of `experiments/quickstart.py`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmjax import report
from llmjax.data import course
from llmjax.data.instructions import Example
from llmjax.evals.course import mark
from llmjax.metrics import read_jsonl
from llmjax.report import Series
from llmjax.train import outputs, workdir

STAGES = BASE, TUNED, LIKED, BEST = "pretrain", "sft", "reward_model", "ppo"
ANSWERING = BASE, TUNED, BEST
NUM_SHOWN, SHOWN_CHARS = 10, 32  # answers, and how much of each
Said = Mapping[str, Sequence[str]]  # to the exam, by who said it
Marks = Mapping[str, float]  # of `mark`
LEARNED = (
    "The model reads text, by default the source code of Python's standard library, "
    "and learns to say which token comes next. Nobody labels anything. How well it "
    "knows this language is how few bits it would need for each byte of files that it "
    "has not read, beside the programs that compress them."
)
TAUGHT = (
    "The model that knows text is shown questions with their answers, and learns to "
    "answer and to stop. Half of the answers are bare, half are sentences. It is then "
    "asked on inputs that were never shown to it, half the time in new words; its "
    "answers are drawn at temperature 1, as are all that follow."
)
JUDGED = (
    "The tuned model answers each question four times. Where some answers are right "
    "and some are wrong, a judge ranks one of each, both in both manners: right above "
    "wrong, then sentences above bare answers; in one ranking of twenty two of them "
    "are swapped by mistake. A copy of the model, with one number in place of words, "
    "learns from these what is liked. Its scores on answers to new questions:"
)
REWARDED = (
    "The tuned model answers, the reward model scores, and PPO makes likelier what "
    "scores above expectation; for straying from the model that it was, which is "
    "measured as KL, it pays. The judge himself is not asked: he only marks the exam."
)


def write(
    folder: Path,
    exam: Sequence[Example],
    said: Said,
    scores: np.ndarray,
    secs: float,
) -> None:
    """Writes summary.json and report.html; prints the stages before and after.

    said: what each of ANSWERING answers to the exam. scores: of what TUNED does.
    secs: that all of it took, this time.
    """
    runs = {
        name: json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
        for name in STAGES
    }
    marks = {name: mark(exam, answers) for name, answers in said.items()}
    rows = before_and_after(folder, runs, marks)
    each = {name: found["secs"] for name, found in runs.items()}
    # The stages that an earlier call has done are not in the seconds of this one.
    minutes = max(secs, sum(each.values())) / 60
    summary = {"stages": rows, "marks": marks, "secs": each | {"this call": secs}}
    workdir.write_json(folder / "summary.json", summary)
    kinds = score_by_kind(exam, said[TUNED], scores)
    sections = [
        ("Before and after", report.table(rows)),
        ("1. Pre-training: to know text", pretraining(folder, runs[BASE])),
        ("2. Instruction tuning: to answer", tuning(exam, said)),
        ("3. A reward model: to know what is liked", judging(runs[LIKED], kinds)),
        (
            "4. PPO: to answer as is liked",
            following(folder, exam, said, marks, runs[BEST]["KL"]),
        ),
        ("What next", report.text_block("\n".join(advice(folder)))),
    ]
    title = f"A language model's life, in {minutes:.0f} minutes"
    report.write(folder / "report.html", title, sections)
    outputs.print_table(rows)
    print(", ".join(f"{name} {part:.0f} s" for name, part in summary["secs"].items()))
    print(f"report: {folder}/report.html\nnext:\n  " + "\n  ".join(advice(folder)))


def before_and_after(
    folder: Path, runs: Mapping[str, dict], marks: Mapping[str, Marks]
) -> list[dict[str, Any]]:
    """What each stage changes."""
    bits = runs[BASE]["val_bits_per_byte"]
    first_loss = read_jsonl(folder / BASE / "metrics.jsonl")[0]["loss"]
    fresh = first_loss * bits / runs[BASE]["val_loss"]
    right, sentences = (
        {name: percent(one[what]) for name, one in marks.items()}
        for what in ("right", "sentences")
    )
    known = percent(runs[LIKED]["accuracy"])
    found = [
        (BASE, "bits per byte of new text", f"{fresh:.2f}", f"{bits:.3f}"),
        (TUNED, "right answers", right[BASE], right[TUNED]),
        (LIKED, "pairs ordered as liked", "a coin: 50 %", known),
        (BEST, "right answers", right[TUNED], right[BEST]),
        (BEST, "answers in a sentence", sentences[TUNED], sentences[BEST]),
    ]
    names = "stage", "measured", "before", "after"
    return [dict(zip(names, row, strict=True)) for row in found]


def score_by_kind(
    exam: Sequence[Example], said: Sequence[str], scores: np.ndarray
) -> list[dict[str, Any]]:
    """The mean score of right and wrong answers, in either manner."""
    rows = []
    for is_right in (True, False):
        for is_sentence in (True, False):
            where = [
                course.is_right(one, text) == is_right
                and course.is_sentence(text) == is_sentence
                for one, text in zip(exam, said, strict=True)
            ]
            rows.append({
                "answer": "right" if is_right else "wrong",
                "manner": "a sentence" if is_sentence else "bare",
                "answers": sum(where),
                "mean score": float(scores[where].mean()) if any(where) else None,
            })  # fmt: skip
    return rows


def pretraining(folder: Path, run: Mapping[str, Any]) -> str:
    bits = run["baselines"] | {"this model": run["val_bits_per_byte"]}
    ordered = sorted(bits.items(), key=lambda item: item[1])
    rows = [{"": name, "bits per byte": value} for name, value in ordered]
    texts = [
        report.text_block(samples[0], when) for when, samples in run["samples"].items()
    ]
    chart = curve(folder / BASE, "loss", "loss, nats a token")
    return prose(LEARNED, BASE) + chart + report.table(rows) + "".join(texts)


def tuning(exam: Sequence[Example], said: Said) -> str:
    tasks = {one.kind.name: [] for one in exam}
    for number, one in enumerate(exam):
        tasks[one.kind.name].append(number)
    rows = []
    for task, numbers in tasks.items():
        some = [exam[number] for number in numbers]
        row = {"task": task.replace("_", " "), "such as": some[0].question()}
        for when, name in (("before", BASE), ("after", TUNED)):
            texts = [said[name][number] for number in numbers]
            row[f"right {when}"] = percent(mark(some, texts)["right"])
        rows.append(row)
    answers = side_by_side(exam, {"pre-trained": said[BASE], "tuned": said[TUNED]})
    return prose(TAUGHT, TUNED) + report.table(rows) + answers


def judging(run: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> str:
    figures = {
        "pairs that it has not seen": run["pairs"],
        "right, by the judge's labels": percent(run["accuracy"]),
        "right, by the truth": percent(run["gold_agreement"]),
        "labels that are true": percent(run["gold_agreement_of_labels"]),
    }
    return prose(JUDGED, LIKED) + report.table(kinds) + report.figures(figures)


def following(
    folder: Path,
    exam: Sequence[Example],
    said: Said,
    marks: Mapping[str, Marks],
    kl_nats: float,
) -> str:
    old, new = marks[TUNED], marks[BEST]
    found = [
        ("right answers", percent(old["right"]), percent(new["right"])),
        ("sentences", percent(old["sentences"]), percent(new["sentences"])),
        ("the judge's mark, 0 to 3", f"{old['gold']:.2f}", f"{new['gold']:.2f}"),
        ("KL, nats an answer", "0", f"{kl_nats:.2f}"),
    ]
    rows = [dict(zip(("", "before", "after"), row, strict=True)) for row in found]
    answers = side_by_side(exam, {"before": said[TUNED], "after": said[BEST]})
    charts = curve(folder / BEST, "reward", "score of an answer")
    charts += curve(folder / BEST, "kl", "KL, nats an answer")
    return prose(REWARDED, BEST) + report.table(rows) + charts + answers


def side_by_side(exam: Sequence[Example], said: Said) -> str:
    """The first questions, and what was said to each."""
    return report.table([
        {"question": one.question()}
        | {name: answers[number][:SHOWN_CHARS] for name, answers in said.items()}
        for number, one in enumerate(exam[:NUM_SHOWN])
    ])  # fmt: skip


def curve(run: Path, name: str, label: str) -> str:
    """A figure of a run, by step."""
    lines = [line for line in read_jsonl(run / "metrics.jsonl") if name in line]
    steps = [line["step"] for line in lines]
    series = Series("", steps, [line[name] for line in lines], "smooth")
    return report.line_chart([series], x_label="step", y_label=label)


def prose(text: str, name: str) -> str:
    return f'<p>{text} <a href="{name}/report.html">More of {name}.py</a></p>'


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def advice(folder: Path) -> list[str]:
    """What to try next."""
    return [
        f"python tools/chat.py --model={folder}/{BEST}",
        f'python tools/generate.py --model={folder}/{BASE} --prompt="class Stack:"',
    ]
