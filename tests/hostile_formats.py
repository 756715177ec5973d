"""The formats that tests/hostile.py damages: small sound files of each, and what reads them."""

import base64
import gzip
import io
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random

import laspy
import numpy as np
import torch
import trimesh
from captures import llff_rows, names, poses, write_images, write_model
from PIL import Image, ImageCms
from surfaces import gltf_trees, pcd_file, threemf_models
from torch import nn

from sinefield.adapters import AdapterSpec, attach, save_adapter
from sinefield.adapters.file import load_adapter
from sinefield.cameras.orbits import usual_orbit
from sinefield.cameras.path_files import read_camera_path
from sinefield.compress.container import encode
from sinefield.config import load_config, make_config
from sinefield.data.photographs.images import load_posed
from sinefield.data.picture import load_image
from sinefield.data.surfaces.coloured import load_coloured
from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.export.info import describe
from sinefield.fields.image.field import ImageField
from sinefield.fields.mesh.field import MeshField
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.meshing.optimised import LatticeMesh
from sinefield.store.fields import load_field, load_state_field, save_field
from sinefield.store.run import Run
from sinefield.store.sine_files import to_packed
from sinefield.tensor_files import save_tensors

Example = dict[str, bytes]
"""A folder's files."""


def _whole(good: list[bytes]) -> list[bytes]:
    return good


def _as_is(data: bytes, rng: Random) -> bytes:
    return data


def _nothing() -> None:
    """A named function: formats go to other processes by pickle."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        examples: sound folders.
        damaged: the files in them that are damaged, one a try.
        load: reads a folder.
        words: what stands in such files and may stand in the wrong place.
        open: files as the bytes to damage, where a checksum or compression would hide what lies behind it.
        mend: the damaged bytes as a file again.
        prepare: what a process does before it is watched: compile, import.
    """

    name: str
    examples: list[Example]
    damaged: list[str]
    load: Callable[[Path], object]
    words: list[bytes]
    open: Callable[[list[bytes]], list[bytes]] = _whole
    mend: Callable[[bytes, Random], bytes] = _as_is
    prepare: Callable[[], object] = _nothing


def _words(text: str) -> list[bytes]:
    return [word.encode() for word in text.split()]


def _folder(*writers: Callable[[Path], object]) -> Example:
    with tempfile.TemporaryDirectory() as made:
        for write in writers:
            write(Path(made))
        return {str(file.relative_to(made)): file.read_bytes() for file in Path(made).rglob("*") if file.is_file()}


# ---- meshes


def _mesh(kind: str) -> Format:
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
    words = _words(
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


def _others(kind: str) -> Format:
    files, words, hooks = OTHERS[kind]()
    name = f"a.{kind}"
    return Format(kind, [{name: file} for file in files], [name], partial(_read_parts, name), words, **hooks)


def _ball(count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    normals = np.asarray(trimesh.creation.icosphere(2).vertices)[:count]
    return normals * 2 + 5, normals, np.random.default_rng(0).integers(0, 256, normals.shape, dtype=np.uint8)


def _gltf() -> tuple[list[bytes], list[bytes], dict]:
    files = [json.dumps(tree).encode() for tree in gltf_trees()]
    words = _words(
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
    words = _words(
        "<vertex <triangle <component objectid transform pid p1 v1 id path <!DOCTYPE <!ENTITY &a; unit #FF00"
    )
    return files, words, {"open": _opened_zip, "mend": _packed_model}


def _packed_model(data: bytes, rng: Random) -> bytes:
    """The members as a sound archive, for the most part."""
    return _closed_zip(data, rng, 0.1, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))


def _gz() -> tuple[list[bytes], list[bytes], dict]:
    ball = trimesh.creation.icosphere(1)
    files = [ball.export(file_type="ply"), ball.export(file_type="off").encode(), bytes(300_000)]
    return [gzip.compress(file) for file in files], _words("ply OFF element"), {"open": _unpacked, "mend": _packed}


def _unpacked(good: list[bytes]) -> list[bytes]:
    return [gzip.decompress(file) for file in good]


def _packed(data: bytes, rng: Random) -> bytes:
    file = bytearray(gzip.compress(data, rng.choice((1, 9))) * rng.choice((1, 1, 1, 2)))
    if rng.random() < 0.3:
        file[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
    return bytes(file[: rng.choice((len(file), len(file), len(file) // 2))])


def _pcd() -> tuple[list[bytes], list[bytes], dict]:
    files = [pcd_file(*_ball(), form=form) for form in ("ascii", "binary", "binary_compressed")]
    return files, _words("FIELDS SIZE TYPE COUNT WIDTH HEIGHT POINTS DATA ascii binary rgb normal_x F U I 4 8"), {}


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
    return files, _words("LASF laszip"), {}


def _npy() -> tuple[list[bytes], list[bytes], dict]:
    points, normals, _ = _ball()
    files = []
    for table in (points, np.concatenate([points, normals], 1).astype(">f4"), np.asfortranarray(points)):
        stream = io.BytesIO()
        np.save(stream, table)
        files.append(stream.getvalue())
    return files, _words("descr fortran_order shape True <f8 |O <U9 (4, (17,) )} object <f2 |b1"), {}


def _npz() -> tuple[list[bytes], list[bytes], dict]:
    points, normals, colours = _ball()
    files = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, points=points, normals=normals, colors=colours)
        files.append(stream.getvalue())
    words = _words("points.npy normals.npy colors.npy faces.npy descr shape (9999999,3) |O")
    return files, words, {"open": _opened_zip, "mend": _closed_zip}


def _csv() -> tuple[list[bytes], list[bytes], dict]:
    points, normals, colours = _ball(20)
    table = np.concatenate([points, normals, colours], 1)

    def rows(separator: str, point: str = ".") -> str:
        return "".join(separator.join(f"{v:.5g}".replace(".", point) for v in row) + "\n" for row in table)

    files = ["x,y,z,nx,ny,nz,r,g,b\n" + rows(","), "20\n" + rows(" "), "// X Y Z\n" + rows("\t"), rows(";", ",")]
    return [file.encode() for file in files], _words("x y z nx red // # ; , 1,5 20"), {}


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


# ---- images


def _image(kind: str) -> Format:
    values = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    values[:, :6] = 77
    rgba = Image.fromarray(values)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    # A profile that calls for a conversion: one of another name.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    own = {"icc_profile": profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))}
    deep = Image.fromarray(np.arange(117, dtype=np.uint16).reshape(9, 13) * 500)
    made: list[tuple[Image.Image, dict]] = {
        "png": [(rgba, own), (rgb, {"exif": exif}), (rgb.quantize(8), {"transparency": 0}), (deep, {}), (grey, {})],
        "jpg": [(rgb, own), (grey, {}), (rgb, {"progressive": True, "exif": exif}), (rgb.convert("CMYK"), {})],
        "tif": [(rgb, own), (rgba, {"compression": "tiff_lzw"}), (rgb, {"compression": "tiff_deflate"}), (deep, {}),
                (rgb, {"compression": "jpeg"}), (grey.convert("1"), {"compression": "group4"})],
        "webp": [(rgba, {"lossless": True} | own), (rgb, {}), (rgb, {"exif": exif})],
        "bmp": [(rgb, {}), (grey, {}), (rgb.quantize(8), {}), (rgba, {}), (grey.convert("1"), {})],
    }[kind]  # fmt: skip
    files = []
    for picture, options in made:
        stream = io.BytesIO()
        picture.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()), **options)
        files.append(stream.getvalue())
    words = _words(
        "IHDR IDAT IEND PLTE tRNS iCCP eXIf zTXt acTL fcTL fdAT gAMA Exif II* MM RIFF WEBP VP8 VP8L VP8X ALPH"
    )
    mended = {"mend": _mended_png} if kind == "png" else {}
    load = partial(_read_image, kind)
    return Format(kind, [{f"a.{kind}": file} for file in files], [f"a.{kind}"], load, words, **mended)


def _read_image(kind: str, folder: Path) -> None:
    load_image(folder / f"a.{kind}")


def _mended_png(data: bytes, rng: Random) -> bytes:
    """The checksums of the chunks as their contents are now, for the most part."""
    if rng.random() < 0.2:
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (size,) = struct.unpack(">I", out[at : at + 4])
        if at + 12 + size > len(out):
            break
        out[at + 8 + size : at + 12 + size] = struct.pack(">I", zlib.crc32(out[at + 4 : at + 8 + size]))
        at += 12 + size
    return bytes(out)


# ---- poses


def _lists(folder: Path, extra: dict, split: str = "", each: dict | None = None) -> None:
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]} | (each or {})
        for name, pose in zip(names(4), poses(4), strict=True)
    ]
    (folder / f"transforms{split}.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames} | extra))


def _pictures(folder: Path) -> None:
    write_images(folder / "images", names(4))


def _transforms() -> Format:
    lens = {"fl_x": 10.0, "fl_y": 11.0, "cx": 6, "cy": 4, "w": 12, "h": 8, "k1": 0.01, "p2": 0.001, "aabb_scale": 4}
    split = {"train_filenames": [f"images/{n}" for n in names(3)], "test_filenames": [f"images/{names(4)[3]}"]}
    boxed = {"aabb": [[-1, -1, -1], [1, 1, 1]], "offset": [0.5, 0.5, 0.5], "scale": 0.33, "camera_model": "OPENCV"}
    examples = [_folder(_pictures, partial(_lists, extra=extra)) for extra in ({}, lens | split, lens | boxed)]
    each = {"mask_path": "masks/a.png", "depth_file_path": "depths/a.npy"}
    fish = {
        "ply_file_path": "points.ply",
        "camera_model": "OPENCV_FISHEYE",
        "k1": 0.01,
        "k2": 0.0,
        "k3": 0.0,
        "k4": 0.001,
    }
    fish |= {"depth_unit_scale_factor": 0.5, "w": 12, "h": 8, "fl_x": 10.0, "fl_y": 10.0}
    examples.append(_folder(_pictures, _beside, partial(_lists, extra=fish, each=each)))
    words = _words("file_path transform_matrix frames camera_angle_x fl_x w h aabb scale offset train_filenames k4 cx")
    words += _words("mask_path depth_file_path depth_unit_scale_factor ply_file_path k3 OPENCV_FISHEYE FULL_OPENCV FOV")
    damaged = ["transforms.json", "points.ply", "masks/a.png", "depths/a.npy"]
    return Format("transforms", examples, damaged, _read_posed, words)


def _beside(folder: Path) -> None:
    """Sparse points, a mask and a depth image."""
    generator = np.random.default_rng(0)
    trimesh.PointCloud(generator.uniform(-1, 1, (50, 3))).export(folder / "points.ply")
    (folder / "masks").mkdir()
    Image.fromarray(generator.integers(0, 2, (8, 12), np.uint8) * 255).save(folder / "masks" / "a.png")
    (folder / "depths").mkdir()
    np.save(folder / "depths" / "a.npy", generator.uniform(1, 3, (8, 12)).astype(np.float32))


def _read_posed(folder: Path) -> None:
    scene = load_posed(folder, depths=True)
    cameras = scene.train.cameras
    assert all(rays.isfinite().all() for rays in cameras.view(0)) and usual_orbit(cameras).to_vector().isfinite().all()
    assert scene.aabb.isfinite().all() and (scene.aabb[3:] > scene.aabb[:3]).all()


def _camera_path() -> Format:
    frames = [{"camera_to_world": [*pose.ravel().tolist(), 0, 0, 0, 1], "fov": 50, "aspect": 1.5} for pose in poses(3)]
    path = {"camera_type": "perspective", "render_height": 8, "render_width": 12, "fps": 24, "seconds": 2.0}
    example = {"a.json": json.dumps(path | {"camera_path": frames}).encode()}
    example["dataparser_transforms.json"] = json.dumps({"transform": poses(1)[0].tolist(), "scale": 0.5}).encode()
    words = _words("camera_to_world fov aspect fps seconds camera_path render_height perspective transform scale")
    return Format("camera_path", [example, {"a.json": example["a.json"]}], list(example), _read_path, words)


def _read_path(folder: Path) -> None:
    read_camera_path(folder / "a.json")


def _llff() -> Format:
    def rows(dtype: str, order: str, folder: Path) -> None:
        np.save(folder / "poses_bounds.npy", np.asarray(llff_rows(poses(4)), dtype, order))

    examples = [_folder(_pictures, partial(rows, *kind)) for kind in (("<f8", "C"), (">f4", "F"))]
    words = _words("descr fortran_order shape True <f8 |O <U9 (4, (17,) )} object")
    return Format("llff", examples, ["poses_bounds.npy"], _read_posed, words)


def _dtu() -> Format:
    arrays = {}
    for index, pose in enumerate(poses(4)):
        rotation = (pose[:, :3] @ np.diag([1.0, -1, -1])).T
        camera = np.array([[10.0, 0, 6], [0, 10, 4], [0, 0, 1]]) @ np.column_stack([rotation, -rotation @ pose[:, 3]])
        arrays[f"world_mat_{index}"] = np.concatenate([camera, [[0, 0, 0, 1.0]]])
        arrays[f"scale_mat_{index}"] = np.diag([2.0, 2, 2, 1])

    def save(write: Callable, folder: Path) -> None:
        write(folder / "cameras_sphere.npz", **arrays)
        for name in ("image", "mask"):
            write_images(folder / name, names(4))

    examples = [_folder(partial(save, write)) for write in (np.savez, np.savez_compressed)]
    words = _words("world_mat_0.npy scale_mat_0.npy world_mat_9.npy ../../world_mat_0.npy PK descr shape (9999999,)")
    return Format("dtu", examples, ["cameras_sphere.npz"], _read_posed, words, _opened_zip, _closed_zip)


def _opened_zip(good: list[bytes]) -> list[bytes]:
    """Members one after another, uncompressed: name, zero byte, length, content."""
    found = []
    for file in good:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            parts = [(n, archive.read(n)) for n in archive.namelist()]
        found.append(b"".join(n.encode() + b"\0" + struct.pack("<I", len(data)) + data for n, data in parts))
    return found


ZIPPED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)


def _closed_zip(data: bytes, rng: Random, damaged: float = 0.5, kinds: tuple[int, ...] = ZIPPED) -> bytes:
    """The members as an archive whose checksums hold; or that archive damaged itself."""
    stream, at = io.BytesIO(), 0
    kind = rng.choice(kinds)
    with zipfile.ZipFile(stream, "w", kind) as archive:
        while (end := data.find(b"\0", at)) > 0 and len(data) - end > 5:
            (size,) = struct.unpack("<I", data[end + 1 : end + 5])
            name = data[at:end].decode("latin-1")[:1000]
            if name not in archive.namelist():
                archive.writestr(zipfile.ZipInfo(name), data[end + 5 :][:size], kind)
            at = end + 5 + size
    file = bytearray(stream.getvalue())
    if rng.random() < damaged:
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(len(file))
            file[at : at + 4] = rng.choice((rng.randbytes(1), rng.randbytes(4), b"\xff\xff\xff\xff", b"\0\0\0\0"))
    return bytes(file)


def _colmap(text: bool) -> Format:
    examples = [
        _folder(_pictures, lambda folder, m=model: write_model(folder / "sparse/0", poses(4), m, text))
        for model in ("OPENCV", "SIMPLE_PINHOLE")
    ]
    ending = "txt" if text else "bin"
    files = [f"sparse/0/{name}.{ending}" for name in ("cameras", "images", "points3D")]
    words = _words("PINHOLE OPENCV_FISHEYE OPENCV # view 01.png 7 9 3")
    return Format("colmap_" + ("text" if text else "binary"), examples, files, _read_posed, words)


# ---- settings, fields, runs


SCENES = [
    {
        "kind": "shape",
        "seed": 3,
        "data": {"path": "a.ply", "points": 5000},
        "field": {"width": 16, "rank": 2, "omega": 9.5},
    },
    {"kind": "radiance", "data": {"path": "d", "aabb": [-1, -1, -1, 1, 1, 1]}, "training": {"steps": 5, "hull": False}},
    {"kind": "image", "data": {"path": "a.png"}, "field": {"skips": [1], "depth": 3}, "training": {"lr": 1e-3}},
]


def _yaml() -> Format:
    def lines(scene: dict) -> bytes:
        blocks = [f"{k}:\n" + "".join(f"  {a}: {json.dumps(b)}  # why\n" for a, b in v.items()) if isinstance(v, dict)
                  else f"{k}: {v}\n" for k, v in scene.items()]  # fmt: skip
        return "".join(blocks).encode()

    words = _words(
        "!!python/object/apply:os.system !!binary &a *a <<: !!set ? - | > 2001-99-99 1:1:1 0x1F .inf ~ yes --- %YAML"
    )
    words += [
        b"kind: [1]",
        b"[*a,*a]",
        b"a: &a [1,1]\nb: &b [*a,*a]\n",
        b": : :",
        b"'",
        b"\t",
        b"1" + b":1" * 4000,
        b"0x" + b"F" * 6000,
    ]
    examples = [{"a.yaml": lines(scene)} for scene in SCENES]
    return Format("yaml", examples, ["a.yaml"], _read_scene, words)


def _read_scene(folder: Path) -> None:
    load_config(folder / "a.yaml")


@cache
def _fields() -> list[nn.Module]:
    def config(kind: str, **settings) -> object:
        return make_config({"kind": kind, "field": settings, "data": {"path": "-"}}, "test").field

    torch.manual_seed(0)
    small = {"width": 8, "depth": 2, "rank": 2, "frequencies": 2}
    box = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    shape = ShapeField(config("shape", **small), torch.zeros(3).double(), torch.ones(()).double(), box.double())
    cube = RadianceField(config("radiance", **small, grid=4, head_width=4, features=3, steps=16), box)
    return [shape, cube, ImageField(config("image", **small), 6, 4)]


def _field_file() -> Format:
    def save(which: nn.Module, folder: Path) -> None:
        save_field(folder / "field.safetensors", which, {"seed": 0, "steps": 5, "seconds": 0.1, "loss": 0.5})

    examples = [_folder(partial(save, which)) for which in _fields()]
    words = _words(
        "F64 F32 BF16 I64 BOOL U8 shape dtype data_offsets __metadata__ kind field width depth grid dense hash rank"
    )
    words += [
        b'\\"width\\": 8192',
        b'\\"depth\\": 64',
        b'\\"weights\\": \\"dense\\"',
        b'\\"grid\\": 512',
        b'\\"grid_levels\\": 10',
    ]
    words += [b'\\"encoding\\": \\"hash\\"', b'\\"log2_table\\": 24']
    return Format("field", examples, ["field.safetensors"], _read_field, words, mend=_mended_tensors)


def _mended_tensors(data: bytes, rng: Random) -> bytes:
    """The length of the header as it is now, for the most part."""
    end = data.find(b"}}", data.rfind(b"data_offsets"))
    if end < 0 or rng.random() < 0.2:
        return data
    end += 2
    while data[end : end + 1] == b" ":  # up to a multiple of eight
        end += 1
    return struct.pack("<Q", end - 8) + data[8:]


def _read_field(folder: Path) -> None:
    load_field(folder / "field.safetensors")


def _run() -> Format:
    examples = []
    for which, scene in zip(_fields(), SCENES, strict=True):

        def save(folder: Path, which=which, scene=scene) -> None:
            settings = scene | {"field": {k: v for k, v in vars(which.config).items() if k != "omega"}}
            run = Run.prepare(folder, make_config(settings, "test"))
            save_field(run.field_path, which, {"steps": 5, "seconds": 0.1})
            run.append_metrics({"step": 2, "seconds": 0.1, "loss": 0.5, "iou": 0.75})
            run.append_metrics({"step": 5, "seconds": 0.2, "loss": 0.25, "iou": 0.9})
            run.report_path.write_text(
                json.dumps({"kind": which.kind, "iou": 0.9, "psnr": 20.5, "per_view": [{"view": "a", "psnr": 3}]})
            )
            state = {f"field.{k}": v.clone() for k, v in which.state_dict().items()}
            save_tensors(run.state_path, state, {"step": 5, "seconds": 0.2})

        examples.append(_folder(save))
    files = ["config.yaml", "metrics.jsonl", "report.json", "state/state.safetensors"]
    words = _words("step seconds loss iou kind 5 Infinity NaN null width field")
    return Format("run", examples, files, _read_run, words)


def _read_run(folder: Path) -> None:
    run = Run(folder)
    describe(folder)
    run.read_report()
    [line["step"] <= 5 for line in run.read_metrics()]
    load_state_field(run)


def _adapter() -> Format:
    def save(kind: str, folder: Path) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
        attach(model, ["0", "2"], AdapterSpec(kind, rank=2))
        save_adapter(model, folder / "a.safetensors")

    examples = [_folder(partial(save, kind)) for kind in ("sine", "lora", "dora")]
    words = _words("F64 F32 BF16 I64 BOOL shape dtype data_offsets __metadata__ targets rank alpha kind adapter 0.a")
    return Format("adapter", examples, ["a.safetensors"], _read_adapter, words, mend=_mended_tensors)


def _read_adapter(folder: Path) -> None:
    load_adapter(folder / "a.safetensors")


GOLDEN = Path(__file__).parent / "golden"
HEAD = 9
"""Bytes of a .sine file before what its checksum is of."""


def _sine() -> Format:
    """Packed fields, edits and adapters whose checksum is sound whatever they hold."""
    examples = [{"a.sine": file.read_bytes()} for file in sorted(GOLDEN.glob("*.sine"))]
    examples += [{"a.sine": _packed_mesh()}] * 4
    return Format(
        "sine", examples, ["a.sine"], _read_sine, _words("kind width depth rank"), mend=_sealed, prepare=_sound_ones
    )


def _packed_mesh() -> bytes:
    ball = trimesh.creation.icosphere(2)
    nodes = np.round((ball.vertices + 1) * 100).astype(np.int64)
    return encode(to_packed(MeshField.of(LatticeMesh(nodes, np.asarray(ball.faces), -np.ones(3), 0.01)), {}, {}))


def _sound_ones() -> None:
    for file in GOLDEN.glob("*.sine"):
        with suppress(SinefieldError):  # edits and adapters are no fields
            load_field(file)


def _sealed(data: bytes, rng: Random) -> bytes:
    body = data[HEAD:]
    version = data[4:5] if data[4:5] in (b"\1", b"\2") and rng.random() < 0.9 else b"\2"
    return b"SINE" + version + struct.pack("<I", zlib.crc32(body)) + body


def _read_sine(folder: Path) -> None:
    """As a field, and where it is none as an adapter."""
    file = folder / "a.sine"
    try:
        load_field(file)
    except SinefieldError:
        load_adapter(file)


FORMATS: dict[str, Callable[[], Format]] = {
    **{kind: partial(_mesh, kind) for kind in ("obj", "ply", "stl", "off", "glb", "xyz")},
    **{kind: partial(_others, kind) for kind in OTHERS},
    **{kind: partial(_image, kind) for kind in ("png", "jpg", "tif", "webp", "bmp")},
    "transforms": _transforms,
    "camera_path": _camera_path,
    "yaml": _yaml,
    "llff": _llff,
    "dtu": _dtu,
    "colmap_binary": partial(_colmap, False),
    "colmap_text": partial(_colmap, True),
    "field": _field_file,
    "run": _run,
    "adapter": _adapter,
    "sine": _sine,
}


def examples(name: str) -> Format:
    """A format with its sound files."""
    return replace(FORMATS[name](), name=name)
