"""A number of bytes decides the rest: the size of the network, how it is packed, and whether a mesh says it better."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinefield.compress.quantize import Quantiser
from sinefield.config import Config
from sinefield.errors import SinefieldError, harmless
from sinefield.fields.base import kind_of, read_data
from sinefield.files import check_output, read_bytes, scratch_folder, write_bytes
from sinefield.learning.pack import Packer, check_packing, here, pack, packed_report, usual_steps
from sinefield.learning.pack_mesh import MeshSearch, mesh_note, why_no_mesh, write_mesh
from sinefield.learning.refine import Budget, check_effort
from sinefield.learning.sizes import numbers_of, sized
from sinefield.learning.train import train, train_unscored
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.team import ALONE, Team

THIN, SPARSE = 4.0, 3.0
"""Bits a number below which a narrower network is tried, and below which a shape's takes the place of the run's: at 2.3
and 2.8 bits the armadillo had 0.005 and 0.014 less IoU than networks of equal bytes and more bits (the rows *wide* of
docs/results/rate_shapes.md)."""
TRAINED = 0.2
"""Share of the steps of packing that a narrower network is trained for, before the others with rounded weights. Spot in
4,000 bytes and 1,500 steps has IoU 0.9946 so; with a third, and twice the usual rates in place of thrice, 0.9939."""
LEVEL = 0.001
"""IoU by which a mesh must be better than a field: a field is smooth, and its gradient is known everywhere."""
CHOSEN = ("width", "rank", "depth", "weights", "encoding")
"""Settings that say how large a network is; where one of them is given, all stay as they are."""
PACKING = 2.0
"""Steps with rounded weights, in times of those of a training that counts steps."""


def train_to_size(
    config: Config,
    out: str | Path,
    max_bytes: int,
    sized_by: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    full_scores: bool = False,
    team: Team = ALONE,
    effort: float | None = None,
) -> dict[str, Any]:
    """Train a field that suits a number of bytes, and write it beside its run, as a file of at most so many.

    Of a closed mesh without colours the file holds a decimated, optimised mesh instead where that is better by more
    than `LEVEL` of IoU, on held-out points that are not those reported. The run is there either way.

    Arguments:
        out: the run folder; the file has its name and .sine.
        sized_by: a setting of `CHOSEN` that was given, which keeps the network as it is.
        team: the processes that train; the leader alone packs.
        effort: of packing, see `learning.pack.pack`; when None and training counts steps, twice as many as these.

    Returns:
        the report of `train`, and `packed`: file, kind, bytes, the score, and as `instead` the kind, bytes and score of
        what was not chosen, where there was a choice.

    Raises:
        SinefieldError: too few bytes; see `train` and `learning.pack.pack`.
        Interrupted: stopped by a signal; the state is saved.
    """
    file = Path(f"{out}.sine")
    with team.together():
        check_effort(effort)
        if team.leads:
            check_output(file, overwrite)
        if sized_by is None:
            config = sized(config, max_bytes)
    report = train(config, out, resume, overwrite, full_scores, team)
    if not team.leads:
        return report
    steps = config.training.steps
    steps = round(PACKING * steps) if steps is not None and effort is None else None
    return report | {"packed": packed_best(out, file, max_bytes, steps, effort, overwrite)}


def packed_best(
    run: str | Path,
    out: Path,
    max_bytes: int,
    steps: int | None = None,
    effort: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Pack a run to a size, and put a mesh in its place where that is better; see `train_to_size`."""
    config = Run(run).config()
    kind, data = kind_of(config), read_data(config)
    if kind.shows != "surface" or kind.score != "iou" or why_no_mesh(data):
        made = pack(run, out, max_bytes=max_bytes, steps=steps, overwrite=overwrite, effort=effort)
        return {"file": str(out), "kind": config.kind, "bytes": made["bytes"], kind.score: made[kind.score]}
    with scratch_folder() as folder:
        file = folder / "field.sine"
        made = pack(run, file, max_bytes=max_bytes, steps=steps, effort=effort)
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


def pack_to_size(
    run: str | Path,
    out: str | Path,
    max_bytes: int,
    seconds: float | None = None,
    steps: int | None = None,
    effort: float | None = None,
    overwrite: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """`pack` to a number of bytes; where these are few for its network, a narrower one is trained on the same data.

    A shape's takes the place of the run's where the bytes are very few. Else both are packed, in twice the time, and
    the better is kept.

    Returns:
        the report of `pack`; its `narrower` says of how many numbers the narrower network is, where there is one.
    """
    told: dict[str, Any] = {"seconds": seconds, "steps": steps, "effort": effort, "overwrite": overwrite}
    check_packing(Path(out), None, max_bytes, None, given.get("quantiser", "uniform"), **told)
    source, begin = Run(run), time.perf_counter()
    config = here(source.config(), given.get("data"))
    kind, numbers = kind_of(config), numbers_of(config)
    budget = Budget.of(seconds, steps, effort, usual_steps(config))
    few = numbers and max_bytes * 8 / numbers < THIN and kind.trains_rounded and budget
    narrow = sized(config, max_bytes) if few else config
    if narrow is config or numbers_of(narrow) >= numbers:
        return pack(run, out, max_bytes=max_bytes, **told, **given)
    first, rest = budget.split(TRAINED)
    narrow = kind.packing(narrow, anew=True)
    training = replace(narrow.training, seconds=first.seconds or None, steps=first.steps)
    data = read_data(config)
    with scratch_folder() as folder:
        smaller = train_unscored(replace(narrow, training=training), data, folder / "run")
        packer = Packer(smaller, narrow, data)
        quantisers, own = packer.within(max_bytes, rest), False
        if kind.shows != "surface" or max_bytes * 8 / numbers >= SPARSE:
            packer, quantisers, own = _better(packer, quantisers, Packer(source, config, data), max_bytes, budget)
        after, size = packer.save(quantisers, out, overwrite)
    params = numbers if own else numbers_of(narrow)
    report = packed_report(source, Path(out), config, size, params, packer.before, after, begin)
    return report | ({} if own else {"narrower": params})


def _better(
    packer: Packer, quantisers: Mapping[str, Quantiser], own: Packer, max_bytes: int, budget: Budget
) -> tuple[Packer, Mapping[str, Quantiser], bool]:
    """What is judged better, the narrower field as it is packed or the run's own, and whether that is the own."""
    judged = packer.judged(quantisers)
    try:
        found = own.within(max_bytes, budget)
    except SinefieldError as error:  # it may not fit at all
        print(harmless(f"note: the run's own network was not packed: {error}"), file=sys.stderr)
        return packer, quantisers, False
    return (own, found, True) if own.judged(found) > judged else (packer, quantisers, False)


def pack_run(
    run: str | Path,
    out: str | Path,
    bits: int | None = None,
    max_bytes: int | None = None,
    min_quality: float | None = None,
    **given: Any,
) -> dict[str, Any]:
    """What `sinefield pack` does with a run: `pack_to_size` where a size alone is asked for, else `pack`."""
    if max_bytes is not None and bits is None and min_quality is None:
        return pack_to_size(run, out, max_bytes, **given)
    return pack(run, out, bits, max_bytes, min_quality, **given)
