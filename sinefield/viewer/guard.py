"""What a page may say to the server: a few kinds of message, with values that mean something.

Who may ask at all: door.py.

viser takes any message of any kind from anybody who connects: it would set any property of a slider to anything, or
hand the port to a public relay. A visitor is to be able to turn cameras and move sliders, and nothing else.
"""

import ipaddress
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

MAX_PIXELS = 16_384
"""Of a window's side."""
FARTHEST = 1e6
"""A camera's distance from the middle, in half boxes: float32 still tells two rays apart there."""
MAX_TEXT = 100


def guard(server: Any) -> None:
    """Screen what viser's server is sent from now on; to be called before its address is told.

    Arguments:
        server: a `viser.ViserServer`; its transport is not public, so viser's version is bounded in setup.cfg.
    """
    # Tracebacks, one for each broken connection, and warnings that repeat what a visitor sent.
    warnings.filterwarnings("ignore", message=r"\[viser\]")
    for name in ("websockets.server", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    transport = server._websock_server

    async def arrived(connection: Any) -> None:
        _screen(connection, {"ViewerCameraMessage": _is_camera, "GetRenderResponseMessage": _is_picture})

    _screen(transport, {"GuiUpdateMessage": _is_value})
    transport.on_client_connect(arrived)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, a name or an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _screen(handler: Any, allowed: dict[str, Callable[[Any], bool]]) -> None:
    inner = handler._handle_incoming_message

    async def screened(client_id: int, message: Any) -> None:
        sound = allowed.get(type(message).__name__)
        try:
            if sound is not None and sound(message):
                await inner(client_id, message)
        except (TypeError, ValueError, OverflowError, AttributeError):
            pass  # values of other kinds than the message's

    handler._handle_incoming_message = screened


def _is_camera(message: Any) -> bool:
    vectors = (message.position, message.look_at, message.up_direction)
    return (
        _numbers(message.wxyz, 4)
        and abs(math.hypot(*message.wxyz) - 1) < 0.01
        and all(_numbers(v, 3) for v in vectors)
        and _numbers((message.fov, message.near, message.far), 3)
        and 0 < message.fov < math.pi
        and all(isinstance(n, int) and 0 <= n <= MAX_PIXELS for n in (message.image_height, message.image_width))
    )


def _is_picture(message: Any) -> bool:
    return isinstance(message.payload, bytes) and isinstance(message.render_uuid, str)


def _is_value(message: Any) -> bool:
    if not isinstance(message.uuid, str) or set(message.updates) != {"value"}:
        return False
    value = message.updates["value"]
    return len(value) <= MAX_TEXT if isinstance(value, str) else _numbers((value,), 1)


def _numbers(values: Any, count: int) -> bool:
    return len(values) == count and all(isinstance(v, int | float) and abs(v) <= FARTHEST for v in values)
