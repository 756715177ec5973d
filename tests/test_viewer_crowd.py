"""A hundred visitors of the viewer that ask for pictures and read nothing; slow."""

import base64
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

viser = pytest.importorskip("viser")
from browser import PATIENCE, wait_for  # noqa: E402
from msgspec import msgpack  # noqa: E402
from visitor import CAMERA  # noqa: E402

from sinefield.viewer import door  # noqa: E402

pytestmark = pytest.mark.slow
VISITORS = 100
MOST = 600 << 20
"""Bytes that the viewer's process may ever hold."""


def mute(port, token):
    """A page's connection by hand: it says what it likes and takes nothing, into a buffer as small as can be.

    None where it is turned away, as one too many.
    """
    page = socket.socket()
    page.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    page.settimeout(PATIENCE)
    page.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    head = [f"GET /?token={token} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"]
    head += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    head += [f"Sec-WebSocket-Protocol: viser-v{viser.__version__}", "", ""]
    page.sendall("\r\n".join(head).encode())
    answer = page.recv(12)
    if answer == b"HTTP/1.1 503":
        page.close()
        return None
    assert answer == b"HTTP/1.1 101", answer
    return page


def say(page, **changes):
    """Send a camera in a masked frame; False where the connection is closed."""
    content = msgpack.encode({**CAMERA, **changes})
    try:
        page.sendall(b"\x82\xfe" + struct.pack(">H", len(content)) + bytes(4) + content)
    except OSError:
        return False
    return True


def memory(process, what):
    return int(re.findall(rf"{what}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0]) << 10


def processor_time(process):
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("field", ["toys", "knot"])
def test_a_hundred_that_do_not_read(field, request):
    code = "from sinefield.commands.cli import entry; entry()"
    words = ["view", f"example:{field}", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = urlsplit(re.findall(r"http://\S+", line)[0])
            before = memory(process, "VmHWM")
            token = url.query.removeprefix("token=")
            pages = [page for _ in range(VISITORS) if (page := mute(url.port, token)) is not None]
            for page in pages:
                request.addfinalizer(page.close)
            assert len(pages) == door.VISITORS
            began = processor_time(process)
            # Each of them looks from somewhere else again and again, until the viewer has had something to do.
            for turn in range(1000):
                there = sum(say(page, position=[0.1 + 1e-3 * turn, -3.5, 0.8]) for page in pages)
                assert process.poll() is None
                time.sleep(0.05)
                if processor_time(process) - began > 20 and turn > 100:
                    break
            peak = memory(process, "VmHWM")
            print(
                f"{there} of {VISITORS} there after {turn + 1} turns: {before >> 20} MiB before, {peak >> 20} at most"
            )
            assert peak < MOST
            for page in pages:
                page.close()
            reader = wait_for(lambda: mute(url.port, token))  # the next one is served
            request.addfinalizer(reader.close)
            say(reader)
            read = 0
            while read < 2000 and select.select([reader], [], [], PATIENCE)[0]:
                read += len(reader.recv(65536))
            assert read >= 2000
        finally:
            process.kill()
