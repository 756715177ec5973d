"""A posed image set rendered from a mesh: the package's own scene, or any mesh file that is read.

Embree casts the rays on the CPU; no OpenGL. Colours are sRGB numbers from end to end; light scales them directly,
without a gamma curve. Surfaces are diffuse and lights fixed in the world, so a point looks the same from everywhere.
Cameras have OpenGL axes and no distortion.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from sinefield.cameras.cameras import Vector, look_at
from sinefield.data.made.procedural import demo_scene, demo_shape
from sinefield.data.surfaces.coloured import corners_of, load_coloured, paint_of, part_of, with_vertex_colours
from sinefield.data.surfaces.parts import Paint, Part
from sinefield.errors import SinefieldError
from sinefield.files import atomic_folder, check_folder_place, foreign
from sinefield.json_text import to_json
from sinefield.version import __version__

GOLDEN = math.pi * (3 - math.sqrt(5))
CREASE = math.cos(math.radians(30))  # a vertex normal further than this from its face's marks an edge, kept sharp
CAMERA_ANGLE = 0.6911  # horizontal field of view in radians: NeRF-synthetic's
LOWEST, HIGHEST = -0.3, 0.95  # sines of the cameras' elevations: mostly from above
SKY, GROUND, BOUNCE = 0.74, 0.54, 0.35  # light from above and below, and the part of it that comes back in a corner
SUN, SUN_SOFTNESS = 0.46, 0.05  # strength of the sun, and its radius at distance 1
FILL = 0.14
MOST_VIEWS = 100_000
LIGHT_RAYS = 18  # shadow rays a pixel towards the sky, shared out over its samples; half as many to the sun
CHUNK = 1 << 18  # rays cast at once
CONTENTS = re.compile(r"(mesh|shape)\.ply|synth\.json|transforms_(train|val|test)\.json|(train|val|test)/(r_\d+\.png)?")

if TYPE_CHECKING:
    import trimesh

    Mesh = trimesh.Trimesh | Part


class Raycaster:
    """One or several coloured meshes, ready to be photographed.

    Arguments:
        meshes: one or several, of a file or made by trimesh, with vertex, face or texture colours, or none (then clay).
        up: (3,) where the sky is.
    """

    def __init__(self, meshes: Mesh | Sequence[Mesh], up: Vector = (0, 0, 1)) -> None:
        several = meshes if isinstance(meshes, Sequence) and not isinstance(meshes, Part) else [meshes]
        parts = [part_of(mesh) for mesh in several]
        corners = np.concatenate([corners_of(part) for part in parts])
        low, high = corners.min((0, 1)), corners.max((0, 1))
        # Embree works in float32: give it a mesh of about unit size around 0, whatever the user's units.
        self.centre = (low + high) / 2
        self.radius = float(np.linalg.norm(corners - self.centre, axis=2).max())
        self.corners = ((corners - self.centre) / self.radius).astype(np.float32)
        self.normals, self.face_normals = _normals(self.corners)
        self.paint = Paint.joined([paint_of(part) for part in parts])
        self.scene = EmbreeScene()
        faces = np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3)
        TriangleMesh(scene=self.scene, vertices=self.corners.reshape(-1, 3), indices=faces)
        self.up = np.asarray(up, np.float32)
        side = np.array([-0.45, -0.75, 0.0]) if abs(up[2]) > 0.5 else np.array([-0.45, 0.0, 0.75])
        self.sun, self.fill = (_unit(v).astype(np.float32) for v in (side + self.up, 0.35 * self.up - side))

    def view(
        self,
        c2w: Float[np.ndarray, "3 4"],
        width: int,
        height: int,
        focal: float,
        samples: int = 3,
        shaded: bool = True,
    ) -> UInt8[np.ndarray, "h w 4"]:
        """One picture, RGBA with straight alpha; see `render_views`."""
        origin = ((c2w[:, 3] - self.centre) / self.radius).astype(np.float32)
        total = np.zeros((height * width, 4), np.float32)
        rows = max(1, CHUNK // width)
        for number in range(samples**2):
            y_shift, x_shift = (np.array(divmod(number, samples)) + 0.5) / samples
            x = (np.arange(width) + x_shift - width / 2) / focal
            for top in range(0, height, rows):
                y = (height / 2 - np.arange(top, min(top + rows, height)) - y_shift) / focal
                local = np.stack([*np.broadcast_arrays(x, y[:, None]), np.full((len(y), width), -1.0)], -1)
                rays_d = (local.reshape(-1, 3) @ c2w[:, :3].T).astype(np.float32)
                hit, colour = self._cast(origin, rays_d, number, samples**2, shaded)
                total[top * width + hit] += np.concatenate([colour, np.ones((len(hit), 1), np.float32)], 1)
        count = total[:, 3:]
        total[:, :3] *= 255 / np.maximum(count, 1)  # the mean over the samples that hit is the straight colour
        total[:, 3:] = count * (255 / samples**2)
        return np.round(total).astype(np.uint8).reshape(height, width, 4)

    def _cast(
        self, origin: np.ndarray, rays_d: np.ndarray, number: int, of: int, shaded: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rays hit, and the (hits, 3) colour seen, for the pixel's sample `number` of `of`."""
        found = self.scene.run(np.broadcast_to(origin, rays_d.shape).copy(), rays_d, output=1)
        hit = np.flatnonzero(found["primID"] >= 0)
        face, u, v = found["primID"][hit], found["u"][hit], found["v"][hit]
        weights = np.stack([1 - u - v, u, v], 1)[:, :, None]
        colour = self.paint.at(face, weights[:, :, 0])
        if shaded:
            outward = self.face_normals[face]
            side = np.where((outward * rays_d[hit]).sum(1) > 0, -1, 1).astype(np.float32)[:, None]
            normals = _unit((self.normals[face] * weights).sum(1)) * side
            points = (self.corners[face] * weights).sum(1) + 1e-3 * side * outward
            colour = np.minimum(colour * self._light(points, normals, number, of)[:, None], 1)
        return hit, colour

    def _light(self, points: np.ndarray, normals: np.ndarray, number: int, of: int) -> np.ndarray:
        """(p,) brightness: soft-shadowed sun, unshadowed fill, and a sky that corners see less of.

        Each sample of a pixel asks for its own share of one fixed set of light directions. On a smooth surface the
        pixel's mean is then the whole set's, the same from every camera, free of noise.
        """
        light = FILL * np.maximum(normals @ self.fill, 0)
        sky = math.ceil(LIGHT_RAYS / of)
        for turn in range(sky):
            # Points of a unit sphere at the tip of the normal: directions of cosine density about it.
            toward = _unit(normals + 0.999 * _spiral(number * sky + turn, of * sky))
            seen = self._unblocked(points, toward)
            light += (GROUND + (SKY - GROUND) * (0.5 + 0.5 * toward @ self.up)) / sky * np.where(seen, 1, BOUNCE)
        suns = math.ceil(LIGHT_RAYS / 2 / of)
        for turn in range(suns):
            # The order of the sun's points is shuffled by a stride, lest sky and sun samples go hand in hand.
            place = _spiral((number * suns + turn) * 5 % (of * suns), of * suns)
            toward = _unit(self.sun + SUN_SOFTNESS * place)
            lit = np.maximum(normals @ toward, 0)
            facing = np.flatnonzero(lit)
            lit[facing] *= self._unblocked(points[facing], np.broadcast_to(toward, (len(facing), 3)).copy())
            light += SUN / suns * lit
        return light

    def _unblocked(self, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
        if not len(points):
            return np.zeros(0, bool)
        return self.scene.run(points, directions, query="OCCLUDED") < 0


def render_views(
    meshes: Mesh | Sequence[Mesh],
    c2w: Float[np.ndarray, "n 3 4"],
    width: int,
    height: int,
    focal: float,
    samples: int = 3,
    shaded: bool = True,
    up: Vector = (0, 0, 1),
) -> UInt8[np.ndarray, "n h w 4"]:
    """Photograph meshes with pinhole cameras whose principal point is the image's centre.

    Arguments:
        meshes: one or several, with vertex, face or texture colours; seen from both sides.
        c2w: (n, 3, 4) camera to world, OpenGL axes (x right, y up, looking along -z), the meshes' units.
        width, height: pixels.
        focal: pixels.
        samples: samples**2 rays a pixel, on a regular grid, averaged in premultiplied alpha.
        shaded: False for the bare surface colours.
        up: (3,) where the sky is; lights are fixed to it.

    Returns:
        (n, height, width, 4) uint8 RGBA in sRGB, straight alpha; 0 0 0 0 where nothing is.
    """
    caster = Raycaster(meshes, up)
    return np.stack([caster.view(np.asarray(pose), width, height, focal, samples, shaded) for pose in c2w])


def sphere_poses(
    n: int, centre: Vector, distance: float, up: Vector = (0, 0, 1), phase: float = 0.0
) -> Float[np.ndarray, "n 3 4"]:
    """n cameras spread evenly (a golden spiral) over a sphere's part between elevations of -17 and 72 degrees.

    Arguments:
        n: number of cameras.
        centre, distance: the point all look at, and how far from it they stand; world units.
        up: (3,) unit vector along an axis.
        phase: turns the spiral about `up`, radians.

    Returns:
        (n, 3, 4) camera to world, OpenGL axes.
    """
    index = np.arange(n)
    sine = LOWEST + (HIGHEST - LOWEST) * (index + 0.5) / n
    angle, level = GOLDEN * index + phase, np.sqrt(1 - sine**2)
    up = np.asarray(up, float)
    first = np.roll(up, 1)  # another axis
    ring = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * np.cross(up, first)
    away = level[:, None] * ring + sine[:, None] * up
    poses = look_at(away, (0.0, 0.0, 0.0), up.tolist()).numpy().astype(np.float64)
    poses[:, :, 3] = np.asarray(centre) + distance * away  # in float64, for objects far from the origin
    return poses


def synthesize(
    out: str | Path,
    mesh: str | Path | None = None,
    n_train: int = 100,
    n_val: int = 8,
    n_test: int = 20,
    resolution: int = 128,
    samples: int = 3,
    seed: int = 0,
    up: str = "z",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a posed data set in NeRF-synthetic's layout, complete or not at all.

    `out` gets `transforms_{train,val,test}.json`, `train/r_0.png`, … (RGBA), `mesh.ply` (what was photographed, with
    vertex colours), for the demo `shape.ply` (its centrepiece alone, in its own coordinates), and `synth.json`
    (settings and frame). World coordinates and units are the mesh's own, in the poses too. The box of the mesh, 2%
    wider, is written to each transforms file as `aabb`: [[xmin, ymin, zmin], [xmax, ymax, zmax]], instant-ngp's key.

    Arguments:
        out: folder to make. It appears only once everything in it is written.
        mesh: a mesh file, with vertex, face or texture colours or none; None for `demo_scene(seed)`.
        n_train, n_val, n_test: views; a split of 0 views has no file. At least one for training.
        resolution: width and height in pixels, 8 to 4096.
        samples: samples**2 rays a pixel.
        seed: arrangement of the demo scene, and where the cameras' spirals begin.
        up: "y" or "z": the mesh's axis that points to the sky.
        overwrite: replace an earlier output of this function; any other folder with contents is always refused.

    Returns:
        What `synth.json` says, and `out`, `faces`, `seconds`.

    Raises:
        SinefieldError: a setting out of range, an unusable mesh (see `load_coloured`), an output folder that is in use
            or cannot be written.
    """
    started = time.perf_counter()
    views = {"train": n_train, "val": n_val, "test": n_test}
    _check_settings(views, resolution, samples, seed, up)
    out = _check_folder(Path(out), overwrite)
    parts = load_coloured(mesh) if mesh is not None else [part_of(demo_scene(seed))]
    axis = (0, 1, 0) if up == "y" else (0, 0, 1)
    caster = Raycaster(parts, axis)
    focal = 0.5 * resolution / math.tan(0.5 * CAMERA_ANGLE)
    distance = 1.04 * caster.radius / math.sin(0.5 * CAMERA_ANGLE)  # the bounding sphere just fits the picture
    whole = with_vertex_colours(parts)
    margin = 0.02 * max(np.ptp(whole.bounds, axis=0))  # never flat, even round a flat mesh
    aabb = np.stack([whole.bounds[0] - margin, whole.bounds[1] + margin]).tolist()
    facts = {
        "generator": f"sinefield {__version__}",
        "source": Path(mesh).name if mesh is not None else "demo scene",
        "views": views,
        "resolution": resolution,
        "samples": samples,
        "seed": seed,
        "up": up,
        "coordinates": "the mesh's own; (x - centre) / radius fits it into the unit ball",
        "centre": caster.centre.tolist(),
        "radius": caster.radius,
        "camera_distance": distance,
        "camera_angle_x": CAMERA_ANGLE,
        "focal": focal,
        "aabb": aabb[0] + aabb[1],
    }
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    with atomic_folder(out) as build:
        with tqdm(total=sum(views.values()), desc="views", disable=None) as progress:
            for (split, count), phase in zip(views.items(), phases, strict=True):
                poses = sphere_poses(count, caster.centre, distance, axis, phase)
                header = {"camera_angle_x": CAMERA_ANGLE, "w": resolution, "h": resolution, "aabb": aabb}
                _write_split(build, split, header, poses)
                for number, pose in enumerate(poses):
                    picture = caster.view(pose, resolution, resolution, focal, samples)
                    Image.fromarray(picture).save(build / split / f"r_{number}.png")
                    progress.update()
        whole.export(build / "mesh.ply")
        if mesh is None:
            demo_shape(seed).export(build / "shape.ply")
        (build / "synth.json").write_text(to_json(facts, indent=2) + "\n")
    return facts | {"out": str(out), "faces": len(whole.faces), "seconds": time.perf_counter() - started}


def _write_split(folder: Path, split: str, header: dict[str, Any], poses: np.ndarray) -> None:
    """The pose file and empty picture folder of one split; nothing if it has no views."""
    if not len(poses):
        return
    (folder / split).mkdir()
    frames = [
        {"file_path": f"./{split}/r_{number}", "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]}
        for number, pose in enumerate(poses)
    ]
    (folder / f"transforms_{split}.json").write_text(to_json(header | {"frames": frames}, indent=1) + "\n")


def _check_settings(views: dict[str, int], resolution: int, samples: int, seed: int, up: str) -> None:
    if views["train"] < 1 or min(views.values()) < 0:
        counts = ", ".join(f"{count} {split}" for split, count in views.items())
        raise SinefieldError(f"views: {counts}; need at least 1 for training and none below 0")
    if sum(views.values()) > MOST_VIEWS:
        raise SinefieldError(f"views: {sum(views.values()):,} in all; at most {MOST_VIEWS:,}")
    if not 8 <= resolution <= 4096:
        raise SinefieldError(f"resolution {resolution}: must be between 8 and 4096 pixels")
    if not 1 <= samples <= 16:
        raise SinefieldError(f"samples {samples}: must be between 1 and 16 a side of a pixel")
    if not 0 <= seed < 2**63:
        raise SinefieldError(f"seed {seed}: must be a whole number from 0 to 2^63 - 1")
    if up not in ("y", "z"):
        raise SinefieldError(f"up '{up}': must be y or z")


def _check_folder(out: Path, overwrite: bool) -> Path:
    """The folder to write, links resolved, once sure that nothing but our own earlier output would be lost."""
    check_folder_place(out)
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise SinefieldError(f"{out}: is a file; give a folder")
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise SinefieldError(f"{out}: exists and is not empty; give another folder or --overwrite")
        odd = foreign(out, CONTENTS)
        if odd or not (out / "synth.json").exists():
            found = f"'{odd[0]}' in it" if odd else "no synth.json in it"
            raise SinefieldError(f"{out}: has {found}, so it is not this command's to replace; give another folder")
    return out


def _normals(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f, 3, 3) shading normals at the corners, smooth except across creases, and (f, 3) face normals."""
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # by twice the area
    # By place, not by index: texture seams and per-face colours split vertices that are one point.
    point = _labels(corners.reshape(-1, 3))
    spread = np.repeat(weighted, 3, 0)
    mean = _unit(np.stack([np.bincount(point, spread[:, axis]) for axis in range(3)], 1))
    smooth, flat = mean[point].reshape(-1, 3, 3), _unit(weighted)
    is_smooth = (smooth * flat[:, None]).sum(2, keepdims=True) > CREASE
    return np.where(is_smooth, smooth, flat[:, None]).astype(np.float32), flat


def _labels(points: np.ndarray) -> np.ndarray:
    """(n,) numbers of points (n, 3), equal where they are at one place: three times as fast as `np.unique` on rows."""
    order = np.lexsort(points.T[::-1])
    ranked = points[order]
    label = np.empty(len(points), np.int64)
    label[order] = np.concatenate([[0], (ranked[1:] != ranked[:-1]).any(axis=1).cumsum()])
    return label


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt((vectors * vectors).sum(-1, keepdims=True)), 1e-20)


def _spiral(index: int, of: int) -> np.ndarray:
    """Point `index` of `of` spread evenly over the unit sphere."""
    z = 1 - 2 * (index + 0.5) / of
    return np.array([*(math.sqrt(1 - z * z) * np.array([math.cos(GOLDEN * index), math.sin(GOLDEN * index)])), z], "f4")
