"""A shape field as a function of NVIDIA's warp, for its kernels on the CPU and on CUDA."""

import hashlib
import linecache
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of
from sinefield.plain.distance_network import DistanceNetwork
from sinefield.plain.network import BETA, LEAK
from sinefield.store.fields import load_field

BEND = {
    "relu": "wp.max(z, 0.0)",
    "leaky_relu": "wp.max(z, {leak} * z)",
    "gaussian": "wp.exp({fall} * z * z)",
    "sine": "wp.sin({omega} * z)",
    "softplus": "wp.max(z, 0.0) + wp.log(1.0 + wp.exp(-{beta} * wp.abs(z))) / {beta}",
}


def warp_function(run: str | Path, device: str = "cpu") -> tuple[Any, Any]:
    """`sdf(numbers, point)` of a run folder or `.sine` file for kernels of warp, and the array of its numbers.

    In the coordinates and units of the input; values as those of `DistanceNetwork`. A kernel takes `numbers`, a
    `wp.array(dtype=float)`, as an argument and passes it on.

    Raises:
        SinefieldError: the package warp-lang is absent; a field without a signed distance of its own.
    """
    try:
        import warp as wp
    except ImportError as error:
        raise SinefieldError("a warp function needs warp-lang: pip install 'sinefield[physics]'") from error
    field, _ = load_field(run)
    shape = kind_of(field).distance_network(field)
    shape.without_grid("a warp function")
    text = _source(shape)
    name = f"<sinefield {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # warp reads a function's source
    parts = [part.ravel() for both in zip(shape.network.matrices, shape.network.biases, strict=True) for part in both]
    numbers = wp.array(np.concatenate(parts).astype(np.float32), dtype=wp.float32, device=device)
    found: dict[str, Any] = {"wp": wp}
    for size in {*_sizes(shape)}:
        found[f"room{size}"] = wp.types.vector(length=size, dtype=wp.float32)
    exec(compile(text, name, "exec"), found)
    return found["sdf"], numbers


def _sizes(shape: DistanceNetwork) -> list[int]:
    network = shape.network
    return [network.matrices[0].shape[1], *(len(matrix) for matrix in network.matrices[:-1])]


def _source(shape: DistanceNetwork) -> str:
    network, config = shape.network, shape.config
    given = {"leak": float(LEAK), "beta": float(BETA), "fall": -0.5 / config.sigma**2, "omega": config.omega0}
    sizes, octaves = _sizes(shape), len(network.scales)

    def triple(values: np.ndarray) -> str:
        return f"wp.vec3({', '.join(repr(float(np.float32(v))) for v in values)})"

    lines = [
        "@wp.func",
        "def bend(z: float):",
        f"    return {BEND[config.activation].format(**given)}",
        "",
        "@wp.func",
        "def sdf(numbers: wp.array(dtype=float), point: wp.vec3):",
        "    value = float(0.0)",
        f"    closest = wp.min(wp.max(point, {triple(shape.low)}), {triple(shape.high)})",
        "    away = wp.length(point - closest)",
        f"    x = (closest - {triple(shape.centre)}) * {float(shape.scale)!r}",
        f"    e = room{sizes[0]}()",
        "    for a in range(3):",
        "        e[a] = x[a]",
    ]
    if octaves:
        lines += [
            f"    scale = float({float(network.scales[0])!r})",
            f"    for o in range({octaves}):",
            "        for a in range(3):",
            "            e[3 + 3 * o + a] = wp.sin(scale * x[a])",
            f"            e[{3 + 3 * octaves} + 3 * o + a] = wp.cos(scale * x[a])",
            "        scale = scale * 2.0",
        ]
    lines += _layers(shape, sizes)
    return "\n".join(
        [
            *lines,
            "    if away > 0.0:",
            "        value = wp.max(value, 0.0)",
            "        value = wp.sqrt(away * away + value * value)",
            "    return value",
            "",
        ]
    )


def _layers(shape: DistanceNetwork, sizes: list[int]) -> list[str]:
    network, last, start = shape.network, len(shape.network.matrices) - 1, 0
    lines: list[str] = []
    for i, matrix in enumerate(network.matrices):
        source, hidden = ("e", sizes[0]) if i == 0 else (f"h{i - 1}", sizes[i])
        rows, columns = (len(matrix) if i < last else 1), matrix.shape[1]
        lines += [
            *([f"    h{i} = room{rows}()"] if i < last else []),
            f"    for j in range({rows}):",
            f"        y = float(numbers[{start + matrix.size} + j])",
            f"        for k in range({hidden}):",
            f"            y += numbers[{start} + j * {columns} + k] * {source}[k]",
        ]
        if i in network.skips and i > 0:
            lines += [
                f"        for k in range({sizes[0]}):",
                f"            y += numbers[{start} + j * {columns} + {hidden} + k] * e[k]",
            ]
        lines.append(f"        h{i}[j] = bend(y)" if i < last else f"        value = y * {float(shape.factor)!r}")
        start += matrix.size + len(network.biases[i])
    return lines
