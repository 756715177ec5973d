"""What readers of real captures share: folders of images at several sizes, and checks on the cameras found."""

import re
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.lib import format as npy

from sinefield.cameras.cameras import LARGEST
from sinefield.errors import SinefieldError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
# Cameras nearer to each other than this share of the nearest depth see no parallax: 0.3 pixels at a focal length of
# 3000.
SPREAD = 1e-4
# Where no depth is known, cameras nearer than this share of their distance to the origin differ by rounding alone.
ROUNDING = 1e-9
# Cameras whose axes lie closer than 60° to their mean axis all look one way.
FORWARD = 0.5


def npy_header(stream: BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by columns, and type that a .npy stream claims; raises nearly anything where it is damaged."""
    version = npy.read_magic(stream)
    return {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](stream)


def image_names(folder: Path) -> list[str]:
    """Image files below a folder, as sorted relative paths with forward slashes; hidden ones left out."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(name.as_posix() for name in files if not any(part.startswith(".") for part in name.parts))


def image_folders(root: Path) -> dict[int, Path]:
    """{1: root/images, K: root/images_K, …}, those that exist and hold images; {1: root} if only root itself does."""
    found = {}
    for folder in sorted(root.glob("images*")):
        match = re.fullmatch(r"images(?:_([1-9]\d{0,3}))?", folder.name)
        if match and folder.is_dir() and image_names(folder):
            found.setdefault(int(match[1] or 1), folder)
    if not found and any(file.suffix.lower() in SUFFIXES for file in root.glob("*")):
        return {1: root}
    return found


def choose_folder(root: Path, downscale: int) -> tuple[int, Path]:
    """(K, folder) of the images to average down to 1/downscale: the largest reduction K that divides it.

    Raises:
        SinefieldError: there are no images, or none that downscale / K whole blocks bring to that size.
    """
    folders = image_folders(root)
    if not folders:
        raise SinefieldError(f"{root}: has no folder 'images' or 'images_K' with images in it; add the photographs")
    fitting = [k for k in folders if downscale % k == 0]
    if not fitting:
        there = ", ".join(folders[k].name for k in sorted(folders))
        raise SinefieldError(
            f"{root}: downscale {downscale} cannot be made from {there}; use a multiple of "
            f"{' or '.join(str(k) for k in sorted(folders))}, or add the folder 'images' of the full size"
        )
    return max(fitting), folders[max(fitting)]


def check_bounds(near: float, far: float, where: str) -> None:
    """Raise SinefieldError unless 0 < near < far, both finite and below LARGEST."""
    if not 0 < near < far < LARGEST:
        raise SinefieldError(f"{where}: near {near:g}, far {far:g}; must be finite with 0 < near < far; mend the poses")


def check_spread(positions: Float[np.ndarray, "n 3"], near: float | None, source: Path) -> None:
    """Refuse two or more cameras that all stand in one spot, (n, 3) world units: no depth can be learned from them."""
    spread = float(np.ptp(positions, 0).max())
    least = ROUNDING * float(np.abs(positions).max()) if near is None else SPREAD * near
    if len(positions) > 1 and spread <= least:
        raise SinefieldError(f"{source}: all {len(positions)} cameras stand in one spot; reconstruct the poses again")


def frustum_corners(
    c2w: Float[np.ndarray, "n 3 4"],
    lens: Float[np.ndarray, "n 4"],
    size: Int[np.ndarray, "n 2"],
    depth: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "n 4 3"]:
    """The four corners of each camera's view at a depth along its axis, without distortion.

    Arguments:
        c2w: (n, 3, 4) camera to world, OpenGL axes.
        lens: (n, 4) fx, fy, cx, cy in pixels.
        size: (n, 2) w, h in pixels.
        depth: (n,) world units.

    Returns:
        (n, 4, 3) world units.
    """
    pixels = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * size[:, None]
    plane = (pixels - lens[:, None, 2:]) / lens[:, None, :2]
    local = np.concatenate([plane * [1, -1], np.full((*plane.shape[:2], 1), -1.0)], -1) * depth[:, None, None]
    return np.einsum("nij,nkj->nki", c2w[:, :, :3], local) + c2w[:, None, :, 3]
