"""Splats, points and depth maps: pictures against the definition, files against other readers, places on surfaces."""

import gzip
import json
import math
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import sinefield as sf
from sinefield.cameras.cameras import orbit
from sinefield.cameras.orbits import pinholes
from sinefield.commands.cli import main
from sinefield.errors import SinefieldError
from sinefield.export import depth, points, splats
from sinefield.export.mesh import load_shown
from sinefield.export.splats import Look, fit, likeness, write_splats
from sinefield.kernels.choose import choose
from sinefield.render.splats import Splats, blend_reference, draw, flatten, rotations


@pytest.fixture(autouse=True)
def few_small_views(monkeypatch):
    for module in (points, splats):
        monkeypatch.setattr(module, "VIEWS", 12)
    monkeypatch.setattr(splats, "LONGEST", 48)


def some(n, degree=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return Splats(
        0.4 * normal(n, 3), normal(n, 3) * 0.5 - 2.5, normal(n, 4), normal(n), normal(n, (degree + 1) ** 2, 3) * 0.3
    )


def cameras(side=24, count=3):
    return pinholes(orbit(count, (0.0, 0.0, 0.0), 3.0, 20.0, (0.0, 0.0, 1.0)), 1.2, (side + 7, side))


def test_the_compiled_picture_is_the_defined_one():
    flat = flatten(some(150), cameras(), 1)
    run = choose("splats", torch.device("cpu"), gradients=1)
    assert run.name == "numba"
    for given, wanted in zip(run.function(*flat, 24, 31), blend_reference(*flat, 24, 31), strict=True):
        assert torch.allclose(given, wanted, atol=2e-6)


def test_gradients_are_those_of_the_definition():
    flat, weight = flatten(some(60, seed=1), cameras(16), 0), torch.randn(16, 23, 4, generator=torch.Generator())
    found = []
    for run in (choose("splats", torch.device("cpu"), gradients=1).function, blend_reference):
        inputs = [part.detach().clone().requires_grad_() for part in flat[:4]]
        colour, left = run(*inputs, flat.reach, 16, 23)
        (torch.cat([colour, left[..., None]], 2) * weight).sum().backward()
        found.append([part.grad for part in inputs])
    for given, wanted in zip(*found, strict=True):
        assert torch.allclose(given, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_round_splat_before_the_camera():
    """A Gaussian of σ at depth z covers focal·σ/z pixels, and the blur."""
    one = Splats(
        torch.zeros(1, 3), torch.full((1, 3), math.log(0.2)), torch.tensor([[2.0, 0, 0, 0]]), torch.zeros(1),
        torch.full((1, 1, 3), 0.5 / 0.28209479),
    )  # fmt: skip
    seen = pinholes(orbit(1, (0.0, 0.0, 0.0), 4.0, 0.0, (0.0, 0.0, 1.0)), 1.0, (41, 41))
    colour, left = draw(one, seen, 0)
    away = torch.arange(41.0) - 20
    variance = (41 * 0.2 / 4) ** 2 + 0.3
    wanted = 0.5 * torch.exp(-0.5 * away**2 / variance)
    wanted[(wanted < 1 / 255) | (away**2 > 8 * variance)] = 0
    assert torch.allclose(1 - left[20], wanted, atol=1e-5)
    assert torch.allclose(colour[20, :, 1], wanted, atol=1e-5)


def test_quaternions_turn_as_scipy_has_them():
    from scipy.spatial.transform import Rotation

    turns = torch.randn(20, 4, generator=torch.Generator().manual_seed(3)).double()
    wanted = Rotation.from_quat(turns[:, [1, 2, 3, 0]].numpy()).as_matrix()
    assert np.allclose(rotations(turns).numpy(), wanted)


def test_splats_of_the_wider_kind_are_fainter():
    one = some(1, 0)._replace(means=torch.zeros(1, 3), log_scales=torch.full((1, 3), -5.0))
    plain, thinned = (flatten(one, cameras(), 0, kind) for kind in (False, True))
    # Its own variance is (focal σ / z)² pixels²; 0.3 more spreads it, so that its light stays the same when thinned.
    own = (1.2 * 31 * math.exp(-5) / 3) ** 2
    assert float(thinned.opacities / plain.opacities) == pytest.approx(own / (own + 0.3), rel=1e-3)


def test_a_fit_brings_splats_nearer():
    wanted, seen = some(40, 0, seed=5), cameras(32, 6)
    looks = [Look(*(part.detach() for part in draw(wanted, seen, i))) for i in range(6)]
    ground = torch.ones(3)
    moved = wanted._replace(harmonics=wanted.harmonics * 0, logits=wanted.logits * 0)
    before = likeness(moved, seen, looks, range(6), ground)
    fitted = fit(moved, seen, looks, range(6), 150)
    again = fit(moved, seen, looks, range(6), 150)
    assert likeness(fitted, seen, looks, range(6), ground) > before + 5
    assert all(torch.equal(a, b) for a, b in zip(fitted, again, strict=True))


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_a_ply_holds_what_trimesh_reads(degree, tmp_path):
    made = some(30, degree)
    write_splats(tmp_path / "a.ply", made)
    read = trimesh.load(tmp_path / "a.ply").metadata["_ply_raw"]["vertex"]["data"]
    names = [name for name in read.dtype.names if name.startswith("f_rest")]
    assert len(names) == 3 * ((degree + 1) ** 2 - 1)
    assert np.allclose(np.stack([read[k].ravel() for k in "xyz"], 1), made.means.numpy())
    for channel in range(3):
        assert np.allclose(read[f"f_dc_{channel}"].ravel(), made.harmonics[:, 0, channel].numpy())
    if degree:
        k = (degree + 1) ** 2 - 1
        assert np.allclose(read[f"f_rest_{k + 1}"].ravel(), made.harmonics[:, 2, 1].numpy())
    turns = np.stack([read[f"rot_{i}"].ravel() for i in range(4)], 1)
    assert np.allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-6)
    assert np.allclose(turns * made.turns.norm(dim=1, keepdim=True).numpy(), made.turns.numpy(), atol=1e-6)


def unpacked(content: bytes) -> dict:
    """A .spz of version 2, decoded from its published layout (github.com/nianticlabs/spz)."""
    data = gzip.decompress(content)
    magic, version, n, degree, bits, _flags, reserved = struct.unpack("<IIIBBBB", data[:16])
    assert (magic, version, reserved) == (0x5053474E, 2, 0)
    k = (0, 3, 8, 15)[degree]
    sizes = {"places": 9, "alphas": 1, "colours": 3, "scales": 3, "turns": 3, "rest": 3 * k}
    assert len(data) == 16 + n * sum(sizes.values())
    parts, at = {}, 16
    for name, size in sizes.items():
        parts[name] = np.frombuffer(data, np.uint8, n * size, at).reshape(n, size).astype(np.int64)
        at += n * size
    raw = parts["places"].reshape(n, 3, 3) @ [1, 1 << 8, 1 << 16]
    turns = parts["turns"] / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - np.square(turns).sum(1)))
    return {
        "means": (raw - (raw >= 1 << 23) * (1 << 24)) / 2.0**bits,
        "opacities": parts["alphas"][:, 0] / 255,
        "dc": (parts["colours"] / 255 - 0.5) / 0.15,
        "log_scales": parts["scales"] / 16 - 10,
        "turns": np.concatenate([w[:, None], turns], 1),
        "rest": (parts["rest"].reshape(n, k, 3) - 128) / 128,
    }


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_spz_holds_what_its_layout_says(degree, tmp_path):
    made = some(50, degree)
    write_splats(tmp_path / "a.spz", made)
    write_splats(tmp_path / "b.spz", made)
    assert (tmp_path / "a.spz").read_bytes() == (tmp_path / "b.spz").read_bytes()
    read = unpacked((tmp_path / "a.spz").read_bytes())
    assert np.allclose(read["means"], made.means.numpy(), atol=2**-12)
    assert np.allclose(read["opacities"], made.logits.sigmoid().numpy(), atol=1 / 255)
    assert np.allclose(read["dc"], made.harmonics[:, 0].numpy(), atol=0.02)
    assert np.allclose(read["log_scales"], made.log_scales.numpy(), atol=1 / 16)
    assert np.allclose(read["rest"], made.harmonics[:, 1:].numpy().clip(-1, 127 / 128), atol=1 / 128)
    # Where w is near 0, what is left for it of three rounded numbers is coarse: √(4/127.5) at most.
    wanted = torch.nn.functional.normalize(made.turns, dim=1).numpy()
    alike = np.abs((read["turns"] * wanted).sum(1)) / np.linalg.norm(read["turns"], axis=1)
    assert alike.min() > math.cos(math.sqrt(4 / 127.5)) and np.median(alike) > 0.9999


def test_a_spz_too_coarse_for_its_splats_is_refused(tmp_path):
    far = some(5)._replace(means=some(5).means + 5e6)
    with pytest.raises(SinefieldError, match=r"too coarse for these; write \.ply"):
        write_splats(tmp_path / "a.spz", far)
    assert not list(tmp_path.iterdir())


def test_splats_of_an_example(tmp_path, capfd):
    out = tmp_path / "toys.ply"
    assert main(["splats", "example:toys", str(out), "--count", "300", "--steps", "3", "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report["splats"] == 300 and report["bytes"] == out.stat().st_size and report["psnr"] > 5
    assert any("no background" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["splats", "example:knot", "a.obj"], "written as one of .ply .spz"),
        (["splats", "example:knot", "a.ply", "--count", "0"], "--count 0: 1 to"),
        (["splats", "example:knot", "a.ply", "--degree", "4"], "--degree 4: 0 to 3"),
        (["splats", "example:knot", "a.ply", "--steps", "-1"], "--steps -1: 0 to"),
        (["splats", "example:picture", "a.ply"], "is a field of kind image"),
        (["splats", "example:knot", "a.ply", "--data", "x"], "has no photographs; leave it out"),
        (["points", "example:knot", "a.obj"], "written as a .ply"),
        (["points", "example:knot", "a.ply", "--count", "0"], "--count 0: 1 to"),
        (["depth", "example:knot", "a", "--count", "0"], "--count 0: 1 to"),
    ],
)
def test_what_cannot_be_meant_is_said(words, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert says in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_points_lie_on_the_surface_and_look_outwards(tmp_path, capfd):
    out = tmp_path / "knot.ply"
    assert main(["points", "example:knot", str(out), "--count", "2000", "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    cloud = trimesh.load(out)
    assert report["points"] == len(cloud.vertices) == 2000
    field = sf.load("example:knot")
    size = float(np.ptp(np.asarray(field.bounds).reshape(2, 3), axis=0).max())
    distance, gradient = field.sdf(np.array(cloud.vertices), gradient=True)
    assert np.percentile(np.abs(distance), 95) < 0.01 * size
    data = cloud.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([data[name].ravel() for name in ("nx", "ny", "nz")], 1)
    assert np.median((normals * gradient).sum(1)) > 0.95
    # Even: no cell of a coarse grid has many times what the others have.
    counts = np.unique(np.floor(np.asarray(cloud.vertices) / (size / 12)), axis=0, return_counts=True)[1]
    assert counts.max() < 8 * np.median(counts)


def test_depth_maps_are_where_the_surface_is(tmp_path, capfd):
    out = tmp_path / "depths"
    assert main(["depth", "example:knot", str(out), "--count", "4", "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    told = json.loads((out / "depths.json").read_text())
    assert len(told["frames"]) == report["views"] == 4
    field = sf.load("example:knot")
    size = float(np.ptp(np.asarray(field.bounds).reshape(2, 3), axis=0).max())
    for frame in told["frames"]:
        steps = np.asarray(Image.open(out / frame["depth_file_path"]))
        assert steps.dtype == np.uint16 or steps.dtype == np.int32
        rows, columns = np.nonzero(steps)
        z = steps[rows, columns] * told["depth_unit_scale_factor"]
        x = (columns + 0.5 - frame["cx"]) / frame["fl_x"] * z
        y = (rows + 0.5 - frame["cy"]) / frame["fl_y"] * z
        pose = np.array(frame["transform_matrix"])
        points = np.stack([x, -y, -z], 1) @ pose[:3, :3].T + pose[:3, 3]
        assert np.percentile(np.abs(field.sdf(points)), 90) < 0.01 * size
    # A second time only where it is asked for, and nothing else is taken away.
    assert main(["depth", "example:knot", str(out), "--count", "4"]) == 2
    (out / "mine.txt").write_text("mine")
    assert main(["depth", "example:knot", str(out), "--count", "4", "--overwrite"]) == 2
    assert (out / "mine.txt").exists()


def test_what_lies_far_from_the_origin_is_written_there(tmp_path, monkeypatch):
    """An offset of the field's data (UTM say) is put back exactly; splats hold single precision, and say so."""
    offset = np.array([500_000.0, 4_000_000.0, 100.0])
    field = load_shown("example:toys")
    near = points.export_points("example:toys", tmp_path / "near.ply", 300)
    depths = depth.export_depth("example:toys", tmp_path / "near", 3)
    field.origin = offset
    for module in (points, depth, splats):
        monkeypatch.setattr(module, "load_shown", lambda *_: field)
    far = points.export_points("example:toys", tmp_path / "far.ply", 300)
    assert far["points"] == near["points"] == 300
    there, here = (np.asarray(trimesh.load(tmp_path / name).vertices, float) for name in ("far.ply", "near.ply"))
    assert np.abs(there - offset - here).max() < 1e-6
    assert depth.export_depth("example:toys", tmp_path / "far", 3)["farthest"] == depths["farthest"]
    poses = [
        np.array([frame["transform_matrix"] for frame in json.loads((folder / "depths.json").read_text())["frames"]])
        for folder in (tmp_path / "far", tmp_path / "near")
    ]
    assert np.abs(poses[0][:, :3, 3] - offset - poses[1][:, :3, 3]).max() < 1e-6
    report = splats.export_splats("example:toys", tmp_path / "far.spz", 100, 0)
    assert any("offset 500000 4000000 100 is left out" in note for note in report["notes"])
