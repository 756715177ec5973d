"""Lenses: where a direction meets the picture, and, by exact inversion, which direction a point of the picture shows.

A lens is a projection and a distortion. Its plane is the picture in units of the focal lengths, x right, y down, the
principal point at 0. Directions are in camera axes, OpenGL's: x right, y up, the camera looks along -z.

| projection | an undistorted point of the plane is | distorted by |
|---|---|---|
| perspective | x/z, y/z | `distort` |
| fisheye | the angle from the axis, along the way from the principal point | `distort` |
| fov | as of a perspective | one number, omega in the place of k1 (Devernay and Faugeras 2001) |
| equirectangular | longitude and latitude, both in radians | nothing |
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PROJECTIONS = ("perspective", "fisheye", "fov", "equirectangular")
PERSPECTIVE, FISHEYE, FOV, EQUIRECTANGULAR = range(4)
COLUMNS = ("k1", "k2", "p1", "p2", "k3", "k4", "d1", "d2", "d3", "s1", "s2")
"""What the columns of a distortion are; four columns are enough where the others are zero."""

RADIAL_TURNS, TURNS = 80, 12
CLOSE = 1e-13  # of the radius: as near as float64 comes
FOUND = 1e-10  # of 1 + radius: an inverse that misses by more is none
AT_ONCE = 1 << 18  # points inverted together: each takes some 200 bytes on the way
FARTHEST = 1e8  # radius in the plane beyond which nothing is looked for
NARROW = 1e-5  # an omega below which its lens is a plain perspective to ten digits
OUTSIDE = -1e6  # both coordinates of a point of the plane that stands for "not in the picture"


def columns(distortion: Float[Tensor, "*p k"]) -> Float[Tensor, "11 *p"]:
    """The eleven numbers of `COLUMNS`, one after the other, zeros where there are four."""
    if distortion.shape[-1] < len(COLUMNS):
        missing = len(COLUMNS) - distortion.shape[-1]
        distortion = torch.nn.functional.pad(distortion, (0, missing))
    return distortion.movedim(-1, 0)


def _radial(s: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Factor of a point at squared radius s, and its derivative in s."""
    k1, k2, _, _, k3, k4, d1, d2, d3, *_ = numbers
    over = 1 + s * (k1 + s * (k2 + s * (k3 + s * k4)))
    under = 1 + s * (d1 + s * (d2 + s * d3))
    over_slope = k1 + s * (2 * k2 + s * (3 * k3 + s * 4 * k4))
    under_slope = d1 + s * (2 * d2 + s * 3 * d3)
    factor = over / under
    return factor, (over_slope - factor * under_slope) / under


def distort(plane: Float[Tensor, "*p 2"], distortion: Float[Tensor, "*#p k"]) -> Float[Tensor, "*p 2"]:
    """Where a lens puts undistorted points of its plane: OpenCV's polynomial, tangential terms and thin prism.

    With r² = x² + y²: the radial factor is (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) / (1 + d1 r² + d2 r⁴ + d3 r⁶), p1 and p2
    are tangential, and s1 r², s2 r² are added.

    Arguments:
        plane: (..., 2) x right, y down.
        distortion: (..., 4) k1 k2 p1 p2, or (..., 11) `COLUMNS`.
    """
    x, y = plane.unbind(-1)
    numbers = columns(distortion)
    _, _, p1, p2, *_, s1, s2 = numbers
    r2 = x * x + y * y
    factor, _ = _radial(r2, numbers)
    return torch.stack(
        [
            x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2,
            y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s2 * r2,
        ],
        -1,
    )


def fold_radius(distortion: Float[Tensor, "n k"]) -> Float[Tensor, "n"]:
    """The undistorted radius at which each lens's radial part stops growing: beyond it, the picture folds over itself.

    Infinite where it never does. Exact: the smallest positive root of a polynomial. float64.
    """
    rows, index = np.unique(distortion.detach().double().cpu().numpy(), axis=0, return_inverse=True)
    folds = torch.tensor([_fold(row) for row in rows.tolist()], dtype=torch.float64)
    return folds[torch.from_numpy(index.reshape(-1))].to(distortion.device)


def _fold(row: list[float]) -> float:
    k1, k2, _, _, k3, k4, d1, d2, d3, *_ = [*row, *[0.0] * (len(COLUMNS) - len(row))]
    over, under = (np.polynomial.Polynomial(list(c)) for c in ((1, k1, k2, k3, k4), (1, d1, d2, d3)))
    s = np.polynomial.Polynomial([0, 1])
    slope = over * under + 2 * s * (over.deriv() * under - over * under.deriv())
    roots = np.concatenate([slope.trim().roots(), under.trim().roots()])
    real = roots.real[(np.abs(roots.imag) < 1e-9 * np.abs(roots)) & (roots.real > 0)]
    return float(np.sqrt(real.min())) if len(real) else float("inf")


def undistort(
    plane: Float[Tensor, "p 2"],
    distortion: Float[Tensor, "#p k"],
    limit: Float[Tensor, "#p"] | None = None,
) -> tuple[Float[Tensor, "p 2"], Bool[Tensor, "p"]]:
    """The inverse of `distort` inside the fold, by Newton's method in float64.

    First along the radius, where the polynomial grows and a bracket makes Newton safe; then in the plane, for what is
    not radial. Differentiable once in `plane`.

    Arguments:
        plane: (p, 2) distorted points.
        distortion: (p or 1, 4 or 11).
        limit: (p or 1,) radius beyond which there is no inverse; `fold_radius`, when not given.

    Returns:
        Undistorted points, float64, and whether there is one: a point that no point inside the fold maps to is
        returned as it came.

    >>> lens = torch.tensor([[-0.2, 0.03, 0.002, -0.001]])
    >>> found, inside = undistort(distort(torch.tensor([[0.4, -0.3]]), lens), lens)
    >>> [round(v, 5) for v in found[0].tolist()], bool(inside)
    ([0.4, -0.3], True)
    """
    limit = fold_radius(distortion) if limit is None else limit
    given, lens = plane.double(), distortion.detach().double()
    goal, numbers, limit = given.detach(), columns(lens), limit.double()
    radius = goal.norm(dim=-1)
    guess = goal * (_inverse_radius(radius, numbers, limit) / radius.clamp(min=1e-300))[:, None]
    for turn in range(TURNS):
        step, worst = _newton(guess, goal, lens, numbers)
        guess = guess - step
        if turn and not bool(worst > CLOSE):
            break
    if plane.requires_grad:  # a step from where the error is zero has the inverse's own derivative
        guess = guess - _newton(guess, given, lens, numbers)[0]
    with torch.no_grad():
        missed = (distort(guess, lens) - goal).abs().amax(-1)
        inside = (missed < FOUND * (1 + radius)) & (guess.norm(dim=-1) <= limit * (1 + 1e-9))
        inside &= _determinant(guess, numbers)[0] > 0
    return torch.where(inside[:, None], guess, given), inside


def _inverse_radius(radius: Tensor, numbers: Tensor, limit: Tensor) -> Tensor:
    """Where the radial part reaches a radius; the fold, where it never does."""
    low, high = torch.zeros_like(radius), limit.clamp(max=FARTHEST).expand_as(radius).clone()
    r = torch.minimum(radius, high)
    for _ in range(RADIAL_TURNS):
        factor, slope = _radial(r * r, numbers)
        error = r * factor - radius
        low, high = torch.where(error < 0, r, low), torch.where(error > 0, r, high)
        if not bool(((error.abs() > CLOSE * radius) & (high - low > CLOSE * high)).any()):
            break
        step = r - error / (factor + 2 * r * r * slope)
        r = torch.where((step > low) & (step < high), step, (low + high) / 2)
    return r


def _determinant(guess: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the Jacobian of `distort`, and its four entries xx, xy, yx, yy."""
    _, _, p1, p2, *_, s1, s2 = numbers
    x, y = guess.unbind(-1)
    factor, slope = _radial(x * x + y * y, numbers)
    xx = factor + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x + 2 * s1 * x
    yy = factor + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x + 2 * s2 * y
    both = 2 * slope * x * y + 2 * p1 * x + 2 * p2 * y
    xy, yx = both + 2 * s1 * y, both + 2 * s2 * x
    return xx * yy - xy * yx, xx, xy, yx, yy


def _newton(guess: Tensor, goal: Tensor, lens: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's step, and the largest error before it as a share of 1 + radius."""
    determinant, xx, xy, yx, yy = _determinant(guess, numbers)
    error = distort(guess, lens) - goal
    error_x, error_y = error.unbind(-1)
    step = torch.stack([yy * error_x - xy * error_y, xx * error_y - yx * error_x], -1) / determinant[..., None]
    step = torch.where(step.isfinite(), step, torch.zeros_like(step))
    worst = (error.detach().abs().amax(-1) / (1 + goal.detach().norm(dim=-1))).amax() if len(goal) else error.sum()
    return step, worst


def directions(
    plane: Float[Tensor, "p 2"],
    distortion: Float[Tensor, "#p k"],
    projection: Int[Tensor, "#p"] | int = PERSPECTIVE,
    limit: Float[Tensor, "#p"] | None = None,
) -> tuple[Float[Tensor, "p 3"], Bool[Tensor, "p"]]:
    """What each point of the picture's plane shows: directions in camera axes (not of unit length), float64, and
    whether the lens shows anything there.

    Where it does not (beyond a fold, beyond half a turn), the direction is a usable one without meaning.

    Arguments:
        plane: (p, 2) distorted points, (pixel - principal point) / focal length.
        distortion: (p or 1, 4 or 11).
        projection: of `PROJECTIONS`, by number.
        limit: see `undistort`.
    """
    kinds = torch.as_tensor(projection, device=plane.device).reshape(-1)
    limit = fold_radius(distortion) if limit is None else limit
    given, parts = (distortion, kinds, limit), []
    for first in range(0, max(len(plane), 1), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        parts.append(_directions(plane[part].double(), *(x if len(x) == 1 else x[part] for x in given)))
    found, seen = zip(*parts, strict=True)
    return torch.cat(found), torch.cat(seen)


def _directions(plane: Tensor, distortion: Tensor, kinds: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    found, seen = torch.zeros(len(plane), 3, dtype=plane.dtype, device=plane.device), None
    for kind in kinds.unique().tolist():
        ours, shown = _DIRECTIONS[kind](plane, distortion, limit)
        here = (kinds == kind).expand(len(plane))
        found = torch.where(here[:, None], ours, found)
        seen = shown if seen is None else torch.where(here, shown, seen)
    return found, torch.zeros(len(plane), dtype=torch.bool, device=plane.device) if seen is None else seen


def _local(plane: Tensor) -> Tensor:
    x, y = plane.unbind(-1)
    return torch.stack([x, -y, -torch.ones_like(x)], -1)


def _from_perspective(plane: Tensor, distortion: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    found, inside = undistort(plane, distortion, limit)
    return _local(found), inside


def _from_fisheye(plane: Tensor, distortion: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    found, inside = undistort(plane, distortion, limit.clamp(max=torch.pi))
    angle = found.norm(dim=-1)
    sine = torch.sinc(angle / torch.pi)[:, None]  # sin(angle) / angle
    return torch.cat([found * sine * found.new_tensor([1, -1]), -angle.cos()[:, None]], 1), inside


def _from_fov(plane: Tensor, distortion: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    omega, radius = distortion[:, 0].double(), plane.norm(dim=-1)
    inside = (radius * omega).abs() < torch.pi / 2
    angle = torch.where(inside, radius, torch.zeros_like(radius)) * omega
    narrow = omega.abs() < NARROW
    stretch = torch.tan(angle) / radius.clamp(min=1e-300) / (2 * torch.tan(omega / 2))
    return _local(plane * torch.where(narrow, torch.ones_like(stretch), stretch)[:, None]), inside


def _from_equirectangular(plane: Tensor, distortion: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    longitude, latitude = plane[:, 0], -plane[:, 1]
    level = latitude.cos()
    found = torch.stack([longitude.sin() * level, latitude.sin(), -longitude.cos() * level], -1)
    return found, (latitude.abs() <= torch.pi / 2 + 1e-9) & (longitude.abs() <= torch.pi + 1e-9)


_DIRECTIONS = (_from_perspective, _from_fisheye, _from_fov, _from_equirectangular)


def meet_plane(
    local: Float[Tensor, "p 3"],
    distortion: Float[Tensor, "#p k"],
    projection: int = PERSPECTIVE,
    limit: Float[Tensor, "#p"] | None = None,
) -> Float[Tensor, "p 2"]:
    """Where directions in camera axes meet a lens's plane, distortion included; the inverse of `directions`.

    What lies beyond the fold is not in the picture: both its coordinates are `OUTSIDE`. A perspective's directions
    behind the camera have no meaning.

    Arguments:
        local: (p, 3), of any length and number type.
        distortion: (1 or p, 4 or 11).
        projection: of `PROJECTIONS`, by number.
        limit: see `undistort`.
    """
    x, y, z = local[:, 0], -local[:, 1], -local[:, 2]
    across = torch.hypot(x, y)
    if projection == EQUIRECTANGULAR:
        return torch.stack([torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))], -1)
    if projection == FISHEYE:
        angle = torch.atan2(across, z)
        plane = torch.stack([x, y], -1) * (angle / across.clamp(min=1e-30))[:, None]
    else:
        plane = torch.stack([x, y], -1) / z[:, None]
    if projection == FOV:
        omega, radius = distortion[:, 0].to(local.dtype), plane.norm(dim=-1)
        bent = torch.atan(2 * radius * torch.tan(omega / 2)) / (omega * radius.clamp(min=1e-30))
        return plane * torch.where(omega.abs() < NARROW, torch.ones_like(bent), bent)[:, None]
    if not bool(distortion.any()):
        return plane
    limit = fold_radius(distortion) if limit is None else limit
    bent = distort(plane, distortion.to(plane.dtype))
    beyond = plane.norm(dim=-1) > limit.to(plane.dtype)
    return torch.where(beyond[:, None], torch.full_like(bent, OUTSIDE), bent)
