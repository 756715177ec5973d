#!/usr/bin/env bash
# Train, evaluate, render and pack, as a person would. Further arguments go to training: --data.path photo.jpg …
# SCENE=image_small takes sine low-rank weights, for a small file.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
scene=${SCENE:-image}

sinefield train "scenes/$scene.yaml" --out "runs/$scene" --overwrite "$@"
sinefield eval "runs/$scene"
sinefield image "runs/$scene" "runs/$scene/large.png" --width 1024 --overwrite
sinefield pack "runs/$scene" "runs/$scene.sine" --overwrite
sinefield info "runs/$scene.sine"
