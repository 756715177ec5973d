"""A data set's poses with its box where the evidence says, as training has it."""

from collections.abc import Sequence
from pathlib import Path

from sinefield.data.photographs.box import placed
from sinefield.data.photographs.image_files import straight
from sinefield.data.photographs.listing import read_listing
from sinefield.data.photographs.transforms import SPLITS, Listing


def read_placed(
    path: str | Path, splits: Sequence[str] = SPLITS, holdout: int = 8, downscale: int = 1, boxed: bool = False
) -> Listing:
    """`read_listing`, its box by evidence where the data's own does not fit (see `box.placed`).

    Arguments:
        boxed: the box is given by a setting, so that none needs to be found.

    Raises:
        SinefieldError: see `read_listing`.
    """
    listing = read_listing(path, splits, holdout, downscale)
    return listing if boxed else placed(listing, straight)
