"""Who gets a page or a connection of the viewer: requests under many names, from many pages, without token."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

import pytest

viser = pytest.importorskip("viser")
from browser import PATIENCE, wait_for  # noqa: E402
from visitor import say, visit  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from sinefield.errors import SinefieldError  # noqa: E402
from sinefield.viewer.door import Door  # noqa: E402
from sinefield.viewer.server import Viewer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection", r"ignore:\[viser\]")


@pytest.fixture(scope="module")
def viewer(ball_run):
    """One that listens on every address, as with --host 0.0.0.0."""
    with Viewer(ball_run[0], host="0.0.0.0", port=0, names=["viewer.example.org"]) as made:
        yield made


def ask(viewer, target, *headers):
    """Status and head of the answer to a request that goes out byte for byte."""
    with socket.create_connection(("127.0.0.1", viewer.server.get_port()), timeout=PATIENCE) as raw:
        raw.sendall("\r\n".join([f"GET {target} HTTP/1.1", *headers, "", ""]).encode("latin-1"))
        said = b""
        while b"\r\n\r\n" not in said and (more := raw.recv(65536)):
            said += more
    head = said.partition(b"\r\n\r\n")[0].decode("latin-1")
    return int(head.split()[1]), head


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
UPGRADE = (
    *UPGRADE,
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    f"Sec-WebSocket-Protocol: viser-v{viser.__version__}",
)


def statuses(viewer, target, *headers):
    """Of a page and of a websocket."""
    return ask(viewer, target, *headers)[0], ask(viewer, target, *headers, *UPGRADE)[0]


@pytest.fixture
def key(viewer):
    return f"/?token={viewer.door.token}"


def port(viewer):
    return viewer.server.get_port()


def test_the_printed_address_opens_page_and_websocket(viewer):
    assert viewer.url == f"http://localhost:{port(viewer)}/?token={viewer.door.token}"
    assert len(viewer.door.token) >= 20 and viewer.door.token != Door().token
    parts = urlsplit(viewer.url)
    assert statuses(viewer, f"{parts.path}?{parts.query}", f"Host: {parts.netloc}") == (200, 101)


def test_the_page_gets_a_cookie_that_opens_the_websocket(viewer, key):
    """viser's page connects to its own address without what follows the question mark."""
    host = f"Host: 127.0.0.1:{port(viewer)}"
    status, head = ask(viewer, key, host)
    cookie = next(line.partition(":")[2] for line in head.splitlines() if line.lower().startswith("set-cookie"))
    assert status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert "no-referrer" in head and "X-Frame-Options: DENY" in head
    (name, morsel), *more = SimpleCookie(cookie).items()
    assert not more and str(port(viewer)) in name  # another viewer on this machine has another one
    own = f"Origin: http://127.0.0.1:{port(viewer)}"
    assert statuses(viewer, "/", host, own, f"Cookie: a=b; {name}={morsel.value}; c=d") == (200, 101)
    assert statuses(viewer, "/", host, own, f"Cookie: sinefield-1={morsel.value}") == (403, 403)


def test_without_the_token_nothing_is_shown(viewer, key):
    host, token = f"Host: localhost:{port(viewer)}", viewer.door.token
    for target in ("/", "/index.html", "/?token=", "/?token", "/?Token=" + token, key[:-1], key + "x", "/?token=\xe9"):
        assert statuses(viewer, target, host) == (403, 403), target
    for cookie in ("", "x", f"sinefield-{port(viewer)}=", f"sinefield-{port(viewer)}={token[:-1]}", token, "\xff=;;"):
        assert statuses(viewer, "/", host, f"Cookie: {cookie}") == (403, 403), cookie
    _, head = ask(viewer, "/", host)
    assert "Set-Cookie" not in head and token not in head


def known(viewer):
    own = socket.gethostname()
    yield from ("localhost", "LocalHost", "localhost.", "127.0.0.1", "127.8.0.1", "192.0.2.7", "[::1]", "[2001:db8::7]")
    yield from (own, own.partition(".")[0] + ".local", "viewer.example.org")


def test_addresses_and_known_names_are_served(viewer, key):
    for name in known(viewer):
        for suffix in ("", f":{port(viewer)}", ":9"):  # through a tunnel the port is another
            assert statuses(viewer, key, f"Host: {name}{suffix}") == (200, 101), name + suffix


REBOUND = [
    "example.org",
    "localhost.example.org",
    "127.0.0.1.example.org",
    "127.0.0.1.nip.io",
    "viewer.example.org.evil",
]
REBOUND += [
    "xviewer.example.org",
    "localhost@evil.org",
    "evil.org#localhost",
    "evil.org/localhost",
    "127.1",
    "",
    "[::1",
]
REBOUND += ["localhost:80:80", "localhost:x", "localhost,evil.org", "evil.org:127", "127.0.0.1 evil.org", "\xff"]


@pytest.mark.parametrize("name", REBOUND)
def test_a_name_that_somebody_else_has_lead_here_is_refused(viewer, key, name):
    """DNS rebinding: page and Host agree, and the browser would bring its cookies for that name."""
    for suffix in ("", f":{port(viewer)}"):
        host = f"Host: {name}{suffix}"
        assert statuses(viewer, key, host) == (403, 403)
        with suppress(AssertionError):  # an origin that cannot even be sent
            assert statuses(viewer, key, host, f"Origin: http://{name}{suffix}") == (403, 403)


def test_one_host_exactly(viewer, key):
    assert statuses(viewer, key) == (403, 403)
    assert statuses(viewer, key, "Host: localhost", "Host: localhost") == (403, 403)


def test_pages_of_other_origins_are_refused(viewer, key):
    at = port(viewer)
    host = f"localhost:{at}"
    others = ["http://example.org", f"http://localhost:{at + 1}", "http://localhost", f"http://127.0.0.1:{at}", "null"]
    others += ["file://", f"http://{host}.example.org", f"http://x@{host}", f"http://{host}/", "", "x", f"ftp://{host}"]
    others += [f"http://[::1]:{at}", f"{host}", f"//{host}", f"http://{host},http://evil.org", "http://localhost:99999"]
    for origin in others:
        assert statuses(viewer, key, f"Host: {host}", f"Origin: {origin}") == (403, 403), origin
    both = [f"Origin: http://{host}", "Origin: http://example.org"]
    assert statuses(viewer, key, f"Host: {host}", *both) == (403, 403)
    for origin, own in (
        (f"http://{host}", host),
        ("http://localhost", "localhost:80"),
        ("https://localhost", "localhost"),
    ):
        assert statuses(viewer, key, f"Host: {own}", f"Origin: {origin}") == (200, 101), origin


def test_who_is_refused_learns_nothing_and_who_is_let_in_is(viewer):
    for token, origin in (
        ("", None),
        (viewer.door.token, "http://example.org"),
        ("x", f"http://127.0.0.1:{port(viewer)}"),
    ):
        with pytest.raises(InvalidStatus) as told:
            visit(viewer, token=token, origin=origin)
        assert told.value.response.status_code == 403 and viewer.door.token.encode() not in told.value.response.body
    assert not viewer.server.get_clients()
    with visit(viewer, origin=f"http://127.0.0.1:{port(viewer)}") as page:
        say(page)
        wait_for(viewer.server.get_clients)
    with suppress(ConnectionClosed):
        page.close()
    wait_for(lambda: not viewer.server.get_clients())


def test_no_more_pages_than_agreed(viewer, key, monkeypatch):
    host = f"Host: 127.0.0.1:{port(viewer)}"
    wait_for(lambda: statuses(viewer, key, host) == (200, 101))
    monkeypatch.setattr(viewer.door, "visitors", 1)
    with visit(viewer) as page:
        say(page)
        wait_for(viewer.server.get_clients)
        status, head = ask(viewer, key, host)
        assert status == 503 and viewer.door.token not in head
        assert ask(viewer, f"/elsewhere{key[1:]}", host, *UPGRADE)[0] == 503
        with pytest.raises(InvalidStatus) as told:
            visit(viewer)
        assert told.value.response.status_code == 503 and b"--visitors" in told.value.response.body
    with suppress(ConnectionClosed):
        page.close()
    wait_for(lambda: ask(viewer, key, host)[0] == 200)


def test_names_that_are_none_are_refused():
    for name in ("http://a", "a:80", "a/b", "a@b", "", "a b#"):
        with pytest.raises(SinefieldError, match="--name"):
            Door([name])


STUCK = """
import sys, time
from sinefield.viewer import server
server.LEAVE_SECONDS = 0.5
server.Viewer._turn = lambda self: time.sleep(1e6)
from sinefield.commands.cli import entry
entry()
"""


@pytest.mark.slow
def test_ctrl_c_answers_while_a_picture_is_made(ball_run):
    command = [sys.executable, "-c", STUCK, "view", str(ball_run[0]), "--port", "0", "--no-browser"]
    heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=heard) as process:
        assert "?token=" in process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and not err, err


def test_the_server_is_started_as_before_outside():
    from websockets.asyncio import server

    before = server.serve
    with pytest.raises(KeyError), Door().kept():
        assert server.serve is not before
        raise KeyError
    assert server.serve is before
