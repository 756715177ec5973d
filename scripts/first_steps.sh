#!/usr/bin/env bash
# What a new user does first, with the Python of an environment that has the package with the extra `video`: it looks at an
# example, trains on a mesh and on pictures, and writes a mesh, a small file, videos, pages and C. Any fault ends it.
#     scripts/first_steps.sh PYTHON MESH
set -euo pipefail
python=$(realpath -s "$1") mesh=$(realpath "$2")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PATH="$(dirname "$python"):$PATH" NUMBA_CACHE_DIR="$folder/kernels" SINEFIELD_CACHE="$folder/cache"
unset PYTHONPATH

try() {
    printf '+ %s\n' "$*"
    local since=$SECONDS
    "$@" >out.log 2>&1 || { tail -c 2000 out.log; exit 1; }
    printf '  %s (%s s)\n' "$(tail -n 1 out.log | tr '\r' '\n' | tail -n 1 | cut -c1-120)" $((SECONDS - since))
}

cat >look.py <<'P'
import numpy as np

import sinefield as sf

field = sf.load(sf.example("knot"))
assert not field.inside(np.full((1, 3), 9.0))[0]
assert field.render(width=200).shape == (200, 200, 4)
print(field.kind, field.nbytes, field.sdf(np.zeros((1, 3))))
P
"$python" --version
try "$python" look.py
try sinefield doctor
try sinefield page example:toys toys.html
try sinefield train "$mesh" --training.steps 150 --out runs/mesh
try sinefield eval runs/mesh --json
try sinefield mesh runs/mesh mesh.glb --resolution 96
try sinefield pack runs/mesh mesh.sine --max-bytes 4000 --effort 0.2
try sinefield video runs/mesh mesh.mp4 --width 160 --frames 8
try sinefield page mesh.sine mesh.html
try sinefield code mesh.sine mesh.h
try sinefield synth shots --views 12 --test-views 3 --resolution 64
try sinefield train shots --training.steps 60 --out runs/shots
try sinefield video runs/shots shots.mp4 --width 100 --frames 4
if sinefield train absent.obj >out.log 2>&1; then echo "a mesh that is absent was trained on" >&2; exit 1; else test $? = 2; fi
