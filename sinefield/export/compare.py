"""Trained fields beside each other: one table, and score against bytes as a plot."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinefield.config import make_field_config
from sinefield.errors import SinefieldError
from sinefield.example_files import file_of, is_sine
from sinefield.fields.base import Kind, kinds
from sinefield.files import check_output, write_bytes
from sinefield.metrics import SCORES
from sinefield.store.run import Run
from sinefield.store.sine_files import load_packed
from sinefield.tables import table


def compare(
    runs: Sequence[str | Path], out: str | Path | None = None, overwrite: bool = False
) -> tuple[dict[str, Any], str]:
    """Report and text on several run folders and `.sine` files; with `out`, a plot of score against bytes.

    A run's row is what its report.json says; a packed file's is its size and what its note says, the score being the
    one after packing. What is not known stays empty.

    Arguments:
        out: a .png file; one panel for each kind of field, bytes on a logarithmic axis.

    Returns:
        runs (rows of name, run, kind, weights, params, bytes, seconds, steps and scores) and out; and the table.

    Raises:
        SinefieldError: not a run, a run without report.json, a damaged file, `out` is no .png, exists, or nothing
            could be drawn.
    """
    if out is not None:
        if Path(out).suffix.lower() != ".png":
            raise SinefieldError(f"{out}: a comparison is drawn as a .png; name it so")
        check_output(out, overwrite)
    rows = [_packed_row(path) if is_sine(path) else _run_row(path) for path in runs]
    for row, name in zip(rows, _names(runs), strict=True):
        row["name"] = name
    scores = [s for s in SCORES if any(row.get(s) is not None for row in rows)]
    if out is not None:
        write_bytes(out, _plot(rows), overwrite)
    columns = ["name", "kind", "weights", "params", "bytes", "seconds", "steps", *scores]
    report = {"runs": [{"name": row.pop("name"), **row} for row in rows], "out": None if out is None else str(out)}
    return report, table(columns, report["runs"]) + (f"\n{out}: score against bytes" if out is not None else "")


def _run_row(path: str | Path) -> dict[str, Any]:
    run = Run(path)
    if run.folder.is_dir() and not run.config_path.exists():
        raise SinefieldError(f"{path}: is not a run folder (no config.yaml); give run folders and .sine files")
    config = run.config()
    report = run.read_report()
    if report is None:
        raise SinefieldError(
            f"{path}: has no report.json; run `sinefield eval {path}`, or train it to the end with --resume"
        )
    known = {key: _number(report.get(key)) for key in ("params", "bytes", "seconds", "steps", *SCORES)}
    if report.get("kind") != config.kind or known["params"] is None or not (known["bytes"] or 0) > 0:
        raise SinefieldError(f"{run.report_path}: does not describe this run; run `sinefield eval {path}` again")
    return {"run": str(path), "kind": config.kind, "weights": _weights(config.field)} | known


def _packed_row(path: str | Path) -> dict[str, Any]:
    packed = load_packed(path)
    settings = make_field_config(packed.kind, packed.settings, str(path))
    row: dict[str, Any] = {
        "run": str(path),
        "kind": packed.kind,
        "weights": _weights(settings),
        "params": sum(coded.levels.size for coded in packed.tensors.values()),
        "bytes": file_of(path).stat().st_size,
    }
    note = packed.note
    row |= {key: _number(note.get(key)) for key in ("seconds", "steps")}
    row |= {score: _number(note[score][1]) for score in SCORES if score in note}
    return row


def _number(value: Any) -> int | float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def _weights(field: Any) -> str:
    stored = "dense" if field.weights == "dense" else f"{field.weights}, rank {field.rank}"
    return f"hash, {stored}" if getattr(field, "encoding", None) == "hash" else stored


def _names(runs: Sequence[str | Path]) -> list[str]:
    """The last parts of each path, as many as tell all different paths apart."""
    parts = [Path(run).resolve().parts for run in runs]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _plot(rows: list[dict[str, Any]]) -> bytes:
    """Score against bytes as PNG, a panel for each kind that has scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {kind: _points(rows, kind) for kind in kinds()}
    panels = {kind: points for kind, points in panels.items() if points}
    if not panels:
        raise SinefieldError("none of these has a score to draw; run `sinefield eval` on them, or leave --out out")
    figure = Figure(figsize=(6.4 * len(panels), 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    labels = []
    for axes, (kind, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        labels += _panel(axes, kind, points)
    _push_apart(labels, canvas)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _points(rows: list[dict[str, Any]], kind: Kind) -> list[tuple[int, float, str]]:
    """Bytes, score and name of the fields of a kind, the worst first."""
    own = [row for row in rows if row["kind"] == kind.name and row.get(kind.score)]
    points = [(row["bytes"], row[kind.score], row["name"]) for row in own]
    return sorted(points, key=lambda point: point[1])


def _panel(axes: Any, kind: Kind, points: list[tuple[int, float, str]]) -> list[Any]:
    """Draw the fields of a kind; returns their labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    sizes = [size for size, _, _ in points]
    axes.scatter(sizes, [value for _, value, _ in points], color=kind.colour, zorder=3)
    axes.set(xscale="log", xlabel="bytes", ylabel=SCORES[kind.score], title=kind.name)
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.1)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    middle = math.sqrt(min(sizes) * max(sizes))
    return [_label(axes, point, left=point[0] > middle) for point in points]


def _label(axes: Any, point: tuple[int, float, str], left: bool) -> Any:
    size, value, name = point
    shown = "".join(c if c.isprintable() else "?" for c in name)  # a file's name may be no text
    return axes.annotate(
        shown.replace("$", r"\$"),  # `$` would begin a formula
        (size, value),
        (-7 if left else 7, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        in_layout=False,  # pushed about once the layout is known
    )


def _push_apart(labels: list[Any], canvas: Any) -> None:
    """Push labels, which come lowest first in each panel, up until none covers another or a point."""
    from matplotlib.transforms import Bbox

    canvas.draw()  # the layout has to be known
    centres = [label.axes.transData.transform(label.xy) for label in labels]
    placed = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    for label in labels:
        box = label.get_window_extent()
        while hit := next((other for other in placed if box.overlaps(other)), None):
            x, y = label.get_position()
            label.set_position((x, y + (hit.y1 - box.y0 + 1) * 72 / label.figure.dpi))
            box = label.get_window_extent()
        placed.append(box)
