"""The orbit that shows a scene the way its photographs did, as eleven numbers that travel with a field."""

import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.data.cameras import Cameras, orbit


def look_centre(cameras: Cameras) -> Float[Tensor, "3"]:
    """The point nearest to all viewing axes, float64: what the photographer walked around."""
    eyes, axes = cameras.c2w[:, :, 3].double(), -cameras.c2w[:, :, 2].double()
    axes = axes / axes.norm(dim=1, keepdim=True)
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    # A little pull towards the cameras' mean keeps parallel axes solvable.
    ridge = 1e-6 * len(eyes) * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(across.sum(0) + ridge, (across @ eyes[:, :, None]).sum(0)[:, 0] + ridge @ eyes.mean(0))


def usual_orbit(cameras: Cameras) -> Float[Tensor, "11"]:
    """centre (3), up (3), distance, elevation in degrees, focal length in image widths, width, height; float32.

    Centre, distance, elevation and focal length are the means over the cameras; up is theirs too, or the axis within
    some degrees of it.
    """
    eyes, centre = cameras.c2w[:, :, 3].double(), look_centre(cameras)
    up = cameras.c2w[:, :, 1].double().mean(0)
    up = up / up.norm().clamp(min=1e-9)
    axis = torch.zeros(3, dtype=torch.float64)
    axis[up.abs().argmax()] = float(torch.sign(up[up.abs().argmax()]))
    up = axis if float(up @ axis) > 0.9 else up  # a level horizon looks intended
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
    own_width, own_height = (max(round(float(v)), 1) for v in view[9:])
    width = size[0] or (round(size[1] * own_width / own_height) if size[1] else own_width)
    height = size[1] or max(round(width * own_height / own_width), 1)
    degrees = float(view[7]) if elevation is None else elevation
    poses = orbit(frames, view[:3].tolist(), float(view[6]), degrees, view[3:6].tolist())
    focal = float(view[8]) * width
    return Cameras(
        poses.float(),
        torch.full((frames, 2), focal),
        torch.tensor([width / 2, height / 2]).expand(frames, 2),
        torch.zeros(frames, 4),
        width,
        height,
    )
