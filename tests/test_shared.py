"""A network that shapes share and their codes: bytes, mathematics, files, spheres, bad input."""

import struct
import zlib

import numpy as np
import pytest
import second_decoder
import torch
import trimesh

import sinefield as sf
from sinefield.adapters.codes import to_packed_code
from sinefield.adapters.fields import fingerprint
from sinefield.compress.code import LARGEST_SLOPE, REACH, base_of, code_in, code_out, ratios, slopes_for
from sinefield.compress.container import encode
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.shared.field import SharedConfig, SharedField, SharedFieldConfig, SharedTrainingConfig
from sinefield.learning.shared import Samples, fit_code, rounded_base, samples_of, train_base
from sinefield.store.fields import load_field
from sinefield.store.sine_files import save_sine, to_packed

BOX = np.array([-1.0, -2.0, -1.0, 3.0, 1.0, 2.0])


def made(seed=0, **settings):
    """A base whose numbers are drawn."""
    torch.manual_seed(seed)
    field = SharedField(SharedFieldConfig(**{"width": 12, "depth": 3, "frequencies": 2, "rank": 2, **settings}))
    with torch.no_grad():
        field.gains.copy_(torch.randint(-40, -16, field.gains.shape).float())
        field.slopes.copy_(torch.randint(0, LARGEST_SLOPE + 1, field.slopes.shape).float())
    return field


def levels_for(field, seed=0):
    return np.random.default_rng(seed).integers(-3, 4, field.numbers)


# ---- bytes


def test_a_code_takes_the_bits_that_its_tables_say():
    """Against the entropy of two-sided geometric numbers, drawn as differences of geometric ones."""
    rng = np.random.default_rng(0)
    slopes = rng.integers(0, 180, 3000)
    q = ratios(slopes)
    levels = np.clip(rng.geometric(1 - q) - rng.geometric(1 - q), -REACH, REACH)
    chance = (1 - q) / (1 + q) * q ** np.abs(levels)
    ideal = -np.log2(chance).sum() / 8
    code = code_out(0xDEADBEEF, levels, slopes)
    assert base_of(code) == 0xDEADBEEF
    assert (code_in(code, slopes, "code") == levels).all()
    assert len(code) - 8 <= 1.01 * ideal


@pytest.mark.parametrize("mean", [0.05, 0.3, 1.0, 4.0, 20.0])
def test_slopes_suit_their_means(mean):
    q = float(ratios(slopes_for([mean]))[0])
    levels = np.arange(-3000, 3001)
    chance = q ** np.abs(levels)
    assert (chance * np.abs(levels)).sum() / chance.sum() == pytest.approx(mean, rel=0.07)


def test_levels_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="levels"):
        code_out(1, np.array([REACH + 1]), np.array([3]))


# ---- mathematics


def test_a_coded_shape_is_the_formula_by_hand():
    """Matrices after the definition, in NumPy's double precision; the network evaluated point by point."""
    field = made()
    levels = levels_for(field)
    shape = field.shape_of(levels, BOX)
    parts = dict(zip([name for name, _ in field.groups], _split(field, levels), strict=True))
    state = {name: p.detach().double().numpy() for name, p in field.named_parameters()}
    points = np.random.default_rng(1).uniform(-0.9, 0.9, (50, 3))
    phases = [points * np.pi * 2.0**i for i in range(2)]
    h = np.concatenate([points, *map(np.sin, phases), *map(np.cos, phases)], axis=1)
    for i in range(4):
        w, b = state[f"network.weights.{i}.weight"], state[f"network.biases.{i}"]
        if i == 3:
            truth = h @ (w[0] + parts["row"]) + b[0] + parts["bias"][0]
            break
        if i:
            u, v = parts[f"u{i}"].reshape(2, 12), parts[f"v{i}"].reshape(2, 12)
            w = w + sum(np.outer(u[r], state["directions"][i - 1, r] + v[r]) for r in range(2))
        z = (1 + parts[f"s{i}"]) * (h @ w.T + b) + parts[f"t{i}"]
        h = np.where(z > 0, z, 0.01 * z)
    x = torch.from_numpy(points).float()
    np.testing.assert_allclose(shape(x).numpy(), truth, atol=2e-4)
    with torch.no_grad():
        together = field.decode(field.encoding(x)[None], torch.from_numpy(levels).float()[None])[0]
    np.testing.assert_allclose(together.numpy(), truth, atol=2e-4)


def _split(field, levels):
    worth = levels * 2.0 ** (field.gains.detach().double().numpy() / 8)
    return np.split(worth, np.cumsum([n for _, n in field.groups])[:-1])


def test_a_code_of_zeros_is_the_base_itself():
    field = made()
    shape = field.shape_of(np.zeros(field.numbers, np.int64), BOX)
    x = torch.rand(20, 3)
    directions = field.directions.detach().clone()
    assert torch.allclose(shape(x), field(x), atol=1e-5)
    assert torch.equal(directions, field.directions)


# ---- files


@pytest.fixture
def files(tmp_path):
    """A base's file and a code's."""
    field = made()
    base, code = tmp_path / "base.sine", tmp_path / "code.sine"
    save_sine(base, to_packed(field, rounded_base(field), {}))
    field, _ = load_field(base)
    save_sine(code, to_packed_code(field, levels_for(field), BOX))
    return base, code


def test_base_and_code_are_a_shape(files):
    base, code = files
    field = sf.load(base, [code])
    assert field.kind == "shape"
    np.testing.assert_allclose(np.asarray(field.bounds).ravel(), BOX)
    held, _ = load_field(base)
    shape = held.shape_of(levels_for(held), BOX)
    opened, _ = load_field(base, [code])
    for name, tensor in shape.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
    assert sf.load(base).kind == "shared"
    with pytest.raises(SinefieldError, match="give a folder"):
        field.save(base.parent / "shape.sine")
    field.save(base.parent / "run")
    assert sf.load(base.parent / "run").kind == "shape"


def test_a_second_decoder_reads_the_same_levels(files):
    base, code = files
    held, _ = load_field(base)
    slopes = held.slopes.int().tolist()
    box, mark, levels, note = second_decoder.code(code.read_bytes(), slopes)
    assert (levels == levels_for(held)).all() and (box == BOX).all() and note == {}
    assert mark == fingerprint(held)


def test_a_code_alone_or_with_another_base_is_one_line(files, tmp_path):
    _, code = files
    with pytest.raises(SinefieldError, match="code of one shape"):
        sf.load(code)
    other = tmp_path / "other.sine"
    field = made(1)
    save_sine(other, to_packed(field, rounded_base(field), {}))
    with pytest.raises(SinefieldError, match="another base"):
        sf.load(other, [code])
    with pytest.raises(SinefieldError, match="a shape field; give the code's own base"):
        sf.load("example:knot", [code])
    with pytest.raises(SinefieldError, match="one code at most"):
        sf.load(files[0], [code, code])


def _sealed(body):
    """A file's bytes with a checksum that holds."""
    return b"SINE\x02" + struct.pack("<I", zlib.crc32(body)) + body


def test_codes_that_somebody_bent_are_refused_or_are_codes(files, tmp_path):
    base, code = files
    body = code.read_bytes()[9:]
    bent = tmp_path / "bent.sine"
    rng, refused = np.random.default_rng(0), 0
    for i in range(120):
        changed = bytearray(body)
        if i % 3:
            changed[int(rng.integers(len(body)))] ^= int(rng.integers(1, 256))
        else:
            changed = changed[: int(rng.integers(len(body)))]
        bent.write_bytes(_sealed(bytes(changed)))
        try:
            sf.load(base, [bent])
        except SinefieldError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 40


def test_one_layer_has_nothing_to_change():
    with pytest.raises(SinefieldError, match="2 to 16 layers"):
        SharedFieldConfig(depth=1)


def test_bases_with_absurd_tables_are_refused(files, tmp_path):
    field, _ = load_field(files[0])
    bad = tmp_path / "bad.sine"
    with torch.no_grad():
        field.slopes[0] = 300.0
    save_sine(bad, to_packed(field, rounded_base(field), {}))
    held, _ = load_field(bad)
    with pytest.raises(SinefieldError, match="tables"):
        to_packed_code(held, levels_for(held), BOX)


# ---- spheres, whose truth is known


def sphere(radius, tmp_path):
    file = tmp_path / f"{radius}.obj"
    ellipsoid = trimesh.creation.icosphere(3)
    ellipsoid.apply_scale([1.0, radius, radius])
    ellipsoid.export(file)
    return load_surface(str(file))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A base of ellipsoids of revolution (1, r, r), learned twice."""
    folder = tmp_path_factory.mktemp("spheres")
    training = SharedTrainingConfig(
        steps=700, batch=6, queries=128, code_steps=300, code_queries=512, rate=2e-5, code_lr=0.1
    )
    config = SharedConfig(field=SharedFieldConfig(width=24, depth=2, frequencies=2), training=training)
    config.data.points = 4000
    surfaces = [sphere(round(r, 3), folder) for r in np.linspace(0.4, 1.0, 7)]
    parts = [samples_of(surface, config) for surface in surfaces]
    samples = Samples(*(np.concatenate(kind) for kind in zip(*parts, strict=True)))
    contents = []
    for _ in range(2):
        field, quantisers = train_base(config, samples)
        contents.append(encode(to_packed(field, quantisers, {})))
    return config, contents, folder


def test_the_same_base_twice(learned):
    assert learned[1][0] == learned[1][1]


def test_an_unseen_ellipsoid_has_a_short_code(learned):
    config, contents, folder = learned
    base, code = folder / "base.sine", folder / "code.sine"
    base.write_bytes(contents[0])
    field, _ = load_field(base)
    assert isinstance(field, SharedField)
    surface = sphere(0.73, folder)
    levels = [fit_code(field, samples_of(surface, config), config.training, 0) for _ in range(2)]
    assert (levels[0] == levels[1]).all()
    size = save_sine(code, to_packed_code(field, levels[0], surface.aabb))
    points = np.random.default_rng(0).uniform(-1, 1, (20_000, 3))
    truth = points[:, 0] ** 2 + (points[:, 1] ** 2 + points[:, 2] ** 2) / 0.73**2 < 1
    found = sf.load(base, [code]).inside(points)
    assert (found & truth).sum() / (found | truth).sum() > 0.93
    assert size < 250


def test_what_has_no_inside_is_refused(learned, tmp_path):
    config, *_ = learned
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    plane.export(tmp_path / "plane.obj")
    with pytest.raises(SinefieldError, match="closed meshes"):
        samples_of(load_surface(str(tmp_path / "plane.obj")), config)
