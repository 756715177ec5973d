"""Which implementation of an operation runs: the one place that asks what this machine can do.

An operation is defined in plain torch, by a function of `nn`, `render`, `cameras` or `transformers`; the register has
the faster ones for some devices, in order of preference. Whether one works here is found by trying it, once a process
(its module's `why_not`), never by guessing from versions. `sinefield doctor` prints the choices of this machine.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch

from sinefield.errors import SinefieldError

DEFINITION = "reference"
"""The name of an operation's definition in torch, which runs anywhere."""
FLOAT32, BOTH = (torch.float32,), (torch.float32, torch.bfloat16)


class Implementation(NamedTuple):
    """One way to run an operation.

    Attributes:
        name: as wishes and reports have it.
        device: the type of device that it is for.
        place: module and function, below `sinefield.kernels`.
        dtypes: of the operation's numbers; any where there is none.
        gradients: how many derivatives it gives.
        can: needs of a call, of those that the operation may have, that it meets.
        asked_for: it is taken only where a setting names it.
    """

    name: str
    device: str
    place: str
    dtypes: tuple[torch.dtype, ...] = ()
    gradients: int = 1
    can: frozenset[str] = frozenset()
    asked_for: bool = False

    @property
    def compiles(self) -> bool:
        """Whether numba compiles it when it first runs on a machine."""
        return self.device == "cpu" and self.place != "cpu.layers:network"

    @property
    def module(self) -> Any:
        return importlib.import_module("sinefield.kernels." + self.place.split(":")[0])

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(self.module, self.place.split(":")[1])


class Operation(NamedTuple):
    """What there is for an operation besides its definition.

    Attributes:
        known: its implementations, the best first.
        setting: the setting that a wish comes from.
        definition: where the definition is, for reports.
    """

    known: tuple[Implementation, ...]
    definition: str
    setting: str = ""


class Choice(NamedTuple):
    """An implementation's name and function, None for the definition; why each better one is not taken; and where
    numba compiles it, what notes of stored kernels call it."""

    name: str
    function: Callable[..., Any] | None
    passed: dict[str, str]
    stored_as: str | None = None


RECTIFIED = frozenset({"relu", "leaky_relu"})
LAYERED = RECTIFIED | {"softplus", "gaussian", "sine", "skips", "layers of two dtypes"}

OPERATIONS: dict[str, Operation] = {
    "network": Operation(
        (
            Implementation("tiles", "cpu", "cpu.network:network", BOTH, can=RECTIFIED),
            Implementation("layers", "cpu", "cpu.layers:network", can=LAYERED),
            Implementation("tinycudann", "cuda", "cuda.tinycudann:network", (torch.float16,), 1, RECTIFIED, True),
        ),
        "nn.mlp.MLP.reference",
        "training.backend",
    ),
    "point_error": Operation(
        (Implementation("tiles", "cpu", "cpu.network:point_error", BOTH, can=RECTIFIED),), "nn.point_error.errors"
    ),
    "ray_error": Operation(
        (Implementation("tiles", "cpu", "cpu.network:ray_error", BOTH, can=RECTIFIED),),
        "render.ray_error.ray_error_reference",
    ),
    "lit": Operation(
        (Implementation("tiles", "cpu", "cpu.lit:lit", BOTH, gradients=0, can=RECTIFIED),),
        "render.ray_error.lit_reference",
    ),
    "encoding": Operation(
        (Implementation("numba", "cpu", "cpu.encoding:encoding", gradients=0),), "nn.encodings.Frequency.reference"
    ),
    "harmonics": Operation(
        (Implementation("numba", "cpu", "cpu.harmonics:harmonics", gradients=0),),
        "nn.encodings.SphericalHarmonics.reference",
    ),
    "hashgrid": Operation(
        (
            Implementation("numba", "cpu", "cpu.hashgrid:hashgrid", FLOAT32),
            Implementation("tinycudann", "cuda", "cuda.tinycudann:hashgrid", FLOAT32, asked_for=True),
            Implementation("one lookup", "cuda", "cuda.hashgrid:hashgrid", FLOAT32),
        ),
        "nn.hashgrid.HashGrid.reference",
        "training.backend",
    ),
    "farthest_points": Operation(
        (Implementation("numba", "cpu", "cpu.points:farthest_points", gradients=0),),
        "nn.points.farthest_points_reference",
    ),
    "march": Operation(
        (
            Implementation("numba", "cpu", "cpu.march:march", gradients=0),
            Implementation("nerfacc", "cuda", "cuda.nerfacc:march", gradients=0),
            Implementation("triton", "cuda", "cuda.rays:march", gradients=0),
        ),
        "render.march.march_reference",
        "training.marcher",
    ),
    "march_nested": Operation(
        (Implementation("numba", "cpu", "cpu.march:march_nested", gradients=0),),
        "render.march_nested.march_nested_reference",
    ),
    "first_meeting": Operation(
        (Implementation("numba", "cpu", "cpu.march:first_meeting", gradients=0),),
        "render.march.first_meeting_reference",
    ),
    "sample_points": Operation(
        (Implementation("numba", "cpu", "cpu.march:sample_points", FLOAT32, gradients=0),),
        "render.march.Samples.points",
    ),
    "composite": Operation(
        (
            Implementation("numba", "cpu", "cpu.composite:composite", FLOAT32),
            Implementation("triton", "cuda", "cuda.rays:composite", FLOAT32),
        ),
        "render.volume.composite_reference",
    ),
    "splats": Operation(
        (Implementation("numba", "cpu", "cpu.splats:blend", FLOAT32),), "render.splats.blend_reference"
    ),
    "camera_rays": Operation(
        (Implementation("numba", "cpu", "cpu.cameras:camera_rays", FLOAT32, gradients=0),), "cameras.cameras.Cameras"
    ),
    "true_distance": Operation(
        (Implementation("numba", "cpu", "cpu.distance:Distances"),), "plain.distance.TrueDistance"
    ),
    "attention": Operation(
        (Implementation("triton", "cuda", "cuda.attention:attention", (torch.float16, torch.bfloat16, torch.float32)),),
        "transformers.attention.attention",
    ),
}


def choose(
    op: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    gradients: int = 0,
    asked: str = "auto",
    needs: frozenset[str] = frozenset(),
) -> Choice:
    """The implementation of an operation for tensors on a device.

    Args:
        op: a name of the register.
        dtype: of the operation's numbers.
        gradients: how many derivatives will be asked for.
        asked: "auto" for the best that works, or one by name; "reference" is the definition.
        needs: what the call needs that not every implementation has: an activation by its name, "skips", …

    Raises:
        SinefieldError: the one that was asked for does not work here.
    """
    found = _choose(op, device.type, dtype, gradients, asked, needs, _stored[0])
    if found.stored_as is not None:
        _used.add(found.stored_as)
    if NOT_STORED in found.passed.values():
        _missed.add(op)
    return found


NOT_STORED = "it is not compiled on this machine yet"
_used: set[str] = set()
_missed: set[str] = set()
_stored: list[frozenset[str] | None] = [None]


@contextmanager
def only_stored_kernels(names: frozenset[str]) -> Iterator[set[str]]:
    """Have nothing compiled meanwhile, for a work that is shorter than compiling: what numba has not stored on this
    machine is passed over, the definitions in torch run in its place. For the whole process. Gives the operations that
    have missed theirs.

    Args:
        names: what is stored, of those that `used_kernels` gives.
    """
    before, _stored[0] = _stored[0], names
    _missed.clear()
    try:
        yield _missed
    finally:
        _stored[0] = before


def used_kernels() -> frozenset[str]:
    """The compiled kernels that this process has chosen, by the names that `only_stored_kernels` takes."""
    return frozenset(_used)


@cache
def _choose(
    op: str,
    device: str,
    dtype: torch.dtype,
    gradients: int,
    asked: str,
    needs: frozenset[str],
    stored: frozenset[str] | None,
) -> Choice:
    passed: dict[str, str] = {}
    operation = OPERATIONS[op]
    for one in operation.known if asked != DEFINITION else ():
        if asked != one.name if asked != "auto" else one.asked_for or one.device != device:
            continue
        name = f"{one.place} {_name(dtype)} {gradients}" if one.compiles else None
        if stored is not None and name is not None and name not in stored:
            passed[one.name] = NOT_STORED
            continue
        why = why_not(one, device, dtype, gradients, needs)
        if why is None:
            return Choice(one.name, one.function, passed, name)
        passed[one.name] = why
    if asked in ("auto", DEFINITION):
        return Choice(DEFINITION, None, passed)
    reason = passed.get(asked, f"there is none; one of {', '.join(one.name for one in operation.known)}")
    raise SinefieldError(
        f"{operation.setting or op} is {asked}, which does not work here: {reason}; use auto, or see `sinefield doctor`"
    )


def why_not(
    one: Implementation, device: str, dtype: torch.dtype, gradients: int = 0, needs: Iterable[str] = ()
) -> str | None:
    """None where an implementation can run such a call here, else the reason in one line."""
    if one.device != device:
        return f"{one.name} is for {'the CPU' if one.device == 'cpu' else 'CUDA'}"
    if one.dtypes and dtype not in one.dtypes:
        return f"{one.name} has no {_name(dtype)}"
    if gradients > one.gradients:
        return "it gives no gradients" if one.gradients == 0 else "it gives no second gradients"
    if missing := sorted(set(needs) - one.can):
        return f"it has no {' and no '.join(missing)}"
    return _why_not_here(one.place, dtype)


@cache
def _why_not_here(place: str, dtype: torch.dtype) -> str | None:
    module = importlib.import_module("sinefield.kernels." + place.split(":")[0])
    tried = getattr(module, "why_not", None)
    return None if tried is None else tried(dtype)


def forget() -> None:
    """Choose anew, as after the machine or the register changed."""
    _choose.cache_clear()
    _why_not_here.cache_clear()


@cache
def why_not_bf16(device: str) -> str | None:
    """None where a device of a type multiplies bf16 in hardware, else the reason: what precision "auto" asks."""
    if device == "cpu":
        found = torch.cpu.get_capabilities()
        fast = found.get("avx512_bf16") or found.get("amx_bf16")
        return None if fast else "this processor has no bf16 dot products"
    return None if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "this device has no bf16 products"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Row(NamedTuple):
    """What is chosen for an operation on a device; `passed` says of each better implementation why it is not taken."""

    op: str
    device: str
    dtype: str
    chosen: str
    passed: dict[str, str]


def choices() -> Iterator[Row]:
    """The choices of this machine for plain calls, on the CPU and, where there is one, on its CUDA device."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        for op, operation in OPERATIONS.items():
            known = [one for one in operation.known if one.device == device]
            dtypes = sorted({d for one in known for d in one.dtypes or FLOAT32}, key=_name, reverse=True) or [*FLOAT32]
            for dtype in dtypes:
                gradients = max((one.gradients for one in known), default=0)
                needs = frozenset({"relu"}) if "network" in op or "error" in op else frozenset()
                found = choose(op, torch.device(device), dtype, gradients, needs=needs)
                wishes = {one.name: "only where it is asked for" for one in known if one.asked_for}
                yield Row(op, device, _name(dtype), found.name, wishes | found.passed)
