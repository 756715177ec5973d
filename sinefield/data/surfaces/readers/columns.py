"""Which columns of a table of points are what: by their names, or by what their numbers look like."""

import re

import numpy as np
from jaxtyping import Float

from sinefield.data.surfaces.parts import Part
from sinefield.data.surfaces.readers.colours import bytes_of
from sinefield.data.surfaces.readers.source import Source

UNIT = 0.02
"""How far from 1 the length of a normal may be, as files round them."""
SHARE = 0.95
"""Of the rows that must look like normals for the columns to be some."""
PLACES = ("x", "y", "z")
NAMES = {
    "x": "x px pos_x positionx x_coord easting east e", "y": "y py pos_y positiony y_coord northing north n",
    "z": "z pz pos_z positionz z_coord elevation height h altitude up",
    "nx": "nx normal_x normalx n_x norm_x", "ny": "ny normal_y normaly n_y norm_y",
    "nz": "nz normal_z normalz n_z norm_z",
    "r": "r red rf diffuse_red", "g": "g green gf diffuse_green", "b": "b blue bf diffuse_blue",
}  # fmt: skip
MEANING = {word: name for name, words in NAMES.items() for word in words.split()}


def named(names: list[str]) -> dict[str, int]:
    """The column of each of x y z nx ny nz r g b that the names speak of; without units and brackets."""
    found: dict[str, int] = {}
    for number, name in enumerate(names):
        word = re.sub(r"[(\[{].*", "", name.strip().strip("\"'#/").lower()).strip().replace(" ", "_")
        if (meaning := MEANING.get(word)) and meaning not in found:
            found[meaning] = number
    return found


def cloud(source: Source, table: Float[np.ndarray, "n k"], names: list[str] | None, intensity_first: bool) -> Part:
    """Points with their normals and colours.

    Arguments:
        names: of the columns, where the file says them.
        intensity_first: whether the fourth of seven columns is one, as in PTS.
    """
    source.check_points(len(table))
    found = named(names or [])
    if not all(name in found for name in PLACES):
        found = {"x": 0, "y": 1, "z": 2} | _guessed(source, table, intensity_first)
    points = table[:, [found[name] for name in PLACES]]
    normals = table[:, [found[n] for n in ("nx", "ny", "nz")]] if {"nx", "ny", "nz"} <= found.keys() else None
    colours = table[:, [found[n] for n in "rgb"]] if {"r", "g", "b"} <= found.keys() else None
    if colours is not None:
        whole = (colours == np.floor(colours)).all() and colours.max(initial=0) > 1
        colours = bytes_of(colours.astype(np.int64) if whole else colours)
    return Part("", points, None, normals, None, colours)


def _guessed(source: Source, table: np.ndarray, intensity_first: bool) -> dict[str, int]:
    """Where normals and colours are, by what the numbers look like."""
    width = table.shape[1]
    found: dict[str, int] = {}
    starts = list(range(3, width - 2))
    normals = next((s for s in starts if _like_normals(table[:, s : s + 3])), None)
    first = sorted(starts, key=lambda s: s != 4) if intensity_first else starts
    free = [s for s in first if normals is None or abs(s - normals) >= 3]
    colours = next((s for s in free if _like_bytes(table[:, s : s + 3])), None)
    if colours is None:
        colours = next((s for s in free if _like_shares(table[:, s : s + 3])), None)
    if normals is None and colours is None and width == 6:
        normals = 3
        source.note("Columns 4 to 6 are taken as normals, although their lengths are not 1.")
    elif colours is not None or (normals is not None and width != 6):
        told = [f"{what} in columns {at + 1} to {at + 3}" for what, at in (("normals", normals), ("colours", colours))
                if at is not None]  # fmt: skip
        source.note(f"The columns have no names; by their numbers: {', '.join(told)}.")
    if normals is not None:
        found |= {"nx": normals, "ny": normals + 1, "nz": normals + 2}
    if colours is not None:
        found |= {"r": colours, "g": colours + 1, "b": colours + 2}
    used = 3 + 3 * (normals is not None) + 3 * (colours is not None)
    if used < width:
        source.note(f"{width - used} of {width} columns are left out.")
    return found


def _like_normals(values: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        length = np.linalg.norm(values, axis=1)
    some = length != 0
    return bool(some.any() and (np.abs(length[some] - 1) < UNIT).mean() >= SHARE)


def _like_bytes(values: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return bool((values == np.floor(values)).all() and values.min() >= 0 and 1 < values.max() <= 255)


def _like_shares(values: np.ndarray) -> bool:
    return bool(values.min() >= 0 and values.max() <= 1)
