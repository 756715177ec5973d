#!/usr/bin/env bash
# Build the site strictly into build/site; open build/site/index.html. Needs: pip install -c .ci/constraints.txt -e '.[docs]'
set -euo pipefail
cd "$(dirname "$0")/../.."
export NO_MKDOCS_2_WARNING=1 # the theme's notice on a version of mkdocs that is not used here
"${PYTHON:-.venv/bin/python}" -m mkdocs build --strict --quiet "$@"
