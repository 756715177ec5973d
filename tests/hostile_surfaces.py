"""Meshes and point clouds for tests/hostile.py: small sound files of each format, and what reads them."""

import base64
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import laspy
import numpy as np
import trimesh
from hostile_format import Format, closed_zip, opened_zip, words_of
from PIL import Image
from surfaces import gltf_trees, pcd_file, threemf_models

from sinefield.data.surfaces.coloured import load_coloured
from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.surface import load_surface


def mesh(kind: str) -> Format:
    ball, box = trimesh.creation.icosphere(1, 2.0), trimesh.creation.box((1, 2, 3))
    box.visual.vertex_colors = np.random.default_rng(0).integers(0, 256, (8, 4), dtype=np.uint8)
    cloud = np.concatenate([ball.vertices * 2 + 5, ball.vertices], 1)
    rows = "".join(" ".join(f"{v:.5g}" for v in row) + "\n" for row in cloud)
    if kind == "xyz":
        files = [rows.encode(), b"# three\n1 2 3\n2 3 4\n5 6 7\n"]
    else:
        written = [mesh.export(file_type=kind) for mesh in (ball, box)]
        files = [file if isinstance(file, bytes) else file.encode() for file in written]
    if kind == "ply":
        head = f"ply\nformat ascii 1.0\nelement vertex {len(cloud)}\n"
        head += "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz")) + "end_header\n"
        files += [(head + rows).encode(), box.export(file_type="ply", encoding="ascii")]
        strips = head.replace("end_header", "element tristrips 1\nproperty list int int vertex_indices\nend_header")
        files += [(strips + rows + "5 0 1 2 -1 3\n").encode(), PLY_OF_POLYGONS]
    if kind == "stl":
        files += [box.export(file_type="stl_ascii").encode(), box.export(file_type="stl_ascii").upper().encode()]
    if kind == "off":
        files += [b"COFF\n4 2 0\n" + b"".join(b"%d %d 0 9 99 255 255\n" % (i % 2, i // 2) for i in range(4))
                  + b"3 0 1 2 0.5 0.5 1\n3 1 3 2 1 0 0\n", b"OFF 3\n1 0\n0 0 0 1 0 0 0 1 0 3 0\n1 2\n"]  # fmt: skip
    if kind == "obj":
        corners = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvn 0 0 1\n"
        faces = b"f 1/1/1 2/1/1 3/1/1\nf 1 2 4\nf 1//1 3//1 4//1\nf -1 -2 -3 -4\n"
        files += [b"mtllib a.mtl\n" + corners + b"usemtl m\n" + faces]
        files += [b"o one\nv 0 0 0 1 0 0\nv 2 0 0 0 1 0\nv 2 2 0 0 0 1\nv 1 .5 0 1 1 1\nv 0 2 0 0 0 0\n"
                  b"f 1 2 3 4 5\ng two\nv 0 0 1 1 1 1\nf -1 \\\n-2 -3\n"]  # fmt: skip
    if kind == "glb":
        scene = trimesh.Scene([ball, box, box.copy().apply_translation((3, 0, 0))])
        painted = box.copy()
        painted.visual = trimesh.visual.TextureVisuals(np.zeros((8, 2)), image=Image.new("RGB", (4, 4), (9, 99, 9)))
        files += [scene.export(file_type="glb"), painted.export(file_type="glb")]
    words = words_of(
        "vertex face float double list uchar uint64 ascii binary_little_endian element property format end_header x nx "
        "solid endsolid facet loop OFF COFF v vn vt f o g s mtllib usemtl a.mtl POSITION indices bufferView byteOffset "
        "byteStride count type VEC3 SCALAR MAT4 componentType sparse matrix children mesh nodes uri buffers images "
        "KHR_draco_mesh_compression EXT_meshopt_compression KHR_materials_pbrSpecularGlossiness extensions"
    )
    words += [
        b"data:application/octet-stream;base64,AAAA",
        b"element vertex 4294967295\n",
        b"comment TextureFile secret.png\n",
    ]
    mended = {"open": _opened_glb, "mend": _closed_glb} if kind == "glb" else {}
    return Format(
        kind, [{f"a.{kind}": file} for file in files], [f"a.{kind}"], partial(_read_mesh, kind), words, **mended
    )


PLY_OF_POLYGONS = (
    b"ply\nformat binary_big_endian 1.0\ncomment TextureFile a.png\nelement vertex 5\nproperty double x\n"
    b"property double y\nproperty double z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
    b"element face 2\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\nend_header\n"
    + b"".join(
        struct.pack(">dddBBB", *row, 1, 2, 3) for row in ((0, 0, 0), (2, 0, 0), (2, 2, 0), (1, 0.5, 0), (0, 2, 0))
    )
    + struct.pack(">B5iB10f", 5, 0, 1, 2, 3, 4, 10, *range(10))
    + struct.pack(">B3iB6f", 3, 0, 1, 2, 6, *range(6))
)


def _read_mesh(kind: str, folder: Path) -> None:
    load_surface(folder / f"a.{kind}")
    if kind != "xyz":
        load_coloured(folder / f"a.{kind}")
    _read_parts(f"a.{kind}", folder)


def _opened_glb(good: list[bytes]) -> list[bytes]:
    return [file[20:] for file in good]


def _closed_glb(data: bytes, rng: Random) -> bytes:
    """A header whose lengths hold, for the most part."""
    end = data.find(b"BIN\0") - 4
    first = end if end > 0 and rng.random() < 0.9 else rng.choice((0, len(data), 2**32 - 1))
    length = 20 + len(data) if rng.random() < 0.9 else rng.choice((0, 2**32 - 1))
    if end > 0 and rng.random() < 0.9:
        data = data[:end] + struct.pack("<I", len(data) - end - 8) + data[end + 4 :]
    return b"glTF" + struct.pack("<III", 2, length, first) + b"JSON" + data


def _read_parts(name: str, folder: Path) -> None:
    """What a reader gives holds together, whatever the file."""
    found = read_shape(folder / name)
    assert found.parts and all(note.isprintable() for note in found.notes)
    for part in found.parts:
        vertices, faces, paint = part.vertices, part.faces, part.paint
        assert vertices.dtype == np.float64 and vertices.shape[1:] == (3,)
        for own in (part.normals, part.colours):
            assert own is None or own.shape == vertices.shape
        if faces is not None:
            assert faces.shape[1:] == (3,) and len(faces) and faces.min() >= 0 and faces.max() < len(vertices)
        if paint is not None:
            assert paint.corners.shape == (len(faces), 3, 3) and len(paint.texture_of) == len(faces)
            assert paint.texture_of.max() < len(paint.textures)
            paint.at(np.arange(len(faces)), np.full((len(faces), 3), 1 / 3))


# ---- the other surfaces


def others(kind: str) -> Format:
    files, words, hooks = OTHERS[kind]()
    name = f"a.{kind}"
    return Format(kind, [{name: file} for file in files], [name], partial(_read_parts, name), words, **hooks)


def _ball(count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    normals = np.asarray(trimesh.creation.icosphere(2).vertices)[:count]
    return normals * 2 + 5, normals, np.random.default_rng(0).integers(0, 256, normals.shape, dtype=np.uint8)


def _gltf() -> tuple[list[bytes], list[bytes], dict]:
    files = [json.dumps(tree).encode() for tree in gltf_trees()]
    words = words_of(
        "POSITION COLOR_0 TEXCOORD_0 indices mode bufferView byteOffset byteStride count type VEC3 SCALAR normalized "
        "componentType sparse values matrix rotation children mesh nodes uri buffers images material extensions "
        "KHR_draco_mesh_compression EXT_meshopt_compression EXT_mesh_gpu_instancing TRANSLATION ATTRIBUTES TRIANGLES "
        "INDICES EXPONENTIAL KHR_texture_transform extensionsRequired 5121 5123 5125 5126"
    )
    return files, [*words, b"data:application/octet-stream;base64,AAAA"], {"open": _opened_uris, "mend": _closed_uris}


MARK = re.compile(rb"data:[\w/-]*;base64,([A-Za-z0-9+/=]*)")


def _opened_uris(good: list[bytes]) -> list[bytes]:
    """The bytes of data URIs as they are, after their tree."""
    found = []
    for file in good:
        blocks = [base64.b64decode(block) for block in MARK.findall(file)]
        tree = MARK.sub(lambda match: b"data:;base64,", file)
        found.append(b"\0\1\2".join([tree, *blocks]))
    return found


def _closed_uris(data: bytes, rng: Random) -> bytes:
    tree, *blocks = data.split(b"\0\1\2")
    for block in blocks:
        tree = tree.replace(b"data:;base64,", b"data:x;base64," + base64.b64encode(block), 1)
    return tree


def _3mf() -> tuple[list[bytes], list[bytes], dict]:
    files = []
    for text in threemf_models():
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("3D/3dmodel.model", text)
        files.append(stream.getvalue())
    words = words_of(
        "<vertex <triangle <component objectid transform pid p1 v1 id path <!DOCTYPE <!ENTITY &a; unit #FF00"
    )
    return files, words, {"open": opened_zip, "mend": _packed_model}


def _packed_model(data: bytes, rng: Random) -> bytes:
    """The members as a sound archive, for the most part."""
    return closed_zip(data, rng, 0.1, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))


def _gz() -> tuple[list[bytes], list[bytes], dict]:
    ball = trimesh.creation.icosphere(1)
    files = [ball.export(file_type="ply"), ball.export(file_type="off").encode(), bytes(300_000)]
    return [gzip.compress(file) for file in files], words_of("ply OFF element"), {"open": _unpacked, "mend": _packed}


def _unpacked(good: list[bytes]) -> list[bytes]:
    return [gzip.decompress(file) for file in good]


def _packed(data: bytes, rng: Random) -> bytes:
    file = bytearray(gzip.compress(data, rng.choice((1, 9))) * rng.choice((1, 1, 1, 2)))
    if rng.random() < 0.3:
        file[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
    return bytes(file[: rng.choice((len(file), len(file), len(file) // 2))])


def _pcd() -> tuple[list[bytes], list[bytes], dict]:
    files = [pcd_file(*_ball(), form=form) for form in ("ascii", "binary", "binary_compressed")]
    return files, words_of("FIELDS SIZE TYPE COUNT WIDTH HEIGHT POINTS DATA ascii binary rgb normal_x F U I 4 8"), {}


def _las(kind: str) -> tuple[list[bytes], list[bytes], dict]:
    points, _, colours = _ball()
    files = []
    for version, form in (("1.2", 3), ("1.4", 7)):
        header = laspy.LasHeader(version=version, point_format=form)
        header.offsets, header.scales = points.min(0), np.full(3, 1e-4)
        held = laspy.LasData(header)
        held.x, held.y, held.z = points.T
        held.red, held.green, held.blue = colours.T.astype(np.uint16) * 257
        stream = io.BytesIO()
        held.write(stream, do_compress=kind == "laz")
        files.append(stream.getvalue())
    return files, words_of("LASF laszip"), {}


def _npy() -> tuple[list[bytes], list[bytes], dict]:
    points, normals, _ = _ball()
    files = []
    for table in (points, np.concatenate([points, normals], 1).astype(">f4"), np.asfortranarray(points)):
        stream = io.BytesIO()
        np.save(stream, table)
        files.append(stream.getvalue())
    return files, words_of("descr fortran_order shape True <f8 |O <U9 (4, (17,) )} object <f2 |b1"), {}


def _npz() -> tuple[list[bytes], list[bytes], dict]:
    points, normals, colours = _ball()
    files = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, points=points, normals=normals, colors=colours)
        files.append(stream.getvalue())
    words = words_of("points.npy normals.npy colors.npy faces.npy descr shape (9999999,3) |O")
    return files, words, {"open": opened_zip, "mend": closed_zip}


def _csv() -> tuple[list[bytes], list[bytes], dict]:
    points, normals, colours = _ball(20)
    table = np.concatenate([points, normals, colours], 1)

    def rows(separator: str, point: str = ".") -> str:
        return "".join(separator.join(f"{v:.5g}".replace(".", point) for v in row) + "\n" for row in table)

    files = ["x,y,z,nx,ny,nz,r,g,b\n" + rows(","), "20\n" + rows(" "), "// X Y Z\n" + rows("\t"), rows(";", ",")]
    return [file.encode() for file in files], words_of("x y z nx red // # ; , 1,5 20"), {}


OTHERS: dict[str, Callable[[], tuple[list[bytes], list[bytes], dict]]] = {
    "gltf": _gltf,
    "3mf": _3mf,
    "ply.gz": _gz,
    "pcd": _pcd,
    "las": partial(_las, "las"),
    "laz": partial(_las, "laz"),
    "npy": _npy,
    "npz": _npz,
    "csv": _csv,
}
