"""glTF 2.0 and GLB whole: nodes with their places, instances, every mode of primitives, packed and sparse numbers.

A reader of our own, since the general one at hand drops what it does not know (sparse and quantised numbers,
instances, fans, packed meshes) without a word, and opens images of any kind and size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sinefield.data.surfaces.parts import Paint, Part, ShapeFile
from sinefield.data.surfaces.readers.colours import bytes_of
from sinefield.data.surfaces.readers.gltf_data import DRACO, MESHOPT, Document
from sinefield.data.surfaces.readers.gltf_paint import Materials
from sinefield.data.surfaces.readers.source import MAX_PARTS, Source
from sinefield.data.surfaces.readers.strips import fan, strips

INSTANCING = "EXT_mesh_gpu_instancing"
KNOWN = {DRACO, MESHOPT, INSTANCING, "KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp"}
KNOWN |= {"KHR_lights_punctual", "KHR_xmp_json_ld", "KHR_node_visibility", "KHR_animation_pointer"}
MODES = ("points", "lines", "line loops", "line strips", "triangles", "strips", "fans")
POINTS, TRIANGLES, STRIPS, FANS = 0, 4, 5, 6
APART = 256
"""Instances of a node above which they are one part."""


class Piece(NamedTuple):
    """A primitive where its mesh has it: vertices (v, 3), faces (f, 3) or None for points, their colours."""

    vertices: np.ndarray
    faces: np.ndarray | None
    paint: Paint | None
    colours: np.ndarray | None


def read_gltf(source: Source) -> ShapeFile:
    """Every mesh of the scene at its place, in metres; raises SinefieldError, or nearly anything for damaged trees."""
    document = Document(source)
    _check_version(document)
    materials, meshes = Materials(document), {}
    placed = []
    for node, matrix in _nodes(document):
        number = node.get("mesh")
        if number is None:
            continue
        if number not in meshes:
            meshes[number] = _pieces(document, materials, document.item("meshes", number))
        placed.append((_name(node, document.item("meshes", number)), meshes[number], _places(document, node, matrix)))
    # Counted before they are made: one mesh may stand at thousands of places.
    source.check_faces(sum(len(p) * len(m.faces) for _, ms, p in placed for m in ms if m.faces is not None))
    source.check_points(sum(len(p) * len(m.vertices) for _, ms, p in placed for m in ms))
    _note_the_rest(document)
    solid = any(piece.faces is not None for _, pieces, _ in placed for piece in pieces)
    if solid and any(piece.faces is None for _, pieces, _ in placed for piece in pieces):
        source.note("Points beside the meshes are left out.")
    parts = [part for name, pieces, places in placed for part in _parts(name, pieces, places, solid)]
    if not parts:
        raise source.wrong("holds neither faces nor points")
    if len(parts) > MAX_PARTS:
        source.note(f"{len(parts):,} nodes are more than {MAX_PARTS:,}: all are one part.")
        parts = [_joined("", parts)]
    return ShapeFile(parts, "m", source.notes)


def _check_version(document: Document) -> None:
    version = str((document.tree.get("asset") or {}).get("version", "2.0"))
    if not version.startswith("2"):
        raise document.source.wrong(f"is glTF {version[:10]}", "convert it to glTF 2.0")
    required = document.tree.get("extensionsRequired") or []
    unknown = [str(name) for name in required if name not in KNOWN and not str(name).startswith("KHR_materials_")]
    if unknown:
        raise document.source.wrong(f"needs {', '.join(unknown)[:200]}, which is not read", "export it without")


def _note_the_rest(document: Document) -> None:
    tree = document.tree
    if tree.get("animations"):
        document.source.note("Animations are left out: everything is where its node puts it.")
    if tree.get("skins"):
        document.source.note("Skins are left out: meshes are in the pose they were made in.")
    primitives = [p for mesh in tree.get("meshes") or [] for p in mesh.get("primitives") or []]
    if any(p.get("targets") for p in primitives):
        document.source.note("Morph targets are left out: meshes have their first shape.")
    lines = sorted({MODES[p.get("mode", 4)] for p in primitives if p.get("mode", 4) in (1, 2, 3)})
    if lines:
        document.source.note(f"Primitives that are {', '.join(lines)} are left out.")


def _name(node: dict[str, Any], mesh: dict[str, Any]) -> str:
    return str(node.get("name") or mesh.get("name") or "")


# ---- where things stand


def _nodes(document: Document) -> list[tuple[dict[str, Any], np.ndarray]]:
    """The scene's nodes with their places (4, 4), each before its children."""
    found, seen = [], set()
    waiting = [(number, np.eye(4)) for number in reversed(_roots(document))]
    while waiting:
        number, above = waiting.pop()
        node = document.item("nodes", number)
        if number in seen:
            raise document.source.wrong(f"its node {number} has two parents or is its own")
        seen.add(number)
        matrix = above @ _matrix(document, node)
        found.append((node, matrix))
        waiting += [(child, matrix) for child in reversed(node.get("children") or [])]
    return found


def _roots(document: Document) -> list[Any]:
    tree = document.tree
    if tree.get("scenes"):
        return list(dict.fromkeys(document.item("scenes", tree.get("scene", 0)).get("nodes") or []))
    nodes = tree.get("nodes") or []
    below = {child for node in nodes for child in node.get("children") or []}
    return [number for number in range(len(nodes)) if number not in below]


def _matrix(document: Document, node: dict[str, Any]) -> np.ndarray:
    if node.get("matrix") is not None:
        return _floats(document, node["matrix"], 16).reshape(4, 4).T
    given = {"translation": (0, 0, 0), "rotation": (0, 0, 0, 1), "scale": (1, 1, 1)}
    values = [_floats(document, node.get(key) or usual, len(usual)) for key, usual in given.items()]
    return _transforms(*(value[None] for value in values))[0]


def _floats(document: Document, values: Any, count: int) -> np.ndarray:
    found = np.array([float(value) for value in values], np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise document.source.wrong(f"has a place of {len(found)} numbers, or of none that are finite")
    return found


def _transforms(translation: np.ndarray, rotation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(n, 4, 4) of translations (n, 3), quaternions x y z w (n, 4) and scales (n, 3)."""
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    rotation = np.where(length > 0, rotation / np.where(length > 0, length, 1), (0.0, 0.0, 0.0, 1.0))
    x, y, z, w = rotation.T
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]  # fmt: skip
    found = np.tile(np.eye(4), (len(x), 1, 1))
    found[:, :3, :3] = np.moveaxis(np.array(rows), -1, 0) * scale[:, None]
    found[:, :3, 3] = translation
    return found


def _places(document: Document, node: dict[str, Any], matrix: np.ndarray) -> np.ndarray:
    """(n, 4, 4) where a node's mesh stands."""
    extension = (node.get("extensions") or {}).get(INSTANCING)
    if extension is None:
        return matrix[None]
    given = {name: document.array(number).astype(np.float64) for name, number in extension["attributes"].items()
             if name in ("TRANSLATION", "ROTATION", "SCALE")}  # fmt: skip
    count = min((len(values) for values in given.values()), default=0)
    usual = {"TRANSLATION": (0.0, 0.0, 0.0), "ROTATION": (0.0, 0.0, 0.0, 1.0), "SCALE": (1.0, 1.0, 1.0)}
    values = [given[name][:count] if name in given else np.tile(start, (count, 1)) for name, start in usual.items()]
    return matrix @ _transforms(*values)


def _parts(name: str, pieces: list[Piece], places: np.ndarray, solid: bool) -> list[Part]:
    """A part for each place of a mesh; one for all where they are very many."""
    pieces = [piece for piece in pieces if (piece.faces is not None) == solid]
    if not pieces:
        return []
    found = [_joined(name, [_placed(name, piece, matrix) for piece in pieces]) for matrix in places]
    return [_joined(name, found)] if len(found) > APART else found


def _placed(name: str, piece: Piece, matrix: np.ndarray) -> Part:
    vertices, faces, paint = piece.vertices @ matrix[:3, :3].T + matrix[:3, 3], piece.faces, piece.paint
    if faces is not None and np.linalg.det(matrix[:3, :3]) < 0:  # mirrored
        faces = faces[:, ::-1]
        paint = None if paint is None else Paint(paint.corners[:, ::-1], paint.textures, paint.texture_of)
    return Part(name, vertices, faces, None, paint, piece.colours)


def _joined(name: str, parts: list[Part]) -> Part:
    """Several as one; where some faces have colours, the others are white as the format has it."""
    if len(parts) == 1:
        return parts[0]._replace(name=name)
    vertices = np.concatenate([part.vertices for part in parts])
    if parts[0].faces is None:
        own = [part.colours for part in parts if part.colours is not None]
        return Part(name, vertices, colours=np.concatenate(own) if len(own) == len(parts) else None)
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + start for part, start in zip(parts, starts, strict=False) if part.faces is not None]
    paint = None
    if any(part.paint is not None for part in parts):
        paint = Paint.joined([part.paint or Paint.plain(np.ones((len(f), 3, 3))) for part, f in
                              zip(parts, faces, strict=True)])  # fmt: skip
    return Part(name, vertices, np.concatenate(faces), None, paint)


# ---- what meshes are made of


def _pieces(document: Document, materials: Materials, mesh: dict[str, Any]) -> list[Piece]:
    found = [_piece(document, materials, primitive) for primitive in mesh.get("primitives") or []]
    return [piece for piece in found if piece is not None]


def _piece(document: Document, materials: Materials, primitive: dict[str, Any]) -> Piece | None:
    mode = document.whole(primitive, "mode", TRIANGLES)
    if mode not in (POINTS, TRIANGLES, STRIPS, FANS):
        if mode >= len(MODES):
            raise document.source.wrong(f"has a primitive of unknown mode {mode}")
        return None
    attribute, indices = _attributes(document, primitive)
    vertices = attribute("POSITION")
    if vertices is None or vertices.shape[1] != 3:
        document.source.note("Primitives without positions are left out.")
        return None
    corners = np.arange(len(vertices)) if indices is None else indices.reshape(-1).astype(np.int64)
    document.source.check_corners(corners, len(vertices))
    vertices = vertices.astype(np.float64)
    if mode == POINTS:
        colours = attribute("COLOR_0")
        own = None if colours is None else bytes_of(materials.of_vertices(colours, None)[corners])
        return Piece(vertices[corners], None, None, own) if len(corners) else None
    document.source.check_faces(len(corners) // 3 if mode == TRIANGLES else len(corners))
    if mode == TRIANGLES:
        faces = corners[: len(corners) // 3 * 3].reshape(-1, 3)
    else:
        faces = strips(corners) if mode == STRIPS else fan(corners)
    if not len(faces):
        return None
    paint = materials.paint(primitive, faces, attribute)
    # One array of vertices may serve many primitives: each keeps its own.
    used, faces = np.unique(faces, return_inverse=True)
    return Piece(vertices[used], faces.reshape(-1, 3), paint, None)


def _attributes(
    document: Document, primitive: dict[str, Any]
) -> tuple[Callable[[str], np.ndarray | None], np.ndarray | None]:
    """What gives a primitive's attributes by name, and its indices."""
    accessors = primitive.get("attributes") or {}
    extension = (primitive.get("extensions") or {}).get(DRACO)
    if extension is None:
        number = primitive.get("indices")
        indices = None if number is None else document.array(number)
        return (lambda name: document.array(accessors[name]) if name in accessors else None), indices
    mesh, own = document.draco(extension.get("bufferView")), extension.get("attributes") or {}

    def attribute(name: str) -> np.ndarray | None:
        if name not in own:
            return document.array(accessors[name]) if name in accessors else None
        values = np.asarray(mesh.get_attribute_by_unique_id(own[name])["data"])
        item = document.item("accessors", accessors[name]) if name in accessors else {}
        if item.get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values / np.float64(np.iinfo(values.dtype).max), -1)
        return values

    return attribute, np.asarray(mesh.faces)
