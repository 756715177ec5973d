"""Many shapes: which there are, which are held out, and points of each with the answers that training asks for.

Everything is in unit coordinates: a shape's box is centred at 0 and its longest side is 1.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from skimage.measure import marching_cubes
from torch import Tensor
from tqdm import tqdm

from sinefield.config import FAMILIES, ShapesDataConfig
from sinefield.data.made.families import FAMILIES as ALL_FAMILIES
from sinefield.data.made.families import Shape, check_families, make_shape
from sinefield.data.surfaces.mesh_files import MESHES
from sinefield.data.surfaces.sampling import surface_samples
from sinefield.data.surfaces.surface import Normalisation, Surface, distance_to_mesh, load_surface, winding_number
from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, cache_folder
from sinefield.tensor_files import read_tensors

FORMAT = "sinefield shape set 1"  # change with anything that changes the samples
HELD_OUT = 1_000_000
"""Seeds of held-out shapes of a family begin here, those of training at 0."""
CELLS = 72
"""Cells along the box in which a family's shape is meshed, where its surface is followed to."""
BLOCK = 4
SURFACE, NEAR, VOLUME = 2048, 4096, 4096
"""Points of each shape: on its surface, near it, and anywhere."""
NEAR_STD = 0.01, 0.04
SURROUND = 0.06


@dataclass(frozen=True)
class Solid:
    """One shape in unit coordinates.

    Attributes:
        surface: its mesh; of a family's shape by marching cubes, its vertices brought onto the surface.
        inside: the truth: points (n, 3) → (n,) whether inside.
    """

    category: str
    name: str
    surface: Surface
    inside: Callable[[Float[np.ndarray, "n 3"]], Bool[np.ndarray, "n"]]


@dataclass(frozen=True)
class Entry:
    """A shape that can be made or read when it is needed."""

    category: str
    name: str
    make: Callable[[], Solid]
    mark: str  # changes when the shape does


@dataclass(frozen=True)
class Labelled:
    """Points of s shapes, float16; labels belong to the points as rounded.

    Attributes:
        surface: (s, SURFACE, 3) area-uniform on each surface.
        points: (s, NEAR + VOLUME, 3), first those near the surface.
        values: (s, NEAR + VOLUME) signed distances, negative inside.
    """

    surface: Float[Tensor, "s n 3"]
    points: Float[Tensor, "s k 3"]
    values: Float[Tensor, "s k"]


@dataclass(frozen=True)
class ShapeSet:
    """Shapes to train on and unseen ones, in the same categories.

    Attributes:
        noise: standard deviation of a scanned point's place, as a share of a shape's longest side.
    """

    train: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    noise: float = 0.005

    @cached_property
    def labelled(self) -> Labelled:
        """Points of the training shapes, prepared once and kept on disk."""
        return label(self.train)


def shape_set(data: ShapesDataConfig) -> ShapeSet:
    """The shapes that a config names: procedural families, or a folder's meshes; nothing is made or read yet.

    Raises:
        SinefieldError: an unknown family, no such folder, fewer than two meshes.
    """
    if data.path.startswith(FAMILIES):
        names = [name.strip() for name in data.path[len(FAMILIES) :].split(",") if name.strip()] or list(ALL_FAMILIES)
        check_families(names)
        each = -(-data.shapes // len(names))
        return ShapeSet(
            tuple(_family_entry(name, seed) for seed in range(each) for name in names)[: data.shapes],
            tuple(_family_entry(name, HELD_OUT + seed) for seed in range(data.held_out) for name in names),
            data.noise,
        )
    folder = Path(data.path)
    if not folder.is_dir():
        raise SinefieldError(f"{folder}: is no folder; give one of meshes, or {FAMILIES} for procedural shapes")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MESHES and path.is_file())
    entries = [_mesh_entry(path, folder) for path in paths]
    held_out = tuple(entries[:: data.held_out]) if data.held_out > 1 else ()
    train = tuple(entry for entry in entries if entry not in held_out)
    if not held_out or not train:
        raise SinefieldError(
            f"{folder}: has {len(entries)} meshes, every {data.held_out}-th held out leaves none to train or to test "
            "on; add meshes, or set data.held_out to 2 or more"
        )
    return ShapeSet(train, held_out, data.noise)


def solid_of_shape(shape: Shape, name: str = "", cells: int = CELLS) -> Solid:
    """A family's shape in unit coordinates, with its mesh.

    Raises:
        SinefieldError: it is empty.
    """
    vertices, faces = _mesh(shape, cells)
    unit = Normalisation.fit(np.concatenate([vertices.min(0), vertices.max(0)]), margin=1.0)
    surface = Surface(unit.apply(vertices), faces.astype(np.int32), None, None, shape.family, {})
    return Solid(shape.family, name, surface, lambda p: shape.inside(unit.invert(p)))


def solid_of_mesh(path: Path, category: str) -> Solid:
    """A mesh file in unit coordinates; inside is where its winding number exceeds one half."""
    given = load_surface(path)
    if given.faces is None:
        raise SinefieldError(f"{path}: is a point cloud, whose inside training has to know; give meshes")
    unit = Normalisation.fit(given.aabb, margin=1.0)
    vertices = unit.apply(given.vertices)
    surface = Surface(vertices, given.faces, None, None, str(path), {}, with_inside=given.with_inside)
    if given.with_inside is not None and not given.with_inside.any():
        raise SinefieldError(f"{path}: nothing is inside; close the mesh, or take it out of the folder")
    return Solid(category, path.stem, surface, lambda p: winding_number(surface, p) > 0.5)


def scan(solid: Solid, n: int, noise: float, seed: int) -> Float[np.ndarray, "n 3"]:
    """n points on the surface, area-uniform, each moved by a normal deviate of standard deviation `noise`."""
    draw, shake = np.random.SeedSequence(seed).spawn(2)
    points, _ = surface_samples(solid.surface, n, draw)
    return points + noise * np.random.default_rng(shake).standard_normal(points.shape)


def label(entries: tuple[Entry, ...], cache: bool = True) -> Labelled:
    """Points of shapes and their signed distances; a progress bar, and a file in `cache_folder` for the next time."""
    digest = hashlib.blake2b(repr((FORMAT, [e.mark for e in entries])).encode(), digest_size=16).hexdigest()
    stored = cache_folder() / f"shapes-{digest}.safetensors"
    if cache and (found := _read(stored, len(entries))) is not None:
        return found
    threads = max(1, min(os.cpu_count() or 1, torch.get_num_threads()))
    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(_label_one, entries)
        rows = list(
            tqdm(made, total=len(entries), desc="shapes", unit=" shapes", leave=False, disable=len(entries) < 32)
        )
    result = Labelled(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))
    if cache:
        _write(stored, result)
    return result


def _label_one(entry: Entry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    solid = entry.make()
    seeds = np.random.SeedSequence(int(hashlib.blake2b(entry.mark.encode(), digest_size=8).hexdigest(), 16)).spawn(3)
    on_surface, _ = surface_samples(solid.surface, SURFACE, seeds[0])
    near, _ = surface_samples(solid.surface, NEAR, seeds[1])
    rng = np.random.default_rng(seeds[2])
    # Two kinds of nearness alternate, so that any run of points has both.
    near = near + np.resize(NEAR_STD, NEAR)[:, None] * rng.standard_normal((NEAR, 3))
    low, high = solid.surface.aabb[:3] - SURROUND, solid.surface.aabb[3:] + SURROUND
    anywhere = low + rng.random((VOLUME, 3)) * (high - low)
    points = np.concatenate([near, anywhere]).astype(np.float16)
    places = points.astype(np.float64)
    values = distance_to_mesh(solid.surface, places) * np.where(solid.inside(places), -1, 1)
    return on_surface.astype(np.float16), points, values.astype(np.float16)


def _family_entry(family: str, seed: int) -> Entry:
    name = f"{family} {seed}"
    return Entry(family, name, partial(_family_solid, family, seed, name), name)


def _family_solid(family: str, seed: int, name: str) -> Solid:
    return solid_of_shape(make_shape(family, seed), name)


def _mesh_entry(path: Path, folder: Path) -> Entry:
    category = path.parent.name if path.parent != folder else "meshes"
    status = path.stat()
    mark = f"{path} {status.st_size} {status.st_mtime_ns}"
    return Entry(category, path.relative_to(folder).as_posix(), partial(solid_of_mesh, path, category), mark)


def _mesh(shape: Shape, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes within the shape's reach, then vertices moved along the gradient onto the surface itself."""
    step = 2 * max(shape.reach) / cells
    halves = [BLOCK * int(np.ceil((r / step + 1) / BLOCK)) for r in shape.reach]
    axes = [np.arange(-half, half + 1) * step for half in halves]
    # A value of exactly 0 at a grid point would give triangles without area.
    values = _values(shape, axes, step) + 1e-9
    if not values.min() < 0 < values.max():
        raise SinefieldError(f"a {shape.family} is empty; choose another seed")
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(step,) * 3, gradient_direction="descent")
    vertices = vertices.astype(np.float64) + [axis[0] for axis in axes]
    h = 1e-4 * step
    for _ in range(2):
        value = shape.implicit(vertices)
        sides = (shape.implicit(vertices + h * axis) - shape.implicit(vertices - h * axis) for axis in np.eye(3))
        slope = np.stack(list(sides), 1) / (2 * h)
        move = -(value / np.maximum((slope**2).sum(1), 1e-6))[:, None] * slope
        # At edges the gradient jumps; no vertex goes far.
        length = np.linalg.norm(move, axis=1, keepdims=True)
        vertices = vertices + move * np.minimum(1, 0.4 * step / np.maximum(length, 1e-12))
    return vertices, faces


def _values(shape: Shape, axes: list[np.ndarray], step: float) -> np.ndarray:
    """Values on a grid; far from the surface, where only their sign counts, those of the nearest of a coarser grid."""

    def of(points: list[np.ndarray]) -> np.ndarray:
        grid = np.stack(np.meshgrid(*points, indexing="ij"), -1)
        return shape.implicit(grid.reshape(-1, 3)).reshape(grid.shape[:3])

    nearest = [(np.arange(len(axis)) + BLOCK // 2) // BLOCK for axis in axes]
    values = of([axis[::BLOCK] for axis in axes])[np.ix_(*nearest)]
    # No point is further from the coarser grid than 0.87 BLOCK steps; implicit functions are steeper than 1 in places.
    close = np.nonzero(np.abs(values) < 2 * BLOCK * step)
    values[close] = shape.implicit(np.stack([axis[i] for axis, i in zip(axes, close, strict=True)], 1))
    return values


def _read(path: Path, n: int) -> Labelled | None:
    """Stored points; None when there are none or they are damaged."""
    shapes = (n, SURFACE, 3), (n, NEAR + VOLUME, 3), (n, NEAR + VOLUME)
    try:
        tensors, _ = read_tensors(path, "cache")
        found = [tensors[name] for name in ("surface", "points", "values")]
    except (SinefieldError, KeyError, ValueError):
        return None
    sound = all(t.shape == s and t.dtype == torch.float16 for t, s in zip(found, shapes, strict=True))
    return Labelled(*found) if sound else None


def _write(path: Path, found: Labelled) -> None:
    try:
        with atomic_path(path) as temporary:
            save_file({"surface": found.surface, "points": found.points, "values": found.values}, temporary)
    except (SinefieldError, SafetensorError):
        pass  # a cache is a convenience: without it the next run labels again
