"""Depth maps of a field, as sensors and other programs have them."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16
from PIL import Image
from tqdm import tqdm

from sinefield.cameras.cameras import Cameras
from sinefield.errors import SinefieldError
from sinefield.export.mesh import load_shown
from sinefield.export.sights import SOLID, sights
from sinefield.export.video_files import check_folder
from sinefield.fields.base import kind_of
from sinefield.fields.origins import origin_of
from sinefield.files import atomic_folder, write_text
from sinefield.json_text import to_json

VIEWS, MOST, LONGEST = 100, 10_000, 4096
OURS = re.compile(r"\d{4,}\.png|depths\.json")
STEPS = 65_535
"""Of 16 bits; 0 says that nothing is there."""


def export_depth(
    run: str | Path,
    out: str | Path,
    count: int = VIEWS,
    data: str | None = None,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write depth maps of a field; returns run, out, kind, views, unit, nearest, farthest, notes, seconds.

    `out` becomes a folder of 16-bit grey pictures 0000.png … and `depths.json`, which has their unit and cameras. A
    value times the unit is the depth along the camera's axis in the input's units of length; 0 is where the field is
    less than half opaque. The unit is a power of ten, one for all: the smallest with which the farthest fits.

    Arguments:
        count: views at most: of a field of photographs evenly chosen training views, else of turns around it.
        data: the photographs of a `.sine` file that does not name them.

    Raises:
        SinefieldError: a count out of range, a folder that holds something else, nothing opaque is seen; see
            `load_shown` and `sights`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_depth("example:knot", Path(folder) / "depths", 4)
        >>> report["views"]
        4
    """
    out, begin = Path(out), time.perf_counter()
    if not 1 <= count <= MOST:
        raise SinefieldError(f"--count {count}: 1 to {MOST:,} views")
    check_folder(out, OURS, "a depth map of ours", overwrite)
    field = load_shown(run, adapters)
    painter = kind_of(field).painter(field)
    seen = sights(run, field, painter, count, LONGEST, data, adapters)
    depths = []
    for i in tqdm(range(len(seen.cameras)), desc="views", unit="view"):
        layers = painter.layers(seen.cameras, i)
        along = axis_depths(seen.cameras, i, layers.depths)
        depths.append(np.where((layers.opacities >= SOLID) & np.isfinite(along), along, 0).astype(np.float32))
    farthest = max(float(depth.max()) for depth in depths)
    if not farthest > 0:
        raise SinefieldError(f"{run}: no camera sees anything opaque in it; train it longer")
    unit = 10.0 ** np.ceil(np.log10(farthest / STEPS))
    names = [f"{i:04d}.png" for i in range(len(depths))]
    with atomic_folder(out) as build:
        for name, depth in zip(names, depths, strict=True):
            Image.fromarray(in_steps(depth, unit)).save(build / name)
        write_text(
            build / "depths.json", to_json(_listed(seen.cameras, names, unit, origin_of(field)), indent=1) + "\n"
        )
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "views": len(depths),
        "unit": unit,
        "nearest": min(float(depth[depth > 0].min()) for depth in depths if (depth > 0).any()),
        "farthest": farthest,
        "notes": [seen.note],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def axis_depths(cameras: Cameras, index: int, distances: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Depths along camera `index`'s axis of what is at these distances along its rays."""
    forward = -cameras.c2w[index, :, 2].double().numpy()
    cosines = cameras.view(index)[1].double().numpy() @ forward
    return distances.astype(float) * cosines.reshape(distances.shape)


def in_steps(depth: Float[np.ndarray, "h w"], unit: float) -> UInt16[np.ndarray, "h w"]:
    """Depths as whole numbers of units; what is there is 1 at least."""
    return np.where(depth > 0, np.clip(np.round(depth / unit), 1, STEPS), 0).astype(np.uint16)


def _listed(cameras: Cameras, names: Sequence[str], unit: float, origin: Float[np.ndarray, "3"]) -> dict[str, Any]:
    """As a transforms.json has cameras: axes OpenGL's, lengths in pixels."""
    poses = cameras.c2w.double().numpy()
    poses[:, :, 3] += origin
    frames = [
        {
            "depth_file_path": name,
            "fl_x": float(cameras.focal[i, 0]),
            "fl_y": float(cameras.focal[i, 1]),
            "cx": float(cameras.centre[i, 0]),
            "cy": float(cameras.centre[i, 1]),
            "transform_matrix": [*poses[i].tolist(), [0.0, 0.0, 0.0, 1.0]],
        }
        for i, name in enumerate(names)
    ]
    head = {"depth_unit_scale_factor": unit, "camera_model": "PINHOLE", "w": cameras.width, "h": cameras.height}
    return head | {"frames": frames}
