"""Where a scene's box is: by its pose file's rule where that fits what the cameras look at, else by the evidence.

Evidence is, in this order: sparse points; where all photographs show an object before a plain backdrop; where the
optical axes meet, and how far the cameras stand from there; where the cameras stand.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sinefield.data.photographs.looking import find_focus, in_view
from sinefield.data.photographs.silhouettes import Pixels, carved, outlines
from sinefield.data.photographs.sparse_points import points_box
from sinefield.data.photographs.transforms import STATED, Frame, Listing
from sinefield.errors import SinefieldError

HELD = 0.75
"""Share of what the cameras have in view around their focus that a rule's box must reach to."""
STATED_HELD = 0.25
"""The same of a box that the file states: someone may be after a part of what the photographs show."""
ROOMY = 1.6
"""How many times larger than that view a rule's box may be, where there is nothing beyond the object."""
SURROUNDING = 2.0
"""How many times farther than the farthest camera a rule's box may reach, where there is."""
STANDING = 3.0
"""Half the sides of a box where the cameras have no common focus, in units of how far they stand apart."""
OUTWARDS = 0.25
"""Share of cameras with the middle of all before them, at most, where they look outwards."""
POINTS_HELD, POINTS_ROOMY = 0.9, 3.0
"""Share of the sparse points that a rule's box must hold, and how many times longer than theirs it may be."""
LOOKED_AT, LOOKING = 2000, 200
"""Sparse points that are checked against the cameras; and so many of these, roughly."""


class Found(NamedTuple):
    """A box by evidence, what that is in words, whether the rule's box fits it, and whether photographs show more."""

    box: list[float]
    by: str
    fits: bool
    beyond: bool = False


def placed(listing: Listing, pixels: Pixels) -> Listing:
    """The listing with its box placed by evidence where its rule does not fit, or gives none; and a note on it.

    A box that was measured (COLMAP's points, LLFF's depths, DTU's spheres) stays as it is.

    Arguments:
        pixels: reads a photograph, (h, w, 4) uint8 with straight alpha.
    """
    # In an order of their own, so that the box does not depend on which views are held out.
    frames = sorted((frame for split in listing.frames.values() for frame in split), key=lambda frame: frame.name)
    if (listing.aabb is not None and listing.rule is None) or not listing.frames.get("train", True):
        return listing
    try:
        tangents = view_tangents(frames, pixels)
    except SinefieldError:  # whoever needs the lenses says what is wrong with them
        return listing
    if not len(tangents):
        return listing
    c2w = np.stack([frame.c2w for frame in frames])
    rule = None if listing.aabb is None else np.reshape(listing.aabb, (2, 3))
    notes = list(listing.notes)
    found = None
    if listing.points is not None:
        found, note = by_points(listing.points, c2w, tangents, rule)
        notes += [note] if note else []
    found = found or by_cameras(frames, c2w, tangents, rule, listing.rule == STATED, pixels)
    if found is None or found.fits:
        return replace(listing, notes=tuple(notes))
    told = f"{_told(found.box)}, {found.by}"
    if rule is None:
        notes.append(f"box: {told}; data.aabb overrides it")
    elif listing.rule == STATED:  # someone's own word is kept
        notes.append(
            f"box: the file's aabb, {_told(rule.ravel().tolist())}, is used, but does not fit what the cameras look "
            f"at: that is {told}; data.aabb overrides it"
        )
        return replace(listing, notes=tuple(notes))
    else:
        notes.append(
            f"box: {listing.rule} makes it {_told(rule.ravel().tolist())}, which does not fit what the cameras look "
            f"at; used is {told}; data.aabb overrides it"
        )
    return replace(listing, aabb=found.box, rule=None, beyond=found.beyond, notes=tuple(notes))


def view_tangents(frames: Sequence[Frame], pixels: Pixels) -> np.ndarray:
    """(n, 2) tangents of half the frames' fields of view, across and down."""
    sizes: dict[tuple, tuple[int, int]] = {}
    found = []
    for frame in frames:
        size = frame.declared_size()
        if size is None:
            key = tuple(map(str, frame.lens.values()))  # frames of one lens have one size
            if key not in sizes:
                sizes[key] = pixels(frame).shape[1::-1]
            size = sizes[key]
        fx, fy = frame.intrinsics(*size)[:2]
        found.append((size[0] / 2 / fx, size[1] / 2 / fy))
    return np.array(found).reshape(-1, 2)


def by_points(
    points: np.ndarray, c2w: np.ndarray, tangents: np.ndarray, rule: np.ndarray | None
) -> tuple[Found | None, str | None]:
    """The box of sparse points, or a note on why they say nothing."""
    box = points_box(points)
    if box is None:
        return None, f"{len(points)} sparse points are too few to place the box by"
    some = points[:: max(len(points) // LOOKED_AT, 1)]
    few = slice(None, None, max(len(c2w) // LOOKING, 1))
    seen = in_view(c2w[few], tangents[few], some)[0].any(0).mean()
    if seen < 0.5:
        return None, f"only {seen:.0%} of the sparse points are in view of a camera: the box is not placed by them"
    found = Found(box, f"by {len(points):,} sparse points", False)
    if rule is not None:
        inside = ((points >= rule[0]) & (points <= rule[1])).all(1).mean()
        longest = np.ptp(np.reshape(box, (2, 3)), 0).max()
        found = found._replace(fits=bool(inside >= POINTS_HELD and np.ptp(rule, 0).max() <= POINTS_ROOMY * longest))
    return found, None


def by_cameras(
    frames: Sequence[Frame],
    c2w: np.ndarray,
    tangents: np.ndarray,
    rule: np.ndarray | None,
    stated: bool,
    pixels: Pixels,
) -> Found | None:
    """The box by where cameras look, or stand; None where a single camera says nothing."""
    focus = find_focus(c2w, tangents)
    if focus is None:
        return _standing(c2w, rule)
    by = f"where {len(c2w)} optical axes meet"
    seen = outlines(frames, pixels)
    box = None
    if seen is None:
        by += "; the photographs show more than that: field.space contracted suits them"
    elif (box := carved(seen, focus)) is not None:
        by += ", cut to what shows before the backdrop"
    held = STATED_HELD if stated else HELD if box is None else 1.0
    box = box or focus.box
    if rule is None:
        return Found(box, by, False, seen is None)
    low, high = np.reshape(box, (2, 3))
    least = (low + high) / 2 + held * (high - low) / 2 * np.array([[-1.0], [1.0]])
    most = SURROUNDING * focus.reach if seen is None else ROOMY * float(focus.half.max())
    return Found(box, by, _fits(rule, least, most), seen is None)


def _fits(rule: np.ndarray, least: np.ndarray, most: float) -> bool:
    """Whether a box holds the least one, and its half sides are at most `most`."""
    slack = 0.02 * np.ptp(least, 0).max()
    holds = (rule[0] <= least[0] + slack).all() and (rule[1] >= least[1] - slack).all()
    return bool(holds and np.ptp(rule, 0).max() / 2 <= most)


def _standing(c2w: np.ndarray, rule: np.ndarray | None) -> Found | None:
    """A box around cameras that have no common focus: side by side, or looking outwards."""
    positions = c2w[:, :, 3]
    middle, apart = (positions.min(0) + positions.max(0)) / 2, float(np.ptp(positions, 0).max())
    if not apart > 0:
        return None
    half = STANDING * apart / 2
    facing = (((middle - positions) * -c2w[:, :, 2]).sum(1) > 0).mean()
    how = "look outwards, if their axes are OpenGL's, along -z" if facing < OUTWARDS else "have no common focus"
    box = [*(middle - half).tolist(), *(middle + half).tolist()]
    found = Found(box, f"around the cameras, which {how}; field.space contracted suits it", False, True)
    if rule is None:
        return found
    inside = ((positions >= rule[0]) & (positions <= rule[1])).all(1).mean()
    with np.errstate(divide="ignore", invalid="ignore"):  # where each axis enters and leaves the box's three slabs
        crossing = (rule[:, None] - positions) / -c2w[:, :, 2]
    ahead = np.nanmin(crossing.max(0), 1) >= np.maximum(np.nanmax(crossing.min(0), 1), 0)
    return found._replace(fits=bool(inside > 0.5 or ahead.mean() > 0.5))


def _told(box: Sequence[float]) -> str:
    low, high = np.reshape(box, (2, 3))
    size = max(float((high - low).max()), 1e-12 * float(np.abs(box).max()), 1e-300)
    digits = 4 + max(int(np.log10(max(float(np.abs(box).max()) / size, 1))), 0)  # those that differ, far away
    return "[" + ", ".join(f"{value:.{digits}g}" for value in box) + "]"
