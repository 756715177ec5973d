#!/usr/bin/env bash
# Train, evaluate, mesh and video, as a person would. Further arguments go to training: --field.rank 8 …
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
scene=lego_400

sinefield train "scenes/$scene.yaml" --out "runs/$scene" --overwrite "$@"
sinefield eval "runs/$scene"
sinefield mesh "runs/$scene" "runs/$scene/mesh.glb" --resolution 192 --largest --overwrite
sinefield video "runs/$scene" "runs/$scene/turn.mp4" --overwrite
sinefield video "runs/$scene" "runs/$scene/depth.mp4" --channel depth --overwrite
sinefield info "runs/$scene"
