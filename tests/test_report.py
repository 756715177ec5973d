"""The page of a run: read back by a parser, its mesh, video and pictures against the run's own, and in a browser."""

import base64
import errno
import io
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import trimesh
from PIL import Image

from sinefield.commands.cli import main
from sinefield.compress.quantize import Uniform
from sinefield.errors import SinefieldError
from sinefield.export import report
from sinefield.export.mesh import extract_field
from sinefield.export.page import curve, html_table, linear_ticks, log_ticks, page
from sinefield.export.report import mesh_data, write_report
from sinefield.fields.shape import kind, painter
from sinefield.store.fields import load_field
from sinefield.store.sine_files import save_sine, to_packed
from sinefield.viewer import scenes

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert('x')&\"<b>"


class Page(HTMLParser):
    """Elements as (tag, attributes, text within), in order of their ends; fails on tags that are not balanced."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        entry = (tag, dict(attributes), [])
        (self.elements if tag in VOID else self.open).append(entry)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.elements.append(self.open.pop())

    def handle_data(self, text):
        for _, _, inner in self.open:
            inner.append(text)

    def all(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]

    def text(self, tag):
        return [text for _, text in self.all(tag)]

    @property
    def mesh(self):
        return next(
            (json.loads(text) for attributes, text in self.all("script") if attributes.get("id") == "mesh"), None
        )


def decoded(mesh):
    """Vertices, faces and colours of a page's mesh, by its description alone."""
    low, high = np.array(mesh["box"])
    vertices = np.frombuffer(base64.b64decode(mesh["vertices"]), "<u2").reshape(-1, 3)
    faces = np.frombuffer(base64.b64decode(mesh["faces"]), "<u2").reshape(-1, 3)
    colours = mesh["colours"] and np.frombuffer(base64.b64decode(mesh["colours"]), "u1").reshape(-1, 3)
    return low + vertices / 65535 * (high - low), faces, colours


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    for module, name, value in (
        *((report, "MESH_RESOLUTION", 28), (report, "FRAMES", 3), (report, "VIDEO_WIDTH", 32)),
        (painter, "RESOLUTION", 24),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def copied(ball_run, tmp_path):
    """A copy of the ball's run, to change."""
    return shutil.copytree(ball_run[0], tmp_path / "ball")


def packed(run, path, note):
    field, _ = load_field(run)
    save_sine(path, to_packed(field, {n: Uniform(p, bits=8) for n, p in field.named_parameters()}, note))
    return path


@pytest.mark.parametrize("kind", ["shape", "radiance"])
def test_a_page_holds_what_the_run_holds(kind, ball_run, photo_run, tmp_path, capfd):
    folder, scores = ball_run if kind == "shape" else photo_run
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(folder), "--out", str(out), "--json"]) == 0
    made = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert made["bytes"] == out.stat().st_size < 8e6 and made["kind"] == kind and made["left_out"] == []
    read = Page(out)
    assert read.text("pre")[0] == f"sinefield train {folder}/config.yaml --out runs/{folder.name}_again"
    whole = " ".join(read.text("body"))
    assert read.text("title")[:1] == read.text("h1") == [folder.name]
    assert f"{scores['params']:,} parameters, {scores['bytes']:,} bytes, {scores['steps']} steps" in whole
    main_score = "iou" if kind == "shape" else "psnr"
    assert f"{scores[main_score]:.4g}" in read.text("b")
    assert (folder / "config.yaml").read_text() in read.text("pre")
    assert str(scores["machine"]["cpu"]) in whole
    assert len(read.all("svg")) == 2
    field, _ = load_field(folder)
    names = [name for name, _ in field.named_parameters()]
    assert set(names) <= set(read.text("td"))
    # pictures byte for byte, the video frame for frame
    found = sorted(folder.glob("pictures/view_*.png") if kind == "radiance" else folder.glob("pictures/shape.png"))
    assert found
    for path, (attributes, _) in zip(found, read.all("img"), strict=True):
        assert base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,")) == path.read_bytes()
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    ((video, _),) = read.all("video")
    (tmp_path / "turn.mp4").write_bytes(base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,")))
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "turn.mp4"))[0] == 3
    # the field itself, drawn by the page
    assert len(read.all("sine-field")) == 1
    (file,) = (text for attributes, text in read.all("script") if attributes.get("class") == "field")
    (tmp_path / "live.sine").write_bytes(base64.b64decode(file))
    assert load_field(tmp_path / "live.sine")[0].kind == kind
    if kind == "shape":  # which is its surface
        assert read.mesh is None and made["vertices"] == 0
        return
    # the mesh is the field's surface, turned to stand upright about its middle
    vertices, faces, colours = decoded(read.mesh)
    truth, truth_faces, _ = extract_field(field, 28)
    assert len(vertices) == made["vertices"] and (faces == truth_faces).all()
    middle = (truth.min(0) + truth.max(0)) / 2
    upright = (truth - middle)[:, [0, 2, 1]] * [1, 1, -1]
    assert np.abs(vertices - upright).max() <= np.ptp(truth, axis=0).max() / 65535
    # the photographed ball is red above, blue below
    mean = [colours[side].mean(0) for side in (vertices[:, 1] > 0.3, vertices[:, 1] < -0.3)]
    assert mean[0][0] > mean[0][2] and mean[1][2] > mean[1][0]


def references(read):
    for tag, attributes, _ in read.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            if name in attributes:
                yield attributes[name]


def test_strings_are_escaped_and_nothing_is_fetched(ball_run, tmp_path):
    run = shutil.copytree(ball_run[0], tmp_path / EVIL)
    config = (run / "config.yaml").read_text()
    path = "/data/</pre><script src=http://evil.example/a.js></script>.ply"
    (run / "config.yaml").write_text(re.sub("(?m)^  path: .*$", f"  path: {path}", config))
    content = json.loads((run / "report.json").read_text())
    remark = "<img src=http://evil.example onerror=alert(1)>"
    content["remarks"], content["machine"] = [remark], {"cpu": "<i>fast</i>"}
    (run / "report.json").write_text(json.dumps(content))
    write_report(run)
    read = Page(run / "report.html")
    assert read.text("title")[:1] == read.text("h1") == [EVIL]
    whole = " ".join(read.text("body"))
    assert remark in whole and "<i>fast</i>" in whole and f"path: {path}" in whole
    assert not read.all("i") and len(read.all("img")) == 1 and len(read.all("b")) == len(read.all("li"))
    data, player = read.all("script")
    assert data[0] == {"type": "text/plain", "class": "field"} and player[0] == {}
    found = list(references(read))
    assert len(found) == 2 and all(value.startswith("data:") for value in found)
    assert "url(" not in "".join(read.text("style")) and "@import" not in "".join(read.text("style"))
    policy = next(a["content"] for a, _ in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_text_in_tables_and_labels_is_escaped():
    table = html_table(["<a>", "b"], [{"<a>": "<x>&", "b": [3, 4]}, {"<a>": None, "b": 1234567}])
    root = ElementTree.fromstring(table)
    assert [e.text for e in root.iter("th")] == ["<a>", "b"]
    assert [e.text for e in root.iter("td")] == ["<x>&", "3×4", None, "1,234,567"]
    root = ElementTree.fromstring(curve([(1, 2), (2, 3)], "loss", 'a "<b>'))
    assert root.find("svg").get("aria-label") == root.find("figcaption").text == 'a "<b>'
    assert "<title>&lt;t&gt;</title>" in page("<t>", [], viewer=False)


def drawn(svg):
    """Circles' centres, and the ticks of the vertical axis as (place, number)."""
    root = ElementTree.fromstring(svg).find("svg")
    dots = np.array([[float(c.get("cx")), float(c.get("cy"))] for c in root.iter("circle")])
    grid = [float(line.get("y1")) for line in root.iter("line")]
    numbers = [float(t.text) for t in root.iter("text") if t.get("text-anchor") == "end"]
    return dots, list(zip(grid, numbers, strict=True))


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_stand_where_their_axes_say(logarithmic):
    values = [0.02, 0.08, 0.32] if logarithmic else [1.0, 3.0, 5.0]
    points = [*zip([0, 10, 20], values, strict=True), (25, float("nan")), (40, values[0])]
    dots, ticks = drawn(curve(points, "loss", "loss", logarithmic))
    assert len(dots) == 4
    assert np.allclose(np.diff(dots[:3], axis=0)[0], np.diff(dots[:3], axis=0)[1], atol=0.15)
    assert dots[3, 1] == dots[0, 1] and dots[1, 1] < dots[0, 1]
    assert dots[3, 0] - dots[0, 0] == pytest.approx(4 * (dots[1, 0] - dots[0, 0]), abs=0.3)
    scale = np.log if logarithmic else np.asarray
    slope, offset = np.polyfit(scale(values), dots[:3, 1], 1)
    assert len(ticks) >= 3
    for at, number in ticks:
        assert at == pytest.approx(slope * scale(number) + offset, abs=0.3)


def test_curves_of_little():
    assert curve([], "loss", "loss") == curve([(1, 0.0)], "loss", "loss", logarithmic=True) == ""
    for values in ([5.0], [0.0, 0.0], [1e-9, 1e-9]):
        dots, ticks = drawn(curve(list(enumerate(values)), "loss", "loss"))
        assert len(dots) == len(values) and np.isfinite(dots).all() and len(ticks) >= 2
    for low, high in ((0, 1), (-3.7, 12), (0.9871, 0.9874), (1e-7, 3e5)):
        ticks = linear_ticks(low, high)
        assert 3 <= len(ticks) <= 6 and low <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    for low, high in ((-5.2, 1.1), (-1.05, -1.0), (0.2, 0.9)):
        assert all(low <= at <= high and number == pytest.approx(10**at) for at, number in log_ticks(low, high))
        assert len(log_ticks(low, high)) >= 3


@pytest.mark.parametrize("up", [(0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 0, -2), (0.3, -0.5, 0.8)])
def test_a_mesh_is_turned_upright_and_not_mirrored(up):
    mesh = trimesh.creation.box((1, 2, 3))
    mesh.vertices[mesh.vertices[:, 0] > 0] *= 1.2
    mesh.apply_translation([50, -7, 9])
    vertices, faces, _ = decoded(mesh_data(mesh.vertices, mesh.faces, None, np.array(up, float)))
    upright = trimesh.Trimesh(vertices, faces, process=False)
    assert upright.volume == pytest.approx(mesh.volume, rel=1e-3)  # signed
    heights = mesh.vertices @ (np.array(up) / np.linalg.norm(up))
    assert np.allclose(vertices[:, 1], heights - (heights.min() + heights.max()) / 2, atol=1e-3)


def test_a_mesh_too_large_is_made_coarser(ball_run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_VERTICES", 900)
    monkeypatch.setattr(report, "MAX_LIVE", 100)
    made = write_report(ball_run[0], tmp_path / "a.html")
    assert any(line.startswith("live field: ") and "too many" in line for line in made["left_out"])
    vertices, faces, _ = decoded(Page(tmp_path / "a.html").mesh)
    assert 300 < len(vertices) == made["vertices"] <= 900 and faces.max() == len(vertices) - 1


def test_pieces_left_out_are_said_by_report_and_viewer(ball_run, tmp_path, monkeypatch):
    def strayed(*given):
        vertices, faces, about = extract_field(*given)
        return vertices, faces, {**about, "strays": 2}

    for place in (report, scenes):
        monkeypatch.setattr(place, "extract_field", strayed)
    monkeypatch.setattr(report, "MAX_LIVE", 100)
    write_report(ball_run[0], tmp_path / "a.html")
    assert "left out 2 pieces wholly outside the box" in (tmp_path / "a.html").read_text()
    said = []
    panel = SimpleNamespace(settings=("rgb", 0.0, 32), say=said.append)
    server = SimpleNamespace(scene=MagicMock())
    scene = scenes.ShapeScene.__new__(scenes.ShapeScene)
    scene.server, scene.panel, scene.sent = server, panel, 0
    scene._show(load_field(ball_run[0])[0], "rgb", 0.0, 32)
    assert "left out 2 pieces" in said[-1]


def test_a_large_picture_goes_in_smaller(copied, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (500, 1500, 3), np.uint8)
    Image.fromarray(noise).save(copied / "pictures" / "shape.png")
    write_report(copied)
    ((attributes, _),) = Page(copied / "report.html").all("img")
    with Image.open(io.BytesIO(base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,")))) as image:
        assert image.size == (1200, 400)


def test_a_packed_file_says_what_it_lacks(ball_run, tmp_path):
    file = packed(ball_run[0], tmp_path / "small.sine", {"steps": 250, "seconds": 3, "iou": [0.91, 0.87]})
    made = write_report(file)
    assert made["out"] == str(tmp_path / "small.html")
    read = Page(tmp_path / "small.html")
    assert read.text("b") == ["0.91", "0.87"] and read.text("h1") == ["small.sine"]
    assert any("curves and pictures" in line for line in made["left_out"])
    assert set(made["left_out"]) <= set(read.text("li"))
    assert read.all("sine-field") and read.all("video") and not read.all("img") and not read.all("svg")
    assert "header" in read.text("td") and "width: 32" in read.text("pre")[0]


def test_what_a_run_lacks_is_left_out_and_said(copied, monkeypatch):
    for name in ("report.json", "metrics.jsonl"):
        (copied / name).unlink()
    (copied / "pictures" / "shape.png").write_bytes(b"no picture")

    def none(*_):
        raise SinefieldError("level 0 is <outside> the field's range")

    monkeypatch.setattr(report, "contents_of", none)
    monkeypatch.setattr(report, "extract_field", none)
    monkeypatch.setattr(kind, "ShapePainter", none)
    made = write_report(copied)
    read = Page(copied / "report.html")
    assert [line.split(":")[0] for line in made["left_out"]] == [
        *("scores", "curves", "picture shape.png", "pictures", "live field", "mesh", "video")
    ]
    assert made["left_out"] == read.text("li") and made["vertices"] == 0
    assert not any(read.all(tag) for tag in ("script", "canvas", "video", "img", "svg"))


def test_bad_input_is_one_line_and_leaves_what_was(copied, tmp_path, capfd, monkeypatch):
    def says(*words, arguments):
        assert main(["report", *map(str, arguments)]) == 2
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("sinefield: ")]
        assert len(lines) == 1 and all(str(word) in lines[0] for word in words), lines

    page_path = copied / "report.html"
    says(tmp_path / "gone", "no such", arguments=[tmp_path / "gone"])
    assert not (tmp_path / "gone").exists()
    says("no such packed field", arguments=[tmp_path / "gone.sine"])
    says(".html", arguments=[copied, "--out", tmp_path / "a.pdf"])
    page_path.write_text("mine")
    says(page_path, "--overwrite", arguments=[copied])
    whole = (copied / "report.json").read_text()
    (copied / "report.json").write_text("{")
    says("report.json", "damaged", arguments=[copied, "--overwrite"])
    (copied / "report.json").write_text(whole)
    with monkeypatch.context() as patch:
        # the video, made in a folder of its own, is left out when that is full
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", full)
        says("disk is full", arguments=[copied, "--overwrite"])
    assert page_path.read_text() == "mine"
    assert not [path for path in copied.iterdir() if path.name.startswith(".tmp-")]
    assert main(["report", str(copied), "--overwrite"]) == 0 and Page(page_path).all("h1")


def test_training_anew_removes_the_old_page(ball, tmp_path):
    from small import shape_config

    from sinefield.learning.train import train

    train(shape_config(ball, steps=2), tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("of the old run")
    train(shape_config(ball, steps=2), tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "report.html").exists()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_draws_the_mesh(tmp_path):
    ball = trimesh.creation.icosphere(4, radius=2.5)
    ball.apply_translation([100, 0, 0])
    colours = np.where(ball.vertices[:, 1:2] > 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    data = json.dumps(mesh_data(ball.vertices, ball.faces, colours, np.array([0.0, 1.0, 0.0])))
    body = ['<canvas id="viewer"></canvas>', '<p id="hint"></p>']
    body.append(f'<script type="application/json" id="mesh">{data}</script>')
    # A script that should not run, for want of its hash in the policy.
    body.append('<p id="safe">safe</p><script>document.getElementById("safe").remove()</script>')
    path = tmp_path / "page.html"
    path.write_text(page("ball", body, viewer=True))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--hide-scrollbars"]
    command += ["--enable-unsafe-swiftshader", "--window-size=800,1000", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=3000"]
    dom = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, timeout=300, check=True).stdout
    assert b'<p id="safe">' in dom
    shot = tmp_path / "shot.png"
    subprocess.run([*command, f"--screenshot={shot}", path.as_uri()], capture_output=True, timeout=300, check=True)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 100) & (pixels[..., 0] > 2 * pixels[..., 2])
    blue = (pixels[..., 2] > 100) & (pixels[..., 2] > 2 * pixels[..., 0])
    rows, columns = np.nonzero(red | blue)
    # The canvas is 480 pixels high; a ball in its box's ball of radius 1, seen from 2.8.
    radius = 1.3 * 480 * np.tan(np.arcsin(1 / np.sqrt(3) / 2.8))
    assert np.ptp(rows) == pytest.approx(2 * radius, rel=0.04) and np.ptp(columns) == pytest.approx(
        2 * radius, rel=0.04
    )
    assert np.nonzero(red)[0].mean() < np.nonzero(blue)[0].mean()
    assert red.sum() > 1.2 * blue.sum()  # seen from somewhat above
