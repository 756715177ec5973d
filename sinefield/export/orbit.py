"""A trained field into a video of one turn around it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sinefield.data.cameras import orbit
from sinefield.data.orbits import orbit_cameras
from sinefield.errors import SinefieldError
from sinefield.export.field_mesh import extract_field, load_spatial
from sinefield.export.video import check_video_path, colourise_depth, write_video
from sinefield.fields.radiance import RadianceField
from sinefield.fields.shape import ShapeField

MAX_SIDE = 4096
SHAPE_SIZE = 256
SHAPE_RESOLUTION = 192


def export_video(
    run: str | Path,
    out: str | Path,
    frames: int = 90,
    fps: float = 30,
    size: tuple[int | None, int | None] = (None, None),
    elevation: float | None = None,
    channel: str = "rgb",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Render one turn of a run's field to a video; returns run, out, frames, width, height, seconds.

    A radiance field is seen from the mean distance, elevation and focal length of its training cameras, up being
    theirs; a shape field as its shaded surface, up being y.

    Raises:
        SinefieldError: see `write_video` and `load_field`; a size or count out of range.
    """
    check_video_path(out, overwrite)
    if not 1 <= frames <= 10_000 or not 0.1 <= fps <= 240:
        raise SinefieldError(f"{frames} frames at {fps} a second; 1 to 10,000 frames and 0.1 to 240 a second")
    for side in size:
        if side is not None and not 8 <= side <= MAX_SIDE:
            raise SinefieldError(f"a video {side} pixels wide or high; 8 to {MAX_SIDE}")
    begin = time.perf_counter()
    field = load_spatial(run)
    if isinstance(field, RadianceField):
        width, height, images = _radiance(field, frames, size, elevation, channel)
    elif channel != "rgb":
        raise SinefieldError(f"channel {channel} is for radiance fields; leave it out for a shape")
    else:
        width, height, images = _shape(field, frames, size, 20.0 if elevation is None else elevation)
    progress = tqdm(images, total=frames, desc="video", unit="frame", leave=False, disable=None)
    write_video(out, (image for image in progress), fps=fps, overwrite=overwrite, n_frames=frames)
    seconds = time.perf_counter() - begin
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "frames": frames,
        "width": width,
        "height": height,
        "seconds": round(seconds, 2),
        "frames_per_second": round(frames / seconds, 2),
    }


def _radiance(
    field: RadianceField, frames: int, size: tuple[int | None, int | None], elevation: float | None, channel: str
) -> tuple[int, int, Iterator[np.ndarray]]:
    path = orbit_cameras(field.view, frames, size, elevation)
    width, height, distance = path.width, path.height, float(field.view[6])
    half = float((field.aabb[3:] - field.aabb[:3]).norm()) / 2

    def images() -> Iterator[np.ndarray]:
        for i in range(frames):
            pixels = field.render(*path.view(i))
            if channel == "depth":
                depth = (pixels.depths / pixels.opacities.clamp(min=1e-6)).view(height, width).numpy()
                opacity = pixels.opacities.view(height, width).numpy()
                yield colourise_depth(depth, opacity, max(distance - half, 0.0), distance + half)
            else:
                image = pixels.over(field.background).clamp(0, 1).view(height, width, 3)
                yield (image * 255).round().to(torch.uint8).numpy()

    return width, height, images()


def _shape(
    field: ShapeField, frames: int, size: tuple[int | None, int | None], elevation: float
) -> tuple[int, int, Iterator[np.ndarray]]:
    import trimesh

    from sinefield.data.synthetic import Raycaster

    width = size[0] or size[1] or SHAPE_SIZE
    height = size[1] or width
    vertices, faces, _ = extract_field(field, SHAPE_RESOLUTION)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    caster = Raycaster(mesh, up=(0, 1, 0))
    low, high = field.aabb[:3], field.aabb[3:]
    radius = float((high - low).norm()) / 2
    focal = 1.35 * min(width, height)
    distance = radius * float(np.hypot(2 * focal, min(width, height))) / min(width, height) * 1.02
    poses = orbit(frames, ((low + high) / 2).tolist(), distance, elevation, (0.0, 1.0, 0.0)).numpy()

    def images() -> Iterator[np.ndarray]:
        for pose in poses:
            rgba = caster.view(pose, width, height, focal, samples=2)
            alpha = rgba[..., 3:].astype(np.float32) / 255
            yield (rgba[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)

    return width, height, images()
