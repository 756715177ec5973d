#!/usr/bin/env bash
# Write .ci/constraints.txt anew: `scripts/refresh_constraints.sh` takes the newest of everything, in a fresh environment,
# but for torch and triton, whose pins stay; `scripts/refresh_constraints.sh PYTHON` takes what that environment has.
# Then run .ci/run, and commit the two together.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-}
if [ -z "$python" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python3 -m venv "$scratch/venv"
    python="$scratch/venv/bin/python"
    grep -E '^(torch|triton)==' .ci/constraints.txt > "$scratch/kept.txt"
    "$python" -m pip install -q -c "$scratch/kept.txt" -e '.[test,bench,docs]'
fi
"$python" scripts/constraints.py .ci/constraints.txt
