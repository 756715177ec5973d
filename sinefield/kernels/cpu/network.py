"""Networks by the compiled step: outputs, points' errors, pixels' errors, each with its gradient."""

from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from math import ceil
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from numba.core import config
from torch import Tensor

from sinefield.kernels.cpu.heads import Outputs, Points, Slopes
from sinefield.kernels.cpu.pixels import Pixels
from sinefield.kernels.cpu.products import LANES, ROWS, TILE
from sinefield.kernels.cpu.slices import room_of_slices, summed
from sinefield.kernels.cpu.sources import Along, Rows
from sinefield.kernels.cpu.step import compiled
from sinefield.kernels.cpu.tiles import Net, pack
from sinefield.kernels.inputs import ERRORS, LEAK, FlatSamples, Light, Lines, Network
from sinefield.kernels.shell import Pull, differentiable
from sinefield.machine import cpu_features

SLOPES = {"relu": 0.0, "leaky_relu": LEAK}
"""Activations that the step knows, by what they multiply negative numbers with."""
GROUP_BYTES = 1 << 18
"""What the layers of the samples that go together may take: they are to be met again in the second cache."""

_forward, _backward, _point_error = (compiled(Rows, head) for head in (Outputs, Slopes, Points))
_ray_error = {source: compiled(source, Pixels) for source in (Rows, Along)}


@cache
def why_not(dtype: torch.dtype) -> str | None:
    """None where layers of a dtype go by tiles: numba compiles for this processor, and nothing better is at hand.

    bf16 needs AVX512-BF16; processors with AMX multiply it several times faster by oneDNN.
    """
    told: Any = config  # its names come from the environment
    if told.CPU_NAME or told.CPU_FEATURES or told.DISABLE_JIT:
        return "numba is told of another processor, or not to compile"
    if dtype == torch.bfloat16:
        found = torch.cpu.get_capabilities()
        if not (found.get("avx512_bf16") and cpu_features().get("avx512bf16")):
            return "this processor has no AVX512-BF16"
        if found.get("amx_bf16"):
            return "this processor has AMX, by which whole layers are faster"
    return None


class LaidOut:
    """A network's matrices (out, in) and biases as the step takes them, and back.

    Args:
        n_in: numbers that the first matrix is for.
        dtype: float32, or bf16, of the matrices.
    """

    def __init__(self, n_in: int, dtype: torch.dtype, slope: float, parameters: Sequence[Tensor]) -> None:
        half = len(parameters) // 2
        self.sizes = [n_in, *(len(w) for w in parameters[:half])]
        filled = [ceil(size / LANES) * LANES for size in self.sizes]
        self.shapes = list(pairwise(filled))
        self.hidden, self.learned = sum(filled[1:-1]), sum((a + ROWS) * b for a, b in self.shapes)
        weights, biases = (
            torch.cat([p.detach().reshape(-1) for p in some]).numpy() for some in (parameters[:half], parameters[half:])
        )
        forth, back = torch.zeros(2, sum(a * b for a, b in self.shapes))
        lifted, sizes = np.zeros(sum(filled[1:]), np.float32), np.array(self.sizes, np.int64)
        pack(weights, biases, sizes, 2 if dtype == torch.bfloat16 else 1, forth.numpy(), back.numpy(), lifted)
        # Without a tuple's name: a parallel loop passes on plain ones only.
        self.net = tuple(Net(sizes, flat(forth.to(dtype)), lifted, flat(back.to(dtype)), np.float32(slope)))

    def unpack(self, learned: Float[Tensor, "n"]) -> list[Tensor]:
        """Gradients of the matrices (out, in), then of the biases, from where `tile_backward` left them."""
        parts = learned.split([(a + ROWS) * b for a, b in self.shapes])
        both = [part.view(-1, b) for part, (_, b) in zip(parts, self.shapes, strict=True)]
        sizes = list(pairwise(self.sizes))
        matrices = [m[:n_in, :n_out].t() for m, (n_in, n_out) in zip(both, sizes, strict=True)]
        return matrices + [m[-ROWS, :n_out] for m, (_, n_out) in zip(both, sizes, strict=True)]


def flat(x: Tensor) -> np.ndarray:
    """Numbers one after another, bf16 as the integers of their bits; the same memory where it is contiguous."""
    x = x.detach().contiguous().view(-1)
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def _gradient(x: Tensor, wanted: bool) -> Tensor:
    """Room for the gradient of the rows, or none."""
    return torch.empty(len(x) if wanted else 0, x.shape[1], dtype=x.dtype)


def network(x: Float[Tensor, "n in"], net: Network) -> Float[Tensor, "n out"]:
    """float32 outputs of rows of bf16 or float32."""
    return differentiable(partial(_outputs, net), x, *net.matrices, *net.biases)


def _outputs(net: Network, wanted: Sequence[bool], x: Tensor, *parameters: Tensor) -> tuple[Tensor, Pull]:
    laid, keeps = LaidOut(x.shape[1], x.dtype, SLOPES[net.activation.name], parameters), any(wanted)
    space, threads, rows = net.pool.take(), numba.get_num_threads(), flat(x)
    kept = flat(space.take("kept", ceil(len(x) / TILE) * TILE, laid.hidden, x.dtype)) if keeps else rows[:0]
    out = torch.empty(len(x), laid.sizes[-1])
    _forward((rows,), laid.net, (flat(out), kept, keeps), np.empty((threads, 0), np.float32), rows[:0])
    if not keeps:
        net.pool.give(space)

    def pull(grad: Tensor) -> tuple[Tensor | None, ...]:
        (learned,), of_x = room_of_slices(len(x), laid.learned), _gradient(x, wanted[0])
        _backward((rows,), laid.net, (flat(grad.to(x.dtype)), kept), learned.numpy(), flat(of_x))
        net.pool.give(space)
        return of_x if wanted[0] else None, *laid.unpack(summed(learned))

    return out, pull


def point_error(
    x: Float[Tensor, "n in"], target: Float[Tensor, "n out"], net: Network, kind: str, sharpness: float
) -> Float[Tensor, ""]:
    """Sum of the errors of what a network says of points; see `nn.point_error.errors`."""

    def step(wanted: Sequence[bool], x: Tensor, *parameters: Tensor) -> tuple[Tensor, Pull]:
        laid = LaidOut(x.shape[1], x.dtype, SLOPES[net.activation.name], parameters)
        (learned,), of_x = room_of_slices(len(x), laid.learned), _gradient(x, wanted[0])
        head = flat(target.float()), ERRORS.index(kind), np.float32(sharpness)
        error = _point_error((flat(x),), laid.net, head, learned.numpy(), flat(of_x))

        def pull(grad: Tensor) -> tuple[Tensor | None, ...]:
            of_parameters = laid.unpack(summed(learned) * grad)
            return of_x * grad.to(of_x.dtype) if wanted[0] else None, *of_parameters

        return torch.tensor(error, dtype=torch.float32), pull

    return differentiable(step, x, *net.matrices, *net.biases)


def ray_error(
    seen: Float[Tensor, "n e"] | Lines, samples: FlatSamples, trunk: Network, head: Network, light: Light
) -> Float[Tensor, ""]:
    """Σ (pixel − target)² of samples through two networks; see `render.ray_error.ray_error_reference`."""
    split = 2 * len(trunk.matrices)

    def step(wanted: Sequence[bool], x: Tensor, *parameters: Tensor) -> tuple[Tensor, Pull]:
        first, octaves = parameters[0], seen.octaves if isinstance(seen, Lines) else 0
        if octaves:
            first = torch.cat([first, first.new_zeros(len(first), 1)], dim=1)[:, _columns(octaves)[0]]
        both = (first, *parameters[1:split]), parameters[split:]
        laid = [
            LaidOut(ps[0].shape[1], x.dtype, SLOPES[net.activation.name], ps)
            for ps, net in zip(both, (trunk, head), strict=True)
        ]
        learned = room_of_slices(len(samples.t_starts), *(one.learned for one in laid))
        of_x = _gradient(x, wanted[0])
        source = _along(seen, samples) if isinstance(seen, Lines) else Rows(flat(x))
        given = _pixels(samples, light, laid, learned[1].numpy())
        run = _ray_error[type(source)]
        error = run(tuple(source), laid[0].net, tuple(given), learned[0].numpy(), flat(of_x))

        def pull(grad: Tensor) -> tuple[Tensor | None, ...]:
            found = [one.unpack(summed(part) * grad) for one, part in zip(laid, learned, strict=True)]
            if octaves:
                found[0][0] = found[0][0][:, _columns(octaves)[1]]
            return of_x * grad.to(of_x.dtype) if wanted[0] else None, *found[0], *found[1]

        return torch.tensor(error, dtype=torch.float32), pull

    x = light.directions[:0] if isinstance(seen, Lines) else seen
    return differentiable(step, x, *trunk.matrices, *trunk.biases, *head.matrices, *head.biases)


def _along(lines: Lines, samples: FlatSamples) -> Along:
    rays_o, rays_d, centre = (x.contiguous().numpy() for x in lines[:3])
    along = (x.numpy() for x in (samples.t_starts, samples.t_ends, samples.ray_indices))
    return Along(rays_o, rays_d, centre, np.float32(1 / lines.half.numpy()), lines.octaves, *along)


def _pixels(samples: FlatSamples, light: Light, laid: Sequence[LaidOut], learned: np.ndarray) -> Pixels:
    trunk, head = laid
    kept_bytes = (trunk.hidden + head.hidden) * trunk.net[1].itemsize
    return Pixels(
        *(s.numpy() for s in (samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info)),
        inverse_units=flat(light.inverse_units),
        highest=np.float32(light.highest),
        features=head.sizes[0] - light.directions.shape[1],
        directions=flat(light.directions),
        background=light.background.contiguous().numpy(),
        target=light.target.contiguous().numpy(),
        errors=(light.directions.new_zeros(0, dtype=torch.float32) if light.errors is None else light.errors).numpy(),
        group=max(GROUP_BYTES // kept_bytes // TILE, 2) * TILE,
        learned=learned,
        **dict(zip(Net._fields, head.net, strict=True)),
    )


@cache
def _columns(octaves: int) -> tuple[Tensor, Tensor]:
    """Which column of the first matrix each of the encoding's is, the last for zeros; and the other way round."""
    waves = 3 * octaves
    order = torch.cat(
        [torch.tensor([0, 1, 2, 3 + 2 * waves]), 3 + torch.arange(2 * waves).view(2, waves).t().flatten()]
    )
    return order, order.argsort()[:-1]
