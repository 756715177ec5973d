"""The settings that suit a capture, from its cameras and sparse points."""

from pathlib import Path
from typing import Any

import numpy as np

from sinefield.data.photographs.image_files import read_header, straight
from sinefield.data.photographs.inspect import suggested_space
from sinefield.data.photographs.placing import read_placed
from sinefield.data.photographs.shared import image_folders
from sinefield.data.photographs.transforms import Frame, Listing
from sinefield.errors import SinefieldError

LONGEST = 640  # pixels of the photographs' longest side that training sees, about
BEYOND = 1.5  # in units of the cameras' ring: points farther from its middle are no object within it
CORE = 2.0  # in units of the same: how far from its middle a contraction leaves space as it is
LARGE_TABLE = 18  # log2 of the entries from which on a table does not stay in the caches
UNEVEN = 12  # levels by which a backdrop's colour may differ
STEP_APART = 0.5  # of the nearest depth: cameras nearer to each other look through one window
SPACES = {"contracted": {"grid_levels": 4, "cone_angle": 0.004}}
PRESETS = ("small", "balanced", "best")
SMALL = 128  # pixels of the longest side up to which a network without feature grids is as good


def network_for(preset: str, side: int) -> dict[str, Any]:
    """Settings of a radiance field's network: `small` is a sine network, the others have feature grids whose tables and
    whose samples along a ray follow the photographs' longest side, in pixels.

    >>> network_for("balanced", 640)["log2_table"], network_for("small", 640)
    (17, {})
    """
    if preset == "small":
        return {}
    table = 15 + sum(side > limit for limit in (128, 256, 640)) + 2 * (preset == "best")
    samples = 128 * (1 + sum(side > limit for limit in (128, 640)))
    return {"encoding": "hash", "log2_table": table, "depth": 1, "weights": "dense", "steps": samples}


def capture_settings(
    path: str | Path, space: str | None = None, downscale: int | None = None, preset: str | None = "balanced"
) -> dict[str, Any]:
    """A scene file's content for posed photographs: size, box, space, and the network.

    Space: `ndc` where the cameras look one way through one window; else `contracted` where a twentieth of the points
    lie farther than 1.5 radii from the middle of the cameras' ring, or most cameras stand in the box; else `box`, as
    for images with alpha. The box is the data's own; of a contracted space what lies within two radii of it.

    Arguments:
        path: what `load_posed` takes.
        space: field.space, if it was chosen already.
        downscale: data.downscale, if it was chosen already.
        preset: one of `PRESETS`; None: small for photographs of at most `SMALL` pixels a side, balanced for others.

    Raises:
        SinefieldError: what `read_listing` refuses; no images.
    """
    least = next((min(k) for root in (Path(path), *Path(path).parents[:2]) if (k := image_folders(root))), 1)
    listing = read_placed(path, downscale=downscale or least)
    frames = [frame for split in listing.frames.values() for frame in split]
    if not frames:
        raise SinefieldError(f"{listing.source}: no usable frames; add the image files")
    (width, height), alpha = read_header(frames[0])
    downscale = downscale or least * max(1, round(max(width, height) / LONGEST))
    positions, axes = np.stack([frame.c2w for frame in frames])[:, :, 3], np.stack([f.c2w for f in frames])
    space = space or ("box" if alpha else _space(listing, axes))
    data: dict[str, Any] = {"path": str(Path(path).resolve()), "downscale": downscale}
    data |= {"background": "white" if alpha or _before_white(frames[0]) else "black"}
    if space == "contracted" and (core := _core(listing, positions)):
        data["aabb"] = core
    side = -(-max(width, height) * frames[0].reduction // downscale)
    preset = preset or ("small" if side <= SMALL else "balanced")
    field = {"space": space, **network_for(preset, side), **SPACES.get(space, {})}
    # Lookups in large tables wait for memory, less of it a sample the more there are at once (docs/speed.md).
    batch = 16384 if field.get("log2_table", 0) < LARGE_TABLE else 32768
    training = {"seconds": 300.0, "batch": batch} if "encoding" in field else {}
    return {"kind": "radiance", "data": data, "field": field, "training": training}


def _before_white(frame: Frame) -> bool:
    """Whether an object was photographed before a bright backdrop of one colour, as pictures that were composed are."""
    pixels = straight(frame)[..., :3].astype(np.int16)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    colour = np.median(edge, 0)
    return bool((np.abs(edge - colour).max(1) <= UNEVEN).mean() > 0.9 and colour.mean() > 127)


def _space(listing: Listing, c2w: np.ndarray) -> str:
    positions = c2w[:, :, 3]
    middle, ring = _ring(positions)
    inside = 0
    if listing.aabb is not None:
        low, high = np.reshape(listing.aabb, (2, 3))
        inside = len(c2w) if listing.beyond else int(((positions >= low) & (positions <= high)).all(1).sum())
    suggested = suggested_space(c2w, inside, listing.bounds)
    if suggested == "ndc" and listing.bounds is not None and ring < STEP_APART * listing.bounds[0]:
        return "ndc"
    if listing.points is not None and len(listing.points):
        reach = np.percentile(np.linalg.norm(listing.points - middle, axis=1), 95)
        if reach > BEYOND * ring:
            return "contracted"
    return "contracted" if inside > len(c2w) / 2 else "box"


def _core(listing: Listing, positions: np.ndarray) -> list[float] | None:
    """The data's box within reach of the cameras; None where that would leave next to nothing, or there is no box."""
    if listing.aabb is None or listing.points is None:
        return None
    low, high = np.reshape(listing.aabb, (2, 3))
    middle, ring = _ring(positions)
    near_low, near_high = np.maximum(low, middle - CORE * ring), np.minimum(high, middle + CORE * ring)
    inside = ((listing.points >= near_low) & (listing.points <= near_high)).all(1)
    if not (near_high > near_low).all() or inside.mean() < 0.3:
        return None
    return [*near_low.tolist(), *near_high.tolist()]


def _ring(positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle of the cameras' places, and how far the farthest is from it."""
    middle = (positions.min(0) + positions.max(0)) / 2
    return middle, float(np.linalg.norm(positions - middle, axis=1).max())
