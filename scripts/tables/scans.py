"""Meshes and noisy scans of them into fields, at default settings; docs/results/scans.*.

    python scripts/tables/scans.py [NAME ...]      without names: all of SCANS

A noisy scan is 100,000 points of the mesh, uniform by area, each moved by a normal deviate of 0.5 % of the diagonal of
the mesh's box along each axis; it has no normals. IoU is of the field's inside and the mesh's, on 300,000 points
uniform in the mesh's box. "Points alone" is the IoU of the cloud's own winding number, before any training. A row that
is not run again stays as it is.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import trimesh

import sinefield as sf
from sinefield.config import data_folder
from sinefield.data.surfaces.surface import load_surface, winding_number
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "scans.json"
WORK = ROOT / "runs" / "scans"
MESHES = ("armadillo.obj", "igea.ply", "xyzrgb_dragon_28k.obj", "bunny_closed.obj", "rocker-arm.obj", "spot.obj")
NOISY = ("armadillo.obj", "igea.ply")
SCANS = {Path(name).stem: (name, False) for name in MESHES} | {f"{Path(n).stem}_noisy": (n, True) for n in NOISY}
STEPS, POINTS, NOISE, SEED, ASKED = 8_000, 100_000, 0.005, 0, 300_000
TEXT = """# Meshes and noisy scans

IoU with the mesh after {steps:,} steps at default settings, and of noisy scans of two of them.

{table}

Made by `python scripts/tables/scans.py` (seed {seed}; {machine}). A noisy scan is {points:,} points with a normal
deviate of {noise} % of the diagonal along each axis, without normals; "points alone" is the IoU of the cloud's own
winding number. IoU on {asked:,} points uniform in the mesh's box. Aimed at: 0.97 for noisy scans, 0.98 for meshes.
The scatter is as large as the armadillo's relief; Igea is smoother.
"""


def scan_of(mesh: Path) -> Path:
    """A noisy cloud of a mesh, written once."""
    path = WORK / f"{mesh.stem}_noisy.ply"
    surface = load_surface(mesh)
    solid = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    rng = np.random.default_rng(SEED)
    points = np.asarray(trimesh.sample.sample_surface(solid, POINTS, seed=SEED)[0])
    points = points + rng.normal(size=points.shape) * NOISE * np.linalg.norm(np.ptp(surface.vertices, axis=0))
    WORK.mkdir(parents=True, exist_ok=True)
    trimesh.PointCloud(points).export(path)
    return path


def measure(name: str) -> dict[str, object]:
    file, noisy = SCANS[name]
    mesh = data_folder() / "meshes" / file
    truth = load_surface(mesh)
    asked = np.random.default_rng(SEED + 1).uniform(truth.aabb[:3], truth.aabb[3:], (ASKED, 3))
    inside = winding_number(truth, asked) > 0.5

    def iou(found: np.ndarray) -> float:
        return round(float((found & inside).sum() / (found | inside).sum()), 4)

    source = scan_of(mesh) if noisy else mesh
    begin = time.process_time()
    field = sf.fit(source, steps=STEPS, seed=SEED)
    minutes = (time.process_time() - begin) / 60
    row = {"input": name, "parameters": field.params, "IoU": iou(field.inside(asked)), "CPU minutes": round(minutes, 1)}
    row["points alone"] = iou(winding_number(load_surface(source), asked) > 0.5) if noisy else ""
    return row


def main() -> None:
    machine = describe_machine()
    for name in sys.argv[1:] or SCANS:
        row = measure(name)
        rows = {**(json.loads(STORE.read_text()) if STORE.exists() else {}), name: row}  # others may have added rows
        print(rows[name], flush=True)
        write_text(STORE, json.dumps(rows, indent=1) + "\n")
    shown = [rows[name] for name in SCANS if name in rows]
    text = TEXT.format(
        steps=STEPS, table=table(list(shown[0]), shown, markdown=True), seed=SEED, points=POINTS, noise=100 * NOISE,
        asked=ASKED, machine=f"{machine['cpu']}, torch {machine['torch']}",
    )  # fmt: skip
    write_text(STORE.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
