#!/usr/bin/env bash
# From a bare machine with Python 3.11 to a small language model: makes .venv, installs,
# and pre-trains in runs/quickstart. Flags go to experiments/pretrain.py; a later
# --workdir wins. Run again, it resumes.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
install ""
say "pre-training in runs/quickstart"
$python experiments/pretrain.py --workdir=runs/quickstart "$@"
code=$?
[ $code = 0 ] && say "done"
exit $code
