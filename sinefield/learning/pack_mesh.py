"""A mesh into a small file: as many faces, on as fine a lattice, as a number of bytes can say."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from sinefield.compress.container import decode, encode
from sinefield.config import portable
from sinefield.data.surfaces.surface import Surface, load_surface
from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import kind_named
from sinefield.fields.mesh.field import MeshField
from sinefield.fields.shape.colours import has_colours
from sinefield.files import check_output, write_bytes
from sinefield.meshing.optimised import NODES, Target
from sinefield.store.sine_files import from_packed, to_packed

FINENESS = 5.0, 3.4
"""Cells of the lattice along the longest side, over the square root of the number of faces: both are tried. On the
armadillo and the dragon the better points of scripts/benchmarks/optimised_mesh.py have 3 to 5.5."""
BITS_A_FACE, HEAD = 7.5, 80
"""What the first guess at a number of faces takes, and bytes of everything else."""
TRIES, NEAR = 5, 0.97
"""Most numbers of faces that are tried, and the share of the bytes that is near enough."""
FEWEST, MOST = 12, 200_000
COARSEST = 64
"""Fewest nodes of the grid of distances along the longest side."""


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


def best_mesh(surface: Surface, max_bytes: int, note: dict[str, Any], seed: int = 0) -> Found:
    """The mesh of at most `max_bytes` that is judged best.

    Raises:
        SinefieldError: no mesh can stand for the surface, or none is so small; then it says how small one was.
    """
    if why := why_no_mesh(surface):
        raise SinefieldError(f"{surface.source}: {why}, so it cannot be packed as a mesh; train a field of it")
    guess = max((max_bytes - HEAD) * 8 / BITS_A_FACE, FEWEST)
    # Distances on a grid no finer than the lattice: small files need no more.
    fine = min(NODES, max(COARSEST, round(FINENESS[0] * math.sqrt(guess))))
    target, kind = Target(surface, fine), kind_named("mesh")
    _, judge = kind.judge(surface, apart=False)
    best: Found | None = None
    least = math.inf
    for fineness in FINENESS:
        faces = guess
        mine: Found | None = None
        for _ in range(TRIES):
            count = min(max(round(faces), FEWEST), MOST)
            vertices, triangles = target.fitted(count, seed=seed)
            cells = max(round(fineness * math.sqrt(len(triangles))), 7)
            field = MeshField.of(target.on_lattice(vertices, triangles, cells, seed=seed))
            content = encode(to_packed(field, {}, {**note, "iou": [1.0, 0.9876]}))
            least = min(least, len(content))
            fits = len(content) <= max_bytes
            if fits and (mine is None or len(content) > len(mine.content)):
                mine = Found(field, content, 0.0)
            whole = len(triangles) >= len(target.faces)
            if (fits and (whole or len(content) >= NEAR * max_bytes)) or (count == FEWEST and not fits):
                break
            faces = count * 0.985 * max(max_bytes - HEAD, 1) / max(len(content) - HEAD, 1)
        if mine is not None:
            mine = mine._replace(judged=judge(mine.field))
            best = mine if best is None or mine.judged > best.judged else best
    if best is None:
        raise SinefieldError(
            f"--max-bytes {max_bytes}: the smallest mesh found of {surface.source} takes {least:,.0f} bytes; "
            "give at least that"
        )
    return best


def pack_mesh(
    path: str | Path, out: str | Path, max_bytes: int | None, overwrite: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Pack a mesh file into a `.sine` file as a decimated, optimised mesh.

    Arguments:
        max_bytes: of the file; no less than the smallest mesh takes.

    Returns:
        run (the mesh), out, kind, bytes, float_bytes (of the mesh file), params (0), vertices, faces, iou and
        iou_before (1), seconds.

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
    found = best_mesh(surface, max_bytes, mesh_note(path), seed)
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
