"""Which density a radiance field's mesh should stop at."""

import torch
from torch import Tensor

from sinefield.cameras.orbits import Orbit
from sinefield.fields.radiance.field import RadianceField

FRAMES, PIXELS = 8, 48
ELEVATIONS = (-20.0, 0.0, 25.0)  # degrees added to that of the usual orbit
STOPPED = 0.15
"""Share of a ray's light that is stopped where the true surface is met, by what suits the demo and Spot."""
LOWEST, HIGHEST, CANDIDATES = 1.0, 300.0, 58
"""Levels tried, density × half the box: a tenth apart."""
FAR = 8.0
"""Samples by which a surface can be wrong at most; rays that miss it, or meet one where they see none, count so."""
USUAL = 10.0
"""Density × half the box that is taken where cameras see nothing to judge by."""


def suggest_level(field: RadianceField) -> tuple[float, str]:
    """A level, density per world unit, whose surface lies nearest to what cameras see; and the line that says so.

    Light is stopped gradually in a density. The true surface was found to be where `STOPPED` of it is. Of levels a
    tenth apart, the one is taken that rays from around the usual orbit meet nearest to there.
    """
    half = float((field.aabb[3:] - field.aabb[:3]).max()) / 2
    levels = LOWEST * (HIGHEST / LOWEST) ** torch.linspace(0, 1, CANDIDATES) / half
    total, rays, opaque = torch.zeros(CANDIDATES), 0, 0
    orbit = Orbit.of(field.view)
    for lift in ELEVATIONS:
        elevation = min(max(orbit.elevation + lift, -80.0), 80.0)
        cameras = orbit._replace(elevation=elevation).cameras(FRAMES, (PIXELS, PIXELS))
        for index in range(FRAMES):
            offsets, seen = _offsets(field, *cameras.view(index), levels)
            total, rays, opaque = total + offsets.sum(0), rays + len(offsets), opaque + seen
    if not opaque:
        return USUAL / half, "rays around the usual orbit meet nothing; a usual level was taken"
    best = int(total.argmin())
    off = float(total[best]) / rays
    return float(levels[best]), (
        f"of {CANDIDATES} levels the one that {rays:,} rays meet nearest to where {STOPPED:.0%} of their light is "
        f"stopped, {off:.2g} samples off on average"
    )


@torch.no_grad()
def _offsets(field: RadianceField, rays_o: Tensor, rays_d: Tensor, levels: Tensor) -> tuple[Tensor, int]:
    """(rays, levels) in samples, for the rays that meet occupied cells, and how many of these see something."""
    step = field.render_step_size
    samples = field.sampling(rays_o, rays_d)
    points = samples.points(*field.enter(rays_o, rays_d))
    if len(points) == 0:
        return torch.zeros(0, len(levels)), 0
    sigmas = torch.cat([field.density(part) for part in points.split(1 << 14)])
    first, count = samples.packed_info[samples.packed_info[:, 1] > 0].unbind(1)
    # One row a ray, filled up with zeros.
    place = torch.arange(int(count.max()))
    there = place < count[:, None]
    place = torch.where(there, first[:, None] + place, 0)
    sigma, t = sigmas[place] * there, samples.t_starts[place]
    depth = (sigma * step).cumsum(1)
    bound = -torch.log1p(torch.tensor(-STOPPED))
    seen_at = _reached(depth, bound, t, step)
    sees = depth[:, -1] >= -torch.log(torch.tensor(0.5))
    found = torch.empty(len(sigma), len(levels))
    for i, level in enumerate(levels):
        meets = sigma.amax(1) >= level
        # Densities are those of the midpoints, half a step from the start and behind the sample before.
        apart = ((_reached(sigma, level, t, step) - step / 2 - seen_at).abs() / step).clamp(max=FAR)
        found[:, i] = torch.where(meets & sees, apart, torch.where(meets != sees, FAR, 0.0))
    return found, int(sees.sum())


def _reached(values: Tensor, bound: Tensor, t: Tensor, step: float) -> Tensor:
    """(rays,) where values that belong to the ends of samples first reach the bound, linear from sample to sample."""
    at = (values >= bound).float().argmax(1, keepdim=True)
    high = values.gather(1, at)
    low = torch.where(at > 0, values.gather(1, (at - 1).clamp(min=0)), 0.0)
    return (t.gather(1, at) + step * ((bound - low) / (high - low).clamp(min=1e-12)).clamp(0, 1))[:, 0]
