"""A shape field as GLSL and WGSL: a function of a point, and a sphere tracer that shows it.

Both are written from one outline. A layer is a loop over four rows and four columns at a time; the numbers are constant
arrays of four-vectors. Sines are polynomials: what shading languages promise of `sin` is not enough.
"""

from typing import NamedTuple

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.export.code_c import check_name, one_line
from sinefield.plain.distance_network import DistanceNetwork
from sinefield.plain.network import BETA, LEAK
from sinefield.version import __version__

MAX_NUMBERS = 1 << 17
"""Numbers of a shader; compilers of drivers are slow beyond."""
ACTIVATIONS = {
    "relu": "max(z, ZERO)",
    "leaky_relu": "max(z, {leak} * z)",
    "gaussian": "exp({fall} * z * z)",
    "sine": "@sin({turn} * z)",
    "softplus": "max(z, ZERO) + log(ONE + exp(-{beta} * abs(z))) / {beta}",
}


class Language(NamedTuple):
    """What GLSL and WGSL write differently."""

    number: str
    vec3: str
    vec4: str
    whole: str
    array: str
    local: str
    loop: str
    function: str


GLSL = Language(
    "float", "vec3", "vec4", "int", "const vec4 {name}[{n}] = vec4[{n}](\n{rows});", "vec4 {name}[{n}];",
    "for (int {i} = 0; {i} < {n}; {i}++) {{", "{result} {name}({arguments}) {{",
)  # fmt: skip
WGSL = Language(
    "f32", "vec3f", "vec4f", "i32", "const {name} = array<vec4f, {n}>(\n{rows});", "var {name}: array<vec4f, {n}>;",
    "for (var {i} = 0; {i} < {n}; {i}++) {{", "fn {name}({arguments}) -> {result} {{",
)  # fmt: skip


def shader(shape: DistanceNetwork, name: str, source: str, language: Language) -> str:
    """The text of a shader with `NAME_sdf`, `NAME_normal`, `NAME_trace`; in GLSL also Shadertoy's `mainImage`.

    Raises:
        SinefieldError: a name that is none, more than `MAX_NUMBERS` numbers.
    """
    check_name(name)
    count = sum(matrix.size for matrix in shape.network.matrices)
    if count > MAX_NUMBERS:
        raise SinefieldError(
            f"the network has {count:,} numbers, a shader takes at most {MAX_NUMBERS:,}; write OUT.h or OUT.npz"
        )
    tables = [
        language.array.format(name=f"@{kind}{i}", n=len(rows), rows=_rows(rows, language))
        for i in range(len(shape.network.matrices))
        for kind, rows in zip("wb", _numbers(shape, i), strict=True)
    ]
    parts = [_head(shape, source), *tables, _waves(language), _sdf(shape, language), _tracer(shape, language)]
    return "\n".join(parts).replace("@", f"{name}_")


def _head(shape: DistanceNetwork, source: str) -> str:
    low, high = (" ".join(f"{v:.6g}" for v in corner) for corner in (shape.low, shape.high))
    return (
        f"// Signed distance to a shape, from {one_line(source)}. Written by sinefield {__version__}.\n"
        "//\n"
        "// @sdf(point): the distance, negative inside; coordinates and units are those of the mesh.\n"
        + "".join(f"// {line}\n" for line in shape.reach.split("\n"))
        + "// Outside the box\n"
        f"// {low} to {high}\n"
        "// it grows with the distance to the box.\n"
        "// @normal(point): unit gradient, by differences.\n"
        "// @trace(origin, direction): how far along a unit direction the surface is first met, negative if never.\n"
    )


def _numbers(shape: DistanceNetwork, i: int) -> tuple[np.ndarray, np.ndarray]:
    """A layer's matrix as four-vectors, four rows and four columns at a time, a column a vector; and its bias."""
    network = shape.network
    matrix, bias, last = network.matrices[i], network.biases[i], i == len(network.matrices) - 1
    matrix, bias = (matrix[:1], bias[:1]) if last else (matrix, bias)
    hidden = matrix.shape[1] - (network.matrices[0].shape[1] if i in network.skips else 0) if i else 0
    parts = [_up(matrix[:, :hidden])] if i else []
    if i == 0 or i in network.skips:
        parts.append(_seen(matrix[:, hidden:], len(network.scales)))
    whole = np.concatenate(parts, axis=1)
    whole = np.concatenate([whole, np.zeros((-len(whole) % 4, whole.shape[1]), np.float32)])
    blocks = whole.reshape(len(whole) // 4, 4, whole.shape[1]).transpose(0, 2, 1)
    return blocks.reshape(-1, 4), np.pad(bias, (0, -len(bias) % 4)).reshape(-1, 4)


def _up(matrix: np.ndarray) -> np.ndarray:
    return np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 4)))


def _seen(matrix: np.ndarray, octaves: int) -> np.ndarray:
    """Columns of the encoding as the shader has it: x y z 0, then sines and cosines by octave, 0 after each three."""
    order = [[0, 1, 2]]
    for o in range(octaves):
        order += [[3 + 3 * o + a for a in range(3)], [3 + 3 * octaves + 3 * o + a for a in range(3)]]
    return np.concatenate([np.pad(matrix[:, three], ((0, 0), (0, 1))) for three in order], axis=1)


def _rows(vectors: np.ndarray, language: Language) -> str:
    texts = [f"{language.vec4}({', '.join(number(v) for v in row)})" for row in vectors]
    return ",\n".join(", ".join(texts[at : at + 3]) for at in range(0, len(texts), 3))


def number(value: float) -> str:
    """A float32 with all of its digits, as both languages have it."""
    text = f"{np.float32(value):.9g}"
    return text if "." in text or "e" in text else text + ".0"


def _vector(values: np.ndarray, language: Language) -> str:
    return f"{language.vec3}({', '.join(number(v) for v in values)})"


def _let(language: Language, kind: str, name: str, value: str) -> str:
    return f"{kind} {name} = {value};" if language is GLSL else f"var {name}: {kind} = {value};"


def _define(language: Language, result: str, name: str, **arguments: str) -> str:
    texts = [f"{kind} {one}" if language is GLSL else f"{one}: {kind}" for one, kind in arguments.items()]
    return language.function.format(result=result, name=name, arguments=", ".join(texts))


def _waves(language: Language) -> str:
    """sin(π u) of four numbers, to 1e-7 for small u."""
    v = language.vec4
    return "\n".join(
        [
            _define(language, v, "@sin", u=v),
            "    " + _let(language, v, "q", f"floor(u + {v}(0.5))"),
            "    " + _let(language, v, "r", "u - q"),
            "    " + _let(language, v, "r2", "r * r"),
            "    " + _let(language, v, "odd", "q - 2.0 * floor(q * 0.5)"),
            f"    return ({v}(1.0) - 2.0 * odd) * r * ({v}(3.14159265) + r2 * ({v}(-5.16771278) + r2 * ({v}(2.55016404)"
            f" + r2 * ({v}(-0.599264529) + r2 * ({v}(0.0821458866) + r2 * ({v}(-0.00737043094)"
            " + r2 * 0.000466302806))))));",
            "}",
            "",
        ]
    )


def _sdf(shape: DistanceNetwork, language: Language) -> str:
    network, config = shape.network, shape.config
    v, octaves, last = language.vec4, len(network.scales), len(network.matrices) - 1
    given = {"leak": number(float(LEAK)), "beta": number(float(BETA)), "turn": number(config.omega0 / np.pi)}
    given["fall"] = f"({number(-0.5 / config.sigma**2)})"
    bent = ACTIVATIONS[config.activation].replace("ZERO", f"{v}(0.0)").replace("ONE", f"{v}(1.0)").format(**given)
    lines = [
        _define(language, v, "@bend", z=v),
        f"    return {bent};",
        "}",
        "",
        _define(language, language.number, "@sdf", point=language.vec3),
        "    " + _let(language, language.vec3, "closest", f"clamp(point, {_vector(shape.low, language)}, "
                      f"{_vector(shape.high, language)})"),
        "    " + _let(language, language.number, "away", "length(point - closest)"),
        "    " + _let(language, language.vec3, "x", f"(closest - {_vector(shape.centre, language)})"
                      f" * {number(shape.scale)}"),
        "    " + language.local.format(name="e", n=1 + 2 * octaves),
        f"    e[0] = {v}(x, 0.0);",
    ]  # fmt: skip
    if octaves:
        lines += [
            "    " + _let(language, v, "u", f"{v}(x, 0.0)"),
            "    " + language.loop.format(i="o", n=octaves),
            "        e[1 + 2 * o] = @sin(u);",
            f"        e[2 + 2 * o] = @sin(u + {v}(0.5));",
            "        u = u * 2.0;",
            "    }",
        ]
    wide = 0
    for i, matrix in enumerate(network.matrices):
        rows, source = 1 if i == last else -(-len(matrix) // 4), "e" if i == 0 else f"h{i - 1}"
        blocks = [(source, 1 + 2 * octaves if i == 0 else wide)]
        if i > 0 and i in network.skips:
            blocks.append(("e", 1 + 2 * octaves))
        lines += _layer(language, i, rows, blocks, i < last)
        wide = rows
    return "\n".join(
        [
            *lines,
            "    " + _let(language, language.number, "value", f"h{last}[0].x * {number(shape.factor)}"),
            "    if (away > 0.0) {",
            "        value = max(value, 0.0);",
            "        return sqrt(away * away + value * value);",
            "    }",
            "    return value;",
            "}",
            "",
        ]
    )


def _layer(language: Language, i: int, rows: int, blocks: list[tuple[str, int]], bends: bool) -> list[str]:
    """h_i, four rows at a time, of what it sees, four columns at a time."""
    columns = 4 * sum(n for _, n in blocks)
    lines = [
        "    " + language.local.format(name=f"h{i}", n=rows),
        "    " + language.loop.format(i="j", n=rows),
        "        " + _let(language, language.vec4, "y", f"@b{i}[j]"),
    ]
    start = 0
    for source, n in blocks:
        at = f"j * {columns} + {start} + 4 * k" if start else f"j * {columns} + 4 * k"
        terms = " + ".join(f"{source}[k].{'xyzw'[c]} * @w{i}[at + {c}]" for c in range(4))
        lines += [
            "        " + language.loop.format(i="k", n=n),
            "            " + _let(language, language.whole, "at", at),
            f"            y += {terms};",
            "        }",
        ]
        start += 4 * n
    return [*lines, f"        h{i}[j] = {'@bend(y)' if bends else 'y'};", "    }"]


def _tracer(shape: DistanceNetwork, language: Language) -> str:
    """Normals, a sphere tracer that takes careful steps, and a picture of it."""
    size = float((shape.high - shape.low).max())
    middle, reach = (shape.low + shape.high) / 2, float(np.linalg.norm(shape.high - shape.low))
    v, f = language.vec3, language.number
    eps, least = number(1e-3 * size), number(2e-4 * size)
    step = 0.6
    corners = [(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)]
    ways = [f"{v}({', '.join(number(x) for x in corner)})" for corner in corners]
    normal = " + ".join(f"{way} * @sdf(point + {eps} * {way})" for way in ways)
    lines = [
        _define(language, v, "@normal", point=v),
        f"    return normalize({normal});",
        "}",
        "",
        "// Steps are shortened: the network may be steeper than a distance, most of all far from its surface.",
        _define(language, f, "@trace", origin=v, direction=v),
        "    " + _let(language, f, "t", "0.0"),
        "    " + language.loop.format(i="i", n=160),
        "        " + _let(language, f, "d", "@sdf(origin + t * direction)"),
        f"        if (d < {least}) {{ return t; }}",
        f"        t += max({number(step)} * d, {least});",
        f"        if (t > length(origin - {_vector(middle, language)}) + {number(reach)}) {{ break; }}",
        "    }",
        "    return -1.0;",
        "}",
        "",
        _define(language, v, "@shade", origin=v, direction=v),
        "    " + _let(language, f, "t", "@trace(origin, direction)"),
        f"    if (t < 0.0) {{ return {v}(0.93, 0.95, 0.97); }}",
        "    " + _let(language, v, "n", "@normal(origin + t * direction)"),
        "    " + _let(language, f, "light", f"0.25 + 0.75 * max(dot(n, normalize({v}(0.5, 0.8, 0.6))), 0.0)"),
        f"    return {v}(0.85, 0.8, 0.74) * light;",
        "}",
        "",
        "// What a camera sees that goes round the shape: uv is a pixel's place, −1 to 1 along the picture's height.",
        _define(language, v, "@view", u=f, w=f, turn=f),
        "    " + _let(language, v, "back", f"{v}(sin(turn), 0.35, cos(turn))"),
        "    back = normalize(back);",
        "    " + _let(language, v, "right", f"normalize(cross({v}(0.0, 1.0, 0.0), back))"),
        "    " + _let(language, v, "origin", f"{_vector(middle, language)} + {number(1.5 * reach)} * back"),
        "    return @shade(origin, normalize(0.4 * (u * right + w * cross(back, right)) - back));",
        "}",
    ]
    if language is GLSL:
        lines += [
            "",
            "// For shadertoy.com, whose uniforms these are; elsewhere define @NO_IMAGE.",
            "#ifndef @NO_IMAGE",
            "void mainImage(out vec4 colour, in vec2 pixel) {",
            "    vec2 uv = (2.0 * pixel - iResolution.xy) / iResolution.y;",
            "    colour = vec4(@view(uv.x, uv.y, 0.5 * iTime), 1.0);",
            "}",
            "#endif",
        ]
    return "\n".join(lines) + "\n"
