"""How close rendered images are to the photographs: PSNR, SSIM and LPIPS, one number a view.

Images are (..., h, w, 3) sRGB, float from 0 to 1 or uint8.
"""

import math
import warnings
from collections.abc import Iterable
from itertools import repeat, zip_longest
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from scipy.ndimage import minimum_filter
from torch import Tensor

from sinefield.errors import SinefieldError

SSIM_WINDOW = 11  # pixels: the Gaussian of sigma 1.5 cut at 3.5 sigma
BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}  # as torchvision names them


def psnr(
    prediction: Shaped[Tensor, "*n h w 3"],
    reference: Shaped[Tensor, "*n h w 3"],
    kept: Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, "*n"]:
    """Peak signal-to-noise ratio in dB of each view, (*n,) float64; infinite where the images are equal.

    Of the pixels `kept`, where given; NaN where these are none.
    """
    prediction, reference = comparable(prediction, reference)
    if kept is not None:
        square = (prediction - reference).square().mean(-1)[..., kept.to(prediction.device)]
        return -10 * square.mean(-1).log10()
    return -10 * (prediction - reference).square().mean((-3, -2, -1)).log10()


def ssim(
    prediction: Shaped[Tensor, "*n h w 3"],
    reference: Shaped[Tensor, "*n h w 3"],
    kept: Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, "*n"]:
    """Structural similarity of each view, (*n,) float64, at most 1.

    As Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03, data range 1; the mean over the
    pixels whose window lies inside the image, and over the colour channels. Of the windows that hold only pixels
    `kept`, where given; NaN where these are none.

    Raises:
        SinefieldError: images smaller than the window, or of different shapes.
    """
    from skimage.metrics import structural_similarity  # a third of a second to import

    prediction, reference = comparable(prediction, reference)
    height, width = prediction.shape[-3:-1]
    if min(height, width) < SSIM_WINDOW:
        raise SinefieldError(
            f"SSIM needs images of {SSIM_WINDOW} pixels a side, these are {width}x{height}; use larger"
        )
    pairs = zip(*(x.reshape(-1, height, width, 3).cpu().numpy() for x in (prediction, reference)), strict=True)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    # Without its full picture the function returns a number, which its types do not say.
    if kept is None:
        values = [float(cast(float, structural_similarity(a, b, channel_axis=-1, **wang))) for a, b in pairs]
    else:
        inside = np.asarray(minimum_filter(kept.cpu().numpy(), SSIM_WINDOW, mode="constant", cval=0), bool)
        maps = (structural_similarity(a, b, channel_axis=-1, full=True, **wang) for a, b in pairs)
        values = [float(np.asarray(each[1])[inside].mean()) if inside.any() else math.nan for each in maps]
    return torch.tensor(values, dtype=torch.float64).reshape(prediction.shape[:-3])


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018), through the optional package `lpips`; smaller is closer.

    Calling it with two (*n, h, w, 3) images gives (*n,) float32. Nothing is downloaded behind the user's back.

    Arguments:
        net: "vgg", as NeRF papers report, or "alex".
        device: where the network runs.

    Raises:
        SinefieldError: lpips, torchvision or the network's weights are missing.
    """

    def __init__(self, net: str = "vgg", device: str | torch.device = "cpu") -> None:
        if net not in BACKBONES:
            raise SinefieldError(f"LPIPS network '{net}' is unknown; choose from {', '.join(BACKBONES)}")
        try:
            import torchvision  # noqa: F401
        except ImportError as error:
            raise SinefieldError("LPIPS cannot run: torchvision is not installed; pip install torchvision") from error
        try:
            import lpips
        except ImportError as error:
            raise SinefieldError("LPIPS cannot run: lpips is not installed; pip install lpips") from error
        weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
        if not weights.is_file():
            url = f"https://download.pytorch.org/models/{weights.name}"
            raise SinefieldError(f"LPIPS cannot run: weights {weights} are not there; download {url} to that place")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision the old way
            self.network = lpips.LPIPS(net=net, verbose=False).to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(
        self, prediction: Shaped[Tensor, "*n h w 3"], reference: Shaped[Tensor, "*n h w 3"]
    ) -> Float[Tensor, "*n"]:
        prediction, reference = comparable(prediction, reference)
        # One view at a time, from [0, 1] last-channel to the network's [-1, 1] first-channel.
        views = [
            (2 * x.float() - 1).reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2).to(self.device).split(1)
            for x in (prediction, reference)
        ]
        values = [self.network(a, b).reshape(()).cpu() for a, b in zip(*views, strict=True)]
        return torch.stack(values).reshape(prediction.shape[:-3])


class ViewScores(TypedDict):
    """Means over views, PSNR in dB, and the score of each view; None of one that cannot be measured."""

    psnr: float
    ssim: float | None
    psnr_per_view: list[float | None]
    ssim_per_view: list[float | None]


def score_views(
    predictions: Iterable[Float[Tensor, "h w 3"]],
    references: Iterable[UInt8[Tensor, "h w 3"]],
    kept: Iterable[Bool[Tensor, "h w"] | None] | None = None,
) -> ViewScores:
    """PSNR and SSIM of rendered views, by the protocol every table here uses.

    Predictions are rounded to 8 bits first, as if saved, and a mean is the mean of per-view values.

    Arguments:
        predictions: (h, w, 3) renderings from 0 to 1, one a view; a generator keeps memory small.
        references: (h, w, 3) 8-bit images over the same background, as `data.images.reference` makes them.
        kept: (h, w) which pixels count, one a view; a view without any is left out of the means.

    Returns:
        Plain Python numbers.
        SSIM is None of images that are smaller than its window.

    Raises:
        SinefieldError: no views, different numbers of them, shapes that disagree, or values that are not finite.
    """
    psnrs: list[float | None] = []
    ssims: list[float | None] = []
    parts = repeat(None) if kept is None else iter(kept)
    for prediction, reference in zip_longest(predictions, references):
        part = next(parts, None)
        if prediction is None or reference is None:
            raise SinefieldError("predictions and references differ in number; give as many of one as of the other")
        if prediction.is_floating_point():
            if not prediction.isfinite().all():
                raise SinefieldError(f"view {len(psnrs)}: rendering holds NaN or Inf; lower the learning rate")
            prediction = (prediction.clamp(0, 1) * 255).round().to(torch.uint8)
        psnrs.append(_known(psnr(prediction, reference, part)))
        small = min(prediction.shape[:2]) < SSIM_WINDOW
        ssims.append(None if small else _known(ssim(prediction, reference, part)))
    if not psnrs:
        raise SinefieldError("no views to score; give at least one test view")
    counted, known = ([value for value in values if value is not None] for values in (psnrs, ssims))
    if not counted:
        raise SinefieldError("masks leave no pixel of any view to score; look at the masks (white is what counts)")
    mean_ssim = sum(known) / len(known) if known and (kept is not None or len(known) == len(ssims)) else None
    return {"psnr": sum(counted) / len(counted), "ssim": mean_ssim, "psnr_per_view": psnrs, "ssim_per_view": ssims}


def _known(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else value.item()


def comparable(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both images as float64 from 0 to 1 on one device, of the same (*n, h, w, 3) shape."""
    if prediction.shape != reference.shape or prediction.dim() < 3 or prediction.shape[-1] != 3:
        shapes = f"{tuple(prediction.shape)} and {tuple(reference.shape)}"
        raise SinefieldError(f"images of shape {shapes} cannot be compared; give (h, w, 3) views of one size")
    pair = (prediction.detach(), reference.detach().to(prediction.device))
    first, second = (x.double() / 255 if x.dtype == torch.uint8 else x.double() for x in pair)
    return first, second


def finite(value: float) -> float:
    """Identical images have infinite PSNR, which JSON cannot say: 8 bits cannot tell more than 100 dB apart."""
    return value if math.isfinite(value) else 100.0


def remarks(ssim_: float | None) -> list[str]:
    """What a report says where SSIM could not be measured."""
    return [f"SSIM needs {SSIM_WINDOW} pixels a side; it is left out"] if ssim_ is None else []
