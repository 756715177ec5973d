"""Open sheets: how closely meshes follow surfaces that hold nothing inside; docs/results/sheets.*.

    python scripts/tables/sheets.py [NAME ...]      without names: all of SHEETS

The terrain is made here, of waves whose height falls with their number. A row that is not run again stays as it is.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from sinefield.config import data_folder, make_config
from sinefield.data.surfaces.sampling import surface_samples
from sinefield.data.surfaces.sheet import Rim
from sinefield.data.surfaces.surface import Surface, distance_to_mesh, load_surface
from sinefield.export.mesh import extract_field
from sinefield.files import write_text
from sinefield.learning.train import train
from sinefield.machine import describe_machine
from sinefield.store.fields import load_field
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "sheets.json"
WORK = ROOT / "runs" / "sheets"
SHEETS = {"bunny_open": 500, "terrain": 1200, "ogre": 500}  # steps
BATCH, POINTS, SEED, RESOLUTION = 8192, 500_000, 0, 192
ASKED = 100_000
NEAR = 0.02  # shares of the diagonal from the rim that count as near it


def terrain(side: int = 256) -> Path:
    """Heights over a square, fractal: of waves of all lengths, as the square of the length strong."""
    path = WORK / "terrain.ply"
    rng = np.random.default_rng(1)
    across = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :]
    strength = np.maximum(np.hypot(*across), 1 / side) ** -2.1
    waves = strength * np.exp(2j * np.pi * rng.random((side, side)))
    heights = np.fft.ifft2(waves).real
    heights *= 0.12 / heights.std()
    x, z = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    at = np.arange(side * side).reshape(side, side)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    faces = np.concatenate([np.stack(t, axis=-1).reshape(-1, 3) for t in ((a, c, b), (a, d, c))])
    WORK.mkdir(parents=True, exist_ok=True)
    trimesh.Trimesh(np.stack([x, heights, z], axis=-1).reshape(-1, 3), faces, process=False).export(path)
    return path


def path_of(name: str) -> Path:
    meshes = {"bunny_open": "stanford-bunny_open.obj", "ogre": "ogre.obj"}
    return terrain() if name == "terrain" else data_folder() / "meshes" / meshes[name]


def measured(vertices: np.ndarray, faces: np.ndarray, surface: Surface) -> dict[str, float]:
    """Exact distances between two surfaces, and near their rims, in shares of the box's diagonal."""
    diagonal = float(np.linalg.norm(surface.aabb[3:] - surface.aabb[:3]))
    mesh = Surface(vertices, faces.astype(np.int32), None, None, "mesh", {})
    a, b = surface_samples(mesh, ASKED, 1)[0], surface_samples(surface, ASKED, 2)[0]
    there, back = distance_to_mesh(surface, a) / diagonal, distance_to_mesh(mesh, b) / diagonal
    found = {
        "chamfer": float(there.mean() + back.mean()) / 2,
        "farthest": float(there.max()),
        "missed": float(back.max()),
    }
    rim = Rim(surface)
    if not len(rim.ends):
        return found
    near = [np.sqrt(rim.curve.squared_distance(rim.vertices, rim.ends, x)[0]) < NEAR * diagonal for x in (a, b)]
    found["near_rim"] = float(there[near[0]].mean() + back[near[1]].mean()) / 2
    own = Rim(mesh)
    to = own.samples(ASKED // 10, np.random.default_rng(0))
    found["rims"] = float(np.sqrt(rim.curve.squared_distance(rim.vertices, rim.ends, to)[0]).mean()) / diagonal
    return found


def run(name: str) -> dict[str, Any]:
    path, out = path_of(name), WORK / name
    settings = {
        "kind": "shape",
        "seed": SEED,
        "data": {"path": str(path), "points": POINTS},
        "field": {"represents": "sheet"},
        "training": {"steps": SHEETS[name], "batch": BATCH},
    }
    begin = time.process_time()
    report = train(make_config(settings, name), out, overwrite=True)
    seconds = time.process_time() - begin
    vertices, faces, _ = extract_field(load_field(out)[0], RESOLUTION)
    trimesh.Trimesh(vertices, faces, process=False).export(out / "mesh.ply")
    row = {"surface": name, **measured(vertices, faces, load_surface(path)), "faces": len(faces)}
    row |= {"fscore": report["fscore"], "shell_iou": report["shell_iou"], "cpu_seconds": seconds}
    sampled = report["chamfer_l1"] / report["diagonal"]
    machine = describe_machine()
    return row | {"chamfer_sampled": sampled, "steps": SHEETS[name], "seed": SEED, "machine": machine["cpu"]}


def written(rows: dict[str, dict[str, Any]]) -> str:
    """The page."""
    columns = {
        "chamfer": "Chamfer, exact",
        "chamfer_sampled": "Chamfer, by samples",
        "near_rim": "near the rim",
        "rims": "its rim to the rim",
        "farthest": "farthest of the mesh",
        "missed": "farthest of the surface",
    }
    head = ["surface", "steps", *columns.values(), "faces", "CPU"]
    lines = []
    for name, row in rows.items():
        shares = [f"{100 * row[key]:.3f} %" if key in row else "" for key in columns]
        lines.append([name, f"{row['steps']:,}", *shares, f"{row['faces']:,}", f"{row['cpu_seconds']:.0f} s"])
    machine = next(iter(rows.values()))["machine"]
    return f"""# Open sheets

    python scripts/tables/sheets.py

Fields that represent a sheet, steps of {BATCH:,} points, seed {SEED}, on {machine}. Distances are shares
of the box's diagonal. Chamfer is the mean of both directions: to the nearest place on the other surface, or between
{ASKED:,} samples of each, as reports have it, which are not 0 for equal surfaces. "Near the rim" is the first, of what
is within {100 * NEAR:g} % of the rim. Small holes elsewhere show in "its rim to the rim": the bunny has a few, the ogre
many, where shells lie closer to each other than the slab that is learned around them. CPU time is that of the whole
training, its samples and its scores included.

{table(head, [dict(zip(head, line, strict=True)) for line in lines], markdown=True)}
"""


def main() -> None:
    for name in sys.argv[1:] or SHEETS:
        made = run(name)
        print(made)
        rows = (json.loads(STORE.read_text()) if STORE.exists() else {}) | {name: made}
        rows = {key: rows[key] for key in SHEETS if key in rows}
        write_text(STORE, json.dumps(rows, indent=1) + "\n")
        write_text(STORE.with_suffix(".md"), written(rows))


if __name__ == "__main__":
    torch.set_num_threads(max(1, math.ceil((torch.get_num_threads()) / 2)))
    main()
