"""Fleets of codes, without Ray: one network, resuming, another base, a base that is missing."""

import json

import numpy as np
import pytest
import torch

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.errors import SinefieldError

pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'sinefield[fleet]'")
pytest.importorskip("fsspec", reason="fsspec is not installed; pip install 'sinefield[fleet]'")
pytest.importorskip("ray", reason="ray is not installed; pip install 'sinefield[fleet]'")

from test_fleet import Here

from sinefield.data.made.families import make_shape
from sinefield.data.shape_sets import solid_of_shape
from sinefield.fleet.child import _do
from sinefield.fleet.items import Item, find_items
from sinefield.fleet.run import Plan, prepare, run_fleet
from sinefield.fleet.shared import find_base, given_base, opened_base, shared_config
from sinefield.fleet.store import BASE, FleetStore

TRAINING = {"steps": 300, "batch": 4, "queries": 128, "code_steps": 150, "code_queries": 256, "code_lr": 0.3}
SCENE = {
    "kind": "shared",
    "data": {"points": 2000},
    "field": {"width": 24, "depth": 2, "frequencies": 2},
    "training": TRAINING,
}
ITEMS = find_items("family:blobs:0-3")


@pytest.fixture(autouse=True)
def same_threads(monkeypatch):
    """Items are done in this process here."""
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)


def worker(dies_after=None):
    return Here(lambda request: _do({**request, "memory": 4096}), dies_after)


def fleet(items, out, cluster, scene=SCENE, given=None, overwrite=False):
    plan, held = Plan(scene), FleetStore(str(out))
    try:
        prepare(items, plan, held, overwrite)
        base = find_base(items, plan, held, cluster, given)
        return run_fleet(items, Plan(scene, base=base, chunk=1), held, cluster, "a fleet of codes")
    finally:
        held.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A fleet of four, and the paths that its workers were asked for."""
    cluster, out = worker(), tmp_path_factory.mktemp("fleet") / "out"
    return out, fleet(ITEMS, out, cluster), cluster.asked


def test_a_fleet_of_codes_reads_as_fields(made):
    out, report, asked = made
    assert report["done"] == 4 and report["failed"] == 0 and len(asked) == 8  # to sample, and to code
    fields = sf.FieldSet(out)
    assert max(fields.sizes) < 400 and (out / BASE).stat().st_size > 1000
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (2000, 3))
    found = fields.batch(fields.ids).sdf(points) < 0
    for name, inside in zip(fields.ids, found, strict=True):
        solid = solid_of_shape(make_shape("blob", int(name.rpartition("-")[2])))
        truth = solid.inside(points)
        assert (inside & truth).sum() / (inside | truth).sum() > 0.7, name
    assert fields[0].kind == "shape" and fields.rows[0]["kind"] == "shared"
    assert "base.sine" in (out / "README.md").read_text()


def test_the_same_command_does_nothing_twice_and_goes_on(made, tmp_path):
    out, _, _ = made
    again = worker()
    assert fleet(ITEMS, out, again)["kept"] == 4 and again.asked == []
    other = tmp_path / "out"
    stopped = worker(dies_after=6)  # two codes are made
    with pytest.raises(KeyboardInterrupt):
        fleet(ITEMS, other, stopped)
    resumed = worker()
    report = fleet(ITEMS, other, resumed)
    assert report["done"] == 4 and 1 <= len(resumed.asked) < 4
    assert (other / BASE).read_bytes() == (out / BASE).read_bytes()
    ours, theirs = sf.FieldSet(other), sf.FieldSet(out)
    assert [ours.content(i) for i in ours.ids] == [theirs.content(i) for i in theirs.ids]


def test_new_shapes_get_codes_without_touching_the_network(made, tmp_path):
    base = (made[0] / BASE).read_bytes()
    cluster = worker()
    items = [*find_items("family:blobs:9-10"), Item("broken", str(tmp_path / "none.obj"))]
    report = fleet(items, tmp_path / "new", cluster, given=base)
    assert report["done"] == 2 and "none.obj" in report["errors"][0]
    assert (tmp_path / "new" / BASE).read_bytes() == base
    assert sf.FieldSet(tmp_path / "new")["blob-9"].kind == "shape"


def test_other_bases_are_refused_by_one_line(made, tmp_path):
    out = made[0]
    other = {**SCENE, "seed": 1}
    fleet(ITEMS[:2], tmp_path / "other", worker(), scene=other)
    with pytest.raises(SinefieldError, match="another base"):
        fleet(ITEMS, out, worker(), given=(tmp_path / "other" / BASE).read_bytes())
    with pytest.raises(SinefieldError, match="other field settings"):
        fleet(ITEMS, out, worker(), scene={**SCENE, "field": {**SCENE["field"], "width": 16}})
    fields = sf.FieldSet(tmp_path / "other")
    (tmp_path / "other" / BASE).write_bytes((out / BASE).read_bytes())
    with pytest.raises(SinefieldError, match="made for another base"):
        fields["blob-0"]
    (tmp_path / "other" / BASE).unlink()
    with pytest.raises(SinefieldError, match=r"lacks base\.sine"):
        sf.FieldSet(tmp_path / "other")["blob-0"]


def test_what_is_no_base(tmp_path):
    with pytest.raises(SinefieldError, match="is a shape field"):
        opened_base(sf.example("knot").read_bytes(), "knot.sine")
    (tmp_path / "bad.sine").write_bytes(b"SINE")
    with pytest.raises(SinefieldError, match=r"bad\.sine: is cut short"):
        given_base(str(tmp_path / "bad.sine"))
    with pytest.raises(SinefieldError, match="kind shared, not shape"):
        shared_config({"kind": "shape"})


def test_nothing_can_be_read(tmp_path):
    with pytest.raises(SinefieldError, match="none of the items can be read"):
        fleet([Item("broken", str(tmp_path / "none.obj"))], tmp_path / "out", worker())


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("shape", ["--shared"], "kind shared, not shape"),
        ("shared", [], "give --shared"),
        ("shared", ["--shared", "--max-bytes", "2000"], "training.rate"),
        ("shared", ["--shared", "none.sine"], "none.sine"),
    ],
)
def test_the_command_refuses_by_one_line(tmp_path, capsys, kind, options, said):
    scene = tmp_path / "scene.yaml"
    scene.write_text(json.dumps({"kind": kind, "training": {"steps": 5}}))
    assert main(["fleet", str(scene), "family:blobs:0-1", "--out", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
