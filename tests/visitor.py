"""A visitor of the viewer that is no browser: says what it likes over the websocket. Needs viser."""

import math
from pathlib import Path

import msgspec
import viser
from browser import PATIENCE
from websockets.sync.client import connect

CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": [math.cos(0.9), -math.sin(0.9), 0.0, 0.0],
    "position": [0.1, -3.5, 0.8],
    "fov": 0.8,
    "near": 0.01,
    "far": 100.0,
    "image_height": 60,
    "image_width": 80,
    "look_at": [0.0, 0.0, 0.0],
    "up_direction": [0.0, 0.0, 1.0],
}


def visit(viewer, token=None, **options):
    """Connect to a `Viewer`, or whatever has a `server` by viser and a `door`, as its own page does."""
    token = viewer.door.token if token is None else token
    # Everything is received, if not read: who does not answer the server's pings is closed.
    patient = {"open_timeout": PATIENCE, "ping_interval": None, "max_queue": None, "max_size": None}
    options = {"subprotocols": [f"viser-v{viser.__version__}"], **patient, **options}
    return connect(f"ws://127.0.0.1:{viewer.server.get_port()}/?token={token}", **options)


def say(page, message=None, **changes):
    """Send a message, by default a camera's."""
    page.send(msgspec.msgpack.encode({**(message or CAMERA), **changes}))


def finished(page):
    """Read until the server closes; raises ConnectionClosed then, TimeoutError where it does not."""
    while True:
        page.recv(timeout=PATIENCE)


def garbage(rng):
    """Bytes that are no message, and messages that viser knows with other fields than theirs."""
    yield from (b"", b"\x00", b"\xc1", b"\x80", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000)
    yield from (rng.randbytes(rng.randrange(1, 300)) for _ in range(25))
    sound = msgspec.msgpack.encode(CAMERA)
    for _ in range(25):
        damaged = bytearray(sound)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        yield bytes(damaged)
    odd = (
        None,
        "x",
        [],
        {},
        -1,
        2**63 - 1,
        math.nan,
        math.inf,
        1e300,
        [math.nan] * 4,
        [0.0] * 4,
        [1e30] * 3,
        ["a"] * 3,
    )
    for field in CAMERA:
        yield from (msgspec.msgpack.encode({**CAMERA, field: value}) for value in odd)
        yield msgspec.msgpack.encode({k: v for k, v in CAMERA.items() if k != field})
    for kind in ("ShareUrlRequest", "FileTransferStartUpload", "GuiUpdateMessage", "RunJavascriptMessage", "object"):
        yield msgspec.msgpack.encode({"type": kind, "uuid": "x", "updates": {}})
    yield "a text frame"


def listening(port):
    """Local addresses on which something listens on `port`, in the kernel's hexadecimal."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, at = local.split(":")
            if int(at, 16) == port and state == "0A":
                found.add(address)
    return found
