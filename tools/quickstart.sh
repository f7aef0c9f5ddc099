#!/usr/bin/env bash
# From a bare machine with Python 3.11 to a small language model that answers as people
# like it: makes .venv, installs, and runs experiments/quickstart.py in runs/quickstart.
# Flags go there; a later --workdir wins. Run again, it goes on where it stopped.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
install ""
say "pre-training, instruction tuning, a reward model and PPO in runs/quickstart"
$python experiments/quickstart.py --workdir=runs/quickstart "$@"
code=$?
[ $code = 0 ] && say "done"
exit $code
