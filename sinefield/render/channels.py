"""What a ray has seen, as a picture: colour, depth with its legend, opacity, or the direction of the surface."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from sinefield.errors import SinefieldError

CHANNELS = ("rgb", "depth", "opacity", "normals")
Frame = UInt8[np.ndarray, "h w 3"]
LEGEND = 1 / 14, 12, 40
"""Height of the depth legend as a share of the picture's, and the least and most pixels it takes."""


class Layers(NamedTuple):
    """One view of a field; numpy float32.

    Attributes:
        colours: (h, w, 3) sRGB premultiplied by opacity.
        opacities: (h, w) in [0, 1].
        depths: (h, w) mean distance along the ray in world units, without meaning where opacity is 0.
        normals: (h, w, 3) unit vectors out of the surface, in world axes; None where they were not asked for.
    """

    colours: Float[np.ndarray, "h w 3"]
    opacities: Float[np.ndarray, "h w"]
    depths: Float[np.ndarray, "h w"]
    normals: Float[np.ndarray, "h w 3"] | None = None


def picture(
    layers: Layers,
    channel: str,
    background: Float[np.ndarray, "3"],
    span: tuple[float, float],
    alpha: bool = False,
) -> UInt8[np.ndarray, "h w c"]:
    """One channel of a view, 8-bit sRGB.

    Colour is composited on `background`; depth (see `colourise_depth`) and normals ((n + 1) / 2 as colour) on white, by
    their opacity; opacity is white on black. With `alpha` nothing is composited: colours are straight, alpha is the
    opacity, and the background's colour fills in where that is 0; the opacity channel is opaque.

    Arguments:
        span: near and far of the depth's colours, world units.
    """
    opacity = np.clip(np.nan_to_num(layers.opacities), 0, 1)[..., None]
    if channel == "opacity":
        colour, opacity = opacity.repeat(3, -1), np.ones_like(opacity)
    elif channel == "depth":
        colour, background = _depth_colours(layers.depths, *span), np.ones(3)
    elif channel == "normals":
        assert layers.normals is not None  # whoever wants this channel has asked for them
        colour, background = (layers.normals + 1) / 2, np.ones(3)
    else:
        colour = np.clip(layers.colours / np.maximum(opacity, 1e-6), 0, 1)
        colour = np.where(opacity > 0, colour, background)
    if alpha:
        colour = np.concatenate([np.where(opacity > 0, colour, background), opacity], -1)
    else:
        colour = colour * opacity + (1 - opacity) * background
    return np.round(255 * np.clip(colour, 0, 1)).astype(np.uint8)


def colourise_depth(
    depth: Float[np.ndarray, "h w"], opacity: Float[np.ndarray, "h w"], near: float, far: float
) -> Frame:
    """Depth as a picture: near is bright yellow, far is dark violet (viridis, perceptually uniform), empty is white.

    Arguments:
        depth: (h, w) distance along the ray in world units; values outside [near, far] are clipped, NaN counts as far.
        opacity: (h, w) in [0, 1]; the colour is blended with white by it.
        near, far: the depths of the ends of the colour map, near < far.

    Raises:
        SinefieldError: near is not below far.
    """
    opacity = np.clip(np.nan_to_num(opacity), 0, 1)[..., None]
    return np.round(255 * (_depth_colours(depth, near, far) * opacity + 1 - opacity)).astype(np.uint8)


def with_legend(picture: UInt8[np.ndarray, "h w c"], near: float, far: float) -> UInt8[np.ndarray, "h2 w c"]:
    """A depth picture above a bar of its colours between the numbers they stand for."""
    height, width, channels = picture.shape
    share, least, most = LEGEND
    strip = int(np.clip(round(share * height), least, most))
    canvas = Image.new("RGB", (width, strip), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(0.62 * strip, 8))
    texts = [f"{value:.3g}" for value in (near, far)]
    left, right = (draw.textlength(text, font=font) for text in texts)
    gap = strip / 3
    first, last = round(left + 2 * gap), round(width - right - 2 * gap)
    if last - first < 8:  # too narrow for words: the bar alone still says which end is near
        first, last = 0, width
    else:
        draw.text((gap, strip / 2), texts[0], "black", font, anchor="lm")
        draw.text((width - gap, strip / 2), texts[1], "black", font, anchor="rm")
    bar = np.asarray(canvas).copy()
    ramp = np.linspace(near, far, last - first)[None]
    inner = slice(strip // 4, strip - strip // 4)
    bar[inner, first:last] = np.round(255 * _depth_colours(ramp, near, far)).astype(np.uint8)
    if channels == 4:
        bar = np.concatenate([bar, np.full((strip, width, 1), 255, np.uint8)], -1)
    return np.concatenate([picture, bar])


def _depth_colours(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """(h, w, 3) in [0, 1]."""
    if not near < far:
        raise SinefieldError(f"depth range {near:g} to {far:g}: near must be below far")
    from matplotlib import colormaps  # a second to import, and only depth pictures need it

    closeness = np.nan_to_num(1 - (depth - near) / (far - near), nan=0.0)
    return colormaps["viridis"](np.clip(closeness, 0, 1))[..., :3]
