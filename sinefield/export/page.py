"""Pieces of one self-contained web page: every text escaped, every file inline, nothing fetched."""

import base64
import hashlib
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from sinefield.export.player import SOURCES

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 420, 220, 52, 10, 34


def page(title: str, body: Sequence[str], viewer: bool, player: str | None = None) -> str:
    """A whole document.

    The policy in its head forbids it to fetch anything and to run any script but the viewer, even should a text
    within it turn out to be one.

    Arguments:
        title: text, escaped here.
        body: pieces of HTML.
        viewer: whether the body has a mesh to turn (`viewer.js`).
        player: the script that draws a live field in the body (`player.script_for`).
    """
    style = files("sinefield.export").joinpath("page.css").read_text(encoding="utf-8")
    turning = "\n" + files("sinefield.export").joinpath("viewer.js").read_text(encoding="utf-8")
    scripts = ([turning] if viewer else []) + ([player] if player else [])
    allowed = " ".join(map(allowed_hash, scripts)) or "'none'"
    more = f" {SOURCES}" if player else ""
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src {allowed}{more}"
    )
    return document(title, policy, f"\n{style}", [*body, *(f"<script>{script}</script>" for script in scripts)])


def document(title: str, policy: str, style: str, body: Sequence[str]) -> str:
    """A whole document: its title, which is escaped here, its Content-Security-Policy, its style and its lines."""
    head = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
    ]
    return "\n".join([*head, *body, "</body>", "</html>", ""])


def allowed_hash(text: str) -> str:
    """A script or style as a Content-Security-Policy allows it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data_uri(content: bytes, kind: str) -> str:
    """A file within an attribute."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def html_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as a table; numbers to the right, lists as a×b, as `tables.table` has it."""

    def cell(value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (
                f'<td class="number">{value:,}</td>'
                if isinstance(value, int)
                else f'<td class="number">{value:.4g}</td>'
            )
        text = "×".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
        return f"<td>{escape(text)}</td>"

    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    lines = ["<tr>" + "".join(cell(row.get(c)) for c in columns) + "</tr>" for row in rows]
    return "\n".join(['<div class="wide"><table>', f"<tr>{head}</tr>", *lines, "</table></div>"])


def curve(points: Sequence[tuple[float, float]], kind: str, label: str, logarithmic: bool = False) -> str:
    """Values over seconds as a figure with an inline SVG.

    Arguments:
        points: (seconds, value) in order; what is not finite, or on a logarithmic axis not positive, is left out.
        kind: class of the figure, which gives its colour: "loss" or "score".
    """
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not logarithmic)]
    if not points:
        return ""
    height = math.log10 if logarithmic else float
    xs, ys = [p[0] for p in points], [height(p[1]) for p in points]
    last, low, high = max(*xs, 1e-9), min(ys), max(ys)
    room = 0.06 * (high - low) or max(abs(high), 1e-3) * 0.05
    low, high = low - room, high + room

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / last * (WIDTH - LEFT - 12)
        return round(across, 1), round(TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    ticks = log_ticks(low, high) if logarithmic else [(v, v) for v in linear_ticks(low, high)]
    parts = []
    for y, value in ticks:
        at = place(0, y)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 12}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{value:.9g}</text>')
    for x in linear_ticks(0, last):
        parts.append(f'<text x="{place(x, low)[0]}" y="{HEIGHT - 18}" text-anchor="middle">{x:.9g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 3}" text-anchor="middle">seconds of training</text>')
    dots = [place(x, y) for x, y in zip(xs, ys, strict=True)]
    parts.append('<polyline points="' + " ".join(f"{x},{y}" for x, y in dots) + '"/>')
    for (x, y), (seconds, value) in zip(dots, points, strict=True):
        parts.append(f'<circle cx="{x}" cy="{y}" r="2.5"><title>{seconds:.0f} s: {value:.4g}</title></circle>')
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">' + "".join(parts) + "</svg>"
    return f'<figure class="{kind}"><figcaption>{escape(label)}</figcaption>{svg}</figure>'


def linear_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within [low, high]."""
    unit = 10.0 ** math.floor(math.log10(high - low))
    for step in (5 * unit, 2 * unit, unit, unit / 2, unit / 5):
        ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(ticks) >= 3:
            break
    return [float(f"{v:.9g}") for v in ticks]


def log_ticks(low: float, high: float) -> list[tuple[float, float]]:
    """(log10 of it, number) for numbers within 10^[low, high]: powers of ten, or more where these are few."""
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        numbers = [d * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for d in digits]
        ticks = [(math.log10(v), v) for v in numbers if low <= math.log10(v) <= high]
        if len(ticks) >= 3:
            return ticks
    return [(math.log10(v), v) for v in linear_ticks(10.0**low, 10.0**high)]
