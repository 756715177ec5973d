"""Small captures written from known cameras, by the formats' descriptions and not by the package."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from sinefield.cameras.cameras import orbit

PARAMETERS = {
    "SIMPLE_PINHOLE": (10.0, 6.5, 4.0),
    "PINHOLE": (10.0, 11.0, 6.5, 4.0),
    "SIMPLE_RADIAL": (10.0, 6.5, 4.0, 0.05),
    "RADIAL": (10.0, 6.5, 4.0, 0.05, -0.02),
    "OPENCV": (10.0, 11.0, 6.5, 4.0, 0.05, -0.02, 0.003, -0.004),
    "OPENCV_FISHEYE": (10.0, 11.0, 6.5, 4.0, 0.05, -0.02, 0.004, -0.001),
    "FULL_OPENCV": (10.0, 11.0, 6.5, 4.0, 0.05, -0.02, 0.003, -0.004, 0.01, 0.02, 0.03, 0.004),
    "FOV": (10.0, 11.0, 6.5, 4.0, 0.8),
    "SIMPLE_RADIAL_FISHEYE": (10.0, 6.5, 4.0, 0.05),
    "RADIAL_FISHEYE": (10.0, 6.5, 4.0, 0.05, -0.02),
    "THIN_PRISM_FISHEYE": (10.0, 11.0, 6.5, 4.0, 0.05, -0.02, 0.003, -0.004, 0.01, 0.002, 0.003, -0.001),
    "SIMPLE_FISHEYE": (10.0, 6.5, 4.0),
    "FISHEYE": (10.0, 11.0, 6.5, 4.0),
    "EUCM": (10.0, 11.0, 6.5, 4.0, 0.6, 1.1),
}
NUMBERS = {name: number for number, name in enumerate(PARAMETERS)} | {
    "OPENCV_FISHEYE": 5, "FULL_OPENCV": 6, "FOV": 7, "SIMPLE_RADIAL_FISHEYE": 8, "RADIAL_FISHEYE": 9,
    "THIN_PRISM_FISHEYE": 10, "SIMPLE_FISHEYE": 14, "FISHEYE": 15, "EUCM": 16,
}  # fmt: skip
BY_HAND = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
SIZE = 12, 8
POINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 3))


def poses(n: int) -> np.ndarray:
    """(n, 3, 4) OpenGL camera to world, around the origin at a distance of 4."""
    return orbit(n, (0.1, -0.2, 0.0), 4.0, 20.0).double().numpy()


def names(n: int) -> list[str]:
    return [f"view {index:02d}.png" for index in range(n)]


def write_images(folder: Path, files: list[str], size: tuple[int, int] = SIZE) -> None:
    for index, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)


def observe(c2w: np.ndarray, model: str) -> np.ndarray:
    """(40, 2) where COLMAP's camera sees POINTS."""
    flip = c2w[:, :3] @ np.diag([1, -1, -1])
    x, y, z = ((POINTS - c2w[:, 3]) @ flip).T
    assert (z > 0).all()
    if model not in BY_HAND:
        pycolmap = pytest.importorskip("pycolmap")
        camera = pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=PARAMETERS[model])
        return camera.img_from_cam(np.stack([x, y, z], 1))
    x, y, r2 = x / z, y / z, (x * x + y * y) / z**2
    values = PARAMETERS[model]
    fx, fy, cx, cy, *lens = values if model in ("PINHOLE", "OPENCV") else (values[0], *values)
    k1, k2, p1, p2 = [*lens, 0, 0, 0, 0][:4]
    radial = 1 + k1 * r2 + k2 * r2**2
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return np.stack([u * fx + cx, v * fy + cy], 1)


def write_model(
    folder: Path, c2w: np.ndarray, model: str = "OPENCV", text: bool = False, files: list[str] | None = None,
    size: tuple[int, int] = SIZE,
) -> Path:  # fmt: skip
    """A sparse model in which every camera sees every one of POINTS; image i has the number 7 + 2 i."""
    folder.mkdir(parents=True, exist_ok=True)
    files = files or names(len(c2w))
    camera, images, points = (3, NUMBERS[model], *size, *PARAMETERS[model]), [], []
    for index, (pose, name) in enumerate(zip(c2w, files, strict=True)):
        rotation = (pose[:, :3] @ np.diag([1.0, -1, -1])).T
        q = Rotation.from_matrix(rotation).as_quat()
        images.append((7 + 2 * index, *q[[3, 0, 1, 2]], *(-rotation @ pose[:, 3]), name, observe(pose, model)))
    for index, point in enumerate(POINTS):
        points.append((100 + index, *point, 1, 2, 3, 0.5, [(7 + 2 * i, index) for i in range(len(c2w))]))
    if text:
        lines = ["# Camera list", "# Number of cameras: 1", " ".join(map(str, (3, model, *camera[2:])))]
        (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = [f"# Number of images: {len(images)}, mean observations per image: 40"]
        for *pose, name, seen in images:
            lines.append(" ".join(map(repr, map(float, pose))).replace(".0 ", " ", 1) + f" 3 {name}")
            lines.append(" ".join(f"{x!r} {y!r} {100 + i}" for i, (x, y) in enumerate(seen.tolist())))
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        lines = [f"# Number of points: {len(points)}, mean track length: {len(images)}"]
        for number, x, y, z, *rest, track in points:
            lines.append(" ".join(map(str, (number, float(x), float(y), float(z), *rest, *np.ravel(track).tolist()))))
        (folder / "points3D.txt").write_text("\n".join(lines) + "\n")
        return folder
    (folder / "cameras.bin").write_bytes(struct.pack(f"<QIiQQ{len(PARAMETERS[model])}d", 1, *camera))
    content = struct.pack("<Q", len(images))
    for number, *pose, name, seen in images:
        content += struct.pack("<I7dI", number, *pose, 3) + name.encode() + b"\0" + struct.pack("<Q", len(seen))
        content += b"".join(struct.pack("<ddQ", x, y, 100 + i) for i, (x, y) in enumerate(seen.tolist()))
    (folder / "images.bin").write_bytes(content)
    content = struct.pack("<Q", len(points))
    for *point, track in points:
        content += struct.pack("<Q3d3BdQ", *point, len(track)) + np.array(track, dtype="<u4").tobytes()
    (folder / "points3D.bin").write_bytes(content)
    return folder


def llff_rows(c2w: np.ndarray, focal: float = 10.0, near: float = 2.0, far: float = 6.0) -> np.ndarray:
    rows = []
    for pose in c2w:
        right, up, back, position = pose.T
        matrix = np.stack([-up, right, back, position, [SIZE[1], SIZE[0], focal]], 1)
        rows.append([*matrix.ravel(), near, far])
    return np.array(rows)
