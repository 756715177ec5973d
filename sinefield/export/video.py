"""A trained field into a video along a camera path, or beside its photographs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sinefield.cameras.cameras import Cameras, orbit
from sinefield.cameras.orbits import orbit_cameras, pinholes
from sinefield.cameras.path_files import read_camera_path
from sinefield.cameras.paths import box_depths, ellipse_path, spiral_path, through_path
from sinefield.config import Config, RadianceConfig
from sinefield.data.photographs.capture import Capture, choose_cameras, load_capture
from sinefield.data.photographs.images import Views, load_posed, reference
from sinefield.errors import SinefieldError
from sinefield.export.mesh import load_spatial
from sinefield.export.video_files import check_video_path, write_video
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.views import RadianceViews, ShapeViews
from sinefield.render.channels import CHANNELS, picture, with_legend
from sinefield.store.run import Run, edited_config
from sinefield.store.sine_files import config_of, is_sine, load_packed

MAX_SIDE = 4096
MAX_FRAMES = 10_000
FRAMES, FPS, BESIDE_FPS = 90, 30.0, 2.0
SHAPE_SIZE = 256
SHAPE_ELEVATION = 20.0
PATHS = ("orbit", "ellipse", "spiral", "cameras")


@dataclass(frozen=True)
class Flight:
    """Where the camera flies, and how large its pictures are.

    Attributes:
        path: one of `PATHS`, or a camera path of nerfstudio (.json).
        cameras: the cameras to fly through, by index or name; they make the path "cameras".
        frames: their number; 90, or as many as a .json has, when None.
        fps: frames a second; 30, or what a .json says, or 2 beside photographs, when None.
        size: width and height in pixels; what is None is the data's, or follows from the other.
        elevation: degrees above the horizon of an orbit; that of the training cameras, 20 for a shape, when None.
        beside: show the views held out, else those trained on, beside their photographs, instead of a path.
        data: the photographs of a `.sine` file that does not name them.
    """

    path: str | None = None
    cameras: list[str] = field(default_factory=list)
    frames: int | None = None
    fps: float | None = None
    size: tuple[int | None, int | None] = (None, None)
    elevation: float | None = None
    beside: bool = False
    data: str | None = None
    adapters: list[str | Path] = field(default_factory=list)

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
        frames, fps = self.frames or FRAMES, FPS if self.fps is None else self.fps
        if self.frames == 0 or not 1 <= frames <= MAX_FRAMES or not 0.1 <= fps <= 240:
            raise SinefieldError(f"{self.frames} frames at {fps} a second; 1 to 10,000 frames and 0.1 to 240 a second")
        for side in self.size:
            if side is not None and not 8 <= side <= MAX_SIDE:
                raise SinefieldError(f"a video {side} pixels wide or high; 8 to {MAX_SIDE}")
        kind = self.kind
        if kind == "file" and Path(self.path).suffix.lower() != ".json":
            raise SinefieldError(f"path {self.path}: unknown; one of {', '.join(PATHS)}, or a camera path FILE.json")
        if kind == "cameras" and not self.cameras:
            raise SinefieldError("path cameras: name the cameras to fly through, as in --cameras 0,5,12")
        for given, what, fits in (
            (self.cameras, "--cameras", ("cameras",)),
            (self.elevation is not None, "--elevation", ("orbit",)),
            (self.frames is not None, "--frames", PATHS),
            (any(self.size), "--width and --height", (*PATHS, "file")),
            (self.path is not None, "--path", (*PATHS, "file")),
        ):
            if given and kind not in fits:
                shown = {"beside": "--beside", "file": "a path from a file"}.get(kind, f"path {kind}")
                raise SinefieldError(f"{what} does not go with {shown}; leave one of them out")


def export_video(
    run: str | Path,
    out: str | Path,
    frames: int | None = None,
    fps: float | None = None,
    size: tuple[int | None, int | None] = (None, None),
    elevation: float | None = None,
    channel: str = "rgb",
    overwrite: bool = False,
    path: str | None = None,
    cameras: list[str] | None = None,
    beside: bool = False,
    alpha: bool = False,
    data: str | None = None,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Render a run's field to a video; returns run, out, kind, path, channel, frames, fps, width, height, near and far
    of a depth's colours, seconds, frames_per_second.

    The orbit round a radiance field has the mean distance, elevation and focal length of its training cameras, up
    being theirs; round a shape up is y. A radiance field is rendered as in evaluation, a shape as its surface under
    soft light. Depth gets a legend below the picture, in scene units.

    Arguments:
        run: run folder or .sine file.
        out: what `write_video` takes.
        channel: one of `CHANNELS`.
        alpha: keep opacity as alpha instead of compositing; .webm and folders only.
        frames, fps, size, elevation, path, cameras, beside, data: see `Flight`.
        adapters: edits of the run's field, see `load_field`; photographs are then those of the changed scene.

    Raises:
        SinefieldError: see `write_video`, `load_field`, `Flight.check` and the readers of paths and photographs;
            a path along training cameras of a shape, or of a field that does not know its data.
    """
    check_video_path(out, overwrite, alpha)
    flight = Flight(path, list(cameras or []), frames, fps, size, elevation, beside, data, list(adapters))
    flight.check()
    if channel not in CHANNELS:
        raise SinefieldError(f"channel {channel} is unknown; one of {', '.join(CHANNELS)}")
    if beside and alpha:
        raise SinefieldError("--alpha does not go with --beside: photographs are shown as they are; leave one out")
    begin = time.perf_counter()
    trained = load_spatial(run, adapters)
    views, rate = (_beside(run, trained, flight), None) if beside else (None, None)
    if views is not None:
        along = views.cameras
    else:
        along, rate = _fly(run, trained, flight)
    rate = flight.fps or rate or (BESIDE_FPS if beside else FPS)
    painter = RadianceViews(trained) if isinstance(trained, RadianceField) else ShapeViews(trained)
    span = _span(along, trained)

    def images() -> Iterator[np.ndarray]:
        for i in range(len(along)):
            layers = painter.layers(along, i, normals=channel == "normals")
            image = picture(layers, channel, painter.background, span, alpha)
            if views is not None:
                image = np.concatenate([image, reference(views.images[i], painter.background.tolist()).numpy()], 1)
            yield with_legend(image, *span) if channel == "depth" else image

    shown = {}

    def noted(images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for image in tqdm(images, total=len(along), desc="video", unit="frame", leave=False, disable=None):
            shown["height"], shown["width"] = image.shape[:2]
            yield image

    write_video(out, noted(images()), fps=rate, overwrite=overwrite, n_frames=len(along))
    seconds = time.perf_counter() - begin
    depth = {"near": span[0], "far": span[1]} if channel == "depth" else {}
    return {
        "run": str(run),
        "out": str(out),
        "kind": trained.kind,
        "path": flight.path if flight.kind == "file" else flight.kind,
        "channel": channel,
        "frames": len(along),
        "fps": rate,
        "width": shown["width"],
        "height": shown["height"],
        **depth,
        "seconds": round(seconds, 2),
        "frames_per_second": round(len(along) / seconds, 2),
    }


def _fly(run: str | Path, trained: RadianceField | ShapeField, flight: Flight) -> tuple[Cameras, float | None]:
    """The cameras of a flight, and the frames a second that a file asks for."""
    kind, frames = flight.kind, flight.frames or FRAMES
    if kind == "file":
        along, rate = read_camera_path(flight.path, flight.size)
        if len(along) > MAX_FRAMES or max(along.width, along.height) > MAX_SIDE:
            raise SinefieldError(
                f"{flight.path}: {len(along)} frames of {along.width}x{along.height}; at most {MAX_FRAMES:,} frames "
                f"and {MAX_SIDE} pixels a side"
            )
        return along, rate
    if kind == "orbit":
        if isinstance(trained, RadianceField):
            return orbit_cameras(trained.view, frames, flight.size, flight.elevation), None
        return _round_shape(trained, frames, flight.size, flight.elevation), None
    capture = _capture(run, trained, flight)
    if kind == "ellipse":
        return ellipse_path(capture.cameras, frames, flight.size), None
    if kind == "spiral":
        near, far = capture.bounds or box_depths(capture.cameras, trained.aabb)
        return spiral_path(capture.cameras, frames, near, far, flight.size), None
    return through_path(choose_cameras(capture, flight.cameras), frames, flight.size), None


def _config(run: str | Path, trained: RadianceField | ShapeField, flight: Flight) -> RadianceConfig:
    """The configuration that says which photographs a field was trained on, as evaluation finds it."""
    if isinstance(trained, ShapeField):
        what = "--beside" if flight.beside else f"path {flight.kind}"
        raise SinefieldError(f"{run}: {what} needs photographs, and a shape has none; use orbit or a FILE.json")
    if flight.adapters:
        config: Config = edited_config(run, flight.adapters, flight.data)
    elif is_sine(run):
        config = config_of(load_packed(run), str(run), flight.data)
    elif flight.data:
        raise SinefieldError("--data is for .sine files; a run folder's config.yaml says where its data are")
    else:
        config = Run(Path(run).parent if Path(run).is_file() else run).config()
    return config


def _capture(run: str | Path, trained: RadianceField | ShapeField, flight: Flight) -> Capture:
    data = _config(run, trained, flight).data
    return load_capture(data.path, data.downscale, data.holdout)


def _beside(run: str | Path, trained: RadianceField | ShapeField, flight: Flight) -> Views:
    """The views held out, else those for validation, else those trained on."""
    data = _config(run, trained, flight).data
    # The box does not matter here; the field's own spares data without one the question.
    scene = load_posed(data.path, data.downscale, data.aabb or trained.aabb.tolist(), data.holdout)
    return next(views for views in (scene.test, scene.val, scene.train) if views is not None)


def _round_shape(
    trained: ShapeField, frames: int, size: tuple[int | None, int | None], elevation: float | None
) -> Cameras:
    """One turn with all of the box in every picture."""
    width = size[0] or size[1] or SHAPE_SIZE
    height = size[1] or width
    low, high = trained.aabb[:3].cpu(), trained.aabb[3:].cpu()
    least = min(width, height)
    focal = 1.35 * least
    distance = float((high - low).norm()) / 2 * float(np.hypot(2 * focal, least)) / least * 1.02
    degrees = SHAPE_ELEVATION if elevation is None else elevation
    poses = orbit(frames, ((low + high) / 2).tolist(), distance, degrees, (0.0, 1.0, 0.0))
    return pinholes(poses, focal / width, (width, height))


def _span(cameras: Cameras, field: RadianceField | ShapeField) -> tuple[float, float]:
    """Nearest and farthest distance at which a ball round the box can be from any of the cameras."""
    eyes = cameras.c2w[:, :, 3]
    if isinstance(field, RadianceField):
        return field.span(eyes)
    low, high = field.aabb[:3].double().cpu(), field.aabb[3:].double().cpu()
    away = torch.linalg.norm(eyes.double() - (low + high) / 2, dim=1)
    half = float((high - low).norm()) / 2
    return max(float(away.min()) - half, 0.0), float(away.max()) + half
