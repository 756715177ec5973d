"""Surfaces read from every kind of file; inside and distance against formulas."""

import os
import struct
from pathlib import Path

import igl
import numpy as np
import pytest
import trimesh

from sinefield.data.surfaces.readers import source
from sinefield.data.surfaces.surface import Normalisation, Surface, load_surface, signed_distance, winding_number
from sinefield.errors import SinefieldError

DATA = Path(os.environ.get("SINEFIELD_DATA") or Path(__file__).parents[2] / "shared" / "data") / "meshes"
BOX = trimesh.creation.box((1.0, 2.0, 3.0))


def save(mesh, path):
    mesh.export(path)
    return path


def surface_of(mesh, tmp_path):
    return load_surface(save(mesh, tmp_path / "mesh.off"))


def real(name):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in {DATA}; set SINEFIELD_DATA")
    return load_surface(DATA / name)


def box_distance(points, half):
    """Signed distance of an axis-aligned box around the origin."""
    q = np.abs(points) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


def sphere_cloud(n=5000, radius=1.0, centre=(0.0, 0.0, 0.0)):
    normals = np.random.default_rng(0).normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return radius * normals + centre, normals


def write_ply(path, points, normals):
    names = ["x", "y", "z", "nx", "ny", "nz"]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property double {name}\n" for name in names) + "end_header\n"
    path.write_bytes(header.encode() + np.hstack([points, normals]).astype("<f8").tobytes())
    return path


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "off", "glb"])
def test_every_mesh_format(kind, tmp_path):
    surface = load_surface(save(BOX, tmp_path / f"box.{kind}"))
    assert surface.vertices.shape == (8, 3) and surface.vertices.dtype == np.float64
    assert surface.faces.shape == (12, 3) and surface.faces.dtype == np.int32
    np.testing.assert_allclose(surface.aabb, [-0.5, -1, -1.5, 0.5, 1, 1.5])
    assert surface.report["watertight"] and surface.report["pieces"] == 1 and surface.report["turned_pieces"] == 0
    assert surface.areas.sum() == pytest.approx(22)


def test_gltf_with_buffers_beside_it(tmp_path):
    for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(BOX)).items():
        (tmp_path / name).write_bytes(content)
    assert load_surface(tmp_path / "model.gltf").areas.sum() == pytest.approx(22)


def test_upper_case_extension_and_ascii_files(tmp_path):
    (tmp_path / "box.STL").write_text(trimesh.exchange.stl.export_stl_ascii(BOX))
    (tmp_path / "box.ply").write_bytes(trimesh.exchange.ply.export_ply(BOX, encoding="ascii"))
    for name in ("box.STL", "box.ply"):
        assert load_surface(tmp_path / name).report["watertight"]


def test_scene_transforms_are_applied_also_mirrored_ones(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(BOX, transform=trimesh.transformations.translation_matrix((10, 0, 0)))
    scene.add_geometry(BOX, transform=np.diag([-1.0, 1, 1, 1]) @ trimesh.transformations.translation_matrix((5, 0, 0)))
    surface = load_surface(save(scene, tmp_path / "two.glb"))
    np.testing.assert_allclose(surface.aabb, [-5.5, -1, -1.5, 10.5, 1, 1.5])
    assert surface.report["pieces"] == 2
    w = winding_number(surface, np.array([[10.0, 0, 0], [-5, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(w, [1, 1, 0], atol=0.01)


def test_vertex_colours_come_along(tmp_path):
    mesh = BOX.copy()
    mesh.visual.vertex_colors = np.arange(32, dtype=np.uint8).reshape(8, 4)
    surface = load_surface(save(mesh, tmp_path / "box.ply"))
    middles = surface.paint.at(np.arange(12), np.full((12, 3), 1 / 3))
    given = trimesh.load(tmp_path / "box.ply", process=False)  # whose faces come in the same order
    wanted = given.visual.vertex_colors[given.faces, :3].mean(axis=1) / 255
    np.testing.assert_allclose(middles, wanted, atol=1e-6)


def test_doubles_and_degenerate_faces_go(tmp_path):
    faces = BOX.faces
    vertices = np.vstack([BOX.vertices, BOX.vertices[:1], [[9.0, 9, 9]]])  # a double, and one nothing uses
    faces = np.vstack([faces, np.roll(faces[:3], 1, axis=1), [[0, 0, 1], [0, 8, 1]]])
    surface = surface_of(trimesh.Trimesh(vertices, faces, process=False), tmp_path)
    assert (len(surface.vertices), len(surface.faces)) == (8, 12)
    assert surface.report["duplicate_faces"] == 3 and surface.report["degenerate_faces"] == 2
    assert surface.report["watertight"]


def test_wrong_ways_round_are_mended(tmp_path):
    faces = BOX.faces.copy()
    faces[[1, 5]] = faces[[1, 5], ::-1]
    surface = surface_of(trimesh.Trimesh(BOX.vertices, faces, process=False), tmp_path)
    assert surface.report["reoriented_faces"] == 2 and surface.report["watertight"]
    surface = surface_of(trimesh.Trimesh(BOX.vertices, BOX.faces[:, ::-1], process=False), tmp_path)
    assert surface.report["turned_pieces"] == 1
    np.testing.assert_allclose(winding_number(surface, np.zeros((1, 3))), 1, atol=0.01)


def test_double_sided_mesh_keeps_one_side(tmp_path):
    faces = np.vstack([BOX.faces, BOX.faces[:, ::-1]])
    surface = surface_of(trimesh.Trimesh(BOX.vertices, faces, process=False), tmp_path)
    assert len(surface.faces) == 12 and surface.report["watertight"]
    np.testing.assert_allclose(winding_number(surface, np.zeros((1, 3))), 1, atol=0.01)


def test_touching_solids_keep_both_sides_of_their_wall(tmp_path):
    two = trimesh.util.concatenate([BOX, BOX.copy().apply_translation((1, 0, 0))])
    surface = surface_of(two, tmp_path)
    assert surface.report["watertight"] and surface.report["pieces"] == 1
    points = np.array([[0.45, 0.1, 0.1], [0.55, 0.1, 0.1], [1.6, 0, 0]])
    np.testing.assert_allclose(winding_number(surface, points), [1, 1, 0], atol=0.02)


def test_a_cavity_stays_outside(tmp_path):
    shell = trimesh.util.concatenate([trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(3, 0.5)])
    half = len(shell.faces) // 2
    shell.faces[half:] = shell.faces[half:, ::-1]
    surface = surface_of(shell, tmp_path)
    w = winding_number(surface, np.array([[0, 0, 0], [0.75, 0, 0], [1.2, 0, 0]]))
    np.testing.assert_allclose(w, [0, 1, 0], atol=0.01)


def test_box_without_lid_has_an_inside_and_says_how_open(tmp_path):
    cube = trimesh.creation.box()
    open_ = trimesh.Trimesh(cube.vertices, cube.faces[cube.face_normals[:, 2] < 0.5], process=False)
    surface = surface_of(open_, tmp_path)
    assert not surface.report["watertight"] and surface.report["boundary_edges"] == 4
    assert surface.report["open_fraction"] == pytest.approx(1 / 6)
    points = np.array([[0, 0, -0.2], [0, 0, 0.2], [0, 0, 0.9], [0.7, 0, 0]])
    np.testing.assert_array_equal(winding_number(surface, points) > 0.5, [True, True, False, False])
    np.testing.assert_allclose(signed_distance(surface, points)[3], 0.2)


def test_flat_sheet_is_half_open(tmp_path):
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    surface = surface_of(sheet, tmp_path)
    assert surface.report["open_fraction"] == pytest.approx(0.5) and surface.report["boundary_edges"] == 4


def test_box_distance_is_exact(tmp_path):
    surface = surface_of(BOX, tmp_path)
    points = np.random.default_rng(0).uniform(-2.5, 2.5, (20_000, 3))
    np.testing.assert_allclose(signed_distance(surface, points), box_distance(points, [0.5, 1, 1.5]), atol=1e-9)


@pytest.mark.parametrize(("centre", "radius"), [((0, 0, 0), 1.0), ((5e-3, 0, 0), 1e-3), ((1e6, -1e6, 0), 1e3)])
def test_sphere_distance_at_any_scale_and_place(centre, radius, tmp_path):
    mesh = trimesh.creation.icosphere(5, radius)
    mesh.apply_translation(centre)
    surface = surface_of(mesh, tmp_path)
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (5000, 3)) * radius + centre
    truth = np.linalg.norm(points - centre, axis=1) - radius
    np.testing.assert_allclose(signed_distance(surface, points), truth, atol=2e-3 * radius)
    clear = np.abs(truth) > 2e-3 * radius
    assert ((winding_number(surface, points) > 0.5) == (truth < 0))[clear].all()


def test_no_points_and_bad_points(tmp_path):
    surface = surface_of(BOX, tmp_path)
    assert signed_distance(surface, np.zeros((0, 3))).shape == (0,)
    with pytest.raises(SinefieldError, match="NaN or infinite"):
        winding_number(surface, np.array([[np.nan, 0, 0]]))


@pytest.mark.parametrize("kind", ["ply", "xyz"])
@pytest.mark.parametrize("inward", [False, True])
def test_oriented_point_cloud(kind, inward, tmp_path):
    points, normals = sphere_cloud(centre=(7, 0, 0))
    normals = -normals if inward else normals
    path = tmp_path / f"cloud.{kind}"
    points, normals = np.vstack([points, points[:50]]), np.vstack([normals, normals[:50]])  # doubles
    if kind == "ply":
        write_ply(path, points, 3 * normals)
    else:
        np.savetxt(path, np.hstack([points, 3 * normals]), header="x y z nx ny nz")
    surface = load_surface(path)
    assert surface.faces is None and surface.report["points"] == 5000 and surface.report["dropped_points"] == 50
    assert any("pointed inwards" in note for note in surface.notes) == inward
    assert surface.areas.sum() == pytest.approx(4 * np.pi, rel=0.01)
    centre = np.array([7.0, 0, 0])
    q = centre + np.random.default_rng(1).uniform(-1.3, 1.3, (5000, 3))
    truth = np.linalg.norm(q - centre, axis=1) - 1
    distance = signed_distance(surface, q)
    assert np.abs(distance - truth).max() < 0.04 and np.abs(distance - truth).mean() < 0.003
    assert ((winding_number(surface, q) > 0.5) == (truth < 0)).mean() > 0.995


def test_normalisation_round_trip():
    normalisation = Normalisation.fit(np.array([1.0, 2, 3, 3, 3, 4]), margin=0.25)
    assert normalisation.centre == (2.0, 2.5, 3.5) and normalisation.scale == pytest.approx(0.8)
    points = np.random.default_rng(0).normal(size=(10, 3))
    np.testing.assert_allclose(normalisation.invert(normalisation.apply(points)), points)
    assert np.abs(normalisation.apply(np.array([[1.0, 2, 3], [3, 3, 4]]))).max() == pytest.approx(0.8)
    with pytest.raises(SinefieldError, match="no extent"):
        Normalisation.fit(np.zeros(6))


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
PLY = "ply\nformat {}\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nelement face {}\n"
PLY += "property list uchar int vertex_indices\nend_header\n"
ASCII_PLY = PLY.format("ascii 1.0", 3, 1) + "0 0 0\n1 0 0\n0 1 0\n3 0 1 {}\n"
GLTF = '{"asset":{"version":"2.0"},"nodes":[{"mesh":0}],"meshes":[{"primitives":[{"attributes":{"POSITION":0}}]}],'
GLTF += '"accessors":[{"count":99999999999,"type":"VEC3","componentType":5126}]}'
BAD = {
    "empty.obj": (b"", "empty"),
    "what.blend": (b"x", "is a Blender file; export a mesh"),
    "bare": (b"x", "unknown kind 'without extension'"),
    "archive.npz": (b"PK\x03\x04", "is not a readable archive"),
    "junk.obj": (b"hello\x00\xff\xfe", "cannot be read as OBJ|holds neither"),
    "junk.ply": (b"hello", "no PLY header"),
    "junk.stl": (b"hello", "no STL header"),
    "solid.stl": (b"solid nothing", "no endsolid"),
    "junk.off": (b"hello", "no OFF header"),
    "junk.glb": (b"hello there, general", "no GLB header"),
    "junk.gltf": (b"hello", "cannot be read as GLTF"),
    "junk.xyz": (b"a b c\n", "no rows of numbers but 'a b c'"),
    "none.xyz": (b"# nothing\n", "holds no points"),
    "ragged.xyz": (b"1 2 3\n1 2\n", "2 numbers in row 2 of points, 3 in the first"),
    "two.xyz": (b"1 2\n", "rows of 2 numbers"),
    "bare.xyz": (b"1 2 3\n4 5 6\n", "neither faces nor normals"),
    "few.xyz": (b"1 2 3 0 0 1\n4 5 6 0 0 1\n7 8 9 0 0 0\n", "2 distinct points have a normal"),
    "points.obj": (TRIANGLE.encode(), "neither faces nor normals"),
    "nan.obj": ((TRIANGLE + "v nan 0 0\nf 1 2 4\n").encode(), "1 of .* vertices are NaN"),
    "inf.ply": (ASCII_PLY.format(2).replace("1 0 0", "inf 0 0").encode(), "NaN or infinite"),
    "range.obj": ((TRIANGLE + "f 1 2 9\n").encode(), "names vertex 9 of 3"),
    "range.ply": (ASCII_PLY.format(7).encode(), "names vertex 7 of 3"),
    "minus.ply": (ASCII_PLY.format(-1).encode(), "names vertex -1 of 3"),
    "range.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "names vertex 7 of 3"),
    "short.off": (b"OFF\n9000000000 1 0\n0 0 0\n", "claims 9,000,000,000 vertices"),
    "place.obj": (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "at one place"),
    "line.obj": (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "none of its 1 faces has an area"),
    "corner.obj": ((TRIANGLE + "f 1 1 2\n").encode(), "none of its 1 faces has an area"),
    "huge.obj": (b"v 0 0 0\nv 1e200 0 0\nv 0 1e200 0\nf 1 2 3\n", "extent is 1e\\+200"),
    "claim.ply": (
        PLY.format("binary_little_endian 1.0", 2_000_000_000, 1).encode() + b"\0" * 50,
        "2,000,000,000 of vertex",
    ),
    "claim_ascii.ply": (PLY.format("ascii 1.0", 3, 2_000_000_000).encode() + b"0 0 0\n", "header claims"),
    "negative.ply": (PLY.format("ascii 1.0", -3, 1).encode(), "claims -3 of vertex"),
    "claim.stl": (b"\0" * 80 + struct.pack("<I", 2**31) + b"\0" * 50, "claims 2,147,483,648 triangles"),
    "claim.gltf": (GLTF.encode(), "99,999,999,999 numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_clear_line(name, tmp_path):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SinefieldError, match=message) as caught:
        load_surface(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value) and ";" in str(caught.value)


@pytest.mark.parametrize("kind", ["ply", "stl", "off", "glb"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.97])
def test_truncated_files(kind, kept, tmp_path):
    path = save(trimesh.creation.icosphere(2), tmp_path / f"sphere.{kind}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(SinefieldError, match="truncated or damaged"):
        load_surface(path)


def test_missing_folder_and_too_many_faces(tmp_path, monkeypatch):
    with pytest.raises(SinefieldError, match="no such"):
        load_surface(tmp_path / "none.obj")
    with pytest.raises(SinefieldError, match="is not a file"):
        load_surface(tmp_path)
    monkeypatch.setattr(source, "MAX_FACES", 10)
    for kind in ("obj", "ply", "stl", "off", "glb"):
        with pytest.raises(SinefieldError, match="12 faces, more than 10"):
            load_surface(save(BOX, tmp_path / f"box.{kind}"))


def test_armadillo_signs_are_the_exact_winding_numbers():
    surface = real("armadillo.obj")
    assert surface.report["watertight"] and len(surface.faces) == 99_976
    low, high = surface.aabb[:3], surface.aabb[3:]
    points = low + np.random.default_rng(0).random((400, 3)) * (high - low)
    exact = igl.winding_number(surface.vertices, surface.faces.astype(np.int64), points)
    fast = winding_number(surface, points)
    np.testing.assert_allclose(fast, exact, atol=0.01)
    np.testing.assert_array_equal(fast > 0.5, exact > 0.5)


@pytest.mark.parametrize(
    ("name", "components", "open_"), [("ogre.obj", 43, 0.01), ("stanford-bunny_open.obj", 1, 0.02)]
)
def test_real_open_meshes(name, components, open_):
    surface = real(name)
    assert isinstance(surface, Surface) and surface.report["pieces"] == components
    assert not surface.report["watertight"] and 0 < surface.report["open_fraction"] < open_
    low, high = surface.aabb[:3], surface.aabb[3:]
    points = low + np.random.default_rng(0).random((2000, 3)) * (high - low)
    share = (winding_number(surface, points) > 0.5).mean()
    assert 0.05 < share < 0.6
