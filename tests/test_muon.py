"""The batched optimiser against torch's own, and against the singular value decomposition."""

import torch
from torch import nn

from sinefield.learning import muon
from sinefield.learning.muon import Muon, orthogonalised


def test_orthogonalised_keeps_the_singular_vectors_and_levels_the_values():
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 20) * torch.tensor([1e-4, 1.0, 1e3])[:, None, None]
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    values = u.mT @ orthogonalised(matrices) @ vt.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    assert (values - torch.diag_embed(diagonal)).abs().max() < 0.01
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3


def test_steps_are_those_of_torch_with_a_momentum_that_rises(monkeypatch):
    torch.manual_seed(0)
    shapes = [(16, 4), (4, 16), (16, 4), (5, 5), (3, 7)]
    ours = [nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    pair = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    monkeypatch.setattr(muon, "RISE", 4)
    for step in range(6):
        pair[1].param_groups[0]["momentum"] = (0.875, 0.9, 0.925, 0.95, 0.95, 0.95)[step]
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        if step == 4:  # one that takes no part
            ours[3].grad = theirs[3].grad = None
        for optimizer in pair:
            optimizer.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        # torch orthogonalises in bf16.
        assert (a - b).norm() < 0.05 * (b - s).norm()
