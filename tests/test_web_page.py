"""`sinefield page`: what it writes, and what a browser makes of it."""

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, wait_for

import sinefield
from sinefield.commands.cli import main
from sinefield.compress.container import MAX_FILE
from sinefield.errors import SinefieldError
from sinefield.export.field_page import write_page
from sinefield.export.player import script_for
from sinefield.files import read_bytes
from sinefield.store.fields import load_field, save_field
from sinefield.store.sine_files import load_packed

WEB = Path(sinefield.__file__).parent / "web"
GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = {"toys": "radiance", "spot": "shape", "picture": "image"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def contents(page):
    """The files that a page holds."""
    return [base64.b64decode(text) for text in re.findall(r'class="field">([^<]*)<', page)]


# --- what is written


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_holds_the_file_and_says_its_sizes(name, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["page", f"example:{name}", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    data = out.read_bytes()
    assert report["kind"] == EXAMPLES[name] and report["bytes"] == len(data)
    assert abs(report["gzip_bytes"] - len(gzip.compress(data, 9))) < 50
    assert report["code_gzip_bytes"] < 14_300 and report["gzip_bytes"] < 30_000
    file = WEB.parent / "example_fields" / f"{name}.sine"
    assert contents(data.decode()) == [file.read_bytes()]


def test_a_page_fetches_nothing_and_runs_no_other_script(tmp_path):
    out = tmp_path / "page.html"
    write_page("example:knot", out)
    text = out.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']""", text.split("<body>")[1].split("<script>")[0])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "worker-src blob:" in policy
    for tag in ("script", "style"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        assert base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode() in policy
    assert "innerHTML" not in text and "eval(" not in text


def test_a_title_is_a_text(tmp_path):
    file = tmp_path / "<img onerror=x>.sine"
    shutil.copy(GOLDEN / "shape.sine", file)
    write_page(file, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>&lt;img onerror=x&gt;</title>" in text and "<img" not in text


def test_a_run_is_rounded_to_twelve_bits(tmp_path):
    folder = GOLDEN / "runs" / "shape"
    report = write_page(folder, tmp_path / "page.html")
    (data,) = contents((tmp_path / "page.html").read_text(encoding="utf-8"))
    file = tmp_path / "rounded.sine"
    file.write_bytes(data)
    assert report["field_bytes"] == len(data)
    packed, trained = load_packed(file), dict(load_field(folder)[0].named_parameters())
    assert packed.tensors.keys() == trained.keys()
    for name, coded in packed.tensors.items():
        was = trained[name].detach().numpy()
        assert np.abs(coded.values() - was).max() <= 1.02 * np.abs(was).max() / 4094  # half a step, its bfloat16


def test_an_edit_goes_beside_its_base(tmp_path):
    report = write_page(GOLDEN / "shape.sine", tmp_path / "page.html", adapters=[GOLDEN / "edit_of_shape.sine"])
    found = contents((tmp_path / "page.html").read_text(encoding="utf-8"))
    wanted = [read_bytes(GOLDEN / name, MAX_FILE) for name in ("shape.sine", "edit_of_shape.sine")]
    assert found == wanted and report["field_bytes"] == sum(map(len, wanted))


def test_a_code_goes_beside_its_base(tmp_path):
    base, code = GOLDEN / "shared.sine", GOLDEN / "code_of_shared.sine"
    report = write_page(base, tmp_path / "page.html", adapters=[code])
    assert report["kind"] == "shape"
    found = contents((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found == [base.read_bytes(), code.read_bytes()]
    with pytest.raises(SinefieldError, match="cannot draw a field of kind shared"):
        write_page(base, tmp_path / "base.html")
    with pytest.raises(SinefieldError, match="--adapter CODE"):
        write_page(code, tmp_path / "code.html")


def test_what_cannot_be_a_page_is_refused_and_nothing_is_written(tmp_path):
    out = tmp_path / "page.html"
    with pytest.raises(SinefieldError, match="cannot draw a field of kind shapes"):
        write_page(GOLDEN / "shapes.sine", out)
    with pytest.raises(SinefieldError, match=r"must end in \.html"):
        write_page("example:knot", tmp_path / "page.pdf")
    with pytest.raises(SinefieldError, match="no such"):
        write_page(tmp_path / "none.sine", out)
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(SinefieldError, match="exists already"):
        write_page("example:knot", out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("shape", "shape.lean"),
        ("shape_sheet", "shape"),
        ("shape_hash", "shape"),
        ("occupancy_dense", "shape"),
        ("radiance", "radiance.lean"),
        ("radiance_ndc", "radiance"),
        ("surface", "radiance"),
        ("image", "image"),
        ("mesh", "mesh"),
    ],
)
def test_a_page_has_the_smallest_script_that_draws_its_field(name, script):
    field, _ = load_field(GOLDEN / f"{name}.sine")
    assert script_for(field).strip() == (WEB / "made" / f"page.{script}.js").read_text(encoding="utf-8").strip()
    assert script_for(field, edited=True) != script_for(field)


def test_what_is_committed_is_what_the_sources_give():
    home = next(
        (p for p in (os.environ.get("SINEFIELD_NODE"), WEB) if p and (Path(p) / "node_modules/terser").is_dir()), None
    )
    if shutil.which("node") is None or home is None:
        pytest.skip("needs Node.js with esbuild, terser, wabt: npm install in sinefield/web, or SINEFIELD_NODE=FOLDER")
    done = subprocess.run(
        ["node", WEB / "tools" / "build.mjs", "--check"],
        env={**os.environ, "SINEFIELD_NODE": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- in a browser


@pytest.fixture
def browser(tmp_path):
    page = Browser(CHROMIUM, tmp_path / "profile", (400, 300))
    page.do("Page.enable")
    page.do("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    yield page
    page.close()


WATCH = """
window.told = {errors: [], drawn: []};
addEventListener("error", (e) => told.errors.push(e.message));
addEventListener("securitypolicyviolation", (e) => told.errors.push(e.violatedDirective));
document.addEventListener("DOMContentLoaded", () => {
  for (const e of document.querySelectorAll("sine-field")) {
    e.addEventListener("draw", ({ detail }) => told.drawn.push(detail));
    e.addEventListener("error", ({ detail }) => (told.failed = detail.message));
  }
});
"""


def drawn(page):
    """Waits for the exact picture."""
    wait_for(lambda: page.ask("told.drawn.at(-1) === 'exact' || told.failed"))
    assert page.ask("told.errors") == [] and not page.ask("told.failed")


@needs_browser
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_draws_from_disk_and_turns(name, browser, tmp_path):
    out = tmp_path / "page.html"
    write_page(f"example:{name}", out)
    browser.open(out.as_uri())
    drawn(browser)
    assert browser.ask("document.querySelector('sine-field').field.simd") is True
    first = browser.picture()
    assert first.std() > 10  # something is there
    browser.drag((200, 150), (290, 170))
    wait_for(lambda: browser.ask("told.drawn.length > 2 && told.drawn.at(-1) === 'exact'"))
    turned = browser.picture()
    assert np.abs(turned - first).mean() > 1
    browser.press("Home")
    wait_for(lambda: np.abs(browser.picture() - first).mean() < 0.5)


@needs_browser
def test_a_code_of_a_set_of_shapes_is_drawn_from_disk(browser, tmp_path):
    """Against the picture of the same shape as a file of its own."""
    base, code = GOLDEN / "shared.sine", GOLDEN / "code_of_shared.sine"
    write_page(base, tmp_path / "coded.html", adapters=[code])
    field, _ = load_field(base, [code])
    save_field(tmp_path / "run" / "field.safetensors", field)
    write_page(tmp_path / "run", tmp_path / "alone.html")
    pictures = []
    for name in ("coded", "alone"):
        browser.open((tmp_path / f"{name}.html").as_uri())
        drawn(browser)
        pictures.append(browser.picture())
    assert pictures[0].std() > 10 and np.abs(pictures[0] - pictures[1]).mean() < 1


@needs_browser
def test_without_wasm_a_page_draws_the_same(browser, tmp_path):
    out = tmp_path / "page.html"
    write_page(GOLDEN / "shape.sine", out)
    pictures = []
    for policy in ("'wasm-unsafe-eval'", ""):
        out.write_text(out.read_text(encoding="utf-8").replace(" 'wasm-unsafe-eval'", f" {policy}"), encoding="utf-8")
        browser.open(out.as_uri())
        wait_for(lambda: browser.ask("told.drawn.at(-1) === 'exact'"))
        simd = browser.ask("document.querySelector('sine-field').field.simd")
        assert simd is bool(policy) and not browser.ask("told.failed")
        pictures.append(browser.picture())
    assert pictures[0].std() > 5 and np.abs(pictures[0] - pictures[1]).mean() < 0.1


@needs_browser
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda data: b"GIF89a" + data, "this is not a .sine file"),
        (lambda data: data[:-40], "checksum is wrong"),
        (lambda data: data[:4] + b"\x09" + data[5:], "of version 9"),
        (lambda _: read_bytes(GOLDEN / "shapes.sine", MAX_FILE), "of the kind shapes"),
    ],
)
def test_bad_files_are_told_in_the_elements_place(change, line, browser, tmp_path):
    """One line, an event, and the page's other scripts go on."""
    data = base64.b64encode(change((GOLDEN / "shape.sine").read_bytes())).decode()
    script = (WEB / "made" / "sinefield.classic.js").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><script>{script}</script><sine-field></sine-field><script>
        document.addEventListener("DOMContentLoaded", () => setTimeout(() => {{
          document.querySelector("sine-field").show(Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0)));
          window.after = 1;
        }}));</script>""",
        encoding="utf-8",
    )
    browser.open(page.as_uri())
    wait_for(lambda: browser.ask("window.told && told.failed"))
    assert line in browser.ask("told.failed") and browser.ask("window.after") == 1
    shown = browser.ask("document.querySelector('sine-field').shadowRoot.querySelector('p').textContent")
    assert line in shown and "\n" not in shown and browser.ask("told.errors") == []


@needs_browser
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: text[:400] + "AAAA" + text[404:], "the file is damaged"),
        (lambda text: text[:400] + text[-4:], "the file is damaged"),
        (lambda text: text[:400] + "?", "cannot be drawn"),
    ],
)
def test_a_page_with_a_damaged_file_says_so(change, line, browser, tmp_path):
    out = tmp_path / "page.html"
    write_page(GOLDEN / "radiance.sine", out)
    text = re.sub(r'(?<=class="field">)[^<]*', lambda found: change(found[0]), out.read_text(encoding="utf-8"))
    out.write_text(text, encoding="utf-8")
    browser.open(out.as_uri())
    wait_for(lambda: browser.ask("window.told && document.readyState === 'complete'"))
    assert line in browser.ask("document.querySelector('sine-field').shadowRoot.querySelector('p').textContent")
    assert browser.ask("document.querySelector('button').hidden === !document.fullscreenEnabled")
    assert browser.ask("told.errors") == []


@needs_browser
def test_an_element_loads_lazily_and_tells_what_it_is(browser, tmp_path):
    (tmp_path / "sinefield.js").write_bytes((WEB / "made" / "sinefield.classic.js").read_bytes())
    data = base64.b64encode((GOLDEN / "image.sine").read_bytes()).decode()
    (tmp_path / "page.html").write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><script src="sinefield.js"></script>
        <div style="height:3000px"></div><sine-field src="data:;base64,{data}" alt="a face"></sine-field>"""
    )
    browser.open((tmp_path / "page.html").as_uri())
    wait_for(lambda: browser.ask("window.told && document.readyState === 'complete'"))
    element = "document.querySelector('sine-field')"
    assert browser.ask(f"[{element}.getAttribute('role'), {element}.getAttribute('aria-label')]") == ["img", "a face"]
    assert browser.ask(f"{element}.field") is None
    browser.ask("scrollTo(0, 3000)")
    drawn(browser)
    assert browser.ask(f"{element}.field.kind") == "image"


@needs_browser
def test_without_webgl_and_simd_a_page_draws(browser, tmp_path):
    """As on a browser that has neither; the page's other scripts go on."""
    browser.do(
        "Page.addScriptToEvaluateOnNewDocument",
        source="const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (name, ...more) {"
        "  return name === 'webgl2' ? null : get.call(this, name, ...more); };"
        "WebAssembly.Module = class { constructor() { throw new WebAssembly.CompileError('no SIMD'); } };"
        "addEventListener('load', () => (window.after = 1));",
    )
    out = tmp_path / "page.html"
    write_page(GOLDEN / "radiance.sine", out)
    text = out.read_text(encoding="utf-8").replace("<sine-field ", '<sine-field webgl="always" ')
    out.write_text(text, encoding="utf-8")
    browser.open(out.as_uri())
    drawn(browser)
    element = "document.querySelector('sine-field')"
    assert browser.ask(f"[{element}.field.simd, {element}.player.quick, window.after]") == [False, None, 1]
    assert browser.picture().std() > 5


@needs_browser
def test_fingers_turn_and_zoom_on_a_phone(browser, tmp_path):
    out = tmp_path / "page.html"
    write_page(GOLDEN / "shape.sine", out)
    browser.do("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.do("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    browser.open(out.as_uri())
    drawn(browser)
    first = browser.picture()
    assert first.shape == (844, 390, 3) and first.std() > 5
    assert browser.ask("document.documentElement.scrollWidth") == 390
    for fingers in ([(195, 400)], [(150, 400), (240, 400)]):
        count = browser.ask("told.drawn.length")
        swipe(browser, fingers)
        wait_for(lambda count=count: browser.ask(f"told.drawn.length > {count} && told.drawn.at(-1) === 'exact'"))
        second = browser.picture()
        assert np.abs(second - first).mean() > 1
        first = second
    player = "document.querySelector('sine-field').player"
    assert browser.ask(f"{player}.view.distance < 0.6 * {player}.start.distance")


def swipe(page, fingers):
    """Fingers on the page, 70 pixels apart from their middle; one alone to the left."""
    middle = sum(x for x, _ in fingers) / len(fingers)
    for step in range(7):
        away = [10 * step if x > middle else -10 * step for x, _ in fingers]
        points = [{"x": x + a, "y": y, "id": i} for i, ((x, y), a) in enumerate(zip(fingers, away, strict=True))]
        page.do("Input.dispatchTouchEvent", type="touchMove" if step else "touchStart", touchPoints=points)
    page.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


@needs_browser
def test_a_mesh_is_drawn_by_webgl_and_without(browser, tmp_path):
    out, pictures = tmp_path / "page.html", []
    write_page(GOLDEN / "mesh.sine", out)
    text = out.read_text(encoding="utf-8")
    for gl in ("always", "never"):
        out.write_text(text.replace("<sine-field ", f'<sine-field webgl="{gl}" '), encoding="utf-8")
        browser.open(out.as_uri())
        drawn(browser)
        if gl == "always":
            wait_for(lambda: browser.ask("told.drawn.includes('quick')"))
        pictures.append(browser.picture())
    assert pictures[0].std() > 5 and np.abs(pictures[0] - pictures[1]).mean() < 0.5


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["radiance_ndc", "shape_sheet", "shape_hash"])
def test_what_lean_scripts_lack_is_drawn_by_the_others(name, browser, tmp_path):
    out = tmp_path / "page.html"
    write_page(GOLDEN / f"{name}.sine", out)
    browser.open(out.as_uri())
    drawn(browser)
    assert browser.picture().std() > 3


NEAR = """(() => {
  const { field, player } = document.querySelector("sine-field") ?? {}, quick = player?.quick;
  if (!quick?.ready || quick.size < 128) return null;
  const [x, y, z, , , , distance, degrees, focal] = field.view, side = 100, up = Array.from(field.view.subarray(3, 6));
  const elevation = (degrees * Math.PI) / 180, size = { width: side, height: side };
  const pose = sinefield.orbitPose({ centre: [x, y, z], up, distance, azimuth: 1, elevation });
  const camera = { ...size, focal: focal * side, pose };
  const canvas = Object.assign(document.createElement("canvas"), size), context = canvas.getContext("2d");
  quick.draw(camera, context);
  const seen = context.getImageData(0, 0, side, side).data, { colours, opacities } = field.render(camera);
  const off = opacities.map((a, i) => [0, 1, 2].reduce((sum, c) =>
    sum + (colours[3 * i + c] + (1 - a) * field.background[c] - seen[4 * i + c] / 255) ** 2, 0));
  return -10 * Math.log10(off.reduce((a, b) => a + b) / off.length / 3);
})()"""


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("workers", [True, False])
def test_voxels_are_near_the_exact_picture(workers, browser, tmp_path):
    """By workers, which have the page's own script, and by the page's own thread alone where a policy forbids them."""
    script = (WEB / "made" / "sinefield.classic.js").read_text(encoding="utf-8")
    data = base64.b64encode((WEB.parent / "example_fields" / "toys.sine").read_bytes()).decode()
    policy = f"worker-src {'blob:' if workers else chr(39) + 'none' + chr(39)}"
    (tmp_path / "page.html").write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
        <script>{script}</script><sine-field webgl="always"></sine-field><script>
        document.querySelector("sine-field").show(Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0)));</script>""",
        encoding="utf-8",
    )
    browser.do(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.posts = 0; const post = Worker.prototype.postMessage;"
        "Worker.prototype.postMessage = function (...given) { posts++; return post.apply(this, given); };"
        "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 4 });",
    )
    browser.open((tmp_path / "page.html").as_uri())
    assert wait_for(lambda: browser.ask(NEAR)) > 43
    assert browser.ask("told.errors.filter((line) => line !== 'worker-src')") == []
    if workers:
        assert browser.ask("posts") > 3
