"""What a mesh or a point cloud is, in numbers and in words, before anything is trained on it."""

from typing import Any

import numpy as np

from sinefield.data.surfaces.pieces import ambiguous_share
from sinefield.data.surfaces.surface import Surface, winding_number

ASKED = 4096
"""Points in the box whose winding number tells how sure inside and outside are."""
AMBIGUOUS = 0.05
"""Share of ambiguous points that is worth a note."""


def account(surface: Surface) -> dict[str, Any]:
    """Counts, size and what was repaired.

    Returns:
        source, kind ("mesh" or "cloud"), vertices, faces, parts (their names), pieces, closed, turned (how many pieces
        were inside out), sheets (pieces that hold nothing), bounds (xmin ymin zmin xmax ymax zmax), extent (of the
        three sides), unit (of length, None where unknown), area, volume (of bodies, holes closed by flat lids; None of
        a cloud), ambiguous (the share of points in the box whose winding number is more than 0.2 from a whole number),
        colours ("none", "vertices or materials", "textures", "points"), notes.
    """
    report, mesh = surface.report, surface.faces is not None
    low, high = surface.aabb[:3], surface.aabb[3:]
    points = low + np.random.default_rng(0).random((ASKED, 3)) * (high - low)
    ambiguous = ambiguous_share(winding_number(surface, points))
    notes = list(surface.notes)
    if ambiguous > AMBIGUOUS:
        notes.append(
            f"inside and outside are unsure at {100 * ambiguous:.0f} % of the points in the box: winding numbers lie "
            "between whole ones; look at holes, doubled walls and the way round of faces"
        )
    sheets = report["pieces"] - report["bodies"] if mesh else 0
    return {
        "source": surface.source,
        "kind": "mesh" if mesh else "cloud",
        "vertices": len(surface.vertices),
        "faces": len(surface.faces) if surface.faces is not None else 0,
        "parts": [name for name in surface.part_names if name],
        "pieces": report.get("pieces"),
        "closed": report.get("closed_pieces"),
        "turned": report.get("turned_pieces"),
        "sheets": sheets,
        "bounds": surface.aabb.tolist(),
        "extent": (high - low).tolist(),
        "unit": surface.unit,
        "area": float(surface.areas.sum()),
        "volume": report.get("volume"),
        "ambiguous": ambiguous,
        "colours": _colours(surface),
        "notes": notes,
    }


def _colours(surface: Surface) -> str:
    if surface.paint is not None:
        return "textures" if surface.paint.textures else "vertices or materials"
    return "points" if surface.colours is not None else "none"


def as_text(found: dict[str, Any]) -> str:
    """The same, a line each."""

    def sizes(values: list[float]) -> str:
        return " x ".join(f"{value:.6g}" for value in values)

    unit = found["unit"] or "units (which, the file does not say)"
    mesh = found["kind"] == "mesh"
    what = f"{found['vertices']:,} vertices, {found['faces']:,} faces" if mesh else f"{found['vertices']:,} points"
    lines = [found["source"], f"{found['kind']:8} {what}"]
    if mesh:
        lines.append(
            f"pieces   {found['pieces']:,}: {found['closed']:,} closed, {found['pieces'] - found['closed']:,} open, "
            f"{found['turned']:,} turned, {found['sheets']:,} without an inside"
        )
    if len(found["parts"]) > 1:
        more = f" and {len(found['parts']) - 6} more" if len(found["parts"]) > 6 else ""
        lines.append(f"parts    {', '.join(found['parts'][:6])}{more}")
    volume = "" if found["volume"] is None else f", volume {found['volume']:.6g}"
    lines += [
        f"extent   {sizes(found['extent'])} {unit}",
        f"area     {found['area']:.6g}{volume}",
        f"inside   unsure at {100 * found['ambiguous']:.1f} % of the points in the box",
        f"colours  {found['colours']}",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])
