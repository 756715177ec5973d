"""Masks of photographs, black where nothing counts: as pixels that are ignored, or as the object's own alpha."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from sinefield.data.photographs.image_files import area_average, read_header, read_pixels
from sinefield.data.photographs.transforms import Frame, Listing
from sinefield.errors import SinefieldError

HALF = 128  # of 255: what is darker is black, also where a JPEG or a soft edge left some grey


@dataclass(frozen=True)
class Covering:
    """What masks and alpha stand for.

    Attributes:
        masks: "ignore": black pixels are neither trained on nor scored; "object": masks are the images' alpha, black is
            background; "unused".
        alpha: "object": transparent pixels are background; "ignore": pixels that are not opaque are neither trained on
            nor scored.
    """

    masks: str = "ignore"
    alpha: str = "object"


def covered(listing: Listing, covering: Covering) -> Listing:
    """The listing with each frame's mask where its use is, and a note on what is done with them."""
    frames = [frame for some in listing.frames.values() for frame in some]
    count = sum(frame.cover is not None for frame in frames)
    if not count:
        return listing
    lacking = f" ({len(frames) - count} frames have none)" if count < len(frames) else ""
    if covering.masks == "unused":
        changed = {split: [replace(f, cover=None) for f in some] for split, some in listing.frames.items()}
        note = f"{count} masks are there, which data.masks says are unused"
    elif covering.masks == "object":
        changed = {
            split: [f if f.cover is None else replace(f, mask=f.cover, cover=None) for f in some]
            for split, some in listing.frames.items()
        }
        note = f"{count} masks are taken as the objects' (data.masks object): black is background{lacking}"
    else:
        changed = listing.frames
        note = f"{count} masks: black pixels are ignored (data.masks ignore){lacking}"
    return replace(listing, frames=changed, notes=(*listing.notes, note))


def find_mask(folder: Path, name: str) -> Path | None:
    """The mask of an image in a folder of masks: NAME.png or NAME.jpg.png, as COLMAP has them."""
    for file in (folder / f"{name}.png", folder / Path(name).with_suffix(".png")):
        if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
            return file
    return None


def read_kept(frame: Frame, size: tuple[int, int], downscale: int) -> Bool[np.ndarray, "h w"]:
    """Which pixels of a frame's image its mask keeps; of a block that is averaged, all must be kept.

    Arguments:
        frame: with a `cover`.
        size: (w, h) of its image; a mask may be larger by the same whole factor in both.

    Raises:
        SinefieldError: no image, or of another shape.
    """
    assert frame.cover is not None
    alone = replace(frame, file=frame.cover, cover=None, mask=None, lens={}, reduction=1, upright=False)
    (width, height), _ = read_header(alone)
    factor = max(round(width / size[0]), 1)
    if (width // factor, height // factor) != size:
        raise SinefieldError(
            f"{frame.cover}: is {width}x{height}, its image {size[0]}x{size[1]}; provide masks of the images' size"
        )
    bright = read_pixels(alone, (width, height), False).max(-1, keepdims=True) >= HALF
    return area_average(bright.astype(np.uint8) * 255, factor * downscale)[..., 0] == 255


def ignored_note(parts: Iterable[np.ndarray | None], counts: Iterable[int]) -> tuple[str, ...]:
    """A line on how many pixels are ignored, of all."""
    total, ignored = sum(counts), sum(int(np.size(kept) - np.sum(kept)) for kept in parts if kept is not None)
    return (f"{ignored:,} of {total:,} pixels ({ignored / total:.1%}) are ignored",) if ignored else ()
