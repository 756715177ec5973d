"""A decoder of `.sine` files written from docs/format.md alone: no line of sinefield is used."""

import json
import struct
import zlib
from collections import defaultdict

import numpy as np

R = [4294967296, 3938502376, 3611622603, 3311872529, 3037000500, 2784941738, 2553802834, 2341847524]
NAMES = (
    "width depth skips weights rank omega phase bound activation sigma omega0 frequencies represents band loss "
    "features head_width head_depth grid steps encoding levels log2_table coarsest finest space grid_levels cone_angle "
    "density beta points dim tokens heads blocks expand attention graying epsilon skip_attention skip_feedforward "
    "colours colour_width colour_depth colour_frequencies"
)
CHOICES = {
    "colours": ["no", "yes"],
    "weights": ["sine", "lowrank", "dense"],
    "activation": ["relu", "leaky_relu", "gaussian", "sine", "softplus"],
    "represents": ["distance", "occupancy", "sheet"],
    "loss": ["tanh", "l1", "bce", "mse", "asinh"],
    "encoding": ["frequency", "hash"],
    "space": ["box", "ndc", "contracted"],
    "density": ["free", "distance"],
    "attention": ["softmax", "x", "x^3"],
    "graying": ["none", "svd", "dct"],
}
KEYS = "seed steps seconds data path background downscale holdout held_out noise iou psnr source license author title"
BEGINNINGS = ["$SINEFIELD_DATA/", "$SINEFIELD_DATA/meshes/", "skimage:", "families:", "https://"]
HASH = {"encoding": "frequency", "levels": 12, "log2_table": 15, "coarsest": 16, "finest": 512}
SHAPE = {"width": 64, "depth": 3, "skips": [], "weights": "sine", "rank": 10, "omega": None, "phase": 2.5, "bound": 1.0}
SHAPE |= {"activation": "leaky_relu", "sigma": 0.1, "omega0": 30.0, "frequencies": 5}
SHAPE |= HASH
SHAPE |= {"represents": "distance", "band": 0.03, "loss": "tanh"}
SHAPE |= {"colours": "no", "colour_width": 24, "colour_depth": 2, "colour_frequencies": 4}
RADIANCE = {"width": 64, "depth": 4, "skips": [], "weights": "sine", "rank": 16, "omega": None, "phase": 0.5}
RADIANCE |= {"bound": 4.0, "activation": "relu", "sigma": 0.1, "omega0": 30.0, "frequencies": 8}
RADIANCE |= HASH
RADIANCE |= {"features": 15, "head_width": 64, "head_depth": 1, "grid": 64, "steps": 128}
RADIANCE |= {"space": "box", "grid_levels": 1, "cone_angle": 0.0}
RADIANCE |= {"density": "free", "beta": 0.003}
IMAGE = {
    "width": 96,
    "depth": 3,
    "skips": [],
    "weights": "sine",
    "rank": 16,
    "omega": None,
    "phase": 0.25,
    "bound": 2.0,
}
IMAGE |= {"activation": "gaussian", "sigma": 0.25, "omega0": 30.0, "frequencies": 7}
IMAGE |= HASH
MESH = {"vertices": 0, "faces": 0, "digits": 8, "subdivisions": 0}
SHAPES = {"weights": "dense", "rank": 16, "omega": None, "phase": 0.5, "bound": 4.0, "represents": "distance"}
SHAPES |= {"band": 0.06, "points": 1024, "dim": 128, "tokens": 192, "heads": 4, "blocks": 5, "expand": 3}
SHAPES |= {"attention": "softmax", "graying": "none", "epsilon": 0.9, "skip_attention": True, "skip_feedforward": True}
CODE: dict = {}  # a code of a shape has no settings of its own
WORDS = (
    b'{"seed":0,"steps":,"seconds":,"source":"$SINEFIELD_DATA/meshes/.obj","background":"white","downscale":8,'
    b'"holdout":8,"iou":[0.9,0.9],"psnr":[30.,"data":{"path":"lego'
)


class Bytes:
    def __init__(self, data, version=2):
        self.data, self.version, self.at = data, version, 0

    def take(self, n):
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            b = self.byte()
            value += (b % 128) << shift
            shift += 7
            if b < 128:
                return value

    def signed(self):
        v = self.varint()
        return v // 2 if v % 2 == 0 else -(v + 1) // 2

    def text(self):
        return self.take(self.varint()).decode()

    def choice(self, names):
        place = self.byte()
        return self.text() if place == 255 and self.version > 1 else names[place]

    def value(self):
        tag = self.byte()
        if tag < 3:
            return [None, False, True][tag]
        if tag == 3:
            return self.signed()
        if tag == 4:
            return struct.unpack("<d", self.take(8))[0]
        if tag == 5:
            return self.text()
        if tag == 6:
            return [self.value() for _ in range(self.varint())]
        if tag == 7:
            return self.object()
        if 16 <= tag < 32:
            return self.signed() / 10 ** (tag - 16)
        return BEGINNINGS[tag - 32] + self.text()

    def object(self):
        found = {}
        for _ in range(self.varint()):
            number = self.byte()
            key = KEYS.split()[number - 1] if number else self.text()
            found[key] = self.value()
        return found


class Coder:
    def __init__(self, data):
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        self.state = 0
        self.fill()

    def fill(self):
        while self.state < 2**32 and self.words:
            self.state = self.state * 2**32 + self.words.pop()

    def symbol(self, table):
        q, below = self.state % 2**24, 0
        for s, f in enumerate(table):
            if q < below + f:
                self.state = self.state // 2**24 * f + q - below
                self.fill()
                return s
            below += f
        raise AssertionError


def table(n, centre, slope, bend):
    def b(i):
        if i == 255:
            return 2**32
        s = i + 8 if i < 128 else i - 120
        p = R[s % 8] // 2 ** (s // 8)
        return 2**32 - p if i < 128 else p

    side, w, q, c = [2**32], 2**32, b(slope), b(bend)
    for _ in range(n):
        w = w * q // 2**32
        q = q * c // 2**32
        side.append(w)
    weights = [side[abs(i - centre)] for i in range(n)]
    f = [x * (2**24 - n) // sum(weights) + 1 for x in weights]
    f[centre] += 2**24 - sum(f)
    return f


def mlp(prefix, inputs, outputs, s, width, depth, dense):
    shapes = {f"{prefix}.weights.0.weight": (width, inputs)}
    for i in range(1, depth):
        columns = width + (inputs if i in s["skips"] else 0)
        if dense:
            shapes[f"{prefix}.weights.{i}.weight"] = (width, columns)
        else:
            shapes[f"{prefix}.weights.{i}.u"] = (width, s["rank"])
            shapes[f"{prefix}.weights.{i}.v"] = (s["rank"], columns)
    shapes[f"{prefix}.weights.{depth}.weight"] = (outputs, width)
    for i in range(depth + 1):
        shapes[f"{prefix}.biases.{i}"] = (width if i < depth else outputs,)
    return shapes


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name, d):
    return {f"{name}.weight": (d,), f"{name}.bias": (d,)}


def reader(name, s, dense=True):
    d, e, k = s["dim"], s["expand"] * s["dim"], s["rank"]
    shapes = norm(f"{name}.norm", d)
    for part in ("query", "key", "value", "out"):
        shapes |= linear(f"{name}.attend.project.{part}", d, d)
    shapes |= norm(f"{name}.forward_norm", d)
    shapes |= {f"{name}.feed.up_bias": (e,), f"{name}.feed.down_bias": (d,)}
    for part, rows, columns in (("up", e, d), ("down", d, e)):
        if dense:
            shapes[f"{name}.feed.{part}.weight"] = (rows, columns)
        else:
            shapes |= {f"{name}.feed.{part}.u": (rows, k), f"{name}.feed.{part}.v": (k, columns)}
    return shapes


def transformer(s):
    d = s["dim"]
    shapes = {"point": (d,)} | linear("token_place", d, 27) | linear("query_place", d, 27) | reader("read", s)
    for i in range(s["blocks"]):
        shapes |= reader(f"blocks.{i}", s, s["weights"] == "dense")
    return shapes | norm("settled", d) | reader("answer", s) | norm("out.0", d) | linear("out.1", 1, d)


def settings_of(r, base):
    s = dict(base)
    for _ in range(r.varint()):
        number = r.byte()
        if number == 0:
            name = r.text()
            s[name] = r.value()
            continue
        name = NAMES.split()[number % 128 - 1]
        if number >= 128:
            s[name] = None
        elif name in CHOICES:
            s[name] = r.choice(CHOICES[name])
        elif name == "skips":
            s[name] = [r.varint() for _ in range(r.varint())]
        elif isinstance(base[name], bool):
            s[name] = bool(r.varint())
        elif isinstance(base[name], int):
            s[name] = r.varint()
        else:
            s[name] = float(str(np.float32(struct.unpack("<f", r.take(4))[0])))
    return s


def bfloat16(data):
    return np.frombuffer(b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2)), "<f4")


def layers_of(r):
    """An adapter's layers by name, and the shapes of its tensors."""
    names = zlib.decompressobj(-15).decompress(r.take(r.varint())).decode().split("\n")
    forms, count, edit, grid_shape = [], r.varint(), None, None
    if count == 0:
        of, flags = r.choice(["shape", "radiance", "image"]), r.byte()
        (base,) = struct.unpack("<I", r.take(4))
        box = box_of(r) if flags & 1 else None
        grid_shape = (r.varint(), r.varint()) if flags & 2 else None
        edit, count = (of, base, box), r.varint()
    for _ in range(count):
        kind, flags = ["sine", "lora", "sine-dora", "dora"][r.byte()], r.byte()
        rank = r.varint()
        alpha, omega = r.take(4), r.take(4) if "sine" in kind else None
        alpha, omega = (x and float(str(np.float32(struct.unpack("<f", x)[0]))) for x in (alpha, omega))
        form = {"kind": kind, "rank": rank, "alpha": alpha, "omega": omega, "transposed": bool(flags & 1)}
        forms.append({**form, "rows": r.varint(), "columns": r.varint()})
    layers = {name: forms[r.varint()] for name in names}
    shapes = {}
    for name, f in layers.items():
        shapes |= {f"{name}.a": (f["rank"], f["columns"]), f"{name}.b": (f["rows"], f["rank"])}
        if "dora" in f["kind"]:
            shapes[f"{name}.magnitude"] = (f["rows"],)
    return layers, shapes, edit, grid_shape


def box_of(r):
    return struct.unpack("<6d", r.take(48)) if r.byte() else struct.unpack("<6f", r.take(24))


def note_of(r):
    note = r.take(r.varint())
    if r.version > 1:
        return Bytes(note).object() if note else {}
    return json.loads(zlib.decompressobj(-15, zdict=WORDS).decompress(note)) if note else {}


def arrays_of(r):
    found = {}
    for _ in range(r.varint()):
        name, kind = r.text(), r.byte()
        shape = [r.varint() for _ in range(r.varint())]
        n = int(np.prod(shape))
        if kind == 3:
            bits = [byte >> i & 1 for byte in r.take((n + 7) // 8) for i in range(8)]
            found[name] = np.array(bits[:n], bool).reshape(shape)
        else:
            found[name] = np.frombuffer(r.take(n * (4, 8, 8)[kind]), ("<f4", "<f8", "<i8")[kind]).reshape(shape)
    return found


def opened(data):
    """The bytes from the kind on."""
    assert data[:4] == b"SINE" and data[4] in (1, 2) and struct.unpack("<I", data[5:9])[0] == zlib.crc32(data[9:])
    return Bytes(data[9:], data[4])


def decode_registered(data, shapes_of):
    """Kind, settings, arrays, {name: float32 array}, note of a file whose kind has no number."""
    r = opened(data)
    assert r.byte() == 255
    kind, settings, arrays = r.text(), r.object(), arrays_of(r)
    note = note_of(r)
    values, coder, _ = tensors(r, shapes_of(kind, settings), 0, defaultdict(int), 0)
    assert coder.state == 0 and not coder.words
    return kind, settings, arrays, values, note


def shared_shapes(kind, s):
    """Shapes of the tensors of what a set of shapes shares."""
    assert kind == "shared"
    w, k, n = s["width"], s["rank"], s["depth"]
    m = 2 * n * w + 2 * (n - 1) * k * w + w + 1
    shapes = {"directions": (n - 1, k, w), "gains": (m,), "slopes": (m,)}
    return shapes | mlp("network", 3 * (1 + 2 * s["frequencies"]), 1, {"skips": []}, w, n, True)


def decode(data):
    """Settings, box (of an image its size), {name: float32 array}, cells or None, note.

    Of an adapter its layers come in place of settings, and what it edits in place of a box.
    """
    r = opened(data)
    kind = r.byte()
    if kind == 4:
        return adapter(r)
    s = settings_of(r, {1: SHAPE, 2: RADIANCE, 3: IMAGE, 5: SHAPES}[kind])
    box = None
    if kind == 3:
        box = r.varint(), r.varint()
    elif kind != 5:
        box = box_of(r)
    if kind == 2:
        r.take(3 + 44 + (0 if s["space"] == "box" else 60))
    note = note_of(r)
    shapes, d = shapes_of(kind, s)
    values, coder, contexts = tensors(r, shapes, d, defaultdict(int, s), 60 if kind == 2 else 0)
    cells = grid(coder, s["grid_levels"] * s["grid"], s["grid"], s["grid"], contexts) if kind == 2 else None
    assert coder.state == 0 and not coder.words
    return s, None if box is None else np.array(box), values, cells, note


def adapter(r):
    layers, shapes, edit, sides = layers_of(r)
    note = note_of(r)
    rows, shape, cells = rows_of(r, shapes, 0, defaultdict(int)), (*(sides or ()), *(sides or ())[1:]), None
    block = [(0, n) for n in shape]
    if sides and r.version > 1:
        block = [(r.varint(), r.varint()) for _ in range(3)]
    contexts = r.take(60 if sides else 0)
    coder = Coder(r.take(len(r.data) - r.at))
    values = levels_of(coder, rows, shapes)
    if sides:
        cells = np.zeros(shape, bool)
        cells[tuple(slice(a, a + n) for a, n in block)] = grid(coder, *(n for _, n in block), contexts)
    assert coder.state == 0 and not coder.words
    return layers, edit, values, cells, note


def code(data, slopes):
    """Of a code: box, the base's fingerprint, levels, note."""
    r = opened(data)
    assert r.byte() == 7 and r.varint() == 0
    box, held = box_of(r), r.take(r.varint())
    note = note_of(r)
    assert r.at == len(r.data)
    coder, levels = Coder(held[4:]), [0] * len(slopes)
    for slope in sorted(set(slopes)):
        for j in (j for j, own in enumerate(slopes) if own == slope):
            levels[j] = coder.symbol(table(255, 127, slope, 255)) - 127
    assert coder.state == 0 and not coder.words
    return np.array(box), struct.unpack("<I", held[:4])[0], levels, note


def shapes_of(kind, s):
    """Shapes of a field's tensors, and how many coordinates it has."""
    if kind == 5:
        return transformer(s), 0
    d = 2 if kind == 3 else 3
    inputs = d * (1 + 2 * s["frequencies"])
    low_rank = s["weights"] != "dense"
    shapes = {}
    if s["encoding"] == "hash":
        growth = (s["finest"] / s["coarsest"]) ** (1 / max(s["levels"] - 1, 1))
        cells = [int(s["coarsest"] * growth**i + 1e-6) for i in range(s["levels"])]
        shapes["encoding.table"] = (sum(min((n + 1) ** 3, 2 ** s["log2_table"]) for n in cells), 2)
        inputs = 2 * s["levels"]
    if kind != 2:
        outputs = 2 if s.get("represents") == "sheet" else {1: 1, 3: 3}[kind]
        shapes |= mlp("network", inputs, outputs, s, s["width"], s["depth"], not low_rank)
        if s.get("colours") == "yes":
            inputs = d * (1 + 2 * s["colour_frequencies"])
            shapes |= mlp("colour_network", inputs, 3, {"skips": []}, s["colour_width"], s["colour_depth"], True)
    else:
        shapes |= mlp("trunk", inputs, 1 + s["features"], s, s["width"], s["depth"], not low_rank)
        shapes |= mlp("head", s["features"] + 16, 3, {"skips": []}, s["head_width"], s["head_depth"], True)
    return shapes, d


def tensors(r, shapes, d, octaves, n_contexts):
    """{name: float32 array}, the coder after them, and the bytes between rows and payload."""
    rows = rows_of(r, shapes, d, octaves)
    contexts = r.take(n_contexts)
    coder = Coder(r.take(len(r.data) - r.at))
    return levels_of(coder, rows, shapes), coder, contexts


def rows_of(r, shapes, d, octaves):
    rows = {}
    for name, shape in shapes.items():
        form = r.byte()
        if form & 1:
            how = (np.frombuffer(r.take(2 * r.varint()), "<f2").astype(np.float32),)
        else:
            n = shape[0] if form & 2 else 1
            step = bfloat16(r.take(2 * n))
            offset = bfloat16(r.take(2 * n)) if form & 4 else np.zeros(n, np.float32)
            how = step, offset
        columns = [...]
        f = octaves["colour_frequencies" if name.startswith("colour") else "frequencies"]
        if form & 8:
            columns = [list(range(d))]
            columns += [[k * f * d + d + d * i + a for k in (0, 1) for a in range(d)] for i in range(f)]
        tables = []
        for group in columns:
            least, n = r.signed(), r.varint() + 1
            tables.append((group, least, table(n, r.varint(), r.byte(), r.byte()) if n > 1 else None))
        rows[name] = how, tables
    return rows


def levels_of(coder, rows, shapes):
    values = {}
    for name, (how, tables) in rows.items():
        levels = np.zeros(shapes[name], int)
        for group, least, f in tables:
            part = shapes[name] if group is ... else (*shapes[name][:-1], len(group))
            symbols = [least + (coder.symbol(f) if f else 0) for _ in range(int(np.prod(part)))]
            levels[... if group is ... else (..., group)] = np.array(symbols).reshape(part)
        if len(how) == 1:
            values[name] = how[0][levels]
        else:
            step, offset = (x.reshape((-1,) + (1,) * (levels.ndim - 1)) for x in how)
            values[name] = (levels.astype(np.float32) * step + offset).reshape(shapes[name])
    return values


def grid(coder, nx, ny, nz, contexts):
    frequency = []
    for v in contexts:
        step = v % 128 + 8
        f = max(R[step % 8] // 2 ** (step // 8) // 2**8, 1)
        frequency.append([2**24 - f, f] if v < 128 else [f, 2**24 - f])
    c = np.zeros((nx + 2, ny + 2, nz + 2), int)
    for x in range(1, nx + 1):
        for y in range(1, ny + 1):
            for z in range(1, nz + 1):
                p = c[x - 1]
                a, b = p[y, z], p[y - 1, z] + p[y + 1, z] + p[y, z - 1] + p[y, z + 1]
                d = c[x, y - 1, z - 1] + c[x, y - 1, z + 1]
                c[x, y, z] = coder.symbol(frequency[((5 * a + b) * 2 + c[x, y - 1, z]) * 3 + d])
    return c[1:-1, 1:-1, 1:-1].astype(bool)
