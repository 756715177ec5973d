"""Camera paths drawn from the cameras that took the photographs: around, before and between them."""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from sinefield.cameras.cameras import Cameras, look_at
from sinefield.cameras.orbits import Size, look_centre, pinholes, usual_up
from sinefield.errors import SinefieldError

FINE = 4096  # points by which a curve's length is measured
TURNS = 2  # of the spiral, during which it comes nearer and goes back once
REACH = 90  # percentile of the cameras' offsets that the spiral's radii are
TAKEN, KNOTS = 5, 12  # neighbouring cameras whose mean is a knot of a walk, at most, and knots there are at least
JUMPS = 2.0  # a walk in the cameras' own order is at most so many times as long as from each to the nearest
FOCUS = 0.75  # between near (0) and far (1) in inverse depth: what the spiral looks at


def ellipse_path(cameras: Cameras, frames: int, size: Size = (None, None)) -> Cameras:
    """One round along the ellipse that the cameras stand around, at even speed, looking at what they look at.

    Seen from above its centre, axes and semi-axes (√2 standard deviations, which is exact for cameras evenly
    along an ellipse) are those of the cameras' positions; its plane is tilted as the cameras' heights are on average.

    Raises:
        SinefieldError: the cameras stand in one spot, or one looks straight up or down.
    """
    eyes, centre, up = cameras.c2w[:, :, 3].double(), look_centre(cameras), usual_up(cameras)
    middle = eyes.mean(0)
    offset = eyes - middle
    first = torch.linalg.cross(up, torch.eye(3, dtype=torch.float64)[up.abs().argmin()])
    level = torch.stack([first / first.norm(), torch.linalg.cross(up, first / first.norm())])
    plane = offset @ level.T
    variances, axes = torch.linalg.eigh(plane.T @ plane / len(eyes))
    axes = axes * torch.stack([torch.linalg.det(axes).sign(), variances.new_ones(())])  # anti-clockwise from above
    level, plane, radii = axes.T @ level, plane @ axes, (2 * variances.clamp(min=0)).sqrt()
    if not float(radii.max()) > 1e-6 * float((middle - centre).norm()):
        raise SinefieldError("path ellipse: the cameras stand in one spot or one above the other; use --path orbit")
    # The heights' own slope over the plane, none in a direction in which the cameras hardly differ.
    tilt = torch.linalg.lstsq(plane, (offset @ up)[:, None], driver="gelsd", rcond=1e-3).solution[:, 0]
    angle = torch.linspace(0, 2 * math.pi, FINE + 1, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin()], 1) * radii
    curve = middle + ring @ level + (ring @ tilt)[:, None] * up
    walked = torch.cat([torch.zeros(1, dtype=torch.float64), curve.diff(dim=0).norm(dim=1).cumsum(0)]).numpy()
    at = np.arange(frames) / frames * walked[-1]
    path = np.stack([np.interp(at, walked, curve[:, axis].numpy()) for axis in range(3)], 1)
    return _as_cameras(look_at(torch.from_numpy(path), centre, up), cameras, size)


def spiral_path(
    cameras: Cameras,
    frames: int,
    near: float,
    far: float,
    size: Size = (None, None),
) -> Cameras:
    """Two turns before a scene that all cameras face, once nearer and back, as LLFF shows its captures.

    The circle's half axes and the way forth are what 90 % of the cameras are within, in the frame of their mean
    pose. All look at one point before the mean camera, between `near` and `far` (depths in world units).

    Raises:
        SinefieldError: not 0 < near < far; cameras whose mean looks nowhere.
    """
    if not 0 < near < far:
        raise SinefieldError(f"path spiral: depths from {near:g} to {far:g} before the cameras; use another --path")
    c2w = cameras.c2w.double()
    middle, back, up = c2w[:, :, 3].mean(0), c2w[:, :, 2].mean(0), c2w[:, :, 1].mean(0)
    if not float(back.norm()) > 0.1:
        raise SinefieldError("path spiral: the cameras do not face one way; use --path orbit or ellipse")
    frame = look_at(middle, middle - back, up).double()[:, :3]
    offset = ((c2w[:, :, 3] - middle) @ frame).abs().numpy()
    radii = torch.from_numpy(np.percentile(offset, REACH, axis=0))
    depth = 1 / ((1 - FOCUS) / near + FOCUS / far)
    angle = 2 * math.pi * TURNS * torch.arange(frames, dtype=torch.float64)[:, None] / frames
    turn = torch.cat([angle.cos(), angle.sin(), -(angle / TURNS).sin()], 1)
    return _as_cameras(look_at(middle + (turn * radii) @ frame.T, middle - depth * frame[:, 2], up), cameras, size)


def through_path(cameras: Cameras, frames: int, size: Size = (None, None)) -> Cameras:
    """From the first camera to the last through all between: positions on a cubic spline, rotations on scipy's
    rotation spline (slerp between two), focal lengths monotone between neighbours.

    Time between two cameras is what they differ by: distance in units of the farthest two neighbours', plus radians.

    Raises:
        SinefieldError: fewer than two cameras, or the same twice in a row.
    """
    if len(cameras) < 2:
        raise SinefieldError("path cameras: a single camera is no path; name two or more")
    c2w = cameras.c2w.double().numpy()
    gaps = np.linalg.norm(np.diff(c2w[:, :, 3], axis=0), axis=1)
    rotations = Rotation.from_matrix(c2w[:, :, :3])
    turns = (rotations[:-1].inv() * rotations[1:]).magnitude()
    steps = gaps / max(gaps.max(), 1e-30) + turns
    if not (steps > 1e-6).all():
        raise SinefieldError("path cameras: the same camera twice in a row; leave one out")
    times = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0, times[-1], frames)
    positions = CubicSpline(times, c2w[:, :, 3], bc_type="natural")(at)
    turned = RotationSpline(times, rotations)(at).as_matrix()
    focal = PchipInterpolator(times, cameras.relative_focal[:, 0].numpy())(at)
    poses = torch.from_numpy(np.concatenate([turned, positions[:, :, None]], 2))
    return pinholes(poses, torch.from_numpy(focal), (cameras.width, cameras.height), size)


def walk_path(cameras: Cameras, frames: int, size: Size = (None, None)) -> Cameras:
    """The way that the cameras were carried, without its shaking: `through_path` of means of neighbours.

    Cameras are taken in their order, or, where that jumps back and forth, each beside the nearest that is left. Nowhere
    else is it as certain that an unbounded scene was seen.

    Raises:
        SinefieldError: fewer than two cameras, or all in one spot with one view.
    """
    c2w = cameras.c2w.double().numpy()
    ordered = c2w[_walk(c2w[:, :, 3])]
    each = min(max(len(ordered) // KNOTS, 1), TAKEN)
    poses = np.stack([_mean_pose(ordered[i : i + each]) for i in range(0, len(ordered) - each + 1, max(each // 2, 1))])
    reach = max(float(np.ptp(c2w[:, :, 3], axis=0).max()), 1e-30)
    moved = np.abs(np.diff(poses, axis=0)) > 1e-4 * np.array([1, 1, 1, reach])
    knots = torch.from_numpy(poses[np.concatenate([[True], moved.any((1, 2))])])
    if len(knots) < 2:
        raise SinefieldError("path walk: the cameras stand in one spot; use --path orbit")
    return through_path(_as_cameras(knots, cameras, (cameras.width, cameras.height)), frames, size)


def _walk(places: Float[np.ndarray, "n 3"]) -> list[int]:
    """The order in which the cameras were there: their own, unless from each to the nearest left is far shorter."""
    own = list(range(len(places)))
    far = np.linalg.norm(places - places.mean(0), axis=1)
    near, left = [int(far.argmax())], set(own) - {int(far.argmax())}
    while left:
        rest = np.array(sorted(left))
        near.append(int(rest[np.linalg.norm(places[rest] - places[near[-1]], axis=1).argmin()]))
        left.remove(near[-1])
    length = {"own": 0.0, "near": 0.0}
    for name, order in (("own", own), ("near", near)):
        length[name] = float(np.linalg.norm(np.diff(places[order], axis=0), axis=1).sum())
    return own if length["own"] < JUMPS * length["near"] else near


def _mean_pose(poses: Float[np.ndarray, "n 3 4"]) -> Float[np.ndarray, "3 4"]:
    turn = Rotation.from_matrix(poses[:, :, :3]).mean().as_matrix()
    return np.concatenate([turn, poses[:, :, 3].mean(0)[:, None]], 1)


def box_depths(cameras: Cameras, aabb: Float[Tensor, "6"]) -> tuple[float, float]:
    """Nearest and farthest depth of a box's corners before the mean camera, world units; near is positive."""
    box = aabb.double().cpu().view(2, 3)
    corners = torch.cartesian_prod(*box.unbind(1))
    middle, back = cameras.c2w[:, :, 3].double().mean(0), cameras.c2w[:, :, 2].double().mean(0)
    depths = (middle - corners) @ (back / back.norm().clamp(min=1e-9))
    far = float(depths.max())
    return max(float(depths.min()), 0.05 * far), far


def _as_cameras(poses: Tensor, cameras: Cameras, size: Size) -> Cameras:
    """Poses with the mean focal length of the cameras they were made from."""
    focal = float(cameras.relative_focal[:, 0].mean())
    return pinholes(poses, focal, (cameras.width, cameras.height), size)
