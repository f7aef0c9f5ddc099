"""What a person reads of in-context learning: curves beside what is exactly known."""

from pathlib import Path
from typing import Any

from llmjax import report
from llmjax.report import Series
from llmjax.train import outputs
from llmjax.train.workdir import write_json


def write(
    folder: Path,
    curve: dict[str, Any],
    found: dict[str, tuple[list[dict[str, float]], dict[str, float]]],
    shots: list[dict[str, Any]],
) -> None:
    """summary.json, report.html and the terminal.

    curve: of `in_context.regression_curve`. found: the logged steps and the accuracies
    of each model that recalls and goes on. shots: of `few_shot.curve`.
    """
    right = {name: accuracies for name, (_, accuracies) in found.items()}
    summary = {"regression": curve, "accuracy": right, "few_shot": shots}
    write_json(folder / "summary.json", summary)
    sections = [
        ("Regression in context", regression(curve)),
        ("Recall and induction", learning(found) + report.table(table(right))),
    ]
    if shots:
        sections.append(("Few shots", few_shots(shots)))
    report.write(folder / "report.html", "In-context learning", sections)
    num = len(curve["error"])
    rows = [
        {"examples": k, "error": curve["error"][k], "exact": curve["exact"][k],
         "least squares": curve["least_squares"][k]}
        for k in range(num)
    ]  # fmt: skip
    outputs.print_table(rows)
    print(f"mean gap to the exact curve {curve['mean_gap']:.3f}; below it by more than "
          f"chance at {curve['leaks'] or 'no'} k")  # fmt: skip
    outputs.print_table(table(right))
    if shots:
        outputs.print_table(shots)
    print(f"report: {folder}/report.html")


def table(right: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """The share of right symbols of each model, in per cent."""
    return [
        {"": name} | {task: f"{100 * share:.1f} %" for task, share in shares.items()}
        for name, shares in right.items()
    ]


def regression(curve: dict[str, Any]) -> str:
    """The error after k examples; nothing can lie below the exact curve for long."""
    k = list(range(len(curve["error"])))
    series = [
        Series("the model", k, curve["error"], "marks"),
        Series("exact, 1 - k / d", k, curve["exact"], "dashed"),
        Series("least squares on the same rows", k, curve["least_squares"], "dots"),
    ]
    return report.line_chart(series, x_label="examples", y_label="squared error")


def learning(found: dict[str, tuple[list[dict[str, float]], dict]]) -> str:
    """Held-out accuracy, of both tasks, over the steps of training."""
    series = []
    for name, (lines, _) in found.items():
        seen = [line for line in lines if "val_accuracy" in line]
        steps = [line["step"] for line in seen]
        series.append(Series(name, steps, [s["val_accuracy"] for s in seen], "marks"))
    return report.line_chart(series, x_label="step", y_label="accuracy")


def few_shots(shots: list[dict[str, Any]]) -> str:
    """Accuracy over the number of examples, with right and with shuffled labels."""
    k = [line["shots"] for line in shots]
    series = [
        Series(f"{name} labels", k, [line[name] for line in shots], "marks")
        for name in ("right", "shuffled")
    ]
    chart = report.line_chart(series, x_label="examples", y_label="accuracy")
    return chart + report.table(shots)
