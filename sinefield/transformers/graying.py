"""Token graying: a matrix of tokens made better conditioned before attention sees it.

(Ji et al., Always Skip Attention, ICCV 2025, arXiv 2505.01996.) The singular values, or cheaply the coefficients of a
cosine transform, are divided by their largest and raised to ε in (0, 1]: small ones grow, the largest stays. Whether
the largest is multiplied back is not stated in what could be read of the paper; here it is, unless
`keep_scale` is off.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sinefield.errors import SinefieldError

PRODUCTS = 512
"""Transforms of at most so many places are matrix products: of 197 × 192 two and a half times as fast as FFTs."""


def svd_graying(x: Float[Tensor, "*b n d"], epsilon: float, keep_scale: bool = True) -> Float[Tensor, "*b n d"]:
    """U·Σ̃·Vᵀ with Σ̃ = (Σ/max Σ)^ε, times max Σ if `keep_scale`; computed in float32 or float64, returned as x came.

    Differentiable once, also where singular values repeat or vanish: the backward pass is in divided differences of
    s^ε, which stay finite, not in 1/(s_i − s_j). Values below rounding, relative to the largest, are noise: they keep
    the factor of the smallest one above, so that zeros remain zeros and no gradient is infinite.

    Raises:
        SinefieldError: ε outside (0, 1].
    """
    _check(epsilon)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return _SVDGraying.apply(wide, float(epsilon), keep_scale, _floor(wide)).to(x.dtype)


def dct_graying(x: Float[Tensor, "*b n d"], epsilon: float = 0.95, keep_scale: bool = True) -> Float[Tensor, "*b n d"]:
    """The same power on the coefficients of a 2-D cosine transform over tokens and channels, signs kept; O(nd log nd)
    where there are more than 512 tokens and channels.

    Computed in float32 or float64, returned as x came. Coefficients below rounding are treated as in `svd_graying`.

    Raises:
        SinefieldError: ε outside (0, 1].
    """
    _check(epsilon)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = dct(dct(wide).transpose(-1, -2)).transpose(-1, -2)
        largest = _or_one(y.abs().amax(dim=(-1, -2), keepdim=True))
        unit = y / largest
        y = unit * unit.abs().clamp_min(_floor(wide)) ** (epsilon - 1)
        if keep_scale:
            y = y * largest
        return idct(idct(y.transpose(-1, -2)).transpose(-1, -2)).to(x.dtype)


class SVDGraying(nn.Module):
    """`svd_graying` as a module without parameters."""

    def __init__(self, epsilon: float = 0.7, keep_scale: bool = True) -> None:
        super().__init__()
        _check(epsilon)
        self.epsilon, self.keep_scale = epsilon, keep_scale

    def forward(self, x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n d"]:
        return svd_graying(x, self.epsilon, self.keep_scale)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}, keep_scale={self.keep_scale}"


class DCTGraying(nn.Module):
    """`dct_graying` as a module without parameters."""

    def __init__(self, epsilon: float = 0.95, keep_scale: bool = True) -> None:
        super().__init__()
        _check(epsilon)
        self.epsilon, self.keep_scale = epsilon, keep_scale

    def forward(self, x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n d"]:
        return dct_graying(x, self.epsilon, self.keep_scale)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}, keep_scale={self.keep_scale}"


def dct(x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """The orthonormal cosine transform (DCT-II) along the last axis, of any length: a product or one FFT of it."""
    if x.shape[-1] <= PRODUCTS:
        return x @ _cosines(x.shape[-1], x.dtype, x.device).mT
    # Even places forwards, then odd ones backwards: the cosine transform is the real part of this one's FFT, turned.
    y = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)) * _turn(x, -1)
    return y.real * _lengths(x)


def idct(y: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """The inverse of `dct`."""
    n = y.shape[-1]
    if n <= PRODUCTS:
        return y @ _cosines(n, y.dtype, y.device)
    z = y / _lengths(y)
    # Of the turned FFT, place k has the real part z_k and the imaginary part −z_{n−k}, with z_n = 0.
    mirrored = torch.cat([torch.zeros_like(z[..., :1]), z[..., 1:].flip(-1)], dim=-1)
    x = torch.fft.ifft(torch.complex(z, -mirrored) * _turn(y, 1)).real
    half = (n + 1) // 2
    places = torch.arange(n, device=y.device)
    return x[..., torch.where(places % 2 == 0, places // 2, n - 1 - places // 2)] if half < n else x


@lru_cache(maxsize=16)
def _cosines(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made there could not be differentiated through later
        k = torch.arange(n, dtype=torch.float64)
        matrix = torch.cos(math.pi * torch.outer(k, 2 * k + 1) / (2 * n)) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device, dtype)


def _turn(x: Tensor, sign: int) -> Tensor:
    n = x.shape[-1]
    angle = torch.arange(n, device=x.device, dtype=x.dtype) * (sign * math.pi / (2 * n))
    return torch.complex(torch.cos(angle), torch.sin(angle))


def _lengths(x: Tensor) -> Tensor:
    n = x.shape[-1]
    lengths = x.new_full((n,), math.sqrt(2 / n))
    lengths[:1].fill_(math.sqrt(1 / n))
    return lengths


def _check(epsilon: float) -> None:
    if not 0 < epsilon <= 1:
        raise SinefieldError(f"epsilon of graying must lie in (0, 1], got {epsilon}")


def _floor(x: Tensor) -> float:
    """What, relative to the largest, is lost in rounding."""
    return torch.finfo(x.dtype).eps * max(x.shape[-2:])


def _or_one(largest: Tensor) -> Tensor:
    """A matrix of zeros has no scale to divide by."""
    return torch.where(largest > 0, largest, 1.0)


class _SVDGraying(torch.autograd.Function):
    """x = c·U·diag(s)·Vᵀ with c the largest singular value → U·diag(f(s))·Vᵀ, times c if the scale is kept.

    f(s) = s·max(s, floor)^(ε−1). As a map of matrices f has the derivative (Daleckii and Krein's, for singular values)
    that multiplies the symmetric part of Uᵀ·dx·V by (f_i − f_j)/(s_i − s_j), the antisymmetric part by
    (f_i + f_j)/(s_i + s_j), and what is outside the spans of U and V by f_i/s_i. It is its own adjoint.
    """

    @staticmethod
    def forward(ctx, x, epsilon, keep_scale, floor):
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        largest = _or_one(s[..., :1])
        s = s / largest
        ctx.save_for_backward(u, s, vh, largest)
        ctx.settings = epsilon, keep_scale, floor
        grayed = s * s.clamp_min(floor) ** (epsilon - 1)
        return (u * (grayed * largest if keep_scale else grayed)[..., None, :]) @ vh

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        u, s, vh, largest = ctx.saved_tensors
        epsilon, keep_scale, floor = ctx.settings
        v = vh.mT
        wide = s.double()
        ratio = wide.clamp_min(floor) ** (epsilon - 1)  # f/s
        f = wide * ratio
        a, b = wide[..., :, None], wide[..., None, :]
        gap, mean = a - b, (a + b) / 2
        slope = torch.where(mean < floor, floor ** (epsilon - 1), epsilon * mean.clamp_min(floor) ** (epsilon - 1))
        near = gap.abs() < 1e-7 * mean.clamp_min(floor)
        even = torch.where(near, slope, (f[..., :, None] - f[..., None, :]) / torch.where(near, 1.0, gap))
        nought = mean == 0
        odd = (f[..., :, None] + f[..., None, :]) / torch.where(nought, 1.0, 2 * mean)
        odd = torch.where(nought, floor ** (epsilon - 1), odd)
        even, odd, ratio = even.to(s.dtype), odd.to(s.dtype), ratio.to(s.dtype)

        gv = g @ v
        inner = u.mT @ gv
        core = even * (inner + inner.mT) / 2 + odd * (inner - inner.mT) / 2
        by_x = u @ core @ vh
        if g.shape[-2] > s.shape[-1]:
            by_x = by_x + ((gv - u @ inner) * ratio[..., None, :]) @ vh
        if g.shape[-1] > s.shape[-1]:
            by_x = by_x + (u * ratio[..., None, :]) @ (u.mT @ g - inner @ vh)
        # The largest value moves too; where several are largest, the mean of their directions is a subgradient.
        top = (s >= 1 - floor).to(s.dtype)
        direction = (u * (top / top.sum(-1, keepdim=True).clamp_min(1))[..., None, :]) @ vh
        by_largest = -((u.mT @ by_x @ v).diagonal(dim1=-2, dim2=-1) * s).sum(-1, keepdim=True)
        if keep_scale:
            by_largest = by_largest + (inner.diagonal(dim1=-2, dim2=-1) * f.to(s.dtype)).sum(-1, keepdim=True)
        else:
            by_x, by_largest = by_x / largest[..., None], by_largest / largest
        return by_x + by_largest[..., None] * direction, None, None, None
