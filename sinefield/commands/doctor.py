"""sinefield doctor: what this machine can run. Each part is found out by trying it, never by guessing from versions."""

import argparse
import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sinefield.commands.command import Answer, Command
from sinefield.version import __version__

if TYPE_CHECKING:
    from sinefield.kernels.choose import Row


def run(options: argparse.Namespace) -> Answer:
    return examine()


def examine() -> Answer:
    """Try every backend; returns the findings and the same as a table.

    Each row: name, found, works (a tiny problem was solved and its answer compared), version, used or why not.
    """
    from sinefield.config import data_folder
    from sinefield.kernels.choose import choices
    from sinefield.machine import describe_machine

    rows = _try_all()
    report = {
        "sinefield": __version__,
        **describe_machine(),
        "data_folder": str(data_folder()),
        "data_folder_exists": data_folder().is_dir(),
        "backends": rows,
        "kernels": [row._asdict() for row in choices()],
    }
    lines = [
        f"sinefield {__version__}, Python {report['python']}, torch {report['torch']}, {report['cores']} cores, "
        f"{report['system']}",
        f"data folder {data_folder()}" + ("" if data_folder().is_dir() else " (absent; set SINEFIELD_DATA)"),
    ]
    for row in rows:
        state = "works" if row["works"] else ("found, fails" if row["found"] else "absent")
        lines.append(f"  {row['name']:<31}{state:<14}{row['version'] or '':<12}{row['note']}")
    lines += ["what runs each operation, and why not what would be faster:", *_table(choices())]
    return report, "\n".join(lines)


def _try_all() -> list[dict[str, Any]]:
    return [
        _try("marcher, compiled (numba)", _numba, "used on the CPU", "reinstall sinefield; without it nothing renders"),
        _try("networks by tiles (numba)", _tiles, "used on the CPU", "layers go one by one through torch; slower"),
        _try("bf16 arithmetic", _bf16, "used in training with precision: auto", "float32 is used instead; slower"),
        _try("ray casting (embreex)", _embree, "used by synth and pictures", "pip install embreex"),
        _try("winding numbers (libigl)", _igl, "used for inside and outside", "pip install libigl"),
        _try("entropy coding (constriction)", _coder, "used by pack", "pip install constriction"),
        _try("video (ffmpeg)", _ffmpeg, "used by video, frames, capture", "optional: pip install 'sinefield[video]'"),
        _try("fleets (ray)", _ray, "used by fleet", "optional: pip install 'sinefield[fleet]'"),
        _try("USDZ (usd-core)", _usd, "used by mesh for .usdz", "optional: pip install 'sinefield[usd]'"),
        _try("poses (pycolmap)", _pycolmap, "used by poses, capture", "optional: pip install 'sinefield[capture]'"),
        _try("poses (COLMAP program)", _colmap, "used by poses --program colmap", "optional: apt install colmap"),
        _try("HEIC (pillow-heif)", _heic, "used by poses, capture", "optional: pip install 'sinefield[capture]'"),
        _try(
            "TensorBoard (tensorboardX)",
            _board,
            "used by training.tensorboard",
            "optional: pip install 'sinefield[tensorboard]'",
        ),
        _try("viewer (viser)", _viser, "used by view", "optional: pip install 'sinefield[view]'"),
        _try("CUDA", _cuda, "used in training with device: auto", "training runs on the CPU"),
        _try("nerfacc", _nerfacc, "marches rays on CUDA", "optional: pip install 'sinefield[cuda]'"),
        _try(
            "Triton", _triton, "marches rays and composites on CUDA without nvcc", "optional: comes with torch for CUDA"
        ),
        _try("tinycudann", _tinycudann, "not used by auto, only by training.backend", "optional: see docs/cuda.md"),
        _try(
            "adapters in PEFT", _peft, "used by sinefield.adapters.peft", "optional: pip install 'sinefield[adapters]'"
        ),
        _try("LPIPS", _lpips, "used by eval", "optional; scores say null without it"),
    ]


def _table(rows: "Iterable[Row]") -> list[str]:
    """A line for each choice of a kernel."""
    return [
        f"  {row.op:<17}{row.device:<6}{row.dtype:<10}{row.chosen:<12}"
        + "; ".join(f"{name}: {why}" for name, why in row.passed.items())
        for row in rows
    ]


def _try(name: str, check: Callable[[], str | None], used: str, remedy: str) -> dict[str, Any]:
    """Run one check; whatever a foreign package raises is a finding, not a failure of ours."""
    row: dict[str, Any] = {"name": name, "found": True, "works": False, "version": None}
    try:
        row["version"] = check()
        return {**row, "works": True, "note": used}
    except ImportError as error:
        return {**row, "found": False, "note": f"{remedy} ({error})"}
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return {**row, "found": not isinstance(error, _Absent), "note": f"{remedy} ({reason})"}


class _Absent(Exception):
    """The thing is not here at all."""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numba() -> str | None:
    import torch

    from sinefield.render.march import Grid, March, march, march_reference

    rays_o, rays_d = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    grid = Grid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), torch.ones(2, 2, 2, dtype=torch.bool))
    ours, truth = (f(rays_o, rays_d, grid, March(0.1)).t_starts for f in (march, march_reference))
    if not torch.equal(ours, truth):
        raise RuntimeError("the compiled marcher disagrees with the reference")
    return _version("numba")


def _tiles() -> str | None:
    import torch

    from sinefield.kernels.choose import why_not_bf16
    from sinefield.nn.mlp import MLP

    net, dtypes = MLP(5, 2, width=24, depth=2, activation="relu"), [torch.float32]
    if why_not_bf16("cpu") is None:
        dtypes.append(torch.bfloat16)
    with torch.no_grad():
        for net.dtype in dtypes:
            chosen = net.choice("network", net.dtype, torch.device("cpu"))
            if chosen.name != "tiles":
                raise _Absent(f"not for {str(net.dtype).removeprefix('torch.')}: {chosen.passed['tiles']}")
            x = torch.linspace(-1, 1, 500).view(100, 5).to(net.dtype)
            if not torch.allclose(net(x), net.reference(x), atol=0.01):
                raise RuntimeError("the compiled network disagrees with torch")
    return _version("numba")


def _bf16() -> str | None:
    from sinefield.kernels.choose import why_not_bf16

    if why := why_not_bf16("cpu"):
        raise _Absent(why)
    return None


def _embree() -> str | None:
    import trimesh

    from sinefield.data.made.synthetic import Raycaster

    Raycaster(trimesh.creation.box())
    return _version("embreex")


def _ray() -> str | None:
    found = [_version(package) for package in ("ray", "pyarrow", "fsspec")]
    if None in found:
        raise _Absent("ray, pyarrow or fsspec is not installed")
    return found[0]


def _igl() -> str | None:
    import numpy as np
    import trimesh

    from sinefield.data.surfaces.surface import Surface, winding_number

    box = trimesh.creation.box()
    surface = Surface(np.array(box.vertices), box.faces.astype(np.int32), None, None, "box", {})
    inside, outside = winding_number(surface, np.array([[0.0, 0, 0], [2.0, 0, 0]]))
    if abs(inside - 1) > 0.01 or abs(outside) > 0.01:
        raise RuntimeError(f"winding numbers of a box are {inside:.3g} inside and {outside:.3g} outside")
    return _version("libigl")


def _coder() -> str | None:
    import numpy as np

    from sinefield.compress.entropy import Decoder, Encoder, frequencies

    symbols, table = np.array([0, 2, 1, 1]), frequencies(3, 1, 10, 4)
    encoder = Encoder()
    encoder.put(symbols, table)
    if Decoder(encoder.finish(), "a trial").take(4, table).tolist() != symbols.tolist():
        raise RuntimeError("what was coded is not what was decoded")
    return _version("constriction")


def _ffmpeg() -> str | None:
    from sinefield.errors import SinefieldError
    from sinefield.machine import ffmpeg_program

    try:
        command = [ffmpeg_program(), "-version"]
    except SinefieldError as error:
        raise _Absent("no ffmpeg program") from error
    words = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()
    return words[2].split("-")[0] if words[:2] == ["ffmpeg", "version"] else None


def _usd() -> str | None:
    from pxr import Usd

    Usd.Stage.CreateInMemory().DefinePrim("/mesh", "Mesh")
    return _version("usd-core")


def _pycolmap() -> str | None:
    import numpy as np
    import pycolmap

    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=8, height=6, params=[10.0, 4, 3])
    seen = camera.img_from_cam(np.array([[0.1, 0.2, 1.0]]))
    if seen is None or not np.allclose(seen, [[5, 5]]):
        raise RuntimeError("a camera sees a point elsewhere than where it is")
    return _version("pycolmap")


def _colmap() -> str | None:
    if shutil.which("colmap") is None:
        raise _Absent("no program colmap in the path")
    words = subprocess.run(["colmap", "help"], capture_output=True, text=True, timeout=20).stdout.split()
    return words[1] if words[:1] == ["COLMAP"] else None


def _heic() -> str | None:
    from io import BytesIO

    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener(thumbnails=False)
    Image.new("RGB", (64, 64), "red").save(stream := BytesIO(), "HEIF")
    red, green, _ = Image.open(stream, formats=["HEIF"]).convert("RGB").resize((1, 1)).tobytes()
    if red < 200 or green > 60:
        raise RuntimeError("a red picture is not red when it is read back")
    return _version("pillow-heif")


def _board() -> str | None:
    import tensorboardX

    return tensorboardX.__version__


def _viser() -> str | None:
    import viser

    return viser.__version__


def _cuda() -> str | None:
    import torch

    if not torch.cuda.is_available():
        raise _Absent("no CUDA device, or a torch built without CUDA")
    if float(torch.ones(2, device="cuda").sum()) != 2:
        raise RuntimeError("the device adds wrongly")
    return torch.version.cuda


def _nerfacc() -> str | None:
    from sinefield.kernels.cuda import nerfacc

    if why := nerfacc.why_not():
        raise (_Absent if why.startswith("not installed") else RuntimeError)(why)
    return _version("nerfacc")


def _triton() -> str | None:
    from sinefield.kernels.cuda import rays

    if why := rays.why_not():
        raise (_Absent if why.startswith("not installed") else RuntimeError)(why)
    return _version("triton")


def _tinycudann() -> str | None:
    from sinefield.kernels.cuda import tinycudann

    if why := tinycudann.why_not():
        raise (_Absent if why.startswith("not installed") else RuntimeError)(why)
    return _version("tinycudann")


def _peft() -> str | None:
    import peft
    import torch
    from torch import nn

    from sinefield.adapters.peft import SineLoraConfig

    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    base = nn.Sequential(layer)
    weight, x = layer.weight.detach().clone(), torch.randn(4, 8)
    settings = SineLoraConfig(r=2, lora_alpha=4, omega=9.0, target_modules=["0"])
    model = peft.get_peft_model(base, settings)
    factors = {name.split(".")[-3]: p for name, p in model.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        nn.init.normal_(factors["lora_B"])
        a, b = factors["lora_A"], factors["lora_B"]
        truth = x @ (weight + 2 * torch.sin(9 * b @ a) / 8**0.5).T + layer.bias
        if not torch.allclose(model(x), truth, atol=1e-5):
            raise RuntimeError("an adapted layer does not compute its formula")
    return _version("peft")


def _lpips() -> str | None:
    from sinefield.errors import SinefieldError
    from sinefield.metrics.images import Lpips

    try:
        Lpips()
    except SinefieldError as error:
        raise _Absent(str(error)) from error
    return _version("lpips")


COMMAND = Command(
    help="say what works on this machine, and why the rest does not",
    example="sinefield doctor",
    arguments=lambda parser: None,
    run=run,
)
