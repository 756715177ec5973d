"""What mkdocs does for this site besides its own: live fields, and links that leave the documents.

`<sine-field src="example:knot">` and `<sine-field src="gallery/x.sine">` get the file's bytes as a data address, as
pages that are opened from disk may not fetch files. A link to a file outside docs/ becomes the name of that file: the
site has no such page. Pages of results end with what scripts/results.py knows of them.
"""

import base64
import functools
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SCRIPT = "site/sinefield.js"
FIELD = re.compile(r'(<sine-field\b[^>]*?\bsrc=")([^"]+)"')
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the built element to the site."""
    content = (ROOT / "sinefield" / "web" / "made" / "sinefield.classic.js").read_bytes()
    files.append(File.generated(config, SCRIPT, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in fields and links, but not in what a page shows as code."""
    folder = posixpath.dirname(page.file.src_uri)
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [prepared(markdown[end : fence.start()], folder), fence[0]]
        end = fence.end()
    return "".join([*parts, prepared(markdown[end:], folder), foot(page.file.src_uri)])


@functools.cache
def made() -> dict[str, Any]:
    """What scripts/results.py knows of each page of results."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from results import FOLDER, states

    return {(FOLDER.relative_to("docs") / f"{state.page}.md").as_posix(): state for state in states()}


def foot(page: str) -> str:
    """The last line of a page of results: how it is made, and whether the code has changed since."""
    state = made().get(page)
    return f"\n\n*`{state.command}`, commit {state.commit[:8]}: {state.text()}.*\n" if state else ""


def prepared(text: str, folder: str) -> str:
    """Text of a page in a folder of docs/, as the site has it."""
    text = FIELD.sub(lambda found: f'{found[1]}{address(found[2], folder)}"', text)
    return LINK.sub(lambda found: named(found, folder), text)


def address(source: str, folder: str) -> str:
    """A field's bytes as a data address."""
    name = source.removeprefix("example:")
    examples = ROOT / "sinefield" / "example_fields"
    path = examples / f"{name}.sine" if name != source else ROOT / "docs" / folder / source
    if not path.is_file():
        raise PluginError(f"<sine-field src={source!r}>: there is no {path.relative_to(ROOT)}")
    return "data:application/octet-stream;base64," + base64.b64encode(path.read_bytes()).decode()


def named(found: re.Match[str], folder: str) -> str:
    """A link as it is, or, where it leaves docs/, the name of the file that it leads to."""
    text, target = found[1], found[2]
    if re.match(r"[a-z]+:", target):
        return found[0]
    place = posixpath.normpath(posixpath.join("docs", folder, target))
    if place.startswith("docs/"):
        return found[0]
    return f"`{place}`" if text.strip("`") in (place, posixpath.basename(place)) else f"{text} (`{place}`)"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load the element on the pages that have one."""
    if "<sine-field" not in output:
        return output
    root: Any = page.url.count("/") * "../"
    return output.replace("</body>", f'<script src="{root}{SCRIPT}"></script></body>')
