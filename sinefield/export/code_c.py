"""A shape field as a C99 header: its numbers and two functions, without heap, files or other libraries."""

import re

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.plain.distance_network import DistanceNetwork
from sinefield.plain.hash_grid import PlainGrid
from sinefield.plain.network import BETA, LEAK
from sinefield.version import __version__

MAX_NUMBERS = 1 << 21
"""Numbers of a header; compilers take minutes for more."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}")

ACTIVATIONS = {
    "relu": ("z > 0.0f ? z : 0.0f", "z > 0.0f ? 1.0f : 0.0f"),
    "leaky_relu": ("z > 0.0f ? z : {leak} * z", "z > 0.0f ? 1.0f : {leak}"),
    "gaussian": ("@exp({fall} * z * z)", "2.0f * {fall} * z * @exp({fall} * z * z)"),
    "sine": ("sinf({omega} * z)", "{omega} * cosf({omega} * z)"),
    "softplus": (
        "(z > 0.0f ? z : 0.0f) + log1pf(@exp(-{beta} * fabsf(z))) / {beta}",
        "(z > 0.0f ? 1.0f : @exp({beta} * z)) / (1.0f + @exp(-{beta} * fabsf(z)))",
    ),
}
"""Each activation and its derivative as expressions of z."""

HEAD = """\
/* {name}: signed distance to a shape, from {source}. Written by sinefield {version}.

   float {name}_sdf(float x, float y, float z, float grad[3]);
   void {name}_sdf_many(size_t n, const float *points, float *values, float *grads);

   Coordinates and distances are those of the mesh that the field was trained on; negative inside.
   {reach}
   Outside the box
   {low} to {high}
   it grows with the distance to the box.
   grad, if not null, receives the derivative of the value. Points are x y z x y z ...; NaN gives NaN.
   C99 and <math.h>; no heap, no state, so that threads may share it. */
#ifndef {upper}_SDF_H
#define {upper}_SDF_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* The box in which the network is asked: x y z of its lowest and of its highest corner. */
#define {upper}_BOX {{{box}}}

"""

BODY = """\
/* exp(x) for x <= 0, to 3e-7 of itself: plain arithmetic, which compilers turn into vector instructions. */
static inline float @exp(float x) {
    union { float f; int32_t i; } power;
    float t = x * 1.44269504f, k, r;
    t = t < -126.0f ? -126.0f : t;
    k = (float)(int32_t)(t - 0.5f);
    r = (t - k) * 0.693147181f;
    power.i = ((int32_t)k + 127) << 23;
    return power.f * (1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f
        + r * 0.00138888889f))))));
}

static inline float @value(float z) { return VALUE; }
static inline float @slope(float z) { return SLOPE; }

/* y += x w, w of n rows and m columns. */
static inline void @forward(int n, int m, const float *w, const float *restrict x, float *restrict y) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < m; j++) y[j] += x[i] * w[i * m + j];
}

/* x = w y, m a multiple of 8. Sums side by side, so that the order of additions is fixed, vector instructions fit,
   and none waits for the one before. */
static inline void @backward(int n, int m, const float *w, const float *restrict y, float *restrict x) {
    for (int i = 0; i < n; i++) {
        float sums[32] = {0};
        int j = 0;
        for (; j + 32 <= m; j += 32)
            for (int k = 0; k < 32; k++) sums[k] += w[i * m + j + k] * y[j + k];
        for (; j < m; j += 8)
            for (int k = 0; k < 8; k++) sums[k] += w[i * m + j + k] * y[j + k];
        for (int width = 16; width > 0; width /= 2)
            for (int k = 0; k < width; k++) sums[k] += sums[k + width];
        x[i] = sums[0];
    }
}

static inline float @clamped(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

"""


GRID = """\
/* Features of a point, interpolated in grids whose corners are numbered, or share numbers by a hash; and their
   derivatives by the coordinates. */
static inline void @encoded(const float q[3], float *e, float (*slopes)[3]) {
    for (int l = 0; l < LEVELS; l++) {
        const int32_t n = @cells[l];
        const int hashed = @entries[l] != (uint32_t)(n + 1) * (uint32_t)(n + 1) * (uint32_t)(n + 1);
        const float *features = @table + 2 * @first[l];
        uint32_t cell[3];
        float part[3];
        for (int a = 0; a < 3; a++) {
            const float t = q[a] * 0.5f + 0.5f, p = (t < 0.0f ? 0.0f : t > 1.0f ? 1.0f : t) * (float)n;
            const int32_t c = p >= 0.0f ? (int32_t)p : 0; /* NaN stays in the part */
            cell[a] = (uint32_t)(c < n ? c : n - 1);
            part[a] = p - (float)cell[a];
        }
        for (int f = 0; f < 2; f++) {
            e[2 * l + f] = 0.0f;
            if (slopes) for (int a = 0; a < 3; a++) slopes[2 * l + f][a] = 0.0f;
        }
        for (uint32_t corner = 0; corner < 8; corner++) {
            const uint32_t up[3] = {corner & 1, corner >> 1 & 1, corner >> 2 & 1};
            const uint32_t i = cell[0] + up[0], j = cell[1] + up[1], k = cell[2] + up[2], side = (uint32_t)n + 1;
            const uint32_t entry = hashed ? (i ^ j * 2654435761u ^ k * 805459861u) & (@entries[l] - 1)
                                          : (i * side + j) * side + k;
            float w[3];
            for (int a = 0; a < 3; a++) w[a] = up[a] ? part[a] : 1.0f - part[a];
            for (int f = 0; f < 2; f++) {
                const float feature = features[2 * entry + f];
                e[2 * l + f] += w[0] * w[1] * w[2] * feature;
                if (slopes)
                    for (int a = 0; a < 3; a++) {
                        const float rest = w[(a + 1) % 3] * w[(a + 2) % 3] * (float)n * 0.5f;
                        slopes[2 * l + f][a] += (up[a] ? rest : -rest) * feature;
                    }
            }
        }
    }
}

"""


def check_name(name: str) -> str:
    """A word that may begin the names of C functions. Raises SinefieldError for others."""
    if not NAME.fullmatch(name):
        raise SinefieldError(f"{name!r} cannot name a function; use letters, digits and _, a letter first, at most 48")
    return name


def c_header(shape: DistanceNetwork, name: str, source: str) -> str:
    """The text of a header with `NAME_sdf` and `NAME_sdf_many`.

    Args:
        name: what its names begin with.
        source: where the field comes from, for the comment.

    Raises:
        SinefieldError: a name that is none, more than `MAX_NUMBERS` numbers.
    """
    check_name(name)
    network = shape.network
    count = sum(matrix.size for matrix in network.matrices)
    if network.grid is not None:
        count += network.grid.table.size
    if count > MAX_NUMBERS:
        raise SinefieldError(
            f"the network has {count:,} numbers, a header takes at most {MAX_NUMBERS:,}; write OUT.npz"
            + " or OUT.onnx" * (network.grid is None)
        )
    head = HEAD.format(
        name=name,
        upper=name.upper(),
        source=one_line(source),
        version=__version__,
        reach=shape.reach.replace("\n", "\n   "),
        box=", ".join(_number(v) for v in (*shape.low, *shape.high)),
        low=_point(shape.low),
        high=_point(shape.high),
    )
    last = len(network.matrices) - 1
    tables = [_table(f"{name}_w{i}", _padded(matrix, i < last).T) for i, matrix in enumerate(network.matrices)]
    tables += [_table(f"{name}_b{i}", _padded(bias, i < last)) for i, bias in enumerate(network.biases)]
    if network.grid is not None:
        tables += _grid_tables(network.grid, name)
    constants = {
        "leak": _number(float(LEAK)),
        "beta": _number(float(BETA)),
        "fall": f"({_number(-0.5 / shape.config.sigma**2)})",
        "omega": _number(shape.config.omega0),
    }
    value, slope = (text.format(**constants) for text in ACTIVATIONS[shape.config.activation])
    grid = "" if network.grid is None else GRID.replace("LEVELS", str(len(network.grid.levels)))
    body = BODY.replace("VALUE", value).replace("SLOPE", slope) + grid + _function(shape)
    return head + "\n".join(tables) + "\n" + body.replace("@", f"{name}_") + "\n#endif\n"


def _function(shape: DistanceNetwork) -> str:
    network = shape.network
    inputs, widths = network.matrices[0].shape[1], [len(matrix) for matrix in network.matrices]
    last, octaves = len(widths) - 1, len(network.scales)
    waves = 3 * octaves
    # Room for a layer's input with the encoding appended to it, where one skips.
    widest = max(_up(width) for width in widths[:-1])
    room = widest + inputs
    lines = [
        "static inline float @sdf(float x, float y, float z, float grad[3]) {",
        f"    static const float low[3] = {_list(shape.low)}, high[3] = {_list(shape.high)};",
        f"    static const float centre[3] = {_list(shape.centre)};",
        f"    const float point[3] = {{x, y, z}}, scale = {_number(shape.scale)}, factor = {_number(shape.factor)};",
        f"    float closest[3], q[3], e[{inputs}], h[{room}], s[{last}][{widest}], away = 0.0f, value;",
        "    for (int a = 0; a < 3; a++) {",
        "        closest[a] = @clamped(point[a], low[a], high[a]);",
        "        away = hypotf(away, point[a] - closest[a]);",
        "        q[a] = (closest[a] - centre[a]) * scale;",
        "    }",
    ]
    if network.grid is not None:
        lines += [f"    float slopes[{inputs}][3];", "    @encoded(q, e, grad ? slopes : NULL);"]
    else:
        lines.append("    for (int a = 0; a < 3; a++) e[a] = q[a];")
    if octaves:
        scales = ", ".join(_number(v) for v in network.scales)
        lines += [
            f"    static const float octaves[{octaves}] = {{{scales}}};",
            "    for (int a = 0; a < 3; a++) {",
            "        float s_ = sinf(octaves[0] * e[a]), c_ = cosf(octaves[0] * e[a]);",
            f"        for (int o = 0; o < {octaves}; o++) {{ /* each octave doubles the angle of the one before */",
            "            const float twice = 2.0f * s_ * c_;",
            "            e[3 + 3 * o + a] = s_;",
            f"            e[{3 + waves} + 3 * o + a] = c_;",
            "            c_ = 1.0f - 2.0f * s_ * s_;",
            "            s_ = twice;",
            "        }",
            "    }",
        ]
    for i, width in enumerate(widths):
        columns, padded = network.matrices[i].shape[1], _up(width) if i < last else width
        source = "e" if i == 0 else "h"
        if i in network.skips and i > 0:
            lines.append(f"    for (int k = 0; k < {inputs}; k++) h[{widths[i - 1]} + k] = e[k];")
        lines += [
            "    {",
            f"        float y[{padded}];",
            f"        for (int j = 0; j < {padded}; j++) y[j] = @b{i}[j];",
            f"        @forward({columns}, {padded}, @w{i}, {source}, y);",
        ]
        if i < last:
            lines += [
                f"        if (grad) for (int j = 0; j < {padded}; j++) s[{i}][j] = @slope(y[j]);",
                f"        for (int j = 0; j < {padded}; j++) h[j] = @value(y[j]);",
            ]
        else:
            lines.append("        value = factor * y[0];")
        lines.append("    }")
    lines += _gradient(shape, widths, inputs, octaves)
    lines += [
        "    if (away > 0.0f) {",
        "        const float own = value > 0.0f ? value : 0.0f, total = hypotf(away, own);",
        "        if (grad)",
        "            for (int a = 0; a < 3; a++) {",
        "                const float out = point[a] - closest[a];",
        "                grad[a] = out != 0.0f ? out / total : own / total * grad[a];",
        "            }",
        "        return total;",
        "    }",
        "    return value;",
        "}",
        "",
        "static inline void @sdf_many(size_t n, const float *points, float *values, float *grads) {",
        "    for (size_t i = 0; i < n; i++)",
        "        values[i] = @sdf(points[3 * i], points[3 * i + 1], points[3 * i + 2], grads ? grads + 3 * i : NULL);",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _gradient(shape: DistanceNetwork, widths: list[int], inputs: int, octaves: int) -> list[str]:
    """Back through the layers; the last has one row of weights."""
    network, last = shape.network, len(widths) - 1
    widest = max(_up(width) for width in widths[:-1])
    lines = [
        "    if (grad) {",
        f"        float g[{widest}] = {{0}}, x_[{widest + inputs}], of_e[{inputs}] = {{0}};",
        f"        for (int j = 0; j < {widths[last - 1]}; j++) g[j] = @w{last}[j * {widths[last]}] * s[{last - 1}][j];",
    ]
    for i in range(last - 1, -1, -1):
        columns, below = network.matrices[i].shape[1], widths[i - 1] if i else 0
        lines.append(f"        @backward({columns}, {_up(widths[i])}, @w{i}, g, x_);")
        if i == 0 or i in network.skips:
            lines.append(f"        for (int k = 0; k < {inputs}; k++) of_e[k] += x_[{below} + k];")
        if i:
            lines.append(f"        for (int j = 0; j < {below}; j++) g[j] = x_[j] * s[{i - 1}][j];")
    lines.append("        for (int a = 0; a < 3; a++) {")
    if network.grid is not None:
        lines.append("            float sum = 0.0f;")
        lines.append(f"            for (int k = 0; k < {inputs}; k++) sum += of_e[k] * slopes[k][a];")
    else:
        lines.append("            float sum = of_e[a];")
    if octaves:
        lines += [
            f"            for (int o = 0; o < {octaves}; o++)",
            f"                sum += octaves[o] * (of_e[3 + 3 * o + a] * e[{3 + 3 * octaves} + 3 * o + a]",
            f"                    - of_e[{3 + 3 * octaves} + 3 * o + a] * e[3 + 3 * o + a]);",
        ]
    return [*lines, "            grad[a] = sum * scale * factor;", "        }", "    }"]


def _up(width: int) -> int:
    """A layer's width up to whole groups of 8; what is added is zero and nothing reads what comes of it."""
    return -(-width // 8) * 8


def _padded(rows: np.ndarray, wanted: bool) -> np.ndarray:
    more = _up(len(rows)) - len(rows) if wanted else 0
    return np.concatenate([rows, np.zeros((more, *rows.shape[1:]), rows.dtype)])


def _table(name: str, values: np.ndarray) -> str:
    numbers = [_number(v) for v in values.ravel()]
    rows = [", ".join(numbers[start : start + 8]) for start in range(0, len(numbers), 8)]
    return f"static const float {name}[{len(numbers)}] = {{\n    " + ",\n    ".join(rows) + "};"


def _grid_tables(grid: PlainGrid, name: str) -> list[str]:
    """Cells, entries and first entry of each level, and all features."""
    kinds = zip(
        ("int32_t", "uint32_t", "uint32_t"), ("cells", "entries", "first"), zip(*grid.levels, strict=True), strict=True
    )
    rows = [
        f"static const {kind} {name}_{what}[{len(grid.levels)}] = {{{', '.join(str(n) for n in numbers)}}};"
        for kind, what, numbers in kinds
    ]
    return [*rows, _table(f"{name}_table", grid.table)]


def _list(values: np.ndarray) -> str:
    return "{" + ", ".join(_number(v) for v in values) + "}"


def _number(value: float) -> str:
    """A float32 as C has it, all of its digits."""
    text = f"{np.float32(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def _point(values: np.ndarray) -> str:
    return " ".join(f"{v:.6g}" for v in values)


def one_line(text: str) -> str:
    """A name as it may stand in a comment: plain letters on one line, no end of comment."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "_", text)[-80:] or "a field"
