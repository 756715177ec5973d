"""The viewer: what its pictures show, how they are refined, how a run is followed, and the page in a real browser."""

import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import PATIENCE, Browser, wait_for
from matplotlib import colormaps
from PIL import Image

from sinefield.cameras.cameras import Cameras, look_at
from sinefield.commands.cli import main
from sinefield.compress.quantize import Uniform
from sinefield.errors import SinefieldError
from sinefield.export.mesh import extract_field
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import save_sine, to_packed
from sinefield.tensor_files import load_tensors, save_tensors
from sinefield.viewer import follow, picture, scenes
from sinefield.viewer.follow import Follower
from sinefield.viewer.panel import Settings
from sinefield.viewer.picture import STRIP, Look, paint, refine, stages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


@pytest.fixture(scope="module")
def field(photo_run):
    return load_field(photo_run[0])[0]


def seen_from(eye, target, width, height, fov, up=(0, 0, 1)):
    """A camera by the house's own conventions, its pixels square."""
    focal = height / (2 * math.tan(fov / 2))
    pose = look_at(eye, target, up)[None]
    centre = torch.tensor([[width / 2, height / 2]])
    return Cameras(pose, torch.full((1, 2), focal), centre, torch.zeros(1, 4), width, height)


def rendered(field, cameras):
    """The picture, (h, w, 3) floats of 0 to 255."""
    colours = field.render(*cameras.view(0)).over(field.background)
    return 255 * colours.view(cameras.height, cameras.width, 3).numpy()


def test_a_look_is_opencv_s():
    # Unturned, it looks along +z, x to the right, y downwards.
    rays_o, rays_d = Look((1.0, 0, 0, 0), (1.0, 2, 3), math.pi / 2, 2.0).cameras(40, 20).view(0)
    d = rays_d.view(20, 40, 3) / rays_d.view(20, 40, 3)[..., 2:]
    assert torch.equal(rays_o, torch.tensor([1.0, 2, 3]).expand(800, 3))
    assert torch.allclose(d[0, 0], torch.tensor([-1.95, -0.95, 1])) and torch.allclose(
        d[19, 39], torch.tensor([1.95, 0.95, 1])
    )
    # Turned by 90° about y, it looks along +x.
    turned = Look((math.sqrt(0.5), 0, math.sqrt(0.5), 0), (0.0, 0, 0), 1.0, 1.0).cameras(1, 1).view(0)[1]
    assert torch.allclose(turned, torch.tensor([[1.0, 0, 0]]), atol=1e-6)
    assert Look((1.0, 0, 0, 0), (0.0, 0, 0), 1.0, 0.5).size(100) == (50, 100)


LOOK = Look((math.cos(0.9), -math.sin(0.9), 0.0, 0.0), (0.1, -3.5, 0.8), 0.8, 1.25)


def test_refining_ends_with_the_whole_picture(field, monkeypatch):
    monkeypatch.setattr(picture, "STRIP", 200)
    width, height = LOOK.size(50)
    assert (width, height) == (50, 40) and stages(50, 40)[-1] == (50, 40) and len(stages(50, 40)) == 3
    found = [
        (r.width, r.done, [x.clone() for x in r.pixels], paint(field, LOOK, r)) for r in refine(field, LOOK, 50, 40)
    ]
    whole = field.render(*LOOK.cameras(50, 40).view(0))
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(found[-1][2], whole, strict=True))
    assert float(whole.opacities.max()) > 0.5  # there is something to see
    assert [done for _, done, _, _ in found][-10:] == pytest.approx(np.linspace(0.1, 1, 10)) and found[0][1] == 0
    # Each size comes closer, and so does the picture while it is half done.
    truth = rendered(field, LOOK.cameras(50, 40))
    errors = []
    for w, _, _, image in found:
        full = np.asarray(Image.fromarray(image).resize((50, 40), Image.Resampling.NEAREST)).astype(float)
        errors.append(np.abs(full - truth).mean())
        assert image.shape[1] == w
    assert errors[0] > 1.5 * errors[-11] > 3 * errors[-1] and errors[-5] < errors[-10]


def counted(field, monkeypatch):
    rays = []
    render = type(field).render
    monkeypatch.setattr(type(field), "render", lambda self, o, d: rays.append(len(o)) or render(self, o, d))
    return rays


def test_who_stops_asking_stops_the_work(field, monkeypatch):
    rays = counted(field, monkeypatch)
    steps = refine(field, LOOK, 400, 320)
    for _ in range(3):
        next(steps)
    assert len(rays) == 3 and max(rays) <= STRIP and rays[0] > STRIP / 10


def test_channels_and_level(field):
    (*_, last) = refine(field, LOOK, 50, 40)
    opacities = last.pixels.opacities.view(40, 50).numpy()
    grey = paint(field, LOOK, last, "opacity")
    assert np.abs(grey - 255.0 * opacities[..., None]).max() <= 0.51
    assert np.abs(paint(field, LOOK, last) - rendered(field, LOOK.cameras(50, 40))).max() < 0.6
    kept = opacities >= 0.7
    assert 20 < kept.sum() < 1500
    for channel in ("rgb", "depth", "opacity"):
        every, some = paint(field, LOOK, last, channel), paint(field, LOOK, last, channel, 0.7)
        assert np.array_equal(some[kept], every[kept])
        assert (some[~kept] == (0 if channel == "opacity" else 255)).all()  # the background is white
    # Through the ball's middle, its surface is 1 nearer than the box's middle; the colours span the box's diagonal.
    rows, columns = np.nonzero(kept)
    middle = paint(field, LOOK, last, "depth")[round(rows.mean()), round(columns.mean())]
    diagonal = float((field.aabb[3:] - field.aabb[:3]).norm())
    assert np.abs(middle - 255 * np.array(colormaps["viridis"](0.5 + 1 / diagonal)[:3])).max() < 12


class Page:
    """What stands for a browser's page: a camera that a test moves, and the pictures that arrive."""

    def __init__(self, number, look):
        self.client_id, self.pictures, self.scene = number, [], self
        self.place(look)

    def place(self, look):
        size = {"image_width": 1000, "image_height": round(1000 / look.aspect)} if look else {"image_height": 0}
        size = {"image_width": 0, **size}
        look = look or LOOK
        self.camera = SimpleNamespace(
            wxyz=np.array(look.wxyz), position=np.array(look.position), fov=look.fov, aspect=look.aspect, **size
        )

    def set_background_image(self, image, format, jpeg_quality):
        self.pictures.append(image)


@pytest.fixture
def stage(field, monkeypatch):
    """A scene without a server, its pages, what its panel says, and one turn; the field's box is its own unit."""
    monkeypatch.setattr(picture, "STRIP", 200)
    monkeypatch.setattr(scenes, "REST_SECONDS", 0.0)
    monkeypatch.setattr(scenes, "OPENING_SECONDS", 0.0)
    monkeypatch.setattr(scenes, "SEND_SECONDS", 0.0)
    monkeypatch.setattr(scenes, "frame", lambda field: (np.zeros(3), 1.0))
    pages, said = [], []
    panel = SimpleNamespace(settings=Settings("rgb", 0.0, 50), say=said.append)
    server = SimpleNamespace(get_clients=lambda: {page.client_id: page for page in pages})
    scene = scenes.RadianceScene(server, panel)
    return scene, pages, panel, said, lambda: scene.turn(SimpleNamespace(field=field))


def test_a_resting_camera_gets_the_field_s_own_picture(field, stage):
    scene, pages, panel, said, turn = stage
    page = Page(0, LOOK)
    pages.append(page)
    while turn():
        pass
    assert np.abs(page.pictures[-1] - rendered(field, LOOK.cameras(50, 40))).max() < 0.6
    assert len(page.pictures) >= 2 and page.pictures[0].shape[1] < 50 and "50 × 40" in said[-1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(scene.photograph(page)))), page.pictures[-1])
    # Level and channel change what is shown at once, and nothing else does.
    n = len(page.pictures)
    assert not turn() and len(page.pictures) == n
    panel.settings = Settings("opacity", 0.0, 50)
    turn()
    assert not turn() and len(page.pictures) == n + 1 and not np.array_equal(page.pictures[-1], page.pictures[-2])


def test_a_page_that_was_just_opened_is_left_alone(field, stage, monkeypatch):
    _, pages, _, _, turn = stage
    monkeypatch.setattr(scenes, "OPENING_SECONDS", math.inf)
    page = Page(0, LOOK)
    pages.append(page)
    assert turn() and not turn() and len(page.pictures) == 1
    page.place(LOOK._replace(position=(0.5, -3.0, 0.8)))  # but a camera that moves is followed
    assert turn() and not turn() and len(page.pictures) == 2
    monkeypatch.setattr(scenes, "OPENING_SECONDS", 0.0)
    assert turn()


def test_a_camera_that_moves_or_leaves_abandons_the_picture(field, stage, monkeypatch):
    scene, pages, _, _, turn = stage
    rays = counted(field, monkeypatch)
    resting, leaving, hidden = Page(0, LOOK), Page(1, LOOK), Page(2, None)
    pages += [resting, leaving, hidden]
    for _ in range(4):
        assert turn()
    assert sum(rays) < 2 * 50 * 40 and not hidden.pictures  # nobody's picture is finished; no window, no picture
    pages.remove(leaving)
    moved = LOOK._replace(position=(0.5, -3.0, 0.8))
    resting.place(moved)
    rays.clear()
    while turn():
        pass
    assert sum(rays) == sum(w * h for w, h in stages(50, 40))  # the new picture and nothing of the old ones
    assert np.abs(resting.pictures[-1] - rendered(field, moved.cameras(50, 40))).max() < 0.6
    assert len(leaving.pictures) < len(resting.pictures) and scene.photograph(leaving) is None


def state_at(run, step, scale=1.0):
    """Rewrite a run's state as if it had been saved at `step`, its field's first bias scaled."""
    tensors, _ = load_tensors(run.state_path, "state")
    name = next(name for name in tensors if name.startswith("field.") and "bias" in name)
    save_tensors(run.state_path, {**tensors, name: tensors[name] * scale}, {"step": step, "seconds": step / 10})


def test_a_run_in_training_is_followed(photo_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(photo_run[0], folder)
    run = Run(folder)
    finished, state = run.field_path.read_bytes(), run.state_path.read_bytes()
    run.field_path.unlink()
    run.state_path.unlink()
    follower = Follower(folder)  # nothing saved yet
    assert not follower.snapshots and not follower.poll()
    run.state_path.write_bytes(state)
    assert follower.poll() and not follower.poll() and follower.training
    assert [s.step for s in follower.snapshots] == [150]
    # The state's field is the finished one's: they draw alike.
    cameras = LOOK.cameras(20, 16)
    truth = rendered(load_field(photo_run[0])[0], cameras)
    assert np.abs(rendered(follower.snapshots[0].field, cameras) - truth).max() < 0.5
    run.field_path.write_bytes(finished)
    assert follower.poll() and not follower.training and [s.step for s in follower.snapshots] == [150]
    # Trained on from there, then anew.
    state_at(run, 300, scale=-3.0)
    assert follower.poll() and follower.training and [s.step for s in follower.snapshots] == [150, 300]
    assert follower.nearest(200).step == 150 and follower.nearest(250).step == 300
    assert np.abs(rendered(follower.snapshots[1].field, cameras) - truth).max() > 5
    run.append_metrics({"step": 300, "seconds": 30.0, "loss": 0.1, "psnr": 12.0})
    assert follower.poll() and follower.metrics[-1]["psnr"] == 12.0
    monkeypatch.setattr(follow, "MAX_SNAPSHOTS", 4)
    for step in range(400, 1000, 100):
        state_at(run, step)
        assert follower.poll()
    steps = [s.step for s in follower.snapshots]
    assert len(steps) <= 4 and steps[0] == 150 and steps[-1] == 900 and steps == sorted(steps)
    state_at(run, 10)
    assert follower.poll() and [s.step for s in follower.snapshots] == [10]
    run.state_path.write_bytes(b"cut short")
    with pytest.raises(SinefieldError, match="not a state"):
        follower.poll()
    assert [s.step for s in follower.snapshots] == [10] and not follower.poll()  # said once


def test_a_packed_file_stays_as_it_is(photo_run, field, tmp_path):
    file = tmp_path / "small.sine"
    note = {"steps": 150, "seconds": 3}
    save_sine(file, to_packed(field, {n: Uniform(p, bits=8) for n, p in field.named_parameters()}, note))
    follower = Follower(file)
    assert [(s.step, s.field.kind) for s in follower.snapshots] == [(150, "radiance")]
    assert not follower.poll() and not follower.training and not follower.metrics


def refused(capfd, *arguments, says):
    assert main(["view", *map(str, arguments)]) == 2
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert len(lines) == 1 and all(text in lines[0] for text in says) and not out, err


def test_bad_input_is_one_line(photo_run, tmp_path, capfd, monkeypatch):
    run = photo_run[0]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "viser", None)
        refused(capfd, run, says=["pip install 'sinefield[view]'"])
    pytest.importorskip("viser")
    refused(capfd, tmp_path / "gone", says=["gone", "no such run"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(capfd, run, "--port", port, says=[f"port {port} of 127.0.0.1 is in use", "--port"])
    refused(capfd, run, "--port", 70000, says=["--port 70000"])
    refused(capfd, run, "--port", 0, "--host", "192.0.2.1", says=["192.0.2.1", "127.0.0.1"])


@pytest.mark.slow
def test_the_command_serves_a_page_until_ctrl_c(ball_run):
    pytest.importorskip("viser")
    command = [
        sys.executable,
        "-m",
        "sinefield.commands.cli",
        "view",
        str(ball_run[0]),
        "--port",
        "0",
        "--json",
        "--no-browser",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A suite started in the background has SIGINT ignored, and its children would have so too.
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, **pipes, preexec_fn=heard) as process:
        line = process.stdout.readline()
        url = line.split("look at it on ")[1].split()[0]
        with urllib.request.urlopen(url) as answer:
            assert b"<title>" in answer.read()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and not err, err
    report = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == 1 and report["url"] == url and report["kind"] == "shape" and report["step"] == 250


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    pytest.importorskip("viser")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    opened = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@contextmanager
def shown(browser, run):
    """A viewer, and its page open in the browser."""
    from sinefield.viewer.server import Viewer

    with Viewer(run, port=0) as viewer:
        browser.open(viewer.url)
        wait_for(lambda: viewer.server.get_clients() and viewer.scene.sent and attached(browser))
        client = next(iter(viewer.server.get_clients().values()))
        yield viewer, client
        # The page goes in the middle of whatever it was sent, and the viewer goes on.
        viewer.scene.reset(client)
        browser.open("about:blank")
        wait_for(lambda: not viewer.server.get_clients())
        assert viewer._failed is None and viewer._thread.is_alive()


def attached(browser):
    """Whether the page has learned to let go of the viewer."""
    return browser.ask("window.endsWhenLeft?.size")


PART = (slice(170, 550), slice(0, 650))
"""Of the screen, what neither the panel nor a notice hides."""


def slider(browser, number, key):
    wait_for(lambda: browser.ask("document.querySelectorAll('[role=slider]').length") > number)
    browser.ask(f"document.querySelectorAll('[role=slider]')[{number}].focus()")
    browser.press(key)


def likeness(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_a_browser_shows_the_radiance_field(browser, photo_run, field):
    with shown(browser, photo_run[0]) as (viewer, client):
        # The ball is to appear left and below, which a mirrored or turned picture would not show; world units.
        origin, unit = scenes.frame(field)
        eye, target, fov = np.array([3.0, -3.0, 1.0]), np.array([0.6, 0.6, 0.5]), 0.9
        with client.atomic():
            client.camera.position, client.camera.look_at = (eye - origin) / unit, (target - origin) / unit
            client.camera.fov = fov
        height, width = browser.picture().shape[:2]
        direct = rendered(field, seen_from(eye.tolist(), target.tolist(), width, height, fov))[PART]
        assert direct.std() > 30
        wait_for(lambda: likeness(browser.picture()[PART], direct) > 0.99)
        assert likeness(direct[:, ::-1], direct) < 0.8 and likeness(direct[::-1], direct) < 0.8
        wait_for(lambda: "finished" in viewer.panel._progress.content)
        before = browser.picture()[PART]
        assert np.abs(before - direct).mean() < 3
        slider(browser, 0, "End")  # level: leave out all that is not wholly opaque
        wait_for(lambda: viewer.panel.settings.level == 1.0)
        wait_for(lambda: browser.picture()[PART].mean() > before.mean() + 5)
        slider(browser, 0, "Home")
        wait_for(lambda: np.abs(browser.picture()[PART] - before).mean() < 1)
        slider(browser, 1, "Home")  # resolution
        wait_for(lambda: viewer.panel.settings.resolution == 64 and "of 64 ×" in viewer.panel._progress.content)
        wait_for(lambda: 0.3 < np.abs(browser.picture()[PART] - before).mean() < 15)
        was = client.camera.position
        browser.drag((200, 300), (350, 330))
        wait_for(lambda: np.linalg.norm(client.camera.position - was) > 0.1)
        viewer.scene.reset(client)
        wait_for(lambda: np.allclose(client.camera.position, viewer.server.initial_camera.position, atol=1e-4))


def test_a_browser_shows_the_shape(browser, ball_run):
    shape = load_field(ball_run[0])[0]
    with shown(browser, ball_run[0]) as (viewer, _):
        wait_for(lambda: viewer.scene.sent >= 2)

        def area():
            # The surface is bluish, even where it is bright; what is behind it is white.
            part = browser.picture()[PART]
            return (part.max(-1) - part.min(-1) > 6).sum() / PART_SIZE

        # A ball of radius 1 (in half boxes) seen from d fills π (f r / √(d² − r²))² pixels, f by the angle of view.
        home = scenes.home(shape)
        height, width = browser.picture().shape[:2]
        focal = height / (2 * math.tan(home.fov / 2))
        rows, columns = np.mgrid[:height, :width] + 0.5
        away = np.hypot(rows - height / 2, columns - width / 2)[PART]

        def expected(level):
            vertices, _, _ = extract_field(shape, 64, level)
            r = np.linalg.norm(vertices - scenes.frame(shape)[0], axis=1).mean() / scenes.frame(shape)[1]
            return (away < focal * r / math.sqrt(home.position @ home.position - r * r)).mean()

        wait_for(lambda: area() == pytest.approx(expected(shape.default_level), rel=0.03))
        slider(browser, 0, "Home")  # level
        wait_for(lambda: viewer.panel.settings.level != shape.default_level)
        level = viewer.panel.settings.level
        assert expected(level) != pytest.approx(expected(shape.default_level), rel=0.02)
        wait_for(lambda: area() == pytest.approx(expected(level), rel=0.03))


def test_a_page_that_is_left_lets_go_and_comes_back(browser, ball_run):
    """Chromium keeps it, with its connection, were it not for `sinefield.viewer.leaving`."""
    with shown(browser, ball_run[0]) as (viewer, client):
        browser.open("about:blank")
        wait_for(lambda: not viewer.server.get_clients())
        browser.back()
        wait_for(lambda: viewer.server.get_clients() and attached(browser))
        assert client.client_id not in viewer.server.get_clients() and viewer.visitors == 2


PART_SIZE = (PART[0].stop - PART[0].start) * (PART[1].stop - PART[1].start)
