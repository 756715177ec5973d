"""What the page shows: a radiance field's picture behind an empty scene, or a shape's surface in it.

The browser's scene is in units of the field's box, its middle at the origin: the page's camera has planes and limits of
its own, which a world of any size and place would meet.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import atan, radians, sin, tan
from typing import Any, NamedTuple, cast

import numpy as np
import trimesh
from jaxtyping import Float
from PIL import Image
from trimesh.visual import ColorVisuals

from sinefield.cameras.cameras import orbit
from sinefield.cameras.orbits import Orbit
from sinefield.errors import SinefieldError
from sinefield.export.mesh import extract_field
from sinefield.fields.base import kind_of
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.meshing.extract import strays_said
from sinefield.viewer.follow import Snapshot
from sinefield.viewer.panel import Panel, Settings
from sinefield.viewer.picture import Look, Refined, paint, refine

SEND_SECONDS = 0.25
"""Time between two pictures of a resting camera."""
REST_SECONDS = 0.15
"""A camera that has moved within this time gets first pictures only: the browser needs the processor too."""
OPENING_SECONDS = 1.0
"""For so long after its first picture a page that stays as it is gets no finer one: it is still setting itself up."""
FIRST_RESOLUTION = 48
FARTHEST, SLIMMEST = 1e4, 100.0
"""Of a camera that is drawn for: its distance in half boxes, and how many times wider than high its window is."""
SHAPE_FOV, SHAPE_ELEVATION, SHAPE_AZIMUTH = radians(40), 20.0, 30.0
SHAPE_COLOUR = (150, 170, 205)
NO_SHADOWS = {"cast_shadow": False, "receive_shadow": False}


class Home(NamedTuple):
    """Where the camera begins, in the scene's units: viser's four settings."""

    position: Float[np.ndarray, "3"]
    look_at: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    fov: float


def frame(field: RadianceField | ShapeField) -> tuple[Float[np.ndarray, "3"], float]:
    """The scene's origin and its unit, in world units: middle and half the longest side of the field's box."""
    box = field.aabb.double().numpy()
    return (box[:3] + box[3:]) / 2, float((box[3:] - box[:3]).max()) / 2


def home(field: RadianceField | ShapeField) -> Home:
    """A radiance field as its photographs saw it; all of a shape's box from somewhat above, up being y."""
    origin, unit = frame(field)
    if kind_of(field).shows == "light":
        usual = Orbit.of(cast("RadianceField", field).view)  # the kind that is shown so
        pose = usual.cameras(1).c2w[0].double().numpy()
        fov = 2 * atan(usual.height / (2 * usual.focal * usual.width))
        return Home((pose[:, 3] - origin) / unit, (usual.centre - origin) / unit, np.array(usual.up), fov)
    radius = float((field.aabb[3:] - field.aabb[:3]).norm()) / 2 / unit
    distance = radius / sin(SHAPE_FOV / 2)
    pose = orbit(1, (0.0, 0.0, 0.0), distance, SHAPE_ELEVATION, (0.0, 1.0, 0.0), SHAPE_AZIMUTH)[0].double().numpy()
    return Home(pose[:, 3], np.zeros(3), np.array([0.0, 1.0, 0.0]), SHAPE_FOV)


def look_of(camera: Any, field: RadianceField) -> Look | None:
    """Where a viser camera stands in the world; None while its window has no height, or where it is no camera's place.

    What a page says of its camera is whatever somebody sent.
    """
    try:
        if not camera.image_height or not camera.image_width:
            return None
        wxyz, position = (np.asarray(x, np.float64).reshape(n) for x, n in ((camera.wxyz, 4), (camera.position, 3)))
        fov, aspect = float(camera.fov), float(camera.aspect)
    except (TypeError, ValueError, ArithmeticError):
        return None
    near = bool((np.abs(position) < FARTHEST).all()) and abs(float(np.linalg.norm(wxyz)) - 1) < 0.1
    if not near or not 0.01 < fov < 3.13 or not 1 / SLIMMEST < aspect < SLIMMEST:
        return None
    origin, unit = frame(field)
    return Look(tuple(wxyz.tolist()), tuple((position * unit + origin).tolist()), fov, aspect)


class _Scene:
    """What both kinds share.

    Attributes:
        sent: pictures or meshes sent so far.
    """

    shows: str

    def __init__(self, server: Any, panel: Panel) -> None:
        self.server, self.panel = server, panel
        self.sent = 0

    def reset(self, client: Any) -> None:
        """Put a page's camera where it began."""
        start = self.server.initial_camera
        with client.atomic():
            client.camera.position, client.camera.look_at = start.position, start.look_at
            client.camera.up_direction, client.camera.fov = start.up, start.fov
            self.fit(client)

    def fit(self, client: Any) -> None:
        """Have an upright window, as of a phone, see as much from side to side as others do from top to bottom."""
        aspect = client.camera.image_width / (client.camera.image_height or 1)
        if 1 / SLIMMEST < aspect < 1:
            client.camera.fov = 2 * atan(tan(self.server.initial_camera.fov / 2) / aspect)


@dataclass
class _Page:
    """One browser page that looks at a radiance field."""

    client: Any
    wanted: tuple[Any, ...] | None = None  # look, size and field of the picture that is being made
    steps: Iterator[Refined] | None = None
    now: tuple[RadianceField, Look, Refined] | None = None
    painted: Settings | None = None
    begun: float = 0.0
    first: float = 0.0  # seconds until the first picture of the wanted one, and until the last
    last: float = 0.0
    sent: float = 0.0
    opened: float = 0.0  # when the page's very first picture was sent


class RadianceScene(_Scene):
    """Pictures of a radiance field, refined while the camera rests, each page its own."""

    shows = "light"

    def __init__(self, server: Any, panel: Panel) -> None:
        super().__init__(server, panel)
        self._pages: dict[int, _Page] = {}

    def turn(self, snapshot: Snapshot) -> bool:
        """Render at most one strip for each page; returns whether any page's picture is unfinished."""
        # The server knows who is there: what it calls out of who came and who went may be heard in the wrong order.
        clients = self.server.get_clients()
        self._pages = {number: self._pages.get(number) or _Page(client) for number, client in clients.items()}
        settings = self.panel.settings
        more = False
        for page in self._pages.values():
            more |= self._advance(page, snapshot.field, settings)
        return more

    def photograph(self, client: Any) -> bytes | None:
        """The picture that a page shows, as PNG; None before the first."""
        page = self._pages.get(client.client_id)
        return None if page is None or page.now is None else _encoded(paint(*page.now, *self.panel.settings[:2]))

    def _advance(self, page: _Page, field: RadianceField, settings: Settings) -> bool:
        look = look_of(page.client.camera, field)
        if look is None:
            return False
        wanted = (look, settings.resolution, field)
        if page.wanted != wanted:
            page.wanted, page.begun = wanted, time.perf_counter()
            page.steps = refine(field, look, *look.size(settings.resolution))
            page.first = page.last = 0.0
        elif page.first and page.painted != settings:
            self._send(page, settings)  # other colours of the same pixels need no rays
            return True
        elif page.first and self._waits(page):
            return False
        refined = None if page.steps is None else next(page.steps, None)
        if refined is None:
            return False
        page.now = (field, look, refined)
        if not page.first or refined.done == 1 or time.perf_counter() - page.sent > SEND_SECONDS:
            self._send(page, settings)
        return True

    @staticmethod
    def _waits(page: _Page) -> bool:
        """Whether the browser has better use for the processor than a finer picture has."""
        now = time.perf_counter()
        return now - page.begun < REST_SECONDS or now - page.opened < OPENING_SECONDS

    def _send(self, page: _Page, settings: Settings) -> None:
        assert page.now is not None
        field, look, refined = page.now
        page.painted, page.sent = settings, time.perf_counter()
        kind = "png" if refined.done == 1 else "jpeg"
        image = paint(field, look, refined, settings.channel, settings.level)
        page.client.scene.set_background_image(image, format=kind, jpeg_quality=90)
        self.sent += 1
        page.opened = page.opened or page.sent
        taken = page.sent - page.begun
        page.first = page.first or taken
        width, height = look.size(settings.resolution)
        if refined.done == 1:
            page.last = page.last or taken
        state = f"finished in {page.last:.1f} s" if refined.done == 1 else f"{100 * refined.done:.0f} %"
        self.panel.say(f"Picture of {width} × {height}: {state}; first after {1000 * page.first:.0f} ms")


class ShapeScene(_Scene):
    """A shape's surface, first coarse; the browser draws it."""

    shows = "surface"

    def __init__(self, server: Any, panel: Panel) -> None:
        super().__init__(server, panel)
        self._made: tuple[Any, ...] | None = None

    def turn(self, snapshot: Snapshot) -> bool:
        """Extract the surface if it is not the one shown: coarse, and in the next turn at the resolution asked for."""
        channel, level, resolution = self.panel.settings
        wanted = (snapshot.field, channel, level)
        if self._made == (*wanted, resolution):
            return False
        coarse = self._made is None or self._made[:3] != wanted
        now = min(FIRST_RESOLUTION, resolution) if coarse else resolution
        self._made = (*wanted, now)
        self._show(snapshot.field, channel, level, now)
        return now != resolution

    def photograph(self, client: Any) -> bytes | None:
        """The scene as a page draws it, as PNG; None where the page does not answer."""
        camera = client.camera
        try:
            image = client.get_render(camera.image_height, camera.image_width, transport_format="png", timeout=30)
        except (RuntimeError, TimeoutError):
            return None
        return _encoded(np.asarray(image))

    def _show(self, field: ShapeField, channel: str, level: float, resolution: int) -> None:
        begin = time.perf_counter()
        try:
            vertices, faces, about = extract_field(field, resolution, level)
        except SinefieldError as error:  # the level is beyond what the field reaches
            self.panel.say(str(error))
            return
        origin, unit = frame(field)
        mesh = trimesh.Trimesh((vertices - origin) / unit, faces, process=False)
        if channel == "normals":
            colours = np.round(255 * (0.5 + 0.5 * np.asarray(mesh.vertex_normals))).astype(np.uint8)
        else:
            colours = kind_of(field).vertex_colours(field, vertices, np.asarray(mesh.vertex_normals))
        if colours is not None:
            mesh.visual = ColorVisuals(mesh, vertex_colors=colours)
            self.server.scene.add_mesh_trimesh("/surface", mesh, **NO_SHADOWS)
        else:
            self.server.scene.add_mesh_simple(
                "/surface", np.asarray(mesh.vertices), faces, color=SHAPE_COLOUR, **NO_SHADOWS
            )
        self.sent += 1
        taken = time.perf_counter() - begin
        strays = about.get("strays")
        note = f"; {strays_said(strays)}" if strays else ""
        self.panel.say(f"{len(vertices):,} vertices, {len(faces):,} faces at {resolution}³; {taken:.1f} s{note}")


def _encoded(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()
