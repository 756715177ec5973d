"""Files of an earlier day are read as they were then, and no change of what they mean would pass unseen."""

import itertools
import json
import math

import golden_reading
import numpy as np
import pytest
import second_decoder
import torch
import torch.nn.functional as F
from golden_reading import FOLDER, cells_of, checksum, differences, read

from sinefield.adapters import fields as adapter_fields
from sinefield.adapters import layers as adapter_layers
from sinefield.compress import adapter_table, container, note, quantize, reader, settings, tensors
from sinefield.data.surfaces.surface import Normalisation
from sinefield.errors import SinefieldError
from sinefield.fields.image import field as image
from sinefield.fields.latent import field as latent_shape
from sinefield.fields.radiance import field as radiance
from sinefield.fields.radiance import surface
from sinefield.fields.radiance.field import RadianceField
from sinefield.nn import encodings, fused, hashgrid, tiled, weights
from sinefield.nn.encodings import Frequency, SphericalHarmonics
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import WeightSpec
from sinefield.render import ray_error
from sinefield.store import run as runs

EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
FILES = EXPECTED["files"]
PACKED = [name for name in FILES if name.endswith(".sine")]
FIELDS = [name for name in FILES if FILES[name]["kind"] != "adapter"]
FAR_OFF = 5.0
"""So many times the tolerance a change of meaning must differ by."""


def differ(name, slack=1.0):
    return differences(read(FOLDER, name, EXPECTED["ask"]), FILES[name], slack)


# --- the files


@pytest.mark.parametrize("name", FILES)
def test_it_decodes_to_what_it_did(name):
    assert differ(name) == []


def test_every_file_is_expected_and_all_are_small():
    assert sorted(golden_reading.names_in(FOLDER)) == sorted(FILES)
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    for path in files:  # nothing of the machine that made them
        for word in (b"/tmp", b"/work", b"/home", b"/root"):
            assert word not in path.read_bytes(), path


def test_the_files_have_every_choice():
    have = {}
    for name in FIELDS:
        for key, value in FILES[name]["settings"].items():
            have.setdefault(key, set()).add(value if isinstance(value, str) else str(value))
    for key, values in CHOICES.items():
        assert have[key] == set(values), key
    kinds = {form["kind"] for form in FILES["adapter_kmeans.sine"]["settings"].values()}
    assert kinds == set(ADAPTERS)


@pytest.mark.parametrize("name", PACKED)
def test_the_second_decoder_reads_the_same(name):
    settings, place, values, cells, note = second_decoder.decode((FOLDER / name).read_bytes())
    was = FILES[name]
    found = {key: [list(value.shape), checksum(value)] for key, value in values.items()}
    assert found == was["tensors"] and note == was.get("note", {})
    if was["kind"] != "adapter":
        assert settings == was["settings"]
        if place is not None:
            assert list(place) == was["place"]["size" if was["kind"] == "image" else "aabb"]
        assert cells is None or cells_of(cells) == was["cells"]
    elif "edit" in was["settings"]:
        edit = was["settings"]["edit"]
        box = None if place[2] is None else list(place[2])
        assert settings == was["settings"]["targets"] and (place[0], place[1], box) == (
            *(edit["of"], edit["base"]),
            edit["box"],
        )
    else:
        assert settings == was["settings"]


@pytest.mark.parametrize("name", FIELDS)
def test_another_order_of_sums_is_no_difference(name, monkeypatch):
    def wide(self, x):
        matrices = [weight().double() for weight in self.weights]
        biases, h = [b.double() for b in self.biases], x.double()
        for i in range(len(matrices)):
            h = torch.cat([h, x.double()], 1) if i in self.skips else h
            h = F.linear(h, matrices[i], biases[i])
            h = self.activation(h) if i < len(matrices) - 1 else h
        return h.float()

    monkeypatch.setattr(Frequency, "forward", Frequency.reference)
    monkeypatch.setattr(SphericalHarmonics, "forward", SphericalHarmonics.reference)
    monkeypatch.setattr(hashgrid.HashGrid, "forward", hashgrid.HashGrid.reference)
    monkeypatch.setattr(MLP, "forward", wide)
    monkeypatch.setattr(RadianceField, "one_kernel", False)
    assert differ(name, slack=0.5) == []


# --- what a change would do


def unlike(names):
    """Every one of these files is read otherwise by far, or not at all."""
    for name in names:
        try:
            found = differ(name, FAR_OFF)
        except (SinefieldError, RuntimeError, IndexError, KeyError, ValueError):
            found = ["refused"]
        assert found, name


ACTIVATED = {
    "relu": "shape_relu.sine",
    "leaky_relu": "shape.sine",
    "gaussian": "occupancy_lowrank.sine",
    "sine": "shape_siren.sine",
    "softplus": "occupancy_dense.sine",
}


@pytest.mark.parametrize("pair", list(itertools.combinations(ACTIVATED, 2)), ids="-".join)
def test_two_activations_swapped(pair, monkeypatch):
    plain = fused.Activation.__init__

    def swapped(self, name, *rest):
        plain(self, pair[1 - pair.index(name)] if name in pair else name, *rest)

    monkeypatch.setattr(fused.Activation, "__init__", swapped)
    unlike(ACTIVATED[name] for name in pair)


CHOICES = {
    "weights": ["sine", "lowrank", "dense"],
    "activation": ["relu", "leaky_relu", "gaussian", "sine", "softplus"],
    "represents": ["distance", "occupancy"],
    "loss": ["tanh", "l1", "bce", "mse"],
    "encoding": ["frequency", "hash"],
    "space": ["box", "ndc", "contracted"],
    "density": ["free", "distance"],
    "attention": ["softmax", "x", "x^3"],
    "graying": ["none", "svd", "dct"],
}
"""A choice is stored as its place in this list, whatever the order in the configuration."""
PAIRS = [(setting, *pair) for setting, names in CHOICES.items() for pair in itertools.combinations(names, 2)]


@pytest.mark.parametrize(("setting", "one", "other"), PAIRS)
def test_two_choices_swapped_in_the_table(setting, one, other, monkeypatch):
    names = [{one: other, other: one}.get(name, name) for name in CHOICES[setting]]
    monkeypatch.setitem(settings.FORMS, setting, tuple(names))
    # A file says only what is not usual.
    bases = {"shape": second_decoder.SHAPE, "radiance": second_decoder.RADIANCE}
    bases |= {"image": second_decoder.IMAGE, "shapes": second_decoder.SHAPES}
    said = [n for n in PACKED if FILES[n]["kind"] != "adapter"]
    said = [n for n in said if FILES[n]["settings"].get(setting) in (one, other)]
    said = [n for n in said if FILES[n]["settings"][setting] != bases[FILES[n]["kind"]][setting]]
    assert said
    unlike(said)


@pytest.mark.parametrize("pair", list(itertools.combinations(("sine", "lora", "sine-dora", "dora"), 2)), ids="-".join)
def test_two_kinds_of_adapter_swapped(pair, monkeypatch):
    swap = dict(zip(pair, pair[::-1], strict=True))
    monkeypatch.setattr(adapter_table, "ADAPTER_KINDS", [swap.get(kind, kind) for kind in ADAPTERS])
    unlike(["adapter_kmeans.sine", "adapter_uniform.sine"])


@pytest.mark.parametrize("pair", list(itertools.combinations(("shape", "radiance", "image"), 2)), ids="-".join)
def test_two_kinds_of_edit_swapped(pair, monkeypatch):
    swap = dict(zip(pair, pair[::-1], strict=True))
    monkeypatch.setattr(adapter_table, "EDITED", [swap.get(kind, kind) for kind in EDITED])
    unlike(f"edit_of_{name}.sine" for name in pair)


@pytest.mark.parametrize(
    "pair", list(itertools.combinations(("shape", "radiance", "image", "adapter", "shapes"), 2)), ids="-".join
)
def test_two_kinds_of_file_swapped(pair, monkeypatch):
    swap = dict(zip(pair, pair[::-1], strict=True))
    monkeypatch.setattr(container, "KINDS", {swap.get(kind, kind): number for kind, number in KINDS.items()})
    unlike("adapter_kmeans.sine" if name == "adapter" else f"{name}.sine" for name in pair)


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

        around(patch, encodings, "encode", encode)

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

    around(monkeypatch, encodings, "harmonics", change)
    unlike(["radiance.sine", "runs/radiance", "surface.sine"])


@pytest.mark.parametrize("channel", range(16))
def test_a_harmonic_s_sign(channel, monkeypatch):
    def change(plain, d):
        out = plain(d)
        out[:, channel] *= -1
        return out

    around(monkeypatch, encodings, "harmonics", change)
    unlike(["radiance.sine"])


def rays_columns(patch):
    order, _ = ray_error._columns(FILES["radiance.sine"]["settings"]["frequencies"])
    order = order.clone()
    order[[4, 5]] = order[[5, 4]]
    patch.setattr(ray_error, "_columns", lambda octaves: (order, order.argsort()[:-1]))


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

    patch.setattr(runs, "unpack_bits", unpack)


def bias_alone(patch):
    patch.setattr(adapter_fields.AdaptedWeight, "bias", lambda self: self.whole[:, -1])


def plain_rows(patch):
    around(patch, adapter_layers, "effective", lambda plain, m, s, magnitude, *rest: plain(m, s, None, *rest))


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
    "sigma": (attribute(fused.Activation, "sigma", 1.001), ["occupancy_lowrank.sine", "image.sine"]),
    "omega0": (attribute(fused.Activation, "omega0", 1.001), ["shape_siren.sine", "shape_siren_lowrank.sine"]),
    "leak": (lambda p: p.setitem(tiled.SLOPES, "leaky_relu", 0.02), ["radiance_ndc.sine"]),
    "beta of softplus": (scaled(fused, "BETA", 0.9), ["occupancy_dense.sine", "surface.sine"]),
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
        scaled(adapter_layers.AdapterSpec, "scale", 1.001),
        ["adapter_kmeans.sine", "adapter.safetensors", "edit_of_shape.sine", "edit_of_image.sine"],
    ),
    "lengths of rows": (plain_rows, ["adapter_kmeans.sine", "adapter.safetensors"]),
    "an edit's bias": (bias_alone, ["edit_of_shape.sine", "edit_of_radiance.sine", "edit_of_image.sine"]),
    "kernels of attention": (scaled(latent_shape, "KERNELS", 1.01), ["shapes.sine", "shapes_dct.sine", "runs/shapes"]),
    "waves of attention": (scaled(latent_shape, "WAVES", 1.01), ["shapes.sine", "shapes_svd.sine", "runs/shapes"]),
    "margin of a cloud": (scaled(latent_shape, "MARGIN", 1.01), ["shapes.sine", "runs/shapes"]),
    "turns the other way": (conjugate, ["shapes.sine", "shapes_dct.sine", "shapes_svd.sine"]),
    "pairs of channels": (halves_mixed, ["shapes.sine", "shapes_dct.sine", "shapes_svd.sine"]),
    "epsilon of graying": (less_gray, ["shapes_dct.sine", "shapes_svd.sine"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_mathematics(name, monkeypatch):
    change, files = CHANGES[name]
    change(monkeypatch)
    unlike(files)


# --- the numbers of the format

KINDS = {"shape": 1, "radiance": 2, "image": 3, "adapter": 4, "shapes": 5}
ADAPTERS = ["sine", "lora", "sine-dora", "dora"]
EDITED = ["shape", "radiance", "image"]
WHOLE, NUMBER, YES, LIST = (5, b"\x05"), (0.25, b"\0\0\x80>"), (True, b"\x01"), ([1, 200], b"\x02\x01\xc8\x01")
SETTINGS = {
    **{1: ("width", WHOLE), 2: ("depth", WHOLE), 3: ("skips", LIST), 4: ("weights", CHOICES), 5: ("rank", WHOLE)},
    **{6: ("omega", NUMBER), 7: ("phase", NUMBER), 8: ("bound", NUMBER), 9: ("activation", CHOICES)},
    **{10: ("sigma", NUMBER), 11: ("omega0", NUMBER), 12: ("frequencies", WHOLE), 13: ("represents", CHOICES)},
    **{14: ("band", NUMBER), 15: ("loss", CHOICES), 16: ("features", WHOLE), 17: ("head_width", WHOLE)},
    **{18: ("head_depth", WHOLE), 19: ("grid", WHOLE), 20: ("steps", WHOLE), 21: ("encoding", CHOICES)},
    **{22: ("levels", WHOLE), 23: ("log2_table", WHOLE), 24: ("coarsest", WHOLE), 25: ("finest", WHOLE)},
    **{26: ("space", CHOICES), 27: ("grid_levels", WHOLE), 28: ("cone_angle", NUMBER), 29: ("density", CHOICES)},
    **{30: ("beta", NUMBER), 31: ("points", WHOLE), 32: ("dim", WHOLE), 33: ("tokens", WHOLE), 34: ("heads", WHOLE)},
    **{35: ("blocks", WHOLE), 36: ("expand", WHOLE), 37: ("attention", CHOICES), 38: ("graying", CHOICES)},
    **{39: ("epsilon", NUMBER), 40: ("skip_attention", YES), 41: ("skip_feedforward", YES)},
}
"""By number in a file: the name, and a value with the bytes that it is stored as."""
OF_KIND = {
    "shape": [*range(1, 16), *range(21, 26)],
    "radiance": [*range(1, 13), *range(16, 31)],
    "image": [*range(1, 13), *range(21, 26)],
    "shapes": [*range(4, 9), 13, 14, *range(31, 42)],
}
NONE_TOO = {"omega", "phase"}


def test_numbers_of_kinds():
    assert container.KINDS == KINDS and (container.MAGIC, container.VERSION) == (b"SINE", 2)
    assert list(adapter_table.ADAPTER_KINDS) == ADAPTERS and list(adapter_table.EDITED) == EDITED


def test_a_kind_has_these_settings():
    assert len(settings.SETTINGS) == len(SETTINGS)
    for kind, numbers in OF_KIND.items():
        assert set(settings.BASE[kind]) == {SETTINGS[n][0] for n in numbers}, kind


@pytest.mark.parametrize(("kind", "number"), [(kind, n) for kind, numbers in OF_KIND.items() for n in numbers])
def test_bytes_of_a_setting(kind, number):
    name, form = SETTINGS[number]
    cases = [form] if form is not CHOICES else [(choice, bytes([i])) for i, choice in enumerate(CHOICES[name])]
    if name in NONE_TOO:
        cases = [*cases, (None, None)]
    base = settings.BASE[kind][name]
    for value, data in cases:
        row = bytes([number | 128]) if data is None else bytes([number]) + data
        found = settings.settings_in(kind, reader.Reader(b"\x01" + row))
        assert found == {**settings.BASE[kind], name: value} and type(found[name]) is type(value)
        written = settings.settings_out(kind, {name: value})
        assert written == (b"\0" if value == base else b"\x01" + row)


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_choice_more_is_unknown(kind):
    """Whoever gives a choice a number adds it at the end, here too."""
    for number in OF_KIND[kind]:
        name, form = SETTINGS[number]
        if form is CHOICES:
            with pytest.raises(ValueError, match="is unknown"):
                settings.settings_in(kind, reader.Reader(bytes([1, number, len(CHOICES[name])])))


def test_base_values_are_those_of_version_1():
    for kind in OF_KIND:
        assert settings.BASE[kind] == getattr(second_decoder, kind.upper()), kind
    assert note.NOTE_WORDS == second_decoder.WORDS and quantize.MAX_LEVEL == 1 << 15
