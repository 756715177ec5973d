"""Where a video's camera flies: an orbit, a path along the training cameras, a file, or where the photographs are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sinefield.cameras.cameras import Cameras
from sinefield.cameras.orbits import MAX_SIDE, Size
from sinefield.cameras.path_files import read_camera_path
from sinefield.cameras.paths import box_depths, ellipse_path, spiral_path, through_path, walk_path
from sinefield.config import Config, RadianceDataConfig
from sinefield.data.photographs.capture_cameras import choose_cameras, load_capture
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.masks import Covering
from sinefield.data.photographs.views import Views
from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import Field, Painter, kind_of
from sinefield.fields.origins import origin_of
from sinefield.plain.questions import numbers, whole
from sinefield.store.fields import edited_config
from sinefield.store.run import Run
from sinefield.store.sine_files import config_of, load_packed

MAX_FRAMES = 10_000
FRAMES, FPS, BESIDE_FPS = 90, 30.0, 2.0
PATHS = ("orbit", "ellipse", "spiral", "walk", "cameras")


@dataclass(frozen=True)
class Flight:
    """Where the camera flies, and how large its pictures are.

    Attributes:
        path: one of `PATHS`, or a camera path of nerfstudio (.json). When None, one turn, or the way of the
            photographs through a scene that goes on beyond them.
        cameras: the cameras to fly through, by index or name; they make the path "cameras".
        frames: their number; 90, or as many as a .json has, when None.
        fps: frames a second; 30, or what a .json says, or 2 beside photographs, when None.
        size: width and height in pixels; what is None is the data's, or follows from the other.
        elevation: degrees above the horizon of an orbit; that of the training cameras, 20 for a shape, when None.
        beside: show the views held out, else those trained on, beside their photographs, instead of a path.
        data: the photographs of a `.sine` file that does not name them.
    """

    path: str | None = None
    cameras: Sequence[str] = field(default_factory=list)
    frames: int | None = None
    fps: float | None = None
    size: Size = (None, None)
    elevation: float | None = None
    beside: bool = False
    data: str | None = None

    @property
    def kind(self) -> str:
        """One of `PATHS`, "file" or "beside"."""
        if self.beside:
            return "beside"
        if self.path is None:
            return "cameras" if self.cameras else "orbit"
        return self.path if self.path in PATHS else "file"

    def check(self) -> None:
        """Raise SinefieldError for what cannot be meant together, or is out of range."""
        frames, fps = (usual if given is None else given for given, usual in ((self.frames, FRAMES), (self.fps, FPS)))
        if not 1 <= frames <= MAX_FRAMES or not 0.1 <= fps <= 240:
            raise SinefieldError(f"{frames} frames at {fps} a second; 1 to 10,000 frames and 0.1 to 240 a second")
        for side in self.size:
            if side is not None and not 8 <= side <= MAX_SIDE:
                raise SinefieldError(f"a video {side} pixels wide or high; 8 to {MAX_SIDE}")
        if self.kind == "file" and Path(self.path or "").suffix.lower() != ".json":
            raise SinefieldError(f"path {self.path}: unknown; one of {', '.join(PATHS)}, or a camera path FILE.json")
        if self.kind == "cameras" and not self.cameras:
            raise SinefieldError("path cameras: name the cameras to fly through, as in --cameras 0,5,12")
        self._check_together()

    def _check_together(self) -> None:
        shown = {"beside": "--beside", "file": "a path from a file"}.get(self.kind, f"path {self.kind}")
        for given, what, fits in (
            (self.cameras, "--cameras", ("cameras",)),
            (self.elevation is not None, "--elevation", ("orbit",)),
            (self.frames is not None, "--frames", PATHS),
            (any(self.size), "--width and --height", (*PATHS, "file")),
            (self.path is not None, "--path", (*PATHS, "file")),
        ):
            if given and self.kind not in fits:
                raise SinefieldError(f"{what} does not go with {shown}; leave one of them out")


class Flown(NamedTuple):
    """A flight of one field: a camera for each frame, frames a second, and photographs to show beside."""

    cameras: Cameras
    fps: float
    photographs: Views | None = None


def fly(
    run: str | Path, trained: Field, painter: Painter, flight: Flight, adapters: Sequence[str | Path] = ()
) -> Flown:
    """The cameras of a flight through the field of a run.

    Arguments:
        run: run folder or .sine file.
        trained, painter: its field, and what draws it.
        adapters: edits of the field; photographs are then those of the changed scene.

    Raises:
        SinefieldError: see the readers of paths and photographs; a path along training cameras of a shape, or of a
            field that does not know its data.
    """
    if flight.kind == "file":
        along, fps = _from_file(flight, origin_of(trained))
        return Flown(along, flight.fps or fps or FPS)
    if flight.kind == "orbit":
        turn = painter.orbit(flight.frames or FRAMES, flight.size, flight.elevation)
        return Flown(turn, flight.fps or FPS)
    what = "--beside" if flight.beside else f"path {flight.kind}"
    data = photographed(
        run, trained, flight.data, adapters, f"{what} needs photographs", "use orbit or a FILE.json"
    ).data
    if flight.kind == "beside":
        views = _photographs(data, trained)
        return Flown(views.cameras, flight.fps or BESIDE_FPS, views)
    return Flown(_along_cameras(data, trained, flight), flight.fps or FPS)


def fly_as_usual(
    run: str | Path, trained: Field, painter: Painter, flight: Flight, adapters: Sequence[str | Path] = ()
) -> tuple[Flight, Flown, str | None]:
    """`fly`, and where no path is asked for, one turn, or the way of the photographs through a space that goes on
    beyond them; the flight with its path, and a line that says so, or why it is a turn all the same."""
    path = painter.usual_path
    if flight.kind != "orbit" or flight.path or flight.elevation is not None or path == "orbit":
        return flight, fly(run, trained, painter, flight, adapters), None
    chosen, own = replace(flight, path=path), "the scene goes on beyond what its photographs show"
    try:
        flown = fly(run, trained, painter, chosen, adapters)
    except SinefieldError as error:
        return flight, fly(run, trained, painter, flight, adapters), f"{own}, and an orbit may leave it: {error}"
    return chosen, flown, f"path {path}, as {own}; --path orbit turns once round it"


def _from_file(flight: Flight, origin: np.ndarray) -> tuple[Cameras, float | None]:
    """A file's poses are in the data's coordinates, which may lie far from the field's."""
    along, fps = read_camera_path(flight.path or "", flight.size, origin)
    if len(along) > MAX_FRAMES or max(along.width, along.height) > MAX_SIDE:
        raise SinefieldError(
            f"{flight.path}: {len(along)} frames of {along.width}x{along.height}; at most {MAX_FRAMES:,} frames "
            f"and {MAX_SIDE} pixels a side"
        )
    return along, fps


def _along_cameras(data: RadianceDataConfig, trained: Any, flight: Flight) -> Cameras:
    """An ellipse, a spiral or a walk along the training cameras, or a path through chosen ones."""
    capture = load_capture(data.path, data.downscale, data.holdout, trained.origin)
    frames = flight.frames or FRAMES
    if flight.kind == "ellipse":
        return ellipse_path(capture.cameras, frames, flight.size)
    if flight.kind == "spiral":
        near, far = capture.bounds or box_depths(capture.cameras, trained.aabb)
        return spiral_path(capture.cameras, frames, near, far, flight.size)
    if flight.kind == "walk":
        return walk_path(capture.cameras, frames, flight.size)
    return through_path(choose_cameras(capture, flight.cameras), frames, flight.size)


def _photographs(data: RadianceDataConfig, trained: Any) -> Views:
    """The views held out, else those for validation, else those trained on."""
    # The box does not matter here; the field's own spares data without one the question.
    box = data.aabb or (trained.aabb.double().cpu().numpy() + np.tile(trained.origin, 2)).tolist()
    covering = Covering(data.masks, data.alpha)
    scene = load_posed(data.path, data.downscale, box, data.holdout, origin=trained.origin, covering=covering)
    return next(views for views in (scene.test, scene.val, scene.train) if views is not None)


def photographed(
    run: str | Path, trained: Field, data: str | None, adapters: Sequence[str | Path], needs: str, instead: str
) -> Config:
    """The configuration that says which photographs a field was trained on, as evaluation finds it.

    Arguments:
        data: the photographs of a `.sine` file that does not name them.
        needs, instead: of the error for a field without photographs, what asks for them and what to do.

    Raises:
        SinefieldError: the field's kind has no photographs; data beside a run folder; see `Run.config`.
    """
    if not kind_of(trained).has_photographs:
        raise SinefieldError(f"{run}: {needs}, and a {trained.kind} has none; {instead}")
    if adapters:
        return edited_config(run, adapters, data)
    if is_sine(run):
        return config_of(load_packed(run), str(run), data)
    if data:
        raise SinefieldError("--data is for .sine files; a run folder's config.yaml says where its data are")
    return Run(Path(run).parent if Path(run).is_file() else run).config()


def cameras_for(
    painter: Painter, camera: Any, width: int | None, height: int | None, origin: np.ndarray | None = None
) -> Cameras:
    """The cameras that someone's own `camera` stands for; see `Field.render`.

    Arguments:
        origin: taken off the place of a camera to world, (3,); `Cameras` have it off already.

    Raises:
        SinefieldError: a size out of range, or beside cameras that have one; no camera to world.
    """
    for name, side in (("width", width), ("height", height)):
        if side is not None and not 1 <= whole(name, side) <= MAX_SIDE:
            raise SinefieldError(f"{name} is {side}; 1 to {MAX_SIDE} pixels")
    if isinstance(camera, Cameras):
        if width is not None or height is not None:
            raise SinefieldError("these cameras have a size of their own; leave width and height out")
        return camera
    usual = painter.orbit(1, (width, height))
    if camera is None:
        return usual
    pose = numbers(camera)
    if pose.shape not in ((3, 4), (4, 4)) or pose.dtype.kind not in "fiu" or not np.isfinite(pose).all():
        given = f"an array of shape {pose.shape}" if pose.ndim else type(camera).__name__
        raise SinefieldError(f"the camera is {given}; give Cameras, or (3, 4) or (4, 4) camera to world, see look_at")
    turn = pose[:3, :3].astype(np.float64)
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        raise SinefieldError("the camera's first three columns are no rotation; give a camera to world, see look_at")
    place = pose[:3, 3:] - (0 if origin is None else origin[:, None])
    c2w = np.concatenate([pose[:3, :3], place], 1)
    return replace(usual, c2w=torch.tensor(c2w[None], dtype=torch.float32))
