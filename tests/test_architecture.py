"""The package can be read in one sitting a file: no long files, short functions. (.ci/run checks imports and types.)"""

import ast
import importlib
from collections.abc import Iterator
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


ELSEWHERE = {
    "errors.py": {"mmap.mmap": 1},  # memory, of no file
    "adapters/file.py": {"safe_open": 2},  # a base model is mapped: it may be larger than half the memory
    "commands/cli.py": {"os.open": 2},  # /dev/null
    "data/photographs/poses.py": {"read_text": 1},  # what its own search wrote, in its own folder
    "data/photographs/pycolmap_steps.py": {"read_text": 1, "pycolmap.Database.open": 1},  # the same
    "data/photographs/views.py": {"mmap.mmap": 1},  # a nameless file of its own
    "export/player.py": {"read_text": 1},  # of the package
    "export/points.py": {"trimesh.load": 1},  # what was just written
    "export/page.py": {"read_text": 2},  # of the package
    "export/report.py": {"read_bytes": 1},  # a video that it has just made
    "fleet/child.py": {"os.open": 1, "read_text": 1},  # /dev/null, and /proc of this process
    "files.py": {"os.open": 3, "temporary.open": 1},  # the opener itself; what is written is synced, and its folder
    "kernels/cpu/step.py": {"read_bytes": 1},  # of the package
    "machine.py": {"read_text": 5},  # /proc and the control group
    "meshing/read_back.py": {"trimesh.load_scene": 1, "zipfile.ZipFile": 1},  # what was just written
    "store/compiled.py": {"read_bytes": 1, "read_text": 1},  # of the package, and /proc/cpuinfo
    "store/run.py": {"os.open": 1},  # a folder's lock
}
"""Openings that are not by `files.open_file` and friends: of the program's own files."""
LIBRARIES = {"np.load", "np.fromfile", "np.loadtxt", "np.genfromtxt", "np.memmap", "torch.load", "safe_open", "io.open"}
LIBRARIES |= {"trimesh.load", "trimesh.load_mesh", "trimesh.load_scene", "mmap.mmap", "h5py.File", "load_file"}
OPENED = {"stream", "archive", "BytesIO", "io.BytesIO", "data"}
"""What a reader may be given instead of a path."""


def openings(source: str) -> dict[str, int]:
    """Calls that open a file by its path to read it, other than by the functions of files.py, and how many."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        method = name.rpartition(".")[2]
        first = node.args[0] if node.args else None
        given = ast.unparse(first.func if isinstance(first, ast.Call) else first) if first is not None else ""
        modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        writes = any(mode in ("w", "wb", "a", "x", "xb") for mode in modes)
        own = method in ("read_bytes", "read_text") and "." in name and (first is None or name != method)
        opened = (method == "open" and name not in ("webbrowser.open", "archive.open")) or method == "ZipFile"
        if name in LIBRARIES or own or (opened and not writes and given not in OPENED):
            found[method if own else name] = found.get(method if own else name, 0) + 1
    return found


def test_every_file_is_read_by_the_one_opener():
    """A regular file of at most so many bytes, and no waiting for pipes and devices: `files.open_file`."""
    assert {name: found for name, source in sources().items() if (found := openings(source))} == ELSEWHERE


def test_openings_are_seen():
    for call in ("open(p)", "p.open('rb')", "p.read_bytes()", "p.read_text('utf-8')", "np.load(p)", "Image.open(p)"):
        assert sum(openings(call).values()) == 1, call
    assert sum(openings("zipfile.ZipFile(p)\nos.open(p, 0)\nwith p.open() as f: pass").values()) == 3
    for call in ("read_bytes(p, 9)", "Image.open(BytesIO(b))", "p.open('w')", "zipfile.ZipFile(stream)"):
        assert not openings(call), call


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Module and name of everything that is imported from the package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sinefield":
            yield from ((str(node.module), alias.name) for alias in node.names)


def test_scripts_import_what_is_there():
    """They are run by hand and rarely: what was renamed in the package must not wait for that."""
    scripts = sorted((FOLDER.parent / "scripts").rglob("*.py"))
    wanted = {(script.name, *pair) for script in scripts for pair in imported(script.read_text(encoding="utf-8"))}
    assert len(wanted) > 100
    missing = []
    for script, module, name in sorted(wanted):
        if not hasattr(importlib.import_module(module), name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ImportError:
                missing.append((script, module, name))
    assert not missing
