"""Folders that belong to somebody else: whoever may not write there is told so, and nothing there changes; slow."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from killed import Command, write_scene
from small import shape_config
from test_unwritable import KERNEL

from sinefield.files import TEMPORARY, _prefix

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="root alone can run a command as another user"),
]
NOBODY, NAMELESS = 65534, 54321
"""Users: one with a name and without a home, one that the system knows nothing of."""
REFUSED = {
    "pack": "pack {run} {theirs}/a.sine --bits 6 --steps 3",
    "mesh": "mesh example:knot {theirs}/a.glb --resolution 24",
    "video": "video example:knot {theirs}/a.mp4 --frames 2 --width 32",
    "pictures": "video example:knot {theirs}/a/ --frames 2 --width 32",
    "report": "report {run} --overwrite",
    "adapt": "adapt {run} {scene} --out {theirs}/a.sine --training.steps 3",
    "capture": "capture {photographs} --out {theirs}/a --training.steps 3",
    "page": "page example:knot {theirs}/a.html",
    "code": "code example:knot {theirs}/a.h",
    "eval": "eval {run}",
    "train": "train {scene} --out {theirs}/new",
    "resume": "train {scene} --out {run} --resume",
    "overwrite": "train {scene} --out {run} --overwrite",
    "overwrite_file": "code example:knot {sticky}/theirs.h --overwrite",
    "overwrite_folder": "video example:knot {sticky}/theirs/ --frames 2 --width 32 --overwrite",
    "hidden": "info {hidden}",
    "hidden_out": "mesh example:knot {hidden}/a.glb --resolution 24",
}


@pytest.fixture(scope="module")
def places(ball, ball_run, photographs):
    """Everything where another user can read it; pytest's own folders are closed to others."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    for name, made in (("ball.ply", ball), ("photographs", photographs), ("run", ball_run[0])):
        (shutil.copytree if made.is_dir() else shutil.copy)(made, root / name)
    for name, mode in (("theirs", 0o755), ("sticky", 0o1777), ("hidden", 0o700), ("mine", 0o700), ("log", 0o777)):
        (root / name).mkdir()
        (root / name).chmod(mode)
    os.chown(root / "mine", NOBODY, NOBODY)
    (root / "sticky" / "theirs.h").write_text("theirs")
    (root / "sticky" / "theirs").mkdir()
    (root / "sticky" / "theirs" / "0000.png").write_text("theirs")
    (root / "hidden" / "config.yaml").write_text("kind: shape")
    write_scene(root / "scene.yaml", shape_config(root / "ball.ply", steps=250))
    yield {
        **{name: root / name for name in ("run", "photographs", "theirs", "sticky", "hidden", "mine", "log")},
        "scene": root / "scene.yaml",
    }
    shutil.rmtree(root)


def everything(places):
    found = {}
    for name in ("run", "theirs", "sticky", "hidden"):
        for path in (places[name], *places[name].rglob("*")):
            state = path.lstat()
            found[path] = (state.st_mode, state.st_uid, state.st_mtime_ns, path.is_file() and path.read_bytes())
    return found


def as_nobody(words, places):
    log = places["log"] / "log"
    log.unlink(missing_ok=True)
    variables = {"TMPDIR": str(places["mine"]), "SINEFIELD_CACHE": str(places["mine"]), "HOME": "/nonexistent"}
    command = Command(words.format(**places).split(), log).start(user=NOBODY, variables=variables)
    return command, command.join()


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_written(name, places):
    before = everything(places)
    command, code = as_nobody(REFUSED[name], places)
    said = command.log.read_text()
    assert code == 2 and len(command.errors()) == 1 and "Traceback" not in said, said
    after = everything(places)
    if name.startswith("overwrite_"):  # in a folder that he may write to: the folder's own time alone
        before.pop(places["sticky"]), after.pop(places["sticky"])
    assert after == before
    assert not list(places["mine"].glob(f"{TEMPORARY}*"))


def test_another_users_leftovers_hinder_nobody(places):
    out = places["sticky"] / "a.h"
    left = [places["sticky"] / (_prefix(out) + name) for name in ("left.h", "folder")]
    left[0].write_text("half")
    left[0].chmod(0o600)
    left[1].mkdir()
    (left[1] / "part").write_text("half")
    command, code = as_nobody(f"code example:knot {out}", places)
    assert code == 0, command.log.read_text()
    assert out.stat().st_uid == NOBODY and left[0].read_text() == (left[1] / "part").read_text() == "half"
    for path in (out, left[0]):
        path.unlink()
    shutil.rmtree(left[1])


def python(user, code, variables, *words):
    command = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", sys.executable, "-c", code]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "SINEFIELD", "XDG", "HOME"))}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    done = subprocess.run([*command, *words], env=environment, cwd="/", capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def reached():
    """The package can be read by others where it lies, and programs can be run as them."""
    if not shutil.which("setpriv") or python(NOBODY, "import sinefield.files", {})[0]:
        pytest.skip("another user cannot read the package here, or there is no setpriv")


@pytest.mark.parametrize("user", [NOBODY, NAMELESS])
def test_kernels_of_another_user(user, reached, tmp_path_factory):
    """numba's folder is root's, who may write to it, and holds kernels of his; there is no home."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        theirs = {"NUMBA_CACHE_DIR": folder, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
        assert python(0, KERNEL, theirs)[:2] == (0, "[[2, 0]]\n")
        before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
        assert any(path.is_file() for path in before)
        code, out, err = python(user, KERNEL, theirs)
        assert (code, out) == (0, "[[2, 0]]\n"), err
        assert err.count("\n") <= 1 and "Traceback" not in err
        assert {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")} == before


def test_a_user_without_a_name_or_home(reached):
    entry = "from sinefield.commands.cli import entry; entry()"
    code, _, err = python(NAMELESS, entry, {}, "info", "example:knot")
    assert code == 0 and "Traceback" not in err, err
    code, _, err = python(NAMELESS, entry, {}, "mesh", "example:knot", "/a.ply", "--resolution", "16")
    assert code == 2 and err.count("sinefield:") == 1 and "not writable" in err, err
