"""A mesh of several parts into a folder of fields, one for each, trained and packed one after another."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinefield.config import Config
from sinefield.data.surfaces.split import part_surface, split_parts
from sinefield.errors import SinefieldError, harmless
from sinefield.files import check_output, scratch_beside, write_error
from sinefield.learning.budget import pack_run
from sinefield.learning.train import train
from sinefield.metrics import SCORES
from sinefield.store.parts import FieldPart, is_parted, place_of, read_parts, write_parts
from sinefield.store.run import Run


def train_parts(
    config: Config, out: str | Path, resume: bool = False, overwrite: bool = False, full_scores: bool = False
) -> dict[str, Any]:
    """Train a field for each part of a mesh, in run folders within `out`, whose `parts.json` has the parts' names.

    Each part has the whole budget. With `resume`, parts that are finished stay as they are.

    Returns:
        run, kind, parts (name, run, and the report of each), params, bytes and seconds of all.

    Raises:
        SinefieldError: see `data.surfaces.split.split_parts` and `train`; `config` is of no mesh; `out` holds something
            else, or a split of other parts.
        Interrupted: stopped by a signal; the state is saved.
    """
    if config.kind != "shape" or config.data.part is not None:
        raise SinefieldError(f"{config.data.path}: --split takes a mesh, and all of it; leave --split out")
    found, notes = split_parts(config.data.path)
    parts = [FieldPart(part.name, place_of(i, part.name)) for i, part in enumerate(found, 1)]
    for part in found:  # all of the input is read and checked before the first is trained
        part_surface(part, config.data.path)
    _begin(Path(out), config.data.path, parts, resume, overwrite)
    for note in notes:
        print(harmless(f"note: {note}"), file=sys.stderr)
    reports = []
    for number, part in enumerate(parts, 1):
        print(harmless(f"part {number} of {len(parts)}: {part.name}"), file=sys.stderr)
        run = Run(Path(out) / part.place)
        own = replace(config, data=replace(config.data, part=number))
        if resume and run.report_path.exists() and (report := run.read_report()) is not None:
            _same(run, own)
        else:
            report = train(own, run.folder, resume and run.config_path.exists(), overwrite, full_scores)
        reports.append({"name": part.name, **report})
    return _together(str(out), reports)


def pack_parts(run: str | Path, out: str | Path, overwrite: bool = False, **options: Any) -> dict[str, Any]:
    """Pack each field of such a folder into a `.sine` file of another folder, `out`; `parts.json` comes last.

    All are packed before the first is put there.

    Arguments:
        options: of `pack_run`, for each part; of `max_bytes` each has an equal share.

    Raises:
        SinefieldError: see `pack` and `read_parts`; `out` holds something else.
    """
    source, given = read_parts(run)
    folder = Path(out)
    if folder.resolve() == Path(run).resolve():
        raise SinefieldError(f"{out}: is the folder to be packed; give another one")
    if any(part.place.endswith(".sine") for part in given):
        raise SinefieldError(f"{run}: is packed already; give the folder that it was packed from")
    parts = [FieldPart(part.name, place_of(i, part.name, ".sine")) for i, part in enumerate(given, 1)]
    _check_folder(folder, parts, False, overwrite, finished=True)
    if (most := options.get("max_bytes")) is not None:
        options["max_bytes"] = most // len(parts)
    reports = []
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(folder) as scratch:
            for old, new in zip(given, parts, strict=True):
                try:
                    report = pack_run(old.place, scratch / new.place, **options)
                except SinefieldError as error:
                    raise SinefieldError(str(error).replace(str(scratch), str(folder))) from error
                reports.append({"name": new.name, **report, "out": str(folder / new.place)})
            folder.mkdir(exist_ok=True)
            for new in parts:
                (scratch / new.place).replace(folder / new.place)
        write_parts(folder, source, parts, overwrite)
    except OSError as error:
        raise write_error(folder, error) from error
    return {**_together(str(run), reports), "out": str(out), "float_bytes": sum(r["float_bytes"] for r in reports)}


def summary(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each part: name, its main score, parameters and bytes."""
    rows = []
    for part in report["parts"]:
        name = next((score for score in SCORES if isinstance(part.get(score), int | float)), None)
        score = {"score": name or "", "value": None if name is None else float(part[name])}
        rows.append({"part": part["name"], **score, "params": part["params"], "bytes": part["bytes"]})
    return rows


def _begin(out: Path, source: str, parts: list[FieldPart], resume: bool, overwrite: bool) -> None:
    """The folder with its list, or a refusal before anything is written."""
    _check_folder(out, parts, resume, overwrite)
    out.mkdir(parents=True, exist_ok=True)
    if not is_parted(out) or overwrite:
        write_parts(out, source, parts, overwrite=True)


def _check_folder(out: Path, parts: list[FieldPart], resume: bool, overwrite: bool, finished: bool = False) -> None:
    if out.exists() and not out.is_dir():
        raise SinefieldError(f"{out}: is a file; give a folder")
    if is_parted(out):
        if not (resume or overwrite):
            more = "" if finished else ", --resume"
            raise SinefieldError(f"{out}: holds a split already; use --overwrite{more} or another folder")
        if [(p.name, Path(p.place).name) for p in read_parts(out)[1]] != parts:
            raise SinefieldError(f"{out}: holds a split of other parts; give another folder, or delete it yourself")
    elif resume:
        raise SinefieldError(f"{out}: holds no split to resume; leave --resume out or correct --out")
    elif out.is_dir() and any(out.iterdir()):
        known = {part.place for part in parts} if finished and overwrite else set()
        if odd := sorted({entry.name for entry in out.iterdir()} - known):
            raise SinefieldError(f"{out}: is not empty and holds no split ({odd[0]}); give another folder")
    check_output(out / "parts.json")


def _same(run: Run, config: Config) -> None:
    """Refuse to take a finished part for one of other settings."""
    Run.check(run.folder, config, resume=True)


def _together(run: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    add: Callable[[str], Any] = lambda key: sum(report.get(key) or 0 for report in reports)  # noqa: E731
    sums = {key: add(key) for key in ("params", "bytes", "seconds", "steps")}
    return {"run": run, "kind": "shape", **sums, "parts": reports}
