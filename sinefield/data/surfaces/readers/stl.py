"""STL, binary or text of any case, with whatever stands after its end."""

import re
import struct

import numpy as np

from sinefield.data.surfaces.parts import Part, ShapeFile
from sinefield.data.surfaces.readers.polygons import faces_of, split
from sinefield.data.surfaces.readers.source import MAX_PARTS, Source
from sinefield.data.surfaces.readers.text import Words, name_of, numbers, plain

HEAD, ROW = 84, 50
UNKNOWN = (0, 2**32 - 1)
"""Counts that stand in a header whose writer did not know it."""


def read_stl(source: Source) -> ShapeFile:
    """Triangles, each with vertices of its own; raises SinefieldError for what is no STL."""
    start = plain(source.data[:2048])
    if start.lstrip()[:5].lower() == b"solid" and (b"facet" in start.lower() or not _binary_fits(source.data)):
        return _text(source)
    return _binary(source)


def _binary_fits(data: bytes) -> bool:
    return len(data) >= HEAD and len(data) >= HEAD + ROW * struct.unpack("<I", data[80:84])[0]


def _binary(source: Source) -> ShapeFile:
    size = len(source.data)
    if size < HEAD:
        raise source.wrong("has no STL header")
    (count,) = struct.unpack("<I", source.data[80:84])
    held, tail = divmod(size - HEAD, ROW)
    if held != count and (count in UNKNOWN or count < held) and tail == 0 and held:
        source.note(f"Its header claims {count:,} triangles, but {held:,} are there: those are read.")
        count = held
    source.claims(f"{count:,} triangles", HEAD + ROW * count)
    source.check_faces(count)
    if extra := size - HEAD - ROW * count:
        source.note(f"{extra:,} bytes after its last triangle are left out.")
    if not count:
        raise source.wrong("holds no triangles")
    row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    corners = np.frombuffer(source.data, row, count, HEAD)["corners"]
    vertices = corners.reshape(-1, 3).astype(np.float64)
    return ShapeFile([Part("", vertices, np.arange(len(vertices)).reshape(-1, 3))], None, source.notes)


def _text(source: Source) -> ShapeFile:
    text = plain(source.data)
    lower = text.lower()
    if re.search(rb"\bend\s*solid\b", lower) is None:
        raise source.wrong("has no endsolid")
    heads = list(re.finditer(rb"(?m)^[ \t]*solid\b([^\n]*)", lower))
    names = [name_of(text[match.start(1) : match.end(1)]) for match in heads]
    if len(heads) < lower.count(b"\n"):  # what a solid is called is none of the words looked for below
        lower = re.sub(rb"(?m)^([ \t]*(?:end[ \t]*)?solid)\b[^\n]*", rb"\1", lower)
    words = Words(lower)
    if words.begin_with(b"vertex").sum() != lower.count(b"vertex"):
        words = Words(re.sub(rb"\b(vertex|endloop|endfacet|facet|outer|endsolid)\b", rb"\n\1", lower))
    vertices, loop, solid = _loops(source, words)
    counts = np.bincount(loop, minlength=len(solid))
    places, owner = faces_of(source, counts, np.arange(len(vertices)), vertices)
    if len(names) > MAX_PARTS:
        source.note(f"{len(names):,} solids are more than {MAX_PARTS:,}: all faces are one part.")
        names = names[:1]
    part_of = np.minimum(solid[owner], len(names) - 1)
    return ShapeFile(list(split(names, part_of, vertices, places, None)), None, source.notes)


def _loops(source: Source, words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (v, 3), the loop that each belongs to, and the solid of each loop."""
    chosen = np.flatnonzero(words.begin_with(b"vertex"))
    if not len(chosen):
        raise source.wrong("holds no triangles")
    if (words.widths[chosen] != 4).any():
        raise source.wrong("a vertex has not three numbers")
    vertices = numbers(source, words.cut(chosen, len(b"vertex"))).reshape(-1, 3)
    ends = np.flatnonzero(words.begin_with(b"endloop"))
    loop = np.searchsorted(ends, chosen)
    if loop.max() >= len(ends):
        raise source.wrong("its last facet has no end")
    solid = np.searchsorted(np.flatnonzero(words.begin_with(b"solid")), ends) - 1
    return vertices, loop, np.maximum(solid, 0)
