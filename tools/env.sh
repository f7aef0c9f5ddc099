# Sourced by quickstart.sh and test.sh: goes to the repository and makes .venv there.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=.venv/bin/python

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The first Python on PATH that is new enough; PYTHON=... names another.
find_python() {
  local name
  for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  die "no Python 3.11 or newer on PATH; install one, or name it: PYTHON=/path/to/python3"
}

make_venv() {
  if command -v uv >/dev/null; then
    [ -x $python ] || uv venv --quiet --python "${PYTHON:->=3.11}" .venv || exit 1
  elif ! $python -m pip --version >/dev/null 2>&1; then
    local found
    found=$(find_python) || exit 1
    say "making .venv with $("$found" --version)"
    "$found" -m venv .venv >/dev/null || die "$found -m venv failed; on Debian and" \
      "Ubuntu: apt install python3-venv; then remove .venv and try again"
  fi
}

# Installs this folder with an extra ("" for none), unless that was done for this very
# setup.cfg in this very place.
install() {
  local extra=$1 stamp=.venv/installed-${1:-core} key
  make_venv
  key="$PWD $(cksum <setup.cfg)"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    return
  fi
  say "installing into .venv${extra:+ with the extra '$extra'}; a minute or two, once"
  if command -v uv >/dev/null; then
    uv pip install --quiet --python $python -e ".${extra:+[$extra]}"
  else
    # Modules are compiled when first imported: few of those installed ever are.
    $python -m pip install --quiet --disable-pip-version-check --prefer-binary \
      --no-compile -e ".${extra:+[$extra]}"
  fi || die "the installation failed; see above"
  echo "$key" >"$stamp"
  [ -z "$extra" ] || echo "$key" >.venv/installed-core
  say "installed"
}
