"""The orbit that shows a scene the way its photographs did; it is stored with a field."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.cameras.cameras import Cameras, orbit
from sinefield.errors import SinefieldError

MAX_SIDE = 4096
"""Pixels of a picture that is drawn, along either side."""
Size = tuple[int | None, int | None]
"""Width and height in pixels; what is None follows from the other, or from the data."""


class Orbit(NamedTuple):
    """A circle around a scene, and the camera that goes along it.

    Attributes:
        centre: what the camera looks at, world units.
        up: direction, of unit length.
        distance: of the camera from the centre, world units.
        elevation: of the camera above the plane through the centre, in degrees.
        focal: focal length in image widths.
        width, height: of the image in pixels.
    """

    centre: tuple[float, float, float]
    up: tuple[float, float, float]
    distance: float
    elevation: float
    focal: float
    width: int
    height: int

    @classmethod
    def of(cls, stored: Float[Tensor, "11"] | Float[np.ndarray, "11"]) -> "Orbit":
        """The orbit of eleven numbers, as a field stores it: see `to_vector`."""
        *numbers, width, height = stored.tolist()
        x, y, z, up_x, up_y, up_z, distance, elevation, focal = numbers
        sides = max(round(width), 1), max(round(height), 1)
        return cls((x, y, z), (up_x, up_y, up_z), distance, elevation, focal, *sides)

    def to_vector(self) -> Float[Tensor, "11"]:
        """Centre, up, distance, elevation, focal, width and height, in this order; float32."""
        return torch.tensor([*self.centre, *self.up, *self[2:]], dtype=torch.float32)

    def cameras(self, frames: int, size: Size = (None, None)) -> Cameras:
        """Cameras of one turn, anti-clockwise as seen from above; `size` instead of the orbit's own."""
        poses = orbit(frames, self.centre, self.distance, self.elevation, self.up)
        return pinholes(poses, self.focal, (self.width, self.height), size)


def usual_orbit(cameras: Cameras) -> Orbit:
    """The orbit along which a scene looks most as it does from these cameras.

    Centre, distance, elevation and focal length are the means over the cameras; up is theirs too, or the axis within
    some degrees of it.
    """
    eyes, centre = cameras.c2w[:, :, 3].double(), look_centre(cameras)
    up = usual_up(cameras)
    offset = eyes - centre
    distance = offset.norm(dim=1).clamp(min=1e-9)
    elevation = torch.rad2deg(torch.asin((offset @ up / distance).clamp(-1, 1))).mean().clamp(-89, 89)
    focal = cameras.relative_focal[:, 0].mean()
    away, degrees, length = torch.stack([distance.mean(), elevation, focal]).tolist()
    return Orbit(_triple(centre), _triple(up), away, degrees, length, cameras.width, cameras.height)


def _triple(point: Float[Tensor, "3"]) -> tuple[float, float, float]:
    x, y, z = point.tolist()
    return x, y, z


def look_centre(cameras: Cameras) -> Float[Tensor, "3"]:
    """The point nearest to all viewing axes, float64: what the photographer walked around."""
    eyes, axes = cameras.c2w[:, :, 3].double(), -cameras.c2w[:, :, 2].double()
    axes = axes / axes.norm(dim=1, keepdim=True)
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    # A little pull towards the cameras' mean keeps parallel axes solvable.
    ridge = 1e-6 * len(eyes) * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(across.sum(0) + ridge, (across @ eyes[:, :, None]).sum(0)[:, 0] + ridge @ eyes.mean(0))


def usual_up(cameras: Cameras) -> Float[Tensor, "3"]:
    """The cameras' mean up, or the axis within some degrees of it; float64, of unit length."""
    up = cameras.c2w[:, :, 1].double().mean(0)
    up = up / up.norm().clamp(min=1e-9)
    axis = torch.zeros(3, dtype=torch.float64)
    axis[up.abs().argmax()] = float(torch.sign(up[up.abs().argmax()]))
    return axis if float(up @ axis) > 0.9 else up  # a level horizon looks intended


def pinholes(
    poses: Float[Tensor, "n 3 4"],
    focal: Float[Tensor, "n"] | float,
    own: tuple[int, int],
    size: Size = (None, None),
) -> Cameras:
    """Cameras without distortion and with the principal point in the middle.

    Arguments:
        poses: (n, 3, 4) camera to world.
        focal: focal lengths in image widths.
        own: width and height in pixels, as the data have them.
        size: width and height wanted; what is None follows from `own`.

    Raises:
        SinefieldError: more than `MAX_SIDE` pixels a side.
    """
    width = size[0] or (max(round(size[1] * own[0] / own[1]), 1) if size[1] else own[0])
    height = size[1] or max(round(width * own[1] / own[0]), 1)
    if max(width, height) > MAX_SIDE:
        raise SinefieldError(f"pictures of {width}x{height} pixels; at most {MAX_SIDE} a side: give a smaller size")
    n = len(poses)
    return Cameras(
        poses.float(),
        (torch.as_tensor(focal, dtype=torch.float32).expand(n) * width)[:, None].repeat(1, 2),
        torch.tensor([width / 2, height / 2]).repeat(n, 1),
        torch.zeros(n, 4),
        width,
        height,
    )
