"""Our optimiser objects against torch's, and what they leave unimported."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from sinefield.learning.muon import Muon
from sinefield.nn.optimisers import Adam

SHAPES = [(4, 3), (7,), (2, 2)]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def take_steps(optimizer, ps, first, n) -> None:
    for step in range(first, first + n):
        generator = torch.Generator().manual_seed(step)
        for i, p in enumerate(ps):
            p.grad = torch.randn(p.shape, generator=generator) if (step + i) % 4 else None  # some take no part
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.step()


def test_adam_steps_are_those_of_torch_to_the_bit():
    ours, theirs = parameters(), parameters()
    take_steps(Adam(ours, lr=0.1, eps=1e-15), ours, 0, 9)
    take_steps(torch.optim.Adam(theirs, lr=0.1, betas=(0.9, 0.99), eps=1e-15, fused=True), theirs, 0, 9)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_groups_have_rates_of_their_own():
    ours = parameters()
    optimizer = Adam([{"params": ours[:2], "lr": 0.5}, {"params": ours[2:]}], lr=0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    before = [p.detach().clone() for p in ours]
    for p in ours:
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = [float((b - p.detach()).mean()) for b, p in zip(before, ours, strict=True)]
    assert moved == pytest.approx([0.5, 0.5, 0.25], rel=1e-4)
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)


@pytest.mark.parametrize("make", [Adam, lambda ps: Muon([p for p in ps if p.dim() == 2], 0.1)])
def test_a_state_that_is_put_back_goes_on_to_the_bit(make):
    whole, parted = parameters(), parameters()
    take_steps(make(whole), whole, 0, 8)
    first = make(parted)
    take_steps(first, parted, 0, 5)
    stored = {i: {k: torch.as_tensor(v).clone() for k, v in slots.items()} for i, slots in first.slots().items()}
    second = make(parted)
    second.take_slots(stored)
    take_steps(second, parted, 5, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parted, strict=True))


def test_a_state_that_does_not_fit_is_refused():
    ps = parameters()
    optimizer = Adam(ps)
    take_steps(optimizer, ps, 0, 5)
    sound = optimizer.slots()
    for wrong in (
        {9: sound[0]},
        {0: sound[1]},
        {0: {**sound[0], "exp_avg": torch.zeros(())}},
        {0: {**sound[0], "step": torch.zeros(2)}},
        {0: {"step": sound[0]["step"], "exp_avg": sound[0]["exp_avg"]}},
    ):
        with pytest.raises(ValueError, match="parameter"):
            optimizer.take_slots(wrong)
    assert optimizer.slots().keys() == sound.keys()


def test_optimisers_import_no_compiler():
    made = "import sys, torch; from sinefield.learning.muon import Muon; from sinefield.nn.optimisers import Adam\n"
    made += "p = torch.nn.Parameter(torch.ones(2, 2)); p.grad = torch.ones(2, 2)\n"
    made += "Adam([p]).step(); Muon([p], 0.1).step(); print('torch._dynamo' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
