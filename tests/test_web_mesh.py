"""Meshes in the JavaScript decoder and drawer: Python's nodes and faces, the pictures of brute force, damaged files."""

import json
import random

import numpy as np
import pytest
import torch
import trimesh
from golden_reading import FOLDER
from test_mesh_kind import SHAPES, on_lattice
from test_web import WEB, asked, node, pytestmark  # noqa: F401  (skips where Node.js is absent)

from sinefield.cameras.cameras import look_at
from sinefield.compress.container import encode
from sinefield.compress.mesh_code import mesh_in
from sinefield.fields.mesh.field import MeshField
from sinefield.store.fields import load_field
from sinefield.store.sine_files import load_packed, to_packed

GOLDEN = FOLDER / "mesh.sine"
SIDE, FOCAL = 24, 30.0
SAMPLES = [(0.375, 0.125), (0.875, 0.375), (0.625, 0.875), (0.125, 0.625)]


def soup():
    """Faces that share vertices in no order: far edges, long ones, borders of borders."""
    rng = np.random.default_rng(0)
    faces = np.array([rng.choice(60, 3, replace=False) for _ in range(150)])
    return trimesh.Trimesh(rng.normal(size=(60, 3)), faces, process=False)


def answers(files, tmp_path):
    """What JavaScript finds in files of these bytes: nodes and faces, or None where it refuses."""
    for i, data in enumerate(files):
        (tmp_path / f"{i}.sine").write_bytes(data)
    lines = node("decode.mjs", WEB / "src", *(tmp_path / f"{i}.sine" for i in range(len(files)))).splitlines()
    return [None if "error" in line else line["tensors"] for line in map(json.loads, lines)]


@pytest.mark.parametrize("digits", [8, 15])
def test_nodes_and_faces_are_pythons(digits, tmp_path):
    fields = [MeshField.of(on_lattice(mesh, digits)) for mesh in (*SHAPES.values(), soup())]
    files = [tmp_path / f"{i}.sine" for i in range(len(fields))]
    for field, file in zip(fields, files, strict=True):
        file.write_bytes(encode(to_packed(field, {}, {})))
    found = asked([{"file": str(file), "params": ["nodes", "faces"]} for file in files])
    for field, answer in zip(fields, found, strict=True):
        assert answer["nodes"] == field.nodes.flatten().tolist() and answer["faces"] == field.faces.flatten().tolist()


def test_damaged_codes_are_what_python_makes_of_them(tmp_path):
    """Both read the same ones, and refuse the others."""
    rng, packed, files, truths = random.Random(3), load_packed(GOLDEN), [], []
    code, settings = packed.code, packed.settings
    for _ in range(150):
        data = bytearray(code)
        # Near the end, where what is left may still be a whole mesh.
        data[rng.randrange(len(data) - 12, len(data))] ^= 1 << rng.randrange(8)
        packed.code = bytes(data)
        files.append(encode(packed))
        try:
            nodes, faces = mesh_in(packed.code, settings["faces"], settings["digits"])
            truths.append(len(nodes) == settings["vertices"] and [len(nodes), len(faces)])
        except ValueError:
            truths.append(False)
    found = [a and [a["nodes"][0][0], a["faces"][0][0]] for a in answers(files, tmp_path)]
    assert found == [truth or None for truth in truths]
    assert 1 < sum(map(bool, truths)) < 149


def rays(pose, corner):
    """(o, d) through one place in each pixel, by the conventions of docs/architecture.md."""
    y, x = np.meshgrid(np.arange(SIDE) + corner[1], np.arange(SIDE) + corner[0], indexing="ij")
    ways = (
        np.stack([(x - SIDE / 2) / FOCAL, -(y - SIDE / 2) / FOCAL, -np.ones_like(x)], -1).reshape(-1, 3) @ pose[:, :3].T
    )
    return pose[:, 3], ways / np.linalg.norm(ways, axis=1, keepdims=True)


def met(surface, origin, ways):
    """Distance and face of what each ray meets first: all rays with all faces (Möller & Trumbore)."""
    a, b, c = (surface.vertices[surface.faces[:, k]] for k in range(3))
    u, v = b - a, c - a
    p = np.cross(ways[:, None], v)
    det = (u * p).sum(-1)
    away = origin - a
    with np.errstate(divide="ignore", invalid="ignore"):
        s = (away * p).sum(-1) / det
        q = np.cross(away, u)
        r = (ways[:, None] * q).sum(-1) / det
        t = (v * q).sum(-1) / det
    t = np.where((s >= 0) & (r >= 0) & (s + r <= 1) & (t > 0), t, np.inf)
    return t.min(1), t.argmin(1)


@pytest.mark.parametrize("away", [3.0, 0.75])  # from within the box as well, where faces are behind the eye
@pytest.mark.parametrize("name", ["mesh", "mesh_subdivided"])
def test_a_picture_is_that_of_brute_force(name, away):
    file = FOLDER / f"{name}.sine"
    field, _ = load_field(file)
    centre = torch.tensor([0.0, 0.85, 0.0])
    eye = centre + away * torch.tensor([0.6, 0.7, 1.1])
    pose = look_at(eye[None].double(), centre.double(), (0.0, 1.0, 0.0))[0].numpy()
    camera = {"width": SIDE, "height": SIDE, "focal": FOCAL, "pose": pose.ravel().tolist()}
    (found,) = asked([{"file": str(file), "camera": camera}])
    surface, colours, opacity = field.surface, np.zeros((SIDE * SIDE, 3)), np.zeros(SIDE * SIDE)
    sun = np.array([-0.45, 1, 0.75]) / np.linalg.norm([-0.45, 1, 0.75])
    fill = np.array([0.45, 0.35, -0.75]) / np.linalg.norm([0.45, 0.35, -0.75])
    for corner in SAMPLES:
        t, face = met(surface, *rays(pose, corner))
        n = trimesh.Trimesh(surface.vertices, surface.faces, process=False).face_normals[face]
        light = 0.54 + 0.2 * (0.5 + 0.5 * n[:, 1]) + 0.46 * (n @ sun).clip(0) + 0.14 * (n @ fill).clip(0)
        hit = np.isfinite(t)
        colours += np.where(hit[:, None], np.minimum(np.array([0.8, 0.76, 0.72]) * light[:, None], 1), 0) / 4
        opacity += hit / 4
    ours = np.array(found["colours"]).reshape(-1, 3)
    same = np.abs(ours - colours).max(1) < 1e-5
    assert (
        same.mean() > 0.99 and (np.array(found["opacities"]) == opacity).mean() > 0.995
    )  # a sample on an edge is either's
    depth, _ = met(surface, *rays(pose, (0.5, 0.5)))
    seen = (opacity == 1) & np.isfinite(depth) & same
    assert seen.sum() > 30
    assert np.median(np.abs(np.array(found["depths"])[seen] / depth[seen] - 1)) < 0.02


def test_damaged_files_are_read_or_refused():
    """1,000 of them: one clean line, at most a second of processor time and 256 MiB each."""
    found = json.loads(node("mutate.mjs", WEB / "src", 1_000, 7, GOLDEN))
    assert found["crashed"] == []
    assert found["read"] > 5 and found["refused"] > 500
    assert found["slowest"] < 1.0 and found["grown"] < 256 << 20, found
