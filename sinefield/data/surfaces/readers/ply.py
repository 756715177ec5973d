"""PLY: text and binary of both byte orders, numbers of any type, polygons, strips, colours, normals, a texture.

Rows of fixed size are read as one array. Rows with lists of several lengths are walked once to see where each begins.
"""

import re
import struct
from typing import NamedTuple

import numpy as np

from sinefield.data.surfaces.parts import Paint, Part, ShapeFile
from sinefield.data.surfaces.readers.colours import Look, Pictures, bytes_of, painted
from sinefield.data.surfaces.readers.polygons import faces_of
from sinefield.data.surfaces.readers.source import Source
from sinefield.data.surfaces.readers.strips import strips
from sinefield.data.surfaces.readers.text import name_of, numbers, plain

TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4"}
TYPES |= {"uint32": "u4", "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8"}
HEAD = 1 << 20
"""Bytes in which a header must end."""
NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normalx", "normaly", "normalz"))
NORMALS += (("n_x", "n_y", "n_z"), ("nor_x", "nor_y", "nor_z"), ("norm_x", "norm_y", "norm_z"))
COLOURS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
COLOURS += (("color_red", "color_green", "color_blue"), ("rgb_r", "rgb_g", "rgb_b"), ("f_r", "f_g", "f_b"))
COORDINATES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("tex_u", "tex_v"), ("texture_s", "texture_t"))


class Property(NamedTuple):
    """One column: its NumPy type without byte order, and that of the count before it where it is a list."""

    name: str
    kind: str
    count: str | None


class Element(NamedTuple):
    """What the header says of one kind of row."""

    name: str
    rows: int
    properties: list[Property]


class Ragged(NamedTuple):
    """A column of lists: how many values each row has, and all values."""

    counts: np.ndarray
    values: np.ndarray


Table = dict[str, np.ndarray | Ragged]


def read_ply(source: Source) -> ShapeFile:
    """A mesh, or where there are no faces a cloud; raises SinefieldError for what is no PLY."""
    form, elements, pictures, body = _header(source)
    tables = _text(source, elements, body) if form == "ascii" else _binary(source, elements, form, body)
    vertex = tables.get("vertex")
    if vertex is None or not all(name in vertex for name in "xyz"):
        raise source.wrong("has no vertices with x, y and z")
    vertices = _columns(vertex, "xyz", np.float64)
    own = _named(vertex, COLOURS)
    colours = None if own is None else bytes_of(own)
    places, owner, corners, face = _faces(source, tables, vertices)
    if len(places):
        triangles = corners[places]
        paint = _paint(source, pictures, vertex, face, triangles, places, owner, colours)
        return ShapeFile([Part("", vertices, triangles, paint=paint)], None, source.notes)
    if not len(vertices):
        raise source.wrong("holds neither faces nor points")
    normals = _named(vertex, NORMALS)
    normals = None if normals is None else normals.astype(np.float64)
    return ShapeFile([Part("", vertices, None, normals, None, colours)], None, source.notes)


# ---- the header


def _header(source: Source) -> tuple[str, list[Element], list[str], bytes]:
    """Form, elements, the names of textures, and what follows."""
    head = plain(source.data[:HEAD]) if source.data[:3] != b"ply" else source.data[:HEAD]
    end = re.search(rb"(?m)^\s*end_header[ \t]*(\r\n|\n|\r(?!\n)|$)", head)
    if not head.startswith(b"ply") or end is None:
        raise source.wrong("has no PLY header")
    form, elements, pictures = "", [], []
    for line in re.split(rb"[\r\n]+", head[: end.start()]):
        words = line.decode("latin-1").split()
        if words[:1] == ["format"] and len(words) > 1:
            form = words[1].lower()
        elif words[:1] == ["element"] and len(words) > 2:
            elements.append(Element(words[1].lower(), _count(source, words), []))
        elif words[:1] == ["property"] and elements and len(words) > 2:
            elements[-1].properties.append(_property(source, words))
        elif words[:1] == ["comment"] and len(words) > 2 and words[1].lower() == "texturefile":
            pictures.append(name_of(line.split(None, 2)[2]))
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise source.wrong(f"has no PLY header of a known format ({form[:40]!r})")
    _check(source, form, elements, end.end())
    body = source.data[end.end() :] if head[:8] == source.data[:8] else plain(source.data)[end.end() :]
    return form, elements, pictures, body


def _count(source: Source, words: list[str]) -> int:
    if not re.fullmatch(r"-?\d{1,18}", words[2]) or int(words[2]) < 0:
        raise source.wrong(f"its header claims {words[2][:40]} of {words[1][:40]}")
    return int(words[2])


def _property(source: Source, words: list[str]) -> Property:
    kinds = [word.lower() for word in (words[2:4] if words[1] == "list" else words[1:2])]
    if any(kind not in TYPES for kind in kinds) or (words[1] == "list" and len(words) < 5):
        raise source.wrong(f"has a property of unknown type {' '.join(words[1:4])[:60]!r}")
    name = words[4] if words[1] == "list" else words[2]
    return Property(name.lower(), TYPES[kinds[-1]], TYPES[kinds[0]] if words[1] == "list" else None)


def _check(source: Source, form: str, elements: list[Element], begin: int) -> None:
    needed = begin
    for element in elements:
        # The least a row can take: a digit and a space each; a list's count alone.
        sizes = [2 if form == "ascii" else int((p.count or p.kind)[1]) for p in element.properties]
        needed += element.rows * max(sum(sizes), 1)
    claimed = " and ".join(f"{element.rows:,} of {element.name}" for element in elements)
    source.claims(claimed, needed - (form == "ascii"))
    rows = {element.name: element.rows for element in elements}
    source.check_faces(rows.get("face", 0))
    source.check_points(rows.get("vertex", 0))


# ---- the rows


def _text(source: Source, elements: list[Element], body: bytes) -> dict[str, Table]:
    """Tables of a text: all numbers at once, told apart by the header."""
    values, at, tables = numbers(source, body), 0, {}
    for element in elements:
        table, at = _rows_of_text(source, element, values, at)
        tables.setdefault(element.name, table)
    return tables


def _rows_of_text(source: Source, element: Element, values: np.ndarray, at: int) -> tuple[Table, int]:
    width = _regular_width(element, values, at)
    if width and at + element.rows * width <= len(values):
        block, column, table = values[at : at + element.rows * width].reshape(-1, width), 0, {}
        for p in element.properties:
            size = int(block[0, column]) if p.count and len(block) else 0
            if p.count and not (block[:, column] == size).all():
                break
            cells = block[:, column + 1 : column + 1 + size].reshape(-1) if p.count else block[:, column]
            table[p.name] = Ragged(np.full(len(block), size), _typed(cells, p)) if p.count else _typed(cells, p)
            column += 1 + size
        else:
            return table, at + element.rows * width
    return _walk_text(source, element, values, at)


def _regular_width(element: Element, values: np.ndarray, at: int) -> int:
    """How many numbers the first row has."""
    begin = at
    for p in element.properties:
        if at >= len(values):
            return 0
        at += 1 + (int(min(max(values[at], 0), len(values))) if p.count and np.isfinite(values[at]) else 0)
    return at - begin


def _walk_text(source: Source, element: Element, values: np.ndarray, at: int) -> tuple[Table, int]:
    found: dict[str, list] = {p.name: [] for p in element.properties}
    for row in range(element.rows):
        for p in element.properties:
            size = values[at] if at < len(values) else np.nan
            end = at + 1 + (size if p.count else 0)
            if at >= len(values) or (p.count and not (size >= 0 and end <= len(values))):
                raise source.wrong(f"its header claims {element.rows:,} of {element.name}, {row:,} are there")
            found[p.name].append(at)
            at = int(end)
    table: Table = {}
    for p in element.properties:
        places = np.array(found[p.name], np.int64)
        counts = values[places].astype(np.int64) if p.count else None
        table[p.name] = _typed(values[places], p) if counts is None else Ragged(
            counts, _typed(values[_spread(places + 1, counts)], p)
        )  # fmt: skip
    return table, at


def _typed(values: np.ndarray, p: Property) -> np.ndarray:
    """Numbers of a text as the header has them, whole ones as whole ones: a colour of 1 is then not one of 255."""
    if p.kind[0] == "f":
        return values
    with np.errstate(invalid="ignore"):
        return values.astype(np.int64)


def _binary(source: Source, elements: list[Element], form: str, body: bytes) -> dict[str, Table]:
    order, at, tables = "<" if "little" in form else ">", 0, {}
    for element in elements:
        table, at = _rows_of_binary(source, element, order, body, at)
        tables.setdefault(element.name, table)
    return tables


def _rows_of_binary(source: Source, element: Element, order: str, body: bytes, at: int) -> tuple[Table, int]:
    dtype = _row_type(element, order, body, at)
    if dtype is not None and at + element.rows * dtype.itemsize <= len(body):
        block = np.frombuffer(body, dtype, element.rows, at)
        lists = [(i, p) for i, p in enumerate(element.properties) if p.count]
        if all((block[f"n{i}"] == (block[f"n{i}"][0] if len(block) else 0)).all() for i, _ in lists):
            table: Table = {}
            for i, p in enumerate(element.properties):
                cells = block[f"p{i}"]
                table[p.name] = Ragged(block[f"n{i}"].astype(np.int64), cells.reshape(-1)) if p.count else cells
            return table, at + element.rows * dtype.itemsize
    if not any(p.count for p in element.properties):
        raise source.wrong(f"its header claims {element.rows:,} of {element.name}, fewer are there")
    return _walk_binary(source, element, order, body, at)


def _row_type(element: Element, order: str, body: bytes, at: int) -> np.dtype | None:
    """The type of a row that is as long as the first; None where that is none."""
    fields: list[tuple] = []
    for i, p in enumerate(element.properties):
        kind = np.dtype(order + p.kind)
        if p.count:
            count = np.dtype(order + p.count)
            if at + count.itemsize > len(body) or not element.rows:
                size = 0
            else:
                size = int(np.frombuffer(body, count, 1, at)[0])
            if not 0 <= size * kind.itemsize <= len(body):
                return None
            fields += [(f"n{i}", count), (f"p{i}", kind, (size,))]
            at += count.itemsize + size * kind.itemsize
        else:
            fields.append((f"p{i}", kind))
            at += kind.itemsize
    return np.dtype(fields) if at <= len(body) + 1 and fields else None


def _walk_binary(source: Source, element: Element, order: str, body: bytes, at: int) -> tuple[Table, int]:
    places: list[list[int]] = [[] for _ in element.properties]
    steps = []
    for p, found in zip(element.properties, places, strict=True):
        size = int(p.kind[1])
        read = struct.Struct(order + {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q",
                                      "u8": "Q", "f4": "f", "f8": "d"}[p.count]) if p.count else None  # fmt: skip
        steps.append((read, size, found))
    end, row = len(body), 0
    try:
        for row in range(element.rows):  # noqa: B007
            for read, size, found in steps:
                found.append(at)
                if read is None:
                    at += size
                else:
                    count = int(read.unpack_from(body, at)[0])
                    at += read.size + count * size
                    if count < 0:
                        raise OverflowError
            if at > end:
                raise OverflowError
    except (struct.error, OverflowError, ValueError) as error:
        raise source.wrong(f"its header claims {element.rows:,} of {element.name}, {row:,} are there") from error
    table: Table = {}
    for p, found in zip(element.properties, places, strict=True):
        starts, kind = np.array(found, np.int64), np.dtype(order + p.kind)
        if p.count is None:
            table[p.name] = _gathered(body, starts, kind)
            continue
        count = np.dtype(order + p.count)
        counts = _gathered(body, starts, count).astype(np.int64)
        first = _spread(np.zeros(len(starts), np.int64), counts) * kind.itemsize
        table[p.name] = Ragged(counts, _gathered(body, first + np.repeat(starts + count.itemsize, counts), kind))
    return table, at


def _gathered(body: bytes, places: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Numbers that begin anywhere."""
    octets = np.frombuffer(body, np.uint8)
    found = np.empty((len(places), kind.itemsize), np.uint8)
    for i in range(kind.itemsize):
        found[:, i] = octets[places + i]
    return found.view(kind).reshape(-1)


def _spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, … counts[0] of them, then those of the next."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


# ---- what they mean


def _columns(table: Table, names, dtype=None) -> np.ndarray:
    return np.stack([np.asarray(table[name]) for name in names], 1).astype(dtype) if dtype else np.stack(
        [np.asarray(table[name]) for name in names], 1
    )  # fmt: skip


def _named(table: Table, choices) -> np.ndarray | None:
    """The columns of the first of these names that are all there."""
    for names in choices:
        if all(isinstance(table.get(name), np.ndarray) for name in names):
            return _columns(table, names)
    return None


def _faces(source: Source, tables: dict[str, Table], vertices: np.ndarray):
    """Triangles as places in a list of corners, the face each comes from, those corners, and the faces' table."""
    face: Table = tables.get("face", {})
    lists = [column for name, column in face.items() if isinstance(column, Ragged) and "ind" in name]
    if lists:
        corners = lists[0].values.astype(np.int64)
        return *faces_of(source, lists[0].counts, corners, vertices), corners, face
    for column in tables.get("tristrips", {}).values():
        if isinstance(column, Ragged):
            triangles = strips(column.values.astype(np.int64), np.cumsum(column.counts))
            source.check_faces(len(triangles))
            source.check_corners(triangles, len(vertices))
            return np.arange(triangles.size).reshape(-1, 3), np.arange(len(triangles)), triangles.reshape(-1), {}
    return np.empty((0, 3), np.int64), np.empty(0, np.int64), np.empty(0, np.int64), {}


def _paint(
    source: Source,
    names: list[str],
    vertex: Table,
    face: Table,
    triangles: np.ndarray,
    places: np.ndarray,
    owner: np.ndarray,
    colours: np.ndarray | None,
) -> Paint | None:
    corners = None
    if colours is not None:
        corners = colours[triangles] / np.float32(255)
    elif (own := _named(face, COLOURS)) is not None:
        corners = np.repeat(bytes_of(own)[owner][:, None] / np.float32(255), 3, 1)
    uv = _coordinates(vertex, face, triangles, places, owner) if names else None
    pictures, look_of = Pictures(source), np.zeros(len(triangles), np.int64)
    looks = [Look()]
    if uv is not None:
        looks = [Look(None, pictures.number(name, source.beside(name), name)) for name in names[:256]]
        number = face.get("texnumber")
        if isinstance(number, np.ndarray):
            look_of = number[owner].astype(np.int64).clip(0, len(looks) - 1)
    return painted(looks, look_of, uv, corners, pictures)


def _coordinates(vertex: Table, face: Table, triangles: np.ndarray, places: np.ndarray, owner: np.ndarray):
    """(f, 3, 2) u and v of the triangles' corners, from lists of the faces or columns of the vertices."""
    lists = [column for name, column in face.items() if isinstance(column, Ragged) and "coord" in name]
    indices = next((c for name, c in face.items() if isinstance(c, Ragged) and "ind" in name), None)
    if lists and indices is not None and (lists[0].counts == 2 * indices.counts).all():
        return lists[0].values.reshape(-1, 2)[places].astype(np.float32)
    own = _named(vertex, COORDINATES)
    return None if own is None else own[triangles].astype(np.float32)
