"""Graying against numpy's SVD and scipy's cosine transform, its gradients against difference quotients."""

import numpy as np
import pytest
import scipy.fft
import torch
from torch.autograd import gradcheck

from sinefield.errors import SinefieldError
from sinefield.transformers.graying import DCTGraying, SVDGraying, dct, dct_graying, idct, svd_graying
from sinefield.transformers.norms import condition_number

SHAPES = [(6, 4), (4, 6), (5, 5), (1, 3), (3, 1), (2, 3, 7, 4)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_values(values, n, d, seed=0):
    """A matrix of these singular values, and its factors."""
    u = torch.linalg.qr(normal(n, len(values), seed=seed))[0]
    v = torch.linalg.qr(normal(d, len(values), seed=seed + 1))[0]
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T, u, v


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("epsilon", "keep_scale"), [(0.7, True), (0.4, False), (1.0, True)])
def test_svd_graying_is_numpys(shape, epsilon, keep_scale):
    x = normal(*shape)
    u, s, vh = np.linalg.svd(x.numpy(), full_matrices=False)
    largest = s.max(-1, keepdims=True)
    truth = (u * ((s / largest) ** epsilon * (largest if keep_scale else 1))[..., None, :]) @ vh
    np.testing.assert_allclose(svd_graying(x, epsilon, keep_scale).numpy(), truth, atol=1e-12)
    np.testing.assert_array_equal(SVDGraying(epsilon, keep_scale)(x), svd_graying(x, epsilon, keep_scale))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("epsilon", "keep_scale"), [(0.95, True), (0.4, False), (1.0, True)])
def test_dct_graying_is_scipys(shape, epsilon, keep_scale):
    x = normal(*shape)
    y = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    largest = np.abs(y).max((-2, -1), keepdims=True)
    y = np.sign(y) * (np.abs(y) / largest) ** epsilon * (largest if keep_scale else 1)
    truth = scipy.fft.idctn(y, axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(dct_graying(x, epsilon, keep_scale).numpy(), truth, atol=1e-12)
    np.testing.assert_array_equal(DCTGraying(epsilon, keep_scale)(x), dct_graying(x, epsilon, keep_scale))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17, 196, 601, 700])
def test_cosine_transform_is_scipys_and_back(n):
    x = normal(3, n)
    np.testing.assert_allclose(dct(x).numpy(), scipy.fft.dct(x.numpy(), norm="ortho"), atol=1e-12)
    np.testing.assert_allclose(idct(x).numpy(), scipy.fft.idct(x.numpy(), norm="ortho"), atol=1e-12)
    x.requires_grad_()
    # The transform is orthogonal: its adjoint is its inverse.
    np.testing.assert_allclose(torch.autograd.grad((dct(x) * x.detach()).sum(), x)[0], idct(x.detach()), atol=1e-12)


def test_epsilon_one_changes_nothing_and_the_largest_value_stays():
    x = normal(7, 5)
    for function in (svd_graying, dct_graying):
        torch.testing.assert_close(function(x, 1.0), x)
    for keep_scale, largest in (True, torch.linalg.svdvals(x)[0].item()), (False, 1.0):
        assert torch.linalg.svdvals(svd_graying(x, 0.5, keep_scale))[0].item() == pytest.approx(largest)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep_scale", [True, False])
def test_gradients_are_difference_quotients(shape, keep_scale):
    x = normal(*shape).requires_grad_()
    for epsilon in (0.5, 0.9):
        assert gradcheck(lambda x, e=epsilon: svd_graying(x, e, keep_scale), x)
        assert gradcheck(lambda x, e=epsilon: dct_graying(x, e, keep_scale), x)


@pytest.mark.parametrize(("n", "d"), [(6, 4), (4, 6), (4, 4)])
@pytest.mark.parametrize("keep_scale", [True, False])
def test_gradients_where_singular_values_repeat(n, d, keep_scale):
    """Not the largest: there the function is smooth, and 1/(s_i − s_j) of torch's own SVD would be infinite."""
    for values in ([3.0, 1.0, 1.0, 1.0], [3.0, 2.0, 2.0, 0.5], [3.0, 1.0, 1.0 + 1e-9, 1.0 - 1e-12]):
        x = with_values(values, n, d)[0].requires_grad_()
        assert gradcheck(lambda x: svd_graying(x, 0.6, keep_scale), x)


def test_gradient_where_the_largest_repeats_is_a_subgradient():
    """max has a kink there: along one u·vᵀ the slope lies between the one-sided quotients, along their sum there is
    no kink."""
    x, u, v = with_values([2.0, 2.0, 0.5], 5, 4)
    g = normal(5, 4, seed=7)
    x.requires_grad_()
    gradient = torch.autograd.grad((svd_graying(x, 0.6) * g).sum(), x)[0]
    for along, kink in (u[:, :1] @ v[:, :1].T, True), (u[:, :2] @ v[:, :2].T, False):
        h = 1e-6
        with torch.no_grad():
            at = (svd_graying(x, 0.6) * g).sum()
            sides = [((svd_graying(x + s * h * along, 0.6) * g).sum() - at).item() / (s * h) for s in (1, -1)]
        slope = (gradient * along).sum().item()
        assert (abs(sides[0] - sides[1]) > 1e-2) == kink
        assert min(sides) - 1e-4 <= slope <= max(sides) + 1e-4


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_zero_singular_values_stay_zero_with_finite_gradients(shape):
    """Below rounding the map is linear, so that it has a derivative at zero; a difference quotient finds the same one.

    Its steps must stay below rounding too: 1e-18 on entries that are zero, and the graying of a sum of disjoint blocks
    acts on each."""
    for values in ([2.0, 1.0], [2.0, 1.0, 0.0], [0.0]):
        x = with_values(values, *shape)[0].requires_grad_()
        out = svd_graying(x, 0.5)
        ranks = [(torch.linalg.svdvals(y.detach()) > 1e-6).sum() for y in (x, out)]
        assert ranks[0] == ranks[1]
        gradient = torch.autograd.grad((out * normal(*shape, seed=3)).sum(), x)[0]
        assert torch.isfinite(gradient).all() and gradient.any()

    x = torch.zeros(4, 4, dtype=torch.float64)
    x[0, 0], x[1, 1] = 2.0, 1.0
    x.requires_grad_()
    for place in ((2, 3), (3, 3)):
        gradient = torch.autograd.grad(svd_graying(x, 0.5)[place], x)[0]
        step = torch.zeros_like(x)
        step[place] = 1e-18
        with torch.no_grad():
            quotient = svd_graying(x + step, 0.5)[place] / 1e-18
        assert gradient[place].item() == pytest.approx(quotient.item(), rel=1e-6) and quotient > 1e6
        assert gradient.abs().sum().item() == pytest.approx(quotient.item(), rel=1e-6)


@pytest.mark.parametrize("function", [svd_graying, dct_graying])
@pytest.mark.parametrize("keep_scale", [True, False])
def test_nothing_stays_nothing(function, keep_scale):
    """And a batch's other matrices do not notice."""
    x = torch.stack([torch.zeros(5, 3), normal(5, 3).float()]).requires_grad_()
    out = function(x, 0.5, keep_scale)
    assert not out[0].any()
    torch.testing.assert_close(out[1], function(x[1], 0.5, keep_scale))
    gradient = torch.autograd.grad(out.sum(), x)[0]
    alone = torch.autograd.grad(function(x[1], 0.5, keep_scale).sum(), x)[0]
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient[1], alone[1])


def test_constant_tokens_under_the_cosine_transform():
    """One coefficient, all others zero but for rounding: they stay so, and gradients are finite."""
    x = torch.full((6, 5), 3.0).requires_grad_()
    out = dct_graying(x, 0.5)
    torch.testing.assert_close(out, x, rtol=1e-3, atol=0)
    assert torch.isfinite(torch.autograd.grad(out[0, 0], x)[0]).all()


@pytest.mark.parametrize("epsilon", [0.9, 0.5])
def test_condition_number_becomes_its_power(epsilon):
    x = normal(3, 20, 8) @ torch.diag(10.0 ** -torch.arange(8).double() / 2)
    torch.testing.assert_close(condition_number(svd_graying(x, epsilon)), condition_number(x) ** epsilon)


def test_cosine_graying_conditions_smooth_tokens():
    """No theorem: tokens that change smoothly from one to the next, as patches of a picture do, become better."""
    x = normal(8, 64, 16).cumsum(1).cumsum(2)
    numbers = [condition_number(dct_graying(x, e)).log10().mean().item() for e in (1.0, 0.95, 0.7)]
    assert numbers[0] - 0.02 > numbers[1] > numbers[2]


@pytest.mark.parametrize("function", [svd_graying, dct_graying])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_only_rounds_what_comes_in_and_out(function, dtype):
    x = normal(2, 30, 12).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    outer = normal(2, 30, 12, seed=5).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = function(x, 0.7)
    truth = function(wide, 0.7)
    pairs = [(out, truth)]
    pairs += zip(torch.autograd.grad(out, x, outer), torch.autograd.grad(truth, wide, outer.double()), strict=True)
    for a, b in pairs:
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= (1 if dtype != torch.float32 else 100) * torch.finfo(dtype).eps * b.max()


@pytest.mark.parametrize("epsilon", [0.0, 1.5, -1.0, float("nan")])
@pytest.mark.parametrize("make", [SVDGraying, DCTGraying, lambda e: svd_graying(normal(2, 2), e)])
def test_epsilon_outside_is_said(epsilon, make):
    with pytest.raises(SinefieldError, match="epsilon"):
        make(epsilon)
