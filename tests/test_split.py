"""Meshes of several parts: a field for each, and put together again, read back by trimesh."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from surfaces import CUBE

from sinefield.commands.cli import main
from sinefield.data.surfaces.split import _own_names, split_parts
from sinefield.errors import SinefieldError
from sinefield.export.mesh import extracted, load_shown
from sinefield.export.parts import _finished
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.store.parts import is_parted, place_of, read_parts

FAST = ["--training.steps", "150", "--training.batch", "2048", "--data.points", "20000", "--field.width", "32"]
FAST += ["--field.rank", "4", "--field.frequencies", "2"]
PLACES = {"body": (0.0, 0.0, 0.0), "left/wheel": (5.0, 0.0, 0.0), "wheel": (5.0, 4.0, 0.0)}


def scene(folder):
    """Three named nodes, the last in the transform of the second."""
    made = trimesh.Scene()
    made.add_geometry(CUBE, node_name="body", geom_name="a")
    right = trimesh.transformations.translation_matrix((5.0, 0.0, 0.0))
    up = trimesh.transformations.translation_matrix((0.0, 4.0, 0.0))
    made.add_geometry(CUBE, node_name="left/wheel", geom_name="b", transform=right)
    made.add_geometry(CUBE, node_name="wheel", geom_name="c", parent_node_name="left/wheel", transform=up)
    made.export(folder / "scene.glb")
    return folder / "scene.glb"


def groups(folder):
    """An OBJ of two groups."""
    rows = []
    for number, shift in enumerate((0.0, 3.0)):
        rows.append(f"g {('low', 'high')[number]}")
        rows += [f"v {x} {y} {z + shift}" for x, y, z in CUBE.vertices]
        rows += ["f " + " ".join(str(c + 1 + 8 * number) for c in face) for face in CUBE.faces]
    (folder / "groups.obj").write_text("\n".join(rows) + "\n")
    return folder / "groups.obj"


def pieces(folder, n=2):
    """Cubes in a row, without names."""
    cubes = [CUBE.copy().apply_translation((3.0 * i, 0, 0)) for i in range(n)]
    trimesh.util.concatenate(cubes).export(folder / f"row{n}.stl")
    return folder / f"row{n}.stl"


def test_parts_are_nodes_groups_or_pieces(tmp_path):
    for path, names in ((scene(tmp_path), list(PLACES)), (groups(tmp_path), ["low", "high"])):
        parts, _ = split_parts(path)
        assert [part.name for part in parts] == names
    for part in split_parts(tmp_path / "scene.glb")[0]:
        assert np.allclose(part.vertices.mean(axis=0), PLACES[part.name], atol=1e-6)
    parts, notes = split_parts(pieces(tmp_path))
    assert [part.name for part in parts] == ["part 1", "part 2"] and "no named parts" in notes[0]
    assert sorted(float(part.vertices[:, 0].mean()) for part in parts) == pytest.approx([0.0, 3.0], abs=1e-6)


def test_what_cannot_be_split_is_one_line(tmp_path):
    with pytest.raises(SinefieldError, match="nothing to split"):
        split_parts(pieces(tmp_path, 1))
    with pytest.raises(SinefieldError, match=r"65 pieces.* 64 at most"):
        split_parts(pieces(tmp_path, 65))
    np.savetxt(tmp_path / "cloud.xyz", np.random.default_rng(0).normal(size=(200, 3)))
    with pytest.raises(SinefieldError, match="point cloud"):
        split_parts(tmp_path / "cloud.xyz")


def test_names_are_told_apart():
    names, notes = _own_names(["a", "a", "", "a 2", "x" * 300, "two\nlines", "a/b"])
    assert names == ["a", "a 2", "part 3", "a 2 2", "x" * 100, "two lines", "a/b"] and len(notes) == 4
    assert len({place_of(i, name) for i, name in enumerate(names)}) == len(names)
    assert place_of(1, "../../etc") == "01-etc" and place_of(2, "🚗") == "02-part"


def test_lists_of_parts_from_elsewhere_are_checked(tmp_path):
    for place in ("../x", "/etc", "01-a/../b", "", 7):
        (tmp_path / "parts.json").write_text(json.dumps({"source": "a", "parts": [{"name": "a", "place": place}]}))
        with pytest.raises(SinefieldError, match=r"parts\.json"):
            read_parts(tmp_path)
    (tmp_path / "parts.json").write_text("[]")
    with pytest.raises(SinefieldError, match=r"parts\.json"):
        read_parts(tmp_path)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    assert main(["train", str(groups(tmp_path)), "--split", "--out", str(tmp_path / "out"), *FAST]) == 2
    assert "letter.txt" in capsys.readouterr().err and not is_parted(tmp_path / "out")


@pytest.mark.slow
def test_named_nodes_are_fitted_packed_and_put_together(tmp_path, capsys):
    path, out = scene(tmp_path), tmp_path / "run"
    train = ["train", str(path), "--split", "--out", str(out), "--json", *FAST]
    assert main(train) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [part["name"] for part in report["parts"]] == list(PLACES)
    assert all(part["iou"] > 0.9 for part in report["parts"])
    assert main(train) == 2 and "--resume" in capsys.readouterr().err
    before = (out / "01-body" / "field.safetensors").stat().st_mtime_ns
    (out / "03-wheel" / "report.json").unlink()  # as if it had been stopped there
    assert main([*train, "--resume"]) == 0
    assert (out / "01-body" / "field.safetensors").stat().st_mtime_ns == before
    assert (out / "03-wheel" / "report.json").exists()
    assert main(["info", str(out)]) == 0 and "left/wheel" in capsys.readouterr().out
    assert main(["pack", str(out), str(tmp_path / "packed"), "--bits", "8", "--seconds", "0"]) == 0
    for folder in (out, tmp_path / "packed"):
        assert main(["mesh", str(folder), str(tmp_path / "all.glb"), "--resolution", "48", "--overwrite"]) == 0
        read = trimesh.load(tmp_path / "all.glb")
        assert set(read.graph.nodes_geometry) == set(PLACES)
        for node, place in PLACES.items():
            matrix, geometry = read.graph[node]
            mesh = read.geometry[geometry].copy().apply_transform(matrix)
            assert np.allclose(mesh.bounds.mean(axis=0), place, atol=0.1)
            assert mesh.volume == pytest.approx(8.0, rel=0.1)
    assert main(["mesh", str(out), str(tmp_path / "all.obj"), "--resolution", "32"]) == 0
    assert [line for line in (tmp_path / "all.obj").read_text().splitlines() if line.startswith("o ")] == [
        f"o {name}" for name in PLACES
    ]


def test_parts_keep_their_colours_with_fewer_faces():
    field = load_shown(Path(__file__).parent / "golden" / "shape_coloured.sine")
    vertices, faces, _ = extracted(field, 40, None, False, False, None)
    few = _finished(field, NamedMesh("a", vertices, faces), 0.2, True)
    assert 4 <= len(few.faces) <= 0.21 * len(faces) and few.name == "a"
    assert few.colours is not None and few.colours.shape == few.vertices.shape
    assert len(np.unique(few.colours, axis=0)) > 1
