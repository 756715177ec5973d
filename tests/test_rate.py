"""Bjøntegaard deltas against curves worked out by hand and against published figures."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinefield.errors import SinefieldError
from sinefield.metrics.rate import bd_quality, bd_rate, pareto

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no clock decides
settings.load_profile("busy")
METHODS = pytest.mark.parametrize("method", ["pchip", "akima"])

# The curves of VCEG-M33 itself; the example that goes with the popular Python port of it; libx265 at two presets, from
# the documentation of the bjontegaard package: rates and PSNR of a, then of b. With them what the cubic fit of VCEG-M33
# gives, BD-rate in % and BD-PSNR in dB. The first row's are printed with the C++ implementation of T. Bruylants; the
# other BD-rates are in circulation, their BD-PSNR is this file's own.
PUBLISHED = {
    "VCEG-M33": (
        [90.33, 181.03, 332.99, 547.79],
        [27.95, 31.17, 34.44, 38.11],
        [127.1719, 186.14, 307.2924, 481.5588],
        [29.9286, 32.4165, 34.7013, 37.4561],
        -13.261773,
        0.800713,
    ),
    "four points": (
        [686.76, 309.58, 157.11, 85.95],
        [40.28, 37.18, 34.24, 31.42],
        [893.34, 407.8, 204.93, 112.75],
        [40.39, 37.21, 34.17, 31.24],
        31.397374,
        -1.184898,
    ),
    "libx265": (
        [9487.76, 4593.60, 2486.44, 1358.24],
        [40.037, 38.615, 36.845, 34.851],
        [9787.80, 4469.00, 2451.52, 1356.24],
        [40.121, 38.651, 36.970, 34.987],
        -4.420463,
        0.120409,
    ),
}

# Two rows of a JCT-VC spreadsheet, which interpolates by pchip, with the BD-rate it shows (tests of Netflix's VMAF).
SPREADSHEET = [
    (
        [108048.8736, 61279.976, 33905.6656, 18883.6928],
        [43.6471, 40.3953, 37.247, 34.2911],
        [108061.2784, 61299.9936, 33928.7472, 18910.912],
        [43.6768, 40.4232, 37.2761, 34.3147],
        -0.465215420752807,
    ),
    (
        [40433.8848, 7622.7456, 2394.488, 1017.6184],
        [37.5761, 35.3756, 33.8977, 32.0603],
        [40370.12, 7587.0024, 2390.0944, 1017.0984],
        [37.5982, 35.4025, 33.9194, 32.0822],
        -1.8779823450567612,
    ),
]


def cubic(rate_a, quality_a, rate_b, quality_b):
    """BD-rate and BD-PSNR of VCEG-M33: one cubic through all points of a curve."""

    def mean_gap(x_a, y_a, x_b, y_b):
        low, high = max(min(x_a), min(x_b)), min(max(x_a), max(x_b))
        area = np.polyint(np.polyfit(x_b, y_b, 3) - np.polyfit(x_a, y_a, 3))
        return (np.polyval(area, high) - np.polyval(area, low)) / (high - low)

    log_a, log_b = np.log10(rate_a), np.log10(rate_b)
    return 100 * (10 ** mean_gap(quality_a, log_a, quality_b, log_b) - 1), mean_gap(log_a, quality_a, log_b, quality_b)


@METHODS
def test_a_curve_of_four_fifths_the_rate(method):
    rate, quality = np.array([3.0, 7, 20, 90, 100]), np.array([0.6, 0.8, 0.87, 0.95, 0.951])
    assert bd_rate(rate, quality, 0.8 * rate, quality, method) == pytest.approx(-20)
    assert bd_rate(rate, quality, rate, quality, method) == 0


@METHODS
def test_a_curve_of_shifted_quality(method):
    rate, quality = np.array([3.0, 7, 20, 90, 100]), np.array([30.0, 33, 33.5, 38, 41])
    assert bd_quality(rate, quality, rate, quality + 1.5, method) == pytest.approx(1.5)
    assert bd_quality(rate, quality, rate, quality - 0.1, method) == pytest.approx(-0.1)


def test_straight_lines_that_overlap_in_part():
    a = [10.0**2, 10.0**3], [30.0, 40.0]
    b = [10.0**2, 10.0**4], [35.0, 45.0]
    # log rate b − a is −1/2 at quality 35 and 0 at 40; quality b − a is 5 at rate 10² and 0 at 10³.
    assert bd_rate(*a, *b) == pytest.approx(100 * (10**-0.25 - 1))
    assert bd_quality(*a, *b) == pytest.approx(2.5)


@METHODS
def test_a_parabola_against_a_line(method):
    """log rate q² below 2q at q = 0, 1, 2.

    Slopes at the knots are 0, 3/2, 4 by pchip and 0, 2, 4 by Akima; either way the Hermite cubics hold 8/3, the line 4.
    """
    quality = np.array([0.0, 1, 2])
    line, parabola = 10.0 ** (2 * quality), 10.0 ** (quality**2)
    assert bd_rate(line, quality, parabola, quality, method) == pytest.approx(100 * (10 ** (-2 / 3) - 1))


@METHODS
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples(name, method):
    *curves, rate, quality = PUBLISHED[name]
    assert cubic(*curves) == pytest.approx((rate, quality), abs=1e-6)
    assert bd_rate(*curves, method) == pytest.approx(rate, abs=0.1)
    assert bd_quality(*curves, method) == pytest.approx(quality, abs=0.01)


@pytest.mark.parametrize("row", SPREADSHEET)
def test_the_common_test_conditions(row):
    *curves, expected = row
    assert bd_rate(*curves) == pytest.approx(expected, abs=1e-8)
    assert bd_rate(*curves, "akima") == pytest.approx(expected, abs=0.02)


steps = st.lists(st.floats(0.05, 2), min_size=3, max_size=8)


@METHODS
@given(steps, steps, steps, steps, st.randoms())
def test_exchanging_the_curves(method, log_a, quality_a, log_b, quality_b, random):
    def curve(logs, qualities):
        points = list(zip(10 ** np.cumsum(logs), 30 + np.cumsum(qualities), strict=False))
        random.shuffle(points)  # in any order
        return np.array(points).T

    a, b = curve(log_a, quality_a), curve(log_b, quality_b)
    try:
        forth = bd_rate(*a, *b, method), bd_quality(*a, *b, method)
    except SinefieldError as error:
        assert "share no range" in str(error)
        return
    back = bd_rate(*b, *a, method), bd_quality(*b, *a, method)
    assert (1 + forth[0] / 100) * (1 + back[0] / 100) == pytest.approx(1)
    assert forth[1] == -back[1]


points = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=20)


@given(points)
def test_pareto_keeps_what_nothing_beats(points):
    rate, quality = pareto(*np.array(points).T)
    assert (np.diff(rate) > 0).all() and (np.diff(quality) > 0).all()
    kept = set(zip(rate, quality, strict=True))
    beaten = {p for p in points for o in points if o != p and o[0] <= p[0] and o[1] >= p[1]}
    assert kept == set(points) - beaten


def test_pareto_makes_a_ragged_curve_usable():
    rate, quality = [5, 1, 3, 4, 2, 3], [0.9, 0.5, 0.8, 0.7, 0.6, 0.75]
    with pytest.raises(SinefieldError, match=r"curve b: from rate 3 to 3 .* keep the best points with pareto"):
        bd_rate([1, 5], [0.5, 0.9], rate, quality)
    kept = pareto(rate, quality)
    assert kept[0].tolist() == [1, 2, 3, 5] and kept[1].tolist() == [0.5, 0.6, 0.8, 0.9]
    assert bd_rate(*kept, *kept) == 0


def test_refusals():
    a = [1.0, 10, 100], [0.5, 0.7, 0.9]
    with pytest.raises(SinefieldError, match=r"range of quality: a covers 0\.5 to 0\.9, b 0\.9 to 1"):
        bd_rate(*a, [1.0, 10], [0.9, 1.0])
    with pytest.raises(SinefieldError, match=r"range of rate: a covers 1 to 100, b 1000 to 10000"):
        bd_quality(*a, [1e3, 1e4], [0.5, 0.9])
    with pytest.raises(SinefieldError, match="curve b has 1 points; pchip needs at least 2"):
        bd_rate(*a, [1.0], [0.5])
    with pytest.raises(SinefieldError, match="curve b has 2 points; akima needs at least 3"):
        bd_quality(*a, [1.0, 10], [0.5, 0.9], "akima")
    with pytest.raises(SinefieldError, match="curve a has a rate of 0; rates must be positive"):
        bd_rate([0, 1], [0.5, 0.9], *a)
    with pytest.raises(SinefieldError, match="NaN or infinite"):
        bd_rate([1.0, np.inf], [0.5, 0.9], *a)
    with pytest.raises(SinefieldError, match="NaN or infinite"):
        pareto([1.0, 2.0], [0.5, np.nan])
    with pytest.raises(SinefieldError, match="give one of each a point"):
        pareto([1.0, 2.0], [0.5])
    with pytest.raises(SinefieldError, match=r"quality goes from 0\.9 to 0\.5"):
        bd_rate(*a, [1, 2], [0.9, 0.5])
