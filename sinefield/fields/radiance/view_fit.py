"""What is learned about the training photographs themselves: small corrections of their poses, and their exposure."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class ViewFit(nn.Module):
    """A rotation, a shift and a colour gain for each training view, all without effect at first.

    Their means over the views are kept out while they are learned, so that neither the scene as a whole turns, moves or
    brightens, and what is asked of views that took no part stays in its place.

    Args:
        n: number of views.
        length: world units that a shift of 1 stands for.
        poses: learn rotations (so(3), world axes) and shifts.
        exposure: learn gains, one a colour channel, on sRGB values.
    """

    def __init__(self, n: int, length: float, poses: bool, exposure: bool) -> None:
        super().__init__()
        self.length, self.fits_poses, self.fits_exposure = length, poses, exposure
        self.learning = True
        self.turns = nn.Parameter(torch.zeros(n, 3), requires_grad=poses)
        self.shifts = nn.Parameter(torch.zeros(n, 3), requires_grad=poses)
        self.gains = nn.Parameter(torch.zeros(n, 3), requires_grad=exposure)

    def settled(self) -> dict[str, Tensor]:
        """What has been learned, means taken out, shifts in world units: `turns`, `shifts`, `gains`, each (n, 3)."""
        with torch.no_grad():
            return {"turns": self._own(self.turns), "shifts": self.offsets(), "gains": self._own(self.gains)}

    @staticmethod
    def of(settled: dict[str, Tensor], rows: list[int]) -> "ViewFit":
        """The chosen rows of what another one has learned, to be used as they are."""
        parts = {name: settled[name][rows] for name in ("turns", "shifts", "gains")}
        fit = ViewFit(len(rows), 1.0, bool(parts["turns"].any()), bool(parts["gains"].any()))
        fit.load_state_dict(parts)
        fit.learning = False
        return fit.requires_grad_(False)

    def _own(self, values: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return values - values.mean(0) if self.learning else values

    def rotations(self) -> Float[Tensor, "n 3 3"]:
        """Rotation of each view, to be applied to its directions from the left."""
        x, y, z = self._own(self.turns).unbind(1)
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
        return torch.linalg.matrix_exp(skew)

    def offsets(self) -> Float[Tensor, "n 3"]:
        """Shift of each view's centre in world units."""
        return self._own(self.shifts) * self.length

    def rays(
        self, view: Int[Tensor, "r"], rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"]
    ) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        """Rays of the given views, corrected."""
        if not self.fits_poses:
            return rays_o, rays_d
        return rays_o + self.offsets()[view], torch.einsum("rij,rj->ri", self.rotations()[view], rays_d)

    def exposures(self, view: Int[Tensor, "r"]) -> Float[Tensor, "r 3"]:
        """What a view's colours are brighter by than the scene's, as a factor."""
        return torch.exp(self._own(self.gains))[view]
