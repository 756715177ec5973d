"""Points in binary: PCD, NPY and NPZ. No pickle is opened, nothing allocated that a file only claims."""

import io
import math
import re
import struct

import numpy as np
from jaxtyping import Shaped

from sinefield.data.photographs.shared import npy_header
from sinefield.data.surfaces.parts import Part, ShapeFile
from sinefield.data.surfaces.readers.colours import bytes_of
from sinefield.data.surfaces.readers.columns import cloud, named
from sinefield.data.surfaces.readers.lzf import MAX_GROWTH, unpack
from sinefield.data.surfaces.readers.source import Source
from sinefield.data.surfaces.readers.text import numbers, plain
from sinefield.data.surfaces.readers.zips import open_zip, unzip

KINDS = {"F": "f", "I": "i", "U": "u"}


def _shape(source: Source, part: Part) -> ShapeFile:
    if not len(part.vertices):
        raise source.wrong("holds no points")
    source.check_points(len(part.vertices))
    return ShapeFile([part], None, source.notes)


def _finite(source: Source, part: Part) -> Part:
    """Without the rows of a scan in which nothing was measured."""
    keep = np.asarray(np.isfinite(part.vertices).all(1))
    if keep.all() or not keep.any():
        return part
    source.note(f"{int((~keep).sum()):,} of {len(keep):,} points without coordinates are left out.")
    normals, colours = (None if a is None else a[keep] for a in (part.normals, part.colours))
    return part._replace(vertices=part.vertices[keep], normals=normals, colours=colours)


# ---- PCD


def read_pcd(source: Source) -> ShapeFile:
    """The point cloud library's files: text, binary, compressed; raises SinefieldError for what is none."""
    found = re.search(rb"(?im)^DATA[ \t]+(\w+)[ \t]*\r?\n", source.data[: 1 << 16])
    if found is None:
        raise source.wrong("has no PCD header")
    head: dict[str, list[str]] = {}
    for line in source.data[: found.start()].decode("latin-1").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            head.setdefault(words[0].upper(), words[1:])
    names, dtype = _fields(source, head)
    rows = _points(source, head)
    body, form = source.data[found.end() :], found[1].lower()
    if form == b"ascii":
        source.claims(f"{rows:,} points", 2 * rows * len(dtype.names or ()) - 1)
        columns = _text_columns(source, body, dtype, rows)
    elif form == b"binary":
        source.claims(f"{rows:,} points", found.end() + rows * dtype.itemsize)
        block = np.frombuffer(body, dtype, rows)
        columns = [block[name] for name in dtype.names or ()]
    elif form == b"binary_compressed":
        columns = _packed_columns(source, body, dtype, rows)
    else:
        raise source.wrong(f"has data of unknown form {form[:40].decode('latin-1')!r}")
    return _shape(source, _finite(source, _part_of(source, names, columns)))


def _points(source: Source, head: dict[str, list[str]]) -> int:
    try:
        rows = int(head["POINTS"][0]) if head.get("POINTS") else int(head["WIDTH"][0]) * int(head["HEIGHT"][0])
    except (KeyError, IndexError, ValueError) as error:
        raise source.wrong("has a PCD header without a count of points") from error
    if rows < 0:
        raise source.wrong(f"its header claims {rows:,} points")
    source.check_points(rows)
    return rows


def _fields(source: Source, head: dict[str, list[str]]) -> tuple[list[str], np.dtype]:
    names = head.get("FIELDS") or head.get("COLUMNS") or []
    sizes, kinds = head.get("SIZE") or ["4"] * len(names), head.get("TYPE") or ["F"] * len(names)
    counts = head.get("COUNT") or ["1"] * len(names)
    try:
        fields = [(f"{i}", f"<{KINDS[kind.upper()]}{int(size)}", (int(count),)) for i, (kind, size, count)
                  in enumerate(zip(kinds, sizes, counts, strict=True))]  # fmt: skip
        dtype = np.dtype(fields)
        if len(fields) != len(names) or not 0 < dtype.itemsize <= 1 << 16:
            raise ValueError
    except (KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise source.wrong("has a PCD header of fields that do not fit together") from error
    return [name.lower() for name in names], dtype


def _text_columns(source: Source, body: bytes, dtype: np.dtype, rows: int) -> list[np.ndarray]:
    widths = [dtype[name].shape[0] for name in dtype.names or ()]
    values = numbers(source, plain(body))
    if len(values) < rows * sum(widths):
        raise source.wrong(f"its header claims {rows:,} points, {len(values) // max(sum(widths), 1):,} are there")
    table, found, at = values[: rows * sum(widths)].reshape(rows, -1), [], 0
    for i, width in enumerate(widths):
        kind = dtype[i].base
        with np.errstate(all="ignore"):
            cells = table[:, at : at + width]
            # Colours are written as the whole number that they are packed into, or as the float of the same bits.
            found.append(cells if kind.kind == "f" else cells.astype(np.int64))
        at += width
    return found


def _packed_columns(source: Source, body: bytes, dtype: np.dtype, rows: int) -> list[np.ndarray]:
    if len(body) < 8:
        raise source.wrong("ends before its points")
    packed, size = struct.unpack("<II", body[:8])
    if packed > len(body) - 8 or size != rows * dtype.itemsize or size > MAX_GROWTH * packed + 64:
        raise source.wrong(f"its header claims {rows:,} points in {packed:,} bytes")
    data = unpack(body[8 : 8 + packed], size)
    if data is None:
        raise source.wrong("its compressed points are damaged")
    found, at = [], 0
    for i in range(len(dtype.names or ())):
        kind, width = dtype[i].base, dtype[i].shape[0]
        found.append(np.frombuffer(data, kind, rows * width, at).reshape(rows, width))
        at += rows * width * kind.itemsize
    return found


def _part_of(source: Source, names: list[str], columns: list[np.ndarray]) -> Part:
    place = named(names)
    if not {"x", "y", "z"} <= place.keys():
        raise source.wrong("has no points with x, y and z")

    def together(wanted: str) -> np.ndarray | None:
        keys = wanted.split()
        return np.stack([columns[place[k]][:, 0] for k in keys], 1) if place.keys() >= set(keys) else None

    points, normals, colours = together("x y z"), together("nx ny nz"), together("r g b")
    assert points is not None
    for name in ("rgb", "rgba"):
        if name in names and colours is None:
            colours = _packed_colours(columns[names.index(name)][:, 0])
    return Part("", points.astype(np.float64), None, None if normals is None else normals.astype(np.float64), None,
                None if colours is None else bytes_of(colours))  # fmt: skip


def _packed_colours(values: np.ndarray) -> np.ndarray:
    """(n, 3) of red, green and blue in one number, or in the bits of a float."""
    with np.errstate(all="ignore"):
        if values.dtype.kind == "f":
            whole = (values == np.floor(values)).all() and values.max(initial=0) >= 1
            values = values.astype(np.int64) if whole else values.astype(np.float32).view(np.uint32)
    values = values.astype(np.int64)
    return np.stack([values >> 16 & 255, values >> 8 & 255, values & 255], 1).astype(np.uint8)


# ---- NumPy


def read_npy(source: Source) -> ShapeFile:
    """One array (n, 3) of points, or (n, 6) and more with normals or colours."""
    table = _array(source, source.data, source.path.name)
    if table.ndim != 2 or table.shape[1] < 3:
        raise source.wrong(f"holds an array of shape {table.shape}", "save points (n, 3), or (n, 6) with normals")
    return _shape(source, cloud(source, table.astype(np.float64), None, False))


def read_npz(source: Source) -> ShapeFile:
    """Arrays points, normals and colours; or the only one there is."""
    arrays: dict[str, np.ndarray] = {}
    with open_zip(source) as archive:
        wanted = {"points", "vertices", "xyz", "pos", "normals", "colors", "colours", "rgb", "faces", "triangles"}
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        for name in members:
            key = name.removesuffix(".npy")
            if key.lower() in wanted or len(members) == 1:
                arrays[key.lower()] = _array(source, unzip(source, archive, name), name)

    def first(*names: str) -> np.ndarray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    points = first("points", "vertices", "xyz", "pos")
    points = next(iter(arrays.values())) if points is None and len(arrays) == 1 else points
    if points is None or points.ndim != 2 or points.shape[1] < 3:
        raise source.wrong(
            "has no array 'points' of shape (n, 3)", "save one, and 'normals', 'colors' if there are any"
        )
    faces = first("faces", "triangles")
    if faces is not None and faces.ndim == 2 and faces.shape[1] == 3 and faces.dtype.kind in "iu":
        source.check_faces(len(faces))
        source.check_corners(faces, len(points))
        return ShapeFile([Part("", points[:, :3].astype(np.float64), faces.astype(np.int64))], None, source.notes)
    part = cloud(source, points.astype(np.float64), None, False)
    normals, colours = first("normals"), first("colors", "colours", "rgb")
    for name, array in (("normals", normals), ("colors", colours)):
        if array is not None and (array.ndim != 2 or len(array) != len(points) or array.shape[1] < 3):
            raise source.wrong(f"its array '{name}' has shape {array.shape}, that of the points is {points.shape}")
    if normals is not None:
        part = part._replace(normals=normals[:, :3].astype(np.float64))
    if colours is not None:
        part = part._replace(colours=bytes_of(colours[:, :3]))
    return _shape(source, part)


def _array(source: Source, data: bytes, name: str) -> Shaped[np.ndarray, "..."]:
    stream = io.BytesIO(data)
    try:
        shape, by_columns, dtype = npy_header(stream)
    except Exception as error:  # damaged headers make numpy's parser raise nearly anything
        raise source.wrong(f"{name!r:.60} is not a readable array ({str(error)[:60]})") from error
    if dtype.kind not in "fiub" or dtype.hasobject:
        raise source.wrong(f"{name!r:.60} holds {dtype!s:.40}", "save plain numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > len(data) - stream.tell():
        raise source.wrong(f"{name!r:.60} claims {claimed:,} bytes of numbers but has {len(data) - stream.tell():,}")
    values = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return values.reshape(shape, order="F" if by_columns else "C")
