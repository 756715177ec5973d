"""What a mesh file holds once it is written, read by other code than wrote it."""

import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import trimesh
from jaxtyping import Float, Int

from sinefield.data.surfaces.mesh_repair import unique_rows
from sinefield.data.surfaces.pieces import component_of_faces

MOST_FACES, MOST_IN_TEXT = 2_000_000, 500_000
"""Files with more faces are not read back: that would take longer than to write them."""
TEXT = (".obj", ".off", ".3mf")


def read_back(path: str | Path, vertices: int, faces: int) -> dict[str, Any]:
    """Counts of the file, and whether its surface is closed.

    Arguments:
        vertices, faces: how many were written.

    Returns:
        vertices (of an STL the different places of its corners), faces, degenerate_faces (two corners at one place),
        components and watertight (each edge is walked as often one way as the other), both after vertices at equal
        places are joined; read_back, True. Where there are too many faces (`MOST_FACES`), read_back is False, the
        counts are those that were written, and the rest is None.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if faces > (MOST_IN_TEXT if kind in TEXT else MOST_FACES):
        unknown = dict.fromkeys(("degenerate_faces", "components", "watertight"))
        return {"vertices": vertices, "faces": faces, **unknown, "read_back": False}
    reader = {".usdz": _read_usdz, ".3mf": _read_3mf}.get(kind, _read_others)
    places, corners = reader(path)
    first, place = unique_rows(places + 0.0)  # + 0.0: −0 is 0
    joined = place.reshape(-1)[corners]
    whole = (joined[:, 0] != joined[:, 1]) & (joined[:, 1] != joined[:, 2]) & (joined[:, 2] != joined[:, 0])
    return {
        "vertices": len(first) if kind == ".stl" else len(places),
        "faces": len(corners),
        "degenerate_faces": int((~whole).sum()),
        "components": len(np.unique(component_of_faces(joined, len(first)))),
        "watertight": _closed(joined[whole]),
        "read_back": True,
    }


def _closed(faces: Int[np.ndarray, "f 3"]) -> bool:
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(start, end).astype(np.int64), np.maximum(start, end)
    _, edge = np.unique(low << 32 | high, return_inverse=True)
    balance = np.bincount(edge, np.where(start < end, 1.0, -1.0))
    return len(faces) > 0 and not balance.any()


def _read_others(path: Path) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    try:
        found = trimesh.load_scene(path, process=False).to_mesh()
    except OSError as error:
        if error.errno is None:  # Pillow, of a picture that was written a moment ago: zlib got no memory
            raise MemoryError from error
        raise
    return np.array(found.vertices, np.float64), np.array(found.faces)


def _read_3mf(path: Path) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces, before = [], [], 0
    with zipfile.ZipFile(path) as archive, archive.open("3D/3dmodel.model") as stream:
        for _, node in ElementTree.iterparse(stream):
            tag = node.tag.rpartition("}")[2]
            if tag == "vertex":
                vertices.append([float(node.attrib[axis]) for axis in "xyz"])
            elif tag == "triangle":
                faces.append([before + int(node.attrib[corner]) for corner in ("v1", "v2", "v3")])
            elif tag == "object":
                before = len(vertices)
            else:
                continue
            node.clear()
    return np.array(vertices), np.array(faces)


def _read_usdz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from pxr import Usd, UsdGeom

    vertices, faces, before = [], [], 0
    stage: Any = Usd.Stage.Open(str(path))
    for prim in stage.Traverse():
        if prim.IsA(UsdGeom.Mesh):
            mesh = UsdGeom.Mesh(prim)
            points = np.asarray(mesh.GetPointsAttr().Get(), np.float64)
            matrix = np.array(UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(Usd.TimeCode.Default()))
            vertices.append(points @ matrix[:3, :3] + matrix[3, :3])
            faces.append(np.asarray(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3) + before)
            before += len(points)
    return np.concatenate(vertices), np.concatenate(faces)
