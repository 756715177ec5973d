"""Who gets a page or a connection: who asks by a known name, from a page of the viewer's own, with its token.

Any page in the visitor's browser may ask the viewer for anything, under any name that leads here (DNS rebinding). So a
request must name the viewer by an address or by a name that is known to be this machine's; a page that connects must
be the viewer's own; and whoever asks must have the token, which stands in the printed address and then in a cookie.
"""

import hmac
import http
import ipaddress
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sinefield.errors import SinefieldError

PORTS = {"http": 80, "https": 443}
HEADERS = {"Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin"}
"""Of every page: the token does not leave with a link, and no other site shows the viewer inside a page of its own."""
VISITORS = 8
"""Pages that may be connected at the same time, unless told. One that reads nothing may cost some megabytes."""
_HOOK = threading.Lock()


class Door:
    """What a viewer asks of every request, for a page or for a websocket.

    Arguments:
        names: this machine is known by, beside addresses, `localhost` and its own name.
        visitors: pages that may be connected at the same time.

    Attributes:
        token: that a request must bring, as `?token=` or in the cookie that the page then gets.

    Raises:
        SinefieldError: a name is none.
    """

    def __init__(self, names: Sequence[str] = (), visitors: int = VISITORS) -> None:
        for name in names:
            if not _is_address(name) and not re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", name):
                raise SinefieldError(f"--name {name}: is no name of a machine; give one like viewer.example.org")
        if visitors < 1:
            raise SinefieldError(f"--visitors {visitors}: give 1 or more")
        self.visitors, own = visitors, socket.gethostname()
        short = own.partition(".")[0]
        self.names = {name.lower().rstrip(".") for name in ("localhost", own, short, f"{short}.local", *names)}
        self.token = secrets.token_urlsafe(16)

    def refusal(self, request: Any, port: int) -> str | None:
        """Why a request is turned away; None lets it in.

        Arguments:
            request: a `websockets.http11.Request`.
            port: that it came to: two viewers of one machine share their cookies.
        """
        hosts, origins = (request.headers.get_all(name) for name in ("Host", "Origin"))
        if len(hosts) != 1 or (asked := _place(f"http://{hosts[0]}")) is None or not self._knows(asked[0]):
            return "not a name of this machine that the viewer knows; ask by its address, or start it with --name"
        # Browsers send the page's origin with every websocket, and nothing else does.
        if origins and (len(origins) != 1 or not _same_place(origins[0], hosts[0])):
            return "this viewer is for pages of its own"
        if not any(map(self._is_token, _tokens(request, port))):
            return "open the whole address that sinefield view printed, with its token"
        return None

    def _knows(self, host: str) -> bool:
        return _is_address(host) or host in self.names

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(errors="replace"), self.token.encode())  # in constant time

    def answer(self, connection: Any, request: Any, pages: Callable[..., Any]) -> Any:
        """The response to a request, None to go on with a websocket; `pages` is what answers those that come in."""
        port = connection.local_address[1]
        if (reason := self.refusal(request, port)) is not None:
            return connection.respond(http.HTTPStatus.FORBIDDEN, f"{reason}\n")
        response = pages(connection, request)
        # A websocket may ask for any path; of what is sent as a file, the page alone leads to one.
        leads = response is None or urlsplit(request.path).path == "/"
        if leads and _visitors(connection) >= self.visitors:
            reason = f"{self.visitors} pages are connected already; close one, or start the viewer with --visitors"
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
        if response is not None:
            for name, value in HEADERS.items():
                response.headers[name] = value
            # Strict: another site's link to the viewer does not bring the cookie along.
            cookie = f"{_cookie(port)}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            response.headers["Set-Cookie"] = cookie
        return response

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Servers by viser that are started in here have this door.

        viser leaves no room to look at requests; it starts its server by `websockets.asyncio.server.serve`.
        """
        from websockets.asyncio import server

        with _HOOK:
            serve = server.serve

            def guarded(*arguments: Any, process_request: Callable[..., Any], **options: Any) -> Any:
                def ask(connection: Any, request: Any) -> Any:
                    return self.answer(connection, request, process_request)

                return serve(*arguments, process_request=ask, **options)

            server.serve = guarded  # pyright: ignore[reportAttributeAccessIssue]
            try:
                yield
            finally:
                server.serve = serve


def _visitors(connection: Any) -> int:
    """Websockets of a connection's server, also those that are being closed: what they were sent is held till then."""
    from websockets.protocol import State

    return sum(one.state in (State.OPEN, State.CLOSING) for one in connection.server.handlers)


def _cookie(port: int) -> str:
    return f"sinefield-{port}"


def _tokens(request: Any, port: int) -> list[str]:
    found = parse_qs(request.path.partition("?")[2]).get("token", [])
    for text in request.headers.get_all("Cookie"):
        try:
            found += [cookie.value for name, cookie in SimpleCookie(text).items() if name == _cookie(port)]
        except CookieError:
            continue
    return found


def _same_place(origin: str, host: str) -> bool:
    """Whether a page's origin is the very host and port that it asks for."""
    scheme = origin.partition(":")[0]
    page = _place(origin) if scheme in PORTS else None
    return page is not None and page == _place(f"{scheme}://{host}")


def _place(origin: str) -> tuple[str, int] | None:
    """Host and port of `http://host:port` and nothing more; None of anything else."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or "@" in origin or parts.path or parts.query or parts.fragment:
        return None
    if _is_address(host):
        host = str(ipaddress.ip_address(host))
    return host.rstrip("."), PORTS[parts.scheme] if port is None else port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
