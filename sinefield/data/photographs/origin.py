"""Captures far from the origin of their coordinates (UTM, ECEF): an offset is taken off before single precision."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from sinefield.data.photographs.transforms import Listing

FAR = 100.0
"""How many times farther away than it is long a scene may lie: single precision then still has 1e-5 of its length."""


def offset_of(listing: Listing) -> Float[np.ndarray, "3"]:
    """Where coordinates should begin instead, float64: zero, or for a scene far away a round point in its middle.

    The middle is that of the box, or of the cameras where there is none.
    """
    frames = [frame for split in listing.frames.values() for frame in split]
    if not frames:
        return np.zeros(3)
    positions = np.stack([frame.c2w[:, 3] for frame in frames])
    corners = positions if listing.aabb is None else np.concatenate([positions, np.reshape(listing.aabb, (2, 3))])
    length = float(np.ptp(corners, 0).max())
    middle = (positions.min(0) + positions.max(0)) / 2
    if listing.aabb is not None:
        middle = np.reshape(listing.aabb, (2, 3)).mean(0)
    if not length > 0 or np.abs(middle).max() <= FAR * length:
        return np.zeros(3)
    unit = 10.0 ** np.floor(np.log10(length))
    return np.round(middle / unit) * unit + 0.0  # no -0


def recentred(listing: Listing, origin: Float[np.ndarray, "3"] | None = None) -> Listing:
    """The listing with an offset taken off all its positions, and a note on it; as it is where that is zero.

    Arguments:
        origin: the offset; `offset_of` when None.

    Examples:
        >>> from pathlib import Path
        >>> from sinefield.data.photographs.transforms import Frame
        >>> far = np.eye(4)[:3] + [[0, 0, 0, 500_000.25], [0, 0, 0, 4_000_000.5], [0, 0, 0, 100]]
        >>> frame = Frame("a.png", Path("a.png"), far, {}, "a.png")
        >>> near = recentred(Listing(Path("x.json"), {"train": [frame]}, [5e5, 4e6, 99, 5e5 + 2, 4e6 + 2, 101], 0))
        >>> near.origin, near.frames["train"][0].c2w[:, 3].tolist()
        ((500001.0, 4000001.0, 100.0), [-0.75, -0.5, 0.0])
    """
    offset = offset_of(listing) if origin is None else np.asarray(origin, np.float64)
    if not offset.any():
        return listing
    moved = {
        split: [replace(f, c2w=np.column_stack([f.c2w[:, :3], f.c2w[:, 3] - offset])) for f in frames]
        for split, frames in listing.frames.items()
    }
    shift = np.tile(offset, 2)
    boxes = [None if box is None else (np.asarray(box) - shift).tolist() for box in (listing.aabb, listing.core)]
    return replace(
        listing,
        frames=moved,
        aabb=boxes[0],
        core=boxes[1],
        points=None if listing.points is None else listing.points - offset,
        origin=tuple(offset.tolist()),
        notes=(*listing.notes, offset_note(offset)),
    )


def offset_note(offset: Float[np.ndarray, "3"]) -> str:
    """What people are told of an offset."""
    told = " ".join(f"{value:.12g}" for value in offset)
    return f"far from the origin: learned less the offset {told}, which exports put back"
