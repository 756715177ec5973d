"""GLB, binary glTF 2.0 (Khronos Group): one node a mesh."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sinefield.meshing.frame import Placing
from sinefield.meshing.named_mesh import NamedMesh, linear
from sinefield.version import __version__

_FLOAT, _UINT32 = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
_TO_Y_UP = [-math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]


def write_glb(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str], placing: Placing) -> None:
    """Coordinates are single precision around a local origin, which the node's translation has in double precision.

    Colours are linear, as the specification asks. They are floats: of 8 bits too little is left in the dark, and
    common readers take 16 bits for 8.
    """
    asset: dict[str, Any] = {"version": "2.0", "generator": f"sinefield {__version__}"}
    tree: dict[str, Any] = {"asset": asset | ({"extras": about} if about else {}), "scene": 0}
    tree |= {"scenes": [{"nodes": list(range(len(meshes)))}], "nodes": [], "meshes": []}
    buffer = _Buffer()
    for i, mesh in enumerate(meshes):
        origin, vertices = mesh.local()
        attributes = {"POSITION": buffer.add(vertices, _VERTICES, bounds=True)}
        if mesh.normals is not None:
            attributes["NORMAL"] = buffer.add(np.asarray(mesh.normals, np.float32), _VERTICES)
        if mesh.colours is not None:
            attributes["COLOR_0"] = buffer.add(linear(mesh.colours), _VERTICES)
        material = _material(mesh, tree, buffer, attributes)
        indices = buffer.add(np.asarray(mesh.faces, np.uint32).reshape(-1), _INDICES)
        named = {"name": mesh.name} if mesh.name else {}
        tree["meshes"].append(named | {"primitives": [{"attributes": attributes, "indices": indices} | material]})
        tree["nodes"].append(named | {"mesh": i} | _transform(origin, placing))
    tree |= {"accessors": buffer.accessors, "bufferViews": buffer.views, "buffers": [{"byteLength": buffer.length}]}
    head = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 4)
    with path.open("wb") as stream:
        stream.write(b"glTF" + _uint32(2, 12 + 8 + len(head) + 8 + buffer.length, len(head)) + b"JSON" + head)
        stream.write(_uint32(buffer.length) + b"BIN\0")
        stream.writelines(buffer.pieces)


def _material(mesh: NamedMesh, tree: dict[str, Any], buffer: "_Buffer", attributes: dict[str, int]) -> dict[str, int]:
    """A mesh's picture into the file: how its faces name it, nothing where there is none."""
    if mesh.uv is None or mesh.picture is None:
        return {}
    # glTF counts v downwards.
    attributes["TEXCOORD_0"] = buffer.add(
        np.column_stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]]).astype(np.float32), _VERTICES
    )
    stream = io.BytesIO()
    Image.fromarray(mesh.picture).save(stream, "PNG")
    number = len(tree.setdefault("materials", []))
    surface = {"baseColorTexture": {"index": number}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"].append({"pbrMetallicRoughness": surface})
    tree.setdefault("textures", []).append({"source": number})
    tree.setdefault("images", []).append({"bufferView": buffer.add_bytes(stream.getvalue()), "mimeType": "image/png"})
    return {"material": number}


class _Buffer:
    """The binary part, with its accessors. All pieces are of four-byte numbers, so they stay aligned."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.accessors: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.length = 0

    def add(self, values: np.ndarray, target: int, bounds: bool = False) -> int:
        """The number of a new accessor."""
        content = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()
        self.views.append(
            {"buffer": 0, "byteOffset": self.length, "byteLength": len(content), "target": target},
        )
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": _FLOAT if values.dtype.kind == "f" else _UINT32,
            "count": len(values),
            "type": f"VEC{values.shape[1]}" if values.ndim == 2 else "SCALAR",
        }
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        self.pieces.append(content)
        self.length += len(content)
        return len(self.accessors) - 1

    def add_bytes(self, content: bytes) -> int:
        """The number of a new view of a file within the file, padded to whole words."""
        self.views.append({"buffer": 0, "byteOffset": self.length, "byteLength": len(content)})
        padded = content + bytes(-len(content) % 4)
        self.pieces.append(padded)
        self.length += len(padded)
        return len(self.views) - 1


def _transform(origin: np.ndarray, placing: Placing) -> dict[str, list[float]]:
    """What takes local coordinates to the scene's."""
    parts: dict[str, list[float]] = {}
    if origin.any():
        parts["translation"] = placing.to_node(origin).tolist()
    if placing.node_turned:
        parts["rotation"] = _TO_Y_UP
    if placing.node_scale != 1:
        parts["scale"] = [placing.node_scale] * 3
    return parts


def _uint32(*numbers: int) -> bytes:
    return np.array(numbers, "<u4").tobytes()
