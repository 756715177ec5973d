"""What is done for one item: its data read, a field trained and packed, the packed field scored."""

import base64
import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sinefield.adapters.codes import to_packed_code
from sinefield.compress.container import encode
from sinefield.config import Config, make_config
from sinefield.data.made.families import make_shape
from sinefield.data.shape_sets import solid_of_shape
from sinefield.data.surfaces.sampling import samples_not_stored
from sinefield.data.surfaces.surface import Surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of
from sinefield.fields.shared.field import SharedConfig, SharedField
from sinefield.files import read_bytes, scratch_folder, write_bytes
from sinefield.fleet.items import FAMILY
from sinefield.learning.pack import pack
from sinefield.learning.shared import fit_code, samples_of
from sinefield.learning.small import fit_small
from sinefield.learning.train import train
from sinefield.store.fields import load_field

MAX_INPUT = 4 << 30
"""Bytes of one item's file."""
BITS = 8
"""Of a field without a number of bytes to keep to."""


class Made(NamedTuple):
    """What became of an item.

    Attributes:
        content: of its `.sine` file; empty where it failed.
        scores: by name, the main one first.
        parts: CPU seconds by part of the work.
    """

    content: bytes
    scores: dict[str, float]
    parts: dict[str, float]


def make_item(scene: dict[str, Any], path: str, max_bytes: int | None, packing: float, resize: bool) -> Made:
    """Make one item's field: the same bytes wherever it runs, on the same kind of machine.

    Arguments:
        scene: a scene file's content, with the item's own settings and seed in it.
        path: of its data; see `items.Item`.
        max_bytes: the file's size at most; 8 bits a number when None.
        packing: steps with rounded weights, in times of those of training.
        resize: choose the network by the bytes.

    Raises:
        SinefieldError: whatever is wrong with the data or the settings.
    """
    torch.set_num_threads(1)
    begin = time.process_time()
    with scratch_folder() as folder, samples_not_stored():
        place = _fetched(path, folder)
        config = make_config({**scene, "data": {**scene.get("data", {}), "path": place}}, "scene")
        kind = kind_of(config)
        if max_bytes is None or kind.has_photographs or not kind.trains_rounded:
            return _by_run(config, max_bytes, packing, folder)
        data = _family(path) if path.startswith(FAMILY) else kind.read(config)
        read = time.process_time()
        small = fit_small(config, data, max_bytes, packing, resize)
        done = time.process_time()
        scores = _scores(small.content, data, folder / "made.sine")
        parts = {"input": read - begin, **small.seconds, "score": time.process_time() - done}
    return Made(small.content, scores, {name: round(value, 3) for name, value in parts.items()})


def make_code(scene: dict[str, Any], path: str, base: str) -> Made:
    """Find one item's code, with the network that its set shares as it is.

    Arguments:
        scene, path: see `make_item`; the scene is of kind shared.
        base: content of the base's file, in base64.

    Raises:
        SinefieldError: whatever is wrong with the data, the settings or the base.
    """
    torch.set_num_threads(1)
    begin = time.process_time()
    with scratch_folder() as folder, samples_not_stored():
        file, made = folder / "base.sine", folder / "made.sine"
        file.write_bytes(base64.b64decode(base))
        field, _ = load_field(file)
        assert isinstance(field, SharedField)  # the command has seen to it
        config, data = _shared_data(scene, path, folder)
        read = time.process_time()
        samples = samples_of(data, config)
        drawn = time.process_time()
        levels = fit_code(field, samples, config.training, config.seed)
        content = encode(to_packed_code(field, levels, data.aabb))
        done = time.process_time()
        made.write_bytes(content)
        shape, _ = load_field(file, [made])
        kind = kind_of(shape)
        scores = {kind.score: round(kind.quick_quality(shape, data), 5)}
    parts = {"input": read - begin, "points": drawn - read, "code": done - drawn, "score": time.process_time() - done}
    return Made(content, scores, {name: round(value, 3) for name, value in parts.items()})


def sample_item(scene: dict[str, Any], path: str) -> bytes:
    """One item's labelled points for a shared network: x, y, z, distance of all of them, float32."""
    with scratch_folder() as folder, samples_not_stored():
        config, data = _shared_data(scene, path, folder)
        points, values = samples_of(data, config)
        return np.concatenate([points[0].T, values]).astype(np.float32).tobytes()


def _shared_data(scene: dict[str, Any], path: str, folder: Path) -> tuple[SharedConfig, Surface]:
    place = _fetched(path, folder)
    config = make_config({**scene, "data": {**scene.get("data", {}), "path": place}}, "scene")
    assert isinstance(config, SharedConfig)  # the command has seen to it
    return config, _family(path) if path.startswith(FAMILY) else kind_of(config).read(config)


def _scores(content: bytes, data: Any, file: Path) -> dict[str, float]:
    """Of the field as whoever opens the file will have it."""
    file.write_bytes(content)
    field, _ = load_field(file)
    kind = kind_of(field)
    return {kind.score: round(kind.quick_quality(field, data), 5)}


def _by_run(config: Config, max_bytes: int | None, packing: float, folder: Path) -> Made:
    """The longer way, by a run folder: other kinds of field, and those without a number of bytes."""
    if config.training.steps is None:
        raise SinefieldError("a fleet counts steps, so that results repeat; give --training.steps")
    begin = time.process_time()
    report = train(config, folder / "run")
    trained = time.process_time()
    size: dict[str, Any] = {"bits": BITS} if max_bytes is None else {"max_bytes": max_bytes}
    steps = round(packing * config.training.steps)
    pack(folder / "run", folder / "a.sine", **size, steps=steps)
    content = read_bytes(folder / "a.sine", MAX_INPUT)
    score = kind_of(config).score
    parts = {"training": trained - begin, "packing": time.process_time() - trained}
    return Made(content, {score: report[score]}, {name: round(value, 3) for name, value in parts.items()})


def _family(path: str) -> Any:
    _, family, seed = path.split(":")
    return solid_of_shape(make_shape(family, int(seed))).surface


def _fetched(path: str, folder: Path) -> str:
    """A path on this machine; what a URL names is copied into the folder first."""
    if "://" not in path:
        return path
    name = folder / path.rstrip("/").rpartition("/")[2]
    write_bytes(name, _content(path))
    return str(name)


def _content(path: str) -> bytes:
    if "://" not in path:
        return read_bytes(path, MAX_INPUT, "item")
    import fsspec

    try:
        store, place = fsspec.core.url_to_fs(path)
        content = store.cat_file(place, end=MAX_INPUT + 1)
    except Exception as error:  # each store has errors of its own
        raise SinefieldError(f"{path}: cannot be read ({str(error)[:200]}); check its name and rights") from error
    if len(content) > MAX_INPUT:
        raise SinefieldError(f"{path}: larger than {MAX_INPUT >> 30} GiB; this is no item")
    return content


def content_mark(path: str) -> str:
    """What changes when an item's input does: a hash of its content, or the name of a procedural shape.

    Raises:
        SinefieldError: it cannot be read.
    """
    if path.startswith(FAMILY):
        return path
    if "://" not in path and Path(path).is_dir():  # photographs: names, sizes and content of all files
        files = sorted(p for p in Path(path).rglob("*") if p.is_file())
        parts = [f"{p.relative_to(path)} {content_mark(str(p))}" for p in files]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return hashlib.blake2b(_content(path), digest_size=16).hexdigest()
