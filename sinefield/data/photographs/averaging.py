"""Images made smaller: averages of whole blocks, exact."""

import numpy as np

BAND = 1 << 22  # values averaged at once


def area_average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Premultiply and average factor x factor blocks exactly, rounding once.

    Arguments:
        pixels: (h, w, c) uint8, straight alpha if c = 4.

    Returns:
        (h // factor, w // factor, c) uint8, premultiplied if c = 4.
    """
    height, width, channels = pixels.shape[0] // factor, pixels.shape[1] // factor, pixels.shape[2]
    pixels = pixels[: height * factor, : width * factor]
    if channels == 3 and factor == 1:
        return pixels
    averaged, rows = np.empty((height, width, channels), np.uint8), max(BAND // (width * factor**2 * channels), 1)
    for first in range(0, height, rows):  # a band at a time: the sums take many times the image's memory
        band = slice(first, min(first + rows, height))
        averaged[band] = _averaged(pixels[first * factor : band.stop * factor], factor)
    return averaged


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """`area_average` of whole blocks, all at once."""
    height, width, channels = pixels.shape[0] // factor, pixels.shape[1] // factor, pixels.shape[2]
    unit = 1
    if channels == 4:  # in units of 1/255, to stay whole
        unit = 255
        weights = np.concatenate([np.repeat(pixels[..., 3:], 3, -1), np.full_like(pixels[..., 3:], 255)], -1)
        pixels = np.multiply(pixels, weights, dtype=np.uint16)
    rows = pixels.reshape(height, factor, -1).sum(1, dtype=np.uint32)
    sums = rows.reshape(height, width, factor, channels).sum(2, dtype=np.uint64)
    divisor = unit * factor * factor
    return ((2 * sums + divisor) // (2 * divisor)).astype(np.uint8)
