"""A number of bytes decides the rest: the size of the network, how it is packed, and whether a mesh says it better."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import kind_of, read_data
from sinefield.files import check_output, read_bytes, scratch_folder, write_bytes
from sinefield.learning.pack import check_packing, pack
from sinefield.learning.pack_mesh import MeshSearch, mesh_note, why_no_mesh, write_mesh
from sinefield.learning.train import train
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.team import ALONE, Team

SIZES, BITS = (2000, 3774, 6861), (5.2, 5.85, 6.08)
"""Bytes, and bits a number of the networks that serve them best: of the seven meshes of docs/results/rate_shapes.md."""
RANKS = (90, 8, 12)
"""Width from which the higher rank is taken, the lower and the higher one; there too."""
HEAD = 60
"""Bytes of a file beside its network."""
NARROWEST, WIDEST = 8, 512
LEAST_TABLE, TABLE_BITS = 6, 4.0
"""Logarithm of the fewest entries of a feature grid's table, and bits a number of a field with such grids."""
THIN = 4.0
"""Bits a number below which a narrower network is tried: at 2.3 and 2.8 bits the armadillo had 0.005 and 0.014 less IoU
than networks of equal bytes and more bits (the rows *wide* of docs/results/rate_shapes.md)."""
LEVEL = 0.001
"""IoU by which a mesh must be better than a field: a field is smooth, and its gradient is known everywhere."""
CHOSEN = ("width", "rank", "depth", "weights", "encoding")
"""Settings that say how large a network is; where one of them is given, all stay as they are."""
PACKING = 2.0
"""Training with rounded weights, in times of training itself."""


def sized(config: Config, max_bytes: int) -> Config:
    """The settings with the width and rank, or of feature grids the tables, that serve a file of so many bytes.

    Raises:
        SinefieldError: not even the narrowest network fits; the least that does is said.
    """
    if not hasattr(config.field, "width"):
        return config
    if getattr(config.field, "encoding", "frequency") == "hash":
        tables = range(LEAST_TABLE, config.field.log2_table + 1)
        bits, sizes = TABLE_BITS, (_with_table(config, size) for size in tables)
    else:
        bits = float(np.interp(math.log(max_bytes), np.log(SIZES), BITS)) if max_bytes > 0 else BITS[0]
        sizes = (_as_wide(config, width) for width in range(NARROWEST, WIDEST + 1, 2))
    beside, best = HEAD + kind_of(config).beside, None
    for tried in sizes:
        least = math.ceil(_numbers(tried) * bits / 8 + beside)
        if best is None and least - kind_of(config).beside > max_bytes:  # what lies beside may be less
            raise SinefieldError(
                f"--max-bytes {max_bytes}: the smallest field of kind {config.kind} takes about {least} bytes; "
                "give at least that"
            )
        if best is not None and least > max_bytes:
            break
        best = tried
    return best or config


def _with_table(config: Config, log2_table: int) -> Config:
    return replace(config, field=replace(config.field, log2_table=log2_table))


def _as_wide(config: Config, width: int) -> Config:
    above, low, high = RANKS
    changed: dict[str, Any] = {"width": width}
    if config.field.weights != "dense":
        changed["rank"] = min(low if width < above else high, width)
    return replace(config, field=replace(config.field, **changed))


def _numbers(config: Config) -> int:
    return sum(math.prod(shape) for shape in kind_of(config).shapes(config.field).values())


def train_to_size(
    config: Config,
    out: str | Path,
    max_bytes: int,
    sized_by: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    full_scores: bool = False,
    team: Team = ALONE,
) -> dict[str, Any]:
    """Train a field that suits a number of bytes, and write it beside its run, as a file of at most so many.

    Of a closed mesh without colours the file holds a decimated, optimised mesh instead where that is better by more
    than `LEVEL` of IoU, on held-out points that are not those reported. The run is there either way.

    Arguments:
        out: the run folder; the file has its name and .sine.
        sized_by: a setting of `CHOSEN` that was given, which keeps the network as it is.
        team: the processes that train; the leader alone packs.

    Returns:
        the report of `train`, and `packed`: file, kind, bytes, the score, and as `instead` the kind, bytes and score of
        what was not chosen, where there was a choice.

    Raises:
        SinefieldError: too few bytes; see `train` and `learning.pack.pack`.
        Interrupted: stopped by a signal; the state is saved.
    """
    file = Path(f"{out}.sine")
    with team.together():
        if team.leads:
            check_output(file, overwrite)
        if sized_by is None:
            config = sized(config, max_bytes)
    report = train(config, out, resume, overwrite, full_scores, team)
    if not team.leads:
        return report
    training = config.training
    given: dict[str, Any] = {"seconds": PACKING * (training.seconds or 0)}
    given["steps"] = None if training.steps is None else round(PACKING * training.steps)
    return report | {"packed": packed_best(out, file, max_bytes, overwrite=overwrite, **given)}


def packed_best(
    run: str | Path, out: Path, max_bytes: int, seconds: float, steps: int | None, overwrite: bool = False
) -> dict[str, Any]:
    """Pack a run to a size, and put a mesh in its place where that is better; see `train_to_size`."""
    config = Run(run).config()
    kind, data = kind_of(config), read_data(config)
    if kind.shows != "surface" or kind.score != "iou" or why_no_mesh(data):
        made = pack(run, out, max_bytes=max_bytes, seconds=seconds, steps=steps, overwrite=overwrite)
        return {"file": str(out), "kind": config.kind, "bytes": made["bytes"], kind.score: made[kind.score]}
    with scratch_folder() as folder:
        file = folder / "field.sine"
        made = pack(run, file, max_bytes=max_bytes, seconds=seconds, steps=steps)
        found, field_judged = None, 0.0
        try:
            search = MeshSearch(data, max_bytes, mesh_note(config.data.path), config.seed)
            found, field_judged = search.run(), search.judge(load_field(file)[0])
        except SinefieldError as error:
            print(f"note: no mesh was tried: {error}", file=sys.stderr)
        mesh = {"kind": "mesh", "bytes": len(found.content), "iou": found.judged} if found else None
        if found is None or found.judged <= field_judged + LEVEL:
            write_bytes(out, read_bytes(file, max_bytes, "packed field"), overwrite)
            chosen = {"file": str(out), "kind": config.kind, "bytes": made["bytes"], "iou": made["iou"]}
            return chosen if mesh is None else chosen | {"instead": mesh}
    note = {**mesh_note(config.data.path), "field": round(field_judged, 4)}
    size, after = write_mesh(out, found.field, data, note, overwrite)
    other = {"kind": config.kind, "bytes": made["bytes"], "iou": field_judged}
    return {"file": str(out), "kind": "mesh", "bytes": size, "iou": after, "instead": other}


def pack_to_size(run: str | Path, out: str | Path, max_bytes: int, seconds: float, steps: int | None, **given: Any):
    """`pack` to a number of bytes; where they are few for the run's network, a narrower one is trained as well, on the
    same data, in two thirds of the time, and the better file is kept.

    Returns:
        the report of `pack`; its `narrower` says of how many numbers the narrower network was, if it was kept.
    """
    source = Run(run)
    config = source.config()
    field, _ = load_field(source.folder)
    numbers = sum(p.numel() for p in field.parameters())
    few = numbers and max_bytes * 8 / numbers < THIN and kind_of(config).trains_rounded
    narrow = sized(config, max_bytes) if few else config
    if not is_sine(out) or narrow is config or not (seconds or steps) or _numbers(narrow) >= numbers:
        return pack(run, out, max_bytes=max_bytes, seconds=seconds, steps=steps, **given)
    over = given.get("overwrite", False)
    check_packing(Path(out), None, max_bytes, None, given.get("quantiser", "uniform"), seconds, steps, over)
    seconds, steps = seconds / 3, None if steps is None else max(steps // 3, 1)
    data = given.get("data")
    if data is not None:
        narrow = replace(narrow, data=replace(narrow.data, path=data))
    training = replace(narrow.training, seconds=seconds or None, steps=steps)
    with scratch_folder() as folder:
        made, judged = [], []
        smaller = folder / "run"
        train(replace(narrow, training=training), smaller)
        judge = kind_of(narrow).judge(read_data(narrow), apart=False)[1]
        for place, name in ((source.folder, "own.sine"), (smaller, "narrower.sine")):
            try:
                made.append(pack(place, folder / name, max_bytes=max_bytes, seconds=seconds, steps=steps, data=data))
            except SinefieldError:
                if name != "own.sine":
                    raise
                continue  # the run's network does not fit at all
            judged.append(judge(load_field(folder / name)[0]))
        best = made[judged.index(max(judged))]
        write_bytes(Path(out), read_bytes(best["out"], max_bytes, "packed field"), over)
    report = {**best, "run": str(source.folder), "out": str(out), "float_bytes": source.field_path.stat().st_size}
    return report | ({"narrower": best["params"]} if best is made[-1] else {})
