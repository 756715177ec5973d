#!/usr/bin/env bash
# CUDA tests and timings on a machine with a GPU and no network, within 9 minutes; a short table last, JSON in $OUT.
# carry/ (ignored by git) brings wheels (carry/wheels/*.whl) and data (carry/data); torch with CUDA is the machine's own.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-runs/gpu_check}"
mkdir -p "$out"
export SINEFIELD_CACHE="${SINEFIELD_CACHE:-$(mktemp -d)}"
[ -d carry/data ] && export SINEFIELD_DATA="$PWD/carry/data"
if compgen -G "carry/wheels/*.whl" > /dev/null; then
    python3 -m pip install --quiet --no-index --find-links carry/wheels carry/wheels/*.whl
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python3 -m sinefield.cli doctor --json | tail -n 1 > "$out/doctor.json"
failed=0
timeout 240 python3 -m pytest -m cuda --junitxml "$out/cuda_tests.xml" || failed=1
if [ -d "${SINEFIELD_DATA:-}" ]; then
    timeout 240 python3 -m sinefield.cli train scenes/lego.yaml --out runs/gpu_lego --overwrite \
        --training.device cuda --training.seconds 60 --json | tail -n 1 > "$out/lego_100_60s.json"
fi
python3 - "$out" <<'PY'
import json, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    found = json.loads(path.read_text())
    if "psnr" in found:
        print(f"{path.stem:<20}{found['psnr']:.2f} dB  {found['steps']} steps in {found['seconds']:.0f} s")
    for row in found.get("backends", []):
        print(f"{row['name']:<28}{'works' if row['works'] else 'not used':<10}{row['note'][:80]}")
PY
[ "$failed" = 0 ] || { echo "CUDA tests failed" >&2; exit 1; }
