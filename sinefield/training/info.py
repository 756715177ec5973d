"""A run described: what it holds, tensor by tensor, with counts a person can check by hand."""

from pathlib import Path
from typing import Any

from sinefield.nn.spectrum import spectrum_report
from sinefield.tables import table
from sinefield.training.run import Run, load_field


def describe(path: str | Path) -> tuple[dict[str, Any], str]:
    """Report and text on a run folder: parameters by tensor, ranks of the weights, box, last scores."""
    run = Run(path)
    config = run.config()
    field, note = load_field(path)
    tensors = [
        {"tensor": name, "shape": list(p.shape), "params": p.numel(), "bytes": p.numel() * p.element_size()}
        for name, p in field.named_parameters()
    ]
    weights = spectrum_report(field)
    total = sum(t["params"] for t in tensors)
    last = (run.read_metrics() or [{}])[-1]
    report = {
        "run": str(path),
        "kind": field.kind,
        "steps": note.get("steps"),
        "seconds": note.get("seconds"),
        "params": total,
        "bytes": run.field_path.stat().st_size,
        "aabb": field.aabb.tolist(),
        "tensors": tensors,
        "weights": weights,
        "last": last,
    }
    text = [
        f"{path}: {field.kind} field, {total:,} parameters, {report['bytes']:,} bytes on disk, "
        f"{note.get('steps')} steps in {note.get('seconds') or 0:.0f} s",
        f"data {config.data.path}",
        "box " + " ".join(f"{v:.5g}" for v in report["aabb"]),
        "",
        table(["tensor", "shape", "params", "bytes"], tensors),
        "",
        table(["name", "weight", "shape", "params", "stable_rank", "effective_rank", "numerical_rank"], weights),
    ]
    return report, "\n".join(text)
