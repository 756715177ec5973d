"""PLY, STL, OBJ and OFF: single precision or nine digits where that loses nothing, else double precision or 17."""

from collections.abc import Sequence
from io import TextIOBase
from pathlib import Path

import numpy as np

from sinefield.meshing.named_mesh import DOUBLE_ABOVE, NamedMesh, greatest_loss, joined

_ROWS = 50_000


def write_ply(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str]) -> None:
    """Binary. `float` coordinates are what every reader takes, and a third less; `double` where they are needed.

    Points without faces are a cloud.
    """
    mesh = joined(meshes)
    number = ("<f8", "double") if greatest_loss(meshes) > DOUBLE_ABOVE else ("<f4", "float")
    columns: list[tuple[str, np.ndarray, tuple[str, str]]] = [
        (name, mesh.vertices[:, i], number) for i, name in enumerate(("x", "y", "z"))
    ]
    if mesh.normals is not None:
        columns += [(name, mesh.normals[:, i], ("<f4", "float")) for i, name in enumerate(("nx", "ny", "nz"))]
    if mesh.colours is not None:
        columns += [(name, mesh.colours[:, i], ("u1", "uchar")) for i, name in enumerate(("red", "green", "blue"))]
    vertices = np.empty(len(mesh.vertices), [(name, kind) for name, _, (kind, _) in columns])
    for name, values, _ in columns:
        vertices[name] = values
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in _comments(about))]
    header += [f"element vertex {len(vertices)}", *(f"property {kind} {name}" for name, _, (_, kind) in columns)]
    if len(faces):
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    header += ["end_header", ""]
    with path.open("wb") as stream:
        stream.write("\n".join(header).encode())
        stream.write(vertices.tobytes())
        stream.write(faces.tobytes())


def write_stl(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str]) -> None:
    """Binary: triangles alone."""
    mesh = joined(meshes)
    corners = mesh.vertices[mesh.faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(across, axis=1, keepdims=True)
    triangles = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])
    triangles["normal"] = np.divide(across, length, out=np.zeros_like(across), where=length > 0)
    triangles["corners"] = corners
    with path.open("wb") as stream:
        stream.write(about.get("generator", "").encode()[:80].ljust(80))
        stream.write(np.uint32(len(triangles)).astype("<u4").tobytes())
        stream.write(triangles.tobytes())


def write_obj(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str]) -> None:
    """Each mesh is an `o`; colours follow the coordinates. All meshes have a picture or none has."""
    corners_before = normals_before = 1
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"# {line}\n" for line in _comments(about))
        stream.writelines(f"mtllib {name}\n" for name in sorted({mesh.library for mesh in meshes} - {""}))
        for i, mesh in enumerate(meshes):
            if mesh.name or len(meshes) > 1:
                stream.write(f"o {_word(mesh.name) or f'part{i + 1}'}\n")
            one = f"%.{digits([mesh])}g"
            if mesh.colours is None:
                write_rows(stream, f"v {one} {one} {one}", mesh.vertices)
            else:
                write_rows(stream, f"v {one} {one} {one} %.4g %.4g %.4g", mesh.vertices, mesh.colours / 255)
            corners = np.asarray(mesh.faces) + corners_before
            if mesh.uv is not None:
                stream.write("usemtl surface\n")
                write_rows(stream, "vt %.7g %.7g", mesh.uv)
                write_rows(stream, "f %d/%d %d/%d %d/%d", np.repeat(corners, 2, axis=1))
            elif mesh.normals is None:
                write_rows(stream, "f %d %d %d", corners)
            else:
                write_rows(stream, "vn %.6g %.6g %.6g", mesh.normals)
                both = np.stack([corners, np.asarray(mesh.faces) + normals_before], axis=2).reshape(-1, 6)
                write_rows(stream, "f %d//%d %d//%d %d//%d", both)
                normals_before += len(mesh.normals)
            corners_before += len(mesh.vertices)


def write_off(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str]) -> None:
    """Coordinates and faces; no colours."""
    mesh = joined(meshes)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("OFF\n")
        stream.writelines(f"# {line}\n" for line in _comments(about))
        stream.write(f"{len(mesh.vertices)} {len(mesh.faces)} 0\n")
        one = f"%.{digits(meshes)}g"
        write_rows(stream, f"{one} {one} {one}", mesh.vertices)
        write_rows(stream, "3 %d %d %d", mesh.faces)


def digits(meshes: Sequence[NamedMesh]) -> int:
    """Significant digits of their coordinates in text."""
    return 17 if greatest_loss(meshes) > DOUBLE_ABOVE else 9


def write_rows(stream: TextIOBase, line: str, *columns: np.ndarray) -> None:
    """A line in `%` notation for each row of arrays (n, k) side by side; several times as fast as np.savetxt."""
    for start in range(0, len(columns[0]), _ROWS):
        parts = [values[start : start + _ROWS].tolist() for values in columns]
        rows = zip(*parts, strict=True)
        numbers = tuple(number for row in rows for part in row for number in part)
        stream.write(f"{line}\n" * len(parts[0]) % numbers)


def _comments(about: dict[str, str]) -> list[str]:
    return [f"{key}: {_word(value, ' ')}" for key, value in about.items()]


def _word(text: str, space: str = "_") -> str:
    """Without line breaks and other white space that would end it."""
    return space.join(text.split())
