"""Fleets without Ray: items, files, resuming, faults. What runs on Ray is in test_fleet_ray.py."""

import json
from io import BytesIO

import numpy as np
import pytest

import sinefield as sf
from sinefield.errors import SinefieldError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'sinefield[fleet]'")
pytest.importorskip("fsspec", reason="fsspec is not installed; pip install 'sinefield[fleet]'")
pytest.importorskip("ray", reason="ray is not installed; pip install 'sinefield[fleet]'")

import pyarrow.parquet as pq  # noqa: E402

from sinefield.fleet import place, store  # noqa: E402
from sinefield.fleet.child import Apart  # noqa: E402
from sinefield.fleet.items import Item, find_items  # noqa: E402
from sinefield.fleet.place import Place  # noqa: E402
from sinefield.fleet.run import Plan, load_scene, prepare, run_fleet  # noqa: E402
from sinefield.fleet.store import MARK, FleetStore, table  # noqa: E402

SCENE = {"kind": "shape", "training": {"steps": 10}}


class Here:
    """Stands for a cluster: items are "made" at once, by a function."""

    def __init__(self, make, dies_after=None):
        self.make, self.asked, self.dies_after = make, [], dies_after

    def cores(self):
        return 2

    def submit(self, requests, memory, seconds):
        return tuple(json.dumps(request, sort_keys=True) for request in requests)

    def wait(self, pending, seconds):
        return pending[:1]

    def take(self, sent):
        answers = []
        for request in map(json.loads, sent):
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request["path"])
            answers.append(self.make(request))
        return answers


def ok(content, score=0.97):
    return {"status": "ok", "error": None, "scores": {"iou": score}, "seconds": 1.0}, content


def knot(request):
    return ok(sf.example("knot").read_bytes(), 0.9 + 0.01 * int(request["path"].rpartition(":")[2]))


def fleet(items, out, cluster, scene=SCENE, overwrite=False, **plan):
    plan, held = Plan(scene, **plan), FleetStore(str(out))
    try:
        prepare(items, plan, held, overwrite)
        return run_fleet(items, plan, held, cluster, "a fleet")
    finally:
        held.close()


# ---- items


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_manifest_says_the_same_in_three_formats(tmp_path):
    """pyarrow and csv written by hand are the truth here."""
    rows = [
        {"id": "a", "path": "a.obj", "overrides": '{"field.width": 24}', "seed": 3},
        {"id": "b", "path": "/x/b.obj", "overrides": None, "seed": None},
    ]
    csv = write(tmp_path / "m.csv", 'id,path,overrides,seed\na,a.obj,"{""field.width"": 24}",3\nb,/x/b.obj,,\n')
    lines = [json.dumps({**rows[0], "overrides": {"field.width": 24}}), json.dumps(rows[1])]
    jsonl = write(tmp_path / "m.jsonl", "\n".join(lines))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    wanted = [Item("a", str(tmp_path / "a.obj"), {"field.width": 24}, 3), Item("b", "/x/b.obj")]
    for path in (csv, jsonl, str(tmp_path / "m.parquet")):
        assert find_items(path) == wanted


def test_folders_globs_and_families(tmp_path):
    for name in ("a.obj", "deep/b.PLY", "deep/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [item.id for item in find_items(str(tmp_path))] == ["a.obj", "deep/b.PLY"]
    assert [item.path for item in find_items(f"{tmp_path}/**/*.obj")] == [str(tmp_path / "a.obj")]
    assert [item.path for item in find_items("family:assemblies:7-8")] == ["family:assembly:7", "family:assembly:8"]
    assert len(find_items("family:all:0-4")) == 40


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.csv", "id,path\na,x.obj\na,y.obj\n", "id a stands twice"),
        ("m.csv", "id,file\na,x.obj\n", "no column path"),
        ("m.csv", "id,path\n", "has no row"),
        ("m.csv", "id,path\na,b,c\n", "more values"),
        ("m.csv", "id,path,seed\na,x.obj,-1\n", "seed is '-1'"),
        ("m.jsonl", '{"path": 3}', "path is 3"),
        ("m.jsonl", "{path}", "line 1: is no JSON"),
        ("m.jsonl", '{"path": "a", "overrides": [1]}', "overrides: is [1]"),
        ("m.parquet", "PAR1", "no readable parquet"),
    ],
)
def test_bad_manifests_are_one_line(tmp_path, name, text, said):
    with pytest.raises(SinefieldError, match=said.replace("[", r"\[")):
        find_items(write(tmp_path / name, text))


@pytest.mark.parametrize("given", ["family:chairs", "family:dogs:0-3", "family:chairs:9-3", "nowhere", "nowhere/*.obj"])
def test_items_that_are_not_there(given):
    with pytest.raises(SinefieldError):
        find_items(given)
    with pytest.raises(SinefieldError, match="steps"):
        Plan({"kind": "shape"})


def test_an_empty_folder(tmp_path):
    with pytest.raises(SinefieldError, match="no mesh is there"):
        find_items(str(tmp_path))


# ---- a fleet's files


def test_a_fleet_can_be_read_as_parquet_and_as_fields(tmp_path):
    items = find_items("family:chairs:0-4")
    report = fleet(items, tmp_path / "out", Here(knot))
    assert (report["done"], report["failed"], report["score"]) == (5, 0, pytest.approx(0.92))
    rows = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"chair-{i}" for i in range(5)]
    content = sf.example("knot").read_bytes()
    (shard,) = (tmp_path / "out" / "data").iterdir()
    assert pq.read_table(shard)["sine"].to_pylist() == [content] * 5
    assert not list((tmp_path / "out" / "parts").iterdir())
    assert "5 neural fields" in (tmp_path / "out" / "README.md").read_text()

    fields = sf.FieldSet(tmp_path / "out")
    assert len(fields) == 5 and fields.ids[2] == "chair-2" and "chair-2" in fields
    assert fields.content("chair-3") == content
    good = fields.filter(0.925)
    assert good.ids == ["chair-3", "chair-4"] and len(fields.filter(where=lambda row: row["id"] == "chair-0")) == 1
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    truth = sf.load("example:knot").sdf(points)
    both = fields.batch(["chair-1", 4]).sdf(points)
    assert np.array_equal(both, [truth, truth])
    assert np.array_equal(fields.batch([0, 1]).sdf(np.stack([points, points + 1]))[0], truth)
    assert [field.kind for field in fields[3:]] == ["shape", "shape"]
    with pytest.raises(KeyError):
        fields["nobody"]
    with pytest.raises(SinefieldError, match="2 sets of points"):
        fields.batch([0]).sdf(np.zeros((2, 4, 3)))


def test_datasets_reads_the_shards(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    fleet(find_items("family:chairs:0-1"), tmp_path / "out", Here(knot))
    found = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out/data/*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found[0]["sine"] == sf.example("knot").read_bytes()


def test_a_fleet_goes_on_with_what_is_missing_changed_or_failed(tmp_path):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for name in "abcd":
        (meshes / f"{name}.obj").write_text(name)

    def make(request):
        path = request["path"]
        if path.endswith("d.obj") and "mended" not in (meshes / "d.obj").read_text():
            return {"status": "failed", "error": "broken"}, b""
        return ok(path.encode())

    first = Here(make)
    report = fleet(find_items(str(meshes)), tmp_path / "out", first, retries=2)
    assert report["failed"] == 1 and report["errors"] == ["d.obj: broken"]
    assert [path[-5:] for path in first.asked].count("d.obj") == 3  # as often as asked, and once before
    (meshes / "b.obj").write_text("other")
    (meshes / "d.obj").write_text("mended")
    (meshes / "e.obj").write_text("new")
    second = Here(make)
    report = fleet(find_items(str(meshes)), tmp_path / "out", second, retries=2)
    assert sorted(path[-5:] for path in second.asked) == ["b.obj", "d.obj", "e.obj"]
    assert (report["done"], report["kept"], report["failed"]) == (5, 2, 0)
    third = Here(make)
    fleet(find_items(str(meshes)), tmp_path / "out", third, {**SCENE, "seed": 1})
    assert len(third.asked) == 5
    held = [
        table(Place(tmp_path / "out"), name, pa.schema([("id", pa.string())]))
        for name in Place(tmp_path / "out").names("data")
    ]
    assert sorted(i for one in held for i in one["id"].to_pylist()) == [f"{n}.obj" for n in "abcde"]


def test_ctrl_c_leaves_what_is_done(tmp_path):
    items = find_items("family:chairs:0-9")
    with pytest.raises(KeyboardInterrupt):
        fleet(items, tmp_path / "out", Here(knot, dies_after=4), chunk=1)
    assert len(sf.FieldSet(tmp_path / "out")) == 4
    second = Here(knot)
    assert fleet(items, tmp_path / "out", second)["done"] == 10
    assert len(second.asked) == 6


def test_killed_between_two_writes(tmp_path, monkeypatch):
    """A shard is there, the manifest is not, and the parts still are: nothing is lost, and nothing is there twice."""
    items = find_items("family:chairs:0-3")

    def dies(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FleetStore, "_write_manifest", dies)
        with pytest.raises(KeyboardInterrupt):
            fleet(items, tmp_path / "out", Here(knot))
    assert len(Place(tmp_path / "out").names("data")) == 1
    again = Here(knot)
    assert fleet(items, tmp_path / "out", again)["done"] == 4 and not again.asked
    (name,) = Place(tmp_path / "out").names("data")
    assert pq.read_table(tmp_path / "out" / name).num_rows == 4


def test_items_of_their_own_settings(tmp_path):
    seen = []
    items = [Item("a", "family:knot:1", {"field.width": 24, "training.steps": "7"}, 5), Item("b", "family:knot:2")]
    fleet(items, tmp_path / "out", Here(lambda request: seen.append(request["scene"]) or ok(b"x")))
    assert seen == [{"kind": "shape", "training": {"steps": 7}, "field": {"width": 24}, "seed": 5}, SCENE]


def test_outputs_that_are_not_this_fleets(tmp_path):
    out = tmp_path / "out"
    fleet(find_items("family:chairs:0-3"), out, Here(knot))
    with pytest.raises(SinefieldError, match="another fleet: it has chair-0"):
        fleet(find_items("family:vases:0-3"), out, Here(knot))
    with pytest.raises(SinefieldError, match="of kind shape"):
        fleet([Item("a", "b")], out, Here(knot), {**SCENE, "kind": "image"})
    assert len(sf.FieldSet(out)) == 4
    fleet(find_items("family:vases:0-1"), out, Here(knot), overwrite=True)
    assert sf.FieldSet(out).ids == ["vase-0", "vase-1"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(SinefieldError, match="other things"):
        fleet(find_items("family:vases:0-1"), tmp_path / "full", Here(knot))
    with pytest.raises(SinefieldError, match="no fleet"):
        sf.FieldSet(tmp_path / "full")
    (out / "manifest.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(SinefieldError, match="damaged"):
        sf.FieldSet(out)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    items, written = find_items("family:chairs:0-9"), []
    honest = place.write_bytes

    def full(path, content):
        if len(written) >= 3:
            raise SinefieldError(f"{path}: the disk is full; free some space and run again")
        written.append(path)
        honest(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(place, "write_bytes", full)
        patch.setattr(store, "FLUSH_ROWS", 3)
        with pytest.raises(SinefieldError, match="disk is full"):
            fleet(items, tmp_path / "out", Here(knot), chunk=1)
    again = Here(knot)
    assert fleet(items, tmp_path / "out", again)["done"] == 10
    assert len(again.asked) == 4  # two parts of three were written, after fleet.json


def test_one_process_writes_at_a_time(tmp_path):
    first = FleetStore(str(tmp_path / "out"))
    first.begin("shape")
    with pytest.raises(SinefieldError, match="another process"):
        FleetStore(str(tmp_path / "out")).begin("shape")
    first.close()


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    fleet(find_items("family:chairs:0-0"), tmp_path / "out", Here(knot))
    rows = pq.read_table(tmp_path / "out/manifest.parquet")
    column = rows.schema.get_field_index("shard")
    pq.write_table(rows.set_column(column, "shard", pa.array(["../secret.parquet"])), tmp_path / "out/manifest.parquet")
    with pytest.raises(SinefieldError, match="no shard"):
        sf.FieldSet(tmp_path / "out").content(0)


def test_examples_in_the_docstring_of_a_field_set(tmp_path, monkeypatch):
    import doctest

    from sinefield import field_set

    monkeypatch.chdir(tmp_path)
    fleet(find_items("family:chairs:0-12"), tmp_path / "fleets" / "chairs", Here(knot))
    found = doctest.testmod(field_set)
    assert found.attempted >= 6 and found.failed == 0


def test_a_store_that_is_no_folder(tmp_path):
    held = Place("memory://fleets/a")
    held.write("data/x", b"1")
    held.write("data/x", b"22")
    assert (held.read("data/x"), held.names("data"), held.names("none")) == (b"22", ["data/x"], [])
    held.remove("data/x")
    assert not held.has("data/x")
    with pytest.raises(SinefieldError, match="memory://fleets/a"):
        held.read("data/x")
    report = fleet(find_items("family:chairs:0-2"), "memory://fleets/b", Here(knot))
    assert report["done"] == 3 and len(sf.FieldSet("memory://fleets/b")) == 3
    with pytest.raises(SinefieldError, match="nonsense"):
        Place("nonsense://a/b")


def test_a_scene_says_no_path(tmp_path):
    scene = write(tmp_path / "s.yaml", "kind: shape\ndata:\n  path: a.obj\ntraining:\n  steps: 3\n")
    assert load_scene(scene, {"field.width": "12"}) == {
        "kind": "shape",
        "data": {},
        "training": {"steps": 3},
        "field": {"width": 12},
    }
    with pytest.raises(SinefieldError, match="leave it out"):
        load_scene(scene, {"data.path": "x"})


# ---- one item apart


def test_an_item_has_its_limits(ball):
    with Apart(warm=False) as apart:
        assert apart.do({"do": "nothing"}, 64, 60.0)[0]["status"] == "ok"
        request = {"do": "fit", "scene": SCENE, "path": "x.obj", "max_bytes": 2000, "packing": 1.0, "resize": True}
        late, _ = apart.do(request, 4096, 0.01)
        assert late["status"] == "failed" and "longer than 0.01 s" in late["error"]
        small, _ = apart.do(request | {"path": str(ball)}, 8, 60.0)
        assert small["status"] == "failed" and "8 MiB" in small["error"]
        first = apart.process.pid
        apart.process.kill()
        assert apart.do({"do": "nothing"}, 64, 60.0)[0]["status"] == "ok" and apart.process.pid != first


def test_the_manifest_needs_its_columns(tmp_path):
    Place(tmp_path).write("x.parquet", _parquet({"id": ["a"]}))
    with pytest.raises(SinefieldError, match=r"x\.parquet is damaged"):
        table(Place(tmp_path), "x.parquet", pa.schema([("id", pa.string()), ("status", pa.string())]))
    assert MARK == "fleet.json"


def _parquet(columns):
    sink = BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
