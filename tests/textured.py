"""Photographs of a textured corner of a room from known cameras: what COLMAP can place, drawn by NumPy alone."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 240, 180
FOCAL = 220.0
MIDDLE = (0.8, 0.8, 0.8)


def texture(seed: int, side: int = 512) -> np.ndarray:
    """(side, side, 3) from 0 to 1: noise of many scales, which SIFT finds corners in."""
    random, total = np.random.default_rng(seed), np.zeros((side, side, 3))
    for cells in (8, 16, 32, 64, 128):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float)
    return np.clip((total / 5 - 128) / 90 + 0.5, 0, 1)


def arc(n: int, degrees: float = 50.0, distance: float = 3.2) -> np.ndarray:
    """(n, 3, 4) cameras on an arc before the corner at the origin, OpenGL, at changing heights."""
    angles = np.radians(45 + np.linspace(-degrees / 2, degrees / 2, n))
    heights = 1.2 + 0.5 * np.sin(np.arange(n) * 1.3)
    places = np.stack([distance * np.cos(angles), distance * np.sin(angles), heights], 1)
    return np.stack([turned_to(place, MIDDLE) for place in places])


def spin(n: int, degrees: float = 40.0) -> np.ndarray:
    """(n, 3, 4) cameras that all stand in one spot and turn."""
    place = np.array([2.4, 2.4, 1.3])
    angles = np.radians(225 + np.linspace(-degrees / 2, degrees / 2, n))
    return np.stack([turned_to(place, place + np.array([np.cos(a), np.sin(a), -0.15])) for a in angles])


def turned_to(place, target) -> np.ndarray:
    """(3, 4) a camera at `place` that sees `target` in its middle, z up."""
    back = np.asarray(place, float) - target
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0, 1], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back, place], 1)


def photograph(c2w: np.ndarray, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(h, w, 3) uint8: the planes x = 0, y = 0 and z = 0, each with a texture, seen from where all are positive."""
    width, height = size
    x, y = np.meshgrid((np.arange(2 * width) + 0.5) / 2, (np.arange(2 * height) + 0.5) / 2)
    local = np.stack([(x - width / 2) / FOCAL, (height / 2 - y) / FOCAL, -np.ones_like(x)], -1)
    rays, origin = local @ c2w[:, :3].T, c2w[:, 3]
    with np.errstate(divide="ignore"):
        depth = np.where(rays < 0, -origin / rays, np.inf)
    nearest = depth.argmin(-1)
    points = origin + rays * depth.min(-1, keepdims=True)
    image = np.zeros((*nearest.shape, 3))
    for axis in range(3):
        here = nearest == axis
        plane = np.delete(points[here], axis, 1)
        drawn = texture(10 * seed + axis)
        row, column = (np.floor(plane * 160).astype(int) % len(drawn)).T
        image[here] = drawn[row, column]
    image = image.reshape(height, 2, width, 2, 3).mean((1, 3))
    return (image * 255).round().astype(np.uint8)


def write_photographs(folder: Path, c2w: np.ndarray, seed: int = 0, prefix: str = "") -> list[str]:
    """One PNG a camera; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{prefix}{index:02d}.png" for index in range(len(c2w))]
    for name, pose in zip(names, c2w, strict=True):
        Image.fromarray(photograph(pose, seed)).save(folder / name)
    return names


def misplacement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """How far cameras are off after the best similarity: share of the true cameras' extent, and degrees."""
    a, b = found[:, :, 3], truth[:, :, 3]
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, s, vt = np.linalg.svd(b0.T @ a0)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation, scale = u @ flip @ vt, (s * np.diag(flip)).sum() / (a0**2).sum()
    off = np.linalg.norm(scale * a0 @ rotation.T - b0, axis=1).max() / np.linalg.norm(np.ptp(b, 0))
    between = np.einsum("nji,jk,nkl->nil", truth[:, :, :3], rotation, found[:, :, :3])
    cosine = (np.trace(between, axis1=1, axis2=2) - 1) / 2
    return float(off), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).max())
