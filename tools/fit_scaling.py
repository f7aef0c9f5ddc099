"""Fits a scaling law to runs, and tells what to expect of larger ones.

    python tools/fit_scaling.py --runs=runs.csv --out=runs/scaling
    python tools/fit_scaling.py --runs=runs.jsonl --n_column=N --d_column=D \
        --loss_column=val_loss --flops_column=C --predict=1e21,1e24 --out=runs/scaling

RUNS is a CSV, or a file of one JSON object a line, with a line per finished run: its
parameters N, training tokens D and final loss. Written to --out are fit.json, with all
that is told and in full precision, report.html and its charts as PNGs. Further columns
named like that of N or of FLOPs, such as N_non_embedding or C_exact, are other counts
of the same runs: the answer is given under each.
"""

import pathlib

from absl import flags as absl_flags

from llmjax import flags, host
from llmjax.scaling import analysis, report_page, table

RUNS = absl_flags.DEFINE_string("runs", None, "the table of runs")
OUT = absl_flags.DEFINE_string("out", None, "folder to write to")
COLUMNS = flags.define("", table.Columns())
OPTIONS = flags.define("", analysis.Options())


def main() -> None:
    if not (RUNS.value and OUT.value):
        raise ValueError("--runs and --out are needed: a table, and a folder")
    runs = table.read(RUNS.value, COLUMNS())
    folder = pathlib.Path(OUT.value).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out={folder} is a file; name a folder")
    host.start()
    fit = analysis.analyse(runs, OPTIONS())
    written = report_page.write(folder, runs, fit)
    report_page.show(fit)
    print(f"\n{folder}: {', '.join(written)}")


if __name__ == "__main__":
    flags.run(main)
