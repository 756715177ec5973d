"""A field as one web page that opens from disk: its file and what draws it, and nothing fetched."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinefield.compress.container import MAX_FILE
from sinefield.errors import SinefieldError
from sinefield.example_files import EXAMPLE
from sinefield.export.page import allowed_hash, document
from sinefield.export.player import SOURCES, contents_of, element_of, script_for
from sinefield.files import check_output, read_bytes, write_bytes
from sinefield.store.fields import load_field

STYLE = """
html, body { margin: 0; height: 100%; color: #1d2328; font: 16px/1.5 system-ui, sans-serif; }
html, body, sine-field { background: #fff; }
sine-field { position: fixed !important; inset: 0; outline-offset: -2px; cursor: grab; }
sine-field:active { cursor: grabbing; }
button {
  position: fixed; right: .75rem; bottom: .75rem; width: 2.5rem; height: 2.5rem; padding: 0; font-size: 1.2rem;
  border: 0; border-radius: .5rem; background: #8889; color: #fff; cursor: pointer;
}
button::before { content: ""; display: block; width: 1rem; height: 1rem; margin: auto; border: 2px solid #fff; }
button[hidden] { display: none; }
@media (prefers-color-scheme: dark) { html, body, sine-field { background: #15181b; color: #e4e7ea; } }
"""


def write_page(
    run: str | Path, out: str | Path, overwrite: bool = False, adapters: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Write a page that draws a run folder or a `.sine` file, atomically.

    A `.sine` file goes in as it is. A run's parameters are rounded to 12 bits. The page fetches nothing, and its policy
    allows no script but its own.

    Arguments:
        out: an .html file.
        adapters: edits of a `.sine` file, which the page applies.

    Returns:
        run, out, kind, bytes, gzip_bytes of the whole page, code_gzip_bytes of its script, field_bytes.

    Raises:
        SinefieldError: see `load_field`; a kind that pages do not draw; edits of a run that is not packed; `out` is no
            .html or exists already.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page("example:knot", Path(folder) / "knot.html")["kind"]
        'shape'
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise SinefieldError(f"{out}: the name of a web page must end in .html")
    check_output(out, overwrite)
    field, _ = load_field(run, adapters)
    contents, script = contents_of(run, field, adapters), script_for(field, bool(adapters))
    names = [str(run).removeprefix(EXAMPLE), *map(str, adapters)]
    title = " + ".join(Path(name).resolve().stem for name in names)
    write_bytes(out, _document(title, contents, script).encode(), overwrite)
    written = read_bytes(out, 4 * MAX_FILE, "page")
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "bytes": len(written),
        "gzip_bytes": len(gzip.compress(written, 9, mtime=0)),
        "code_gzip_bytes": len(gzip.compress(script.encode(), 9, mtime=0)),
        "field_bytes": sum(map(len, contents)),
    }


def _document(title: str, contents: Sequence[bytes], script: str) -> str:
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {allowed_hash(script)} {SOURCES}",
            f"style-src {allowed_hash(STYLE)}",
            "img-src data: blob:",
        )
    )
    element, *held = element_of(title, contents)
    body = [
        element,
        '<button hidden title="full screen (f)" aria-label="full screen"></button>',
        "<noscript>This page draws a neural field by a script, and scripts are switched off.</noscript>",
        *held,
        f"<script>{script}</script>",
    ]
    return document(title, policy, STYLE, body)
