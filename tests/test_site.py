"""The documents: links lead somewhere, every page has its place, the site opens from disk and loads nothing else."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser, wait_for

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / ".github").glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1[ \t]*$|``?[^`\n]+``?", re.M | re.S)
LOADED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
STYLED = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")

if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("the source is not here", allow_module_level=True)


def anchors(page):
    """The names of a page's headings, as GitHub and the site give them."""
    text = CODE.sub(lambda code: re.sub(r"[^\s]", "x", code[0]) if "\n" in code[0] else code[0], page.read_text())
    titles = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_headings_that_exist():
    lost = []
    for page in PAGES:
        for target in LINK.findall(CODE.sub("", page.read_text())):
            file, _, name = target.partition("#")
            if re.match("[a-z]+:", target):
                continue
            place = (page.parent / file).resolve() if file else page
            if not place.exists() or (name and name not in anchors(place)):
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert not lost


def test_documents_that_the_code_names_exist():
    files = [*(ROOT / "sinefield").rglob("*.py"), *(ROOT / "sinefield").rglob("src/*.js")]
    named = {(file, name) for file in files for name in re.findall(r"docs/[\w/]+\.md", file.read_text())}
    assert named and not [(file.name, name) for file, name in named if not (ROOT / name).exists()]


def test_every_page_has_a_place_in_the_navigation():
    named = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert named == {page for page in pages if not page.startswith("results/")} | {"results/README.md"}


def test_lists_begin_after_an_empty_line():
    """Or the site's Markdown takes them for text, where GitHub's does not."""
    glued = []
    for page in (ROOT / "docs").rglob("*.md"):
        lines = CODE.sub(lambda code: re.sub("[^\n]", "x", code[0]), page.read_text()).splitlines()
        for before, line in itertools.pairwise(lines):
            first = re.match(r"(- |1\. )\S", line) and before.strip() and not re.match(r"\s*(- |\d+\. )|\s+\S", before)
            glued += [f"{page.name}: {line}"] if first else []
    assert not glued


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) < 400


def figures(text):
    """The numbers of a text as words without thousands' commas, and with the minus that all pages share."""
    return set(re.findall(r"(?<![\w.])[−-]?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text).replace("−", "-")))


def test_figures_of_the_readme_stand_in_the_results_that_its_rows_link():
    rows = re.findall(r"^\| \[[^\]]+\]\((docs/results/\w+\.md)\)[^|]*\|(.*)\|", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) > 8
    for page, cells in rows:
        known = figures((ROOT / page).read_text())
        lost = {word for word in figures(cells) if len(word.strip("-")) > 2} - known - {"-" + word for word in known}
        assert not {word for word in lost if word.strip("-") not in known}, (page, lost)


def test_figures_of_the_method_stand_in_results():
    """Every one with a decimal point, in one of the pages that the same section links."""
    text = (ROOT / "docs" / "method.md").read_text()
    for section in re.split(r"^## ", text, flags=re.M):
        linked = re.findall(r"\((results/\w+\.md)\)", section)
        known = set().union(*(figures((ROOT / "docs" / page).read_text()) for page in linked))
        wanted = {word.strip("-") for word in figures(section) if "." in word}
        assert wanted <= {word.strip("-") for word in known} | {"2403.19243"}, wanted - known


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_strictly_and_names_nothing_to_load_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    found = [(page.name, *LOADED.findall(page.read_text())) for page in pages if LOADED.search(page.read_text())]
    assert not found
    assert not [style.name for style in site.rglob("*.css") if STYLED.search(style.read_text())]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_from_disk_a_field_is_drawn_and_the_search_answers(site, tmp_path):
    pytest.importorskip("websockets")
    browser = Browser(CHROMIUM, tmp_path)
    try:
        browser.open(f"file://{site}/index.html")
        assert wait_for(lambda: browser.ask("document.querySelector('sine-field')?.field?.kind")) == "shape"
        browser.ask(
            "document.querySelector('label[for=__search]').click();"
            "const box = document.querySelector('input[name=query]'); box.focus(); box.value = 'winding';"
            "box.dispatchEvent(new Event('input', {bubbles: true}));"
            "box.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); null"
        )
        wait_for(lambda: browser.ask("document.querySelectorAll('.md-search-result__item').length"))
        asked = json.loads(browser.ask("JSON.stringify(performance.getEntriesByType('resource').map((e) => e.name))"))
        assert not [name for name in asked if name.startswith("http")]
    finally:
        browser.close()
