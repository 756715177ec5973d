"""Fleets on Ray: a machine, a cluster that loses a node, a store on S3, bad addresses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray", reason="ray is not installed; pip install 'sinefield[fleet]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'sinefield[fleet]'")

import sinefield as sf
from sinefield.errors import SinefieldError
from sinefield.fleet.cluster import Cluster, Unlike, do_items
from sinefield.fleet.items import find_items
from sinefield.fleet.run import Plan, prepare, run_fleet
from sinefield.fleet.store import FleetStore, versions

SMALL = {
    "kind": "shape",
    "data": {"points": 4000},
    "field": {"width": 12, "rank": 4},
    "training": {"steps": 20, "batch": 512},
}


def fleet(items, out, plan, **cluster):
    store = FleetStore(str(out))
    try:
        prepare(items, plan, store)
        with Cluster(**cluster) as found:
            return run_fleet(items, plan, store, found, "a fleet")
    finally:
        store.close()


def contents(out):
    fields = sf.FieldSet(out)
    return {name: fields.content(name) for name in fields.ids}


@pytest.mark.parametrize(
    ("address", "said"), [("nobody", "HOST:PORT"), ("127.0.0.1:1", "does not answer"), ("ray://127.0.0.1:1", "answer")]
)
def test_an_address_that_does_not_answer(address, said):
    with pytest.raises(SinefieldError, match=said):
        Cluster(address)


def test_a_node_with_other_versions_is_refused():
    with pytest.raises(Unlike, match=r"torch .* instead of 0\.1"):
        do_items([], 100, 1.0, {**versions(), "torch": "0.1"})


@pytest.mark.slow
def test_the_command(tmp_path):
    """From the command line, with a hostile item, and killed in the middle; the same command goes on."""
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    (meshes / "broken.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    rows = [{"id": f"blob-{i}", "path": f"family:blob:{i}"} for i in range(5)]
    rows.append({"id": "broken", "path": "meshes/broken.obj"})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "scene.yaml").write_text(json.dumps(SMALL))
    command = [sys.executable, "-m", "sinefield", "fleet", str(tmp_path / "scene.yaml"), str(tmp_path / "m.jsonl")]
    command += ["--out", str(tmp_path / "out"), "--max-bytes", "1200", "--cores", "2", "--json", "--retries", "0"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while first.poll() is None and not list((tmp_path / "out").glob("parts/*")):
        time.sleep(0.2)
    first.kill()
    first.communicate()
    before = contents(tmp_path / "out")
    done = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["done"], report["failed"]) == (5, 1)
    assert report["kept"] >= len(before)
    assert "broken" in report["errors"][0] and "Traceback" not in done.stderr
    after = contents(tmp_path / "out")
    assert before.items() <= after.items() and len(after) == 5
    assert all(len(content) <= 1200 for content in after.values())
    assert sf.FieldSet(tmp_path / "out")[0].kind == "shape"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_loses_a_node(tmp_path):
    """Three nodes, one killed in the middle: every item once, with the bytes of a quiet run."""
    from ray.cluster_utils import Cluster as Nodes

    items, plan = find_items("family:all:0-0"), Plan(SMALL, max_bytes=1200)
    fleet(items, tmp_path / "quiet", plan, cores=2)
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    lost = nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    store = FleetStore(str(tmp_path / "out"))
    try:
        prepare(items, plan, store)
        with Cluster(nodes.address) as cluster:
            settle, seen = store.add, []

            def add(result):
                settle(result)
                seen.append(result.row["id"])
                if len(seen) == 2:
                    nodes.remove_node(lost, allow_graceful=False)

            store.add = add
            report = run_fleet(items, plan, store, cluster, "a fleet")
    finally:
        store.close()
        nodes.shutdown()
    assert sorted(seen) == sorted(item.id for item in items)
    assert (report["done"], report["failed"]) == (len(items), 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_whose_driver_is_killed_and_that_loses_a_node(tmp_path):
    """Three nodes; the driver killed after a shard, a node in the next run: every item once, as in a quiet run."""
    import pyarrow.parquet as pq
    from ray.cluster_utils import Cluster as Nodes

    items = find_items("family:all:0-1")
    fleet(items, tmp_path / "quiet", Plan(SMALL, max_bytes=1200), cores=2)
    (tmp_path / "scene.yaml").write_text(json.dumps(SMALL))
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    lost = nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    command = [sys.executable, "-m", "sinefield", "fleet", str(tmp_path / "scene.yaml"), "family:all:0-1"]
    command += ["--out", str(tmp_path / "out"), "--max-bytes", "1200", "--address", nodes.address, "--json"]

    def run_until(shards):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(list((tmp_path / "out").glob("parts/*"))) < shards:
            time.sleep(0.1)
        assert process.poll() is None, process.communicate()[1]
        return process

    try:
        first = run_until(1)
        first.kill()
        first.communicate()
        before = contents(tmp_path / "out")
        assert 0 < len(before) < len(items)
        second = run_until(len(list((tmp_path / "out").glob("parts/*"))) + 1)
        nodes.remove_node(lost, allow_graceful=False)
        told, errors = second.communicate()
    finally:
        nodes.shutdown()
    assert second.returncode == 0, errors
    report = json.loads(told.splitlines()[-1])
    assert (report["done"], report["failed"], report["kept"]) == (len(items), 0, len(before))
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")
    ids = pq.read_table(tmp_path / "out" / "manifest.parquet", columns=["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(item.id for item in items)


@pytest.fixture
def bucket(monkeypatch):
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("flask", reason="moto's server needs flask")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    running = server.ThreadedMotoServer("127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_fleet_on_s3(bucket, monkeypatch):
    from test_fleet import Here, knot

    items = find_items("family:chairs:0-4")
    for n in (3, 5):  # interrupted and taken up again
        store = FleetStore(f"{bucket}/fleets/chairs")
        prepare(items[:n], Plan(SMALL), store)
        report = run_fleet(items[:n], Plan(SMALL), store, Here(knot), "chairs")
    assert (report["done"], report["kept"]) == (5, 3)
    fields = sf.FieldSet(f"{bucket}/fleets/chairs")
    assert fields.ids == [f"chair-{i}" for i in range(5)]
    assert fields.content(4) == sf.example("knot").read_bytes()
    with pytest.raises(SinefieldError, match="s3://nobucket"):
        FleetStore("s3://nobucket/a").begin("shape")

    def refused(*_args, **_kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(store.place.store, "pipe_file", refused)
    with pytest.raises(SinefieldError, match=r"s3://bucket/fleets/chairs: cannot be written \(Access Denied\)"):
        store.place.write("x", b"1")


@pytest.mark.slow
def test_ctrl_c(tmp_path):
    (tmp_path / "scene.yaml").write_text(json.dumps({**SMALL, "training": {"steps": 60, "batch": 512}}))
    command = [sys.executable, "-m", "sinefield", "fleet", str(tmp_path / "scene.yaml"), "family:blobs:0-199"]
    command += ["--out", str(tmp_path / "out"), "--max-bytes", "1200", "--cores", "1"]
    # Where the tests run in the background, the shell has them ignore the signal.
    given = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **given)
    while process.poll() is None and not list((tmp_path / "out").glob("parts/*")):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    assert len(sf.FieldSet(tmp_path / "out")) > 0
