"""Quantisers, the coder and the `.sine` file: against entropy, a second decoder, and whoever damages files."""

import math
import resource
import zlib

import numpy as np
import pytest
import second_decoder
import torch

from sinefield.compress.container import VERSION, decode, encode
from sinefield.compress.entropy import Decoder, Encoder, fit_table, frequencies, shares
from sinefield.compress.grid import decode_grid, encode_grid
from sinefield.compress.quantize import Bank, Codebook, Uniform, kmeans, laplace_bits_gradient
from sinefield.config import make_config
from sinefield.data.surfaces.surface import Normalisation
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.store.sine_files import _shapes, from_packed, load_packed, save_sine, to_packed


def shape_field(box=(-1, -2, -3, 1, 2, 3), **settings):
    config = make_config({"kind": "shape", "field": settings, "data": {"path": "-"}}, "test").field
    normal = Normalisation.fit(np.array(box, float))
    torch.manual_seed(0)
    return ShapeField(
        config,
        torch.tensor(normal.centre).double(),
        torch.tensor(normal.scale).double(),
        torch.tensor(box, dtype=torch.float64),
    )


def radiance_field(**settings):
    config = make_config({"kind": "radiance", "field": settings, "data": {"path": "-"}}, "test").field
    torch.manual_seed(0)
    field = RadianceField(config, torch.tensor([-1.0, -1, -1, 1, 1, 1]))
    x = field.grid.centres().view(*field.grid.binaries.shape, 3)
    field.grid.binaries.copy_((x.norm(dim=-1) < 0.7) & (x.norm(dim=-1) > 0.4))
    field.background.fill_(1.0)
    return field


def quantised(field, make=lambda p: Uniform(p, step=0.02)):
    return {name: make(p) for name, p in field.named_parameters()}


SMALL = {"width": 12, "depth": 3, "rank": 3, "frequencies": 2}


# --- the coder


@pytest.mark.parametrize(
    ("n", "centre", "slope", "bend"), [(1, 0, 3, 9), (2, 1, 0, 0), (300, 20, 40, 32), (9, 4, 255, 255)]
)
def test_tables_are_distributions(n, centre, slope, bend):
    table = frequencies(n, centre, slope, bend)
    assert sum(table) == 1 << 24 and min(table) >= 1 and len(table) == n
    assert max(table) == table[centre]


def test_table_shapes_have_their_closed_forms():
    geometric = np.array(frequencies(41, 20, 0, 255), float)
    np.testing.assert_allclose(geometric[21:35] / geometric[20:34], 0.5, rtol=0.02)
    gaussian = np.array(frequencies(41, 20, 32, 24), float)  # q = 1 − 1/32, c = 1 − 1/16: variance about 16
    k = np.arange(-20, 21)
    assert abs((gaussian @ k**2) / gaussian.sum() - 16) < 1
    np.testing.assert_allclose(np.array(frequencies(8, 3, 255, 255)), (1 << 24) / 8, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0, 60.0])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_coding_costs_about_the_entropy(scale, kind):
    rng = np.random.default_rng(0)
    x = np.round(getattr(rng, kind)(0, scale, 20_000)).astype(np.int64)
    low, n = x.min(), int(np.ptp(x)) + 1
    centre, slope, bend, bits = fit_table(x - low, n, int(-low))
    encoder = Encoder()
    encoder.put(x - low, table := frequencies(n, centre, slope, bend))
    data = encoder.finish()
    assert abs(len(data) - bits / 8) < 9
    share = np.bincount(x - low) / len(x)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum() * len(x)
    assert bits < 1.03 * entropy + 100  # rounding a Laplace variable raises its middle, which no table of ours does
    decoder = Decoder(data, "test")
    np.testing.assert_array_equal(decoder.take(len(x), table) + low, x)
    decoder.finish()


def test_many_parts_in_one_stream():
    rng = np.random.default_rng(1)
    parts = [(rng.integers(0, n, m), frequencies(n, n // 2, 20, 12)) for n, m in ((3, 50), (1, 7), (200, 0), (17, 400))]
    bits, ones = rng.integers(0, 2, 90), rng.integers(1, (1 << 24) - 1, 90)
    encoder = Encoder()
    for symbols, table in parts:
        encoder.put(np.minimum(symbols, len(table) - 1), table)
    encoder.put_bits(bits, ones)
    decoder = Decoder(encoder.finish(), "test")
    for symbols, table in parts:
        np.testing.assert_array_equal(decoder.take(len(symbols), table), np.minimum(symbols, len(table) - 1))
    np.testing.assert_array_equal(decoder.take_bits(shares(ones)), bits)
    decoder.finish()
    with pytest.raises(SinefieldError, match="more than the field needs"):
        Decoder(np.arange(1, 9, dtype="<u4").tobytes(), "test").finish()


def test_grid_round_trip_is_small():
    axis = np.linspace(-1, 1, 64)
    r = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    cells = (r < 0.8) & (r > 0.7)
    encoder = Encoder()
    table = encode_grid(encoder, cells)
    data = encoder.finish()
    assert len(data) < 64**3 / 8 / 10  # a tenth of plain bits
    np.testing.assert_array_equal(decode_grid(Decoder(data, "test"), cells.shape, table), cells)


# --- quantisers


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_uniform_levels(bits, per_row, affine):
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 20)[:, None]
    q = Uniform(x, bits=bits, per_row=per_row, affine=affine)
    values, levels = q.values(), q.levels()
    assert np.ptp(levels) < 2**bits and q.step.shape == ((20, 1) if per_row else ())
    groups = values if per_row else values.reshape(1, -1)
    assert all(len(row.unique()) <= 2**bits for row in groups)
    if bits == 8:  # within half a step of the extremes, but for what clipping costs less than wider steps
        assert ((values - x).abs() <= q.step * 0.51 + 0.05 * x.abs()).all()
    if bits > 1:
        finer = Uniform(x, bits=bits, per_row=True, affine=affine)
        assert (finer.values() - x).square().mean() <= (values - x).square().mean() * 1.001


def test_kmeans_beats_uniform_steps_on_clusters():
    rng = np.random.default_rng(0)
    centres = np.array([-3.0, -0.2, 0.1, 2.0])
    x = torch.from_numpy((rng.choice(centres, 500) + rng.normal(0, 0.01, 500)).astype(np.float32))
    book = Codebook(x, bits=2)
    np.testing.assert_allclose(book.entries.numpy(), centres, atol=0.02)
    assert (book.values() - x).square().mean() < 0.1 * (Uniform(x, bits=2, affine=True).values() - x).square().mean()
    entries, labels = kmeans(np.array([1.0, 1.0, 1.0], np.float32), 4)
    assert len(entries) == 1 and labels.tolist() == [0, 0, 0]


def test_straight_through_gradients_fit_a_target():
    target = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    q = Uniform(target * 1.3, step=0.4)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.02)
    start = float((q.values() - target).square().sum())
    for _ in range(300):
        q.backward(2 * (q.values() - target), 0.0)
        optimizer.step()
    assert float((q.values() - target).square().sum()) < 0.2 * start


def test_gradient_of_the_step_is_its_derivative():
    x = torch.tensor([0.31, -1.27, 0.88, 5.0])
    q = Uniform(x, step=0.25)
    q.bits = 4  # levels −8 … 7: the last entry is clipped
    grad = torch.tensor([1.0, 2.0, -1.0, 0.5])
    q.backward(grad, 0.0)
    s = float(q.step)
    levels = torch.tensor(q.levels())
    expected = (grad * torch.where(levels < 7, levels - x / s, levels.float())).sum() * s
    torch.testing.assert_close(q.log_step.grad, expected)
    assert q.latent.grad.tolist() == [1.0, 2.0, -1.0, 0.0]


def test_bits_gradient_is_that_of_its_estimate():
    x, log_step = torch.randn(50, dtype=torch.float64).requires_grad_(), torch.tensor(-1.0).double().requires_grad_()
    bits = 50 * torch.log2(1 + 2 * math.e * (x / log_step.exp()).abs().mean())
    of_x, of_step = torch.autograd.grad(bits, (x, log_step))
    latent, scaled = laplace_bits_gradient(x.detach(), log_step.detach().exp())
    torch.testing.assert_close(latent, of_x)
    torch.testing.assert_close(scaled.sum(), of_step)


def test_a_bank_is_its_quantisers_one_by_one():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((8, 33), (8,), (1, 8), (), (4, 4))]
    columns = [np.arange(10), np.arange(10, 33)]
    alone = [Uniform(t, step=0.1 + 0.1 * i, groups=columns if i == 0 else None) for i, t in enumerate(tensors)]
    alone[-1] = Uniform(tensors[-1], bits=2)  # which clips
    bank = Bank([Uniform(q.latent, step=q.step, groups=q.groups) for q in alone[:-1]] + [Uniform(tensors[-1], bits=2)])
    for move in (0.0, 0.3):
        grads = [torch.randn(t.shape, generator=generator) for t in tensors]
        for one, other in zip(alone, bank.members, strict=True):
            one.latent.data += move
            other.latent.data += move  # as optimisers do
            other.log_step.data -= move
            one.log_step.data -= move
        values = bank.values()
        bank.backward(grads, 0.02)
        for one, other, value, grad in zip(alone, bank.members, values, grads, strict=True):
            one.backward(grad, 0.02)
            assert torch.equal(one.values(), value) and torch.equal(other.values(), value)
            torch.testing.assert_close(other.latent.grad, one.latent.grad)
            torch.testing.assert_close(other.log_step.grad, one.log_step.grad, rtol=1e-4, atol=1e-5)
    assert not Bank.takes(Uniform(tensors[0], bits=4, per_row=True)) and not Bank.takes(Codebook(tensors[0], 3))


def test_codebook_gradients_are_means_over_clusters():
    book = Codebook(torch.tensor([0.0, 0.0, 1.0]), bits=1)
    book.backward(torch.tensor([1.0, 3.0, 5.0]), 0.0)
    assert book.codebook.grad.tolist() == [2.0, 5.0]


# --- the file

HASHED = {"encoding": "hash", "levels": 4, "log2_table": 7, "coarsest": 3, "finest": 24}
CASES = {
    "sine": lambda: quantised(shape_field(**SMALL)),
    "dense": lambda: quantised(shape_field(**SMALL, weights="dense", skips=[1], omega0=12.5)),
    "plain, bce": lambda: quantised(shape_field(**SMALL, weights="lowrank", represents="occupancy", loss="bce")),
    "omega": lambda: quantised(shape_field(**SMALL, omega=60.0)),
    "codebooks": lambda: quantised(shape_field(**SMALL), lambda p: Codebook(p, 3)),
    "rows": lambda: quantised(shape_field(**SMALL), lambda p: Uniform(p, bits=4, per_row=True, affine=True)),
    "hash": lambda: quantised(shape_field(**SMALL, **HASHED)),
    "far": lambda: quantised(shape_field((1e6, 0, 0, 1e6 + 1, 1, 1), **SMALL)),
    "all zero": lambda: quantised(shape_field(**SMALL), lambda p: Uniform(p, step=1e6)),
}


def fields_of(name):
    settings = {
        "dense": {"weights": "dense", "skips": [1], "omega0": 12.5},
        "plain, bce": {"weights": "lowrank", "represents": "occupancy", "loss": "bce"},
        "omega": {"omega": 60.0},
        "hash": HASHED,
    }.get(name, {})
    box = (1e6, 0, 0, 1e6 + 1, 1, 1) if name == "far" else (-1, -2, -3, 1, 2, 3)
    return shape_field(box, **SMALL, **settings)


@pytest.mark.parametrize("name", CASES)
def test_a_second_decoder_reads_the_same(name, tmp_path):
    field, quantisers = fields_of(name), CASES[name]()
    packed = to_packed(field, quantisers, {"seed": 3, "steps": 7})
    size = save_sine(tmp_path / "a.sine", packed)
    data = (tmp_path / "a.sine").read_bytes()
    assert len(data) == size == packed.sizes["total"]
    back, note = from_packed(load_packed(tmp_path / "a.sine"), "a.sine")
    assert note == {"seed": 3, "steps": 7} and back.config == field.config
    settings, box, values, _, second_note = second_decoder.decode(data)
    assert settings == load_packed(tmp_path / "a.sine").settings and second_note == note
    np.testing.assert_array_equal(box, back.aabb.numpy())
    assert values.keys() == dict(back.named_parameters()).keys()
    for key, parameter in back.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), values[key])
        np.testing.assert_array_equal(parameter.numpy(), quantisers[key].values().numpy())
    torch.testing.assert_close(back.scale, field.scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "space", [{}, {"space": "ndc"}, {"space": "contracted", "grid_levels": 3, "cone_angle": 0.004}, {"grid_levels": 2}]
)
def test_a_second_decoder_reads_radiance(tmp_path, space):
    field = radiance_field(width=12, rank=3, depth=3, frequencies=2, features=4, head_width=8, grid=12, **space)
    if space:
        field.frame.copy_(torch.arange(1.0, 16.0) / 7)
    save_sine(tmp_path / "r.sine", to_packed(field, quantised(field), {}))
    back, _ = from_packed(load_packed(tmp_path / "r.sine"), "r.sine")
    _, _, values, cells, _ = second_decoder.decode((tmp_path / "r.sine").read_bytes())
    np.testing.assert_array_equal(cells, field.grid.binaries.numpy())
    assert torch.equal(back.grid.binaries, field.grid.binaries) and torch.equal(back.view, field.view)
    assert back.config == field.config and torch.equal(back.frame, field.frame) == ("space" in space or not space)
    for key, parameter in back.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), values[key])


def test_sizes_add_up():
    field = shape_field(**SMALL)
    packed = to_packed(field, quantised(field), {"seed": 1})
    data = encode(packed)
    parts = packed.sizes["header"] + packed.sizes["note"] + packed.sizes["tensors"]
    assert 0 <= len(data) - parts < 9  # the coder ends on a word
    assert packed.sizes["header"] < 60


def test_a_megabyte_decodes_in_sensible_work():
    field = shape_field(width=1000, depth=2, weights="dense", frequencies=5)
    data = encode(to_packed(field, quantised(field, lambda p: Uniform(p, bits=8)), {}))
    assert len(data) > 900_000
    assert decode(data, _shapes, "big").tensors["network.weights.1.weight"].levels.shape == (1000, 1000)


# --- damage


@pytest.fixture(scope="module")
def good():
    field = radiance_field(width=12, rank=3, depth=3, frequencies=2, features=4, head_width=8, grid=12)
    shape = shape_field(**SMALL)
    return [
        encode(to_packed(shape, quantised(shape), {"seed": 3})),
        encode(to_packed(shape, quantised(shape, lambda p: Codebook(p, 3)), {"seed": 3})),
        encode(to_packed(field, quantised(field), {"steps": 5})),
    ]


def refused(data, match="bad.sine"):
    with pytest.raises(SinefieldError, match=match) as error:
        decode(data, _shapes, "bad.sine")
    assert "\n" not in str(error.value) and str(error.value).startswith("bad.sine")


def sealed(body, version=VERSION):
    """A body with a checksum that holds."""
    return b"SINE" + bytes([version]) + zlib.crc32(bytes(body)).to_bytes(4, "little") + bytes(body)


def test_truncated_at_any_byte(good):
    for data in good[:2]:
        for end in range(len(data)):
            refused(data[:end])


def test_any_bit_flipped(good):
    for at in range(8 * len(good[0])):
        data = bytearray(good[0])
        data[at // 8] ^= 1 << at % 8
        refused(bytes(data))


def test_lies_are_refused(good, tmp_path):
    shape = good[0]
    refused(b"ELF!" + shape[4:], "not a .sine file")
    refused(shape[:4] + bytes([VERSION + 1]) + shape[5:], "version 3")
    refused(shape[:4] + b"\0" + shape[5:], "version 0")
    refused(shape + b"\0", "checksum")
    refused(sealed(shape[9:] + b"\0\0\0\1"))
    field = shape_field(**SMALL)
    for claim in ({"width": 8192}, {"depth": 60, "width": 1000}, {"weights": "dense", "width": 4000}):
        packed = to_packed(field, quantised(field), {})
        packed.settings |= claim
        refused(encode(packed), "claims")
    packed.settings["width"] = 1 << 19
    refused(encode(packed), "8192")
    cube = radiance_field(width=12, rank=3, depth=3, frequencies=2, features=4, head_width=8, grid=12)
    packed = to_packed(cube, quantised(cube), {})
    packed.settings["grid"] = 512
    refused(encode(packed), "claims")
    for place, value in ((9, 1e9), (6, -1.0), (0, math.nan), (7, 90.0)):
        packed = to_packed(cube, quantised(cube), {})
        packed.view = packed.view.copy()
        packed.view[place] = value
        refused(encode(packed), "camera path")
    for note in ({"seconds": "long"}, {"iou": [1]}, {"data": 3}, {"psnr": ["a", "b"]}):
        refused(encode(to_packed(field, quantised(field), note)), "wrong kind")
    # a codebook that is asked for an entry it does not have: the first tensor's least level
    packed = to_packed(field, quantised(field, lambda p: Codebook(p, 3)), {})
    next(iter(packed.tensors.values())).levels += 3
    refused(encode(packed), "asked for entry")
    (tmp_path / "photo.sine").write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(SinefieldError, match="is not a"):
        load_packed(tmp_path / "photo.sine")
    (tmp_path / "empty.sine").write_bytes(b"")
    with pytest.raises(SinefieldError, match="empty"):
        load_packed(tmp_path / "empty.sine")


def mutations(good, n, seed=0):
    """Files damaged in many ways; most with a checksum that holds, so that what lies behind it is reached."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        body = bytearray(good[rng.integers(len(good))][9:])
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(len(body))) if rng.random() < 0.4 else int(rng.integers(min(len(body), 150)))
            kind = rng.integers(6)
            if kind == 0:
                body[at] = rng.integers(256)
            elif kind == 1:
                body[at] ^= 1 << rng.integers(8)
            elif kind == 2:
                body[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x80\x80\x80\x01", b"\x00\x00\x80\x7f"])
            elif kind == 3:
                del body[at : at + rng.integers(1, 9)]
            elif kind == 4:
                body[at:at] = rng.bytes(rng.integers(1, 9))
            else:
                other = good[rng.integers(len(good))][9:]
                body[at:] = other[at:]
            if not body:
                body = bytearray(b"\0")
        yield sealed(body, rng.choice([1, 2, 2, 2])) if rng.random() < 0.9 else b"SINE" + rng.bytes(5) + bytes(body)


def survive(good, n, seed):
    opened = 0
    for data in mutations(good, n, seed):
        try:
            packed = decode(data, _shapes, "bad.sine")
            from_packed(packed, "bad.sine")
            opened += 1  # a changed level or step is still a field
        except SinefieldError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
    return opened


def test_damaged_files_are_one_line(good):
    assert survive(good, 600, 0) < 600


@pytest.mark.slow
def test_twenty_thousand_damaged_files(good):
    survive(good, 200, 1)  # what stays allocated is allocated now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    survive(good, 20_000, 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
