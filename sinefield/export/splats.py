"""A field as Gaussian splats: placed on what its cameras see, then fitted to the pictures that it draws."""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor
from tqdm import tqdm

from sinefield.cameras.cameras import Cameras
from sinefield.errors import SinefieldError
from sinefield.export.mesh import load_shown
from sinefield.export.sights import sights, surface_points
from sinefield.export.splat_files import DC, ENDINGS, splat_file
from sinefield.fields.base import Painter, kind_of
from sinefield.fields.origins import origin_of
from sinefield.files import check_output, write_bytes
from sinefield.render.splats import Splats, draw
from sinefield.version import __version__

COUNT, MOST = 50_000, 1_000_000
VIEWS, LONGEST = 100, 256
"""Cameras that look at a field, and pixels along the longer side of their pictures."""
STEPS, MAX_STEPS = 1_000, 100_000
DEGREE, MAX_DEGREE = 2, 3
OPACITY = 0.7
"""Of a splat before the fit."""
RATES = {"means": 2e-3, "log_scales": 6e-2, "turns": 4e-2, "logits": 0.2, "first": 8e-2, "rest": 2e-2}
"""Adam's rates; that of centres is a share of the scene's size. All fall to `FALL` of themselves. They are large, as
the fit is short: on Lego, rates of a quarter or of twice these were worse in 300 steps."""
FALL = 0.01


class Look(NamedTuple):
    """What one camera sees of a field: sRGB premultiplied by opacity (h, w, 3), and the light that passes (h, w)."""

    colours: Float[Tensor, "h w 3"]
    left: Float[Tensor, "h w"]


def export_splats(
    run: str | Path,
    out: str | Path,
    count: int = COUNT,
    steps: int = STEPS,
    degree: int = DEGREE,
    data: str | None = None,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write a field as Gaussian splats, .ply or .spz; returns run, out, kind, splats, degree, views, steps, bytes,
    psnr, notes, seconds.

    Splats begin where cameras see opaque surfaces of the field, then all their numbers are fitted to the field's own
    pictures by a renderer as viewers have it (`render.splats`). Positions are the input's, colours sRGB. `psnr` is of
    every eighth view, which the fit leaves out, between the splats' pictures and the field's, on the field's
    background, in dB.

    Arguments:
        count: splats.
        steps: of the fit; 0 for none.
        degree: of the spherical harmonics by which colours depend on the direction, 0 to 3.
        data: the photographs of a `.sine` file that does not name them: splats are fitted from their cameras.

    Raises:
        SinefieldError: another ending, a number out of range, `out` exists, nothing opaque is seen; see `load_shown`,
            `sights` and `splat_file`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_splats("example:toys", Path(folder) / "toys.spz", count=500, steps=2)
        >>> report["splats"]
        500
    """
    out, begin = Path(out), time.perf_counter()
    if out.suffix.lower() not in ENDINGS:
        raise SinefieldError(f"{out}: splats are written as one of {' '.join(ENDINGS)}; name it so")
    check_output(out, overwrite)
    splats, about = splats_of(run, count, steps, degree, data, adapters)
    write_splats(out, splats, overwrite)
    size = {"bytes": out.stat().st_size}
    return {"run": str(run), "out": str(out)} | about | size | {"seconds": round(time.perf_counter() - begin, 2)}


def splats_of(
    run: str | Path,
    count: int = COUNT,
    steps: int = STEPS,
    degree: int = DEGREE,
    data: str | None = None,
    adapters: Sequence[str | Path] = (),
) -> tuple[Splats, dict[str, Any]]:
    """A field as splats, and kind, splats, degree, views, steps, psnr and notes; see `export_splats`."""
    _check(count, steps, degree)
    field = load_shown(run, adapters)
    painter = kind_of(field).painter(field)
    seen = sights(run, field, painter, VIEWS, LONGEST, data, adapters)
    looks, points, colours = _look(painter, seen.cameras)
    if len(points) < 2:
        raise SinefieldError(f"{run}: no camera sees anything opaque in it; train it longer")
    background = torch.tensor(painter.background, dtype=torch.float32)
    held_out = list(range(4, len(looks), 8)) or [0]
    fitted = [i for i in range(len(looks)) if i not in held_out] or [0]
    splats = fit(begun(points, colours, count, degree), seen.cameras, looks, fitted, steps)
    return splats, {
        "kind": field.kind,
        "splats": len(splats.means),
        "degree": degree,
        "views": len(looks),
        "steps": steps,
        "psnr": round(likeness(splats, seen.cameras, looks, held_out, background), 2),
        "notes": _notes(seen.note, looks, painter) + _offset(origin_of(field)),
    }


def write_splats(out: str | Path, splats: Splats, overwrite: bool = False) -> None:
    """Splats as a file, by its ending; errors as `splat_file` has them."""
    about = {"generator": f"sinefield {__version__}", "frame": "axes, origin and unit of length are the input's"}
    write_bytes(out, splat_file(splats, Path(out).suffix.lower(), about), overwrite)


def _check(count: int, steps: int, degree: int) -> None:
    for name, value, least, most in (
        ("count", count, 1, MOST),
        ("steps", steps, 0, MAX_STEPS),
        ("degree", degree, 0, MAX_DEGREE),
    ):
        if not least <= value <= most:
            raise SinefieldError(f"--{name} {value}: {least:,} to {most:,}")


def _notes(where: str, looks: Sequence[Look], painter: Painter) -> list[str]:
    notes = [where]
    if any(float(look.left.mean()) > 1e-3 for look in looks):
        colour = " ".join(f"{channel:.2g}" for channel in painter.background)
        notes.append(f"files of splats hold no background; the field's is {colour} (sRGB, 0 to 1)")
    return notes


def _offset(origin: Float[np.ndarray, "3"]) -> list[str]:
    if not origin.any():
        return []
    told = " ".join(f"{value:.17g}" for value in origin)
    return [f"the offset {told} is left out: files of splats hold single precision"]


def _look(painter: Painter, cameras: Cameras) -> tuple[list[Look], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """What the cameras see, and all opaque points of it with their colours."""
    looks, points, colours = [], [], []
    for i in tqdm(range(len(cameras)), desc="views", unit="view"):
        layers = painter.layers(cameras, i)
        looks.append(Look(torch.from_numpy(layers.colours), 1 - torch.from_numpy(layers.opacities).clamp(0, 1)))
        place, colour, _ = surface_points(cameras, i, layers)
        points.append(place)
        colours.append(colour)
    return looks, np.concatenate(points), np.concatenate(colours)


def begun(
    points: Float[np.ndarray, "n 3"], colours: Float[np.ndarray, "n 3"], count: int, degree: int, seed: int = 0
) -> Splats:
    """Round splats at `count` of the points, as wide as those beside them are away."""
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(points), count, replace=count > len(points))
    place = points[chosen]
    beside = KDTree(place).query(place, k=min(4, count))[0].reshape(count, -1)[:, 1:]
    away = np.sqrt(np.square(beside).mean(axis=1)) if beside.size else np.ones(count)
    usual = float(np.median(away[away > 0])) if (away > 0).any() else 1e-3
    width = np.clip(away, usual / 10, 10 * usual)
    harmonics = torch.zeros(count, (degree + 1) ** 2, 3)
    harmonics[:, 0] = torch.from_numpy((colours[chosen] - 0.5) / DC).float()
    return Splats(
        torch.from_numpy(place).float(),
        torch.from_numpy(np.log(width)).float()[:, None].repeat(1, 3),
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        torch.full((count,), math.log(OPACITY / (1 - OPACITY))),
        harmonics,
    )


def fit(
    splats: Splats, cameras: Cameras, looks: Sequence[Look], views: Sequence[int], steps: int, seed: int = 0
) -> Splats:
    """Splats whose pictures are nearer to what the cameras see: least squares of colour and opacity, by Adam.

    Arguments:
        views: the cameras that are fitted to, one a step, all of them before any comes again.
    """
    size = float((splats.means - splats.means.median(0).values).norm(dim=1).median())
    learned = {
        "means": splats.means,
        "log_scales": splats.log_scales,
        "turns": splats.turns,
        "logits": splats.logits,
        "first": splats.harmonics[:, :1],
        "rest": splats.harmonics[:, 1:],
    }
    parts = {name: part.clone().requires_grad_() for name, part in learned.items()}
    rates = RATES | {"means": RATES["means"] * size}
    groups = [
        {"params": [part], "lr": rates[name], "usual": rates[name]} for name, part in parts.items() if part.numel()
    ]
    optimiser = torch.optim.Adam(groups, eps=1e-15)
    generator, order = torch.Generator().manual_seed(seed), list[int]()
    bar = tqdm(range(steps), desc="splats", unit="step")
    for step in bar:
        order = order or torch.randperm(len(views), generator=generator).tolist()
        view = views[order.pop()]
        for group in optimiser.param_groups:
            group["lr"] = group["usual"] * FALL ** (step / steps)
        # In turns as viewers with and without anti-aliasing draw them, so that both show the same.
        colours, left = draw(_joined(parts), cameras, view, thinned=step % 2 == 1)
        # On a colour of its own each time, so that opacity is learned too.
        ground = torch.rand(3, generator=generator)
        wanted = looks[view].colours + looks[view].left[..., None] * ground
        error = (colours + left[..., None] * ground - wanted).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        if step % 20 == 0:
            bar.set_postfix(psnr=f"{-10 * math.log10(max(float(error.detach()), 1e-10)):.1f}")
    return Splats(*(part.detach() for part in _joined(parts)))


def _joined(parts: dict[str, Tensor]) -> Splats:
    harmonics = torch.cat([parts["first"], parts["rest"]], 1)
    return Splats(parts["means"], parts["log_scales"], parts["turns"], parts["logits"], harmonics)


@torch.no_grad()
def likeness(
    splats: Splats, cameras: Cameras, looks: Sequence[Look], views: Sequence[int], background: Float[Tensor, "3"]
) -> float:
    """PSNR of the splats' pictures against what the cameras see, dB: mean over `views` and both kinds of viewer."""
    found = []
    for view, thinned in itertools.product(views, (False, True)):
        colours, left = draw(splats, cameras, view, thinned)
        wanted = looks[view].colours + looks[view].left[..., None] * background
        error = ((colours + left[..., None] * background).clamp(0, 1) - wanted).square().mean()
        found.append(-10 * math.log10(max(float(error), 1e-10)))
    return float(np.mean(found))
