"""The box of an object before a plain backdrop: what all photographs show as no backdrop."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from sinefield.data.photographs.looking import Focus
from sinefield.data.photographs.transforms import Frame
from sinefield.errors import SinefieldError

Pixels = Callable[[Frame], UInt8[np.ndarray, "h w 4"]]
"""Reads a photograph, straight alpha."""

ASKED = 24
"""Photographs that are looked at."""
SIDE = 128
"""Pixels of the longest side that they are looked at with."""
UNEVEN, PLAIN = 24, 0.95
"""By how much of 255 a backdrop may differ from its middle, and the share of a picture's edge that must be so."""
FAINT, NOISES = 8, 2.0
"""What differs less from the backdrop, of 255, or less than so many times what the edge does, is backdrop."""
CELLS, FINER = 40, 2
"""Cells along a side of the space that is carved; how often what is left is carved anew, as finely."""
BEYOND = 1.5
"""That space, in units of what the cameras have in view."""
CONTRADICTING = 0.1
"""Share of the photographs that may show backdrop where the others show none."""
MARGIN = 0.05
"""Of the longest side, on each."""


class Outline(NamedTuple):
    """Which pixels of a photograph show the object, and how pixels follow from a camera's plane at unit depth."""

    shows: Bool[np.ndarray, "h w"]
    frame: Frame
    focal: Float[np.ndarray, "2"]
    centre: Float[np.ndarray, "2"]

    @property
    def whole(self) -> bool:
        """Whether the picture's edge does not cut the object."""
        shows = self.shows
        return not (shows[0].any() or shows[-1].any() or shows[:, 0].any() or shows[:, -1].any())


def outlines(frames: Sequence[Frame], pixels: Pixels) -> list[Outline] | None:
    """The outlines of an object in some of its photographs; None where these show more than one before a backdrop.

    An image with transparent pixels shows what is not transparent. Another has a plain backdrop where its edge is of
    one colour, the same in all.
    """
    from scipy.ndimage import binary_fill_holes  # imported where it is used: a mesh needs none of it

    found: list[Outline] = []
    colours: list[np.ndarray] = []
    for frame in frames[:: -(-len(frames) // ASKED)]:
        with suppress(SinefieldError):  # whoever needs the image says what is wrong with it
            image = Image.fromarray(pixels(frame))
            lens = np.array(frame.intrinsics(*image.size)[:4])
            share = min(SIDE / max(image.size), 1)
            size = max(round(image.width * share), 2), max(round(image.height * share), 2)
            by = np.divide(size, image.size)
            values = np.asarray(image.resize(size, Image.Resampling.BOX), np.int32)
            if values[..., 3].min() < 128:
                shows = values[..., 3] >= 16
            else:
                edge = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])[:, :3]
                colour = np.median(edge, 0)
                off = np.abs(edge - colour).max(1)
                if (off <= UNEVEN).mean() < PLAIN:
                    return None
                colours.append(colour)
                noise = float(np.quantile(off, PLAIN))
                shows = np.abs(values[..., :3] - colour).max(2) > max(NOISES * noise, FAINT)
            shows = np.asarray(binary_fill_holes(shows), bool)
            found.append(Outline(shows, frame, lens[:2] * by, lens[2:] * by))
    if colours and np.ptp(colours, axis=0).max() > 2 * UNEVEN:
        return None
    return found or None


def carved(found: Sequence[Outline], focus: Focus) -> list[float] | None:
    """The box around what all outlines hold, xmin ymin zmin xmax ymax zmax, and a margin; None where that is nothing.

    A photograph that shows the object whole speaks against all that it does not have in view; one whose edge cuts it
    does not, and where that are most, their outlines say nothing. Lens distortion is not looked at: it is less than the
    margin where objects are.
    """
    if sum(outline.whole for outline in found) <= len(found) / 2:
        return None
    box = _kept(found, focus.point, BEYOND * focus.half, focus.distance)
    for _ in range(FINER):
        if box is None:
            return None
        box = _kept(found, box.mean(0), np.ptp(box, 0) / 2, focus.distance)
    if box is None:
        return None
    margin = MARGIN * float(np.ptp(box, 0).max())
    return [*(box[0] - margin).tolist(), *(box[1] + margin).tolist()]


def _kept(found: Sequence[Outline], centre: np.ndarray, half: np.ndarray, distance: float) -> np.ndarray | None:
    """(2, 3) the box of the cells, of those of a box, that outlines leave."""
    steps = (np.arange(CELLS) + 0.5) / CELLS * 2 - 1
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    points = centre + half * grid
    against, seen = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for outline in found:
        c2w = outline.frame.c2w
        local = (points - c2w[:, 3]) @ c2w[:, :3]
        depth = np.maximum(-local[:, 2], 1e-9 * distance)
        at = local[:, :2] / depth[:, None] * [1, -1] * outline.focal + outline.centre
        height, width = outline.shows.shape
        inside = (local[:, 2] < 0) & ((at >= 0) & (at < (width, height))).all(1)
        # A cell counts as shown where any pixel that it covers does.
        near = _widened(outline.shows, round(float(outline.focal.max() * half.max()) / CELLS / distance))
        column, row = at[inside].astype(np.int64).T
        shown = np.zeros(len(points), bool)
        shown[inside] = near[row, column]
        against += ~shown & (inside | outline.whole)
        seen += inside
    left = grid[(against <= CONTRADICTING * len(found)) & (2 * seen >= len(found))]
    return centre + half * np.stack([left.min(0) - 1 / CELLS, left.max(0) + 1 / CELLS]) if len(left) else None


def _widened(shows: np.ndarray, by: int) -> np.ndarray:
    """Where a pixel at most `by` columns and rows away is set."""
    from scipy.ndimage import maximum_filter

    return maximum_filter(shows, 2 * by + 1) if by else shows
