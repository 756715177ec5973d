"""What a golden file decodes to, as plain data, and how it differs from what it decoded to when it was made."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# Everything that loads: when loading moves, these lines move.
from sinefield.adapters.file import load_adapter, restore
from sinefield.adapters.file import load_packed as load_packed_adapter
from sinefield.compress.code import base_of, code_in
from sinefield.store.fields import load_field
from sinefield.store.run import Run

FOLDER = Path(__file__).parent / "golden"
SIDE = 12
"""Pixels along a picture's sides."""
TOLERANCE = {"density": 3e-4}
"""Of a value, relative to itself; a density is an exponential."""
USUAL, LEVELS = 2e-5, 1
"""Of a value, relative to the largest of its kind; of a picture's pixel."""


class Conv1D(nn.Module):
    """A layer that holds its matrix as (in, out), as Hugging Face's of this name does: y = x W + b."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.nf = out_features
        self.weight = nn.Parameter(torch.zeros(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x):
        return x @ self.weight + self.bias


Conv1D.__module__ = "transformers.pytorch_utils"


class SmallModel(nn.Module):
    """A model for adapters, its numbers by a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), Conv1D(5, 6)
        self.third, self.fourth = nn.Conv2d(1, 3, (1, 3), padding=(0, 1)), nn.Linear(15, 4)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.sin(torch.arange(1.0, p.numel() + 1)).view_as(p) / math.sqrt(max(p.shape[-1], 4)))

    def forward(self, x):
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.fourth(torch.tanh(self.third(x[:, None, None])).flatten(1))


def names_in(folder: Path) -> list[str]:
    """Every golden file and run folder below a folder."""
    files = [path.name for path in folder.iterdir() if path.suffix in (".sine", ".safetensors")]
    return sorted(files) + sorted(f"runs/{path.name}" for path in (folder / "runs").iterdir())


def as_text(expected: dict[str, Any]) -> str:
    """JSON with a line for each thing that is known of each file."""

    def lines(content: dict[str, Any], deep: int) -> str:
        parts = []
        for key, value in content.items():
            inner = lines(value, deep - 1) if deep else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            parts.append(f"{json.dumps(key)}: {inner}")
        return "{\n" + ",\n".join(parts) + "\n}"

    ask, files = lines(expected["ask"], 0), lines(expected["files"], 1)
    return f'{{\n"ask": {ask},\n"files": {files}\n}}\n'


def read(folder: Path, name: str, ask: dict[str, Any]) -> dict[str, Any]:
    """What a golden file is now: kind, settings, note, place, tensors, cells, values, picture; those that it has."""
    path = folder / name
    if name.startswith("adapter"):
        return _adapter(path, ask)
    if name.startswith("edit_of_"):
        return _edit(folder, name, ask)
    if name.startswith("code_of_"):
        return _code(folder, name, ask)
    field, note = load_field(path)
    found = {"kind": field.kind, "settings": _plain(vars(field.config)), "note": _note(note), **_content(field)}
    if path.is_dir():
        found["config"] = _config(path)
    return {**found, **_answers(field, ask)}


def checksum(array: np.ndarray) -> str:
    """CRC-32 of the bytes of float32 little-endian values."""
    return f"{zlib.crc32(np.ascontiguousarray(array, '<f4').tobytes()):08x}"


def cells_of(cells: np.ndarray) -> dict[str, Any]:
    """Of occupied cells."""
    return {"shape": list(cells.shape), "count": int(cells.sum()), "crc": f"{zlib.crc32(np.packbits(cells)):08x}"}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda v: np.asarray(v).tolist()))


def _note(note: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _plain(note).items() if key not in ("field", "version")}


def _config(run: Path) -> dict[str, Any]:
    config = Run(run).config()
    parts = {name: _plain(vars(getattr(config, name))) for name in ("data", "field", "training")}
    return {"kind": config.kind, "seed": config.seed, **parts}


def _tensors(tensors: dict[str, torch.Tensor]) -> dict[str, list[Any]]:
    return {name: [list(t.shape), checksum(t.detach().numpy())] for name, t in tensors.items()}


def _content(field: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {"tensors": _tensors(dict(field.named_parameters())), "place": {}}
    for name in ("aabb", "background", "view", "frame", "size"):
        if hasattr(field, name):
            found["place"][name] = getattr(field, name).tolist()
    if field.kind == "mesh":
        found["tensors"] = _tensors({"nodes": field.nodes, "faces": field.faces})
    if field.kind == "radiance":
        found["cells"] = cells_of(field.grid.binaries.numpy())
    return found


def _adapter(path: Path, ask: dict[str, Any]) -> dict[str, Any]:
    targets = load_adapter(path)
    tensors = {f"{name}.{part}": t for name, target in targets.items() for part, t in target.tensors().items()}
    model = SmallModel()
    restore(model, path)
    with torch.no_grad():
        values = {"output": model(torch.tensor(ask["points"]))}
    settings = {name: target.settings() for name, target in targets.items()}
    return {"kind": "adapter", "settings": _plain(settings), "tensors": _tensors(tensors), "values": _values(values)}


def _edit(folder: Path, name: str, ask: dict[str, Any]) -> dict[str, Any]:
    path, base = folder / name, folder / name.removeprefix("edit_of_")
    packed = load_packed_adapter(path)
    field, _ = load_field(base, [path])
    found = _content(field)
    found["tensors"] = _tensors({name: torch.from_numpy(coded.values()) for name, coded in packed.tensors.items()})
    head = {"kind": packed.kind, "settings": _plain(packed.settings), "note": _note(packed.note)}
    return {**head, **found, **_answers(field, ask)}


def _code(folder: Path, name: str, ask: dict[str, Any]) -> dict[str, Any]:
    """The levels, and the shape that they make of their base."""
    path, base = folder / name, folder / name.removeprefix("code_of_")
    packed, (shared, _) = load_packed_adapter(path, or_code=True), load_field(base)
    assert packed.code is not None
    levels = code_in(packed.code, shared.slopes.numpy().astype(np.int64), name)
    field, _ = load_field(base, [path])
    settings = {"base": base_of(packed.code), "levels": levels.tolist()}
    place = {"aabb": field.aabb.tolist()}
    head = {"kind": packed.kind, "settings": settings, "note": _note(packed.note), "place": place}
    return {**head, **_answers(field, ask)}


@torch.no_grad()
def _answers(field: nn.Module, ask: dict[str, Any]) -> dict[str, Any]:
    unit = torch.tensor(ask["points"], dtype=torch.float64)
    if field.kind == "image":
        x = (2 * unit[:, :2] - 1).float()
        return {"values": _values({"colour": field(x)}), "picture": _picture(field.render(SIDE, SIDE).numpy())}
    if field.kind == "shapes":
        cloud = np.array(ask["cloud"])
        shape = field.shape_of(cloud)
        return {"values": _values({"shape": shape.evaluate(_within(unit, shape.aabb, 1.2))})}
    if field.kind == "shared":
        return {"values": _values({"shape of no code": field(2 * unit.float() - 1)})}
    if field.kind in ("shape", "mesh"):
        return {"values": _values({"shape": field.evaluate(_within(unit, field.aabb, 1.3))})}
    return _radiance(field, unit, torch.tensor(ask["directions"]), ask["eyes"])


def _within(unit: torch.Tensor, box: torch.Tensor, reach: float) -> torch.Tensor:
    """Points of the unit cube spread over a box as many times larger, float64."""
    low, high = box.double()[:3], box.double()[3:]
    return (low + high) / 2 + (unit - 0.5) * reach * (high - low)


def _radiance(field: nn.Module, unit: torch.Tensor, directions: torch.Tensor, eyes: dict[str, Any]) -> dict[str, Any]:
    space = field.config.space
    x = _within(unit, field.aabb, 5.0 if space == "contracted" else 1.0).float()
    colours, densities = field(x, directions)
    values = {"density": field.density(x), "density again": densities, "colour": colours}
    if field.config.density == "distance":
        values["distance"] = field.distance(x)
    rays = _rays(eyes["world" if space == "box" else space], space == "box")
    field.by_stretches = False  # all that a ray meets, also behind what stops it
    pixels = field.render(*rays)
    values["depth"] = pixels.depths[::9]
    black = torch.zeros(len(rays[0]), 3)
    values["squared error"] = field.squared_error(*rays, field.sampling(*rays), black, black)
    colours = pixels.over(field.background).clamp(0, 1)
    picture = (255 * colours).round().to(torch.uint8).view(SIDE, SIDE, 3)
    return {"values": _values(values), "picture": _picture(picture.numpy())}


def _rays(eye: list[float], around: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a camera that looks at the origin, z up; or along −z, y up."""
    eye = np.array(eye)
    back = eye / np.linalg.norm(eye) if around else np.array([0.0, 0, 1])
    up = np.array([0.0, 0, 1]) if around else np.array([0.0, 1, 0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    y, x = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE - 0.5
    d = x[..., None] * right - y[..., None] * np.cross(back, right) - (1.3 if around else 0.9) * back
    d = (d / np.linalg.norm(d, axis=-1, keepdims=True)).reshape(-1, 3)
    return torch.from_numpy(np.tile(eye, (len(d), 1))).float(), torch.from_numpy(d).float()


def _values(values: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Eight digits, which is more than float32 has."""

    def digits(value: Any) -> Any:
        return [digits(v) for v in value] if isinstance(value, list) else float(f"{value:.8g}")

    return {name: digits(t.tolist()) for name, t in values.items()}


def _picture(pixels: np.ndarray) -> list[str]:
    """A row of pixels is a row of hexadecimal digits, six a pixel."""
    return [row.astype(np.uint8).tobytes().hex() for row in pixels]


def differences(found: dict[str, Any], expected: dict[str, Any], slack: float = 1.0) -> list[str]:
    """What is not as it was. Settings that a later version added are passed over; everything else is compared.

    Arguments:
        slack: times the tolerance of values and pixels.
    """
    wrong = []
    for part, was in expected.items():
        is_now = found.get(part)
        if part == "values":
            wrong += [f"values: {name}" for name in was if not _alike(name, is_now.get(name), was[name], slack)]
        elif part == "picture":
            pixels = [np.frombuffer(bytes.fromhex("".join(rows)), np.uint8).astype(int) for rows in (is_now, was)]
            off = np.abs(pixels[0] - pixels[1]).max()
            wrong += [f"picture: {off} levels"] if off > slack * LEVELS else []
        else:
            wrong += [f"{part}: {text}" for text in _unequal(is_now, was)]
    return wrong


def _alike(name: str, found: Any, expected: Any, slack: float) -> bool:
    found, expected = np.array(found, float), np.array(expected, float)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    name = name.split()[0]
    if name in TOLERANCE:
        return bool((np.abs(found - expected) <= slack * TOLERANCE[name] * np.abs(expected)).all())
    return bool(np.abs(found - expected).max() <= slack * USUAL * np.abs(expected).max())


def _unequal(found: Any, expected: Any) -> list[str]:
    """Names of what differs; what only `found` has does not count."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [f"{key} {text}".strip() for key in expected for text in _unequal(found.get(key), expected[key])]
    return [] if found == expected and type(found) is type(expected) else [f"is {found}, was {expected}"[:120]]
