"""Scores of a radiance field over views that training did not see.

Every test view (val, or train, where there is none) is rendered on the run's background and rounded to 8 bits, against
the 8-bit composited photograph; PSNR, SSIM and LPIPS are means of per-view values.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sinefield.config import RadianceConfig
from sinefield.data.photographs.images import PosedScene, reference
from sinefield.data.photographs.views import Views
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.field import RadianceField
from sinefield.metrics.images import Lpips, finite, remarks, score_views
from sinefield.pictures import save_png, side_by_side

PICTURED_VIEWS = 4
LPIPS_SIDE = 32  # its network halves images four times, and wants something left
JUDGED_VIEWS = 10
APART = 8
"""One training view in so many is kept out of refining where the data have no validation views to judge by."""


def score_radiance(
    field: RadianceField, config: RadianceConfig, scene: PosedScene, pictures: Path | None
) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS over the test views; the first few as pictures."""
    split = next(name for name in ("test", "val", "train") if getattr(scene, name) is not None)
    views = getattr(scene, split)
    network, why = _lpips(views)
    distances: list[torch.Tensor] = []
    shown = np.linspace(0, len(views) - 1, min(PICTURED_VIEWS, len(views))).round().astype(int)

    def rendered() -> Iterator[torch.Tensor]:
        for i in range(len(views)):
            image, truth = render_view(field, views, i), reference(views.image(i), field.background).float() / 255
            if network:
                distances.append(network(image, truth))
            if pictures and i in shown:
                save_png(pictures / f"view_{i:03d}.png", side_by_side(truth, image))
            yield image

    # One view at a time: hundreds of large ones would not fit.
    truths = (reference(views.image(i), field.background) for i in range(len(views)))
    scores = score_views(rendered(), truths, None if views.kept is None else map(views.kept_of, range(len(views))))
    ignored = 0 if views.kept is None else int((~views.kept).sum())
    rows = [
        {"view": name, "psnr": None if p is None else finite(p), "ssim": s}
        for name, p, s in zip(views.names, scores["psnr_per_view"], scores["ssim_per_view"], strict=True)
    ]
    return {
        "psnr": finite(scores["psnr"]),
        "ssim": scores["ssim"],
        "lpips": float(torch.stack(distances).mean()) if network else None,
        "lpips_note": why,
        "split": split,
        "views": len(views),
        "skipped": scene.skipped,
        "ignored_pixels": ignored,
        "background": config.data.background,
        "downscale": config.data.downscale,
        "per_view": rows,
        "remarks": [
            f"{n} {what}"
            for n, what in (
                (scene.skipped, "frames have no image file and were skipped"),
                (scene.unposed, "images have no pose and were left out"),
                (ignored, f"of {len(views.pixels)} pixels are ignored: masked, or the lens shows nothing there"),
            )
            if n
        ]
        + remarks(scores["ssim"]),
    }


def _lpips(views: Views) -> tuple[Lpips | None, str | None]:
    """What measures LPIPS of these views, or None and the line that says why it cannot run here."""
    if views.kept is not None:
        return None, "LPIPS cannot leave out single pixels; it is left out"
    if int(views.cameras.every_size.min()) < LPIPS_SIDE:
        return None, f"LPIPS needs {LPIPS_SIDE} pixels a side; it is left out"
    try:
        return Lpips(), None
    except SinefieldError as error:
        return None, str(error)


def mean_psnr(field: RadianceField, views: Views, most: int | None = None) -> float:
    """Mean PSNR over the views, or over `most` of them spread evenly, as `score_radiance` has it."""
    chosen = np.linspace(0, len(views) - 1, min(most or len(views), len(views))).round().astype(int)
    truths = (reference(views.image(i), field.background.cpu()) for i in chosen.tolist())
    kept = None if views.kept is None else map(views.kept_of, chosen.tolist())
    return score_views((render_view(field, views, i) for i in chosen.tolist()), truths, kept)["psnr"]


def render_view(field: RadianceField, views: Views, index: int) -> Tensor:
    """One view rendered on the field's background: (h, w, 3) sRGB in [0, 1]."""
    rays_o, rays_d = (rays.to(field.aabb.device) for rays in views.cameras.view(index))
    field.set_dtype(torch.float32)
    with torch.no_grad():
        image = field.render(rays_o, rays_d).over(field.background)
    width, height = views.cameras.size(index)
    return image.clamp(0, 1).cpu().view(height, width, 3)


def divide(scene: PosedScene, apart: bool) -> tuple[PosedScene, Views]:
    """The scene to refine on, and the views to judge by."""
    if scene.test and scene.val:
        return scene, scene.val
    views = scene.training_views
    if not apart or len(views) < APART:
        return scene, views
    judging = torch.arange(len(views)) % APART == APART // 2
    return replace(scene, train=views[~judging]), views[judging]
