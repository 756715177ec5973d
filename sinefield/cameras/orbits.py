"""The orbit that shows a scene the way its photographs did, as eleven numbers that travel with a field."""

import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.cameras.cameras import Cameras, orbit


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


def usual_orbit(cameras: Cameras) -> Float[Tensor, "11"]:
    """centre (3), up (3), distance, elevation in degrees, focal length in image widths, width, height; float32.

    Centre, distance, elevation and focal length are the means over the cameras; up is theirs too, or the axis within
    some degrees of it.
    """
    eyes, centre = cameras.c2w[:, :, 3].double(), look_centre(cameras)
    up = usual_up(cameras)
    offset = eyes - centre
    distance = offset.norm(dim=1).clamp(min=1e-9)
    elevation = torch.rad2deg(torch.asin((offset @ up / distance).clamp(-1, 1))).mean().clamp(-89, 89)
    focal = cameras.focal[:, 0].double().mean() / cameras.width
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
    return torch.cat([centre, up, torch.stack([distance.mean(), elevation, focal]), size]).float()


def orbit_cameras(
    view: Float[Tensor, "11"],
    frames: int,
    size: tuple[int | None, int | None] = (None, None),
    elevation: float | None = None,
) -> Cameras:
    """Cameras of one turn along an orbit of `usual_orbit`.

    Arguments:
        size: width and height in pixels; what is None follows from the orbit's own.
        elevation: degrees above the horizon instead of the orbit's.
    """
    view = view.double().cpu()
    degrees = float(view[7]) if elevation is None else elevation
    poses = orbit(frames, view[:3].tolist(), float(view[6]), degrees, view[3:6].tolist())
    return pinholes(poses, float(view[8]), (max(round(float(view[9])), 1), max(round(float(view[10])), 1)), size)


def pinholes(
    poses: Float[Tensor, "n 3 4"],
    focal: Float[Tensor, "n"] | float,
    own: tuple[int, int],
    size: tuple[int | None, int | None] = (None, None),
) -> Cameras:
    """Cameras without distortion and with the principal point in the middle.

    Arguments:
        poses: (n, 3, 4) camera to world.
        focal: focal lengths in image widths.
        own: width and height in pixels, as the data have them.
        size: width and height wanted; what is None follows from `own`.
    """
    width = size[0] or (max(round(size[1] * own[0] / own[1]), 1) if size[1] else own[0])
    height = size[1] or max(round(width * own[1] / own[0]), 1)
    n = len(poses)
    return Cameras(
        poses.float(),
        (torch.as_tensor(focal, dtype=torch.float32).expand(n) * width)[:, None].repeat(1, 2),
        torch.tensor([width / 2, height / 2]).repeat(n, 1),
        torch.zeros(n, 4),
        width,
        height,
    )
