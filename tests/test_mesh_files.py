"""Mesh files against other libraries' readers: places near and far, colours, names, units, axes, what is refused."""

import json
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh

from sinefield.api import load
from sinefield.commands.cli import main
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.export.mesh import export_mesh
from sinefield.meshing.frame import Frame, place
from sinefield.meshing.named_mesh import NamedMesh, linear, single_loss
from sinefield.meshing.read_back import read_back
from sinefield.meshing.write import EXTENSIONS, check_mesh_path, write_meshes
from sinefield.store.fields import load_field, save_field

FAR = np.array([500123.4, 1e7, -312.5])
WITHOUT_STL = [kind for kind in EXTENSIONS if kind != ".stl"]


def ball(centre=(0.0, 0.0, 0.0), radius=3.0, name="", coloured=False):
    sphere = trimesh.creation.icosphere(3)
    rng = np.random.default_rng(0)
    vertices = sphere.vertices * radius + centre
    colours = rng.integers(0, 256, vertices.shape, dtype=np.uint8) if coloured else None
    return NamedMesh(name, vertices, sphere.faces, colours, sphere.vertices.copy())


def glb_tree(path):
    content = path.read_bytes()
    return json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])


def model(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return ElementTree.fromstring(archive.read("3D/3dmodel.model"))


def found(node, tag):
    return [child for child in node.iter() if child.tag.rpartition("}")[2] == tag]


def usd_meshes(path):
    """Display names, places in the stage, faces and prims of a USDZ, and the stage."""
    usd, geometry = pytest.importorskip("pxr.Usd"), pytest.importorskip("pxr.UsdGeom")
    stage = usd.Stage.Open(str(path))
    parts = []
    for prim in stage.Traverse():
        if prim.IsA(geometry.Mesh):
            matrix = geometry.Xformable(prim).ComputeLocalToWorldTransform(usd.TimeCode.Default())
            points = np.array([matrix.Transform(p) for p in geometry.Mesh(prim).GetPointsAttr().Get()])
            faces = np.array(geometry.Mesh(prim).GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
            parts.append((prim.GetDisplayName(), points, faces, prim))
    return parts, stage


def places(path):
    """(v, 3) vertices and (f, 3) faces as another library reads them."""
    if path.suffix == ".usdz":
        (part,) = usd_meshes(path)[0]
        return part[1], part[2]
    if path.suffix == ".3mf":
        root = model(path)
        vertices = [[float(v.attrib[a]) for a in "xyz"] for v in found(root, "vertex")]
        return np.array(vertices), np.array(
            [[int(t.attrib[c]) for c in ("v1", "v2", "v3")] for t in found(root, "triangle")]
        )
    mesh = trimesh.load_scene(path, process=False).to_mesh()
    return np.array(mesh.vertices), np.array(mesh.faces)


@pytest.fixture(autouse=True)
def _usd(request):
    if "kind" in request.fixturenames and request.getfixturevalue("kind") == ".usdz":
        pytest.importorskip("pxr")


@pytest.mark.parametrize("kind", WITHOUT_STL)
@pytest.mark.parametrize("radius", [3.0, 2e-3, 4e5])
def test_far_away_nothing_is_lost(kind, radius, tmp_path):
    # At 1e7 double precision itself has steps of 2e-9.
    mesh = ball(FAR, radius)
    write_meshes(tmp_path / f"a{kind}", [mesh])
    vertices, faces = places(tmp_path / f"a{kind}")
    np.testing.assert_allclose(vertices, mesh.vertices, rtol=0, atol=max(2e-6 * radius, 2e-9))
    np.testing.assert_array_equal(faces, mesh.faces)
    assert trimesh.Trimesh(vertices - FAR, faces, process=False).is_watertight
    assert len(np.unique(vertices, axis=0)) == len(mesh.vertices)


@pytest.mark.parametrize("kind", [".ply", ".obj", ".off", ".3mf"])
def test_far_away_these_keep_every_bit(kind, tmp_path):
    write_meshes(tmp_path / f"a{kind}", [ball(FAR)])
    np.testing.assert_array_equal(places(tmp_path / f"a{kind}")[0], ball(FAR).vertices)


def test_3mf_is_read_by_trimesh_too(tmp_path):
    pytest.importorskip("lxml")
    pytest.importorskip("networkx")
    write_meshes(
        tmp_path / "a.3mf", [ball(FAR, name="one"), ball(name="two", coloured=True)], place(Frame("cm"), False)
    )
    scene = trimesh.load_scene(tmp_path / "a.3mf", process=False)
    assert set(scene.geometry) == {"one", "two"} and scene.units == "centimeter"
    np.testing.assert_allclose(scene.geometry["one"].vertices, ball(FAR).vertices * 100, rtol=1e-15)


def test_stl_refuses_what_it_would_blur(tmp_path):
    with pytest.raises(SinefieldError, match=r"a\.stl: STL has single .* by up to 0\.5, 8\.3 % .*; write \.ply"):
        write_meshes(tmp_path / "a.stl", [ball(FAR)])
    assert not list(tmp_path.iterdir())
    near = ball(np.array([900.0, 0, 0]))
    write_meshes(tmp_path / "a.stl", [near])
    vertices, _ = places(tmp_path / "a.stl")
    assert np.abs(vertices.reshape(-1, 3) - near.vertices[near.faces].reshape(-1, 3)).max() < 1e-4 * 6


def test_the_bound_on_what_single_precision_loses_holds():
    rng = np.random.default_rng(1)
    for centre in 10.0 ** np.arange(-2, 8):
        vertices = rng.uniform(-1, 1, (500, 3)) + centre
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        lost = np.abs(vertices.astype(np.float32) - vertices).max() / (high - low).max()
        assert lost <= single_loss(low, high) < 4 * lost + 1e-7


def test_near_the_origin_files_stay_small(tmp_path):
    write_meshes(tmp_path / "a.ply", [ball()])
    assert b"property float x" in (tmp_path / "a.ply").read_bytes()
    write_meshes(tmp_path / "a.obj", [ball()])
    assert max(map(len, (tmp_path / "a.obj").read_text().split())) < 16
    write_meshes(tmp_path / "a.glb", [ball()])
    assert glb_tree(tmp_path / "a.glb")["nodes"] == [{"mesh": 0}]
    write_meshes(tmp_path / "b.ply", [ball(FAR)])
    assert b"property double x" in (tmp_path / "b.ply").read_bytes()


def stored_normals(path):
    """What the file says; trimesh's own meshes compute their normals anew."""
    if path.suffix == ".obj":
        return np.array([line.split()[1:] for line in path.read_text().splitlines() if line.startswith("vn ")], float)
    if path.suffix == ".ply":
        data = trimesh.load_mesh(path, process=False).metadata["_ply_raw"]["vertex"]["data"]
        return np.column_stack([data["nx"], data["ny"], data["nz"]])
    with path.open("rb") as stream:
        (geometry,) = trimesh.exchange.gltf.load_glb(stream)["geometry"].values()
    return geometry["vertex_normals"]


@pytest.mark.parametrize("kind", [".ply", ".obj", ".glb"])
@pytest.mark.parametrize("coloured", [False, True])
def test_tiny_meshes_normals_and_colours_come_back(kind, coloured, tmp_path):
    mesh = ball((0, 0, 3e-3), 1e-3, coloured=coloured)
    path = tmp_path / f"new/sphere{kind}"
    write_meshes(path, [mesh])
    np.testing.assert_allclose(places(path)[0], mesh.vertices, atol=1e-9)
    np.testing.assert_allclose(stored_normals(path), mesh.normals, atol=1e-5)
    visual = trimesh.load_scene(path, process=False).to_mesh().visual
    if coloured:
        stated = linear(mesh.colours) * 255 if kind == ".glb" else mesh.colours
        np.testing.assert_allclose(visual.vertex_colors[:, :3], stated, atol=0.5)
    else:
        assert visual.kind != "vertex"


@pytest.mark.parametrize("kind", [".ply", ".obj", ".stl", ".off", ".glb"])
def test_the_package_reads_its_own_files(kind, tmp_path):
    write_meshes(tmp_path / f"a{kind}", [ball()])
    surface = load_surface(tmp_path / f"a{kind}")
    assert surface.report["watertight"] and len(surface.faces) == 1280
    np.testing.assert_allclose(surface.aabb, [-3, -3, -3, 3, 3, 3], atol=1e-6)


def test_glb_colours_are_linear_and_keep_the_dark(tmp_path):
    mesh = ball()
    colours = (np.arange(len(mesh.vertices)) % 256).astype(np.uint8)[:, None].repeat(3, axis=1)
    write_meshes(tmp_path / "a.glb", [NamedMesh("", mesh.vertices, mesh.faces, colours)])
    tree, content = glb_tree(tmp_path / "a.glb"), (tmp_path / "a.glb").read_bytes()
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = 28 + int.from_bytes(content[12:16], "little") + tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
    assert accessor["componentType"] == 5126 and accessor["type"] == "VEC3"
    stored = np.frombuffer(content, "<f4", 3 * len(colours), start).reshape(-1, 3).astype(float)
    assert len(np.unique(stored)) == 256
    # The other direction by its own formula: IEC 61966-2-1.
    back = np.where(stored <= 0.0031308, 12.92 * stored, 1.055 * stored ** (1 / 2.4) - 0.055) * 255
    np.testing.assert_allclose(back, colours, atol=1e-3)
    assert tree["asset"]["generator"].startswith("sinefield ")


def test_3mf_colours_are_those_of_the_corners(tmp_path):
    mesh = ball(coloured=True)
    write_meshes(tmp_path / "a.3mf", [mesh])
    root = model(tmp_path / "a.3mf")
    (group,), (thing,) = found(root, "colorgroup"), found(root, "object")
    table = np.array([list(bytes.fromhex(c.attrib["color"][1:])) for c in group])
    corners = np.array([[int(t.attrib[c]) for c in ("p1", "p2", "p3")] for t in found(root, "triangle")])
    assert thing.attrib["pid"] == group.attrib["id"]
    np.testing.assert_array_equal(table[corners], mesh.colours[mesh.faces])


def test_usdz_is_placed_coloured_and_named(tmp_path):
    geometry = pytest.importorskip("pxr.UsdGeom")
    meshes = [ball(FAR, name="a b", coloured=True), ball(name="a-b"), ball(name="a_b"), ball(name="a_b_3"), ball()]
    write_meshes(tmp_path / "a.usdz", meshes, place(Frame("cm", "z", "cm", "z"), False), about={"frame": "own"})
    parts, stage = usd_meshes(tmp_path / "a.usdz")
    assert [part[0] for part in parts] == [mesh.name for mesh in meshes]
    assert geometry.GetStageMetersPerUnit(stage) == 0.01 and geometry.GetStageUpAxis(stage) == "Z"
    assert stage.GetDefaultPrim().IsValid() and "own" in stage.GetRootLayer().documentation
    for part, mesh in zip(parts, meshes, strict=True):
        np.testing.assert_allclose(part[1], mesh.vertices, atol=3e-7)
    colours = geometry.PrimvarsAPI(parts[0][3]).GetPrimvar("displayColor")
    assert colours.GetInterpolation() == "vertex"
    np.testing.assert_allclose(np.array(colours.Get()), linear(meshes[0].colours), atol=1e-7)
    assert not geometry.PrimvarsAPI(parts[1][3]).GetPrimvar("displayColor").HasValue()


def test_usdz_has_what_viewers_ask_of_a_package(tmp_path):
    pytest.importorskip("pxr")
    write_meshes(tmp_path / "a.usdz", [ball(coloured=True)])
    content = (tmp_path / "a.usdz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.usdz") as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED and entry.filename.endswith(".usdc")
        start = entry.header_offset
        lengths = [int.from_bytes(content[start + i : start + i + 2], "little") for i in (26, 28)]
    assert (start + 30 + sum(lengths)) % 64 == 0  # usdz specification: data are aligned to 64 bytes


def test_usdz_without_its_package_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(SinefieldError, match=r"USDZ needs usd-core; run: pip install 'sinefield\[usd\]'"):
        check_mesh_path(tmp_path / "a.usdz")


@pytest.mark.parametrize("kind", [".glb", ".obj"])
def test_several_meshes_keep_their_names_and_places(kind, tmp_path):
    meshes = [ball(name='left, "high"'), ball(FAR, 2.0, "räder", coloured=True), ball((9, 0, 0), 1.0)]
    path = tmp_path / f"a{kind}"
    write_meshes(path, meshes)
    if kind == ".obj":
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line[2:] for line in lines if line.startswith("o ")] == ['left,_"high"', "räder", "part3"]
        vertices, faces = places(path)
        np.testing.assert_allclose(vertices, np.concatenate([m.vertices for m in meshes]), rtol=1e-8, atol=1e-8)
        assert trimesh.Trimesh(vertices, faces, process=False).body_count == 3
        return
    assert [node.get("name") for node in glb_tree(path)["nodes"]] == ['left, "high"', "räder", None]
    scene = trimesh.load_scene(path, process=False)
    assert set(scene.geometry) >= {'left, "high"', "räder"} and len(scene.geometry) == 3
    for name, geometry in scene.geometry.items():
        (node,) = scene.graph.geometry_nodes[name]
        vertices = trimesh.transform_points(geometry.vertices.astype(np.float64), scene.graph[node][0])
        mesh = next((mesh for mesh in meshes if mesh.name == name), meshes[2])
        np.testing.assert_allclose(vertices, mesh.vertices, atol=1e-6)


@pytest.mark.parametrize("kind", [".ply", ".off", ".stl"])
def test_formats_without_names_hold_all_meshes(kind, tmp_path):
    path = tmp_path / f"a{kind}"
    write_meshes(path, [ball(coloured=True), ball((9, 0, 0), 1.0)])
    mesh = trimesh.load_mesh(path)
    assert mesh.body_count == 2 and mesh.is_watertight
    assert mesh.volume == pytest.approx(28 * 4 / 3 * np.pi, rel=0.02)
    if kind == ".ply":
        colours = trimesh.load_mesh(path, process=False).visual.vertex_colors[:, :3]
        np.testing.assert_array_equal(colours[:642], ball(coloured=True).colours)
        assert (colours[642:] == 204).all()


BOX = np.array([[0.0, 0, 0], [1, 2, 3]])  # longest along z


def block():
    mesh = trimesh.creation.box(bounds=BOX)
    return NamedMesh("", np.array(mesh.vertices), np.array(mesh.faces), None, None)


def bounds(path):
    if path.suffix == ".glb":
        return trimesh.load_scene(path).bounds
    vertices, faces = places(path)
    vertices = vertices.reshape(-1, 3)
    mesh = trimesh.Trimesh(vertices, faces)
    assert mesh.volume > 0  # turned, not mirrored
    return np.array([vertices.min(axis=0), vertices.max(axis=0)])


TURNED = {("y", "z"): [[0.0, -3, 0], [1, 0, 2]], ("z", "y"): [[0.0, 0, -2], [1, 3, 0]]}
"""The block when what was up first is up second."""


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_without_a_wish_nothing_changes(kind, tmp_path):
    placing = place(Frame(), kind == ".glb", "mm", np.array([0.0, 0, 1]))
    assert placing.scaled is None and placing.turned is None
    write_meshes(tmp_path / f"a{kind}", [block()], placing)
    np.testing.assert_allclose(bounds(tmp_path / f"a{kind}"), BOX, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in EXTENSIONS if kind != ".glb"])
@pytest.mark.parametrize(
    ("frame", "factor", "box"),
    [
        (Frame(unit="mm"), 1000, BOX),
        (Frame(unit="ft", input_unit="in"), 1 / 12, BOX),
        (Frame(input_unit="in"), 1, BOX),
        (Frame(up="z"), 1, TURNED["y", "z"]),
        (Frame(up="y"), 1, BOX),
        (Frame(up="y", input_up="z"), 1, TURNED["z", "y"]),
        (Frame(input_up="z"), 1, BOX),
        (Frame("cm", "z", "m", "y"), 100, TURNED["y", "z"]),
    ],
)
def test_numbers_are_in_the_unit_and_upright_as_asked(kind, frame, factor, box, tmp_path):
    path, placing = tmp_path / f"a{kind}", place(frame, False, None, np.array([0.0, 1, 0]))
    write_meshes(path, [block()], placing)
    np.testing.assert_allclose(bounds(path), np.array(box) * factor, rtol=1e-6, atol=1e-4)
    assert (placing.scaled is None) == (factor == 1) and (placing.turned is None) == (box is BOX)


@pytest.mark.parametrize(
    ("frame", "metres", "box"),
    [
        (Frame(unit="mm"), 1, BOX),  # an input that nobody knows the unit of is in metres
        (Frame(unit="mm", input_unit="cm"), 0.01, BOX),
        (Frame(input_unit="in"), 0.0254, BOX),
        (Frame(up="z"), 1, BOX),
        (Frame(input_up="z"), 1, TURNED["z", "y"]),
        (Frame("mm", "z", "ft", "z"), 0.3048, TURNED["z", "y"]),
    ],
)
@pytest.mark.parametrize("offset", [np.zeros(3), FAR])
def test_a_glb_is_in_metres_with_y_up_whatever_its_numbers_are(frame, metres, box, offset, tmp_path):
    path, mesh = tmp_path / "a.glb", block()
    mesh = NamedMesh("", mesh.vertices + offset, mesh.faces)
    placing = place(frame, True, None, np.array([0.0, 1, 0]))
    write_meshes(path, [mesh], placing)
    x, y, z = offset
    moved = np.array(box) + (offset if box is BOX else [x, z, -y])
    np.testing.assert_allclose(trimesh.load_scene(path).bounds, moved * metres, atol=1e-6)
    (node,) = glb_tree(path)["nodes"]
    unit = frame.unit or frame.input_unit
    assert node.get("scale", [1.0])[0] == {"mm": 0.001, "in": 0.0254, None: 1.0}[unit]
    assert ("rotation" in node) == ("z" in (frame.up, frame.up or frame.input_up))


@pytest.mark.parametrize(
    ("unit", "said"), [(None, None), ("m", "meter"), ("in", "inch"), ("ft", "foot"), ("mm", "millimeter")]
)
def test_3mf_says_its_unit(unit, said, tmp_path):
    write_meshes(tmp_path / "a.3mf", [block()], place(Frame(unit), False))
    assert model(tmp_path / "a.3mf").get("unit") == said


def test_what_was_done_is_said():
    placing = place(Frame("mm", "z"), True, None, np.array([0.0, 1, 0]))
    assert placing.scaled.startswith("by 1000, m to mm; by 0.001 in the node") and "taken as m" in placing.scaled
    assert placing.turned.startswith("from y up to z up; from z up to glTF's y up in the node")
    assert place(Frame("mm"), False, "in").scaled == "by 25.4, in to mm"
    assert place(Frame("mm"), False, ["in"]).scaled.startswith("by 1000")  # a note of a foreign file
    with pytest.raises(SinefieldError, match="in the input neither y nor z is up; say --input-up"):
        place(Frame(up="z"), False, None, np.array([0.0, -1, 0]))
    with pytest.raises(SinefieldError, match="--unit km: is unknown; one of m cm mm in ft"):
        place(Frame("km"), False)


def test_mesh_paths_are_refused_early(tmp_path):
    for name in ("mesh.blend", "mesh", "mesh.obj.gz"):
        with pytest.raises(SinefieldError, match="unknown mesh kind"):
            check_mesh_path(tmp_path / name)
    path = tmp_path / "mesh.ply"
    assert check_mesh_path(path) == path and check_mesh_path(tmp_path / "MESH.PLY")
    path.write_bytes(b"old")
    with pytest.raises(SinefieldError, match="exists already"):
        write_meshes(path, [ball()])
    with pytest.raises(SinefieldError, match="no faces"):
        write_meshes(path, [NamedMesh("", np.zeros((0, 3)), np.zeros((0, 3), np.int32))], overwrite=True)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["mesh.ply"]
    write_meshes(path, [ball()], overwrite=True)
    assert trimesh.load_mesh(path).is_watertight


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_the_same_mesh_gives_the_same_bytes_and_says_what_it_is(kind, tmp_path):
    about = {"frame": "the input's own <&>", "generator": "test"}
    for name in ("a", "b"):
        write_meshes(tmp_path / f"{name}{kind}", [ball(coloured=True)], about=about)
    content = (tmp_path / f"a{kind}").read_bytes()
    assert content == (tmp_path / f"b{kind}").read_bytes()
    if kind == ".glb":
        assert glb_tree(tmp_path / "a.glb")["asset"]["extras"] == about
    elif kind == ".3mf":
        assert [m.text for m in found(model(tmp_path / "a.3mf"), "metadata")] == ["test", "the input's own <&>"]
    elif kind == ".usdz":
        assert "the input's own" in usd_meshes(tmp_path / "a.usdz")[1].GetRootLayer().documentation
    else:
        assert (b"frame: the input's own" in content) == (kind != ".stl")


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_counts_are_read_back_from_the_file(kind, tmp_path):
    path = tmp_path / f"a{kind}"
    write_meshes(path, [ball(), ball((9, 0, 0), 1.0)])
    whole = read_back(path, 0, 0)
    assert (whole["vertices"], whole["faces"], whole["components"]) == (1284, 2560, 2)
    assert whole["watertight"] and whole["degenerate_faces"] == 0 and whole["read_back"]
    torn = ball()
    write_meshes(path, [NamedMesh("", torn.vertices, torn.faces[1:])], overwrite=True)
    assert not read_back(path, 0, 0)["watertight"]


def test_a_file_whose_places_fell_together_is_not_called_sound(tmp_path):
    mesh = ball((1e7, 1e7, 1e7), 2.0)
    blurred = trimesh.Trimesh(mesh.vertices.astype(np.float32), mesh.faces, process=False)
    (tmp_path / "a.stl").write_bytes(trimesh.exchange.stl.export_stl(blurred))
    found = read_back(tmp_path / "a.stl", 642, 1280)
    assert found["degenerate_faces"] > 0.1 * 1280 and found["vertices"] < 642


def test_large_files_are_not_read_back(tmp_path):
    missing = read_back(tmp_path / "missing.ply", 5, 3_000_000)
    assert missing["watertight"] is None and missing["read_back"] is False
    assert (missing["vertices"], missing["faces"]) == (5, 3_000_000)


@pytest.fixture(scope="module")
def knots(tmp_path_factory):
    """The knot where it is, and far away."""
    folder = tmp_path_factory.mktemp("knots")
    field, _ = load_field("example:knot")
    save_field(folder / "near.safetensors", field)
    field.centre += field.centre.new_tensor(FAR)
    field.aabb += field.aabb.new_tensor([*FAR, *FAR])
    save_field(folder / "far.safetensors", field, {"unit": "ft"})
    return folder


@pytest.mark.parametrize(
    ("kind", "more"), [*((kind, {}) for kind in WITHOUT_STL), (".ply", {"faces": 1500}), (".glb", {"largest": True})]
)
def test_a_field_far_away_gives_the_mesh_it_gives_here(kind, more, knots, tmp_path):
    exported = {}
    for name in ("near", "far"):
        report = export_mesh(knots / f"{name}.safetensors", tmp_path / f"{name}{kind}", 28, **more)
        exported[name] = places(tmp_path / f"{name}{kind}")
        assert report["watertight"] and report["degenerate_faces"] == 0
        assert (report["vertices"], report["faces"]) == tuple(map(len, exported[name]))
    (near, faces), (far, far_faces) = exported["near"], exported["far"]
    size = np.ptp(near, axis=0).max()
    if "faces" in more:  # of equally good edges another may go first
        one, other = trimesh.Trimesh(near, faces), trimesh.Trimesh(far - FAR, far_faces)
        assert len(far_faces) <= 1500 and other.volume == pytest.approx(one.volume, rel=2e-3)
        np.testing.assert_allclose(other.bounds, one.bounds, atol=5e-3 * size)
    else:
        np.testing.assert_array_equal(faces, far_faces)
        np.testing.assert_allclose(far - FAR, near, rtol=0, atol=1e-6 * size)


def test_a_far_field_is_refused_as_stl_before_it_is_evaluated(knots, tmp_path, monkeypatch):
    monkeypatch.setattr("sinefield.export.mesh.extract_field", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(SinefieldError, match="STL has single precision only"):
        export_mesh(knots / "far.safetensors", tmp_path / "a.stl", 40)


def test_a_field_that_knows_its_unit_is_taken_at_its_word(knots, tmp_path):
    path = tmp_path / "a.3mf"
    assert export_mesh(knots / "far.safetensors", path, 24)["scaled"] is None
    assert model(path).get("unit") == "foot"
    report = export_mesh(knots / "far.safetensors", path, 24, frame=Frame("in"), overwrite=True)
    assert report["scaled"] == "by 12, ft to in" and report["unit"] == "in"
    assert np.abs(places(path)[0].mean(axis=0) / FAR / 12 - 1).max() < 0.01


def test_the_command_and_the_method_turn_and_scale_alike(tmp_path, capsys):
    words = ["mesh", "example:knot", str(tmp_path / "a.ply"), "--resolution", "32", "--unit", "cm", "--up", "z"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main([*words, "--overwrite", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["unit"] == "cm" and report["up"] == "z" and report["turned"].startswith("from y up to z up")
    assert f"note: scaled {report['scaled']}" in lines and f"note: turned {report['turned']}" in lines
    knot = load("example:knot")
    knot.save_mesh(tmp_path / "b.ply", 32, unit="cm", up="z")
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    x, y, z = knot.mesh(32).vertices.T
    np.testing.assert_allclose(places(tmp_path / "a.ply")[0], 100 * np.stack([x, -z, y], axis=1), rtol=1e-6, atol=1e-5)
