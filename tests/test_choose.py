"""What runs each operation: the register against the machine, and every implementation against its definition."""

import ast
import importlib
import math
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

import sinefield
from sinefield.cameras.cameras import Cameras, orbit
from sinefield.errors import SinefieldError
from sinefield.kernels import choose
from sinefield.kernels.choose import OPERATIONS, Implementation
from sinefield.kernels.inputs import Light, Lines, Places
from sinefield.nn.encodings import Frequency, SphericalHarmonics
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP
from sinefield.nn.point_error import errors
from sinefield.nn.points import farthest_points_reference
from sinefield.nn.weights import WeightSpec
from sinefield.render.march import Grid, March, Samples, first_meeting_reference, march_reference
from sinefield.render.march_nested import march_nested_reference
from sinefield.render.ray_error import lit_reference, ray_error_reference
from sinefield.render.splats import blend_reference
from sinefield.render.volume import composite_reference
from sinefield.transformers.attention import attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RELU = frozenset({"relu"})
EVERY = [(op, one) for op, operation in OPERATIONS.items() for one in operation.known]


@pytest.fixture(autouse=True)
def anew():
    yield choose.forget()
    choose.forget()


def test_the_register_names_what_there_is():
    for op, operation in OPERATIONS.items():
        names = [one.name for one in operation.known]
        assert len(set(names)) == len(names) and choose.DEFINITION not in names, op
        parts = operation.definition.split(".")
        for end in range(len(parts), 0, -1):
            try:
                found = importlib.import_module("sinefield." + ".".join(parts[:end]))
            except ImportError:
                continue
            for name in parts[end:]:
                found = getattr(found, name)
            break
        assert callable(found), operation.definition


@pytest.mark.parametrize(("op", "one"), [(op, one) for op, one in EVERY if one.device == "cpu"])
def test_what_runs_on_the_cpu_is_the_first_that_can(op, one):
    """By reasoning of the test's own: the processor's word for bf16, and the register's order for the rest."""
    flags = torch.cpu.get_capabilities()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        able = []
        for other in OPERATIONS[op].known:
            fits = other.device == "cpu" and not (other.dtypes and dtype not in other.dtypes)
            if other.name == "tiles" and dtype == torch.bfloat16:
                fits = fits and bool(flags.get("avx512_bf16")) and not flags.get("amx_bf16")
            able += [other.name] * fits
        needs = RELU if one.can else frozenset()
        assert choose.choose(op, CPU, dtype, one.gradients, needs=needs).name == [*able, "reference"][0]


def test_needs_and_gradients_pass_on_to_the_next():
    def network(*needs, gradients=1, dtype=torch.float32):
        return choose.choose("network", CPU, dtype, gradients, needs=frozenset(needs))

    assert network("relu").name == network("leaky_relu").name == "tiles"
    for needs in (("sine",), ("relu", "skips"), ("relu", "layers of two dtypes")):
        chosen = network(*needs)
        assert chosen.name == "layers" and "it has no" in chosen.passed["tiles"]
    twice = network("relu", gradients=2)
    assert twice.name == "reference" and set(twice.passed) == {"tiles", "layers"}
    assert "second gradients" in twice.passed["tiles"]
    assert choose.choose("encoding", CPU, gradients=1).name == "reference"
    assert choose.choose("march", torch.device("meta")).name == "reference"


def test_numba_told_of_another_processor_has_no_tiles(monkeypatch):
    from sinefield.kernels.cpu import network

    network.why_not.cache_clear()
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    chosen = choose.choose("network", CPU, gradients=1, needs=RELU)
    assert chosen.name == "layers" and "another processor" in chosen.passed["tiles"]
    network.why_not.cache_clear()


@pytest.mark.parametrize(("op", "one"), EVERY)
def test_a_wish_that_cannot_be_met_is_one_clear_line(op, one, monkeypatch):
    """On the wrong device, and where it was tried and does not work."""
    wrong = CUDA if one.device == "cpu" else CPU
    with pytest.raises(SinefieldError, match=r"does not work here.*use auto") as caught:
        choose.choose(op, wrong, asked=one.name)
    assert f"{one.name} is for" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(one.module, "why_not", lambda dtype: "the fan is broken", raising=False)
    choose.forget()
    dtype = (one.dtypes or (torch.float32,))[0]
    with pytest.raises(SinefieldError, match="the fan is broken") as caught:
        choose.choose(op, torch.device(one.device), dtype, one.gradients, asked=one.name)
    assert str(caught.value).startswith(OPERATIONS[op].setting or op)


def test_an_unknown_wish_is_told_what_there_is():
    with pytest.raises(SinefieldError, match=r"training\.marcher is nerf, .*numba, nerfacc, triton"):
        choose.choose("march", CPU, asked="nerf")


def test_what_is_only_asked_for_is_never_taken_by_itself(monkeypatch):
    tiny = importlib.import_module("sinefield.kernels.cuda.tinycudann")
    monkeypatch.setattr(tiny, "why_not", lambda dtype: None)
    assert choose.choose("network", CUDA, torch.float16, 1, needs=RELU).name == "reference"
    assert choose.choose("network", CUDA, torch.float16, 1, "tinycudann", RELU).name == "tinycudann"


def test_every_choice_of_this_machine_is_listed():
    rows = list(choose.choices())
    assert {row.op for row in rows} == set(OPERATIONS)
    for row in rows:
        assert row.chosen in [one.name for one in OPERATIONS[row.op].known] + ["reference"]
        assert all(row.passed.values())


def test_kernels_stand_on_nothing_but_errors_and_the_machine():
    """And `nn`, `render` and others reach them by the register and what it is given."""
    package = Path(sinefield.__file__).parent
    below = {"errors", "machine", "kernels"}
    doors = {f"sinefield.kernels.{name}" for name in ("choose", "inputs", "levels", "workspace")}
    for path in package.rglob("*.py"):
        inside = path.relative_to(package).parts[0] == "kernels"
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
            if not name.startswith("sinefield"):
                continue
            if inside:
                assert name.split(".")[1] in below, (path, name)
            elif name.startswith("sinefield.kernels.cpu") and path.parent.name in ("nn", "render", "cameras"):
                # The one loop that has no other form: see render/surface.py.
                assert name == "sinefield.kernels.cpu.surface", (path, name)
            elif name.startswith("sinefield.kernels.") and path.parent.name in ("nn", "render", "cameras"):
                assert name in doors, (path, name)


# Every implementation on the CPU, and on CUDA where there is one, against the definition on a small random problem.


def rays(n, generator):
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1) * 3
    return o, torch.nn.functional.normalize(torch.rand(n, 3, generator=generator) - 0.5 - o, dim=1)


def gradients(out, *inputs):
    total = sum((x * torch.linspace(-1, 2, x.numel(), device=x.device).view_as(x)).sum() for x in out)
    return [*(x.detach() for x in out), *torch.autograd.grad(total, inputs)]


def a_network(dtype, device, n_in=13, n_out=4):
    torch.manual_seed(0)
    net = MLP(n_in, n_out, 24, 3, WeightSpec("dense"), "relu").to(device)
    net.dtype = dtype
    return net


def a_march(generator, device, levels=1):
    o, d = rays(200, generator)
    cells = torch.rand(8 * levels, 8, 8, generator=generator) < 0.4
    solid = cells & (torch.rand(cells.shape, generator=generator) < 0.1)
    grid = Grid(*(x.to(device) for x in (torch.tensor([-1.0, -1, -1, 1, 1, 1]), cells, solid)), levels)
    return o.to(device), d.to(device), grid, torch.rand(200, generator=generator).to(device)


def try_network(run, dtype, device, generator):
    net = a_network(dtype, device)
    x = torch.randn(150, 13, generator=generator).to(device, dtype).requires_grad_()
    wanted = [x, *net.parameters()]
    return gradients([run(x, net.tensors())], *wanted), gradients([net.reference(x)], *wanted)


def try_point_error(run, dtype, device, generator):
    net = a_network(dtype, device)
    x = torch.randn(150, 13, generator=generator).to(device, dtype).requires_grad_()
    target, wanted = torch.randn(150, 4, generator=generator).to(device), [x, *net.parameters()]
    ours = gradients([run(x, target, net.tensors(), "tanh", 1.3)], *wanted)
    return ours, gradients([errors(net.reference(x), target, "tanh", 1.3).sum()], *wanted)


def try_ray_error(run, dtype, device, generator):
    o, d, grid, jitter = a_march(generator, device)
    samples = Samples(*march_reference(o, d, grid._replace(solid=None), March(0.05), jitter))
    trunk, head = a_network(dtype, device, 27, 6), a_network(dtype, device, 21, 3)
    lines = Lines(o, d, torch.zeros(3, device=device), torch.tensor(1.0, device=device), 4)
    directions = SphericalHarmonics().reference(d).to(dtype)
    background, target = torch.rand(2, 200, 3, generator=generator).to(device)
    light = Light(torch.ones(1, device=device), 12.0, directions, background, target)
    wanted = [*trunk.parameters(), *head.parameters()]
    ours = gradients([run(lines, samples, trunk.tensors(), head.tensors(), light)], *wanted)
    return ours, gradients([ray_error_reference(trunk, head, lines, samples, light)], *wanted)


def try_lit(run, dtype, device, generator):
    o, d, grid, jitter = a_march(generator, device)
    samples = Samples(*march_reference(o, d, grid._replace(solid=None), March(0.05), jitter))
    grid = HashGrid(levels=4, log2_table=9, coarsest=4, finest=50).to(device)
    torch.nn.init.normal_(grid.table)
    trunk, unit, place = a_network(dtype, device, 8, 6), torch.full((1,), 3.0, device=device), samples.points(o, d)
    seen, given = grid.reference(place).detach().to(dtype), Places(place, grid.table, grid.given)
    # Where light just ends, rounding decides.
    fewer, truth, more = (lit_reference(trunk, seen, unit, 12.0, samples, least) for least in (0.102, 0.1, 0.098))
    found, _ = run(given, samples, trunk.tensors(), unit, 12.0, -math.log(0.1))
    assert 0.1 < float(truth.float().mean()) < 0.9 and bool((fewer <= found).all() and (found <= more).all())
    return [found.float()[fewer == more]], [truth.float()[fewer == more]]


def try_encoding(run, dtype, device, generator):
    x = (torch.rand(100, 3, generator=generator) * 2 - 1).to(device)
    return [run(x, 5)], [Frequency(3, 5).to(device).reference(x)]


def try_harmonics(run, dtype, device, generator):
    _, d = rays(100, generator)
    return [run(d.to(device))], [SphericalHarmonics().reference(d.to(device))]


def try_hashgrid(run, dtype, device, generator):
    grid = HashGrid(levels=4, log2_table=9, coarsest=4, finest=50).to(device)
    torch.nn.init.normal_(grid.table)
    x = (torch.rand(300, 3, generator=generator) * 2.2 - 1.1).to(device)
    ours = gradients([run(x, grid.table, grid.given)], grid.table)
    return ours, gradients([grid.reference(x)], grid.table)


def try_farthest_points(run, dtype, device, generator):
    points = torch.randn(3, 200, 3, generator=generator)
    return [run(points, 15)], [farthest_points_reference(points, 15)]


def try_march(run, dtype, device, generator):
    o, d, grid, jitter = a_march(generator, device)
    settings = March(0.041, near_plane=0.2, far_plane=4.5, max_samples=3000)
    return run(o, d, grid, settings, jitter), march_reference(o, d, grid, settings, jitter)


def try_march_nested(run, dtype, device, generator):
    o, d, grid, jitter = a_march(generator, device, levels=2)
    settings = March(0.0625, cone_angle=0.0, near_plane=0.25)
    ours, truth = run(o, d, grid, settings, jitter), march_nested_reference(o, d, grid, settings, jitter)
    # Rounding may move a midpoint across a wall: the occupied lengths of nearly all rays agree.
    same = ours[3][:, 1] == truth.packed_info[:, 1]
    assert float(same.float().mean()) > 0.97
    return [ours[1][same[ours[0]]]], [truth.t_starts[same[truth.ray_indices]]]


def try_first_meeting(run, dtype, device, generator):
    o, d, grid, _ = a_march(generator, device)
    return [run(o, d, grid, March(0.05))], [first_meeting_reference(o, d, grid, March(0.05))]


def try_sample_points(run, dtype, device, generator):
    o, d, grid, jitter = a_march(generator, device)
    samples = march_reference(o, d, grid, March(0.05), jitter)
    middle = (samples.t_starts + samples.t_ends)[:, None] / 2
    return [run(o, d, *samples[:3])], [o[samples.ray_indices] + middle * d[samples.ray_indices]]


def try_composite(run, dtype, device, generator):
    o, d, grid, jitter = a_march(generator, device)
    samples = Samples(*march_reference(o, d, grid, March(0.05), jitter))
    n = len(samples.t_starts)
    sigmas, colours = (torch.rand(n, k, generator=generator).to(device) * 5 for k in (1, 3))
    sigmas, colours = sigmas[:, 0].requires_grad_(), colours.requires_grad_()
    ours = gradients(run(sigmas, colours, samples), sigmas, colours)
    return ours, gradients(composite_reference(sigmas, colours, samples), sigmas, colours)


def try_camera_rays(run, dtype, device, generator):
    poses = orbit(5, radius=3.0).float()
    cameras = Cameras(poses, torch.full((5, 2), 50.0), torch.full((5, 2), 20.0), torch.zeros(5, 4), 40, 40)
    local, index = torch.randn(60, 3, generator=generator), torch.randint(5, (60,), generator=generator)
    return run(local, index, cameras.c2w), cameras._leave(index, local)


def try_splats(run, dtype, device, generator):
    centres, opacities = torch.rand(40, 2, generator=generator) * 30, torch.rand(40, generator=generator)
    conics = torch.rand(40, 3, generator=generator) * torch.tensor([0.5, 0.1, 0.5]) + torch.tensor([0.2, 0.0, 0.2])
    colours = torch.rand(40, 3, generator=generator)
    wanted = [x.to(device, dtype).requires_grad_() for x in (centres, conics, colours, opacities)]
    reach = torch.full((40, 2), 6.0, device=device, dtype=dtype)
    ours = gradients(run(*wanted, reach, 24, 31), *wanted)
    return ours, gradients(blend_reference(*wanted, reach, 24, 31), *wanted)


def try_attention(run, dtype, device, generator):
    q, k, v = (torch.randn(1, 2, 70, 20, generator=generator).to(device).requires_grad_() for _ in range(3))
    factor = torch.full((1,), 70**-0.5, device=device)
    ours = gradients([run(q, k, v, factor, 3, None, True, 20**-0.5)], q, k, v)
    return ours, gradients([attention(q, k, v, 3, causal=True, method="quadratic")], q, k, v)


def try_true_distance(run, dtype, device, generator):
    import sinefield as sf
    from sinefield.plain.quick import made_of

    truth = sf.load("example:knot")._true_distance()
    points = (torch.rand(500, 3, generator=generator) * 3 - 1.5).double().numpy()
    values, ways = np.empty(500), np.empty((500, 3))
    left = run(*made_of(truth))(points, values, ways)
    assert not left[((points > truth.low) & (points < truth.high)).all(axis=1)].any()
    definition = truth.sdf(points[left == 0], gradient=True)
    # A walk may end elsewhere than at the nearest place, halfway between two of them.
    same = (ways[left == 0] * definition[1]).sum(axis=1) > 0.99999
    assert same.mean() > 0.9
    ours = [torch.from_numpy(x[left == 0][same]) for x in (values, ways)]
    return ours, [torch.from_numpy(x[same]) for x in definition]


def close_for(one: Implementation, dtype: torch.dtype) -> float:
    return 5e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-3


@pytest.mark.parametrize(
    ("op", "one"),
    [
        pytest.param(op, one, id=f"{op}-{one.name}", marks=[pytest.mark.cuda] if one.device == "cuda" else [])
        for op, one in EVERY
    ],
)
def test_every_implementation_is_its_definition(op, one, generator):
    if one.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; tests/test_triton.py and test_tcnn.py try them on the CPU")
    for dtype in one.dtypes or (torch.float32,):
        why = choose.why_not(one, one.device, dtype)
        if why and "AMX" not in why:  # that something else is faster does not keep it from running
            pytest.skip(why)
        ours, truth = globals()[f"try_{op}"](one.function, dtype, torch.device(one.device), generator)
        for a, b in zip(ours, truth, strict=True):
            assert a.shape == b.shape
            a, b = a.double(), b.double()
            if not torch.isfinite(b).all():
                assert torch.equal(a.isfinite(), b.isfinite())
                a, b = (x.nan_to_num(posinf=0.0) for x in (a, b))
            assert float((a - b).norm()) <= close_for(one, dtype) * float(b.norm()) + 1e-6, op
