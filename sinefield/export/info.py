"""A run described: what it holds, tensor by tensor, with counts a person can check by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from sinefield.compress.container import Packed, encode
from sinefield.example_files import file_of, is_sine
from sinefield.fields.base import kind_of
from sinefield.metrics import SCORES
from sinefield.nn.spectrum import spectrum_report
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import from_packed, load_packed
from sinefield.tables import table


def describe(path: str | Path) -> tuple[dict[str, Any], str]:
    """Report and text on a run folder: parameters by tensor, ranks of the weights, box, last scores."""
    if is_sine(path):
        return describe_file(path)
    run = Run(path)
    config = run.config()
    field, note = load_field(path)
    tensors = [
        {"tensor": name, "shape": list(p.shape), "params": p.numel(), "bytes": p.numel() * p.element_size()}
        for name, p in field.named_parameters()
    ]
    weights = spectrum_report(field)
    extent, extent_line = kind_of(field).extent(field)
    total = sum(t["params"] for t in tensors)
    last = (run.read_metrics() or [{}])[-1]
    report = {
        "run": str(path),
        "kind": field.kind,
        "steps": note.get("steps"),
        "seconds": note.get("seconds"),
        "params": total,
        "bytes": run.field_path.stat().st_size,
        **extent,
        "tensors": tensors,
        "weights": weights,
        "last": last,
    }
    text = [
        f"{path}: {field.kind} field, {total:,} parameters, {report['bytes']:,} bytes on disk, "
        f"{note.get('steps')} steps in {note.get('seconds') or 0:.0f} s",
        f"data {config.data.path}",
        extent_line,
        "",
        table(["tensor", "shape", "params", "bytes"], tensors),
        "",
        table(["name", "weight", "shape", "params", "stable_rank", "effective_rank", "numerical_rank"], weights),
    ]
    return report, "\n".join(text)


def describe_file(path: str | Path) -> tuple[dict[str, Any], str]:
    """Report and text on a `.sine` file: every part's bytes, bits an entry, and quality before and after packing."""
    packed = load_packed(path)
    size = len(encode(packed))  # coding again is deterministic, and tells each part's share
    field, note = from_packed(packed, str(path))
    tensors, parts = _packed_tensors(packed, size), _packed_parts(packed, size)
    quality = {key: note[key] for key in SCORES if key in note}
    extent, extent_line = kind_of(field).extent(field)
    report = {
        "run": str(path),
        "kind": packed.kind,
        "steps": note.get("steps"),
        "seconds": note.get("seconds"),
        "params": sum(p.numel() for p in field.parameters()),
        "bytes": file_of(path).stat().st_size,
        **extent,
        "settings": packed.settings,
        "tensors": tensors,
        "parts": parts,
        "quality_before_and_after": quality,
        "note": note,
    }
    head = f"{path}: {packed.kind} field, {report['params']:,} parameters in {report['bytes']:,} bytes"
    scores = [f"{name} {before:.4g} before packing, {after:.4g} after" for name, (before, after) in quality.items()]
    lines = [
        ", ".join([head, *scores]),
        extent_line,
        "settings " + ", ".join(f"{k} {v}" for k, v in packed.settings.items() if v is not None),
        "",
        table(["tensor", "shape", "levels", "bits", "bytes", "share"], [*tensors, *parts]),
    ]
    return report, "\n".join(lines)


def _packed_tensors(packed: Packed, size: int) -> list[dict[str, Any]]:
    return [
        {
            "tensor": name,
            "shape": list(coded.levels.shape),
            "levels": int(np.ptp(coded.levels)) + 1,
            "bits": round(coded.bits, 2),
            "bytes": round(coded.bytes, 1),
            "share": _share(coded.bytes, size),
        }
        for name, coded in packed.tensors.items()
    ]


def _packed_parts(packed: Packed, size: int) -> list[dict[str, Any]]:
    """What a file holds beside tensors."""
    parts = {name: packed.sizes[name] for name in ("header", "note", "code", "grid")}
    return [{"tensor": name, "bytes": round(n, 1), "share": _share(n, size)} for name, n in parts.items() if n]


def _share(part: float, size: int) -> str:
    return f"{100 * part / size:.1f} %"
