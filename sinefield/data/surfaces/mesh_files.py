"""Mesh and point-cloud files into plain arrays, distrusting every number a header claims."""

import json
import logging
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.visual import ColorVisuals

from sinefield.data.surfaces.parts import Paint, Part, ShapeFile
from sinefield.errors import SinefieldError
from sinefield.files import require_file

logging.getLogger("trimesh").addHandler(logging.NullHandler())  # what it would print says nothing to a user
EXTENSIONS = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf", ".xyz")
MAX_FACES = 20_000_000
MAX_POINTS = 50_000_000
MAX_BYTES = 4 << 30
AGAIN = "it is truncated or damaged; export it again"
PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
PLY_BYTES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}
PLY_BYTES |= {"int64": 8, "uint64": 8}


def read_shape(path: str | Path) -> ShapeFile:
    """Read a mesh (.obj .ply .stl .off .glb .gltf) or a point cloud with normals (.ply .xyz: x y z nx ny nz).

    Polygons come as triangles, the objects of a scene as one mesh with their transforms applied. Normals are read for
    point clouds only; colours are the vertices' own, not those of a texture.

    Raises:
        SinefieldError: no such file, empty, unknown extension, damaged, or larger than this reader takes.
    """
    path = require_file(path, "mesh or point cloud")
    kind = path.suffix.lower()
    try:
        # trimesh and numpy warn about what is checked, and said in one line, later.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_shape_file(path)
            return _read_xyz(path) if kind == ".xyz" else _read_scene(path)
    except SinefieldError:
        raise
    except Exception as error:
        # A missing optional module is the parser's last resort on garbage, and would mislead.
        detail = "" if isinstance(error, ImportError) else f" ({str(error)[:120] or type(error).__name__})"
        raise SinefieldError(f"{path}: cannot be read as {kind[1:].upper()}{detail}; {AGAIN}") from error


def check_shape_file(path: Path, kinds: tuple[str, ...] = EXTENSIONS) -> None:
    """Refuse what is of none of these kinds, too large, or claims more than it can hold; raises nearly anything."""
    kind = path.suffix.lower()
    if kind not in kinds:
        raise SinefieldError(f"{path}: unknown kind {kind or 'without extension'!r}; convert to {' '.join(kinds)}")
    if path.stat().st_size > MAX_BYTES:
        raise SinefieldError(f"{path}: larger than {MAX_BYTES >> 30} GiB; decimate it first")
    if kind in CHECKS:
        CHECKS[kind](path)


def _read_scene(path: Path) -> ShapeFile:
    # Materials may name other files, and images of any kind: none is looked at, since only vertices' colours count.
    scene = trimesh.load_scene(path, process=False, skip_materials=True)
    placed = [(node, scene.graph[node][0], scene.geometry[scene.graph[node][1]]) for node in scene.graph.nodes_geometry]
    meshes = [given for given in placed if isinstance(given[2], trimesh.Trimesh) and len(given[2].faces)]
    if not meshes:
        clouds = [cloud for _, _, cloud in placed if isinstance(cloud, trimesh.PointCloud) and len(cloud.vertices)]
        if not clouds:
            raise SinefieldError(f"{path}: holds neither faces nor points; {AGAIN}")
        return _read_cloud(clouds[0])
    # Counted before they are made: one mesh may stand at thousands of places.
    check_count(path, "faces", sum(len(mesh.faces) for _, _, mesh in meshes), MAX_FACES)
    parts = []
    for name, matrix, mesh in meshes:
        corner = np.asarray(mesh.faces, np.int64)
        if corner.min() < 0 or corner.max() >= len(mesh.vertices):
            wrong = corner.max() if corner.min() >= 0 else corner.min()
            raise SinefieldError(f"{path}: a face names vertex {wrong} of {len(mesh.vertices)}; {AGAIN}")
        vertices = np.asarray(mesh.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        faces = corner[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else corner
        paint = None
        if isinstance(mesh.visual, ColorVisuals) and mesh.visual.kind == "vertex":
            paint = Paint.of_vertices(mesh.visual.vertex_colors[:, :3], faces)
        parts.append(Part(str(name), vertices, faces, paint=paint))
    return ShapeFile(parts)


def _read_cloud(cloud: trimesh.PointCloud) -> ShapeFile:
    data = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    columns = [np.asarray(data[name], np.float64).reshape(-1) for name in ("nx", "ny", "nz") if _has(data, name)]
    normals = np.stack(columns, axis=1) if len(columns) == 3 else None
    colours = np.asarray(cloud.colors)[:, :3].astype(np.uint8) if len(cloud.colors) else None
    return ShapeFile([Part("", np.asarray(cloud.vertices, np.float64), None, normals, None, colours)])


def _has(data: Any, name: str) -> bool:
    names = data.dtype.names if isinstance(data, np.ndarray) else data
    return bool(names) and name in names


def _read_xyz(path: Path) -> ShapeFile:
    table = np.loadtxt(path, dtype=np.float64, comments=("#", "//"), ndmin=2)
    if table.size == 0:
        raise SinefieldError(f"{path}: holds no points; provide lines of x y z nx ny nz")
    if table.shape[1] not in (3, 6):
        raise SinefieldError(f"{path}: has {table.shape[1]} columns; should be x y z nx ny nz")
    check_count(path, "points", len(table), MAX_POINTS)
    return ShapeFile([Part("", table[:, :3], None, table[:, 3:] if table.shape[1] == 6 else None)])


def check_count(path: Path, what: str, count: int, limit: int) -> None:
    """Refuse more than `limit` of something."""
    if count > limit:
        raise SinefieldError(f"{path}: has {count:,} {what}, more than {limit:,}; decimate it first")


def _claims(path: Path, what: str, needed: int) -> None:
    """Refuse a header that promises more than the file can hold, before anything is allocated for it."""
    size = path.stat().st_size
    if needed > size:
        raise SinefieldError(f"{path}: its header claims {what}, which the file's {size:,} bytes cannot hold; {AGAIN}")


def _check_ply(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    end = re.search(rb"end_header\r?\n?", head)
    if not head.startswith(b"ply") or end is None:
        raise SinefieldError(f"{path}: has no PLY header; {AGAIN}")
    ascii_, rows, counts, name = False, {}, {}, ""
    for line in head[: end.start()].decode("ascii", "replace").splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            ascii_ = words[1] == "ascii"
        elif words[:1] == ["element"]:
            name = words[1]
            counts[name], rows[name] = int(words[2]), 0
            if counts[name] < 0:
                raise SinefieldError(f"{path}: its header claims {words[2]} of {name}; {AGAIN}")
        elif words[:1] == ["property"]:
            # The least a row can take: a digit and a space each; a list's count alone.
            kind = words[2] if words[1] == "list" else words[1]
            rows[name] += 2 if ascii_ else PLY_BYTES[kind]
    what = " and ".join(f"{count:,} of {name}" for name, count in counts.items())
    _claims(path, what, end.end() + sum(n * max(rows[name], 1) for name, n in counts.items()) - ascii_)
    check_count(path, "faces", counts.get("face", 0), MAX_FACES)
    check_count(path, "points", counts.get("vertex", 0), MAX_POINTS)


def _check_stl(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(1024)
    count = struct.unpack("<I", head[80:84])[0] if len(head) >= 84 else -1
    if path.stat().st_size == 84 + 50 * count:  # binary, whatever the first word says
        check_count(path, "faces", count, MAX_FACES)
    elif head.lstrip().startswith(b"solid"):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 1024))
            if b"endsolid" not in stream.read():
                raise SinefieldError(f"{path}: has no endsolid; {AGAIN}")
    elif count < 0:
        raise SinefieldError(f"{path}: has no STL header; {AGAIN}")
    else:
        _claims(path, f"{count:,} triangles", 84 + 50 * count)


def _check_off(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(1 << 14).decode("ascii", "replace")
    words = re.sub(r"#[^\n]*", "", head).replace("OFF", "OFF ", 1).split()
    if len(words) < 3 or not words[0].endswith("OFF"):
        raise SinefieldError(f"{path}: has no OFF header; {AGAIN}")
    vertices, faces = int(words[1]), int(words[2])
    _claims(path, f"{vertices:,} vertices and {faces:,} faces", 6 * vertices + 8 * faces)
    check_count(path, "faces", faces, MAX_FACES)
    with path.open("rb") as stream:
        lines = sum(1 for line in stream if line.strip() and not line.lstrip().startswith(b"#"))
    # trimesh takes what is there.
    if lines < 1 + vertices + faces:
        raise SinefieldError(f"{path}: its header claims {vertices + faces:,} rows, {lines - 1:,} are there; {AGAIN}")


def _check_gltf(path: Path) -> None:
    if path.suffix.lower() == ".glb":
        with path.open("rb") as stream:
            head = stream.read(20)
            magic, _, length, first, _ = struct.unpack("<4sIIII", head.ljust(20, b"\0"))
            if magic != b"glTF":
                raise SinefieldError(f"{path}: has no GLB header; {AGAIN}")
            _claims(path, f"{length:,} bytes", max(length, 20 + first))
            tree = json.loads(stream.read(first))
            while chunk := stream.read(8):  # each is read into as much memory as it claims to fill
                (size,) = struct.unpack("<I", chunk[:4].ljust(4, b"\0"))
                _claims(path, f"a part of {size:,} bytes", stream.seek(size, 1))
    else:
        tree = json.loads(path.read_text(encoding="utf-8"))
    for accessor in tree.get("accessors", []):
        # Without a buffer its numbers are zeros made up by the reader, as many as it says.
        if "bufferView" not in accessor:
            _claims(path, f"{accessor['count']:,} numbers without data", int(accessor["count"]))


CHECKS = {".ply": _check_ply, ".stl": _check_stl, ".off": _check_off, ".glb": _check_gltf, ".gltf": _check_gltf}
"""What is looked at first, by kind; the others announce nothing."""
