"""The viewer's web page on viser: camera, sliders and buttons in, pictures or a mesh out.

viser's callbacks come from threads of its own and only note what is wanted; one thread does all the work, a short piece
at a time, and looks at the wishes between two pieces.
"""

import errno
import os
import socket
import sys
import threading
import time
import warnings
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of
from sinefield.viewer.door import VISITORS, Door
from sinefield.viewer.follow import Follower, Snapshot
from sinefield.viewer.guard import guard, is_loopback
from sinefield.viewer.leaving import end_when_left
from sinefield.viewer.panel import Panel
from sinefield.viewer.scenes import REST_SECONDS, RadianceScene, ShapeScene, home

POLL_SECONDS = 1.0
LEAVE_SECONDS = 5.0
"""How long Ctrl-C waits for the picture that is being made."""


def view(
    run: str | Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
    adapters: Sequence[str | Path] = (),
    names: Sequence[str] = (),
    visitors: int = VISITORS,
) -> dict[str, Any]:
    """Serve a run's viewer until Ctrl-C; prints one line with its address, in which the token stands that opens it.

    Arguments:
        run: run folder, in training or finished, or `.sine` file.
        port: 0 takes any free one.
        browser: open the page too, where there is a screen to open it on.
        adapters: edits of the run's field, see `load_field`.
        names: by which browsers may ask for this machine, beside addresses, `localhost` and its own name.
        visitors: pages that may be connected at the same time.

    Returns:
        run, kind, url (with the token), visitors (pages that connected), pictures sent, step of the newest field,
        seconds.

    Raises:
        SinefieldError: no run; a port in use, a host that is not this machine's; viser is missing.
    """
    begin = time.perf_counter()
    with Viewer(run, host, port, adapters, names, visitors) as viewer:
        with suppress(KeyboardInterrupt):
            print(f"{run}: look at it on {viewer.url} ({exposure(host)}; Ctrl-C ends)", flush=True)
            if browser and _has_screen():
                webbrowser.open(viewer.url)
            viewer.wait()
        newest = viewer.follower.snapshots[-1:]
        return {
            "run": str(run),
            "kind": newest[0].field.kind if newest else None,
            "url": viewer.url,
            "visitors": viewer.visitors,
            "pictures": viewer.scene.sent if viewer.scene else 0,
            "step": newest[0].step if newest else None,
            "seconds": round(time.perf_counter() - begin, 2),
        }


class Viewer:
    """A running server; leaving the context stops it.

    Raises:
        SinefieldError: see `view`.
    """

    def __init__(
        self,
        run: str | Path,
        host: str = "127.0.0.1",
        port: int = 8080,
        adapters: Sequence[str | Path] = (),
        names: Sequence[str] = (),
        visitors: int = VISITORS,
    ) -> None:
        viser = _viser()
        self.run, self.door = str(run), Door([host, *names], visitors)
        self.follower = Follower(run, adapters)
        check_port(host, port)
        if self.follower.snapshots:
            _warm_up(self.follower.snapshots[-1])
        with self.door.kept():
            self.server = viser.ViserServer(host=host, port=port, label="sinefield", verbose=False)
        guard(self.server)
        if port and self.server.get_port() != port:  # taken since we looked
            self.server.stop()
            raise _in_use(host, port)
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server.get_port()}/?token={self.door.token}"
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        self.scene: RadianceScene | ShapeScene | None = None
        self.panel: Panel | None = None
        self.visitors = 0
        self._waiting = self.server.gui.add_markdown("Nothing is saved yet: waiting for the training's first state.")
        self._problem: str | None = None
        self._failed: BaseException | None = None
        self._shown: Snapshot | None = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self.server.on_client_connect(self._arrived)
        self._open()
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(LEAVE_SECONDS)  # a daemon: what it is at, a huge picture, may be left
        self.server.stop()

    def wait(self) -> None:
        """Until Ctrl-C; raises what the working thread died of, if it did."""
        while not self._stop.wait(0.5):
            if self._failed is not None:
                raise self._failed

    def _open(self) -> None:
        """Set the page up for the kind of field, as soon as there is one."""
        if self.scene is not None or not self.follower.snapshots:
            return
        field = self.follower.snapshots[-1].field
        self._waiting.remove()
        camera, start = home(field), self.server.initial_camera
        self.server.scene.set_up_direction(camera.up)
        start.position, start.look_at, start.up, start.fov = camera
        self.panel = panel = Panel(self.server, field, Path(self.run).resolve().name, self._wake.set)
        kind = RadianceScene if kind_of(field).shows == "light" else ShapeScene
        self.scene = scene = kind(self.server, panel)
        for client in self.server.get_clients().values():  # who came before there was anything to see
            scene.reset(client)

        @panel.reset.on_click
        def _(event: Any) -> None:
            if event.client is not None:
                scene.reset(event.client)

        @panel.save.on_click
        def _(event: Any) -> None:
            if event.client is None:
                return
            content = scene.photograph(event.client)
            if content is not None:
                event.client.send_file_download("sinefield.png", content, save_immediately=True)

    async def _arrived(self, client: Any) -> None:
        """On the server's own thread, one page after the other."""
        self.visitors += 1
        end_when_left(client)
        if self.scene is not None:
            self.scene.fit(client)
        client.camera.on_update(self._moved)
        self._wake.set()

    async def _moved(self, _: Any) -> None:
        self._wake.set()

    def _work(self) -> None:
        polled = 0.0
        try:
            while not self._stop.is_set():
                self._wake.clear()
                if time.monotonic() - polled >= POLL_SECONDS:
                    self._poll()
                    polled = time.monotonic()
                if not self._turn():
                    self._wake.wait(REST_SECONDS)
        except BaseException as error:
            self._failed = error

    def _poll(self) -> None:
        try:
            changed, problem = self.follower.poll(), None
        except SinefieldError as error:
            changed, problem = False, str(error)
        if changed or problem != self._problem:
            self._problem = problem
            self._open()
            if self.panel is not None:
                self.panel.tell(self.follower, problem)

    def _turn(self) -> bool:
        """One short piece of work; returns whether there may be more."""
        if self.scene is None or self.panel is None:
            return False
        if self._shown is None:
            self.panel.tell(self.follower, None)
        snapshot = self.panel.chosen(self.follower)
        if kind_of(snapshot.field).shows != self.scene.shows:
            self.panel.say(f"The run is now a {snapshot.field.kind} field: start the viewer again.")
            return False
        self._shown = snapshot
        return self.scene.turn(snapshot)


def _viser() -> Any:
    try:
        import rich
        import viser
    except ImportError as error:
        raise SinefieldError(f"the viewer needs viser ({error}); pip install 'sinefield[view]'") from error
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")  # a page may close at any time
    rich.reconfigure(quiet=True)  # viser prints a box with its address, and farewells
    return viser


def exposure(host: str) -> str:
    """Who can reach a viewer that listens on `host`, in words."""
    if is_loopback(host):
        return "from this machine only; --host 0.0.0.0 lets others in"
    return "whoever reaches this machine and has this address may look and move the sliders"


def check_port(host: str, port: int) -> None:
    """Raises SinefieldError unless a server could listen on `port` of `host` now."""
    if not 0 <= port <= 65535:
        raise SinefieldError(f"--port {port}: give 1 to 65535, or 0 for any free port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except PermissionError as error:
        raise SinefieldError(f"port {port} of {host} may not be used ({error.strerror}); give --port 8080") from error
    except socket.gaierror as error:
        raise SinefieldError(f"--host {host}: no such address ({error.strerror}); try 127.0.0.1") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _in_use(host, port) from error
        raise SinefieldError(f"--host {host}: cannot be listened on ({error.strerror}); try 127.0.0.1") from error


def _in_use(host: str, port: int) -> SinefieldError:
    return SinefieldError(f"port {port} of {host} is in use; give another --port, or 0 for any free one")


def _has_screen() -> bool:
    """Whether opening a page can help: somebody sits at a terminal, with a screen."""
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and sys.stdout.isatty()


def _warm_up(snapshot: Snapshot) -> None:
    """Load what the first picture would wait for: compiled kernels, arithmetic's threads."""
    field = snapshot.field
    if kind_of(field).shows == "light":
        from sinefield.cameras.orbits import Orbit

        field.render(*Orbit.of(field.view).cameras(1, (16, 16)).view(0))
