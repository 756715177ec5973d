"""A trained field into a video along a camera path, or beside its photographs."""

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sinefield.data.photographs.images import reference
from sinefield.errors import SinefieldError
from sinefield.export.flight import Flight, Flown, fly_as_usual
from sinefield.export.mesh import load_shown
from sinefield.export.video_files import check_video_path, write_video
from sinefield.fields.base import Painter, kind_of
from sinefield.render.channels import CHANNELS, picture, with_legend

ONE_TURN = Flight()


def export_video(
    run: str | Path,
    out: str | Path,
    flight: Flight = ONE_TURN,
    channel: str = "rgb",
    alpha: bool = False,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Render a run's field to a video.

    Where no path is asked for it is one turn; through a scene that goes on beyond its photographs (spaces contracted
    and ndc) it is their way, if they are at hand. The orbit round a radiance field has the mean distance, elevation and
    focal length of its training cameras, up being theirs; round a shape up is y. A radiance field is rendered as in
    evaluation, a shape as its surface under soft light. Depth gets a legend below the picture, in scene units.

    Arguments:
        run: run folder or .sine file.
        out: what `write_video` takes.
        flight: where the camera flies, and how large the pictures are.
        channel: one of `CHANNELS`.
        alpha: keep opacity as alpha instead of compositing; .webm and folders only.
        overwrite: replace `out`.
        adapters: edits of the run's field, see `load_field`; photographs are then those of the changed scene.

    Returns:
        run, out, kind, path, path_note (why this path, where none was asked for; or None), channel, frames, fps, width,
        height, near and far of a depth's colours, seconds, frames_per_second.

    Raises:
        SinefieldError: see `write_video`, `load_field`, `Flight.check` and `fly`.
    """
    check_video_path(out, overwrite, alpha)
    flight.check()
    _check_look(channel, alpha, flight)
    begin = time.perf_counter()
    field = load_shown(run, adapters)
    painter = kind_of(field).painter(field)
    flight, flown, note = fly_as_usual(run, field, painter, flight, adapters)
    span = painter.span(flown.cameras)
    frames = _frames(painter, flown, channel, alpha, span)
    first = next(frames)
    write_video(out, chain([first], frames), flown.fps, overwrite, len(flown.cameras))
    seconds = time.perf_counter() - begin
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "path": flight.path if flight.kind == "file" else flight.kind,
        "path_note": note,
        "channel": channel,
        "frames": len(flown.cameras),
        "fps": flown.fps,
        "width": first.shape[1],
        "height": first.shape[0],
        **({"near": span[0], "far": span[1]} if channel == "depth" else {}),
        "seconds": round(seconds, 2),
        "frames_per_second": round(len(flown.cameras) / seconds, 2),
    }


def _check_look(channel: str, alpha: bool, flight: Flight) -> None:
    if channel not in CHANNELS:
        raise SinefieldError(f"channel {channel} is unknown; one of {', '.join(CHANNELS)}")
    if flight.beside and alpha:
        raise SinefieldError("--alpha does not go with --beside: photographs are shown as they are; leave one out")


def _frames(
    painter: Painter, flown: Flown, channel: str, alpha: bool, span: tuple[float, float]
) -> Iterator[np.ndarray]:
    largest = flown.cameras.every_size.amax(0).tolist()
    for i in range(len(flown.cameras)):
        layers = painter.layers(flown.cameras, i, normals=channel == "normals")
        image = picture(layers, channel, painter.background, span, alpha)
        if flown.photographs is not None:
            photograph = reference(flown.photographs.image(i), painter.background.tolist()).numpy()
            image = np.concatenate([padded(image, largest), padded(photograph, largest)], 1)
        yield with_legend(image, *span) if channel == "depth" else image


def padded(image: UInt8[np.ndarray, "h w c"], size: Sequence[int]) -> UInt8[np.ndarray, "y x c"]:
    """An image in the middle of a black one of `size` (w, h): a video's frames are of one size."""
    (height, width), (x, y) = image.shape[:2], size
    left, top = (x - width) // 2, (y - height) // 2
    return np.pad(image, ((top, y - height - top), (left, x - width - left), (0, 0)))
