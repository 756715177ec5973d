"""Scores and pictures of a field of many shapes: each held-out shape found from one scan of it.

Of each shape: IoU on points uniform in its box, with the truth of its formula or mesh; Chamfer distance, F-score and
normal consistency between the mesh found and the true one, from area-uniform samples. Lengths are shares of the shape's
longest side.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sinefield.cameras.cameras import look_at
from sinefield.config import ShapesConfig
from sinefield.data.shape_sets import ShapeSet
from sinefield.data.surfaces.sampling import surface_samples
from sinefield.data.surfaces.surface import Surface
from sinefield.errors import SinefieldError
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.latent.training import Probe
from sinefield.fields.shape.surface import extract_shape
from sinefield.metrics.shapes import chamfer
from sinefield.pictures import save_png

POINTS, SAMPLES = 20_000, 20_000
RESOLUTION = 72
THRESHOLD = 0.02
"""Of the F-score."""
MEANS = ("iou", "chamfer_l1", "chamfer_l2", "fscore", "normal_consistency")
TILE = 220


def score_shapes(
    field: LatentShapeField, config: ShapesConfig, data: ShapeSet, pictures: Path | None
) -> dict[str, Any]:
    """Means over all held-out shapes, over those of each category, and a row for each shape.

    A shape of which no surface was found counts with its IoU, and with an F-score of 0.
    """
    field.set_dtype(torch.float32)
    rows: list[dict[str, Any]] = []
    tiles: dict[str, np.ndarray] = {}
    bar = tqdm(data.held_out, desc="eval", unit=" shapes", leave=False, disable=None)
    for number, entry in enumerate(bar):
        probe = Probe(entry, data.noise, config.field.points, POINTS, number)
        row: dict[str, Any] = {"shape": entry.name, "category": entry.category, "iou": probe.iou(field)}
        mesh = None
        try:
            mesh = extract_shape(field.shape_of(probe.cloud, entry.name), RESOLUTION)[:2]
            row |= surface_scores(*mesh, probe.solid.surface)
        except SinefieldError:
            row["fscore"] = 0.0
        rows.append(row)
        if pictures and entry.category not in tiles:
            tiles[entry.category] = _row(probe, mesh)
    if pictures:
        save_png(pictures / "shapes.png", _sheet(list(tiles.values())))
    by_category = defaultdict(list)
    for row in rows:
        by_category[row["category"]].append(row)
    return {
        **_means(rows),
        "threshold": THRESHOLD,
        "noise": config.data.noise,
        "points": config.field.points,
        "categories": {name: {"shapes": len(some), **_means(some)} for name, some in sorted(by_category.items())},
        "per_shape": rows,
    }


def surface_scores(vertices: np.ndarray, faces: np.ndarray, truth: Surface) -> dict[str, float]:
    """`chamfer` scores of a mesh against the true one, in unit coordinates."""
    mesh = Surface(np.asarray(vertices, np.float64), np.asarray(faces, np.int32), None, None, "mesh", {})
    # Different draws: the same one would find a mesh at distance 0 from itself.
    return chamfer(*surface_samples(mesh, SAMPLES, 1), *surface_samples(truth, SAMPLES, 2), THRESHOLD)


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    found = {key: [row[key] for row in rows if key in row] for key in MEANS}
    return {key: float(np.mean(values)) if values else None for key, values in found.items()}


def _row(probe: Probe, mesh: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """The scan, what was found from it, and the truth, side by side."""
    eye = np.array([[1.0, -1.5, 0.9]])
    pose = look_at(torch.from_numpy(eye), torch.zeros(3, dtype=torch.float64), (0.0, 0.0, 1.0)).numpy()
    truth = probe.solid.surface
    blank = np.full((TILE, TILE, 3), 255, np.uint8)
    assert truth.faces is not None  # a solid has them
    found = blank if mesh is None else _shaded(*mesh, pose)
    return np.concatenate([_dots(probe.cloud, pose[0]), found, _shaded(truth.vertices, truth.faces, pose)], axis=1)


def _shaded(vertices: np.ndarray, faces: np.ndarray, pose: np.ndarray) -> np.ndarray:
    import trimesh

    from sinefield.data.made.synthetic import render_views

    clay = np.tile(np.array([205, 195, 184, 255], np.uint8), (len(vertices), 1))
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=clay, process=False)
    view = render_views(mesh, pose, TILE, TILE, focal=1.35 * TILE, samples=2, up=(0, 0, 1))[0]
    alpha = view[..., 3:].astype(np.float32) / 255
    return (view[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def _dots(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points as dots of 2×2 pixels, nearer ones darker."""
    local = (points - pose[:, 3]) @ pose[:, :3]
    depth = -local[:, 2]
    places = (1.35 * TILE * local[:, :2] / depth[:, None] * (1, -1) + TILE / 2).round().astype(int)
    shade = 60 + 130 * (depth - depth.min()) / max(float(np.ptp(depth)), 1e-9)
    image = np.full((TILE, TILE, 3), 255, np.uint8)
    for i in np.argsort(-depth):
        x, y = places[i].clip(0, TILE - 2)
        image[y : y + 2, x : x + 2] = shade[i]
    return image


def _sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Two rows beside each other, as many below as it takes."""
    blank = np.full_like(rows[0], 255)
    if len(rows) % 2 and len(rows) > 1:
        rows = [*rows, blank]
    step = min(2, len(rows))
    return np.concatenate([np.concatenate(rows[i : i + step], axis=1) for i in range(0, len(rows), step)], axis=0)
