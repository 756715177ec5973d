"""Image metrics against closed forms and a direct SSIM; LPIPS's refusals with stand-ins for its packages."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.ndimage import correlate1d

from sinefield.errors import SinefieldError
from sinefield.metrics.images import Lpips, psnr, score_views, ssim

WRONG_SHAPE = (SinefieldError, TypeCheckError)  # the latter where annotations are checked at run time


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_closed_form_per_view():
    reference = torch.full((2, 12, 12, 3), 0.5)
    prediction = reference.clone()
    prediction[0] += 0.1
    prediction[1, :6] += 0.1  # half the pixels: 3.01 dB better
    expected = torch.tensor([20.0, 20.0 + 10 * math.log10(2)], dtype=torch.float64)
    assert torch.allclose(psnr(prediction, reference), expected, atol=1e-5)
    assert psnr(prediction[0], reference[0]).shape == ()


def test_psnr_of_bytes_and_of_equal_images():
    black, grey = (torch.full((4, 4, 3), value, dtype=torch.uint8) for value in (0, 51))
    assert math.isclose(psnr(grey, black).item(), 20 * math.log10(5), rel_tol=1e-12)
    assert psnr(grey, grey).item() == math.inf
    assert math.isclose(psnr(torch.full((4, 4, 3), 0.2), black).item(), 20 * math.log10(5), rel_tol=1e-6)


def direct_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al.'s formula, channel by channel, over whole windows."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel /= kernel.sum()

    def blur(x):
        return correlate1d(correlate1d(x, kernel, 0), kernel, 1)[5:-5, 5:-5]

    values = []
    for x, y in zip(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        values.append(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(np.mean(values))


def test_ssim_matches_the_formula():
    a = noise(2, 24, 31, 3).double()
    b = (a + 0.2 * noise(2, 24, 31, 3, seed=1)).clamp(0, 1)
    expected = [direct_ssim(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)]
    assert np.allclose(ssim(b, a), expected, atol=1e-9)
    assert torch.equal(ssim(a, a), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(10, 30, 3), (30, 10, 3)])
def test_ssim_needs_a_window(shape):
    with pytest.raises(SinefieldError, match="11 pixels"):
        ssim(noise(*shape), noise(*shape))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_must_agree(metric):
    with pytest.raises(WRONG_SHAPE, match=r"cannot be compared|Type-check"):
        metric(noise(12, 12, 3), noise(12, 13, 3))


def test_score_views_rounds_and_averages_per_view():
    references = torch.full((2, 16, 16, 3), 100, dtype=torch.uint8)
    predictions = [torch.full((16, 16, 3), 110.4 / 255), torch.full((16, 16, 3), 101.0 / 255)]
    scores = score_views(iter(predictions), references)
    expected = [20 * math.log10(255 / 10), 20 * math.log10(255)]
    assert np.allclose(scores["psnr_per_view"], expected)
    assert math.isclose(scores["psnr"], sum(expected) / 2)
    assert len(scores["ssim_per_view"]) == 2 and math.isclose(scores["ssim"], sum(scores["ssim_per_view"]) / 2)
    assert set(scores) == {"psnr", "ssim", "psnr_per_view", "ssim_per_view"}


def test_score_views_clamps():
    white = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    assert score_views([torch.full((16, 16, 3), 1.7)], white)["psnr"] == math.inf


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "as many"),
        ([torch.zeros(16, 16, 3)] * 2, "as many"),
        ([torch.full((16, 16, 3), math.nan)], "NaN"),
        ([torch.zeros(16, 17, 3)], "compared|Type-check"),
    ],
)
def test_score_views_refuses(predictions, message):
    with pytest.raises(WRONG_SHAPE, match=message):
        score_views(predictions, torch.zeros(1, 16, 16, 3, dtype=torch.uint8))


def test_score_views_refuses_nothing():
    with pytest.raises(SinefieldError, match="no views"):
        score_views([], [])


class Distance(torch.nn.Module):
    """Stands in for lpips.LPIPS: shows the layout and range it was given."""

    def __init__(self, net, verbose):
        super().__init__()

    def forward(self, a, b):
        assert a.shape == b.shape == (1, 3, 8, 9) and a.dtype == torch.float32
        return (a - b).mean()[None, None, None, None]


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Both packages importable, and an empty weights folder."""
    lpips = types.ModuleType("lpips")
    lpips.LPIPS = Distance
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", ["lpips", "torchvision"])
def test_lpips_says_which_package_is_missing(packages, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SinefieldError, match=f"pip install {name}"):
        Lpips()


def test_lpips_downloads_nothing(packages):
    with pytest.raises(SinefieldError, match=r"vgg16-397923af\.pth"):
        Lpips()
    with pytest.raises(SinefieldError, match="unknown"):
        Lpips("resnet")


def test_lpips_layout_and_range(packages):
    packages.mkdir()
    (packages / "vgg16-397923af.pth").write_bytes(b"weights")
    ones, zeros = torch.ones(2, 8, 9, 3), torch.zeros(2, 8, 9, 3)
    assert torch.equal(Lpips()(ones, zeros), torch.tensor([2.0, 2.0]))
    assert Lpips()(ones[0], (zeros[0] * 255).byte()).shape == ()
