"""Small files of surfaces that tests make: glTF trees of every feature, 3MF models, PCD."""

import base64
import io
import struct
from importlib.util import find_spec

import DracoPy
import numpy as np
import trimesh
from PIL import Image

CUBE = trimesh.creation.box((2, 2, 2))
POINTS, FACES = np.asarray(CUBE.vertices, np.float32), np.asarray(CUBE.faces)
TYPES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


def data_uri(data: bytes, kind: str = "application/octet-stream") -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Tree:
    """A glTF tree in the making."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.tree: dict = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": [], "meshes": [], "nodes": []}

    def view(self, data: bytes, **more) -> int:
        """A view's number."""
        self.blob += bytes(-len(self.blob) % 4)
        view = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data)} | more
        self.tree["bufferViews"].append(view)
        self.blob += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more) -> int:
        """An accessor's number."""
        values = np.ascontiguousarray(values)
        width = 1 if values.ndim == 1 else values.shape[1]
        item = {"bufferView": self.view(values.tobytes()), "count": len(values), "type": WIDTHS[width]}
        item["componentType"] = TYPES[values.dtype.str[1:]]
        self.tree["accessors"].append(item | more)
        return len(self.tree["accessors"]) - 1

    def mesh(self, *primitives: dict, **node) -> int:
        """A mesh and its node; the mesh's number."""
        self.tree["meshes"].append({"primitives": list(primitives)})
        self.tree["nodes"].append({"mesh": len(self.tree["meshes"]) - 1} | node)
        return len(self.tree["meshes"]) - 1

    def cube(self, **more) -> dict:
        """A primitive: a cube from -1 to 1."""
        position, indices = self.accessor(POINTS), self.accessor(FACES.astype(np.uint16).ravel())
        return {"attributes": {"POSITION": position}, "indices": indices} | more

    def done(self) -> dict:
        """The tree with its buffer."""
        self.tree["buffers"] = [{"byteLength": len(self.blob), "uri": data_uri(bytes(self.blob))}]
        return {key: value for key, value in self.tree.items() if value}


def picture() -> bytes:
    """A PNG of four colours: red green over blue white."""
    stream = io.BytesIO()
    Image.fromarray(np.uint8([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]])).save(stream, "PNG")
    return stream.getvalue()


def instanced() -> dict:
    """A cube at three places, one of them turned and mirrored."""
    tree = Tree()
    places = {
        "TRANSLATION": tree.accessor(np.float32([[0, 0, 0], [5, 0, 0], [0, 5, 0]])),
        "ROTATION": tree.accessor(np.int8([[0, 0, 0, 127], [0, 0, 0, 127], [0, 0, 90, 90]]), normalized=True),
        "SCALE": tree.accessor(np.float32([[1, 1, 1], [1, -1, 1], [1, 1, 3]])),
    }
    tree.mesh(tree.cube(), name="cube", extensions={"EXT_mesh_gpu_instancing": {"attributes": places}})
    return tree.done() | {"extensionsRequired": ["EXT_mesh_gpu_instancing"]}


def draco(**more) -> tuple[bytes, dict]:
    """Packed bytes of a ball, and the tree of a file with them and a plain cube."""
    ball = trimesh.creation.icosphere(1)
    points = np.asarray(ball.vertices, np.float32)
    packed = DracoPy.encode(points, faces=np.asarray(ball.faces, np.uint32), quantization_bits=14, **more)
    tree = Tree()
    tree.mesh(tree.cube())
    none = {"componentType": 5126, "count": len(points), "type": "VEC3"}
    tree.tree["accessors"] += [none, {"componentType": 5125, "count": ball.faces.size, "type": "SCALAR"}]
    extension = {"bufferView": tree.view(packed), "attributes": {"POSITION": 0}}
    primitive = {"attributes": {"POSITION": 2}, "indices": 3, "extensions": {"KHR_draco_mesh_compression": extension}}
    tree.mesh(primitive, translation=[5, 0, 0])
    return packed, tree.done() | {"extensionsRequired": ["KHR_draco_mesh_compression"]}


def packed_by_meshopt() -> dict:
    """A cube whose views are packed by meshoptimizer, triangles and vertices."""
    from meshoptimizer import encode_index_buffer, encode_vertex_buffer

    tree = Tree()
    primitive = tree.cube()
    vertices = encode_vertex_buffer(POINTS, len(POINTS), 12)
    indices = encode_index_buffer(FACES.astype(np.uint32).ravel(), FACES.size, len(POINTS))
    for view, packed, mode, count, step in ((0, vertices, "ATTRIBUTES", 8, 12), (1, indices, "TRIANGLES", 36, 2)):
        own = tree.tree["bufferViews"][tree.view(packed)]
        extension = own | {"mode": mode, "count": count, "byteStride": step}
        tree.tree["bufferViews"][view] = {
            "buffer": 0, "byteLength": count * step, "extensions": {"EXT_meshopt_compression": extension}
        }  # fmt: skip
    tree.mesh(primitive)
    return tree.done() | {"extensionsRequired": ["EXT_meshopt_compression"]}


def textured(texture_of_file: str | None = None) -> dict:
    """A square with a picture on it and one of the colours of its vertices."""
    tree = Tree()
    square = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    uv = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
    attributes = {"POSITION": tree.accessor(square), "TEXCOORD_0": tree.accessor(uv)}
    indices = tree.accessor(np.uint8([0, 1, 2, 0, 2, 3]))
    tree.mesh({"attributes": attributes, "indices": indices, "material": 0})
    colours = tree.accessor(np.uint16([[65535, 0, 0], [0, 65535, 0], [0, 0, 65535], [32768] * 3]), normalized=True)
    own = {"POSITION": attributes["POSITION"], "COLOR_0": colours}
    tree.mesh({"attributes": own, "indices": indices}, translation=[2, 0, 0])
    image = {"uri": texture_of_file} if texture_of_file else {"uri": data_uri(picture(), "image/png")}
    tree.tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    return tree.done() | {"textures": [{"source": 0}], "images": [image]}


def sparse() -> dict:
    """A cube one of whose corners is pulled out, and one whose positions are sparse alone."""
    tree = Tree()
    where, values = tree.view(struct.pack("<H", 7)), tree.view(np.float32([3, 3, 3]).tobytes())
    override = {"count": 1, "indices": {"bufferView": where, "componentType": 5123}, "values": {"bufferView": values}}
    primitive = tree.cube()
    tree.tree["accessors"][primitive["attributes"]["POSITION"]]["sparse"] = override
    tree.mesh(primitive)
    return tree.done()


def strips_and_fans() -> dict:
    """A cube of a strip around and two fans at its ends, quantised to 16 bits."""
    tree = Tree()
    corners = np.int16([[x, y, z, 0] for z in (-1, 1) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]) * 32767
    view = tree.view(corners.tobytes(), byteStride=8)
    item = {"bufferView": view, "count": 8, "type": "VEC3", "componentType": 5122, "normalized": True}
    tree.tree["accessors"].append(item)
    strip = tree.accessor(np.uint16([4, 0, 5, 1, 6, 2, 7, 3, 4, 0]))
    below, above = tree.accessor(np.uint8([0, 3, 2, 1])), tree.accessor(np.uint32([4, 5, 6, 7]))
    modes = ((strip, 5), (below, 6), (above, 6))
    tree.mesh(*({"attributes": {"POSITION": 0}, "indices": i, "mode": mode} for i, mode in modes), scale=[2, 2, 2])
    return tree.done() | {"extensionsRequired": ["KHR_mesh_quantization"]}


def gltf_trees() -> list[dict]:
    """One of each."""
    packed = [packed_by_meshopt()] if find_spec("meshoptimizer") else []
    return [instanced(), draco()[1], *packed, textured(), sparse(), strips_and_fans()]


def xml_of_cube(colours: str = "") -> str:
    """The mesh of a 3MF object: a cube from -1 to 1."""
    vertices = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in POINTS)
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}" {colours}/>' for a, b, c in FACES)
    return f"<mesh><vertices>{vertices}</vertices><triangles>{faces}</triangles></mesh>"


def threemf_models() -> list[str]:
    """Two models: one with colours, one of components at places of their own."""
    head = '<?xml version="1.0"?>\n<model unit="{}" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02" '
    head += 'xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02"><resources>'
    first = head.format("inch") + '<basematerials id="5"><base name="a" displaycolor="#FF0000FF"/>'
    first += '<base name="b" displaycolor="#0000FF"/></basematerials><object id="1" name="red" pid="5" pindex="0">'
    first += xml_of_cube() + '</object><object id="2" name="blue">' + xml_of_cube('pid="5" p1="1"') + "</object>"
    first += '</resources><build><item objectid="1"/>'
    first += '<item objectid="2" transform="1 0 0 0 1 0 0 0 1 5 0 0"/></build></model>'
    second = head.format("millimeter") + '<m:colorgroup id="9"><m:color color="#00FF00"/></m:colorgroup>'
    second += f'<object id="1" type="model">{xml_of_cube()}</object><object id="3" name="pair"><components>'
    second += '<component objectid="1"/><component objectid="1" transform="-1 0 0 0 2 0 0 0 1 9 0 0"/></components>'
    second += '</object></resources><build><item objectid="3"/></build></model>'
    return [first, second]


def lzf_plain(data: bytes) -> bytes:
    """LZF of nothing but plain bytes and, for runs, references to the byte before."""
    out, at = bytearray(), 0
    while at < len(data):
        run = 1
        while at + run < len(data) and data[at + run] == data[at] and run < 200:
            run += 1
        if run >= 10 and at:
            out += bytes([0, data[at], 7 << 5, run - 1 - 9, 0])
            at += run
        else:
            piece = data[at : at + 32]
            cut = next((i for i in range(1, len(piece)) if len(set(data[at + i : at + i + 10])) == 1), len(piece))
            out += bytes([cut - 1]) + piece[:cut]
            at += cut
    return bytes(out)


def pcd_file(points: np.ndarray, normals: np.ndarray, colours: np.ndarray, form: str) -> bytes:
    """A PCD file with double coordinates, normals and packed colours."""
    packed = (colours[:, 0].astype(np.uint32) << 16) | (colours[:, 1].astype(np.uint32) << 8) | colours[:, 2]
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z normal_x normal_y normal_z rgb\nSIZE 8 8 8 4 4 4 4\n"
    head += f"TYPE F F F F F F U\nCOUNT 1 1 1 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
    head = f"{head}POINTS {len(points)}\nDATA {form}\n".encode()
    columns = [*points.T.astype("<f8"), *normals.T.astype("<f4"), packed.astype("<u4")]
    if form == "ascii":
        rows = zip(*columns, strict=True)
        return head + "".join(" ".join(repr(value.item()) for value in row) + "\n" for row in rows).encode()
    if form == "binary":
        return head + b"".join(
            np.ascontiguousarray(column[i]).tobytes() for i in range(len(points)) for column in columns
        )
    data = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    small = lzf_plain(data)
    return head + struct.pack("<II", len(small), len(data)) + small
