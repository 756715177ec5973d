"""Rays through the centres of pixels that are numbered one image after the other, row by row.

What a bent lens shows is inverted once for each pixel of each distinct lens, and looked up from then on.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.cameras.cameras import Cameras

MOST = 1 << 25
"""Directions that are kept at most, 12 bytes each; of more, each is inverted whenever it is asked for."""


class PixelRays:
    """World rays through numbered pixels of a set of cameras.

    Arguments:
        cameras: on the device where rays are wanted.

    >>> cameras = Cameras(torch.eye(3, 4)[None], torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 4), 2, 2)
    >>> view, rays_o, rays_d = PixelRays(cameras)(torch.tensor([3]))
    >>> view.tolist(), [round(v, 3) for v in rays_d[0].tolist()]
    ([0], [0.408, -0.408, -0.816])
    """

    def __init__(self, cameras: Cameras) -> None:
        self.cameras = cameras
        self.starts = pixel_starts(cameras)
        self.table: Tensor | None = None
        self.place = torch.zeros(len(cameras), dtype=torch.long, device=cameras.c2w.device)
        if not cameras.has_bent_lens:
            return
        group, first = distinct_lenses(cameras)
        counts = [cameras.size(i)[0] * cameras.size(i)[1] for i in first]
        if sum(counts) <= MOST:
            self.table = torch.cat([cameras.view_local(i)[0] for i in first])
            begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
            self.place = torch.from_numpy(begins[group]).to(cameras.c2w.device)

    def __call__(self, chosen: Int[Tensor, "r"]) -> tuple[Int[Tensor, "r"], Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        """The camera of each numbered pixel, and its ray: origin in world units, direction of unit length."""
        cameras = self.cameras
        if cameras.sizes is None:
            view = chosen // (cameras.width * cameras.height)
            within, width = chosen - view * (cameras.width * cameras.height), cameras.width
        else:
            view = torch.searchsorted(self.starts, chosen, right=True) - 1
            within, width = chosen - self.starts[view], cameras.sizes[view, 0]
        if self.table is not None:
            return view, *cameras.leave(view, self.table[self.place[view] + within])
        y, x = within // width, within % width
        return view, *cameras.rays(view, torch.stack([x, y], dim=1) + 0.5)


def pixel_starts(cameras: Cameras) -> Int[Tensor, "m"]:
    """The number of each image's first pixel, and last the count of all: (n + 1,)."""
    counts = cameras.every_size.prod(1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def distinct_lenses(cameras: Cameras) -> tuple[np.ndarray, list[int]]:
    """The number of each camera's lens (picture's size included), and for each lens a camera that has it."""
    parts = [cameras.focal, cameras.centre, cameras.distortion, cameras.every_size]
    parts += [] if cameras.projection is None else [cameras.projection[:, None]]
    rows = torch.cat([part.double().cpu() for part in parts], 1).numpy()
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return group.reshape(-1), first.tolist()


def seen_pixels(cameras: Cameras) -> Bool[Tensor, "p"] | None:
    """Which pixels show anything: those beyond a lens's fold do not. None where all do."""
    if not cameras.has_bent_lens:
        return None
    group, first = distinct_lenses(cameras)
    seen = [_seen(cameras, index) for index in first]
    if all(one is None for one in seen):
        return None
    counts = cameras.every_size.prod(1).tolist()
    found = torch.ones(sum(counts), dtype=torch.bool)
    for part, lens in zip(found.split(counts), group.tolist(), strict=True):
        if (one := seen[lens]) is not None:
            part.copy_(one)
    return found


def lens_notes(sets: Iterable[Cameras]) -> tuple[str, ...]:
    """A line for people where pictures have pixels that their lens shows nothing at."""
    missing, views = 0, 0
    for cameras in sets:
        if (seen := seen_pixels(cameras)) is not None:
            each = [not bool(part.all()) for part in seen.split(cameras.every_size.prod(1).tolist())]
            missing, views = missing + int((~seen).sum()), views + sum(each)
    if not missing:
        return ()
    return (
        f"{missing:,} pixels show nothing, since the lenses of {views} views fold over or end inside the picture: they "
        "are left out; look at the distortion",
    )


def _seen(cameras: Cameras, index: int) -> Tensor | None:
    """Of one picture's pixels; None where all show something."""
    width, height = cameras.size(index)
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    rows = [torch.stack([across, torch.full_like(across, y)], 1) for y in (0.5, height - 0.5)]
    rows += [torch.stack([torch.full_like(down, x), down], 1) for x in (0.5, width - 0.5)]
    edge = torch.cat(rows).to(cameras.c2w)
    shown = cameras.local(torch.full((len(edge),), index, device=edge.device), edge)[1]
    if shown is None or bool(shown.all()):  # what shows something at its edges does so within them
        return None
    shown = cameras.view_local(index)[1]
    return None if shown is None or bool(shown.all()) else shown.cpu()
