"""A mesh into a small file: as many faces, on as fine a lattice, as a number of bytes can say."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sinefield.compress.container import decode, encode
from sinefield.config import portable
from sinefield.data.surfaces.sampling import JUDGED_SEED
from sinefield.data.surfaces.surface import Surface, load_surface, winding_number
from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import kind_named
from sinefield.fields.mesh.field import MeshField
from sinefield.fields.shape.colours import has_colours
from sinefield.files import check_output, write_bytes
from sinefield.meshing.optimised import Target
from sinefield.store.sine_files import from_packed, to_packed

TRIED = (0, 5.0), (0, 3.4), (0, 14.0), (1, 4.0), (1, 2.8), (2, 3.4)
"""Numbers of subdivisions, and cells of the lattice along the longest side over the square root of the number of faces.
Flat faces need few vertices in exact places. Two subdivisions, which take the longest, are tried where one was better
than none."""
BITS_A_FACE, HEAD = 7.5, 80
"""What the first guess at a number of faces takes, and bytes of everything else."""
TRIES, NEAR = 5, 0.97
"""Most numbers of faces that are tried, and the share of the bytes that is near enough."""
FEWEST, MOST = 12, 200_000
DRAWN, ONE_IN, NEAR_SURFACE = 2_000_000, 16, 0.01
"""Points that meshes are judged by; which of those further from the surface than so many longest sides are kept."""


class Found(NamedTuple):
    """A mesh that fits: its field, what the file holds, and what it is judged by."""

    field: MeshField
    content: bytes
    judged: float


def why_no_mesh(surface: Surface) -> str | None:
    """Why a mesh cannot stand for this surface; None where it can."""
    if surface.faces is None:
        return "is a point cloud, without faces"
    if has_colours(surface):
        return "has colours, which a packed mesh does not hold"
    return None


class MeshSearch:
    """For the best mesh of a number of bytes.

    Arguments:
        note: of the file.

    Raises:
        SinefieldError: no mesh can stand for the surface.
    """

    def __init__(self, surface: Surface, max_bytes: int, note: dict[str, Any], seed: int = 0) -> None:
        if why := why_no_mesh(surface):
            raise SinefieldError(f"{surface.source}: {why}, so it cannot be packed as a mesh; train a field of it")
        self.surface, self.max_bytes, self.note, self.seed = surface, max_bytes, note, seed
        self.faces = max((max_bytes - HEAD) * 8 / BITS_A_FACE, FEWEST)
        """Guessed; carried from one search to the next, whose meshes take about as many bytes a face."""
        self.least = math.inf
        self.refused: SinefieldError | None = None
        self.target = Target(surface, self.faces)
        self.judged_on = self._points()

    def _points(self) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Points, whether each is inside, and what each counts: of those that lie far from the surface few are kept.

        Uniform points would need 30 times as many to tell what the choice needs: of 100,000 the IoU has an error of
        0.001, as much as one choice differs from the next.
        """
        rng = np.random.default_rng(JUDGED_SEED)
        low, high = self.surface.aabb[:3], self.surface.aabb[3:]
        points = low + rng.random((DRAWN, 3)) * (high - low)
        near = np.abs(self.target.at(points)) < NEAR_SURFACE * self.target.side
        kept = near | (np.arange(DRAWN) % ONE_IN == 0)
        inside = winding_number(self.surface, points[kept]) > 0.5
        return torch.from_numpy(points[kept]), inside, np.where(near[kept], 1, ONE_IN)

    def judge(self, field: Any) -> float:
        """IoU of anything that knows its inside, on points that are not those reported."""
        points, inside, counts = self.judged_on
        found = field.inside(points).cpu().numpy()
        return float(counts[found & inside].sum() / max(counts[found | inside].sum(), 1))

    def run(self) -> Found:
        """The mesh of at most `max_bytes` that is judged best.

        Raises:
            SinefieldError: none is so small; it says how small one was.
        """
        best: Found | None = None
        for subdivisions, fineness in TRIED:
            if subdivisions > 1 and (best is None or not best.field.config.subdivisions):
                break
            found = self.best(subdivisions, fineness)
            if found and (best is None or found.judged > best.judged):
                best = found
        if best is None and self.refused is not None and self.least == math.inf:
            raise self.refused
        if best is None:
            raise SinefieldError(
                f"--max-bytes {self.max_bytes}: the smallest mesh found of {self.surface.source} takes "
                f"{self.least:,.0f} bytes; give at least that"
            )
        return best

    def best(self, subdivisions: int, fineness: float) -> Found | None:
        """The largest mesh that fits, of those tried."""
        best: Found | None = None
        for _ in range(TRIES):
            count = min(max(round(self.faces), FEWEST), MOST)
            vertices, triangles = self.target.fitted(count, seed=self.seed, subdivisions=subdivisions)
            cells = max(round(fineness * math.sqrt(len(triangles))), 7)
            placed = self.target.on_lattice(vertices, triangles, cells, seed=self.seed, subdivisions=subdivisions)
            field = MeshField.of(placed)
            try:
                content = encode(to_packed(field, {}, {**self.note, "iou": [1.0, 0.9876]}))
            except SinefieldError as error:  # so regular that it has more faces than its bytes may state
                self.refused = error
                break
            self.least = min(self.least, len(content))
            fits = len(content) <= self.max_bytes
            if fits and (best is None or len(content) > len(best.content)):
                best = Found(field, content, 0.0)
            whole = len(triangles) >= len(self.target.faces)
            if (fits and (whole or len(content) >= NEAR * self.max_bytes)) or (count == FEWEST and not fits):
                break
            self.faces = count * 0.985 * max(self.max_bytes - HEAD, 1) / max(len(content) - HEAD, 1)
        return best and best._replace(judged=self.judge(best.field))


def pack_mesh(
    path: str | Path, out: str | Path, max_bytes: int | None, overwrite: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Pack a mesh file into a `.sine` file as a decimated, optimised mesh.

    Arguments:
        max_bytes: of the file; no less than the smallest mesh takes.

    Returns:
        run (the mesh), out, kind, bytes, float_bytes (of the mesh file), params (0), vertices, faces, subdivisions of
        these, iou and iou_before (1), seconds.

    Raises:
        SinefieldError: bad arguments, no closed mesh, too few bytes.
    """
    out = Path(out)
    if not is_sine(out):
        raise SinefieldError(f"{out}: a packed mesh's name ends in .sine; call it {out.stem}.sine")
    if max_bytes is None or max_bytes < 1:
        raise SinefieldError(f"{path}: a mesh is packed to a size; give --max-bytes, 4000 say")
    check_output(out, overwrite)
    begin, surface = time.perf_counter(), load_surface(path)
    found = MeshSearch(surface, max_bytes, mesh_note(path), seed).run()
    size, after = write_mesh(out, found.field, surface, mesh_note(path), overwrite)
    return {
        "run": str(path),
        "out": str(out),
        "kind": "mesh",
        "bytes": size,
        "float_bytes": Path(path).stat().st_size,
        "params": 0,
        "vertices": found.field.config.vertices,
        "faces": found.field.config.faces,
        "subdivisions": found.field.config.subdivisions,
        "iou": after,
        "iou_before": 1.0,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def mesh_note(path: str | Path) -> dict[str, Any]:
    """What a file says of the mesh that it was made of: where it is, if that means the same elsewhere."""
    named = portable(str(path))
    return {"data": {} if named is None else {"path": named}}


def write_mesh(
    out: Path, field: MeshField, surface: Surface, note: dict[str, Any], overwrite: bool
) -> tuple[int, float]:
    """Write a mesh's file, atomically; its size, and the score of what a reader finds in it."""
    packed = to_packed(field, {}, note)
    found, _ = from_packed(decode(encode(packed), lambda *_: {}, str(out)), str(out))
    after = kind_named("mesh").quality(found, surface)
    packed.note["iou"] = [1.0, round(after, 4)]
    content = encode(packed)
    write_bytes(out, content, overwrite)
    return len(content), after
