"""Colours of shapes: how far off they are, and what they cost in bytes; docs/results/colours.md.

    python scripts/tables/colours.py [NAME ...]      without names: all of DATA

Each shape is trained twice for as many steps, with its colours and without; the shape is the same to the bit. The field
without is packed by default, the one with to the IoU that the other has after packing. A row that is not run again is
kept. spot: Keenan Crane's Spot (public domain), vertex colours by a formula on a mesh cut finer. knot: the package's
own shape, the same formula in a texture of 1,024², a GLB.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from sinefield.cameras.cameras import look_at
from sinefield.config import data_folder, make_config
from sinefield.data.made.procedural import demo_shape
from sinefield.data.made.synthetic import render_views
from sinefield.data.surfaces.painted import painted
from sinefield.data.surfaces.surface import load_surface
from sinefield.export.mesh import export_mesh
from sinefield.files import write_text
from sinefield.learning.evaluate import evaluate_file
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.texture import bake
from sinefield.meshing.write import write_meshes
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "colours.json"
WORK = ROOT / "runs" / "colours"
DATA = ("spot", "knot")
STEPS, PACKING, SEED = 1000, 600, 0
FIELD = {"width": 64, "rank": 12}


def formula(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Cream with brown patches, and pink at one end; (n, 3) sRGB in [0, 1]."""
    x, y, z = ((points - box[:3]) / (box[3:] - box[:3]).max()).T
    wave = np.sin(9 * x + 1.3 * np.sin(7 * y)) + np.sin(8 * y + 1) + np.sin(10 * z + 1.5 * np.sin(6 * x))
    patch = 1 / (1 + np.exp(-10 * (wave - 0.6)))[:, None]
    pink = 1 / (1 + np.exp(-20 * (z - 0.88)))[:, None]
    coat = np.array([0.93, 0.88, 0.80]) * (1 - patch) + np.array([0.30, 0.18, 0.12]) * patch
    return coat * (1 - pink) + np.array([0.92, 0.62, 0.60]) * pink


def data(name: str) -> Path:
    """The coloured file."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{name}.{'ply' if name == 'spot' else 'glb'}"
    if path.exists():
        return path
    if name == "spot":
        mesh = trimesh.load(data_folder() / "meshes" / "spot.obj", force="mesh", process=True)
        mesh = mesh.subdivide().subdivide()
    else:
        mesh = demo_shape(SEED)
    vertices, faces, box = np.asarray(mesh.vertices), np.asarray(mesh.faces), mesh.bounds.reshape(6)

    def colours_of(points: np.ndarray, _: np.ndarray | None = None) -> np.ndarray:
        return np.round(255 * formula(points, box)).astype(np.uint8)

    if name == "spot":
        trimesh.Trimesh(vertices, faces, vertex_colors=colours_of(vertices), process=False).export(path)
    else:
        baked = bake(vertices, faces, np.asarray(mesh.vertex_normals), colours_of, 1024)
        write_meshes(path, [NamedMesh("", baked.vertices, baked.faces, uv=baked.uv, picture=baked.picture)])
    return path


def measure(name: str) -> dict:
    """Train and pack with colours and without; the row of the table."""
    path, begin = data(name), time.perf_counter()
    runs, row = {}, {"steps": STEPS, "packing": PACKING, "seed": SEED, "date": time.strftime("%Y-%m-%d")}
    for colours in ("no", "yes"):
        content = {"kind": "shape", "seed": SEED, "data": {"path": str(path), "points": 1_000_000}}
        content |= {"field": {**FIELD, "colours": colours}, "training": {"steps": STEPS, "batch": 8192}}
        runs[colours] = WORK / f"{name}_{colours}"
        report = train(make_config(content, name), runs[colours], overwrite=True)
    row |= {"iou": report["iou"], "colour_rms": report["colour_rms"], "params": report["params"]}
    files = {colours: run.with_suffix(".sine") for colours, run in runs.items()}
    without = pack(runs["no"], files["no"], steps=PACKING, data=str(path), overwrite=True)
    wanted = min(without["iou"], report["iou"])
    given = pack(runs["yes"], files["yes"], min_quality=wanted, steps=PACKING, data=str(path), overwrite=True)
    after = evaluate_file(files["yes"], str(path))
    row |= {"bytes_without": without["bytes"], "iou_without": without["iou"], "bytes": given["bytes"]}
    row |= {"iou_packed": after["iou"], "colour_rms_packed": after["colour_rms"], "machine": report["machine"]}
    mesh = WORK / f"{name}_out.glb"
    export_mesh(files["yes"], mesh, resolution=128, faces=20_000, texture=1024, overwrite=True)
    picture(path, mesh).save(WORK / f"{name}.png")
    return row | {"seconds": round(time.perf_counter() - begin)}


def picture(path: Path, mesh: Path) -> Image.Image:
    """The input from two sides, and below it the textured mesh that came out."""
    surface = load_surface(path)
    low, high = surface.aabb[:3], surface.aabb[3:]
    away = np.linalg.norm(high - low) * np.array([[0.75, 0.45, 1.3], [-0.75, 0.45, -1.3]])
    poses = look_at(torch.from_numpy((low + high) / 2 + away), torch.from_numpy((low + high) / 2), (0.0, 1.0, 0.0))
    rows = []
    for meshes in (painted(surface), trimesh.load_scene(mesh).dump(concatenate=False)):
        views = render_views(meshes, poses.numpy(), 400, 400, focal=540, samples=2, up=(0, 1, 0)).astype(float)
        rows.append(np.concatenate(list(views[..., :3] * views[..., 3:] / 255 + 255 - views[..., 3:]), axis=1))
    return Image.fromarray(np.concatenate(rows).round().astype(np.uint8))


def page(rows: dict[str, dict]) -> str:
    shown = [
        {
            "shape": name,
            "bytes without": row["bytes_without"],
            "IoU without": round(row["iou_without"], 4),
            "bytes with": row["bytes"],
            "more": f"{100 * (row['bytes'] / row['bytes_without'] - 1):.0f} %",
            "IoU with": round(row["iou_packed"], 4),
            "colour RMS": round(row["colour_rms_packed"], 4),
            "before packing": round(row["colour_rms"], 4),
            "steps": f"{row['steps']} + {row['packing']}",
            "seconds": row["seconds"],
        }
        for name, row in rows.items()
    ]
    machines = sorted({f"{row['date']}: {row['machine']}" for row in rows.values()})
    return (
        "# Colours of shapes\n\nMade by `python scripts/tables/colours.py`, which says what it does; seed "
        f"{SEED}, width {FIELD['width']}, rank {FIELD['rank']}. Colour RMS: root mean square error of sRGB in [0, 1] "
        "at held-out surface points. Seconds: of the whole row, on a machine with other work.\n\n"
        + "```\n"
        + table(list(shown[0]), shown)
        + "\n```\n\n"
        + "\n".join(f"- {line}" for line in machines)
        + "\n"
    )


if __name__ == "__main__":
    rows = json.loads(STORE.read_text()) if STORE.exists() else {}
    for name in sys.argv[1:] or DATA:
        rows[name] = measure(name)
        print(name, rows[name], flush=True)
        write_text(STORE, json.dumps(rows, indent=1) + "\n")
        write_text(STORE.with_suffix(".md"), page(rows))
