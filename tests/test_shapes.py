"""Many shapes: families against their meshes, the transformer's symmetries, training, scores, packing."""

import json
import os
import signal
from functools import cache

import numpy as np
import pytest
import second_decoder
import torch
import trimesh
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from sinefield.commands.cli import main
from sinefield.compress.container import encode
from sinefield.compress.settings import BASE
from sinefield.config import ShapesFieldConfig, make_config
from sinefield.data.made.families import FAMILIES, make_shape
from sinefield.data.shape_sets import HELD_OUT, NEAR, label, scan, shape_set, solid_of_shape
from sinefield.errors import SinefieldError
from sinefield.export.reconstruct import reconstruct_shape
from sinefield.fields.latent import scores as score_shapes
from sinefield.fields.latent import training as latent_training
from sinefield.fields.latent import training as shapes
from sinefield.fields.latent.field import KERNELS, Block, LatentShapeField, PlacedAttention, Turns, placement
from sinefield.learning import loop
from sinefield.learning.adapt import adapt
from sinefield.learning.evaluate import evaluate, evaluate_file
from sinefield.learning.pack import pack
from sinefield.learning.pack_rounded import rounded
from sinefield.learning.train import train
from sinefield.nn.points import farthest_points
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import to_packed
from sinefield.strict import to_plain
from sinefield.transformers.graying import svd_graying

SMALL = {"points": 128, "dim": 32, "tokens": 24, "heads": 2, "blocks": 1, "expand": 2}


@cache
def solid(family, seed=3):
    return solid_of_shape(make_shape(family, seed), family, cells=48)


def small_field(seed=0, **settings):
    torch.manual_seed(seed)
    return LatentShapeField(ShapesFieldConfig(**{**SMALL, **settings})).eval().requires_grad_(False)


def config_of(path="families:superquadric,blob", steps=60, data=None, field=None, **training):
    return make_config(
        {
            "kind": "shapes",
            "data": {"path": str(path), "shapes": 4, "held_out": 1, **(data or {})},
            "field": {**SMALL, **(field or {})},
            "training": {"steps": steps, "batch": 4, "queries": 256, "precision": "fp32", **training},
        },
        "test",
    )


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """What is small is scored by few points."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("POINTS", 4000), ("SAMPLES", 4000), ("RESOLUTION", 40)):
            patch.setattr(score_shapes, name, value)
        patch.setattr(latent_training, "JUDGED_POINTS", 4000)
        patch.setattr(shapes, "PROBE_POINTS", 1000)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "run"
    return folder, train(config_of(), folder)


# --- families -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_is_what_its_mesh_encloses(family, generator):
    shape = solid(family)
    mesh = trimesh.Trimesh(shape.surface.vertices, shape.surface.faces, process=False)
    assert mesh.is_watertight and mesh.volume > 0.01
    np.testing.assert_allclose(mesh.extents.max(), 1.0)
    np.testing.assert_allclose(mesh.bounds.mean(0), 0.0, atol=1e-12)
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (4000, 3))
    # Off the surface by more than the mesh is.
    clear = KDTree(mesh.sample(60_000, seed=0)).query(points)[0] > 0.03
    inside = shape.inside(points)
    assert inside.any() and clear.mean() > 0.3
    np.testing.assert_array_equal(inside[clear], mesh.contains(points)[clear])


def test_seeds_make_shapes():
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3))
    for family in FAMILIES:
        values = [make_shape(family, seed).implicit(points) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(values[0], values[1])
        assert np.abs(values[0] - values[2]).max() > 0.01
    with pytest.raises(SinefieldError, match="'char'; one of chair, table"):
        make_shape("char", 0)


def test_held_out_shapes_are_others():
    found = shape_set(config_of("families:", data={"shapes": 50, "held_out": 3}).data)
    assert len(found.train) == 50 and len(found.held_out) == 3 * len(FAMILIES)
    assert {e.category for e in found.held_out} == set(FAMILIES)
    assert all(int(e.name.split()[1]) >= HELD_OUT for e in found.held_out)
    assert all(int(e.name.split()[1]) < HELD_OUT for e in found.train)


def test_a_scan_lies_on_the_surface_but_for_noise():
    shape = solid("vase")
    cloud = scan(shape, 4000, 0.0, seed=0)
    dense = KDTree(trimesh.Trimesh(shape.surface.vertices, shape.surface.faces, process=False).sample(200_000, seed=1))
    assert dense.query(cloud)[0].max() < 0.02
    moved = scan(shape, 4000, 0.02, seed=0) - cloud
    assert abs(moved.std() - 0.02) < 1e-3 and abs(moved.mean()) < 1e-3


def test_labels_are_signed_distances(tmp_path, monkeypatch):
    monkeypatch.setenv("SINEFIELD_CACHE", str(tmp_path))
    entries = shape_set(config_of("families:table", data={"shapes": 1}).data).train
    found = label(entries)
    points, values = found.points[0].double().numpy(), found.values[0].double().numpy()
    shape = entries[0].make()
    mesh = trimesh.Trimesh(shape.surface.vertices, shape.surface.faces, process=False)
    truth = KDTree(mesh.sample(400_000, seed=0)).query(points)[0]
    assert np.abs(np.abs(values) - truth).max() < 6e-3  # what samples are apart
    off = truth > 0.01
    np.testing.assert_array_equal(values[off] < 0, mesh.contains(points)[off])
    assert truth[:NEAR].mean() < 0.05 < truth[NEAR:].mean()
    (stored,) = tmp_path.iterdir()
    again = label(entries)
    assert torch.equal(again.points, found.points) and torch.equal(again.values, found.values)
    stored.write_bytes(b"damaged")
    assert torch.equal(label(entries).surface, found.surface)


def test_farthest_points_by_brute_force(generator):
    points = torch.randn(2, 50, 3, generator=generator)
    chosen = farthest_points(points, 20)
    for cloud, found in zip(points.double().numpy(), chosen.numpy(), strict=True):
        picked = [int(np.linalg.norm(cloud - cloud.mean(0), axis=1).argmax())]
        distances = cdist(cloud, cloud)
        while len(picked) < 20:
            picked.append(int(distances[picked].min(0).argmax()))
        assert found.tolist() == picked


# --- the transformer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["softmax", "x", "x^3"])
def test_the_order_of_points_does_not_matter(attention, generator):
    field = small_field(attention=attention)
    cloud, x = torch.randn(2, 128, 3, generator=generator) * 0.4, torch.randn(2, 30, 3, generator=generator) * 0.4
    order = torch.randperm(128, generator=generator)
    values = field(cloud, x)
    torch.testing.assert_close(field(cloud[:, order], x), values, rtol=1e-3, atol=1e-5)
    other = cloud + 0.05 * torch.randn(cloud.shape, generator=generator)
    assert (field(other, x) - values).abs().max() > 1e-3
    torch.testing.assert_close(field(cloud, x.flip(1)), values.flip(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("attention", ["softmax", "x^3"])
def test_attention_knows_only_differences_of_places(attention, generator):
    config = ShapesFieldConfig(**SMALL, attention=attention)
    field, attend = LatentShapeField(config), PlacedAttention(config)
    x, places = torch.randn(1, 24, 32, generator=generator), torch.rand(1, 24, 3, generator=generator)
    with torch.no_grad():
        here = attend(x, field._turns(places))
        there = attend(x, field._turns(places + torch.tensor([0.3, -0.2, 0.5])))
        stretched = attend(x, field._turns(places * 1.5))
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
    assert (stretched - here).abs().max() > 1e-2


def test_heads_begin_as_gaussians_of_distance():
    field = LatentShapeField(ShapesFieldConfig(dim=512, heads=4))  # many frequencies a head: close to the limit
    offsets = torch.nn.functional.normalize(torch.randn(40, 3), dim=1) * torch.linspace(0, 0.6, 40)[:, None]
    sums = torch.cos(torch.einsum("nd,hcd->hnc", offsets, field.kernels)).mean(-1)
    widths = torch.from_numpy(np.geomspace(*KERNELS, 4))[:, None]
    truth = torch.exp(-offsets.square().sum(1)[None] / (2 * widths**2))
    assert (sums - truth).abs().max() < 0.12


@pytest.mark.parametrize("skips", [(True, True), (False, True), (True, False), (False, False)])
def test_removed_skips_are_removed(skips, generator):
    config = ShapesFieldConfig(**SMALL, skip_attention=skips[0], skip_feedforward=skips[1])
    block = Block(config)
    x = torch.randn(1, 24, 32, generator=generator)
    turns = LatentShapeField(config)._turns(torch.rand(1, 24, 3, generator=generator))
    with torch.no_grad():
        a = block.attend(block.norm(x), turns)
        after = x + a if skips[0] else a
        b = block.feed(block.forward_norm(after))
        torch.testing.assert_close(block(x, turns), after + b if skips[1] else b)
        # Without what attention and feed-forward add, only skips are left.
        for layer in (block.attend.project.out, block.feed.down):
            for p in layer.parameters():
                p.zero_()
        block.feed.down_bias.zero_()
        torch.testing.assert_close(block(x, turns), x if all(skips) else torch.zeros_like(x))


def test_attention_sees_grayed_tokens(generator):
    block = Block(ShapesFieldConfig(**SMALL, graying="svd", epsilon=0.5))
    x = torch.randn(1, 24, 32, generator=generator)
    turns = Turns(*[(torch.ones(1, 2, 24, 8), torch.zeros(1, 2, 24, 8))] * 2)
    seen = []
    block.attend.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block(x, turns)
    torch.testing.assert_close(seen[0], svd_graying(block.norm(x), 0.5))
    spread = torch.linalg.svdvals(block.norm(x))[0], torch.linalg.svdvals(seen[0])[0]
    assert spread[1][0] / spread[1][-1] < spread[0][0] / spread[0][-1]


def test_feed_forward_of_sine_weights():
    dense, sine = small_field(), small_field(weights="sine", rank=4)
    numbers = [sum(p.numel() for p in field.parameters()) for field in (dense, sine)]
    assert numbers[0] - numbers[1] == 2 * 32 * 64 - 2 * 4 * (32 + 64)  # one block's two matrices
    weight = sine.blocks[0].feed.up
    assert weight().shape == (64, 32) and float(weight().abs().max()) <= 4 / 32**0.5 + 1e-6


def test_a_shape_comes_in_the_clouds_own_coordinates():
    field = small_field()
    cloud = scan(solid("chair"), 128, 0.005, seed=0)
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (200, 3))
    near, far = field.shape_of(cloud), field.shape_of(cloud * 40 + [1000, -3, 7])
    values = near.evaluate(torch.from_numpy(points))
    moved = far.evaluate(torch.from_numpy(points * 40 + [1000, -3, 7]))
    torch.testing.assert_close(moved, 40 * values, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        far.aabb.numpy().reshape(2, 3), [cloud.min(0) * 40 + [1000, -3, 7], cloud.max(0) * 40 + [1000, -3, 7]]
    )
    centre, scale = placement(torch.from_numpy(cloud)[None])
    placed = (torch.from_numpy(cloud) - centre[0]) * scale[0]
    assert float((placed.amax(0) - placed.amin(0)).max()) == pytest.approx(2 / 1.1)


def test_occupancy_is_a_probability():
    shape = small_field(represents="occupancy").shape_of(scan(solid("blob"), 128, 0.0, seed=0))
    values = shape.evaluate(torch.rand(50, 3, dtype=torch.float64) - 0.5)
    assert ((values > 0) & (values < 1)).all() and shape.default_level == 0.5


# --- bad input ------------------------------------------------------------------------------------------------------


def flat(n=200):
    plane = np.random.default_rng(0).standard_normal((n, 3))
    return plane - np.outer(plane @ [0.6, 0.8, 0.0], [0.6, 0.8, 0.0]) + [1, 2, 3]


BAD = {
    "few": (np.random.default_rng(0).standard_normal((9, 3)), "9 different points, fewer than the field's 24 tokens"),
    "doubles": (np.random.default_rng(0).standard_normal((9, 3)).repeat(50, 0), "has 9 different points"),
    "nan": (np.vstack([flat(), [[np.nan, 0, 0]]]), "1 of 201 points are NaN or infinite"),
    "plane": (flat(), "all points lie in one plane"),
    "line": (np.outer(np.arange(100.0), [1, 2, 3]), "all points lie in one plane"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_clouds(name):
    cloud, words = BAD[name]
    with pytest.raises(SinefieldError) as caught:
        small_field().shape_of(cloud, "scan.ply")
    assert words in str(caught.value) and str(caught.value).startswith("scan.ply: ") and "\n" not in str(caught.value)


def test_bad_settings():
    for settings, words in (
        ({"tokens": 200}, "tokens is 200; 8 to points, which is 128"),
        ({"heads": 3}, "multiple of twice the heads"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"attention": "x^2"}, "should be one of softmax, x, x^3"),
    ):
        with pytest.raises(SinefieldError, match=words.replace("^", r"\^")):
            config_of(field=settings)
    with pytest.raises(SinefieldError, match="no family of shapes is called 'cup'"):
        shape_set(config_of("families:cup").data)


def test_folders_of_meshes(tmp_path):
    for i in range(6):
        folder = tmp_path / ("box" if i % 2 else "ball")
        folder.mkdir(exist_ok=True)
        mesh = trimesh.creation.box((1 + i, 1, 1)) if i % 2 else trimesh.creation.icosphere(2, radius=1 + i)
        mesh.apply_translation((5, 6, 7)).export(folder / f"{i}.ply")
    found = shape_set(config_of(tmp_path, data={"held_out": 3}).data)
    assert len(found.train) == 4 and {e.category for e in found.held_out} == {"ball", "box"}
    assert not {e.name for e in found.train} & {e.name for e in found.held_out}
    ball = next(e for e in found.held_out if e.category == "ball").make()
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (500, 3))
    radius = np.linalg.norm(points, axis=1)
    clear = np.abs(radius - 0.5) > 0.02
    np.testing.assert_array_equal(ball.inside(points)[clear], (radius < 0.5)[clear])
    with pytest.raises(SinefieldError, match="is no folder"):
        shape_set(config_of(tmp_path / "none").data)
    with pytest.raises(SinefieldError, match="has 6 meshes, every 1-th"):
        shape_set(config_of(tmp_path, data={"held_out": 1}).data)


# --- the whole road -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_learns_unseen_shapes(run):
    folder, report = run
    assert report["kind"] == "shapes" and report["steps"] == 60
    untrained = [p["iou"] for p in evaluate_untrained(folder)]
    assert report["iou"] > max(0.55, np.mean(untrained) + 0.2)
    assert set(report["categories"]) == {"superquadric", "blob"}
    assert report["iou"] == pytest.approx(np.mean([row["iou"] for row in report["per_shape"]]))
    assert (folder / "pictures" / "shapes.png").exists() and (folder / "scores.csv").read_text().count("\n") == 3
    again = evaluate(Run(folder))
    assert again["iou"] == report["iou"] and again["chamfer_l1"] == pytest.approx(report["chamfer_l1"])


@pytest.mark.parametrize("weights", ["dense", "sine"])
def test_a_second_decoder_reads_the_file(weights):
    field = small_field(weights=weights, rank=3, dim=16, skip_attention=False, attention="x^3")
    packed = to_packed(field, rounded(dict(field.named_parameters()), 5, "uniform"), {"iou": [0.5, 0.25]})
    settings, _, values, _, note = second_decoder.decode(encode(packed))
    assert settings == to_plain(field.config) and BASE["shapes"] == second_decoder.SHAPES
    assert note == {"iou": [0.5, 0.25]} and list(values) == [name for name, _ in field.named_parameters()]
    for name, coded in packed.tensors.items():
        np.testing.assert_array_equal(values[name], coded.values())


def evaluate_untrained(folder):
    config = Run(folder).config()
    return score_shapes.score_shapes(LatentShapeField(config.field).eval(), config, shape_set(config.data), None)[
        "per_shape"
    ]


def test_resuming_goes_the_same_way(tmp_path, monkeypatch):
    """Stopped half-way and resumed must equal uninterrupted, to the bit."""
    train(config_of(steps=10), tmp_path / "whole")
    original = loop.step_generator

    def stopping(seed, step, device="cpu"):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(seed, step, device)

    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        patch.setattr(loop, "step_generator", stopping)
        train(config_of(steps=10), tmp_path / "half")
    train(config_of(steps=10), tmp_path / "half", resume=True)
    whole, half = (load_field(tmp_path / name)[0].state_dict() for name in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_reconstruct(run, tmp_path, capsys):
    folder, _ = run
    cloud = scan(solid("superquadric"), 600, 0.005, seed=0) * 8 + [100, 0, 0]
    points, out = tmp_path / "points.ply", tmp_path / "out.glb"
    trimesh.PointCloud(cloud).export(points)
    assert main(["reconstruct", str(folder), str(points), str(out), "--resolution", "40", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    mesh = trimesh.load_mesh(out)
    assert report["points"] == 600 and len(mesh.faces) == report["faces"]
    # Where the cloud is: more than half of it within a tenth of its size.
    near = KDTree(np.asarray(mesh.vertices)).query(cloud)[0]
    assert np.median(near) < 0.8
    with pytest.raises(SinefieldError, match="exists already"):
        reconstruct_shape(folder, points, out)


def test_reconstruct_refuses(run, ball_run, tmp_path, capsys):
    np.savetxt(tmp_path / "flat.xyz", flat())
    assert main(["reconstruct", str(run[0]), str(tmp_path / "flat.xyz"), str(tmp_path / "out.ply")]) == 2
    error = capsys.readouterr().err
    assert "flat.xyz: all points lie in one plane" in error and error.count("\n") == 1
    assert main(["reconstruct", str(ball_run[0]), str(tmp_path / "flat.xyz"), str(tmp_path / "out.ply")]) == 2
    assert "is a shape field; give a run of kind shapes" in capsys.readouterr().err
    assert main(["mesh", str(run[0]), str(tmp_path / "out.ply")]) == 2
    assert "knows many shapes: sinefield reconstruct" in capsys.readouterr().err
    assert not (tmp_path / "out.ply").exists()
    with pytest.raises(SinefieldError, match="takes no edits"):
        adapt(run[0], config_of(), tmp_path / "edit.sine")


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 6, "quantiser": "kmeans"}, {"max_bytes": 14_000}, {}])
def test_packing(run, tmp_path, options):
    folder, _ = run
    out = tmp_path / "shapes.sine"
    report = pack(folder, out, **options)
    assert report["bytes"] == out.stat().st_size < options.get("max_bytes", report["float_bytes"] / 3) + 1
    before, after = load_field(folder)[0], load_field(out)[0]
    for (name, p), q in zip(before.named_parameters(), after.parameters(), strict=True):
        assert (p - q).square().mean() <= 0.05 * p.square().mean() + 1e-12, name
    assert after.config == before.config
    assert report["iou"] == pytest.approx(evaluate_file(out)["iou"], abs=0.03)
    assert abs(report["iou"] - report["iou_before"]) < 0.1
