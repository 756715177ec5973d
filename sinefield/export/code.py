"""A shape field for other programs: a C header, a shader, an ONNX model, a grid of distances."""

import io
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.export.code_c import c_header, check_name
from sinefield.export.code_onnx import onnx_model
from sinefield.export.code_shader import GLSL, WGSL, shader
from sinefield.fields.base import Field, kind_of
from sinefield.files import check_output, write_bytes
from sinefield.plain.distance_network import DistanceNetwork
from sinefield.store.fields import load_field

TARGETS = {".h": "C99", ".glsl": "GLSL ES 3.00", ".wgsl": "WGSL", ".onnx": "ONNX opset 17", ".npz": "grid of distances"}
RESOLUTION, MAX_RESOLUTION = 64, 256
AROUND = 2
"""Cells of a grid around the object's box."""
LOST = 1e-5
"""Share of the object's size to which float32 coordinates are rounded, from which on that is said."""


def export_code(
    run: str | Path,
    out: str | Path,
    name: str | None = None,
    resolution: int = RESOLUTION,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write a shape field as .h, .glsl, .wgsl, .onnx or .npz; returns run, out, target, bytes, notes, seconds.

    Arguments:
        name: what the names in a header begin with; the file's own by default.
        resolution: distances of a grid along the longest side of the box.
        adapters: edits of the run's field, see `load_field`.

    Raises:
        SinefieldError: another ending, `out` exists, a field that the target cannot hold, a name or resolution out of
            range; see `load_field`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_code("example:knot", Path(folder) / "knot.h")
        >>> report["target"]
        'C99'
    """
    out, begin, notes = Path(out), time.perf_counter(), list[str]()
    ending = out.suffix.lower()
    if ending not in TARGETS:
        raise SinefieldError(f"{out}: code is written as one of {' '.join(TARGETS)}; name it so")
    if not 8 <= resolution <= MAX_RESOLUTION:
        raise SinefieldError(f"--resolution {resolution}: a grid has 8 to {MAX_RESOLUTION} samples a side")
    stem = re.sub(r"\W", "_", out.stem, flags=re.ASCII)
    name = check_name(name or (stem if stem[:1].isalpha() else f"field_{stem}")[:48])
    check_output(out, overwrite)
    field, _ = load_field(run, adapters)
    if ending == ".npz":
        content = distance_grid(field, resolution)
    else:
        shape = kind_of(field).distance_network(field)
        if shape.digits_lost > LOST:
            share = f"{shape.digits_lost:.1g} of the object's size"
            notes.append(f"float32 coordinates so far from the origin are rounded to {share}")
        if field.config.colours == "yes":
            notes.append("the field's colours are left out")
        content = _written(shape, ending, name, str(run))
    write_bytes(out, content, overwrite)
    return {
        "run": str(run),
        "out": str(out),
        "target": TARGETS[ending],
        "bytes": out.stat().st_size,
        "notes": notes,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _written(shape: DistanceNetwork, ending: str, name: str, source: str) -> bytes:
    if ending == ".h":
        return c_header(shape, name, source).encode()
    shape.without_grid(TARGETS[ending])
    if ending == ".onnx":
        return onnx_model(shape)
    return shader(shape, name, source, GLSL if ending == ".glsl" else WGSL).encode()


def distance_grid(field: Field, resolution: int) -> bytes:
    """True signed distances on a lattice, as .npz: `sdf` (x, y, z) float32, `origin` (3,) float64, `spacing` float64.

    Sample i j k is at origin + spacing · (i, j, k), input units; negative inside.

    Raises:
        SinefieldError: a field without a signed distance.
    """
    truth = kind_of(field).true_distance(field)
    spacing = float((truth.high - truth.low).max()) / (resolution - 1 - 2 * AROUND)
    counts = np.ceil((truth.high - truth.low) / spacing - 1e-9).astype(int) + 1 + 2 * AROUND
    origin = (truth.low + truth.high) / 2 - spacing * (counts - 1) / 2
    cells = np.stack(np.meshgrid(*[np.arange(n) for n in counts], indexing="ij"), axis=-1)
    sdf = np.asarray(truth.sdf(origin + spacing * cells.reshape(-1, 3))).reshape(counts)
    stream = io.BytesIO()
    np.savez_compressed(stream, sdf=sdf.astype(np.float32), origin=origin, spacing=np.float64(spacing))
    return stream.getvalue()
