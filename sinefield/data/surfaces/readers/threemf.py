"""3MF: build items and components at their places, in the file's unit, with names and colours.

The model is read by expat as it streams; a document type, and so any entity, is refused.
"""

from dataclasses import dataclass, field
from xml.parsers import expat

import numpy as np

from sinefield.data.surfaces.parts import Paint, Part, ShapeFile
from sinefield.data.surfaces.readers.colours import Look, Pictures, painted
from sinefield.data.surfaces.readers.source import Source
from sinefield.data.surfaces.readers.zips import open_zip, unzip

UNITS = {"micron": "um", "millimeter": "mm", "centimeter": "cm", "inch": "in", "foot": "ft", "meter": "m"}
USUAL = "3D/3dmodel.model"
DEPTH = 32
"""Components within components."""
MAX_PLACED = 100_000
"""Components that are looked into."""


@dataclass
class Object:
    """One object of a model: a mesh, or others at places of their own."""

    name: str
    kind: str
    group: str
    index: str
    vertices: list[float] = field(default_factory=list)
    faces: list[int] = field(default_factory=list)
    colour_of: list[tuple[str, str, str, str] | None] = field(default_factory=list)
    components: list[tuple[str, str, np.ndarray]] = field(default_factory=list)


@dataclass
class Model:
    """One part of the archive that holds objects."""

    unit: str = "mm"
    objects: dict[str, Object] = field(default_factory=dict)
    groups: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    items: list[tuple[str, str, np.ndarray]] = field(default_factory=list)


class Archive:
    """The models of one file, read as they are asked for."""

    def __init__(self, source: Source) -> None:
        self.source, self.zip = source, open_zip(source)
        self.names = {name.lower().lstrip("/"): name for name in self.zip.namelist()}
        self.models: dict[str, Model] = {}
        self.left = MAX_PLACED
        self.parts: list[Part] = []
        self.faces = 0

    def model(self, path: str) -> Model:
        """The model of that path."""
        key = path.lower().lstrip("/")
        if key not in self.names:
            raise self.source.wrong(f"has no model {path!r:.80} in it")
        if key not in self.models:
            self.models[key] = _parsed(self.source, unzip(self.source, self.zip, self.names[key]))
        return self.models[key]

    def main(self) -> str:
        """The path of the model that is to be built."""
        if USUAL.lower() in self.names:
            return USUAL
        models = [name for name in self.names if name.endswith(".model")]
        if not models:
            raise self.source.wrong("has no model in it")
        return models[0]

    def place(self, path: str, number: str, matrix: np.ndarray, depth: int, name: str = "") -> None:
        """Add the parts of an object that stands somewhere."""
        self.left -= 1
        if depth > DEPTH or self.left < 0:
            raise self.source.wrong("has components within components without end")
        model = self.model(path)
        held = model.objects.get(number)
        if held is None:
            raise self.source.wrong(f"refers to an object {number!r:.40} that is not there")
        name = held.name or name
        if held.kind not in ("model", "solidsupport", "surface", ""):
            self.source.note(f"Objects of type {held.kind:.20} are left out.")
            return
        if held.faces:
            self.faces += len(held.faces) // 3
            self.source.check_faces(self.faces)
            self.parts.append(_part(self.source, model, held, name, matrix))
        for below, other, own in held.components:
            self.place(below or path, other, own @ matrix, depth + 1, name)


def read_3mf(source: Source) -> ShapeFile:
    """What is to be built; raises SinefieldError for a damaged archive or model."""
    archive = Archive(source)
    path = archive.main()
    model = archive.model(path)
    for below, number, matrix in model.items:
        archive.place(below or path, number, matrix, 0)
    if not archive.parts:
        for number in model.objects:
            archive.place(path, number, np.eye(4), 0)
        if archive.parts:
            source.note("Nothing in it is to be built: all objects are read.")
    if not archive.parts:
        raise source.wrong("holds no faces")
    return ShapeFile(archive.parts, model.unit, source.notes)


def _part(source: Source, model: Model, held: Object, name: str, matrix: np.ndarray) -> Part:
    vertices = np.array(held.vertices, np.float64).reshape(-1, 3)
    faces = np.array(held.faces, np.int64).reshape(-1, 3)
    source.check_corners(faces, len(vertices))
    paint = _paint(source, model, held)
    vertices = vertices @ matrix[:3, :3] + matrix[3, :3]
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]
        paint = None if paint is None else Paint(paint.corners[:, ::-1], paint.textures, paint.texture_of)
    return Part(name, vertices, faces, None, paint)


def _paint(source: Source, model: Model, held: Object) -> Paint | None:
    """Colours of the triangles' corners, of their own group or of the object's."""
    colours = np.full((len(held.colour_of), 3, 3), np.nan, np.float32)

    def colour(group: str, index: str) -> tuple[float, float, float] | None:
        found = model.groups.get(group, [])
        return found[int(index)] if index.isascii() and index.isdigit() and int(index) < len(found) else None

    whole = colour(held.group, held.index)
    if whole is not None:
        colours[:] = whole
    for row, own in enumerate(held.colour_of):
        if own is not None:
            group, first, second, third = own
            given = [colour(group or held.group, index or first) for index in (first, second, third)]
            if all(value is not None for value in given):
                colours[row] = given
    return painted([Look()], np.zeros(len(colours), np.int64), None, colours, Pictures(source))


# ---- XML


def _parsed(source: Source, text: bytes) -> Model:
    model, parser = Model(), expat.ParserCreate()
    reader = _Reader(source, model)

    def refuse(*_) -> int:
        raise source.wrong("its model has a document type or entities, which no 3MF file has")

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise source.wrong(f"its model is no XML ({str(error)[:60]})") from error
    return model


class _Reader:
    """What each element of a model means, in the order in which they come."""

    def __init__(self, source: Source, model: Model) -> None:
        self.source, self.model = source, model
        self.object: Object | None = None
        self.group: list[tuple[float, float, float]] | None = None

    def start(self, tag: str, given: dict[str, str]) -> None:
        act = getattr(self, "_" + tag.rpartition(":")[2], None)
        if act is not None:
            try:
                act(given)
            except (KeyError, ValueError, OverflowError) as error:
                raise self.source.wrong(
                    f"an element {tag!r:.40} of its model is damaged ({str(error)[:40]})"
                ) from error

    def end(self, tag: str) -> None:
        tag = tag.rpartition(":")[2]
        if tag == "object":
            self.object = None
        elif tag in ("basematerials", "colorgroup"):
            self.group = None

    def _model(self, given: dict[str, str]) -> None:
        unit = given.get("unit", "millimeter")
        if unit not in UNITS:
            self.source.note(f"Its unit {unit!r:.20} is unknown: millimetres are assumed.")
        self.model.unit = UNITS.get(unit, "mm")

    def _object(self, given: dict[str, str]) -> None:
        own = (given.get("name", ""), given.get("type", "model"), given.get("pid", ""), given.get("pindex", ""))
        self.object = self.model.objects[given["id"]] = Object(*own)

    def _vertex(self, given: dict[str, str]) -> None:
        if self.object is not None:
            self.object.vertices += (float(given["x"]), float(given["y"]), float(given["z"]))

    def _triangle(self, given: dict[str, str]) -> None:
        if self.object is not None:
            self.object.faces += (int(given["v1"]), int(given["v2"]), int(given["v3"]))
            own = None
            if "p1" in given:
                own = (given.get("pid", ""), given["p1"], given.get("p2", ""), given.get("p3", ""))
            self.object.colour_of.append(own)

    def _component(self, given: dict[str, str]) -> None:
        if self.object is not None:
            self.object.components.append(self._placed(given))

    def _item(self, given: dict[str, str]) -> None:
        self.model.items.append(self._placed(given))

    def _placed(self, given: dict[str, str]) -> tuple[str, str, np.ndarray]:
        path = next((value for key, value in given.items() if key.rpartition(":")[2] == "path"), "")
        matrix = np.eye(4)
        if "transform" in given:
            values = np.array([float(word) for word in given["transform"].split()])
            if values.shape != (12,) or not np.isfinite(values).all():
                raise ValueError("transform")
            matrix[:, :3] = values.reshape(4, 3)
        return path, given["objectid"], matrix

    def _basematerials(self, given: dict[str, str]) -> None:
        self.group = self.model.groups[given["id"]] = []

    _colorgroup = _basematerials

    def _base(self, given: dict[str, str]) -> None:
        self._add(given.get("displaycolor", "#FFFFFF"))

    def _color(self, given: dict[str, str]) -> None:
        self._add(given["color"])

    def _add(self, text: str) -> None:
        if self.group is not None:
            octets = bytes.fromhex(text.lstrip("#"))
            if len(octets) < 3:
                raise ValueError(text)
            self.group.append((octets[0] / 255, octets[1] / 255, octets[2] / 255))

    def _texture2dgroup(self, given: dict[str, str]) -> None:
        self.source.note("Textures of a 3MF file are left out.")
