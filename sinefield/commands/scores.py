"""A report of training or evaluation in one line or some more."""

from typing import Any

from sinefield.metrics import SCORES
from sinefield.tables import table


def summary(report: dict[str, Any]) -> str:
    """Kind, scores, sizes and time; a table of categories where there are some; remarks."""
    scores = ", ".join(f"{k} {report[k]:.4g}" for k in SCORES if isinstance(report.get(k), int | float))
    line = (
        f"{report['kind']}: {scores} | {report['params']:,} parameters, {report['bytes']:,} bytes, "
        f"{report['steps']} steps"
    )
    if report["seconds"] is not None:  # a file of a training of so many steps does not say
        line += f" in {report['seconds']:.0f} s"
    if categories := report.get("categories"):
        rows = [{"category": name, **scores} for name, scores in categories.items()]
        line += "\n" + table(["category", "shapes", "iou", "chamfer_l1", "fscore", "normal_consistency"], rows)
    return "\n".join([line, *(f"note: {remark}" for remark in report.get("remarks", []))])
