"""A radiance field's picture for a camera that may leave at any moment: coarse first, then finer, strip by strip."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sinefield.cameras.cameras import Cameras
from sinefield.fields.radiance.field import RadianceField
from sinefield.render.channels import colourise_depth
from sinefield.render.volume import Pixels

STRIP = 4096
"""Rays rendered at once: what a moving camera has to wait for, and the size of the first picture."""
FINER = 6
"""How many times more rays each picture has than the one before."""
CHANNELS = ("rgb", "depth", "opacity")


class Look(NamedTuple):
    """Where a browser's camera stands: plain numbers, so that two looks can be compared.

    Attributes:
        wxyz: unit quaternion, camera to world, OpenCV axes (x right, y down, looking along +z).
        position: world units.
        fov: vertical angle of view, radians.
        aspect: the window's width divided by its height.
    """

    wxyz: tuple[float, ...]
    position: tuple[float, ...]
    fov: float
    aspect: float

    def size(self, longest: int) -> tuple[int, int]:
        """Width and height of a picture that fills the window, its longer side of `longest` pixels."""
        width, height = (longest, longest / self.aspect) if self.aspect >= 1 else (longest * self.aspect, longest)
        return max(round(width), 1), max(round(height), 1)

    def cameras(self, width: int, height: int) -> Cameras:
        """One camera of this look whose picture is stretched over the window."""
        from scipy.spatial.transform import Rotation

        w, x, y, z = self.wxyz
        rotation = Rotation.from_quat((x, y, z, w)).as_matrix() * (1, -1, -1)  # OpenCV's y and z are against OpenGL's
        c2w = torch.from_numpy(np.column_stack([rotation, self.position])).float()
        tangent = math.tan(self.fov / 2)
        focal = torch.tensor([[width / (2 * self.aspect * tangent), height / (2 * tangent)]])
        centre = torch.tensor([[width / 2, height / 2]])
        return Cameras(c2w[None], focal, centre, torch.zeros(1, 4), width, height)


class Refined(NamedTuple):
    """A picture on its way.

    Attributes:
        pixels: height × width of them in row-major order; valid until the next one is asked for.
        done: share of the final picture's rays that are rendered, 1.0 at the end.
    """

    pixels: Pixels
    width: int
    height: int
    done: float


def stages(width: int, height: int) -> list[tuple[int, int]]:
    """Sizes of the pictures on the way to width × height: the first of at most STRIP pixels, the last that size."""
    sizes = [(width, height)]
    while sizes[0][0] * sizes[0][1] > STRIP:
        shrink = FINER ** -(len(sizes) / 2)
        sizes.insert(0, (max(int(width * shrink), 1), max(int(height * shrink), 1)))
    return sizes


def refine(field: RadianceField, look: Look, width: int, height: int) -> Iterator[Refined]:
    """Ever better pictures of `look`; the last is what `field.render` makes of all its rays.

    Between two pictures lie at most STRIP rays, and whoever stops asking stops the work. Rows that are not rendered yet
    show the coarser picture.
    """
    before = None
    for w, h in stages(width, height):
        rays_o, rays_d = look.cameras(w, h).view(0)
        # Colours, opacity and depth of each pixel.
        values = rays_o.new_zeros(h * w, 5) if before is None else _resized(before, w, h)
        for start in range(0, h * w, STRIP):
            strip = slice(start, start + STRIP)
            pixels = field.render(rays_o[strip], rays_d[strip])
            values[strip] = torch.cat([pixels.colours, pixels.opacities[:, None], pixels.depths[:, None]], dim=1)
            done = min(start + STRIP, h * w) / (h * w) if (w, h) == (width, height) else 0.0
            yield Refined(Pixels(values[:, :3], values[:, 3], values[:, 4]), w, h, done)
        before = values.view(h, w, 5)


def _resized(values: Float[Tensor, "h w c"], width: int, height: int) -> Float[Tensor, "n c"]:
    image = values.permute(2, 0, 1)[None]
    larger = F.interpolate(image, (height, width), mode="bilinear", align_corners=False)
    return larger[0].permute(1, 2, 0).reshape(height * width, -1).contiguous()


def paint(
    field: RadianceField, look: Look, refined: Refined, channel: str = "rgb", level: float = 0.0
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture's colours, depths or opacities as sRGB.

    Arguments:
        channel: rgb on the field's background; depth, near bright and far dark; opacity, white where nothing shines
            through.
        level: pixels of less opacity are left out.
    """
    shape = refined.height, refined.width
    colours, opacities, depths = refined.pixels
    shown = (opacities >= level).float()
    if channel == "depth":
        near, far = field.span(torch.tensor([look.position]))
        depth = (depths / opacities.clamp(min=1e-6)).view(shape).numpy()
        return colourise_depth(depth, (opacities * shown).view(shape).numpy(), near, far)
    if channel == "opacity":
        values = (opacities * shown)[:, None].expand(-1, 3)
    else:
        values = Pixels(colours * shown[:, None], opacities * shown, depths).over(field.background)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).view(*shape, 3).numpy()
