"""Reading files: what is no file is refused without waiting, what was read no longer depends on the file."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from small import shape_config

import sinefield as sf
from sinefield.adapters.file import load_adapter
from sinefield.cameras.path_files import read_camera_path
from sinefield.config import load_config
from sinefield.data.photographs.images import load_posed
from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.field import RadianceField
from sinefield.files import read_bytes, read_text
from sinefield.json_text import finite_number, from_json, to_json
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.tensor_bytes import read_arrays
from sinefield.tensor_files import load_tensors, save_tensors


def one_line(refusal):
    text = str(refusal.value)
    assert text.isprintable() and len(text) < 600


# ---- the opener


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def holes(path):
    path.touch()
    os.truncate(path, 200 << 20)


def empty(path):
    path.touch()


OTHERS = {"pipe": pipe, "device": device, "folder": folder, "holes": holes, "empty": empty}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    OTHERS[kind](tmp_path / "a")
    with pytest.raises(SinefieldError) as refusal:
        read_bytes(tmp_path / "a", 1 << 40)
    one_line(refusal)


def test_content_and_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfname\r\n")
    assert read_bytes(tmp_path / "a", 9) == b"\xef\xbb\xbfname\r\n"
    assert read_text(tmp_path / "a", 9) == "name\r\n"
    with pytest.raises(SinefieldError, match="larger than 8 bytes"):
        read_bytes(tmp_path / "a", 8)
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(SinefieldError, match="UTF-8"):
        read_text(tmp_path / "b", 8)
    assert read_text(tmp_path / "b", 8, errors="replace") == "\ufffd"


READERS = {
    "a.yaml": load_config,
    "a.json": read_camera_path,
    "transforms.json": load_posed,
    "a.obj": read_shape,
    "a.sine": load_field,
    "a.safetensors": load_field,
    "b.sine": load_adapter,
    "b.safetensors": load_adapter,
}


@pytest.mark.parametrize("kind", ["pipe", "device", "holes"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_asks_the_opener(tmp_path, name, kind):
    OTHERS[kind](tmp_path / name)
    with pytest.raises(SinefieldError) as refusal:
        READERS[name](tmp_path if name == "transforms.json" else tmp_path / name)
    one_line(refusal)


# ---- copied on load


def test_a_loaded_field_outlives_its_file(ball_run, tmp_path):
    file = tmp_path / "field.safetensors"
    file.write_bytes((ball_run[0] / "field.safetensors").read_bytes())
    (field, _), shape = load_field(file), sf.load(file)
    before = {name: tensor.clone() for name, tensor in field.state_dict().items()}
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    distances = shape.sdf(points)
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(b"\x55" * (size - size // 2))
    os.truncate(file, 100)
    assert all(torch.equal(tensor, before[name]) for name, tensor in field.state_dict().items())
    assert np.array_equal(shape.sdf(points), distances)


def test_a_network_is_not_asked_while_it_is_read(monkeypatch):
    """A radiance field's solid cells follow from its density: a file of a few bytes may hold a very wide network."""
    with monkeypatch.context() as patch:
        patch.setattr(RadianceField, "density", None)
        field = load_field("example:toys")[0]
    assert field.grid.later is not None and not field.grid.solid.any()
    other = load_field("example:toys")[0]
    other.find_solid()
    assert other.grid.solid.any() and other.grid.later is None
    assert torch.equal(field.state_dict()["grid.solid"], other.grid.solid)
    assert torch.equal(field.grid.occs, other.grid.occs)


def test_tensors_of_a_file_cut_short_after_loading(tmp_path):
    code = """
import os, sys
from sinefield.tensor_bytes import read_arrays
from sinefield.tensor_files import load_tensors
tensors, _ = load_tensors(sys.argv[1], "field")
arrays, _ = read_arrays(sys.argv[1], "field")
os.truncate(sys.argv[1], 8)
print(float(tensors["a"].sum()), float(arrays["a"].sum()))
"""
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(300_000)}, {})
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.safetensors")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "300000.0 300000.0\n"), done.stderr


def test_what_is_no_safetensors_file(tmp_path):
    sound = save({"a": np.ones(3, np.float32)}, {"sinefield": "{}"})
    length = int.from_bytes(sound[:8], "little")
    odd = b'{"__metadata__":{"sinefield":5}}'
    wrong = [b"x", sound[:-1], sound[: length // 2], (1 << 62).to_bytes(8, "little") + sound[8:]]
    for data in [*wrong, len(odd).to_bytes(8, "little") + odd, sound.replace(b'"dtype"', b'"shape"')]:
        (tmp_path / "a.safetensors").write_bytes(data)
        with pytest.raises(SinefieldError, match="damaged") as refusal:
            load_tensors(tmp_path / "a.safetensors", "field")
        one_line(refusal)
        with pytest.raises(ValueError):
            read_arrays(tmp_path / "a.safetensors", "field")


# ---- JSON


WRONG = {
    "NaN": '{"a": NaN}',
    "infinity": "[-Infinity]",
    "400 digits": "[" + "9" * 400 + "]",
    "5000 digits": "[" + "9" * 5000 + "]",
    "a float beyond all": "[1e999]",
    "a key twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "cut short": '{"a": [1, 2',
}


@pytest.mark.parametrize("name", WRONG)
def test_json_that_is_refused(name):
    with pytest.raises(ValueError) as refusal:
        from_json(WRONG[name])
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("reader", ["path", "photographs", "report", "note"])
def test_every_json_file_is_read_strictly(tmp_path, reader, name):
    if reader == "path":
        (tmp_path / "a.json").write_text(WRONG[name])
        read = lambda: read_camera_path(tmp_path / "a.json")  # noqa: E731
    elif reader == "photographs":
        (tmp_path / "transforms.json").write_text(WRONG[name])
        read = lambda: load_posed(tmp_path)  # noqa: E731
    elif reader == "report":
        (tmp_path / "report.json").write_text(WRONG[name])
        read = Run(tmp_path).read_report
    else:
        (tmp_path / "a.safetensors").write_bytes(save({"a": np.ones(3)}, {"sinefield": WRONG[name]}))
        read = lambda: load_field(tmp_path / "a.safetensors")  # noqa: E731
    with pytest.raises(SinefieldError) as refusal:
        read()
    one_line(refusal)


def test_json_round_trip():
    value = {"a": [1, -2.5, None, True, "ü"], "b": {"c": 1 << 62}}
    assert from_json(to_json(value)) == value
    assert from_json(b"\xef\xbb\xbf[1]") == [1]
    assert from_json(str(1 << 64)) == 2.0**64 and isinstance(from_json(str(1 << 64)), float)


def test_what_is_not_finite_becomes_null():
    text = to_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": np.float64("nan")}, sort_keys=True)
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, [1.5, None]], "c": None}


def test_finite_numbers():
    assert [finite_number(value) for value in (2, 2.5, True, "2", None, math.inf, math.nan, 10**400)] == [
        *(2.0, 2.5),
        *[None] * 6,
    ]


def test_scores_that_are_not_finite_are_read_back(tmp_path, ball):
    run = Run.prepare(tmp_path / "run", shape_config(ball, steps=5))
    run.append_metrics({"step": 1, "loss": math.nan})
    assert run.read_metrics() == [{"step": 1, "loss": None}]
