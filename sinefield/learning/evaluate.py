"""Scores of a trained field against what it was trained on, by the written protocol of its kind (`Kind.report`)."""

import csv
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinefield.adapters.edits import load_edit
from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.example_files import file_of
from sinefield.fields.base import Field, kind_of, read_data
from sinefield.files import scratch_folder, write_text
from sinefield.json_text import to_json
from sinefield.machine import describe_machine
from sinefield.pictures import save_curves
from sinefield.store.fields import edited_config, load_field
from sinefield.store.run import CURVES, Run
from sinefield.store.sine_files import config_of, from_packed, load_packed


def evaluate(run: Run, data: Any = None, quick: bool = False) -> dict[str, Any]:
    """Score a run, write report.json, scores.csv and pictures into its folder, return the report.

    Into a folder that may not be written nothing is: then the report alone is made.

    Args:
        data: the run's data where the caller holds them already; otherwise they are read again.
        quick: of less where the kind has that, see `Kind.quick_report`.

    Returns:
        run, kind, params, bytes, seconds_evaluating, and by kind psnr, ssim, lpips, views, per_view, or psnr, ssim, or
        iou, chamfer_l1, chamfer_l2, fscore, normal_consistency.

    Raises:
        SinefieldError: no run, no field, a damaged file, data that moved.
    """
    config = run.config()
    field, note = load_field(run.folder)
    if field.kind != config.kind:
        raise SinefieldError(f"{run.folder}: config.yaml says {config.kind}, the field is a {field.kind}; train again")
    if not os.access(run.folder, os.W_OK):
        with scratch_folder() as scratch:
            return _report(run.folder, run.field_path, field, note, config, scratch, data, quick)
    report = _report(run.folder, run.field_path, field, note, config, run.pictures, data, quick)
    metrics = run.read_metrics()
    # One moment is no curve, and to draw it would take as long as a short training.
    if len(metrics) > quick:
        save_curves(run.pictures / CURVES, metrics, kind_of(config).score, kind_of(config).quick)
    write_text(run.report_path, to_json(report, indent=2) + "\n")
    write_text(run.folder / "scores.csv", _csv(report))
    return report


def evaluate_file(path: str | Path, data_path: str | None = None) -> dict[str, Any]:
    """Score a `.sine` file against its data; nothing is written.

    Args:
        data_path: the mesh, photographs or image; what the file itself names when None.
    """
    packed = load_packed(path)
    config = config_of(packed, str(path), data_path)
    field, note = from_packed(packed, str(path))
    return _report(path, file_of(path), field, note, config, None, None)


def evaluate_edited(base: str | Path, adapters: Sequence[str | Path], data_path: str | None = None) -> dict[str, Any]:
    """Score a field with edits on the changed scene; nothing is written. params and bytes are those of the edits.

    Args:
        adapters: files of `sinefield adapt`.
        data_path: the changed mesh, photographs or image; what the last edit itself names when None.
    """
    config = edited_config(base, adapters, data_path)
    field, _ = load_field(base, adapters)
    edits = [load_edit(path, or_code=True) for path in adapters]
    report = _report(base, Path(adapters[-1]), field, edits[-1].note, config, None, None)
    levels = load_packed(base).tensors["gains"].levels.size if edits[0].kind == "code" else 0
    return {
        **report,
        "adapters": [str(path) for path in adapters],
        "params": levels + sum(coded.levels.size for edit in edits for coded in edit.tensors.values()),
        "bytes": sum(Path(path).stat().st_size for path in adapters),
    }


def _report(
    run: str | Path,
    file: Path,
    field: Field,
    note: dict[str, Any],
    config: Config,
    pictures: Path | None,
    data: Any,
    quick: bool = False,
) -> dict[str, Any]:
    begin = time.perf_counter()
    report = {
        "run": str(run),
        "kind": config.kind,
        "seed": note.get("seed"),
        "steps": note.get("steps"),
        "seconds": note.get("seconds"),
        "params": sum(p.numel() for p in field.parameters()),
        "bytes": file.stat().st_size,
    }
    kind, data = kind_of(field), read_data(config) if data is None else data
    report |= (kind.quick_report if quick else kind.report)(field, config, data, pictures)
    report["seconds_evaluating"] = round(time.perf_counter() - begin, 2)
    report["machine"] = describe_machine()
    return report


def _whole(rows: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Rows with the same columns in each, empty where a shape has no surface."""
    columns = dict.fromkeys(key for row in rows or [] for key in row)
    return rows and [{key: row.get(key) for key in columns} for row in rows]


def _csv(report: dict[str, Any]) -> str:
    """Rows by view for radiance, by shape for many shapes, one row for a shape or an image."""
    rows = (
        report.get("per_view")
        or _whole(report.get("per_shape"))
        or [{k: v for k, v in report.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}]
    )
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
