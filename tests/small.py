"""Small analytic data and the settings that learn it in seconds."""

import json
import math

import numpy as np
import torch
import trimesh
from PIL import Image

from sinefield.cameras.cameras import orbit
from sinefield.config import make_config

CENTRE, RADIUS = np.array([100.0, -3.0, 7.0]), 2.5
SINE = {"phase": 2.5, "bound": 1.0}
"""The first paper's sine: scores of so small fields have been measured with it."""


def write_ball(folder):
    """A sphere far from the origin, as a file."""
    path = folder / "ball.ply"
    mesh = trimesh.creation.icosphere(4, radius=RADIUS)
    mesh.apply_translation(CENTRE)
    mesh.export(path)
    return path


def write_photographs(folder):
    """A two-coloured ball of radius 1 drawn in closed form, in Blender's format, with alpha."""
    size, angle = 32, 0.8
    focal = size / 2 / math.tan(angle / 2)
    for split, n, turn in (("train", 24, 0.0), ("test", 3, 25.0)):
        frames = []
        (folder / split).mkdir()
        elevations = torch.linspace(-50, 70, n)
        for i, pose in enumerate(orbit(n, radius=4.0, elevation_degrees=elevations, start_degrees=turn, turns=3.0)):
            y, x = np.mgrid[0:size, 0:size] + 0.5
            local = np.stack([(x - size / 2) / focal, (size / 2 - y) / focal, -np.ones_like(x)], -1)
            d = local @ pose[:, :3].numpy().T
            d /= np.linalg.norm(d, axis=-1, keepdims=True)
            o = pose[:, 3].numpy()
            b = d @ o
            hit = b**2 - o @ o + 1 > 0
            point = o + (-b - np.sqrt(np.maximum(b**2 - o @ o + 1, 0)))[..., None] * d
            rgb = np.where(point[..., 2:] > 0, [230, 60, 40], [40, 80, 220]) * hit[..., None]
            rgba = np.concatenate([rgb, 255 * hit[..., None]], -1).astype(np.uint8)
            Image.fromarray(rgba).save(folder / split / f"r_{i}.png")
            matrix = np.vstack([pose.numpy(), [0, 0, 0, 1]]).tolist()
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        text = json.dumps({"camera_angle_x": angle, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    return folder


def shape_config(path, **training):
    return make_config(
        {
            "kind": "shape",
            "data": {"path": str(path), "points": 20_000},
            "field": {"width": 32, "rank": 4, "frequencies": 2, **SINE},
            "training": {"batch": 2048, "chunk": 1024, "adam_lr": 5e-3, **training},
        },
        "test",
    )


def radiance_config(path, **training):
    return make_config(
        {
            "kind": "radiance",
            "data": {"path": str(path)},
            "field": {
                **{"width": 32, "depth": 3, "rank": 4, "frequencies": 4, **SINE},
                **{"grid": 24, "steps": 64, "head_width": 16},
            },
            "training": {"batch": 4096, "chunk": 2048, "adam_lr": 5e-3, **training},
        },
        "test",
    )


def shapes_config(**training):
    return make_config(
        {
            "kind": "shapes",
            "data": {"path": "families:superquadric,blob", "shapes": 4, "held_out": 1},
            "field": {"points": 128, "dim": 32, "tokens": 24, "heads": 2, "blocks": 1, "expand": 2},
            "training": {"batch": 4, "queries": 256, "precision": "fp32", **training},
        },
        "test",
    )
