"""Pages in Firefox: the pictures of Chromium, and no errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, wait_for
from firefox import Firefox

from sinefield.export.field_page import write_page

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FIREFOX is None, reason="needs Firefox"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
MESH = str(Path(__file__).parent / "golden" / "mesh.sine")
PAGES = ["example:toys", "example:spot", "example:picture", MESH]
ELEMENT = "document.querySelector('sine-field')"
AGAIN = f"""(() => {{
  window.told ??= ({ELEMENT}.addEventListener("draw", ({{ detail }}) => told.push(detail)), []);
  told.length = 0;
  {ELEMENT}.dispatchEvent(new KeyboardEvent("keydown", {{ key: "Home" }}));
  return true;
}})()"""


def exact(browser):
    """The page's picture at rest, and how it drew."""
    wait_for(lambda: browser.ask(f"!!{ELEMENT}.player"))
    browser.ask(AGAIN)
    wait_for(lambda: browser.ask("told.at(-1) === 'exact'"))
    return browser.picture(), browser.ask("told")


@pytest.fixture(scope="module")
def browsers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsers")
    both = [Firefox(FIREFOX, folder / "firefox"), Browser(CHROMIUM, folder / "chromium", (500, 400))]
    yield both
    for browser in both:
        browser.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn_as_in_chromium(name, browsers, tmp_path):
    firefox, chromium = browsers
    out = tmp_path / "page.html"
    write_page(name, out)
    firefox.open(out.as_uri())
    width, height = firefox.ask("[innerWidth, innerHeight]")
    chromium.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    chromium.open(out.as_uri())
    ours, theirs = exact(firefox)[0], exact(chromium)[0]
    assert theirs.std() > 5 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 0.5
    assert firefox.errors() == []


def test_moving_pictures_are_drawn_by_webgl(browsers, tmp_path):
    firefox, out = browsers[0], tmp_path / "page.html"
    write_page("example:toys", out)
    text = out.read_text(encoding="utf-8").replace("<sine-field ", '<sine-field webgl="always" ')
    out.write_text(text, encoding="utf-8")
    firefox.open(out.as_uri())
    if not firefox.ask("!!document.createElement('canvas').getContext('webgl2')"):
        pytest.skip("this Firefox has no WebGL 2")
    wait_for(lambda: firefox.ask(f"{ELEMENT}.player?.quick?.size >= 128"))
    still, how = exact(firefox)
    assert "quick" in how and firefox.errors() == []
    firefox.ask(f"{ELEMENT}.player.exactly = () => {{}}")
    firefox.ask(AGAIN)
    wait_for(lambda: firefox.ask("told.at(-1) === 'quick'"))
    moving = firefox.picture()
    assert np.abs(moving - still).mean() < 2 and moving.std() > 5
