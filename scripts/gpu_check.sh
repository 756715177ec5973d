#!/usr/bin/env bash
# CUDA tests and benchmarks on a machine with a GPU and no network, within 9 minutes; a short table last, JSON in $OUT.
# carry/ (ignored by git) brings wheels (carry/wheels/*.whl) and data (carry/data, with lego/ in it); torch with CUDA is
# the machine's own. Each part has a time limit: what fails or hangs costs the others nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-runs/gpu_check}"
mkdir -p "$out"
rm -f "$out"/{cuda_tests.xml,doctor.json,gpu.json}
export SINEFIELD_CACHE="${SINEFIELD_CACHE:-$(mktemp -d)}"
[ -d carry/data ] && export SINEFIELD_DATA="$PWD/carry/data"
if compgen -G "carry/wheels/*.whl" > /dev/null; then
    timeout 60 python3 -m pip install --quiet --no-index --find-links carry/wheels carry/wheels/*.whl
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0
timeout 45 python3 -m sinefield.commands.cli doctor --json | tail -n 1 > "$out/doctor.json" || failed=1
timeout 130 python3 -m pytest -m cuda --junitxml "$out/cuda_tests.xml" || failed=1
# What the parts above left of 9 minutes.
python3 scripts/benchmarks/gpu.py --out "$out" --seconds "$((525 - SECONDS < 370 ? 525 - SECONDS : 370))" "$@" || failed=1
[ "$failed" = 0 ] || { echo "something failed; see above and $out" >&2; exit 1; }
