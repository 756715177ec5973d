"""Colours as files have them: 8-bit sRGB from any numbers, pictures with their sizes checked, paint of some faces."""

import warnings
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from sinefield.data.photographs.image_files import FORMATS, MAX_PIXELS, MAX_SIDE, check_scans, to_srgb
from sinefield.data.surfaces.parts import CLAY, PLAIN, Paint
from sinefield.data.surfaces.readers.source import Source


class Look(NamedTuple):
    """A material: one colour, sRGB in [0, 1], or the number of a picture."""

    colour: tuple[float, float, float] | None = None
    texture: int = PLAIN


def bytes_of(values: np.ndarray) -> UInt8[np.ndarray, "n 3"]:
    """Colours (n, 3) in 0 to 1, 0 to 255 or 0 to 65535 as 8 bits each; whole numbers have at least 8."""
    if values.dtype == np.uint8:
        return values
    whole = values.dtype.kind in "iu"
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    most = values.max(initial=0)
    scale = 255 if most <= 1 and not whole else 1 if most <= 255 else 1 / 257
    return np.round(values * scale).clip(0, 255).astype(np.uint8)


def srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB of linear light, both in [0, 1]."""
    linear = np.clip(np.nan_to_num(linear), 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB, both in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)


class Pictures:
    """The textures of one file, each decoded once; all of them together have no more than `MAX_PIXELS`."""

    def __init__(self, source: Source) -> None:
        self.source, self.left = source, MAX_PIXELS
        self.found: list[np.ndarray] = []
        self.numbers: dict[object, int] = {}

    def number(self, key: object, data: bytes | None, what: str) -> int:
        """The number of a picture, or `PLAIN` with a note of why there is none."""
        if key not in self.numbers:
            pixels = None
            if data is None:
                self.source.note(f"Texture {what!r:.80} is not beside the file: its faces have no colour from it.")
            else:
                pixels = self._decoded(data, what)
            self.numbers[key] = PLAIN if pixels is None else self.added(pixels)
        return self.numbers[key]

    def added(self, pixels: np.ndarray) -> int:
        """The number of one more."""
        self.found.append(pixels)
        return len(self.found) - 1

    def _decoded(self, data: bytes, what: str) -> np.ndarray | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # sizes are checked here
                with Image.open(BytesIO(data), formats=FORMATS) as image:
                    width, height = image.size
                    if max(width, height) > MAX_SIDE or width * height > self.left:
                        raise ValueError(f"{width}x{height} pixels are too many")
                    check_scans(self.source.path, image, data)
                    image.load()
                    pixels = np.asarray(to_srgb(image).convert("RGB"))
        except Exception as error:  # damaged bytes make Pillow's readers raise nearly anything
            if isinstance(error, MemoryError):
                raise
            reason = "no PNG or JPEG" if isinstance(error, Image.UnidentifiedImageError) else str(error)[:80]
            self.source.note(f"Texture {what!r:.80} cannot be read ({reason}): its faces have no colour from it.")
            return None
        self.left -= width * height
        return pixels


def painted(
    looks: list[Look],
    look_of: np.ndarray,
    uv: Float[np.ndarray, "f 3 2"] | None,
    colours: Float[np.ndarray, "f 3 3"] | None,
    pictures: Pictures,
) -> Paint | None:
    """Paint of faces: a texture where there are coordinates for it, else colours of corners, else the material's.

    Arguments:
        looks: materials; the last is that of faces that have none.
        look_of: (f,) material of each face.
        uv: in pictures, v upwards; NaN where a corner has none.
        colours: sRGB in [0, 1]; NaN where a corner has none.

    Returns:
        None where nothing has a colour.
    """
    own = np.array([look.colour or (float("nan"),) * 3 for look in looks], dtype=np.float64)[look_of]
    corners = np.repeat(own[:, None], 3, 1)
    if colours is not None:
        given = ~np.isnan(colours).any((1, 2))
        corners[given] = colours[given]
    texture_of = np.array([look.texture for look in looks], np.int32)[look_of]
    if uv is None:
        texture_of[:] = PLAIN
    else:
        texture_of[~np.isfinite(uv).all((1, 2))] = PLAIN
        textured = texture_of != PLAIN
        corners[textured, :, :2], corners[textured, :, 2] = uv[textured], 0
    if np.isnan(corners).all() and len(corners):
        return None
    corners = np.where(np.isnan(corners), np.array(CLAY), corners)
    return Paint(np.ascontiguousarray(corners, np.float32), tuple(pictures.found), texture_of)


def part_paint(paint: Paint | None, faces: np.ndarray) -> Paint | None:
    """Paint of some of the faces, with the pictures that they have."""
    if paint is None:
        return None
    used, texture_of = np.unique(paint.texture_of[faces], return_inverse=True)
    held = [paint.textures[i] for i in used if i != PLAIN]
    texture_of = texture_of.reshape(-1) - (PLAIN in used)
    return Paint(paint.corners[faces], tuple(held), texture_of.astype(np.int32))
