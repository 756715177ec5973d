"""The register of results: it names what exists, and finds the pages that are older than the code."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("the source is not here", allow_module_level=True)

spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)
REGISTER = results.read()


@pytest.mark.parametrize("page", REGISTER["pages"])
def test_a_page_has_a_script_and_depends_on_what_exists(page):
    entry = REGISTER["pages"][page]
    assert (ROOT / results.FOLDER / f"{page}.md").exists()
    assert (ROOT / results.script_of(entry["command"])).exists()
    assert all((ROOT / path).exists() for part in entry["depends"] for path in REGISTER["parts"][part])
    assert re.fullmatch("[0-9a-f]{40}", entry["commit"])


def test_the_index_is_what_the_script_writes():
    assert (ROOT / results.FOLDER / "README.md").read_text() == results.index()


@pytest.fixture
def repository(tmp_path):
    """A repository with two pages on two files, and a commit for each argument's changes."""

    def git(*words):
        settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *settings, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        git("add", "-A")
        git("commit", "-q", "-m", "a change")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    first = commit(one="1", two="2", script="s")
    (tmp_path / results.FOLDER).mkdir(parents=True)
    pages = {
        name: {"command": "python script.py", "depends": [name], "commit": first if name != "lost" else "0" * 40}
        for name in ("one", "two", "lost")
    }
    parts = {name: [f"{name}.py"] for name in pages}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in pages.items())
    (tmp_path / results.REGISTER).write_text(f'{{"parts": {json.dumps(parts)}, "pages": {{\n{lines}\n}}}}\n')
    for name in pages:
        (tmp_path / results.FOLDER / f"{name}.md").write_text(f"# {name}\n")
    return tmp_path, commit


def changed(root):
    return {state.page: state.changed for state in results.states(root)}


def test_a_page_is_old_once_what_it_depends_on_changes(repository):
    root, commit = repository
    commit()
    assert changed(root) == {"one": [], "two": [], "lost": None}
    commit(two="3")
    assert changed(root) == {"one": [], "two": ["two.py"], "lost": None}
    commit(script="t")
    assert changed(root) == {"one": ["script.py"], "two": ["script.py", "two.py"], "lost": None}


def test_a_page_that_was_made_again_is_as_the_code_is(repository):
    root, commit = repository
    commit(two="3")
    results.note_made(["two", "lost"], root)
    assert changed(root) == {"one": [], "two": [], "lost": []}
    with pytest.raises(SystemExit, match="no page three"):
        results.note_made(["three"], root)


def test_without_a_history_nothing_is_claimed(repository):
    root, _ = repository
    (root / ".git").rename(root / "gone")
    assert set(results.states(root)[0]._asdict().items()) >= {("date", None), ("changed", None)}


def test_a_page_that_the_register_lacks_is_named(repository):
    root, _ = repository
    (root / results.FOLDER / "new.md").write_text("# new\n")
    assert results.unlisted(root) == ["new"]
