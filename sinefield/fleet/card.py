"""The card of a fleet's data set: a README.md that the Hugging Face hub and people read."""

from collections import Counter
from statistics import median
from typing import Any

from sinefield.version import __version__

CODES = ["Each is a code: it takes `base.sine`, the network that they share, to make a field of it.", ""]


def card(title: str, rows: list[dict[str, Any]]) -> str:
    """The card's text; its head says which files are the data, for `datasets.load_dataset`.

    Arguments:
        title: of the fleet.
        rows: of its manifest.
    """
    good = [row for row in rows if row["status"] == "ok"]
    scores = [row["score"] for row in good if row["score"] is not None]
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files: data/*.parquet",
        "---",
        f"# {title}",
        "",
        f"{len(good):,} neural fields, each the bytes of a `.sine` file in the column `sine`, made by sinefield "
        f"{__version__}.",
        "",
        *CODES * any(row["kind"] == "shared" for row in good),
        "| | |",
        "|---|---|",
        f"| fields | {len(good):,} |",
        f"| failed | {len(rows) - len(good):,} |",
    ]
    if good:
        total = sum(row["bytes"] for row in good)
        lines.append(f"| bytes | {total:,} in all, median {median(row['bytes'] for row in good):,.0f} |")
        lines.append(f"| CPU seconds | {sum(row['seconds'] or 0 for row in good):,.0f} |")
    if scores:
        kinds = Counter(row["kind"] for row in good)
        lines.append(f"| kind | {', '.join(kinds)} |")
        lines.append(f"| score | median {median(scores):.4f}, least {min(scores):.4f} |")
    lines += [
        "",
        "```python",
        "import sinefield as sf",
        "",
        'fields = sf.FieldSet("PATH OR URL OF THIS FOLDER")',
        "field = fields[0]  # sf.Field: sdf, mesh, …",
        "```",
        "",
        "or without sinefield, the bytes alone:",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'rows = load_dataset("parquet", data_files="data/*.parquet", split="train")',
        "```",
        "",
        "`manifest.parquet` has a row an item, the failed ones too: state, error, scores, bytes, CPU seconds, seed and",
        "versions.",
        "",
    ]
    return "\n".join(lines)
