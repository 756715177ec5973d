#!/usr/bin/env bash
# Write a CycloneDX bill of materials of an environment, by cyclonedx-py, and hold it against the pins.
# scripts/bill_of_materials.sh [OUT.json [PYTHON]]; sinefield.cdx.json and .venv/bin/python by default
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-sinefield.cdx.json}
python=${2:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv" # of its own, so that the tool is no part of the bill
"$scratch/venv/bin/pip" install -q 'cyclonedx-bom==7.5.0'
"$scratch/venv/bin/cyclonedx-py" environment --output-reproducible --validate --of JSON -o "$out" "$python"
"$python" scripts/check_bill.py "$out"
