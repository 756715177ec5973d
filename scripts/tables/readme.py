"""Put a table between its two markers in README.md."""

from pathlib import Path

from sinefield.files import write_text

README = Path(__file__).parents[2] / "README.md"


def fill(name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = README.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"README.md lacks {begin.strip()} or {end}")
    write_text(README, head + begin + text + end + tail)
