"""How much smaller, or how much better, one rate–quality curve is than another: Bjøntegaard deltas.

The curves are interpolated between their points, in the logarithm of the rate, and compared over what both cover
(Bjøntegaard, VCEG-M33, 2001). In place of that paper's cubic polynomial through all points, which swings between
unevenly spaced ones, the interpolation is piecewise: "pchip" keeps a curve monotone (Fritsch & Butland, 1984; the
common test conditions of HEVC and VVC, JCTVC-L1100), "akima" follows bends more closely (Akima, 1970; Herglotz et al.,
arXiv 2202.12565).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Real
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from sinefield.errors import SinefieldError

Method = Literal["pchip", "akima"]
Values = np.ndarray | Sequence[float]
# Akima's slopes at the ends are extrapolated from two intervals.
METHODS = {"pchip": (PchipInterpolator, 2), "akima": (Akima1DInterpolator, 3)}


def bd_rate(
    rate_a: Real[np.ndarray, "a"] | Sequence[float],
    quality_a: Real[np.ndarray, "a"] | Sequence[float],
    rate_b: Real[np.ndarray, "b"] | Sequence[float],
    quality_b: Real[np.ndarray, "b"] | Sequence[float],
    method: Method = "pchip",
) -> float:
    """Change of rate of b against the anchor a at equal quality, in percent: −20 says that b is a fifth smaller.

    100 · (10^m − 1), m the mean of log₁₀(rate b) − log₁₀(rate a) over the qualities that both curves cover. Exchanging
    a and b turns 1 + x/100 into its inverse.

    Args:
        rate_a, rate_b: (a,) and (b,) sizes in any one unit, in any order.
        quality_a, quality_b: (a,) and (b,) scores in any one unit, greater is better, growing strictly with the rate.
        method: "pchip", from 2 points a curve, or "akima", from 3.

    Raises:
        SinefieldError: unknown method; too few points; rates that are not positive or values that are not finite; a
            quality that does not grow with the rate (`pareto` keeps the points that do); curves without a common
            range of quality.
    """
    a, b = _curve("a", rate_a, quality_a, method), _curve("b", rate_b, quality_b, method)
    return float(100 * np.expm1(np.log(10) * _mean_gap(a[1], a[0], b[1], b[0], method, "quality")))


def bd_quality(
    rate_a: Real[np.ndarray, "a"] | Sequence[float],
    quality_a: Real[np.ndarray, "a"] | Sequence[float],
    rate_b: Real[np.ndarray, "b"] | Sequence[float],
    quality_b: Real[np.ndarray, "b"] | Sequence[float],
    method: Method = "pchip",
) -> float:
    """Mean of quality b − quality a at equal rate, in the unit of quality: above 0 says that b is better.

    The mean is over the logarithm of the rate, where both curves have points. (BD-PSNR, where quality is PSNR.)

    Args:
        rate_a, quality_a, rate_b, quality_b, method: as in `bd_rate`.

    Raises:
        SinefieldError: as in `bd_rate`; curves without a common range of rate.
    """
    a, b = _curve("a", rate_a, quality_a, method), _curve("b", rate_b, quality_b, method)
    return _mean_gap(*a, *b, method, "rate")


def pareto(
    rate: Real[np.ndarray, "n"] | Sequence[float], quality: Real[np.ndarray, "n"] | Sequence[float]
) -> tuple[Float64[np.ndarray, "kept"], Float64[np.ndarray, "kept"]]:
    """Rate and quality of the points that no other beats, sorted by rate; both grow strictly.

    A point goes if another costs no more and is at least as good; of equal points one stays.

    Args:
        rate, quality: (n,) sizes and scores (greater is better), in any order.

    Raises:
        SinefieldError: different lengths, or values that are not finite.
    """
    rate, quality = _points("the curve", rate, quality)
    order = np.lexsort((-quality, rate))
    rate, quality = rate[order], quality[order]
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], quality]))[:-1]
    return rate[quality > best_before], quality[quality > best_before]


def _points(name: str, rate: Values, quality: Values) -> tuple[np.ndarray, np.ndarray]:
    rate, quality = np.asarray(rate, np.float64), np.asarray(quality, np.float64)
    if rate.ndim != 1 or rate.shape != quality.shape:
        raise SinefieldError(
            f"{name} has rates of shape {rate.shape} and qualities of {quality.shape}; give one of each a point"
        )
    if not (np.isfinite(rate).all() and np.isfinite(quality).all()):
        raise SinefieldError(f"{name} has rates or qualities that are NaN or infinite; drop those points")
    return rate, quality


def _curve(name: str, rate: Values, quality: Values, method: str) -> tuple[np.ndarray, np.ndarray]:
    """log₁₀ of the rate, and the quality, sorted and checked."""
    if method not in METHODS:
        raise SinefieldError(f"unknown method {method!r}; one of {', '.join(METHODS)}")
    name = f"curve {name}"
    rate, quality = _points(name, rate, quality)
    least = METHODS[method][1]
    if len(rate) < least:
        raise SinefieldError(f"{name} has {len(rate)} points; {method} needs at least {least}")
    if not (rate > 0).all():
        raise SinefieldError(f"{name} has a rate of {rate.min():g}; rates must be positive")
    order = np.argsort(rate)
    rate, quality = np.log10(rate[order]), quality[order]
    bad = np.flatnonzero((np.diff(rate) <= 0) | (np.diff(quality) <= 0))
    if len(bad):
        i = bad[0]
        raise SinefieldError(
            f"{name}: from rate {10 ** rate[i]:g} to {10 ** rate[i + 1]:g} quality goes from {quality[i]:g} to "
            f"{quality[i + 1]:g}; both must grow, so keep the best points with pareto() first"
        )
    return rate, quality


def _mean_gap(x_a: np.ndarray, y_a: np.ndarray, x_b: np.ndarray, y_b: np.ndarray, method: str, axis: str) -> float:
    """Mean of y b − y a over the x that both curves cover, by the antiderivative."""
    low, high = max(x_a[0], x_b[0]), min(x_a[-1], x_b[-1])
    if not low < high:
        ends = [x_a[0], x_a[-1], x_b[0], x_b[-1]]
        shown = [f"{10**x if axis == 'rate' else x:g}" for x in ends]
        raise SinefieldError(
            f"the curves share no range of {axis}: a covers {shown[0]} to {shown[1]}, b {shown[2]} to {shown[3]}; "
            "measure points that overlap"
        )
    interpolate = METHODS[method][0]
    gap = interpolate(x_b, y_b).integrate(low, high) - interpolate(x_a, y_a).integrate(low, high)
    return float(gap / (high - low))
