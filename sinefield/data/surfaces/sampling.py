"""Points to train a shape on, with their labels, and points to score it on that training never sees."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sinefield.data.surfaces.sheet import Rim, sheet_values
from sinefield.data.surfaces.surface import Normalisation, Surface, signed_distance, winding_number
from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, cache_folder
from sinefield.tensor_bytes import read_arrays

FORMAT = "sinefield shape samples 1"  # change with anything that changes the samples
SURROUND = 0.09  # field units of empty space sampled around the object's box
RIM_SHARE = 0.15
"""Share of the points near a sheet that are drawn near its rim, where it has one."""
SHELL = 0.003
"""Shares of the box's diagonal within which a place belongs to a sheet's shell, which sheets are scored by."""
JUDGED_SEED, REPORTED_SEED = 1_000_003, 1_000_004
"""Of held-out points: those that decisions are made by, and those that are reported. No two alike, and far from any
training seed a user picks."""


_stored: ContextVar[bool] = ContextVar("stored", default=True)


@contextmanager
def samples_not_stored() -> Iterator[None]:
    """Within, `sample_shape` keeps nothing on disk: where shapes are met once, it would only fill it."""
    token = _stored.set(False)
    try:
        yield
    finally:
        _stored.reset(token)


def sample_shape(
    surface: Surface,
    normalisation: Normalisation,
    n: int,
    seed: int,
    near_fraction: float = 0.5,
    near_std: tuple[float, ...] = (0.01, 0.05),
    kind: Literal["occupancy", "distance", "sheet"] = "distance",
    half: float = 0.01,
    cache: Path | Literal[False] | None = None,
) -> dict[str, np.ndarray]:
    """Labelled points to train on, the same for the same arguments; kept on disk for the next run.

    A share `near_fraction` of them lies around the surface: area-uniform surface points moved by a normal deviate whose
    standard deviation is each of `near_std` in turn. The rest is uniform in the object's box enlarged by 0.09.
    All stay in the field's box [−1, 1]³. Near points come first.

    Arguments:
        n: number of points.
        near_std: field units, in which half the object's longest side is about 0.9.
        kind: what `values` are: occupancy 0 or 1, signed distance in field units, negative inside, or of a sheet both
            numbers of `sheet.sheet_values` in field units; then some points are drawn near its rim.
        half: half the thickness of the slab around a sheet, field units.
        cache: folder of the stored samples; `cache_folder()` when None, no storing when False.

    Returns:
        points (n, 3) in field coordinates and values (n,), of a sheet (n, 2), both float32.
    """
    if n < 1 or not 0 <= near_fraction <= 1 or not near_std:
        raise SinefieldError(f"{n} points, near share {near_fraction}, deviations {near_std}; give n ≥ 1, share 0 to 1")
    folder = cache_folder() if cache is None else cache
    stored = None
    if folder is not False and _stored.get():
        key = _key(surface, normalisation, n, seed, near_fraction, near_std, kind, *[half] * (kind == "sheet"))
        stored = Path(folder) / f"shape-{key}.safetensors"
        if (found := _read(stored, (n, 2) if kind == "sheet" else (n,))) is not None:
            return found
    rim = Rim(surface) if kind == "sheet" and surface.faces is not None else None
    points = _draw(surface, normalisation, n, seed, near_fraction, near_std)
    if rim is not None and len(rim.ends):
        _draw_to_rim(points, rim, normalisation, seed, round(n * near_fraction * RIM_SHARE), near_std)
    points = points.astype(np.float32)
    # Labelled after rounding to single precision, so that a label is that of the very point.
    places = normalisation.invert(points)
    if kind == "occupancy":
        values = winding_number(surface, places) > 0.5
    elif kind == "sheet":
        values = np.stack(sheet_values(surface, places, half / normalisation.scale, rim), axis=1) * normalisation.scale
    else:
        values = signed_distance(surface, places) * normalisation.scale
    samples = {"points": points, "values": values.astype(np.float32)}
    if stored is not None:
        _write(stored, samples)
    return samples


def surface_samples(
    surface: Surface, n: int, seed: int | np.random.SeedSequence
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Area-uniform points on the surface and their outward unit normals, both (n, 3) in input coordinates.

    Of a point cloud: its own points, drawn with replacement by the area that each stands for.
    """
    places = surface_places(surface, n, seed)
    return places.points(surface), places.normals(surface)


class Places(NamedTuple):
    """Places on a surface.

    Attributes:
        chosen: (n,) faces, or points of a cloud.
        weights: (n, 3) barycentric on the faces; of a cloud all of it at its point.
    """

    chosen: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n 3"]

    def points(self, surface: Surface) -> Float[np.ndarray, "n 3"]:
        """Input coordinates."""
        if surface.faces is None:
            return surface.vertices[self.chosen]
        (a, b, c), w = (surface.vertices[surface.faces[self.chosen, i]] for i in range(3)), self.weights
        return w[:, :1] * a + w[:, 1:2] * b + w[:, 2:] * c

    def normals(self, surface: Surface) -> Float[np.ndarray, "n 3"]:
        """Outward, unit length."""
        if surface.faces is None:
            return surface.cloud_normals()[self.chosen]
        normals = surface.area_vectors[self.chosen]
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def surface_places(surface: Surface, n: int, seed: int | np.random.SeedSequence) -> Places:
    """Where the points of `surface_samples` are."""
    rng = np.random.default_rng(seed)
    total = np.cumsum(surface.areas)
    chosen = np.searchsorted(total, rng.random(n) * total[-1], side="right").clip(max=len(total) - 1)
    if surface.faces is None:
        return Places(chosen, np.tile([1.0, 0.0, 0.0], (n, 1)))
    # Uniform in a triangle: Osada et al., ACM TOG 2002, eq. 1.
    root, along = np.sqrt(rng.random((n, 1))), rng.random((n, 1))
    return Places(chosen, np.concatenate([1 - root, root * (1 - along), root * along], axis=1))


def heldout_points(
    surface: Surface, n: int = 300_000, seed: int = REPORTED_SEED
) -> tuple[Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
    """Points (n, 3) uniform in the object's box, input coordinates, and whether each is inside (n,).

    Give a seed that no training uses.
    """
    low, high = surface.aabb[:3], surface.aabb[3:]
    points = low + np.random.default_rng(seed).random((n, 3)) * (high - low)
    return points, winding_number(surface, points) > 0.5


def heldout_shell(
    surface: Surface, n: int = 300_000, seed: int = REPORTED_SEED
) -> tuple[Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
    """Points (n, 3) around a surface and all over its box, input coordinates, and whether each is in its shell (n,).

    The shell is what lies within `SHELL` of the surface. Half of the points are uniform in balls of twice that radius
    around area-uniform points of the surface, the others in the box, enlarged by as much.
    """
    reach = SHELL * float(np.linalg.norm(surface.aabb[3:] - surface.aabb[:3]))
    seeds = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(seeds[1])
    on_surface, _ = surface_samples(surface, n // 2, seeds[0])
    ways = rng.standard_normal((n // 2, 3))
    ways *= 2 * reach * rng.random((n // 2, 1)) ** (1 / 3) / np.linalg.norm(ways, axis=1, keepdims=True)
    low, high = surface.aabb[:3] - 2 * reach, surface.aabb[3:] + 2 * reach
    points = np.concatenate([on_surface + ways, low + rng.random((n - n // 2, 3)) * (high - low)])
    return points, np.abs(signed_distance(surface, points)) <= reach


def _draw(
    surface: Surface,
    normalisation: Normalisation,
    n: int,
    seed: int,
    near_fraction: float,
    near_std: tuple[float, ...],
) -> Float[np.ndarray, "n 3"]:
    surface_seed, volume_seed = np.random.SeedSequence(seed).spawn(2)
    near = round(n * near_fraction)
    rng = np.random.default_rng(volume_seed)
    on_surface, _ = surface_samples(surface, near, surface_seed)
    deviation = np.resize(near_std, near)[:, None]
    around = normalisation.apply(on_surface) + deviation * rng.standard_normal((near, 3))
    low, high = normalisation.apply(surface.aabb.reshape(2, 3))
    low, high = np.clip(low - SURROUND, -1, 1), np.clip(high + SURROUND, -1, 1)
    volume = low + rng.random((n - near, 3)) * (high - low)
    return np.concatenate([around, volume]).clip(-1, 1)


def _draw_to_rim(
    points: Float[np.ndarray, "n 3"],
    rim: Rim,
    normalisation: Normalisation,
    seed: int,
    n: int,
    near_std: tuple[float, ...],
) -> None:
    """Put the first `n` points, which were near the surface, near its rim."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])
    deviation = np.resize(near_std, n)[:, None]
    around = normalisation.apply(rim.samples(n, rng)) + deviation * rng.standard_normal((n, 3))
    points[:n] = around.clip(-1, 1)


def _key(surface: Surface, normalisation: Normalisation, *parameters: object) -> str:
    """Hash of everything that the samples follow from."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((FORMAT, normalisation, parameters)).encode())
    for array in (surface.vertices, surface.faces, surface.normals):
        if array is not None:
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _checksum(samples: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("points", "values"):
        digest.update(np.ascontiguousarray(samples[name]).data)
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """Stored samples; None when there are none or they are damaged."""
    try:
        arrays, texts = read_arrays(path, "cache")
        samples = {name: arrays[name] for name in ("points", "values")}
    except (SinefieldError, KeyError, ValueError):
        return None
    sound = samples["points"].shape == (shape[0], 3) and samples["values"].shape == shape
    sound = sound and texts.get("checksum") == _checksum(samples)
    return samples if sound else None


def _write(path: Path, samples: dict[str, np.ndarray]) -> None:
    try:
        with atomic_path(path) as temporary:
            save_file(samples, temporary, metadata={"format": FORMAT, "checksum": _checksum(samples)})
    except (SinefieldError, SafetensorError):
        pass  # a cache is a convenience: without it the next run labels again
