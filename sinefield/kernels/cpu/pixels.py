# pyright: reportArgumentType=false, reportCallIssue=false
# numba gives what it compiles types of its own.
"""The head of a radiance field: samples through a second network into pixels, their errors, and all of it back.

A group is a few whole rays. `render.ray_error.ray_error_reference` is the same in torch.
"""

from typing import NamedTuple

import numba
import numpy as np

from sinefield.kernels.cpu.composite import ray_backward, transmittances
from sinefield.kernels.cpu.products import LANES, TILE, narrow
from sinefield.kernels.cpu.step import (
    back,
    forth,
    group_of,
    kept_for,
    lead,
    receive,
    share_of,
    way,
    whole,
    work_for,
)
from sinefield.kernels.cpu.tiles import (
    Block,
    Net,
    Room,
    filled_up,
    pair,
    per_step_of,
    room_for,
    tile_backward,
    tile_forward,
    widths,
)

ONE, TWO = np.float32(1), np.float32(2)


class Pixels(NamedTuple):
    """Densities and features for a second network that gives colours, all of a ray's samples into one pixel.

    Attributes:
        t_starts, t_ends, ray_indices, packed_info: the samples.
        inverse_units: of density, one or one a sample.
        highest: logarithm of density at which it is cut off.
        features: how many of the first network's outputs are handed to the second.
        directions: the rest of its input, one row a ray, of the kind of the networks' numbers.
        background, target: (rays, 3).
        errors: (rays,) filled with each ray's squared error; or of length 0.
        group: samples at once, about.
        learned: zeros (slices, …) for the second network's gradients.
        sizes, forth, biases, back, slope: the second network, as `Net`.
    """

    t_starts: np.ndarray
    t_ends: np.ndarray
    ray_indices: np.ndarray
    packed_info: np.ndarray
    inverse_units: np.ndarray
    highest: np.float32
    features: int
    directions: np.ndarray
    background: np.ndarray
    target: np.ndarray
    errors: np.ndarray
    group: int
    learned: np.ndarray
    sizes: np.ndarray
    forth: np.ndarray
    biases: np.ndarray
    back: np.ndarray
    slope: np.float32


class PixelsWork(NamedTuple):
    """A group's samples on their way to pixels and back, and the second network's room and gradients."""

    seen: np.ndarray
    kept: np.ndarray
    columns: np.ndarray
    room: Room
    learned: np.ndarray
    sigmas: np.ndarray
    rises: np.ndarray
    lengths: np.ndarray
    middle: np.ndarray
    colours: np.ndarray
    grad_sigmas: np.ndarray
    grad_colours: np.ndarray
    trans: np.ndarray
    lined: np.ndarray


@kept_for.of(Pixels)
def _(head, size, like):
    return np.empty(size, like.dtype), True, False


@way(Pixels)
def _(head, unit, group, source, net, memory, learned, of_x, loss):
    """Errors of pixels come between the two ways."""
    first, _, end = group
    loss, work = forth(head, group, source, net, memory, loss), memory.work
    for k in range(unit, end):
        error = ray_error(
            head.packed_info[k, 0] - first, head.packed_info[k, 1], work.sigmas, work.lengths, work.middle,
            work.colours, head.background[k], head.target[k], work.trans, work.grad_sigmas, work.grad_colours,
        )  # fmt: skip
        loss += error
        if len(head.errors) > 0:
            head.errors[k] = np.float32(error)
    back(head, group, source, net, memory, learned, of_x)
    return loss


@numba.njit(error_model="numpy")
def _second(head):
    return Net(head.sizes, head.forth, head.biases, head.back, head.slope)


@share_of.of(Pixels)
def _(head, n, part, parts):
    """Rays, so that each slice has about as many samples."""
    ends, packed = np.zeros(2, np.int64), head.packed_info
    for i in range(2):
        goal, low, high = n * (part + i) // parts, 0, len(packed)
        while low < high:
            middle = (low + high) // 2
            if packed[middle, 0] < goal:
                low = middle + 1
            else:
                high = middle
        ends[i] = low if part + i < parts else len(packed)
    unit, end, most = (ends[0] if part else 0), ends[1], head.group
    for r in range(unit, end):
        most = max(most, packed[r, 1])
    return unit, end, (most + TILE - 1) // TILE * TILE


@group_of.of(Pixels)
def _(head, n, unit, end):
    first, m, r = head.packed_info[unit, 0], 0, unit
    while r < end and (m == 0 or m + head.packed_info[r, 1] <= head.group):
        m += head.packed_info[r, 1]
        r += 1
    return first, m, r


@work_for.of(Pixels)
def _(head, part, most):
    net, kind, real = _second(head), head.forth.dtype, np.float32
    width = filled_up(head.sizes[0])
    seen = np.zeros(most * width, kind)  # zeros: rows that fill up a block are multiplied, though with zeros only
    kept, columns = np.empty(most * widths(head.sizes)[0], kind), np.empty(TILE * width, kind)
    return PixelsWork(
        seen, kept, columns, room_for(net), head.learned[part], np.empty(most, real), np.empty(most, real),
        np.empty(most, real), np.empty(most, real), np.empty((most, 3), real), np.empty(most, real),
        np.empty((most, 3), real), np.empty(most + 1, np.float64), np.empty(TILE, kind),
    )  # fmt: skip


@receive.of(Pixels)
def _(head, at, t, rows, net, room, work, loss):
    """Densities, and colours by the second network."""
    _densities(head, at, t, rows, filled_up(net.sizes[-1]), room.result, work)
    second, width, last = _second(head), filled_up(head.sizes[0]), filled_up(head.sizes[-1])
    given = Block(work.seen, t * width, width, np.int64(per_step_of(work.seen)))
    keeps = len(work.learned) > 0
    tile_forward(whole(rows), given, second, keeps, work.kept, t * widths(head.sizes)[0], work.room)
    for q in range(rows):
        for c in range(3):
            work.colours[t + q, c] = ONE / (ONE + np.exp(-work.room.result[q * last + c]))
    return loss


@numba.njit(error_model="numpy")
def _densities(head, at, t, rows, last, result, work):
    """From the first network's outputs, whose features go to the second's input with the rays' directions."""
    width, features, highest, seen = filled_up(head.sizes[0]), head.features, head.highest, work.seen
    n_directions = head.sizes[0] - features
    for q in range(rows):
        s = at + q
        raw = result[q * last]
        unit = head.inverse_units[s if len(head.inverse_units) > 1 else 0]
        sigma = np.exp(highest if raw > highest else raw) * unit
        work.sigmas[t + q], work.rises[t + q] = sigma, (np.float32(0.0) if raw > highest else sigma)
        t_start, t_end = head.t_starts[s], head.t_ends[s]
        work.lengths[t + q], work.middle[t + q] = t_end - t_start, (t_start + t_end) / TWO
        line = (t + q) * width
        for j in range(0, features, LANES):  # what is too much is overwritten with directions
            narrow(result, q * last + 1 + j, seen, line + j)
        for j in range(n_directions):
            seen[line + features + j] = head.directions[head.ray_indices[s] * n_directions + j]


@numba.njit(cache=True, error_model="numpy")
def ray_error(first, count, sigmas, lengths, middle, colours, background, target, trans, grad_sigmas, grad_colours):
    """Squared difference of one ray's pixel from `target`, and its gradients.

    Args:
        first, count: which samples are the ray's.
        trans: room for one number more than that.
    """
    transmittances(sigmas, lengths, first, count, trans)
    through, grad_opacity, loss = np.float32(trans[count]), np.float32(0), 0.0
    grad_colour = np.empty(3, np.float32)
    for c in range(3):
        total = 0.0
        for i in range(count):
            total += (trans[i] - trans[i + 1]) * colours[first + i, c]
        error = np.float32(total) + through * background[c] - target[c]
        loss += np.float64(error) * error
        grad_colour[c] = TWO * error
        grad_opacity -= grad_colour[c] * background[c]
    ray_backward(
        colours, lengths, middle, first, count, trans, grad_colour, grad_opacity, np.float32(0), grad_sigmas,
        grad_colours,
    )  # fmt: skip
    return loss


@lead.of(Pixels)
def _(head, at, t, rows, net, room, work):
    """Back through the second network; its features' gradients and the densities' are the first one's."""
    second, result, columns = _second(head), work.room.result, work.columns
    width, last, per_step = filled_up(head.sizes[0]), filled_up(head.sizes[-1]), np.int64(per_step_of(work.columns))
    result[: TILE * last] = 0
    for q in range(rows):
        for c in range(3):
            colour = work.colours[t + q, c]
            result[q * last + c] = work.grad_colours[t + q, c] * (colour * (ONE - colour))
    for j in range(0, TILE * last, LANES):
        narrow(result, j, work.room.even, j)
    pair(width, work.seen, t * width, width, columns, width)
    seen, kept_end = Block(columns, np.int64(0), per_step, width * per_step), (t + TILE) * widths(head.sizes)[0]
    wanted = len(work.learned) > 0
    g_seen = tile_backward(whole(rows), seen, second, work.kept, kept_end, work.learned, wanted, work.room)
    _join(head.features, t, rows, g_seen, width, room.even, filled_up(net.sizes[-1]), work)


@numba.njit(error_model="numpy")
def _join(features, t, rows, g_seen, width, g, last, work):
    """The gradients of densities and features as rows of the first network's output, zeros below."""
    rises = work.grad_sigmas[t : t + TILE]
    for q in range(rows):
        rises[q] *= work.rises[t + q]
    for j in range(0, TILE, LANES):
        narrow(rises, j, work.lined, j)
    g[: TILE * last] = 0
    for q in range(rows):
        g[q * last] = work.lined[q]
        for j in range(features):
            g[q * last + 1 + j] = g_seen[q * width + j]
