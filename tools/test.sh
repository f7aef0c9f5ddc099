#!/usr/bin/env bash
# Makes .venv, installs the test extra, and checks style, the fast tests, then the slow
# ones and those on real weights. `test.sh fast` leaves out the last two; further
# arguments go to pytest.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
only_fast=no
if [ "${1:-}" = fast ]; then
  only_fast=yes
  shift
fi
install test

failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

check() {
  say "$*"
  "$@" || failures+=("$*")
}

# run_tests TITLE MARKS [ARGUMENTS]: two workers; finding no test is not a failure.
run_tests() {
  local title=$1 marks=$2
  shift 2
  say "the $title tests"
  $python -m pytest -q -n 2 -m "$marks" "$@" | tee -a "$log"
  case $? in 0 | 5) ;; *) failures+=("the $title tests") ;; esac
}

check .venv/bin/ruff format --check --quiet --output-format=concise .
check .venv/bin/ruff check --quiet --output-format=concise .
check $python -P tools/style.py  # -P: also where a name in tools hides Python's own
run_tests fast "not (slow or assets or live)" "$@"
[ $only_fast = yes ] || run_tests "slow and real-asset" "(slow or assets) and not live" "$@"

num_passed=$(grep -oE '[0-9]+ passed' "$log" | awk '{ n += $1 } END { print n + 0 }')
[ "$num_passed" -gt 0 ] || failures+=("no test ran")
if [ ${#failures[@]} = 0 ]; then
  say "OK: style, and $num_passed tests passed"
else
  printf 'FAILED: %s\n' "${failures[@]}"
  say "FAILED: ${#failures[@]} of the above; $num_passed tests passed"
  exit 1
fi
