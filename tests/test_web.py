"""The JavaScript decoder and drawer against Python: the same numbers, cells and pictures from the same files."""

import json
import shutil
import subprocess
from pathlib import Path

import golden_reading
import numpy as np
import pytest
import torch
from golden_reading import FOLDER, SIDE

import sinefield
from sinefield.compress import settings

WEB = Path(sinefield.__file__).parent / "web"
HERE = Path(__file__).parent / "web"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node.js")
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
FILES = EXPECTED["files"]
PACKED = [name for name in FILES if name.endswith(".sine")]
DRAWN = [
    name
    for name in PACKED
    if FILES[name]["kind"] in ("shape", "radiance", "image", "mesh") or name.startswith(("edit_of", "code_of"))
]
SLACK = {"density": 1e-3, "sdf": 1e-4, "colour": 1e-4}
"""Of a value, relative to the largest of its kind; of a density to itself: other orders of sums, other sines."""


def node(script, *arguments, told=None):
    done = subprocess.run(
        [NODE, HERE / script, *map(str, arguments)],
        input=told,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(questions):
    return json.loads(node("ask.mjs", WEB / "src" / "index.js", told=json.dumps(questions)))


@pytest.fixture(scope="module")
def decoded():
    lines = node("decode.mjs", WEB / "src", *(FOLDER / name for name in PACKED)).splitlines()
    return dict(zip(PACKED, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("name", PACKED)
def test_parameters_cells_and_notes_are_pythons(decoded, name):
    found, was = decoded[name], FILES[name]
    if was["kind"] == "shapes":
        assert found["error"] == "SineError" and "shapes" in found["message"]
        return
    if was["kind"] == "code":  # its levels need the base
        assert (found["kind"], found["box"]) == ("code", was["place"]["aabb"])
        return
    assert {key: [shape, crc] for key, (shape, crc) in found["tensors"].items()} == was["tensors"]
    assert found["note"] == was.get("note", {})
    if name.startswith("edit_of"):
        assert found["edit"]["base"] == was["settings"]["edit"]["base"]
    elif was["kind"] == "shared":
        assert found["settings"] == was["settings"]
    elif was["kind"] != "adapter":
        # A setting that is newer than the file has its base value.
        assert found["settings"] == settings.BASE[was["kind"]] | was["settings"]
        assert found["cells"] == was.get("cells")
        assert found["box"] == was["place"].get("aabb")


def question(name, plain=False):
    """The questions whose answers expected.json has."""
    unit = torch.tensor(EXPECTED["ask"]["points"], dtype=torch.float64)
    file, edits = name, []
    if name.startswith(("edit_of_", "code_of_")):
        file, edits = name.partition("_of_")[2], [str(FOLDER / name)]
    kind, told = FILES[file]["kind"], {"file": str(FOLDER / file), "edits": edits, "plain": plain}
    if kind == "image":
        return {**told, "ask": {"colour": [(2 * unit[:, :2] - 1).tolist()]}, "camera": {"width": SIDE, "height": SIDE}}
    box = torch.tensor(FILES[name]["place"]["aabb"], dtype=torch.float64)
    if kind in ("shape", "mesh", "shared"):
        return {**told, "ask": {"sdf": [golden_reading._within(unit, box, 1.3).tolist()]}}
    space = FILES[file]["settings"]["space"]
    points = golden_reading._within(unit, box, 5.0 if space == "contracted" else 1.0).float().tolist()
    directions = EXPECTED["ask"]["directions"]
    eye = EXPECTED["ask"]["eyes"]["world" if space == "box" else space]
    return {
        **told,
        "ask": {"density": [points], "colour": [points, directions]},
        "camera": camera_of(eye, space == "box"),
    }


def camera_of(eye, around):
    """golden_reading's camera as the drawer takes it."""
    eye = np.array(eye)
    back = eye / np.linalg.norm(eye) if around else np.array([0.0, 0, 1])
    up = np.array([0.0, 0, 1]) if around else np.array([0.0, 1, 0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    pose = np.stack([right, np.cross(back, right), back, eye], axis=1)
    return {"pose": pose.ravel().tolist(), "focal": SIDE * (1.3 if around else 0.9), "width": SIDE, "height": SIDE}


@pytest.fixture(scope="module", params=[False, True], ids=["wasm", "plain"])
def answers(request):
    return dict(zip(DRAWN, asked([question(name, request.param) for name in DRAWN]), strict=True)), request.param


def test_the_kernel_runs_where_it_is_asked_for(answers):
    found, plain = answers
    assert {a["simd"] for a in found.values() if a["kind"] != "mesh"} == {not plain}  # a mesh has no network


@pytest.mark.parametrize("name", DRAWN)
def test_values_are_pythons(answers, name):
    found, was = answers[0][name], FILES[name]["values"]
    pairs = {"sdf": "shape", "density": "density", "colour": "colour"}
    compared = [(ours, theirs) for ours, theirs in pairs.items() if ours in found and theirs in was]
    assert compared
    for ours, theirs in compared:
        mine, python = np.array(found[ours]), np.array(was[theirs]).ravel()
        size = np.abs(python) if ours == "density" else np.abs(python).max()
        if ours == "colour" and "picture" in was:
            python = python.clip(0, 1)
        if FILES[name]["kind"] == "image" or "image" in name:
            python = python.clip(0, 1)
        assert (np.abs(mine - python) <= SLACK[ours] * size).all(), (ours, np.abs(mine - python).max())


@pytest.mark.parametrize("name", [name for name in DRAWN if "picture" in FILES[name]])
def test_pictures_and_depths_are_pythons(answers, name):
    found, was = answers[0][name], FILES[name]
    over = np.array(found["colours"]).reshape(-1, 3)
    background = np.array(was["place"].get("background", [1, 1, 1]))
    over = over + (1 - np.array(found["opacities"]))[:, None] * background
    picture = np.frombuffer(bytes.fromhex("".join(was["picture"])), np.uint8).reshape(-1, 3) / 255
    # A ray ends with 10^-3 of its light left, and the expected picture is of 8 bits.
    assert np.abs(over.clip(0, 1) - picture).max() < 1.5e-3 + 0.5 / 255
    if "depth" in was["values"]:
        opacities = np.array(found["opacities"])[::9]
        depths = np.array(found["depths"])[::9]
        seen = opacities > 0.01
        assert seen.any()
        mean = np.array(was["values"]["depth"])[seen] / opacities[seen]
        np.testing.assert_allclose(depths[seen], mean, rtol=5e-3)


@pytest.mark.slow
def test_mutated_files_are_read_or_refused():
    """10,000 of them: one clean line, at most a second of processor time and 256 MiB each."""
    files = [
        *(FOLDER / name for name in PACKED),
        *sorted((Path(sinefield.__file__).parent / "example_fields").glob("*.sine")),
    ]
    found = json.loads(node("mutate.mjs", WEB / "src", 10_000, 7, *files))
    assert found["crashed"] == []
    assert found["read"] > 100 and found["refused"] > 5_000
    assert found["slowest"] < 1.0 and found["grown"] < 256 << 20, found
