"""Where a radiance field's coordinates live: in the world's box, in NDC, or in contracted space.

In normalised device coordinates straight rays stay straight and infinity is at z = 1, so a capture whose cameras all
look one way fits a box (Mildenhall et al., ECCV 2020, appendix C). A contraction leaves the box as it is and folds all
the rest of space into a shell around it (Barron et al., CVPR 2022, eq. 10, with the maximum norm for the length, so
that a box stays a box).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.cameras.cameras import Cameras
from sinefield.data.photographs.shared import FORWARD
from sinefield.errors import SinefieldError

MARGIN = 0.75
"""NDC's near plane as a share of the nearest depth, so that what is nearest is not cut."""
GRAZING = 1e-6


def contract(x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 1"]]:
    """Points of which the box [−1, 1]³ holds the scene's middle, moved into [−2, 2]³, and each point's reach.

    Reach is max(|x|, |y|, |z|, 1): by so much lengths across the view from the middle have shrunk, up to a factor of 2.
    """
    reach = x.abs().amax(1, keepdim=True).clamp(min=1)
    return x * ((2 - 1 / reach) / reach), reach


class ForwardFrame(NamedTuple):
    """The camera that NDC are those of.

    Attributes:
        turn: (3, 4) world to camera, scaled so that the near plane is z = −1.
        angles: (2,) 2 fx/width and 2 fy/height.
    """

    turn: Float[Tensor, "3 4"]
    angles: Float[Tensor, "2"]

    @classmethod
    def of(cls, numbers: Float[Tensor, "14"]) -> "ForwardFrame":
        """From how it is stored: the rows of `turn`, then `angles`."""
        return cls(numbers[:12].view(3, 4), numbers[12:14])

    @property
    def numbers(self) -> Float[Tensor, "14"]:
        """See `of`."""
        return torch.cat([self.turn.flatten(), self.angles])

    @property
    def near(self) -> float:
        """Distance of the near plane from the camera, world units."""
        return 1 / float(self.turn[0, :3].norm())


def forward_frame(cameras: Cameras, near: float) -> ForwardFrame:
    """The mean of cameras that all look one way, as the camera of NDC.

    Arguments:
        near: distance of the near plane along the mean viewing axis, world units.

    Raises:
        SinefieldError: cameras that do not all look one way, or see more than a perspective does.
    """
    if not cameras.is_perspective:
        raise SinefieldError("field.space is ndc, which needs perspective lenses; use contracted")
    poses = cameras.c2w.double()
    back, up = poses[:, :, 2].mean(0), poses[:, :, 1].mean(0)
    length = back.norm().clamp(min=1e-9)
    if (poses[:, :, 2] @ (back / length)).min() < FORWARD:
        raise SinefieldError(
            "field.space is ndc, which needs cameras that all look one way, and these look around; use contracted"
        )
    back = back / length
    right = torch.linalg.cross(up, back)
    right = right / right.norm()
    turn = torch.stack([right, torch.linalg.cross(back, right), back])
    offset = -turn @ poses[:, :, 3].mean(0)
    angles = 2 * cameras.relative_focal.mean(0)
    return ForwardFrame((torch.cat([turn, offset[:, None]], 1) / near).float(), angles.float())


def to_ndc(
    rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"], frame: ForwardFrame
) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
    """World rays as rays in NDC, from the near plane (or their origin, where that lies behind it) towards z = 1.

    Rays that look backwards see nothing: they are put where no box is.
    """
    turn, angles = frame
    o, d = rays_o @ turn[:, :3].T + turn[:, 3], rays_d @ turn[:, :3].T
    forward = d[:, 2] < -GRAZING * d.norm(dim=1)
    dz = torch.where(forward, d[:, 2], -torch.ones_like(d[:, 2]))
    o = o + (-(1 + o[:, 2]) / dz).clamp(min=0)[:, None] * d
    z = torch.where(forward, o[:, 2], -torch.ones_like(dz))
    start = torch.stack([-angles[0] * o[:, 0] / z, -angles[1] * o[:, 1] / z, 1 + 2 / z], 1)
    slope = torch.stack(
        [
            -angles[0] * (d[:, 0] / dz - o[:, 0] / z),
            -angles[1] * (d[:, 1] / dz - o[:, 1] / z),
            -2 / z,
        ],
        1,
    )
    nowhere = torch.tensor([0.0, 0.0, 1.0], device=rays_o.device)
    slope = torch.where(forward[:, None], slope, nowhere)
    return torch.where(forward[:, None], start, 4 * nowhere), slope / slope.norm(dim=1, keepdim=True)


def points_to_ndc(points: Float[Tensor, "n 3"], frame: ForwardFrame) -> Float[Tensor, "n 3"]:
    """World points in NDC; those behind the frame's camera come out beyond z = 1, where no box is."""
    turn, angles = frame
    x, y, z = (points @ turn[:, :3].T + turn[:, 3]).unbind(1)
    return torch.stack([-angles[0] * x / z, -angles[1] * y / z, 1 + 2 / z], 1)


def from_ndc(points: Float[Tensor, "n 3"], frame: ForwardFrame) -> Float[Tensor, "n 3"]:
    """Points in NDC in world coordinates, float64; z = 1 is at infinity, cut off a little before."""
    points, turn, angles = points.double(), frame.turn.double(), frame.angles.double()
    z = 2 / (points[:, 2] - 1).clamp(max=-1e-6)
    local = torch.stack([-points[:, 0] * z / angles[0], -points[:, 1] * z / angles[1], z], 1)
    return torch.linalg.solve(turn[:, :3], (local - turn[:, 3]).T).T


def ndc_box(cameras: Cameras, frame: ForwardFrame) -> Float[Tensor, "6"]:
    """The box of NDC that the cameras see between the near plane and infinity."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    corners = (corners * cameras.every_size[:, None]).reshape(-1, 2)
    index = torch.arange(len(cameras)).repeat_interleave(4)
    start, slope = to_ndc(*cameras.rays(index, corners), frame)
    ends = start + slope * ((1 - start[:, 2]) / slope[:, 2])[:, None]
    seen = torch.cat([start, ends])
    low, high = seen.amin(0), seen.amax(0)
    low[2], high[2] = -1.0, 1.0
    return torch.cat([low, high])
