"""Weights against their formulas, their authors' printed ranks, and numbers counted by hand."""

import math

import pytest
import torch

from sinefield.errors import SinefieldError
from sinefield.nn.spectrum import effective_rank, numerical_rank, spectrum_report, stable_rank
from sinefield.nn.weights import Dense, LowRank, SineLowRank, materialised


def test_sine_formula():
    weight = SineLowRank(5, 7, rank=2, omega=30.0)
    u, v = weight.u.detach().double(), weight.v.detach().double()
    expected = torch.sin(30.0 * u @ v) / math.sqrt(7)
    assert torch.allclose(weight().double(), expected, atol=1e-5)


def test_parameters_by_hand():
    assert sum(p.numel() for p in Dense(5, 7).parameters()) == 35
    for cls, extra in ((LowRank, {}), (SineLowRank, {"omega": 1.0})):
        assert sum(p.numel() for p in cls(5, 7, rank=3, **extra).parameters()) == 3 * (5 + 7)


@pytest.mark.parametrize("rank", [1, 5, 64])
def test_initial_phase_does_not_depend_on_rank(rank):
    torch.manual_seed(0)
    stds = [
        float((w.omega * w.u @ w.v).detach().std()) for w in (SineLowRank(256, 256, rank, phase=1.7) for _ in range(40))
    ]
    assert sum(stds) / len(stds) == pytest.approx(1.7, rel=0.1)


def test_phase_carries_over_between_widths():
    assert SineLowRank(64, 64, 4, phase=2.0).omega == pytest.approx(2 * 3 * 8)
    assert SineLowRank(256, 256, 4, phase=2.0).omega == pytest.approx(2 * 3 * 16)


def test_stable_rank_grows_as_the_authors_printed_it():
    """Theirs is one draw (in=256, k=1), ours the mean of 20; the excess over 1 agrees within a factor of two."""
    torch.manual_seed(0)
    for omega, printed in [(20, 1.0004), (30, 1.0024), (40, 1.0071), (50, 1.0372)]:
        mean = sum(stable_rank(SineLowRank(256, 256, 1, omega=omega)()) for _ in range(20)) / 20
        assert 0.5 < (mean - 1) / (printed - 1) < 2
    assert stable_rank(SineLowRank(256, 256, 1, omega=1)()) == pytest.approx(1.0, abs=1e-6)


def test_the_sine_raises_the_rank_of_the_product():
    torch.manual_seed(0)
    weight = SineLowRank(128, 128, 2, omega=300.0)
    product = weight.u @ weight.v
    assert numerical_rank(product) == 2
    assert numerical_rank(weight()) > 60
    assert stable_rank(weight()) > 4 * stable_rank(product)
    assert effective_rank(weight()) > 10 * effective_rank(product)


def test_ranks_of_known_matrices():
    assert stable_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0]))) == pytest.approx(1.25)
    assert stable_rank(torch.zeros(3, 3)) == effective_rank(torch.zeros(3, 3)) == numerical_rank(torch.zeros(3, 3)) == 0


def test_spectrum_report_names_every_weight():
    module = torch.nn.ModuleDict({"a": Dense(3, 4), "b": SineLowRank(8, 8, 2, phase=1.0)})
    rows = spectrum_report(module)
    assert [(r["name"], r["weight"], r["params"]) for r in rows] == [("a", "Dense", 12), ("b", "SineLowRank", 32)]


def test_materialised_gives_the_gradient_of_one_backward():
    """Chunks over leaf matrices against one ordinary pass, in float64."""
    torch.manual_seed(0)
    module = torch.nn.ModuleList([SineLowRank(6, 6, 2, phase=2.0), Dense(6, 6)]).double()
    x = torch.randn(10, 6, dtype=torch.float64)
    (x @ module[0]().T @ module[1]().T).square().sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    with materialised(module):
        for part in x.split(3):
            (part @ module[0]().T @ module[1]().T).square().sum().backward()
    for p, e in zip(module.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, rtol=1e-10)


def test_materialised_computes_each_matrix_once():
    class Counting(Dense):
        calls = 0

        def matrix(self):
            Counting.calls += 1
            return super().matrix()

    weight = Counting(3, 3)
    with materialised(weight):
        for _ in range(5):
            weight()
    assert Counting.calls == 1
    assert weight() is weight.weight


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LowRank(4, 6, rank=5), "rank 5"),
        (lambda: LowRank(4, 6, rank=0), "rank 0"),
        (lambda: SineLowRank(4, 4, rank=2), "exactly one"),
        (lambda: SineLowRank(4, 4, rank=2, omega=1.0, phase=1.0), "exactly one"),
        (lambda: SineLowRank(4, 4, rank=2, omega=-1.0), "positive"),
        (lambda: Dense(0, 4), "at least one"),
    ],
)
def test_bad_settings_are_one_line(make, words):
    with pytest.raises(SinefieldError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
