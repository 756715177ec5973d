"""One image file of any odd kind as 8-bit sRGB."""

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sinefield.cameras.cameras import check_downscale
from sinefield.data.photographs.image_files import area_average, read_header, read_pixels
from sinefield.data.photographs.images import reference
from sinefield.data.photographs.transforms import Frame

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def load_image(path: str | Path, downscale: int = 1, background: str = "white") -> UInt8[Tensor, "h w 3"]:
    """An image as people see it: turned by its EXIF orientation, its profile converted, alpha composited.

    Arguments:
        downscale: average blocks of downscale × downscale pixels, cropping the right and bottom remainder.
        background: "white" or "black", what shows through where there is alpha.

    Raises:
        SinefieldError: missing, no image, damaged, larger than `data.images` allows, or no pixel left.
    """
    path = Path(path)
    frame = Frame(path.name, path, np.eye(4)[:3], {}, str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked by our own limit, odd metadata are not the user's business
        _, has_alpha = read_header(frame)
        pixels = read_pixels(frame, None, has_alpha)
    check_downscale(downscale, pixels.shape[1], pixels.shape[0])
    pixels = area_average(pixels, downscale)
    if not pixels.flags.writeable:  # Pillow's own bytes, which torch warns of
        pixels = pixels.copy()
    return reference(torch.from_numpy(pixels), BACKGROUNDS[background])
