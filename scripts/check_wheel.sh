#!/usr/bin/env bash
# Build sdist and wheel, have twine check both, install the wheel from the sdist's content into an environment of its own,
# and run tests from a folder that has the tests and nothing of the package's source. Dependencies are those of the
# environment of $PYTHON.
# scripts/check_wheel.sh [TEST FILE …]; without any, the quick suite
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset PYTHONPATH

mkdir "$scratch/source" # a copy: building leaves folders beside the source
git ls-files -z | tar --null -cf - -T - | tar -xf - -C "$scratch/source"
"$python" -m venv "$scratch/build"
"$scratch/build/bin/python" -m pip install -q build twine
"$scratch/build/bin/python" -m build -q --outdir "$scratch/dist" "$scratch/source" # the wheel is built from the sdist
"$scratch/build/bin/python" -m twine check --strict "$scratch"/dist/*
ls -l "$scratch"/dist

"$python" -m zipfile -l "$scratch"/dist/*.whl > "$scratch/files"
for file in $(git ls-files sinefield | grep -vE '\.py$|^sinefield/web/(src|tools)/'); do # of the page's script what is built
    grep -q "$file" "$scratch/files" || { echo "the wheel lacks $file" >&2; exit 1; }
done
! grep -E 'tests/|scripts/|docs/|golden|shared/|web/(src|tools)/' "$scratch/files" || { echo "these have no business in it" >&2; exit 1; }

"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -q --no-deps --no-index "$scratch"/dist/*.whl
# The dependencies that $PYTHON has already, after what is installed here; its own editable sinefield does not come along.
"$python" -c 'import site; print(site.getsitepackages()[0])' > "$scratch/dependencies"
target=$("$scratch/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
cp "$scratch/dependencies" "$target/dependencies.pth"

mkdir "$scratch/alone"
cp -r tests scripts scenes docs README.md pyproject.toml "$scratch/alone"
cd "$scratch/alone"
"$scratch/venv/bin/python" -c "
import sinefield, sys
assert sinefield.__file__.startswith(sys.prefix), sinefield.__file__"
"$scratch/venv/bin/sinefield" --help > help.txt
"$scratch/venv/bin/python" -m pytest "$@"
