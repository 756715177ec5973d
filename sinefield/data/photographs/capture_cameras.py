"""The cameras of a set of photographs, read without the photographs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sinefield.cameras.cameras import Cameras, joined
from sinefield.data.photographs.image_files import read_header
from sinefield.data.photographs.listing import read_listing
from sinefield.data.photographs.origin import recentred
from sinefield.data.photographs.transforms import Frame
from sinefield.data.photographs.views import frame_cameras
from sinefield.errors import SinefieldError
from sinefield.strict import nearest


@dataclass(frozen=True, eq=False)
class Capture:
    """What paths need to know of a set of photographs.

    Attributes:
        cameras: of the training views, of the size that training sees.
        names: their image files.
        others: names and cameras of the views held out.
        bounds: nearest and farthest depth in world units, where the data say.
        source: the file the poses are from.
    """

    cameras: Cameras
    names: list[str]
    others: list[tuple[str, Cameras]]
    bounds: tuple[float, float] | None
    source: str


def load_capture(
    path: str, downscale: int = 1, holdout: int = 8, origin: Float[np.ndarray, "3"] | None = None
) -> Capture:
    """The cameras of a data set, its images not decoded; arguments and errors as `load_posed` has them."""
    listing = recentred(read_listing(path, holdout=holdout, downscale=downscale), origin)
    frames = listing.frames["train"]
    if not frames:
        raise SinefieldError(f"{listing.source}: no training view has an image file; add the image files")
    downscale //= listing.reduction
    held_out = [frame for split in ("val", "test") for frame in listing.frames.get(split, [])]

    def cameras_of(some: list[Frame]) -> Cameras:
        return frame_cameras(some, [read_header(frame)[0] for frame in some], downscale)

    others = [(frame.name, cameras_of([frame])) for frame in held_out]
    bounds = None if listing.bounds is None else (float(listing.bounds[0]), float(listing.bounds[1]))
    return Capture(cameras_of(frames), [frame.name for frame in frames], others, bounds, str(listing.source))


def choose_cameras(capture: Capture, chosen: Sequence[str]) -> Cameras:
    """The cameras of some views: training views by index (from 0), or any view by its file's name, with or without
    folder and suffix.

    Raises:
        SinefieldError: no such view, or several of that name.
    """
    found = [_by_index(capture, text) if text.lstrip("-").isdigit() else _by_name(capture, text) for text in chosen]
    return joined(found)


def _by_index(capture: Capture, text: str) -> Cameras:
    count = len(capture.names)
    if not 0 <= int(text) < count:
        raise SinefieldError(f"camera {text}: {capture.source} has training views 0 to {count - 1}")
    return capture.cameras[int(text)]


def _by_name(capture: Capture, text: str) -> Cameras:
    every = [*((name, capture.cameras[i]) for i, name in enumerate(capture.names)), *capture.others]
    same = [camera for name, camera in every if text in _names(name)]
    if len(same) != 1:
        known = [name for name, _ in every]
        problem = nearest(text, known) if len(known) < 30 or not same else "name it with its folder"
        what = f"{len(same)} views of that name" if same else "no such view"
        raise SinefieldError(f"camera {text}: {what} in {capture.source}; {problem}")
    return same[0]


def _names(name: str) -> set[str]:
    """What a view's file can be called."""
    base = name.rsplit("/", 1)[-1]
    return {name, base, name.rsplit(".", 1)[0], base.rsplit(".", 1)[0]}
