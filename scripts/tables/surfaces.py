"""Surfaces from photographs: the zero level of a distance against a density mesh; docs/results/surfaces.*.

    python scripts/tables/surfaces.py [NAME ...]      without names: all of SCENES

Photographs are rendered from meshes, so that the truth is known. Both fields train for as many steps. A scene that is
not run again keeps its row.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from sinefield.config import data_folder, load_config
from sinefield.data.cameras import look_at
from sinefield.data.geometry import load_surface
from sinefield.data.synthetic import render_views, synthesize
from sinefield.export.field_mesh import extract_field
from sinefield.files import write_text
from sinefield.metrics.shapes import compare_visible
from sinefield.tables import table
from sinefield.training.run import load_field
from sinefield.training.train import train

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "surfaces.json"
WORK = ROOT / "runs" / "surfaces"
SCENES = {"spot": 600, "bunny_closed": 600, "demo": 600}  # steps of each field
KINDS = {"density": "demo", "distance": "demo_surface"}
LEVELS = (2.5, 5.0, 10.0, 15.0, 20.0, 40.0)  # of the density, × half the box: which would have been best?
RESOLUTION, SIDE = 200, 320
CLAY = np.array([205, 195, 184, 255], np.uint8)


def photographs(name: str) -> Path:
    """A data set with its mesh.ply; a mesh without colours gets stripes."""
    folder = WORK / f"{name}_data"
    if folder.exists():
        return folder
    if name == "demo":
        synthesize(folder, resolution=100)
        return folder
    mesh = trimesh.load(data_folder() / "meshes" / f"{name}.obj", force="mesh")
    x = (mesh.vertices - mesh.vertices.min(0)) / np.ptp(mesh.vertices, axis=0).max()
    stripes = 0.55 + 0.3 * np.sin(10.7 * x @ np.array([[3.0, 0, 1], [1, 3, 0], [0, 1, 3]]))
    painted = np.round(255 * stripes).astype(np.uint8)
    WORK.mkdir(parents=True, exist_ok=True)
    trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=painted, process=False).export(WORK / f"{name}.ply")
    synthesize(folder, mesh=WORK / f"{name}.ply", resolution=128, up="y")
    return folder


def measure(name: str) -> dict:
    """Train both fields on one scene and compare their surfaces with the truth."""
    data = photographs(name)
    reference = load_surface(data / "mesh.ply")
    frames = json.loads((data / "transforms_train.json").read_text())["frames"]
    eyes = np.array([frame["transform_matrix"] for frame in frames])[:, :3, 3]
    row, meshes = {"steps": SCENES[name], "date": time.strftime("%Y-%m-%d")}, []
    for kind, scene in KINDS.items():
        overrides = {"data.path": str(data), "training.steps": str(SCENES[name])}
        run = WORK / f"{name}_{kind}"
        report = train(load_config(ROOT / "scenes" / f"{scene}.yaml", overrides), run, overwrite=True)
        field, _ = load_field(run)
        half = float((field.aabb[3:] - field.aabb[:3]).max()) / 2

        def chamfer(level: float | None, field=field, half=half) -> tuple[float, float, tuple]:
            vertices, faces, facts = extract_field(field, RESOLUTION, level)
            return (
                compare_visible(vertices, faces, reference, eyes)["chamfer_l1"] / half,
                facts["level"],
                (vertices, faces),
            )

        error, level, mesh = chamfer(None)
        row[kind] = {"chamfer": error, "level": level * half, "seconds": report["seconds"]}
        row[kind] |= {key: report[key] for key in ("psnr", "params")}
        if kind == "density":
            row["levels"] = {str(level): chamfer(level / half)[0] for level in LEVELS}
        meshes.append(mesh)
    row["machine"] = report["machine"]
    picture([(reference.vertices, reference.faces), *meshes], name == "demo").save(WORK / f"{name}.png")
    return row


def picture(meshes: list[tuple[np.ndarray, np.ndarray]], z_up: bool) -> Image.Image:
    """Truth, density mesh and zero level, shaded, from one side."""
    low, high = meshes[0][0].min(0), meshes[0][0].max(0)
    up, away = ((0, 0, 1), (0.56, -0.68, 0.43)) if z_up else ((0, 1, 0), (0.6, 0.4, 0.9))
    centre = torch.from_numpy((low + high) / 2)
    pose = look_at(centre + float(np.linalg.norm(high - low)) * torch.tensor(away), centre, up).numpy()
    columns = []
    for vertices, faces in meshes:
        mesh = trimesh.Trimesh(vertices, faces, vertex_colors=np.tile(CLAY, (len(vertices), 1)), process=False)
        view = render_views(mesh, pose[None], SIDE, SIDE, focal=1.2 * SIDE, samples=3, up=up)[0]
        alpha = view[..., 3:].astype(np.float32) / 255
        columns.append((view[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
    return Image.fromarray(np.concatenate(columns, axis=1))


def main() -> None:
    names = sys.argv[1:] or list(SCENES)
    if unknown := [name for name in names if name not in SCENES]:
        raise SystemExit(f"unknown {unknown[0]}; one of {', '.join(SCENES)}")
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    for name in names:
        stored[name] = measure(name)
        print(name, json.dumps(stored[name]), flush=True)
        write_text(STORE, json.dumps(stored, indent=1) + "\n")
    rows = [
        {
            "scene": name,
            "steps": row["steps"],
            "density mesh": f"{100 * row['density']['chamfer']:.2f} %",
            "zero level": f"{100 * row['distance']['chamfer']:.2f} %",
            "ratio": round(row["density"]["chamfer"] / row["distance"]["chamfer"], 2),
            "parameters": f"{row['density']['params']:,} / {row['distance']['params']:,}",
            "PSNR": f"{row['density']['psnr']:.2f} / {row['distance']['psnr']:.2f} dB",
            "training": f"{row['density']['seconds']:.0f} / {row['distance']['seconds']:.0f} s",
        }
        for name, row in stored.items()
    ]
    best = [
        {
            "scene": name,
            "suggested": f"{row['density']['level']:.1f}",
            "there": f"{100 * row['density']['chamfer']:.2f} %",
        }
        | {level: f"{100 * error:.2f} %" for level, error in row["levels"].items()}
        for name, row in stored.items()
    ]
    machine = next(iter(stored.values()))["machine"]
    text = (
        "# Surfaces from photographs\n\n"
        + table(list(rows[0]), rows, markdown=True)
        + "\n\nMade by `python scripts/tables/surfaces.py`: plain radiance fields (`scenes/demo.yaml`) and surface\n"
        "fields (`scenes/demo_surface.yaml`), both for as many steps on the same photographs with alpha, of 100×100\n"
        "pixels for the demo and 128×128 for meshes painted with stripes. Chamfer distance in percent of half the\n"
        "box: the mean over points of each surface that a training camera sees, of their exact distance to the other.\n"
        f"The aim is a ratio of 3. Single runs, seed 0, {machine['cpu']}, {machine['threads']} thread,\n"
        f"torch {machine['torch']}, beside other work: times are rough.\n\n"
        "## The suggested level of a density\n\n"
        + table(list(best[0]), best, markdown=True)
        + "\n\nThe level that a density mesh gets without `--level`, and its Chamfer distance beside those of other\n"
        "levels, all as density × half the box.\n\n"
        "![Truth, density mesh, zero level](surfaces.png)\n\n"
        "## What it does not tell\n\n"
        "The two fields are as their scene files have them, and not of one size: the density's is the small sine\n"
        "network, the distance's a hash grid. The surface starts as the visual hull: what that fills between\n"
        "objects, as on the demo's table of toys, tends to be painted rather than carved away. Nothing here was\n"
        "trained without masks. The share of light at which a level is suggested, and how many samples the surface\n"
        "fields' rays have and how firmly slopes of 1 are asked for, were chosen on the demo and Spot.\n"
    )
    write_text(STORE.with_suffix(".md"), text)
    pictures = [Image.open(WORK / f"{name}.png") for name in stored if (WORK / f"{name}.png").exists()]
    whole = Image.new("RGB", (3 * SIDE, SIDE * len(pictures)))
    for i, part in enumerate(pictures):
        whole.paste(part, (0, SIDE * i))
    whole.save(STORE.with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
