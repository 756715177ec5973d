"""A change of the mathematics, in the references or in the kernels, is seen in the golden files."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_golden import FIELDS, FILES, differ, unlike

from sinefield.adapters import deltas as adapter_deltas
from sinefield.adapters import fields as adapter_fields
from sinefield.compress import code, container, tensors
from sinefield.data.surfaces.placement import Normalisation
from sinefield.fields.image import field as image
from sinefield.fields.latent import field as latent_shape
from sinefield.fields.radiance import field as radiance
from sinefield.fields.radiance import surface
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shared.field import SharedField
from sinefield.kernels.cpu import encoding, hashgrid, layers, network
from sinefield.nn import mlp, weights
from sinefield.nn.encodings import Frequency, SphericalHarmonics
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import WeightSpec
from sinefield.store import fields as store_fields


@pytest.mark.parametrize("name", FIELDS)
def test_another_order_of_sums_is_no_difference(name, monkeypatch):
    def wide(self, x):
        matrices = [weight().double() for weight in self.weights]
        biases, h = [b.double() for b in self.biases], x.double()
        for i in range(len(matrices)):
            h = torch.cat([h, x.double()], 1) if i in self.skips else h
            h = F.linear(h, matrices[i], biases[i])
            h = mlp.activate(h, self.activation) if i < len(matrices) - 1 else h
        return h.float()

    monkeypatch.setattr(Frequency, "forward", Frequency.reference)
    monkeypatch.setattr(SphericalHarmonics, "forward", SphericalHarmonics.reference)
    monkeypatch.setattr(HashGrid, "forward", HashGrid.reference)
    monkeypatch.setattr(MLP, "forward", wide)
    monkeypatch.setattr(RadianceField, "one_kernel", False)
    assert differ(name, slack=0.5) == []


def around(patch, owner, name, change):
    """Replace a function by `change(function, *its arguments)`."""
    plain = getattr(owner, name)
    patch.setattr(owner, name, lambda *given, **named: change(plain, *given, **named))


def columns_changed(order, kernel=False):
    """Columns of the positional encoding (bare coordinates, sines, cosines) in another order."""

    def moved(out, d):
        bare, n = out[:, :d], (out.shape[1] - d) // (2 * d)
        waves = out[:, d:].reshape(len(out), 2, n, d)
        return order(bare, waves, d)

    def change(patch):
        if not kernel:
            for name in ("forward", "reference"):
                around(patch, Frequency, name, lambda plain, self, x: moved(plain(self, x), x.shape[1]))
            return

        def encode(plain, x, octaves, out):
            plain(x, octaves, out)
            out[:] = moved(torch.from_numpy(out.copy()), x.shape[1]).numpy()

        around(patch, encoding, "encode", encode)

    return change


def cosines_first(bare, waves, d):
    return torch.cat([bare, waves.flip(1).flatten(1)], 1)


def octave_by_octave(bare, waves, d):
    return torch.cat([bare, waves.transpose(1, 2).flatten(1)], 1)


def axis_by_axis(bare, waves, d):
    return torch.cat([bare, waves.transpose(2, 3).flatten(1)], 1)


def octaves_backwards(bare, waves, d):
    return torch.cat([bare, waves.flip(2).flatten(1)], 1)


def bare_last(bare, waves, d):
    return torch.cat([waves.flatten(1), bare], 1)


ORDERS = [cosines_first, octave_by_octave, axis_by_axis, octaves_backwards, bare_last]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [False, True], ids=["all", "kernel"])
def test_columns_of_the_encoding_moved(order, kernel, monkeypatch):
    columns_changed(order, kernel)(monkeypatch)
    unlike(["shape.sine", "radiance.sine", "radiance_ndc.sine", "surface.sine", "image.sine", "runs/shape"])
    if not kernel:
        unlike(["shapes.sine"])


@pytest.mark.parametrize("channels", [(i, i + 1) for i in range(15)])
def test_harmonics_moved(channels, monkeypatch):
    def change(plain, d):
        out = plain(d)
        out[:, list(channels)] = out[:, list(channels[::-1])]
        return out

    around(monkeypatch, SphericalHarmonics, "forward", lambda plain, self, d: change(lambda d: plain(self, d), d))
    unlike(["radiance.sine", "runs/radiance", "surface.sine"])


@pytest.mark.parametrize("channel", range(16))
def test_a_harmonic_s_sign(channel, monkeypatch):
    def change(plain, d):
        out = plain(d)
        out[:, channel] *= -1
        return out

    around(monkeypatch, SphericalHarmonics, "forward", lambda plain, self, d: change(lambda d: plain(self, d), d))
    unlike(["radiance.sine"])


def rays_columns(patch):
    order, _ = network._columns(FILES["radiance.sine"]["settings"]["frequencies"])
    order = order.clone()
    order[[4, 5]] = order[[5, 4]]
    patch.setattr(network, "_columns", lambda octaves: (order, order.argsort()[:-1]))


def packed_columns(patch):
    def change(plain, *given):
        return [c if len(c) < 4 else np.roll(c, len(c) // 2) for c in plain(*given)]

    around(patch, container, "octaves", change)


def scaled(owner, name, factor):
    """A constant, or a function's result, times a factor."""

    def change(patch):
        plain = getattr(owner, name)
        if callable(plain):
            patch.setattr(owner, name, lambda *given, **named: factor * plain(*given, **named))
        else:
            patch.setattr(owner, name, tuple(factor * v for v in plain) if isinstance(plain, tuple) else factor * plain)

    return change


def attribute(owner, name, factor):
    """What an object keeps from its making, times a factor."""

    def change(patch):
        plain = owner.__init__

        def init(self, *given, **named):
            plain(self, *given, **named)
            setattr(self, name, factor * getattr(self, name))

        patch.setattr(owner, "__init__", init)

    return change


def result(owner, name, change_of):
    """A function's result, changed."""
    return lambda patch: around(patch, owner, name, lambda plain, *given, **named: change_of(plain(*given, **named)))


def no_siren_rule(patch):
    around(patch, WeightSpec, "make", lambda plain, self, o, i, activation, omega0: plain(self, o, i, "relu", omega0))


def softplus_density(patch):
    def trunk(self, x):
        place, unit = self._inner(x)
        out = self.trunk(self.encoding(place))
        return F.softplus(out[:, 0]) / unit, out[:, 1:]

    patch.setattr(RadianceField, "_trunk", trunk)


def density_last(patch):
    def trunk(self, x):
        place, unit = self._inner(x)
        out = self.trunk(self.encoding(place))
        return torch.exp(out[:, -1]) / unit, out[:, :-1]

    patch.setattr(RadianceField, "_trunk", trunk)


def directions_first(patch):
    def colours(self, features, directions):
        return torch.sigmoid(self.head(torch.cat([directions, features], dim=1)))

    patch.setattr(RadianceField, "_colours", colours)


def clamped_colours(patch):
    def colours(self, features, directions):
        return (self.head(torch.cat([features, directions], dim=1)) + 0.5).clamp(0, 1)

    patch.setattr(RadianceField, "_colours", colours)


def axes_backwards(patch):
    around(patch, hashgrid, "look_up", lambda plain, x, *rest: plain(x[:, ::-1].copy(), *rest))


def finer_grids(patch):
    def change(plain, x, table, resolutions, *rest):
        return plain(x, table, np.maximum(resolutions - 1, 1), *rest)

    around(patch, hashgrid, "look_up", change)


def activation(sigma=1.0, omega0=1.0):
    """The numbers of every activation times factors."""
    plain = mlp.Activation
    return lambda patch: patch.setattr(mlp, "Activation", lambda name, s, w: plain(name, sigma * s, omega0 * w))


def leak(patch):
    patch.setitem(network.SLOPES, "leaky_relu", 0.02)
    patch.setitem(layers.FUSED, "leaky_relu", ("leaky_relu", [0.02]))
    for module in (layers, mlp):
        patch.setattr(module, "LEAK", 0.02)


def beta(patch):
    for module in (layers, mlp):
        patch.setattr(module, "BETA", 90.0)


def no_crossings(patch):
    patch.setattr(surface.SurfaceField, "shade", RadianceField.shade)


def other_fit(patch):
    def change(plain, *given):
        found = plain(*given)
        return Normalisation(found.centre, found.scale * 1.001)

    around(patch, Normalisation, "fit", change)


def y_up(patch):
    around(patch, image, "pixel_centres", lambda plain, *given: plain(*given) * torch.tensor([1.0, -1.0]))


def bits_backwards(patch):
    def unpack(packed, shape):
        bits = (packed[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8)) & 1
        return bits.flatten()[: shape.numel()].bool().view(shape)

    patch.setattr(store_fields, "unpack_bits", unpack)


def bias_alone(patch):
    patch.setattr(adapter_fields.AdaptedWeight, "bias", lambda self: self.whole[:, -1])


def plain_rows(patch):
    around(patch, adapter_deltas, "_ratio", lambda plain, magnitude, length: torch.ones_like(length))


def conjugate(patch):
    around(patch, latent_shape, "turned", lambda plain, x, turn: plain(x, (turn[0], -turn[1])))


def halves_mixed(patch):
    def turned(x, turn):
        a, b = x[..., ::2], x[..., 1::2]
        return torch.cat([a * turn[0] - b * turn[1], a * turn[1] + b * turn[0]], dim=-1)

    patch.setattr(latent_shape, "turned", turned)


def offsets_down(patch):
    around(patch, tensors, "decode_uniform", lambda plain, levels, step, offset: plain(levels, step, -offset))


def less_gray(patch):
    for name in ("SVDGraying", "DCTGraying"):
        around(patch, latent_shape, name, lambda plain, epsilon: plain(epsilon * 0.99))


def sides_of_a_code(patch):
    def change(plain, self, codes):
        found = plain(self, codes)
        return {name.translate(str.maketrans("uv", "vu")): part for name, part in found.items()}

    around(patch, SharedField, "changed", change)


def worth_of_levels(patch):
    def change(plain, self, codes):
        return {name: 1.001 * part for name, part in plain(self, codes).items()}

    around(patch, SharedField, "changed", change)


def tables_of_codes(patch):
    around(patch, code, "_table", lambda plain, slope: plain(slope + 1))


LATENT = "shapes_svd.sine"
BOXES = ["radiance.sine", "runs/radiance"]
OTHERS = ["radiance_ndc.sine", "radiance_contracted.sine", "radiance_hash.sine"]
CHANGES = {
    "columns in the ray kernel": (rays_columns, ["radiance.sine", "radiance_ndc.sine"]),
    "columns in the container": (packed_columns, ["shape_octaves.sine"]),
    "frequencies of the encoding": (lambda p: p.setattr(math, "pi", math.pi * 1.001), ["shapes.sine"]),
    "omega from phase": (
        scaled(weights, "omega_from_phase", 1.001),
        ["shape.sine", *BOXES, "image.sine", LATENT],
    ),
    "omega": (attribute(weights.SineLowRank, "omega", 1.001), ["shape_relu.sine"]),
    "gain": (
        attribute(weights.SineLowRank, "gain", 1.001),
        ["shape.sine", "shape_siren.sine", *BOXES, "shapes_svd.sine"],
    ),
    "scale of low rank": (
        attribute(weights.LowRank, "scale", 1.001),
        ["occupancy_lowrank.sine", "shape_siren_lowrank.sine", "radiance_contracted.sine", "shapes_dct.sine"],
    ),
    "rule of sine networks": (no_siren_rule, ["shape_siren.sine", "shape_siren_lowrank.sine"]),
    "sigma": (activation(sigma=1.001), ["occupancy_lowrank.sine", "image.sine"]),
    "omega0": (activation(omega0=1.001), ["shape_siren.sine", "shape_siren_lowrank.sine"]),
    "leak": (leak, ["radiance_ndc.sine"]),
    "beta of softplus": (beta, ["occupancy_dense.sine", "surface.sine"]),
    "density by softplus": (
        softplus_density,
        [*BOXES, *OTHERS],
    ),
    "density from the last channel": (density_last, BOXES),
    "directions before features": (directions_first, [*BOXES, "surface.sine"]),
    "colours without sigmoid": (clamped_colours, BOXES),
    "unit of density": (
        result(RadianceField, "_inner", lambda found: (found[0], torch.ones_like(found[1]))),
        ["radiance_contracted.sine"],
    ),
    "centre and half": (result(RadianceField, "_centre", lambda found: (found[0], found[1] * 1.001)), BOXES),
    "contraction": (
        result(radiance, "contract", lambda found: (found[0] * 1.001, found[1])),
        ["radiance_contracted.sine"],
    ),
    "ndc": (
        result(radiance, "to_ndc", lambda found: (found[0], found[1] * torch.tensor([1.0, -1.0, 1.0]))),
        ["radiance_ndc.sine"],
    ),
    "depths in ndc": (scaled(radiance, "from_ndc", 1.001), ["radiance_ndc.sine"]),
    "length of samples": (
        lambda p: p.setattr(RadianceField, "render_step_size", property(lambda self: 0.1)),
        [*BOXES, "radiance_contracted.sine"],
    ),
    "sphere": (scaled(surface, "SPHERE", 1.001), ["surface.sine", "runs/surface"]),
    "beta of a surface": (attribute(surface.SurfaceField, "beta", 1.001), ["surface.sine", "runs/surface"]),
    "crossings": (no_crossings, ["surface.sine", "runs/surface"]),
    "axes of the hash": (axes_backwards, ["shape_hash.sine", "radiance_hash.sine"]),
    "resolutions of the hash": (finer_grids, ["shape_hash.sine", "radiance_hash.sine"]),
    "place of a shape": (other_fit, ["shape.sine", "occupancy_dense.sine"]),
    "grey": (scaled(image, "GREY", 1.001), ["image.sine", "runs/image"]),
    "rows of an image": (y_up, ["image.sine"]),
    "occupied cells as bits": (bits_backwards, BOXES[1:]),
    "occupied cells": (
        lambda p: around(p, container, "decode_grid", lambda plain, *given: plain(*given)[::-1].copy()),
        ["radiance.sine", "radiance_contracted.sine", "radiance_hash.sine", "surface.sine"],
    ),
    "offsets": (offsets_down, ["adapter_kmeans.sine", "adapter_uniform.sine"]),
    "scale of an adapter": (
        scaled(adapter_deltas.AdapterSpec, "scale", 1.001),
        ["adapter_kmeans.sine", "adapter.safetensors", "edit_of_shape.sine", "edit_of_image.sine"],
    ),
    "lengths of rows": (plain_rows, ["adapter_kmeans.sine", "adapter.safetensors"]),
    "an edit's bias": (bias_alone, ["edit_of_shape.sine", "edit_of_radiance.sine", "edit_of_image.sine"]),
    "kernels of attention": (scaled(latent_shape, "KERNELS", 1.01), ["shapes.sine", "shapes_dct.sine", "runs/shapes"]),
    "waves of attention": (scaled(latent_shape, "WAVES", 1.01), ["shapes.sine", "shapes_svd.sine", "runs/shapes"]),
    "margin of a cloud": (scaled(latent_shape, "MARGIN", 1.01), ["shapes.sine", "runs/shapes"]),
    "turns the other way": (conjugate, ["shapes.sine", "shapes_dct.sine", "shapes_svd.sine"]),
    "pairs of channels": (halves_mixed, ["shapes.sine", "shapes_dct.sine", "shapes_svd.sine"]),
    "sides of a code": (sides_of_a_code, ["code_of_shared.sine"]),
    "what a code's level is worth": (worth_of_levels, ["code_of_shared.sine"]),
    "tables of a code": (tables_of_codes, ["code_of_shared.sine"]),
    "epsilon of graying": (less_gray, ["shapes_dct.sine", "shapes_svd.sine"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_mathematics(name, monkeypatch):
    change, files = CHANGES[name]
    change(monkeypatch)
    unlike(files)
