"""Readers of surfaces: every format against other libraries or arithmetic, variants that programs write, bad input."""

import gzip
import io
import json
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import DracoPy
import laspy
import numpy as np
import pytest
import surfaces
import trimesh
from hostile import attempt, place
from hostile_formats import OTHERS, examples
from PIL import Image
from surfaces import FACES, POINTS, Tree, data_uri, instanced, pcd_file, picture, sparse, strips_and_fans, textured

from sinefield.data.surfaces.mesh_files import EXTENSIONS, read_shape
from sinefield.data.surfaces.parts import PLAIN
from sinefield.data.surfaces.readers import source as limits
from sinefield.data.surfaces.readers.lzf import unpack
from sinefield.data.surfaces.readers.polygons import triangulate
from sinefield.errors import SinefieldError

BALL = trimesh.creation.icosphere(2)
CUBE = trimesh.creation.box((2, 2, 2))


def read(path, content=None):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_shape(path)


def gltf(tmp_path, tree):
    return read(tmp_path / "a.gltf", json.dumps(tree))


def area(part):
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def volume(part):
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


def box(part):
    used = part.vertices if part.faces is None else part.vertices[part.faces.ravel()]
    return np.concatenate([used.min(0), used.max(0)])


def soup(part):
    """Triangles as sorted rows, whatever their vertices' order."""
    corners = np.round(part.vertices[part.faces], 6) + 0.0
    first = np.array([min(range(3), key=lambda i: tuple(tri[i])) for tri in corners])
    turned = np.take_along_axis(corners, ((first[:, None] + np.arange(3)) % 3)[:, :, None], 1)
    return np.array(sorted(turned.reshape(-1, 9).tolist()))


def refused(path, content, words):
    with pytest.raises(SinefieldError, match=words) as caught:
        read(path, content)
    text = str(caught.value)
    assert "\n" not in text and path.name in text and ";" in text


# ---- all formats give the same mesh


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "stl_ascii", "off", "glb", "gltf"])
def test_what_trimesh_writes(tmp_path, kind):
    mesh = BALL.copy().apply_translation((1, 2, 3))
    if kind == "gltf":
        for name, content in mesh.export(file_type="gltf").items():
            (tmp_path / name).write_bytes(content)
        path = tmp_path / "model.gltf"
    else:
        path = tmp_path / f"a.{kind[:3]}"
        content = mesh.export(file_type=kind)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (part,) = read(path).parts
    np.testing.assert_allclose(soup(part), soup(part._replace(vertices=mesh.vertices, faces=mesh.faces)), atol=2e-6)


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "off", "glb"])
def test_packed_by_gzip(tmp_path, kind):
    content = BALL.export(file_type=kind)
    packed = gzip.compress(content if isinstance(content, bytes) else content.encode())
    (part,) = read(tmp_path / f"a.{kind}.gz", packed).parts
    assert len(part.faces) == len(BALL.faces) and area(part) == pytest.approx(BALL.area, rel=1e-5)


# ---- glTF


def test_instances(tmp_path):
    shape = gltf(tmp_path, instanced())
    assert [part.name for part in shape.parts] == ["cube"] * 3 and shape.unit == "m"
    wanted = [[-1, -1, -1, 1, 1, 1], [4, -1, -1, 6, 1, 1], [-1, 4, -3, 1, 6, 3]]
    for part, expected in zip(shape.parts, wanted, strict=True):
        np.testing.assert_allclose(box(part), expected, atol=1e-6)
        assert volume(part) > 7.9  # the mirrored one too: its faces are turned


def test_instances_are_counted_before_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FACES", 30)
    with pytest.raises(SinefieldError, match="36 faces, more than 30"):
        gltf(tmp_path, instanced())


def test_sparse_numbers(tmp_path):
    (part,) = gltf(tmp_path, sparse()).parts
    expected = POINTS.copy()
    expected[7] = 3
    np.testing.assert_array_equal(np.sort(part.vertices, 0), np.sort(expected, 0))
    tree = Tree()  # nothing but overrides, over zeros
    where, values = tree.view(np.uint8([1, 2, 3]).tobytes()), tree.view(np.float32(np.eye(3)).tobytes())
    override = {"count": 3, "indices": {"bufferView": where, "componentType": 5121}, "values": {"bufferView": values}}
    tree.tree["accessors"] = [{"count": 4, "type": "VEC3", "componentType": 5126, "sparse": override}]
    faces = tree.accessor(np.uint8([0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3]))
    tree.mesh({"attributes": {"POSITION": 0}, "indices": faces})
    assert volume(gltf(tmp_path, tree.done()).parts[0]) == pytest.approx(1 / 6)


def test_strips_fans_and_quantised_numbers(tmp_path):
    (part,) = gltf(tmp_path, strips_and_fans()).parts
    np.testing.assert_allclose(box(part), [-2, -2, -2, 2, 2, 2])
    assert len(part.faces) == 12 and area(part) == pytest.approx(96) and abs(volume(part)) == pytest.approx(64)


def test_primitives_without_indices_and_of_lines(tmp_path):
    tree = Tree()
    corners = tree.accessor(POINTS[FACES].reshape(-1, 3))
    tree.mesh({"attributes": {"POSITION": corners}}, {"attributes": {"POSITION": corners}, "mode": 1})
    shape = gltf(tmp_path, tree.done())
    assert volume(shape.parts[0]) == pytest.approx(8) and any("lines" in note for note in shape.notes)


def test_points(tmp_path):
    tree = Tree()
    tree.mesh({"attributes": {"POSITION": tree.accessor(POINTS)}, "mode": 0}, translation=[1, 0, 0])
    (part,) = gltf(tmp_path, tree.done()).parts
    assert part.faces is None
    np.testing.assert_allclose(part.vertices, POINTS + np.array([1, 0, 0]))


def test_draco(tmp_path):
    packed, tree = surfaces.draco()
    cube, ball = gltf(tmp_path, tree).parts
    other = DracoPy.decode(packed)
    np.testing.assert_allclose(ball.vertices[ball.faces], other.points[other.faces] + [5, 0, 0], atol=1e-6)
    assert volume(cube) == pytest.approx(8) and volume(ball) == pytest.approx(
        trimesh.creation.icosphere(1).volume, rel=1e-3
    )


def test_draco_that_claims_too_much(tmp_path):
    packed, tree = surfaces.draco()
    view = tree["bufferViews"][-1]
    blob = bytearray(surfaces.base64.b64decode(tree["buffers"][0]["uri"].partition(",")[2]))
    at = view["byteOffset"]
    assert blob[at : at + len(packed)] == packed
    blob[at + 12 : at + 17] = b"\xff\xff\xff\xff\x07"
    tree["buffers"][0]["uri"] = data_uri(bytes(blob))
    refused(tmp_path / "a.gltf", json.dumps(tree), "faces or points in")


def test_packed_data_without_their_readers_say_what_to_install(tmp_path, monkeypatch):
    for name in ("DracoPy", "lazrs"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(tmp_path / "a.gltf", json.dumps(surfaces.draco()[1]), r"pip install 'sinefield\[readers\]'")
    held = laspy.LasData(laspy.LasHeader(version="1.2", point_format=0))
    held.x = held.y = held.z = np.arange(9.0)
    held.write(str(tmp_path / "b.las"))
    head = bytearray((tmp_path / "b.las").read_bytes())
    head[104] |= 0x80  # its points are packed
    refused(tmp_path / "b.laz", bytes(head), r"sinefield\[readers\]")


def test_meshopt(tmp_path):
    pytest.importorskip("meshoptimizer")
    (part,) = gltf(tmp_path, surfaces.packed_by_meshopt()).parts
    assert volume(part) == pytest.approx(8)
    np.testing.assert_allclose(box(part), [-1, -1, -1, 1, 1, 1])


def test_places_of_nodes(tmp_path):
    tree = Tree()
    tree.mesh(tree.cube(), name="far", translation=[4649773.2, 500120.7, 309.5])
    half = np.sqrt(0.5)
    tree.tree["nodes"] += [
        {"children": [2], "rotation": [0, 0, half, half], "scale": [1, 2, 1]},
        {"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0, 10, 0, 0, 1], "name": "below"},
    ]
    far, below = gltf(tmp_path, tree.done()).parts
    np.testing.assert_allclose(far.vertices.mean(0), [4649773.2, 500120.7, 309.5], rtol=0, atol=1e-8)
    np.testing.assert_allclose(box(below), [-2, 9, -1, 2, 11, 1], atol=1e-12)
    assert volume(far._replace(vertices=far.vertices - far.vertices.mean(0))) == pytest.approx(8, abs=1e-6)
    assert volume(below) == pytest.approx(16)


def test_colours_of_a_tree(tmp_path):
    square, plain = gltf(tmp_path, textured()).parts
    middles = np.float32([[0.25, 0.75], [0.75, 0.75], [0.25, 0.25], [0.75, 0.25]])
    seen = [colour_at(square, (*middle, 0)) for middle in middles]
    np.testing.assert_allclose(seen, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], atol=1e-6)
    # Colours of vertices are linear: half the light is 188 of 255.
    np.testing.assert_allclose(colour_at(plain, (2, 1, 0)), [188 / 255] * 3, atol=2e-3)
    np.testing.assert_allclose(colour_at(plain, (3, 0, 0)), [0, 1, 0], atol=1e-6)


def colour_at(part, place):
    """By the triangle that the place lies in."""
    mesh = trimesh.Trimesh(part.vertices, part.faces, process=False)
    point, _, face = trimesh.proximity.closest_point_naive(mesh, [place])
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], point)
    return part.paint.at(face, weights)[0]


def test_textures_beside_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    square, _ = gltf(tmp_path, textured("a.png")).parts
    np.testing.assert_allclose(colour_at(square, (0.25, 0.25, 0)), [0, 0, 1], atol=1e-6)
    (tmp_path / "below").mkdir()
    for name in ("../a.png", str(tmp_path / "a.png"), "b.png", "http://localhost/b.png"):
        shape = gltf(tmp_path / "below", textured(name))
        assert any("not beside" in note for note in shape.notes) and shape.parts[0].paint is None


def test_factors_and_moved_textures(tmp_path):
    tree = textured()
    base = tree["materials"][0]["pbrMetallicRoughness"]
    base["baseColorFactor"] = [0.5, 1, 1, 1]
    move = {"offset": [0.5, 0], "scale": [1, 1]}
    base["baseColorTexture"]["extensions"] = {"KHR_texture_transform": move}
    square, _ = gltf(tmp_path, tree).parts
    np.testing.assert_allclose(colour_at(square, (0.75, 0.75, 0)), [188 / 255, 0, 0], atol=3e-3)
    gloss = {"diffuseFactor": [1, 0, 0, 1]}
    tree["materials"] = [{"extensions": {"KHR_materials_pbrSpecularGlossiness": gloss}}]
    assert colour_at(gltf(tmp_path, tree).parts[0], (0.5, 0.5, 0)).tolist() == [1, 0, 0]


def test_colours_of_trimesh_come_back(tmp_path):
    mesh = CUBE.copy()
    mesh.visual.vertex_colors = np.random.default_rng(0).integers(0, 256, (8, 4), dtype=np.uint8)
    (part,) = read(tmp_path / "a.glb", mesh.export(file_type="glb")).parts
    wanted = {(*v, *c) for v, c in zip(mesh.vertices.tolist(), mesh.visual.vertex_colors[:, :3].tolist(), strict=True)}
    corners = np.concatenate([part.vertices[part.faces], np.round(255 * part.paint.corners)], 2).reshape(-1, 6)
    assert set(map(tuple, corners.tolist())) == wanted


def test_what_gltf_is_refused_by_name(tmp_path):
    tree = Tree()
    tree.mesh(tree.cube())
    tree = tree.done()
    path = tmp_path / "a.gltf"
    refused(path, json.dumps(tree | {"extensionsRequired": ["KHR_made_up", "KHR_mesh_quantization"]}), "KHR_made_up")
    refused(path, json.dumps(tree | {"asset": {"version": "1.0"}}), "glTF 1.0")
    for uri in ("far.bin", "../far.bin", "/etc/passwd"):
        refused(path, json.dumps(tree | {"buffers": [{"byteLength": 9, "uri": uri}]}), f"{uri}.*missing")
    refused(
        path, json.dumps(tree | {"nodes": [{"mesh": 0, "children": [0]}], "scenes": [{"nodes": [0]}]}), "two parents"
    )
    refused(path, json.dumps(tree | {"nodes": [{"mesh": -1}]}), "number -1 of its 1 meshes")


def test_poses_and_morphs_are_noted(tmp_path):
    tree = Tree()
    tree.mesh(tree.cube(targets=[{"POSITION": 0}]))
    notes = " ".join(gltf(tmp_path, tree.done() | {"animations": [{}], "skins": [{"joints": [0]}]}).notes)
    assert "Animations" in notes and "Skins" in notes and "Morph" in notes


# ---- polygons


def test_concave_polygons_against_their_area():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    star = np.stack([np.cos(angle), np.sin(angle)], 1) * np.where(np.arange(40) % 2, 1, 0.3)[:, None]
    arrow = np.float64([[0, 0], [2, 1], [0, 2], [0.7, 1]])
    for corners in (star, arrow, np.roll(arrow, 1, 0), np.roll(arrow, 2, 0), arrow[::-1]):
        (x, y), (u, v) = corners.T, np.roll(corners, -1, 0).T
        exact = (x * v - u * y).sum() / 2
        frame = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0][:2]
        points = corners @ frame + 1000
        triangles, owner = triangulate(np.array([len(corners)]), np.arange(len(corners)), points)
        a, b, c = (points[triangles[:, i]] for i in range(3))
        normals = np.cross(b - a, c - a) / 2
        assert len(triangles) == len(corners) - 2 and (owner == 0).all()
        np.testing.assert_allclose(normals @ np.cross(*frame), np.abs(normals @ np.cross(*frame)) * np.sign(exact))
        assert np.linalg.norm(normals, axis=1).sum() == pytest.approx(abs(exact))


def test_polygons_of_all_sizes_keep_their_order():
    counts = np.array([4, 3, 2, 5, 3, 6])
    angle = np.concatenate([np.linspace(0, 2 * np.pi, n, endpoint=False) for n in counts])
    points = np.stack([np.cos(angle), np.sin(angle), np.sin(angle)], 1)
    triangles, owner = triangulate(counts, np.arange(counts.sum()), points)
    assert owner.tolist() == [0, 0, 1, 3, 3, 3, 4, 5, 5, 5, 5]
    starts = np.cumsum(counts) - counts
    assert (triangles >= starts[owner, None]).all() and (triangles < (starts + counts)[owner, None]).all()


# ---- OBJ

OBJ = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "gbk"])
def test_encodings_of_obj(tmp_path, encoding):
    name = {"gbk": "立方体", "latin-1": "Würfel"}.get(encoding, "Würfel 立方体")
    content = "# " + name + "\no " + name + "\n" + OBJ + "f 1 2 3 4\n"
    (part,) = read(tmp_path / "a.obj", content.encode(encoding)).parts
    assert part.name == name and area(part) == 1


@pytest.mark.parametrize(
    "faces",
    ["f 1 2 3 4", "f -4 -3 -2 -1", "f 1// 2// 3// 4//", "f 1/1/1 2/2/1 3/1/1 4/1/1\nvn 0 0 1\nvt 0 0\nvt 1 0",
     "f 1 2 \\\n3 4", "f 1 2 \\\r\n 3 4\r\n", "  f\t1 2 3 4  # four", "f 1//1 2//1 3//1 4//1\nvn 0 0 1"],
)  # fmt: skip
def test_spellings_of_faces(tmp_path, faces):
    (part,) = read(tmp_path / "a.obj", OBJ + faces).parts
    assert area(part) == 1 and len(part.faces) == 2


def test_all_digits_are_kept(tmp_path):
    points = np.random.default_rng(0).random((3, 3)) + np.array([5e5, 4649773, 300])
    text = "".join("v " + " ".join(repr(float(x)) for x in row) + "\n" for row in points) + "f 1 2 3\n"
    np.testing.assert_array_equal(read(tmp_path / "a.obj", text).parts[0].vertices, points)


def test_parts_colours_and_materials_of_obj(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl tex\nKd 1 1 1\nmap_Kd -s 1 1 1 .\\a.png\n")
    text = "mtllib a.mtl\n" + OBJ + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\no one\nusemtl red\nf 1 2 3 4\n"
    text += "o two\nusemtl tex\nf 1/1 2/2 3/3 4/4\no one\nusemtl none\nf 1 2 3\n"
    one, two = read(tmp_path / "a.obj", text).parts
    assert (one.name, two.name) == ("one", "two") and len(one.faces) == 3
    assert one.paint.corners[0, 0].tolist() == [1, 0, 0] and (one.paint.texture_of == PLAIN).all()
    np.testing.assert_allclose(colour_at(two, (0.25, 0.25, 0)), [0, 0, 1], atol=1e-6)
    coloured = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n"
    assert read(tmp_path / "b.obj", coloured).parts[0].paint.corners[0].tolist() == np.eye(3).tolist()
    shape = read(tmp_path / "c.obj", "mtllib far.mtl\nusemtl x\n" + OBJ + "f 1 2 3\n")
    assert shape.parts[0].paint is None and "far.mtl" in shape.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [(OBJ + "f 1 2 9\n", "vertex 9 of 4"), (OBJ + "f 0 1 2\n", "vertex 0"), (OBJ + "f 1 2 x\n", "'x'"),
     ("v 1 2\nf 1 1 1\n", "2 numbers"), ("v 1 2 z\nf 1 1 1\n", "'z' where a number"), (OBJ + "f -9 1 2\n", "vertex -4"),
     ("nothing\n", "neither faces nor points"), (OBJ + "f 1/7 2/7 3/7\nvt 0 0\n", "coordinates that are not there")],
)  # fmt: skip
def test_damaged_obj(tmp_path, text, words):
    refused(tmp_path / "a.obj", text, words)


# ---- PLY


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_of_any_numbers(tmp_path, form):
    """Double coordinates far away, polygons of several sizes, colours of vertices as floats."""
    points = np.float64([[0, 0, 0], [2, 0, 0], [2, 2, 0], [1, 0.5, 0], [0, 2, 0]]) + np.array([5e6 + 1 / 3, 1e6, 0])
    colours = np.float64([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    faces = [[0, 1, 2, 3, 4], [2, 1, 0]]
    head = f"ply\nformat {form} 1.0\ncomment x\nelement vertex 5\nproperty double x\nproperty double y\n"
    head += "property double z\nproperty float r\nproperty float g\nproperty float b\nelement face 2\n"
    head += "property list ushort uint vertex_index\nproperty short flags\nend_header\n"
    if form == "ascii":
        rows = [" ".join(map(repr, [*map(float, p), *map(float, c)])) for p, c in zip(points, colours, strict=True)]
        body = "\n".join(rows + [" ".join(map(str, [len(f), *f, 7])) for f in faces]).encode()
    else:
        order = "<" if "little" in form else ">"
        body = b"".join(struct.pack(order + "dddfff", *p, *c) for p, c in zip(points, colours, strict=True))
        body += b"".join(struct.pack(f"{order}H{len(f)}Ih", len(f), *f, 7) for f in faces)
    (part,) = read(tmp_path / "a.ply", head.encode() + body).parts
    np.testing.assert_array_equal(part.vertices, points)
    assert area(part) == pytest.approx(2.5 + 2) and len(part.faces) == 4
    assert part.paint.corners[-1].tolist() == colours[[2, 1, 0]].tolist()


@pytest.mark.parametrize("names", ["nx ny nz", "normal_x normal_y normal_z", "Nx Ny Nz", "normalx normaly normalz",
                                   "NORMAL_X NORMAL_Y NORMAL_Z", "n_x n_y n_z"])  # fmt: skip
def test_names_of_normals(tmp_path, names):
    head = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(
        f"property float {n}\n" for n in f"x y z {names}".split()
    )
    (part,) = read(tmp_path / "a.ply", head + "end_header\n1 2 3 0 0 1\n4 5 6 1 0 0\n").parts
    assert part.normals.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("names", ["red green blue", "r g b", "diffuse_red diffuse_green diffuse_blue"])
def test_names_of_colours(tmp_path, names):
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 1\nproperty list uchar int vertex_indices\n" + "".join(
        f"property uchar {n}\n" for n in names.split()
    )
    (part,) = read(tmp_path / "a.ply", head + "end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 255 0 1\n").parts
    np.testing.assert_allclose(part.paint.corners[0], [[1, 0, 1 / 255]] * 3)


def test_strips_and_textures_of_ply(tmp_path):
    head = "ply\nformat ascii 1.0\ncomment TextureFile a.png\nelement vertex 4\nproperty float x\nproperty float y\n"
    head += "property float z\nproperty float s\nproperty float t\n"
    body = "end_header\n0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n1 1 0 1 1\n"
    strip = "element tristrips 1\nproperty list int int vertex_indices\n"
    (tmp_path / "a.png").write_bytes(picture())
    (part,) = read(tmp_path / "a.ply", head + strip + body + "4 0 1 2 3\n").parts
    assert area(part) == 1 and volume(part._replace(vertices=part.vertices + np.array([0, 0, 1]))) == pytest.approx(
        1 / 3
    )
    np.testing.assert_allclose(colour_at(part, (0.25, 0.25, 0)), [0, 0, 1], atol=1e-6)
    face = "element face 1\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    own = "4 0 1 3 2 8 1 0 0 0 0 1 1 1\n"  # mirrored
    (part,) = read(tmp_path / "b.ply", head + face + body + own).parts
    np.testing.assert_allclose(colour_at(part, (0.75, 0.25, 0)), [0, 0, 1], atol=1e-6)


# ---- STL and OFF


def test_stl_in_any_case_with_a_tail(tmp_path):
    text = CUBE.export(file_type="stl_ascii")
    for content in (text.upper(), text.replace("endsolid", "end solid"), text + "\n\n\x1a", text.replace("\n", "\r\n"),
                    " ".join(text.split())):  # fmt: skip
        assert volume(read(tmp_path / "a.stl", content).parts[0]) == pytest.approx(8)
    binary = CUBE.export(file_type="stl")
    for content in (b"solid  x" + binary[8:], binary + b"\n", binary + bytes(77)):
        assert volume(read(tmp_path / "a.stl", content).parts[0]) == pytest.approx(8)
    shape = read(tmp_path / "a.stl", binary[:80] + bytes(4) + binary[84:])
    assert len(shape.parts[0].faces) == 12 and "claims 0" in shape.notes[0]


def test_several_solids(tmp_path):
    text = CUBE.export(file_type="stl_ascii")
    body = text.split("\n", 1)[1]
    shape = read(tmp_path / "a.stl", f"solid first\n{body}\nsolid the Second\n{body}")
    assert [(part.name, len(part.faces)) for part in shape.parts] == [("first", 12), ("the Second", 12)]


def test_kinds_of_off(tmp_path):
    vertices = [(0, 0, 0), (2, 0, 0), (2, 2, 0), (1, 0.5, 0), (0, 2, 0)]
    plain = "\n".join(" ".join(map(str, v)) for v in vertices)
    coloured = "\n".join(" ".join(map(str, (*v, 255, 0, 51, 255))) for v in vertices)
    for head, rows, face in (
        ("OFF", plain, "5 0 1 2 3 4"), ("OFF # a comment\n# another", plain, "5 0 1 2 3 4 0.2 0.4 1"),
        ("COFF", coloured, "5 0 1 2 3 4"), ("NOFF", plain.replace("\n", " 0 0 1\n") + " 0 0 1", "5 0 1 2 3 4"),
        ("off", plain, "5 0 1 2 3 4 255 0 51"),
    ):  # fmt: skip
        (part,) = read(tmp_path / "a.off", f"{head}\n5 1 0\n{rows}\n{face}\n").parts
        assert area(part) == pytest.approx(2.5) and (part.paint is None) == (head in ("OFF", "NOFF"))
        if head in ("COFF", "off"):
            np.testing.assert_allclose(part.paint.corners[0, 0], [1, 0, 0.2])
        joined = "\n".join(f"{head}\n5 1 0\n{rows}\n5 0 1 2 3 4".replace("# a comment\n# another", "").split())
        assert area(read(tmp_path / "b.off", joined).parts[0]) == pytest.approx(2.5)
    refused(tmp_path / "a.off", "OFF BINARY\n" + "x" * 90, "binary OFF")


# ---- points


def cloud_text(separator=" ", columns="xyzn", point="."):
    normals = np.asarray(BALL.vertices)[:40]
    table = {"x": normals * 3 + 1, "n": normals, "c": np.random.default_rng(0).integers(0, 256, normals.shape)}
    order = columns.replace("xyz", "x")
    rows = np.concatenate([table[name] for name in order], 1)
    return "".join(
        separator.join(f"{v:.6f}".rstrip("0").rstrip(".").replace(".", point) for v in row) + "\n" for row in rows
    )


@pytest.mark.parametrize(
    "text",
    [cloud_text(), cloud_text(","), cloud_text(", "), cloud_text("; "), cloud_text("\t"), cloud_text(";", point=","),
     cloud_text(" ", point=","), "40\n" + cloud_text(), "x y z nx ny nz\n" + cloud_text(), "\ufeff" + cloud_text(","),
     "X,Y,Z,Nx,Ny,Nz\n" + cloud_text(","), "# x y z\n" + cloud_text(), "//X Y Z Nx Ny Nz\n40\n" + cloud_text(),
     '"x";"y";"z";"normal_x";"normal_y";"normal_z"\n' + cloud_text(";"), cloud_text().replace("\n", "\r\n"),
     cloud_text().replace("\n", "  \n\n")],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["xyz", "txt", "csv", "asc"])
def test_spellings_of_points(tmp_path, text, ending):
    (part,) = read(tmp_path / f"a.{ending}", text).parts
    normals = np.asarray(BALL.vertices)[:40]
    np.testing.assert_allclose(part.vertices, normals * 3 + 1, atol=1e-6)
    np.testing.assert_allclose(part.normals, normals, atol=1e-6)


@pytest.mark.parametrize("columns", ["xyzc", "xyznc", "xyzcn"])
@pytest.mark.parametrize("shares", [False, True])
def test_colours_by_their_numbers(tmp_path, columns, shares):
    text = cloud_text(columns=columns)
    expected = np.random.default_rng(0).integers(0, 256, (40, 3))
    if shares:
        at = 3 * columns.replace("xyz", "x").index("c")
        rows = [line.split() for line in text.splitlines()]
        text = "\n".join(
            " ".join(v if not at <= i < at + 3 else f"{int(v) / 255:.5f}" for i, v in enumerate(row)) for row in rows
        )
    shape = read(tmp_path / "a.txt", text)
    np.testing.assert_array_equal(shape.parts[0].colours, expected)
    assert (shape.parts[0].normals is None) == ("n" not in columns) and "colours in columns" in shape.notes[0]


def test_names_decide(tmp_path):
    text = "r,g,b,x,y,z,intensity\n" + "".join(f"{i},0,9,{i + 0.5},2,3,7\n" for i in range(20))
    (part,) = read(tmp_path / "a.csv", text).parts
    assert part.colours[7].tolist() == [7, 0, 9] and part.vertices[7].tolist() == [7.5, 2, 3] and part.normals is None


def test_pts(tmp_path):
    text = "3\n1 2 3 -900 255 0 1\n4 5 6 20 9 8 7\n7 8 9 100 1 2 3\n"
    (part,) = read(tmp_path / "a.pts", text).parts
    assert part.colours.tolist() == [[255, 0, 1], [9, 8, 7], [1, 2, 3]] and part.vertices[2].tolist() == [7, 8, 9]


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path, form):
    normals = np.asarray(BALL.vertices)[:70]
    points, colours = normals * 2 + 5e5, np.random.default_rng(0).integers(0, 256, normals.shape, dtype=np.uint8)
    points[3] = np.nan
    shape = read(tmp_path / "a.pcd", pcd_file(points, normals, colours, form))
    keep = np.arange(70) != 3
    np.testing.assert_array_equal(shape.parts[0].vertices, points[keep])
    np.testing.assert_allclose(shape.parts[0].normals, normals[keep], atol=1e-6)
    np.testing.assert_array_equal(shape.parts[0].colours, colours[keep])
    assert "1 of 70 points" in shape.notes[0]


def test_lzf():
    data = bytes(range(9)) * 30 + bytes(500) + b"end"
    assert unpack(surfaces.lzf_plain(data), len(data)) == data
    assert unpack(surfaces.lzf_plain(data), len(data) - 1) is None
    assert unpack(bytes([7 << 5, 255, 0]), 264) is None  # goes back before the beginning


@pytest.mark.parametrize("kind", ["las", "laz"])
@pytest.mark.parametrize(("version", "form"), [("1.2", 0), ("1.2", 3), ("1.4", 6), ("1.4", 7)])
def test_las(tmp_path, kind, version, form):
    rng = np.random.default_rng(0)
    points, colours = rng.random((3000, 3)) * 100 + [5e5, 4.6e6, 10], rng.integers(0, 65536, (3000, 3), dtype=np.uint16)
    header = laspy.LasHeader(version=version, point_format=form)
    header.offsets, header.scales = points.min(0), np.full(3, 1e-3)
    held = laspy.LasData(header)
    held.x, held.y, held.z = points.T
    if form in (3, 7):
        held.red, held.green, held.blue = colours.T
    held.write(str(tmp_path / f"a.{kind}"))
    (part,) = read_shape(tmp_path / f"a.{kind}").parts
    np.testing.assert_allclose(part.vertices, points, rtol=0, atol=5.1e-4)
    if form in (3, 7):
        np.testing.assert_allclose(part.colours, colours / 257, atol=0.5)
    else:
        assert part.colours is None


def test_arrays(tmp_path):
    points = np.asarray(BALL.vertices)
    colours = np.random.default_rng(0).integers(0, 256, points.shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", np.concatenate([points * 2, points], 1).astype(np.float32))
    (part,) = read_shape(tmp_path / "a.npy").parts
    np.testing.assert_allclose(part.normals, points, atol=1e-6)
    np.savez_compressed(tmp_path / "a.npz", points=points * 2, normals=points, colors=colours)
    (part,) = read_shape(tmp_path / "a.npz").parts
    np.testing.assert_array_equal(part.vertices, points * 2)
    np.testing.assert_array_equal(part.colours, colours)
    np.save(tmp_path / "b.npy", np.array([[1, None, 3]], object), allow_pickle=True)
    with pytest.raises(SinefieldError, match="object"):
        read_shape(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.zeros(7))
    with pytest.raises(SinefieldError, match="shape"):
        read_shape(tmp_path / "c.npy")


# ---- 3MF


def threemf(path, model, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("3D/3dmodel.model", model)
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_3mf(tmp_path):
    first, second = surfaces.threemf_models()
    shape = read_shape(threemf(tmp_path / "a.3mf", first))
    assert shape.unit == "in" and [part.name for part in shape.parts] == ["red", "blue"]
    assert (shape.parts[0].paint.corners == [1, 0, 0]).all() and (shape.parts[1].paint.corners == [0, 0, 1]).all()
    np.testing.assert_allclose(box(shape.parts[1]), [4, -1, -1, 6, 1, 1])
    shape = read_shape(threemf(tmp_path / "b.3mf", second))
    assert shape.unit == "mm" and [part.name for part in shape.parts] == ["pair", "pair"]
    np.testing.assert_allclose(box(shape.parts[1]), [8, -2, -1, 10, 2, 1])
    assert [volume(part) for part in shape.parts] == pytest.approx([8, 16])  # the mirrored one is turned


def test_3mf_that_asks_for_more(tmp_path):
    model = surfaces.threemf_models()[0]
    evil = model.replace("<model", '<!DOCTYPE x [<!ENTITY a "aaaa">]><model', 1)
    with pytest.raises(SinefieldError, match="document type or entities"):
        read_shape(threemf(tmp_path / "a.3mf", evil))
    loop = model.replace("<build>", "<build><item objectid='7'/>").replace(
        "</resources>", "<object id='7'><components><component objectid='7'/></components></object></resources>"
    )
    with pytest.raises(SinefieldError, match="without end"):
        read_shape(threemf(tmp_path / "b.3mf", loop))
    with pytest.raises(SinefieldError, match="200 times"):
        read_shape(threemf(tmp_path / "c.3mf", model + " " * (40 << 20)))


# ---- what is none of them

FOREIGN = {
    "a.step": (b"ISO-10303-21;\nHEADER;", "a STEP file"),
    "a.stl": (b"ISO-10303-21;\nHEADER;", "a STEP file.*export a mesh as GLB"),
    "a.igs": (b" " * 72 + b"S      1\n", "an IGES file"),
    "a.fbx": (b"Kaydara FBX Binary  \0", "an FBX file"),
    "b.obj": (b"Kaydara FBX Binary  \0", "an FBX file"),
    "a.blend": (b"BLENDER-v300", "a Blender file"),
    "a.usda": (b"#usda 1.0\n", "a USD file"),
    "a.dae": (b'<?xml version="1.0"?><COLLADA>', "COLLADA"),
    "b.glb": (b"<!DOCTYPE html><html>sign in</html>", "a web page"),
    "c.glb": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
    "a.wrl": (b"#VRML V2.0 utf8\n", "VRML"),
    "a.x3d": (b"<X3D profile='x'>", "X3D"),
    "a.3ds": (b"MM" + struct.pack("<I", 16) + bytes(10), "3DS"),
    "a.e57": (b"ASTM-E57" + bytes(40), "E57"),
    "a.dwg": (b"AC1027" + bytes(40), "DWG"),
    "a.dxf": (b"  0\nSECTION\n  2\nHEADER\n", "DXF"),
    "a.skp": (b"\xff\xfe\xff\x0eS\0k\0e\0t\0c\0h\0U\0p\0", "SketchUp"),
    "a.rar": (b"Rar!\x1a\x07\x00", "RAR"),
    "b.stl": (b"%PDF-1.7\n", "PDF"),
    "a.ply": (b"\x89PNG\r\n\x1a\n" + bytes(40), "an image"),
    "a.max": (b"whatever", "modelling program"),
    "a.xyzw": (b"hello", "unknown kind '.xyzw'"),
    "empty.pcd": (b"", "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_cannot_be_read_says_what_it_is(tmp_path, name):
    content, words = FOREIGN[name]
    refused(tmp_path / name, content, words)


def test_archives_say_what_they_are(tmp_path):
    for name, inside, words in (("a.zip", "a.obj", "a ZIP archive.*unpack"), ("a.usdz", "a.usdc", "a USDZ file")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, "x")
        with pytest.raises(SinefieldError, match=words):
            read_shape(tmp_path / name)


@pytest.mark.parametrize("kind", ["ply", "stl", "glb", "off", "obj"])
def test_a_wrong_ending_is_noted(tmp_path, kind):
    content = BALL.export(file_type=kind)
    shape = read(tmp_path / ("a.stl" if kind != "stl" else "a.obj"), content)
    assert len(shape.parts[0].faces) == len(BALL.faces) and kind.upper() in shape.notes[0]


@pytest.mark.parametrize("kind", [ending[1:] for ending in EXTENSIONS])
def test_nothing_and_garbage(tmp_path, kind):
    refused(tmp_path / f"a.{kind}", b"", "empty")
    refused(tmp_path / f"a.{kind}", np.random.default_rng(0).bytes(3000), ";")


# ---- bombs


def peak(path, words):
    tracemalloc.start()
    with pytest.raises(SinefieldError, match=words):
        read_shape(path)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_bombs_take_no_memory(tmp_path):
    (tmp_path / "a.ply.gz").write_bytes(gzip.compress(b"ply\n" + bytes(200 << 20), 9))
    assert peak(tmp_path / "a.ply.gz", "200 times") < 128 << 20
    head = "# .PCD\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40000000\nHEIGHT 1\n"
    for form in ("ascii", "binary", "binary_compressed"):
        body = struct.pack("<II", 100, 480_000_000) + bytes(100)
        (tmp_path / "a.pcd").write_bytes(f"{head}POINTS 40000000\nDATA {form}\n".encode() + body)
        assert peak(tmp_path / "a.pcd", "claims 40,000,000 points") < 1 << 20
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    header += b"{'descr': '<f8', 'fortran_order': False, 'shape': (40000000, 3), }".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(header + bytes(99))
    assert peak(tmp_path / "a.npy", "claims 960,000,000 bytes") < 1 << 20
    stream = io.BytesIO()
    Image.new("L", (20000, 9)).save(stream, "PNG")
    (tmp_path / "a.gltf").write_text(json.dumps(textured(data_uri(stream.getvalue(), "image/png"))))
    assert any("too many" in note for note in read_shape(tmp_path / "a.gltf").notes)


def test_no_file_elsewhere_is_opened(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    for name in ("../secret.png", str(secret), "..\\secret.png", "link.png", "in/../../secret.png"):
        (folder / "a.mtl").write_text(f"newmtl m\nKd 1 0 0\nmap_Kd {name}\n")
        shape = read(folder / "a.obj", "mtllib a.mtl\nusemtl m\n" + OBJ + "vt 0 0\nf 1/1 2/1 3/1\n")
        assert not shape.parts[0].paint.textures and any("not beside" in note for note in shape.notes)


@pytest.mark.parametrize("kind", OTHERS)
def test_some_damaged_files(tmp_path, kind):
    """The first of those that tests/test_hostile.py reads by the thousand, in processes of their own."""
    form, outcomes = examples(kind), []
    for seed in range(100):
        place(form, seed, tmp_path)
        outcomes.append(attempt(form, tmp_path))
    assert set(outcomes) == {"read", "refused"}


# ---- small real faults

FAULTS = Path(__file__).parent / "faults" / "surfaces"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("obj_bom/bom.obj", 6), ("obj_bom/bom_shift.obj", 6), ("obj_encoding/latin1.obj", 6), ("obj_encoding/gbk.obj", 6),
     ("off_tokens/tokens.off", 6), ("stl_text/uppercase.stl", 6), ("stl_text/endsolid2.stl", 6),
     ("gltf_quantised/quant.gltf", 96), ("gltf_fan/with_fan.gltf", 24), ("gltf_instancing/instanced.gltf", 72),
     ("concave_ngon/wallhole.obj", 721.4213562373095)],
)  # fmt: skip
def test_faults_as_they_came(name, expected):
    assert sum(area(part) for part in read_shape(FAULTS / name).parts) == pytest.approx(expected)
