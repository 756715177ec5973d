"""OBJ: polygons of any size, objects or groups as parts, colours of vertices, materials and textures beside the file.

A reader of our own, which keeps 17 digits, clips concave polygons, knows encodings, and opens no file but those it is
allowed to.
"""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sinefield.data.surfaces.parts import Part, ShapeFile
from sinefield.data.surfaces.readers.colours import Look, Pictures, painted
from sinefield.data.surfaces.readers.polygons import faces_of, split
from sinefield.data.surfaces.readers.source import MAX_PARTS, Source
from sinefield.data.surfaces.readers.text import Words, name_of, numbers, plain, without_comments

DIGITS = 18
SLASH, MINUS = ord("/"), ord("-")
MAX_MATERIALS = 16 << 20
"""Bytes of a file of materials."""
OPTIONS = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2, "-texres": 1, "-bm": 1, "-boost": 1, "-blendu": 1, "-blendv": 1}
OPTIONS |= {"-clamp": 1, "-cc": 1, "-imfchan": 1, "-type": 1, "-colorspace": 1}
"""Of a texture's line, and how many words follow each."""


class Rows(NamedTuple):
    """Lines of numbers of one kind.

    Attributes:
        line: where each is.
        width: how many numbers each has.
        values: all of them.
    """

    line: np.ndarray
    width: np.ndarray
    values: np.ndarray

    def columns(self, first: int, count: int) -> np.ndarray:
        """(lines, count) of the numbers from the first on; NaN where a line has not so many."""
        starts = np.cumsum(self.width) - self.width
        there = self.width >= first + count
        found = np.full((len(starts), count), np.nan)
        found[there] = self.values[starts[there, None] + np.arange(first, first + count)]
        return found


class Corners(NamedTuple):
    """The corners of all faces: their vertices and texture coordinates (-1: none), counted from 0; and their lines."""

    line: np.ndarray
    counts: np.ndarray
    vertex: np.ndarray
    uv: np.ndarray


def read_obj(source: Source) -> ShapeFile:
    """Vertices with what lies between them; raises SinefieldError for what is no OBJ."""
    text = re.sub(rb"\\[ \t]*\r?\n", b" ", plain(source.data)) if b"\\" in source.data else plain(source.data)
    words = Words(without_comments(text))
    points, uv = _numbers(source, words, b"v"), _numbers(source, words, b"vt")
    if len(points.width) and points.width.min() < 3:
        raise source.wrong(f"a vertex has {points.width.min()} numbers instead of three")
    source.check_points(len(points.line))
    vertices = points.columns(0, 3)
    if any(words.begin_with(kind).any() for kind in (b"l", b"p", b"curv", b"surf")):
        source.note("Lines, points and curves are left out.")
    faces = _corners(source, words, points.line, uv.line)
    if not len(faces.counts):
        return _cloud(source, words, vertices, points)
    places, owner = faces_of(source, faces.counts, faces.vertex, vertices)
    paint = _paint(source, words, faces, points, uv, places, owner)
    triangles = faces.vertex[places]
    names, part_of = _parts(source, words, faces.line)
    return ShapeFile(list(split(names, part_of[owner], vertices, triangles, paint)), None, source.notes)


def _numbers(source: Source, words: Words, kind: bytes) -> Rows:
    chosen = np.flatnonzero(words.begin_with(kind))
    width = words.widths[chosen] - 1
    values = numbers(source, words.cut(chosen, len(kind)))
    if len(values) != width.sum():
        raise source.wrong(f"its lines of {kind.decode()} are no numbers")
    return Rows(words.line[words.rows[chosen]], width, values)


def _corners(source: Source, words: Words, points: np.ndarray, uv: np.ndarray) -> Corners:
    """The faces' corners, of words like 7, 7/1, 7//3, 7/1/3, each number positive or counted back from its line."""
    chosen = np.flatnonzero(words.begin_with(b"f"))
    line, counts = words.line[words.rows[chosen]], words.widths[chosen] - 1
    text = np.frombuffer(words.cut(chosen, 1), np.uint8)
    digit = (text >= 48) & (text <= 57)
    slash, blank = text == SLASH, text <= 32
    if not (digit | slash | blank | (text == MINUS)).all():
        odd = bytes(text[~(digit | slash | blank | (text == MINUS))][:20])
        raise source.wrong(f"a face has {odd.decode('latin-1')!r} among the numbers of its corners")
    begins = ~blank
    begins[1:] &= blank[:-1]
    word = np.cumsum(begins) - 1
    slashes = np.cumsum(slash)
    values, first = _whole(source, text, digit)
    owner = word[first]
    start = np.flatnonzero(begins)[owner]
    place = slashes[first] - slashes[start] + slash[start]
    found = np.zeros((3, int(counts.sum())), np.int64)
    usable = place < 3
    found[place[usable], owner[usable]] = values[usable]
    if not found[0].all():
        raise source.wrong("a face names vertex 0, or none")
    lines = np.repeat(line, counts)
    found[0] = _from_zero(found[0], points, lines)
    found[1] = np.where(found[1] == 0, -1, _from_zero(found[1], uv, lines))
    if (found[0] < 0).any() or found[0].max(initial=-1) >= len(points):
        wrong = found[0].min() if (found[0] < 0).any() else found[0].max()
        raise source.wrong(f"a face names vertex {wrong + 1} of {len(points)}")
    if (found[1] < -1).any() or found[1].max(initial=-1) >= len(uv):
        raise source.wrong("a face names texture coordinates that are not there")
    return Corners(line, counts, found[0], found[1])


def _from_zero(number: np.ndarray, lines: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Numbers counted from 0: those below 0 go back from the last of `lines` before the line they stand in."""
    return np.where(number < 0, np.searchsorted(lines, at) + number, number - 1)


def _whole(source: Source, text: np.ndarray, digit: np.ndarray) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The whole numbers in a text, and where each begins."""
    edge = np.diff(digit.astype(np.int8), prepend=0, append=0)
    first, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    if not len(first):
        return np.empty(0, np.int64), first
    if (end - first).max() > DIGITS:
        raise source.wrong("a face has a number of more than 18 digits")
    at = np.flatnonzero(digit)
    power = np.repeat(end, end - first) - 1 - at
    powers = 10 ** np.arange(DIGITS + 1, dtype=np.int64)
    values = np.add.reduceat((text[at] - 48) * powers[power], np.cumsum(end - first) - (end - first))
    before = np.maximum(first - 1, 0)
    return np.where((text[before] == MINUS) & (first > 0), -values, values), first


def _cloud(source: Source, words: Words, vertices: np.ndarray, points: Rows) -> ShapeFile:
    if not len(vertices):
        raise source.wrong("holds neither faces nor points")
    normals = _numbers(source, words, b"vn")
    own = normals.columns(0, 3) if len(normals.line) == len(vertices) else None
    colours = points.columns(3, 3)
    given = None if np.isnan(colours).any() else np.round(255 * _unit(colours)).astype(np.uint8)
    return ShapeFile([Part("", vertices, None, own, None, given)], None, source.notes)


def _unit(colours: np.ndarray) -> np.ndarray:
    """Colours of vertices in [0, 1]: some writers have them up to 255."""
    top = np.nanmax(colours, initial=0)
    return (colours / (255 if top > 1 else 1)).clip(0, 1)


def _paint(source: Source, words: Words, faces: Corners, points: Rows, uv: Rows, places: np.ndarray, owner: np.ndarray):
    pictures = Pictures(source)
    looks, look_of = _looks(source, words, faces.line, pictures)
    colours = None
    if len(points.width) and points.width.max() >= 6:
        colours = _unit(points.columns(3, 3))[faces.vertex[places]]
    coordinates = None
    if len(uv.line) and pictures.found:
        table = np.concatenate([uv.columns(0, 2), [[np.nan, np.nan]]])  # the last: of -1, none
        coordinates = table[faces.uv[places]]
    return painted(looks, look_of[owner], coordinates, colours, pictures)


def _texts(words: Words, kind: bytes) -> tuple[np.ndarray, list[bytes]]:
    """The lines that begin with a word, and what follows it."""
    chosen = np.flatnonzero(words.begin_with(kind))
    found = []
    for row in chosen.tolist():
        start, end = words.span(row)
        found.append(words.text[start + len(kind) : end].strip())
    return words.line[words.rows[chosen]], found


def _parts(source: Source, words: Words, lines: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of objects, or where there is none of groups, and which of them the faces in `lines` belong to."""
    for kind in (b"o", b"g"):
        at, texts = _texts(words, kind)
        numbers: dict[bytes, int] = {b"": 0}
        of = np.array([0, *(numbers.setdefault(text, len(numbers)) for text in texts)])
        if len(numbers) > MAX_PARTS:
            source.note(f"{len(numbers) - 1:,} names of groups are more than {MAX_PARTS:,}: all faces are one part.")
            break
        if texts:
            return [name_of(text) for text in numbers], of[np.searchsorted(at, lines)]
    return [""], np.zeros(len(lines), np.int64)


def _looks(source: Source, words: Words, lines: np.ndarray, pictures: Pictures) -> tuple[list[Look], np.ndarray]:
    """Materials, and which of them each face has; the last is none."""
    at, names = _texts(words, b"usemtl")
    if not names:
        return [Look()], np.zeros(len(lines), np.int64)
    materials: dict[bytes, Look] = {}
    for text in dict.fromkeys(_texts(words, b"mtllib")[1]):
        data = source.beside(name_of(text), MAX_MATERIALS)
        if data is None:
            source.note(f"The file of materials {name_of(text)!r:.80} is not beside the file: no colours from it.")
        else:
            materials |= _materials(source, plain(data), pictures, set(names))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    looks = [materials.get(name, Look()) for name in numbers]
    of = np.array([len(looks), *(numbers[name] for name in names)])
    return [*looks, Look()], of[np.searchsorted(at, lines)]


def _materials(source: Source, text: bytes, pictures: Pictures, wanted: set[bytes]) -> dict[bytes, Look]:
    found: dict[bytes, Look] = {}
    name = b""
    for line in text.splitlines():
        word, _, rest = line.replace(b"\t", b" ").strip().partition(b" ")
        rest = rest.strip()
        if word == b"newmtl":
            name = rest
        elif name in wanted and word.lower() == b"kd":
            found[name] = found.get(name, Look())._replace(colour=_colour(rest))
        elif name in wanted and word.lower() == b"map_kd":
            file = name_of(_file_of(rest))
            number = pictures.number(file, source.beside(file), file)
            found[name] = found.get(name, Look())._replace(texture=number)
    return found


def _colour(text: bytes) -> tuple[float, float, float] | None:
    try:
        red, green, blue = (float(word) for word in (text.split() * 3)[:3])
    except ValueError:  # a spectral file, or damage
        return None
    values = np.nan_to_num(np.clip([red, green, blue], 0, 1))
    return float(values[0]), float(values[1]), float(values[2])


def _file_of(text: bytes) -> bytes:
    """A texture's file of a line that may begin with options; its name may have spaces."""
    while text.startswith(b"-"):
        option, _, text = text.partition(b" ")
        for _ in range(OPTIONS.get(option.decode("latin-1"), 1)):
            word, _, rest = text.strip().partition(b" ")
            if not rest:
                break
            try:  # scales and offsets may have fewer numbers than three
                float(word)
            except ValueError:
                if option in (b"-s", b"-o", b"-t", b"-mm"):
                    break
            text = rest
        text = text.strip()
    return text
