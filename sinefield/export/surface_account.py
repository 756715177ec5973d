"""What `sinefield inspect` says and draws of a mesh or a point cloud."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinefield.cameras.cameras import look_at
from sinefield.config import ShapeConfig, load_config
from sinefield.data.made.synthetic import render_views
from sinefield.data.surfaces.account import account, as_text
from sinefield.data.surfaces.mesh_files import EXTENSIONS
from sinefield.data.surfaces.surface import Surface, load_surface
from sinefield.errors import SinefieldError
from sinefield.files import check_output
from sinefield.pictures import save_png

SIDE = 480
"""Pixels of each of the two views."""
POINTS = 60_000
"""Points of a cloud that are drawn."""


def surface_named(given: str | Path) -> Path | None:
    """The file of a mesh or a cloud that is named, by itself or in a scene file of a shape; None for anything else."""
    path = Path(given)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        config = load_config(path)
        return Path(config.data.path) if isinstance(config, ShapeConfig) else None
    pose_file = path.name in ("poses_bounds.npy", "images.txt", "cameras.txt") or path.suffix == ".json"
    return path if path.suffix.lower() in EXTENSIONS and not path.is_dir() and not pose_file else None


def inspect_surface(path: str | Path, out: str | Path | None, overwrite: bool) -> tuple[dict[str, Any], str]:
    """`data.surfaces.account.account` of a file, and the same as text; `out` gets a picture.

    Raises:
        SinefieldError: what `load_surface` refuses; `out` exists or has an unknown suffix.
    """
    if out is not None:
        if Path(out).suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise SinefieldError(f"{out}: unknown kind of picture of a mesh; choose .png or .jpg")
        check_output(out, overwrite)
    surface = load_surface(path)
    found = account(surface)
    if out is not None:
        save_png(Path(out), picture(surface))
        found["picture"] = str(out)
    return found, as_text(found)


def picture(surface: Surface) -> np.ndarray:
    """Two views, from before and from behind, in the surface's own colours; a cloud as its points."""
    import trimesh

    low, high = surface.aabb[:3], surface.aabb[3:]
    diagonal = float(np.linalg.norm(high - low))
    eyes = (low + high) / 2 + diagonal * np.array([[0.75, 0.45, 1.3], [-0.75, 0.45, -1.3]])
    poses = look_at(torch.from_numpy(eyes), torch.from_numpy((low + high) / 2), (0.0, 1.0, 0.0)).numpy()
    if surface.faces is None:
        return np.concatenate([_points(surface, pose) for pose in poses], axis=1)
    corners = surface.vertices[surface.faces].reshape(-1, 3)
    colours = np.full((len(corners), 3), 0.8)
    if surface.paint is not None:
        faces = np.repeat(np.arange(len(surface.faces)), 3)
        colours = surface.paint.at(faces, np.tile(np.eye(3), (len(surface.faces), 1)))
    mesh = trimesh.Trimesh(
        corners,
        np.arange(len(corners)).reshape(-1, 3),
        vertex_colors=(255 * colours).round().astype(np.uint8),
        process=False,
    )
    views = render_views(mesh, poses, SIDE, SIDE, focal=1.35 * SIDE, samples=2, up=(0, 1, 0))
    alpha = views[..., 3:].astype(np.float32) / 255
    return np.concatenate(list((views[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)), axis=1)


def _points(surface: Surface, pose: np.ndarray) -> np.ndarray:
    """One view of a cloud: the nearest point in each pixel, lit from the eye."""
    chosen = np.random.default_rng(0).permutation(len(surface.vertices))[:POINTS]
    points, normals = surface.vertices[chosen], surface.cloud_normals()[chosen]
    local = (points - pose[:, 3]) @ pose[:, :3]
    light = np.clip(0.35 + 0.65 * (normals @ pose[:, 2]), 0.1, 1)
    colours = np.full((len(points), 3), 110.0) if surface.colours is None else surface.colours[chosen].astype(float)
    x = (SIDE / 2 - 1.35 * SIDE * local[:, 0] / local[:, 2]).astype(int)
    y = (SIDE / 2 + 1.35 * SIDE * local[:, 1] / local[:, 2]).astype(int)
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    order = np.argsort(local[:, 2])  # the farthest first: the camera looks along -z
    for shift in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = (y[order] + shift[0]).clip(0, SIDE - 1), (x[order] + shift[1]).clip(0, SIDE - 1)
        image[row, column] = (colours * light[:, None])[order]
    return image
