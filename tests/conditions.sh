#!/usr/bin/env bash
# Runs a tenth of the suite under each condition that somebody's machine may have, and prints a line for each.
#
#   tests/conditions.sh [CONDITION...]      all of them without arguments; logs lie in out/conditions/
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD logs=$PWD/out/conditions
mkdir -p "$logs"
export ZOETROPE_TEST_SHARE=${ZOETROPE_TEST_SHARE:-10}
tests=("$root/.venv/bin/python" -m pytest -m "not full and not gpu" -n 2 -q)

foreground() { "${tests[@]}"; }
background() { # as `nohup make test &` does it: SIGINT is ignored, and nobody types
  bash -c 'nohup "$@" & wait $!' - "${tests[@]}"
}
sigint_ignored() (trap '' INT && "${tests[@]}")
stdin_closed() { "${tests[@]}" <&-; }
dead_proxy() { env http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 "${tests[@]}"; }
german() {
  locale -a | grep -qi '^de_DE.utf-\?8$' || echo "de_DE.UTF-8 is not installed: only the variables are set" >&2
  env LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8 LANGUAGE=de "${tests[@]}"
}
far_from_utc() { env TZ=Pacific/Kiritimati "${tests[@]}"; }
blank_in_path() {
  local copy
  copy=$(mktemp -d)/"a directory with blanks"
  git clone --quiet . "$copy" && cd "$copy" && make .venv/.dev && .venv/bin/python "${tests[@]:1}"
}
other_user() { # needs root, and a Python that others may read
  local copy
  copy=$(mktemp -d) && chmod 755 "$copy" && git clone --quiet . "$copy/clone" && chown -R nobody "$copy"
  setpriv --reuid=nobody --regid=nogroup --clear-groups env -i PATH="$PATH" HOME="$copy" CI="${CI:-}" \
    ZOETROPE_TEST_SHARE="$ZOETROPE_TEST_SHARE" bash -c \
    'cd ~/clone && make PYTHON="'"${PYTHON:-python3}"'" .venv/.dev && .venv/bin/python "$@"' - "${tests[@]:1}"
}

all=(foreground background sigint_ignored stdin_closed dead_proxy german far_from_utc blank_in_path other_user)
failed=0
[ $# -gt 0 ] || set -- "${all[@]}"
for condition; do
  if ("$condition") >"$logs/$condition.log" 2>&1; then state=passed; else state=FAILED failed=1; fi
  printf '%-16s %s: %s\n' "$condition" "$state" "$(tail -n 1 "$logs/$condition.log")"
done
exit $failed
