"""Reading the camera paths that nerfstudio's viewer and Blender add-on write as JSON.

`camera_path` lists frames with `camera_to_world` (16 numbers, a 4 x 4 matrix row by row, OpenGL axes), `fov` (vertical,
in degrees) and `aspect`; beside it stand `render_width`, `render_height`, `fps` and `seconds`. Source: the viewer that
writes it (nerfstudio/viewer/render_panel.py) and its reader (nerfstudio/cameras/camera_paths.py), in
github.com/nerfstudio-project/nerfstudio.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sinefield.cameras.cameras import LARGEST, Cameras, rigid
from sinefield.cameras.orbits import pinholes
from sinefield.errors import SinefieldError, shown
from sinefield.files import read_bytes
from sinefield.json_text import from_json

MAX_BYTES = 100_000_000
MAX_SIDE = 16384
NORMALISATION = "dataparser_transforms.json"
"""What nerfstudio writes beside its models: world = Rᵀ(x / scale − t) of its own coordinates x."""


def read_camera_path(
    path: str | Path,
    size: tuple[int | None, int | None] = (None, None),
    origin: Float[np.ndarray, "3"] | None = None,
) -> tuple[Cameras, float | None]:
    """The cameras of a path and its frames a second, None where the file says neither `fps` nor `seconds`.

    Poses are taken as they are, unless the file `dataparser_transforms.json` of the nerfstudio model lies beside the
    path: then they are brought back from that model's coordinates into the data's.

    Arguments:
        path: the JSON file.
        size: width and height in pixels instead of the file's; what is None follows from the other.
        origin: taken off the positions in double precision; nothing when None.

    Raises:
        SinefieldError: missing, no JSON, another tool's JSON, no frames, numbers that make no sense, a camera that is
            no perspective one.
    """
    content = _load(path)
    poses, angles, aspects = zip(*_frames(content, path), strict=True)
    own = _size(content, aspects[0], path)
    world = _denormalised(np.stack(poses), Path(path))
    if origin is not None:
        world[:, :, 3] -= origin
    cameras = pinholes(torch.from_numpy(world), 1.0, own, size)
    # The angle is the height's, pixels are square.
    focal = cameras.height / 2 / torch.tan(torch.deg2rad(torch.tensor(angles)) / 2)
    return replace(cameras, focal=focal[:, None].repeat(1, 2)), _fps(content, len(poses), path)


def _frames(content: dict[str, Any], path: str | Path) -> list[tuple[np.ndarray, float, float]]:
    """Pose, vertical angle in degrees, and aspect of each frame."""
    listed = content.get("camera_path")
    if not isinstance(listed, list):
        kind = next((tool for key, tool in OTHERS.items() if key in content), "another tool's file")
        raise SinefieldError(f"{path}: has no list 'camera_path' ({kind}); give a camera path saved by nerfstudio")
    if not listed:
        raise SinefieldError(f"{path}: camera_path is empty; save the path with at least one frame")
    kind = content.get("camera_type", "perspective")
    if not isinstance(kind, str) or kind.lower() != "perspective":
        raise SinefieldError(f"{path}: camera_type is {kind!r}; only 'perspective' can be rendered")
    usual = content.get("default_fov")
    return [_frame(entry, usual, f"{path}: camera_path[{index}]") for index, entry in enumerate(listed)]


def _frame(entry: Any, usual_fov: Any, where: str) -> tuple[np.ndarray, float, float]:
    if not isinstance(entry, dict):
        raise SinefieldError(f"{where} is no object; save the path anew")
    pose = rigid(_matrix(entry.get("camera_to_world"), f"{where}.camera_to_world"), where)
    angle = _number(entry.get("fov", usual_fov), f"{where}.fov", 0, 179)
    return pose, angle, _number(entry.get("aspect", 1.0), f"{where}.aspect", 0, 1e4)


def _size(content: dict[str, Any], aspect: float, path: str | Path) -> tuple[int, int]:
    """Width and height in pixels."""
    height, width = content.get("render_height"), content.get("render_width")
    height = _number(512 if height is None else height, f"{path}: render_height", 0, MAX_SIDE)
    width = _number(height * aspect if width is None else width, f"{path}: render_width", 0, MAX_SIDE)
    return max(round(width), 1), max(round(height), 1)


def _fps(content: dict[str, Any], frames: int, path: str | Path) -> float | None:
    fps = content.get("fps")
    if fps is None and content.get("seconds") is not None:
        fps = frames / _number(content["seconds"], f"{path}: seconds", 0, 1e6)
    return None if fps is None else _number(fps, f"{path}: fps", 0, 1000)


OTHERS = {
    "frames": "a transforms.json lists photographs, not a path",
    "path": "instant-ngp's path",
    "keyframes": "keyframes without the path between them",
}


def _load(path: str | Path) -> dict[str, Any]:
    data = read_bytes(path, MAX_BYTES, "camera path")
    try:
        content = from_json(data)
    except ValueError as error:
        raise SinefieldError(f"{path}: is not JSON ({str(error)[:60]}); give nerfstudio's camera path") from error
    if not isinstance(content, dict):
        raise SinefieldError(f"{path}: holds a {type(content).__name__}, not nerfstudio's camera path")
    return content


def _matrix(value: Any, where: str) -> Float[np.ndarray, "3 4"]:
    """The upper three rows, however nested the numbers are."""
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        numbers = np.zeros(0)
    if numbers.size not in (12, 16) or not (np.abs(numbers) < LARGEST).all():
        raise SinefieldError(f"{where} should be 16 finite numbers, a 4 x 4 matrix row by row; save the path anew")
    return numbers.reshape(-1, 4)[:3]


def _number(value: Any, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise SinefieldError(f"{where} is {shown(value)}; should be a number")
    if not low < value <= high:
        raise SinefieldError(f"{where} is {shown(value)}; should be above {low:g} and at most {high:g}")
    return float(value)


def _denormalised(poses: np.ndarray, path: Path) -> np.ndarray:
    """Poses in the data's world, where nerfstudio's file says how it left that."""
    beside = path.parent / NORMALISATION
    if not beside.is_file():
        return poses
    content = _load(beside)
    matrix = rigid(_matrix(content.get("transform"), f"{beside}: transform"), str(beside))
    scale = _number(content.get("scale"), f"{beside}: scale", 0, LARGEST)
    rotated = matrix[:, :3].T @ poses[:, :, :3]
    moved = (poses[:, :, 3] / scale - matrix[:, 3]) @ matrix[:, :3]
    return np.concatenate([rotated, moved[:, :, None]], 2)
