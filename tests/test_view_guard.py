"""What the viewer's server takes from whoever reaches it, on viser alone: paths, messages. Who may: test_view_door."""

import http.client
import logging
import math
import random
import socket
import threading

import pytest

viser = pytest.importorskip("viser")
from browser import PATIENCE, wait_for  # noqa: E402
from visitor import CAMERA, finished, garbage, listening, say, visit  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

from sinefield.viewer.door import Door  # noqa: E402
from sinefield.viewer.guard import guard, is_loopback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection", r"ignore:\[viser\]")


@pytest.fixture
def server():
    """viser's, guarded, with a slider and a button; `cameras` and `clicks` list what came through."""
    import rich

    rich.reconfigure(quiet=True)
    door = Door(["viewer.example.org"], visitors=50)
    with door.kept():
        made = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    guard(made)
    made.door, made.server = door, made
    made.slider = made.gui.add_slider("Level", 0.0, 1.0, 0.01, 0.5)
    made.button = made.gui.add_button("Reset")
    made.cameras, made.clicks, made.asked = [], [], []
    made.button.on_click(made.clicks.append)
    made.on_client_connect(lambda client: made.cameras.append(client.camera.fov))
    made.request_share_url = lambda *_, **__: made.asked.append(1)
    yield made
    made.stop()


def uuids(server):
    return list(server.gui._gui_input_handle_from_uuid)


def update(page, uuid, /, **updates):
    say(page, {"type": "GuiUpdateMessage", "uuid": uuid, "updates": updates})


def serves(server):
    before = len(server.cameras)
    with visit(server) as page:
        say(page)
        wait_for(lambda: len(server.cameras) == before + 1)


def get(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=PATIENCE)
    connection.request("GET", path, headers={"Cookie": f"sinefield-{server.get_port()}={server.door.token}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_loopback_names():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(
        map(is_loopback, ("0.0.0.0", "::", "192.0.2.7", "localhost.example.org", "", "127.0.0.1.example.org"))
    )


PATHS = ["/../../../../infra/_infra.py", "/..%2f..%2fsetup.cfg", "/%2e%2e/%2e%2e/infra/_infra.py", "/..\\..\\_viser.py"]
PATHS += ["/%2e%2e%5c%2e%2e%5c_viser.py", "/a/../../../_viser.py", "//etc/passwd", "/%2fetc/passwd", "/etc/passwd"]
PATHS += [
    "/....//....//_viser.py",
    "/%252e%252e/%252e%252e/_viser.py",
    "/index.html%00.py",
    "/" + "a" * 5000,
    "/" + "../" * 9,
]
PATHS += [
    "/./../../_viser.py",
    "/..;/..;/_viser.py",
    "file:///etc/passwd",
    "/%ff%fe",
    "/../../../../../../../../etc/passwd",
]


def test_paths_outside_its_folder_are_refused(server):
    assert listening(server.get_port()) == {"0100007F"}
    status, page = get(server, "/")
    assert status == 200 and b"<title>" in page
    for path in PATHS:
        status, body = get(server, path)
        assert status != 200, path
        assert b"import" not in body and b"root:" not in body, path
    # As no client would write it: the path goes out byte for byte.
    for path in (b"/../../_viser.py", b"/../../../../../../../etc/passwd", b"/\xff\xfe"):
        with socket.create_connection(("127.0.0.1", server.get_port()), timeout=PATIENCE) as raw:
            raw.sendall(
                b"GET " + path + b"?token=" + server.door.token.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            said = raw.recv(100)
            assert b" 200 " not in said and b" 403 " not in said, path
    serves(server)


def test_cameras_that_are_none_do_not_arrive(server):
    wrong = [
        {"wxyz": [0.0] * 4},
        {"wxyz": [math.nan] * 4},
        {"position": [math.inf, 0.0, 0.0]},
        {"position": [1e30] * 3},
    ]
    wrong += [
        {"fov": math.nan},
        {"fov": 0.0},
        {"fov": 4.0},
        {"image_width": 2**62},
        {"image_height": -1},
        {"look_at": []},
    ]
    with visit(server) as page:
        for changes in wrong:
            say(page, **changes)
        say(page, fov=0.3)
        wait_for(lambda: server.cameras)
    assert server.cameras == [0.3]


def test_sliders_take_values_only(server):
    slider, button = uuids(server)
    with visit(server) as page:
        say(page)
        wait_for(server.get_clients)
        # Other properties than the value: what the server itself uses later.
        for name in ("props", "update_cb", "sync_cb", "uuid", "removed", "nothing"):
            update(page, slider, **{name: None})
            update(page, slider, **{name: None, "value": 0.1})
        for value in (math.nan, math.inf, -1e300, 2**62, "x", "y" * 10**6, None, [], {}):
            update(page, slider, value=value)
        say(page, {"type": "GuiUpdateMessage", "uuid": [], "updates": {"value": 0.1}})
        update(page, button, value=True)
        wait_for(lambda: server.clicks)
        assert server.slider.value == 0.5
        update(page, slider, value=0.7)
        wait_for(lambda: server.slider.value == 0.7)
        say(page, {"type": "ShareUrlRequest"})  # would hand the port to a public relay
        update(page, slider, value=0.6)
        wait_for(lambda: server.slider.value == 0.6)
    server.slider.disabled = True  # its properties are whole
    assert not server.asked
    serves(server)


def test_malformed_messages(server, capfd, caplog):
    with visit(server) as neighbour:
        say(neighbour)
        wait_for(lambda: server.cameras)
        for message in garbage(random.Random(0)):
            try:
                with visit(server, close_timeout=1) as page:
                    page.send(message)
                    page.send(message)
            except ConnectionClosed:
                pass
        client = next(c for c in server.get_clients().values() if c.camera.fov == CAMERA["fov"])
        say(neighbour, fov=0.7)  # who was there before still is
        wait_for(lambda: client.camera.fov == 0.7)
    serves(server)
    out, err = capfd.readouterr()
    assert not out and not err, err[-2000:]
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_huge_frames(server):
    for size in (2**20, 49 * 2**20):  # what viser allows, of no meaning
        with pytest.raises(ConnectionClosed), visit(server) as page:
            page.send(b"\x01" * size)
            finished(page)
    with pytest.raises(ConnectionClosed) as told, visit(server) as page:
        page.socket.sendall(b"\x82\xff" + (2**62).to_bytes(8, "big") + b"\0" * 4)  # claims a size
        finished(page)
    assert told.value.rcvd.code == 1009
    serves(server)


def test_fifty_come_and_go(server):
    transport = server._websock_server

    def crowd(seed):
        rng = random.Random(seed)
        pages = [visit(server) for _ in range(50)]
        for page in pages:
            if rng.random() < 0.9:
                say(page)
        for page in rng.sample(pages, 50):
            if rng.random() < 0.5:
                page.socket.shutdown(socket.SHUT_RDWR)  # no farewell
            page.close()
        wait_for(lambda: not transport._client_state_from_id and not server.get_clients())

    def kept():
        own = [t for t in threading.enumerate() if not t.name.startswith("ThreadPoolExecutor")]
        return len(own), len(transport._broadcast_buffer.message_from_id)

    before = kept()[0]
    crowd(0)
    wait_for(lambda: kept()[0] <= before)
    first = kept()
    for seed in (1, 2):
        crowd(seed)
        wait_for(lambda: kept() == first)
    wait_for(lambda: len(server.cameras) > 90)
    assert threading.active_count() - first[0] <= 32  # viser's pool for callbacks, which is bounded
    serves(server)
