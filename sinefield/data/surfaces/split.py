"""A mesh file taken apart: its named nodes, objects or groups; of one that has none, the pieces that hang together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.parts import Paint, Part, ShapeFile
from sinefield.data.surfaces.pieces import find_pieces
from sinefield.data.surfaces.surface import Surface, make_surface
from sinefield.errors import SinefieldError

MOST_PARTS = 64
"""Each part is a training of its own."""
LONGEST_NAME = 100


def split_parts(path: str | Path) -> tuple[list[Part], list[str]]:
    """The parts of a mesh file, at least two, under names of their own; and what was decided, a sentence each.

    Nodes, objects or groups with faces are parts, in the file's order. Where there is but one, its pieces are: what
    hangs together by edges that two faces share, largest first, once the whole was repaired as `make_surface` does.

    Raises:
        SinefieldError: see `read_shape`; a point cloud; one piece only; more than `MOST_PARTS`; a part that is no
            surface.
    """
    shape = read_shape(path)
    given = [part for part in shape.parts if part.faces is not None and len(part.faces)]
    if not given:
        raise SinefieldError(f"{path}: is a point cloud, which --split does not take apart; give a mesh")
    notes: list[str] = []
    parts = given
    if len(given) == 1:
        parts, notes = _pieces(shape, str(path))
        if len(parts) == 1:
            raise SinefieldError(f"{path}: is one part of one piece, nothing to split; leave --split out")
    if len(parts) > MOST_PARTS:
        what = "parts" if len(given) > 1 else "pieces"
        raise SinefieldError(
            f"{path}: has {len(parts):,} {what}, and --split fits a field to each, of {MOST_PARTS} at most; join some "
            "in the file, or leave --split out"
        )
    names, more = _own_names([part.name for part in parts])
    return [part._replace(name=name) for part, name in zip(parts, names, strict=True)], notes + more


def load_part(path: str | Path, number: int) -> Surface:
    """The surface of one part of a mesh file, counted from 1 as `split_parts` gives them.

    Raises:
        SinefieldError: see `split_parts` and `load_surface`; there is no such part.
    """
    parts, _ = split_parts(path)
    if not 1 <= number <= len(parts):
        raise SinefieldError(f"{path}: has {len(parts)} parts; data.part is {number}")
    return part_surface(parts[number - 1], path)


def part_surface(part: Part, path: str | Path) -> Surface:
    """A part as a surface of its own, named in messages beside its file; raises as `load_surface` does."""
    return make_surface(ShapeFile([part]), f"{path}, part {part.name}")


def _pieces(shape: ShapeFile, path: str) -> tuple[list[Part], list[str]]:
    """The pieces of a mesh as parts without names; a note where one hollows another."""
    surface = make_surface(shape, path)
    faces = surface.mesh_faces()
    found = find_pieces(surface.vertices, faces)
    parts = []
    for piece in range(min(len(found.area), MOST_PARTS + 1)):
        mine = np.flatnonzero(found.of_face == piece)
        used, corners = np.unique(faces[mine], return_inverse=True)
        paint = surface.paint
        if paint is not None:
            paint = Paint(paint.corners[mine], paint.textures, paint.texture_of[mine])
        parts.append(Part("", surface.vertices[used], corners.reshape(-1, 3).astype(np.int64), paint=paint))
    if len(found.area) > len(parts):  # all of them for the message alone
        parts += [parts[0]] * (len(found.area) - len(parts))
    hollow = int((found.closed & (found.volume < 0)).sum())
    notes = [f"the file has no named parts: split into its {len(found.area)} pieces"]
    if hollow:
        notes.append(
            f"{hollow} of the pieces hollow another one: each becomes a body of its own; without --split they stay "
            "hollows"
        )
    return parts, notes


def _own_names(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names that are not empty, not too long, of one line and all different; and what was changed."""
    names: list[str] = []
    notes = []
    for number, name in enumerate(given, 1):
        base = " ".join(name.split())[:LONGEST_NAME] or f"part {number}"
        own, turn = base, 2
        while own in names:
            own, turn = f"{base} {turn}", turn + 1
        names.append(own)
        if own != name and name:
            shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME // 2] + "…"
            notes.append(f"part {number}, {shown!r}, is named {own!r}: names are short and different from one another")
    return names, notes
