"""Every command run by a user who may read its inputs only, write in his own folder only, or read nothing; slow."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import many
import pytest
from many import LINES, UNDONE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user"),
    pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed"),
]
NOBODY = 65534
OWN_PLACE = {
    "report": "report {i}/run",
    "resume": "train {i}/scene.yaml --out {i}/run --resume --training.steps 9",
    "overwrite": "train {i}/scene.yaml --out {i}/run --overwrite",
    "poses": "poses {i}/photos/train",
    "cameras": "cameras {i}/toys.sine {i}/photos/cameras.json",
    "capture": "capture {i}/photos --out {i}/run --overwrite",
    "page": "page {i}/knot.sine",
    "pack": "pack {i}/run",
}
"""Commands that write beside their inputs."""
PARTS = ("run/field.safetensors", "run/config.yaml", "photos/train/r_3.png", "photos/transforms_train.json")
PARTS += ("base/model.safetensors", "balls/ball.ply", "shapes/field.safetensors")


@pytest.fixture(scope="module")
def inputs(ball, photographs):
    """Everything that commands read: root's, and readable."""
    folder = Path(tempfile.mkdtemp(prefix="another-user-"))  # below pytest's own folder nobody else may look
    folder.chmod(0o755)
    place = folder / "inputs"
    place.mkdir()
    many.write_inputs(place, ball, photographs)
    open_up(place)
    nobodys(folder / "kernels")
    yield place
    shutil.rmtree(folder)


def nobodys(path):
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


def open_up(place):
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def as_nobody(inputs, out, lines):
    """(name, exit code, what it says) of each, run as nobody, who has no home."""
    lines = {name: line.format(i=inputs, o=out) for name, line in lines.items()}
    folder = inputs.parent
    variables = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "SINEFIELD_CACHE", "MPLCONFIGDIR"), "/nonexistent")
    variables |= {"TMPDIR": str(folder / "kernels"), "NUMBA_CACHE_DIR": str(folder / "kernels"), "USER": "nobody"}
    words = [[word.encode() for word in line.split()] for line in lines.values()]
    done = many.run(folder, words, variables, before=privileges())
    return [(name, code, said) for name, (_, code, said) in zip(lines, done, strict=True)]


def refused(name, code, said):
    """One line and code 2."""
    told = [text for text in said if text.startswith("sinefield:") and "compiled kernels" not in text]
    assert code == "2" and len(told) == 1 and not any("Traceback" in text for text in said), (name, code, said)
    return told[0]


def privileges():
    """What has a command run as nobody, with an interpreter that he can reach."""
    change = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # Twice: setpriv itself may still go where root may.
    ask = [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"]
    if subprocess.run([*change, *ask], capture_output=True).returncode == 0:
        return change
    python = Path(sys.base_prefix)
    closed = next(path for path in reversed(python.parents) if not path.stat().st_mode & 1)
    shown = (  # for these processes alone: the interpreter is all that is in that folder
        f"d=$(mktemp -d) && mount --bind {python} $d && mount -t tmpfs -o mode=755 none {closed} && mkdir -p {python}"
        f' && mount --move $d {python} && rmdir $d && exec "$@"'
    )
    change = ["unshare", "-m", "sh", "-c", shown, "sh", *change]
    if subprocess.run([*change, *ask], capture_output=True).returncode:
        pytest.skip("the interpreter cannot be run by another user")
    return change


def digests(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def test_inputs_of_another(inputs):
    """They are read, and stay as they are; what is made is one's own."""
    own, before = nobodys(inputs.parent / "own"), digests(inputs)
    shutil.copytree(inputs / "photos", own / "photos")
    for name, code, said in as_nobody(inputs, own, LINES):
        assert code == ("2" if name in UNDONE else "0") and not any("Traceback" in t for t in said), (name, said)
    made = {path.name.partition(".")[0] for path in own.iterdir()}
    assert made >= {
        line.partition("{o}/")[2].split()[0].partition(".")[0] for line in LINES.values() if "{o}" in line
    } - {*UNDONE}
    assert {path.stat().st_uid for path in own.rglob("*") if "photos" not in path.parts} == {NOBODY}
    assert digests(inputs) == before


def test_folders_of_another(inputs):
    """Where one may not write, a line says so and nothing is changed: a folder of root's, and one in it."""
    closed = inputs.parent / "closed"
    (closed / "old").mkdir(parents=True)
    before = digests(inputs.parent)
    lines = {name: line for name, line in LINES.items() if "{o}" in line}
    for out in (closed, closed / "old", closed / "new"):
        for answer in as_nobody(inputs, out, lines):
            refused(*answer)
    for answer in as_nobody(inputs, closed, OWN_PLACE):
        refused(*answer)
    assert without_kernels(digests(inputs.parent)) == without_kernels(before)


def without_kernels(found):
    """Nor what tells the driver what to run, and what it said."""
    ours = ("kernels", "listed.json", "said")
    return {path: digest for path, digest in found.items() if not {*Path(path).parts}.intersection(ours)}


def test_inputs_that_cannot_be_read(inputs):
    """Without any rights; folders of which names can be read alone, or files alone; parts of folders."""
    own = nobodys(inputs.parent / "unread")
    for kind, mode in (("hidden", 0o000), ("listed", 0o444), ("unlisted", 0o311), ("parts", None)):
        place = inputs.parent / kind
        shutil.copytree(inputs, place)
        for path in place.iterdir() if mode is not None else [place / part for part in PARTS]:
            path.chmod(mode if path.is_dir() else 0o000)
        lines = {}
        for name, line in LINES.items():
            pieces = line.split("{i}/")
            for n in range(1, len(pieces)):  # one input after the other is the one that cannot be read
                if kind == "parts" and not any(part.startswith(pieces[n].split()[0]) for part in PARTS):
                    continue
                hidden = [str(inputs if k != n else place) + "/" + piece for k, piece in enumerate(pieces)]
                lines[f"{name} {n}"] = pieces[0] + "".join(hidden[1:])
        before = digests(own)
        for name, code, said in as_nobody(inputs, own, lines):
            if kind != "unlisted" or code != "0":
                refused(name, code, said)
        assert kind == "unlisted" or digests(own) == before, kind


OLD = {"page": "page.html", "mesh_obj": "mesh.obj", "video": "video.mp4", "unpack": "unpack", "pictures": "pictures"}
OLD |= {"depth": "depth", "frames": "frames", "synth": "synth", "adapter_merge": "merged", "pack": "pack.sine"}
OLD |= {"train": "train", "compare": "compare.png"}


@pytest.mark.parametrize("kind", ["own", "sticky"])
def test_old_outputs_of_another(kind, inputs):
    """In a folder where one may write, root's old output is replaced, or it stays whole and a line says why."""
    own, place = inputs.parent / "own", inputs.parent / kind
    if kind == "own":
        place = place.with_name("mixed")
    place.mkdir()
    for name in OLD.values():
        old = own / name
        shutil.copytree(old, place / name) if old.is_dir() else shutil.copy(old, place / name)
    open_up(place)
    if kind == "own":
        os.chown(place, NOBODY, NOBODY)
    else:
        place.chmod(0o1777)
    before = digests(place)
    for name, code, said in as_nobody(inputs, place, {name: f"{LINES[name]} --overwrite" for name in OLD}):
        made = place / OLD[name]
        if code != "0" or kind == "sticky":
            refused(name, code, said)
            assert {path: digest for path, digest in digests(place).items() if path.startswith(str(made))} == {
                path: digest for path, digest in before.items() if path.startswith(str(made))
            }, name
    assert not list(place.rglob(".tmp-*")), list(place.rglob(".tmp-*"))
