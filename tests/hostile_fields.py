"""Settings, fields, runs and adapters for tests/hostile.py: small sound files of each, and what reads them."""

import json
import struct
import zlib
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from random import Random

import torch
from hostile_format import Format, folder_of, words_of
from torch import nn

from sinefield.adapters import AdapterSpec, attach, save_adapter
from sinefield.adapters.file import load_adapter
from sinefield.config import load_config, make_config
from sinefield.errors import SinefieldError
from sinefield.export.info import describe
from sinefield.fields.image.field import ImageField
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.store.fields import load_field, load_state_field, save_field
from sinefield.store.run import Run
from sinefield.tensor_files import save_tensors

SCENES = [
    {
        "kind": "shape",
        "seed": 3,
        "data": {"path": "a.ply", "points": 5000},
        "field": {"width": 16, "rank": 2, "omega": 9.5},
    },
    {"kind": "radiance", "data": {"path": "d", "aabb": [-1, -1, -1, 1, 1, 1]}, "training": {"steps": 5, "hull": False}},
    {"kind": "image", "data": {"path": "a.png"}, "field": {"skips": [1], "depth": 3}, "training": {"lr": 1e-3}},
]


def yaml() -> Format:
    def lines(scene: dict) -> bytes:
        blocks = [f"{k}:\n" + "".join(f"  {a}: {json.dumps(b)}  # why\n" for a, b in v.items()) if isinstance(v, dict)
                  else f"{k}: {v}\n" for k, v in scene.items()]  # fmt: skip
        return "".join(blocks).encode()

    words = words_of(
        "!!python/object/apply:os.system !!binary &a *a <<: !!set ? - | > 2001-99-99 1:1:1 0x1F .inf ~ yes --- %YAML"
    )
    words += [
        b"kind: [1]",
        b"[*a,*a]",
        b"a: &a [1,1]\nb: &b [*a,*a]\n",
        b": : :",
        b"'",
        b"\t",
        b"1" + b":1" * 4000,
        b"0x" + b"F" * 6000,
    ]
    examples = [{"a.yaml": lines(scene)} for scene in SCENES]
    return Format("yaml", examples, ["a.yaml"], _read_scene, words)


def _read_scene(folder: Path) -> None:
    load_config(folder / "a.yaml")


@cache
def _fields() -> list[nn.Module]:
    def config(kind: str, **settings) -> object:
        return make_config({"kind": kind, "field": settings, "data": {"path": "-"}}, "test").field

    torch.manual_seed(0)
    small = {"width": 8, "depth": 2, "rank": 2, "frequencies": 2}
    box = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    shape = ShapeField(config("shape", **small), torch.zeros(3).double(), torch.ones(()).double(), box.double())
    cube = RadianceField(config("radiance", **small, grid=4, head_width=4, features=3, steps=16), box)
    return [shape, cube, ImageField(config("image", **small), 6, 4)]


def field_file() -> Format:
    def save(which: nn.Module, folder: Path) -> None:
        save_field(folder / "field.safetensors", which, {"seed": 0, "steps": 5, "seconds": 0.1, "loss": 0.5})

    examples = [folder_of(partial(save, which)) for which in _fields()]
    words = words_of(
        "F64 F32 BF16 I64 BOOL U8 shape dtype data_offsets __metadata__ kind field width depth grid dense hash rank"
    )
    words += [
        b'\\"width\\": 8192',
        b'\\"depth\\": 64',
        b'\\"weights\\": \\"dense\\"',
        b'\\"grid\\": 512',
        b'\\"grid_levels\\": 10',
    ]
    words += [b'\\"encoding\\": \\"hash\\"', b'\\"log2_table\\": 24']
    return Format("field", examples, ["field.safetensors"], _read_field, words, mend=_mended_tensors)


def _mended_tensors(data: bytes, rng: Random) -> bytes:
    """The length of the header as it is now, for the most part."""
    end = data.find(b"}}", data.rfind(b"data_offsets"))
    if end < 0 or rng.random() < 0.2:
        return data
    end += 2
    while data[end : end + 1] == b" ":  # up to a multiple of eight
        end += 1
    return struct.pack("<Q", end - 8) + data[8:]


def _read_field(folder: Path) -> None:
    load_field(folder / "field.safetensors")


def run() -> Format:
    examples = []
    for which, scene in zip(_fields(), SCENES, strict=True):

        def save(folder: Path, which=which, scene=scene) -> None:
            settings = scene | {"field": {k: v for k, v in vars(which.config).items() if k != "omega"}}
            run = Run.prepare(folder, make_config(settings, "test"))
            save_field(run.field_path, which, {"steps": 5, "seconds": 0.1})
            run.append_metrics({"step": 2, "seconds": 0.1, "loss": 0.5, "iou": 0.75})
            run.append_metrics({"step": 5, "seconds": 0.2, "loss": 0.25, "iou": 0.9})
            run.report_path.write_text(
                json.dumps({"kind": which.kind, "iou": 0.9, "psnr": 20.5, "per_view": [{"view": "a", "psnr": 3}]})
            )
            state = {f"field.{k}": v.clone() for k, v in which.state_dict().items()}
            save_tensors(run.state_path, state, {"step": 5, "seconds": 0.2})

        examples.append(folder_of(save))
    files = ["config.yaml", "metrics.jsonl", "report.json", "state/state.safetensors"]
    words = words_of("step seconds loss iou kind 5 Infinity NaN null width field")
    return Format("run", examples, files, _read_run, words)


def _read_run(folder: Path) -> None:
    run = Run(folder)
    describe(folder)
    run.read_report()
    [line["step"] <= 5 for line in run.read_metrics()]
    load_state_field(run)


def adapter() -> Format:
    def save(kind: str, folder: Path) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
        attach(model, ["0", "2"], AdapterSpec(kind, rank=2))
        save_adapter(model, folder / "a.safetensors")

    examples = [folder_of(partial(save, kind)) for kind in ("sine", "lora", "dora")]
    words = words_of("F64 F32 BF16 I64 BOOL shape dtype data_offsets __metadata__ targets rank alpha kind adapter 0.a")
    return Format("adapter", examples, ["a.safetensors"], read_adapter, words, mend=_mended_tensors)


def read_adapter(folder: Path) -> None:
    load_adapter(folder / "a.safetensors")


GOLDEN = Path(__file__).parent / "golden"
HEAD = 9
"""Bytes of a .sine file before what its checksum is of."""


def sine() -> Format:
    """Packed fields, edits and adapters whose checksum is sound whatever they hold."""
    examples = [{"a.sine": file.read_bytes()} for file in sorted(GOLDEN.glob("*.sine"))]
    examples += [{"a.sine": (GOLDEN / "mesh.sine").read_bytes()}] * 4  # of which there is but one
    return Format(
        "sine", examples, ["a.sine"], read_sine, words_of("kind width depth rank"), mend=_sealed, prepare=sound_ones
    )


def sound_ones() -> None:
    for file in GOLDEN.glob("*.sine"):
        with suppress(SinefieldError):  # edits and adapters are no fields
            load_field(file)


def _sealed(data: bytes, rng: Random) -> bytes:
    body = data[HEAD:]
    version = data[4:5] if data[4:5] in (b"\1", b"\2") and rng.random() < 0.9 else b"\2"
    return b"SINE" + version + struct.pack("<I", zlib.crc32(body)) + body


def read_sine(folder: Path) -> None:
    """As a field, and where it is none as an adapter."""
    file = folder / "a.sine"
    try:
        load_field(file)
    except SinefieldError:
        load_adapter(file)
