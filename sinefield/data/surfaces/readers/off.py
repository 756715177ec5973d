"""OFF and its kin (COFF, NOFF, STOFF, …): words, whatever lines they stand in."""

import re

import numpy as np

from sinefield.data.surfaces.parts import Paint, Part, ShapeFile
from sinefield.data.surfaces.readers.colours import bytes_of
from sinefield.data.surfaces.readers.polygons import faces_of
from sinefield.data.surfaces.readers.source import Source
from sinefield.data.surfaces.readers.text import Words, numbers, plain, without_comments

HEAD = re.compile(rb"\s*(ST)?(C)?(N)?(4)?(n)?OFF(?=[\s\d-]|$)", re.IGNORECASE)


def read_off(source: Source) -> ShapeFile:
    """Vertices and polygons with their colours; raises SinefieldError for what is no OFF."""
    text = without_comments(plain(source.data))
    head = HEAD.match(text)
    if head is None:
        raise source.wrong("has no OFF header")
    texture, colour, normal, four, other = head.groups()
    text = text[head.end() :]
    if text.split(None, 1)[:1] == [b"BINARY"]:
        raise source.wrong("is a binary OFF", "export it as a text OFF, PLY or GLB")
    if four or other:
        raise source.wrong("is an OFF of another dimension than three", "export a mesh of three dimensions")
    values = numbers(source, text)
    if len(values) < 2 or not _whole(values[:2]):
        raise source.wrong("has no OFF header")
    vertices, faces = int(values[0]), int(values[1])
    if vertices < 0 or faces < 0:
        raise source.wrong(f"its header claims {vertices:,} vertices and {faces:,} faces")
    source.claims(f"{vertices:,} vertices and {faces:,} faces", 6 * vertices + 2 * faces)
    source.check_points(vertices)
    words = Words(text)
    width = 3 + 3 * bool(normal) + 4 * bool(colour) + 2 * bool(texture)
    table, rest, rows = _vertices(source, words, values, vertices, faces, width)
    counts, corners, colours = _faces(source, rest, rows, faces)
    places, owner = faces_of(source, counts, corners, table[:, :3])
    triangles = corners[places]
    points = table[:, :3]
    colour_of = table[:, 3 + 3 * bool(normal) :] if colour and table.shape[1] >= width - 1 else None
    own = None if colour_of is None else bytes_of(colour_of[:, :3])
    if not len(triangles):
        if not vertices:
            raise source.wrong("holds neither faces nor points")
        normals = table[:, 3:6] if normal else None
        return ShapeFile([Part("", points, None, normals, None, own)], None, source.notes)
    paint = Paint.of_vertices(own, triangles) if own is not None else None
    if paint is None and colours is not None:
        each = bytes_of(colours)[owner]
        paint = Paint.plain(np.repeat(each[:, None] / np.float32(255), 3, 1))
    return ShapeFile([Part("", points, triangles, paint=paint)], None, source.notes)


def _whole(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values == np.floor(values)).all() and (np.abs(values) < 2**53).all())


def _vertices(source: Source, words: Words, values: np.ndarray, vertices: int, faces: int, width: int):
    """The vertices (v, width), the numbers after them, and how many of these each line has; None: lines say nothing."""
    lines = words.widths
    begins = 3 if len(lines) and lines[0] >= 3 else 2  # of the counts; that of the edges may be missing
    if len(lines) >= 1 + vertices + faces and lines[0] == begins and vertices:
        own = lines[1 : 1 + vertices]
        if own.min() == own.max() >= 3:
            width = int(own[0])
            end = begins + vertices * width
            return values[begins:end].reshape(-1, width), values[end:], lines[1 + vertices : 1 + vertices + faces]
    end = 3 + vertices * width
    if len(values) < end:
        raise source.wrong(f"its header claims {vertices:,} vertices, {(len(values) - 3) // width:,} are there")
    return values[3:end].reshape(-1, width), values[end:], None


def _faces(source: Source, values: np.ndarray, rows: np.ndarray | None, faces: int):
    """Counts, corners, and colours (f, 3) of the faces or None."""
    if rows is not None:
        starts = np.cumsum(rows) - rows
        counts = values[starts] if len(rows) else np.empty(0)
        if len(rows) == 0 or (_whole(counts) and (counts >= 0).all() and (rows >= counts + 1).all()):
            return _of_lines(source, values, rows, starts, counts.astype(np.int64))
    at, sizes, starts = 0, [], []
    for _ in range(faces):
        size = values[at] if at < len(values) else np.nan
        if not size >= 0 or at + 1 + size > len(values):
            raise source.wrong(f"its header claims {faces:,} faces, {len(sizes):,} are there")
        sizes.append(int(size))
        starts.append(at + 1)
        at += 1 + int(size)
    counts, starts = np.array(sizes, np.int64), np.array(starts, np.int64)
    return counts, _corners(source, values, starts, counts), None


def _of_lines(source: Source, values: np.ndarray, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray):
    corners = _corners(source, values, starts + 1, counts)
    more = rows - counts - 1
    colours = None
    if len(more) and more.min() >= 3:
        colours = values[(starts + 1 + counts)[:, None] + np.arange(3)]
        # Whole numbers are of 255, unless written as fractions of 1.
        colours = colours.astype(np.int64) if _whole(colours) and colours.max() > 1 else colours
    return counts, corners, colours


def _corners(source: Source, values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    at = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    corners = values[at]
    if not _whole(corners):
        raise source.wrong("a face names a vertex by no whole number")
    return corners.astype(np.int64)
