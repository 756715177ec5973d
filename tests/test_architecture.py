"""The package can be read in one sitting a file: no long files, short functions. (.ci/run checks imports and types.)"""

import ast
from pathlib import Path
from statistics import median

import sinefield

LONGEST_FILE, MEDIAN_FUNCTION = 450, 12  # lines, both exclusive
YET_LONGER = {"kernels/cpu/tiles.py": 600}  # what remains to be shortened, and its own limit
FOLDER = Path(sinefield.__file__).parent


def sources() -> dict[str, str]:
    return {file.relative_to(FOLDER).as_posix(): file.read_text(encoding="utf-8") for file in FOLDER.rglob("*.py")}


def function_lengths(source: str) -> list[int]:
    """Lines of each function from its `def`, with docstring and inner functions."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [node.end_lineno - node.lineno + 1 for node in functions]


def test_no_file_is_long():
    lengths = {name: source.count("\n") for name, source in sources().items()}
    longest = max(lengths, key=lengths.__getitem__)
    print(f"{len(lengths)} files; the longest: {longest}, {lengths[longest]} lines")
    assert len(lengths) > 50
    assert not {name: n for name, n in lengths.items() if n >= YET_LONGER.get(name, LONGEST_FILE)}


def test_most_functions_are_short():
    lengths = [length for source in sources().values() for length in function_lengths(source)]
    print(f"{len(lengths)} functions; median {median(lengths):g} lines, the longest {max(lengths)}")
    assert len(lengths) > 500
    assert median(lengths) < MEDIAN_FUNCTION


def test_lines_of_a_function_are_counted():
    source = 'def outer(a):\n    """One line."""\n    b = a\n\n    def inner():\n        return b\n\n    return inner\n'
    assert function_lengths(source) == [8, 2]
