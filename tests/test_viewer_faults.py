"""The whole viewer among strangers: where it listens, nonsense and crowds; its server alone: test_view_guard.py."""

import contextlib
import gc
import itertools
import math
import random
import socket
import threading
import weakref
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import PATIENCE, wait_for

from sinefield.commands.cli import main
from sinefield.store.fields import load_field
from sinefield.viewer import scenes

pytest.importorskip("viser")
from msgspec import msgpack
from visitor import CAMERA, say, visit
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")
BAD = [math.nan, math.inf, -math.inf, 1e300, 0, -1, "x", None, [], {}, [math.nan] * 4, [1.0] * 3, 2**63, True]


@pytest.fixture
def viewer(photo_run):
    from sinefield.viewer.server import Viewer

    with Viewer(photo_run[0], port=0, visitors=50) as viewer:
        viewer.panel._resolution.value = 64
        yield viewer


def gone(viewer):
    """Waits until nobody is there; viser says so some time after a page was closed."""
    wait_for(lambda: not viewer.server.get_clients() and not viewer.scene._pages)


def draws(viewer):
    """Whether a new page gets its picture to the end."""
    before = viewer.scene.sent
    with visit(viewer) as page:
        say(page, CAMERA)
        wait_for(lambda: any(p.last for p in list(viewer.scene._pages.values())))
    gone(viewer)
    return viewer.scene.sent > before and viewer._failed is None and viewer._thread.is_alive()


def test_only_this_machine_is_listened_to(viewer, capsys):
    port = viewer.server.get_port()
    assert urlsplit(viewer.url).hostname == "127.0.0.1"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        pass
    with pytest.raises(OSError):  # another of this machine's own addresses
        socket.create_connection(("127.0.0.2", port), timeout=PATIENCE).close()
    with pytest.raises(SystemExit):
        main(["view", "--help"])
    assert "--host" in (said := capsys.readouterr().out) and "0.0.0.0" in said


def nonsense(rng):
    """Messages that no page sends."""
    yield from (b"", b"\xff" * 40, rng.randbytes(300), "text", msgpack.encode([1, 2]), msgpack.encode({"type": "no"}))
    yield msgpack.encode({"type": ["ViewerCameraMessage"]})
    yield msgpack.encode({"type": "ViewerCameraMessage"})
    for key, value in itertools.product(CAMERA, BAD):
        if key != "type":
            yield msgpack.encode({**CAMERA, key: value})
    whole = msgpack.encode(CAMERA)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield bytes(damaged)


def test_a_camera_that_is_none_is_drawn_nothing_for(photo_run):
    field = load_field(photo_run[0])[0]
    sound = {key: CAMERA[key] for key in ("fov", "image_height", "image_width")} | {"aspect": 4 / 3}
    sound |= {key: np.array(CAMERA[key]) for key in ("wxyz", "position")}
    assert scenes.look_of(SimpleNamespace(**sound), field) is not None
    refused = 0
    for key, value in itertools.product(sound, BAD):
        value = np.array(value) if key in ("wxyz", "position") else value
        look = scenes.look_of(SimpleNamespace(**{**sound, key: value}), field)
        refused += look is None
        if look is not None:  # whatever is taken can be drawn
            assert all(bool(x.isfinite().all()) for x in look.cameras(*look.size(8)).view(0)), (key, value)
    assert refused > 60


def test_nonsense_closes_a_page_and_nothing_else(viewer, capfd):
    sent = 0
    for first in (True, False):  # before and after a page has said where its camera is
        for message in nonsense(random.Random(0)):
            with contextlib.suppress(ConnectionClosed), visit(viewer) as page:
                if not first:
                    say(page, CAMERA)
                page.send(message)
                sent += 1
        gone(viewer)
        assert viewer._failed is None and viewer._thread.is_alive()
    assert sent > 300 and draws(viewer)


def test_sliders_are_held_to_their_range(viewer):
    panel = viewer.panel
    for handle, values in ((panel._level, BAD), (panel._resolution, BAD), (panel._channel, BAD), (panel._step, BAD)):
        for value in values:
            # A page may be turned away while a value that cannot be told stands there.
            with contextlib.suppress(ConnectionClosed), visit(viewer) as page:
                say(page, CAMERA)
                say(page, {"type": "GuiUpdateMessage", "uuid": handle._impl.uuid, "updates": {"value": value}})
    gone(viewer)
    settings = panel.settings
    assert 64 <= settings.resolution <= 1024 and 0 <= settings.level <= 1 and settings.channel in ("rgb", "depth")
    panel._resolution.value, panel._level.value = 64, 0.0
    assert draws(viewer)


def living(visitors):
    """How many visitors the process still remembers, from weak references.

    A walk through all objects, gc.get_objects(), breaks tuples that another thread is just making.
    """
    gc.collect()
    return sum(visitor() is not None for visitor in visitors)


def test_fifty_pages_come_and_go(viewer, monkeypatch):
    monkeypatch.setattr(scenes, "REST_SECONDS", 0.0)
    monkeypatch.setattr(scenes, "OPENING_SECONDS", 0.0)
    visitors = []
    viewer.server.on_client_connect(lambda client: visitors.append(weakref.ref(client)))

    def threads():  # viser calls back from a pool, which fills up to its 32 and is used again
        return sum(not t.name.startswith("ThreadPoolExecutor") for t in threading.enumerate())

    before = threads()
    assert draws(viewer)
    for _ in range(2):
        pages = [visit(viewer) for _ in range(25)]
        for page in pages:
            say(page, CAMERA)
        wait_for(lambda: len(viewer.scene._pages) == 25)
        for i, page in enumerate(pages):
            if i % 2:
                page.close()
            else:  # no farewell
                page.socket.shutdown(socket.SHUT_RDWR)
                page.close()
        gone(viewer)
        wait_for(lambda: living(visitors) <= 2)  # viser lets go of them a little later
        wait_for(lambda: threads() <= before)
    wait_for(lambda: viewer.visitors == len(visitors) == 51)
    assert draws(viewer)
