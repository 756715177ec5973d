"""Plain text tables."""

from collections.abc import Sequence
from typing import Any


def table(columns: Sequence[str], rows: Sequence[dict[str, Any]], markdown: bool = False) -> str:
    """Rows of equal keys as aligned columns: numbers to the right, lists as a×b."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "×".join(map(str, value))
        if isinstance(value, bool) or value is None:
            return "" if value is None else str(value).lower()
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)

    cells = [[text(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) if cells else len(c) for i, c in enumerate(columns)]
    right = [all(isinstance(r.get(c), int | float) or r.get(c) is None for r in rows) for c in columns]

    def line(values: Sequence[str]) -> str:
        parts = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "| " + " | ".join(parts) + " |" if markdown else "  ".join(parts).rstrip()

    lines = [line(columns)]
    if markdown:
        lines.append(
            "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
        )
    return "\n".join(lines + [line(r) for r in cells])
