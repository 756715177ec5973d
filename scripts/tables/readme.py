"""Put a table between its two markers in README.md or in a page of docs/."""

from pathlib import Path

from sinefield.files import write_text

ROOT = Path(__file__).parents[2]


def fill(name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`, in the page that has these."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        head, found, rest = page.read_text().partition(begin)
        _, closed, tail = rest.partition(end)
        if found and closed:
            write_text(page, head + begin + text + end + tail)
            return
    raise SystemExit(f"no page has {begin.strip()} and {end}")
