#!/usr/bin/env bash
# Train, evaluate, pack and reconstruct, as a person would. Further arguments go to training: --field.attention x^3 …
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
scene=shapes

sinefield train "scenes/$scene.yaml" --out "runs/$scene" --overwrite "$@"
sinefield eval "runs/$scene"
sinefield pack "runs/$scene" "runs/$scene.sine" --max-bytes 2000000 --overwrite
sinefield info "runs/$scene.sine"
# A scan of a chair that training never saw, then its mesh.
python -c "
import trimesh
from sinefield.data.made.families import make_shape
from sinefield.data.shape_sets import scan, solid_of_shape
trimesh.PointCloud(scan(solid_of_shape(make_shape('chair', 2_000_000)), 1024, 0.005, seed=0)).export('runs/$scene/points.ply')
"
sinefield reconstruct "runs/$scene.sine" "runs/$scene/points.ply" "runs/$scene/out.glb" --overwrite
