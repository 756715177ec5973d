"""A kind of field and a weight that the package does not know, from training to every command, defined here alone."""

import json
from dataclasses import dataclass
from dataclasses import field as setting
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import nn

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.config import NetworkConfig, TrainingConfig
from sinefield.errors import SinefieldError
from sinefield.fields.base import Field, Kind, Task, kept, kind_named, network_numbers, register_kind
from sinefield.nn.encodings import position_encoding
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import Dense, Weight, register_weight, weight_class


class Circulant(Weight):
    """A square matrix whose rows are one row, turned on: n numbers for n²."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.row = nn.Parameter(torch.randn(size) / size**0.5)
        self.register_buffer("turn", (torch.arange(size) - torch.arange(size)[:, None]) % size, persistent=False)

    @classmethod
    def start(cls, out_features, in_features, spec, omega0):
        assert out_features == in_features
        return cls(out_features)

    @staticmethod
    def numbers(out_features, in_features, rank):
        return in_features

    def matrix(self):
        return self.row[self.turn]


register_weight("circulant", Circulant)


@dataclass
class HeightsFieldConfig(NetworkConfig):
    width: int = 24
    depth: int = 3
    weights: str = "circulant"
    frequencies: int = 2


@dataclass
class HeightsDataConfig:
    path: str = ""


@dataclass
class HeightsConfig:
    kind: Literal["heights"] = "heights"
    seed: int = 0
    data: HeightsDataConfig = setting(default_factory=HeightsDataConfig)
    field: HeightsFieldConfig = setting(default_factory=HeightsFieldConfig)
    training: TrainingConfig = setting(default_factory=TrainingConfig)


class HeightField(Field):
    """Heights above the square [−1, 1]²; the range of what it has learned is a buffer of its own."""

    kind = "heights"

    def __init__(self, config: HeightsFieldConfig, span: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.encoding = position_encoding(config, dimensions=2)
        self.network = MLP.of(config, self.encoding.out_features, 1)
        self.register_buffer("span", span.double())

    def set_dtype(self, dtype):
        self.encoding.dtype = self.network.dtype = dtype

    def forward(self, x):
        return self.network(self.encoding(x))[:, 0]

    @torch.no_grad()
    def grid(self, n: int) -> torch.Tensor:
        return self(square(n)).view(n, n) * self.span[1] + self.span[0]


def square(n: int) -> torch.Tensor:
    line = torch.linspace(-1, 1, n)
    return torch.cartesian_prod(line, line)


class HeightsTask(Task):
    def __init__(self, config, data, field=None):
        self.config, self.device, self.progress = config, torch.device("cpu"), 0.0
        torch.manual_seed(config.seed)
        span = torch.tensor([float(data.mean()), float(data.std())])
        self.field = HeightField(config.field, span) if field is None else field
        self.x, self.y = square(len(data)), ((data - data.mean()) / data.std()).flatten().float()
        self.data = data

    def hidden_matrices(self):
        return self.field.network.hidden_matrices()

    def step(self, index, generator):
        chosen = torch.randint(len(self.x), (self.config.training.batch,), generator=generator)
        loss = (self.field(self.x[chosen]) - self.y[chosen]).square().mean()
        loss.backward()
        return kept(loss)

    def quick_score(self):
        return {"psnr": HEIGHTS.quality(self.field, self.data)}

    def probe(self):
        return lambda: self.field(self.x)


class HeightsKind(Kind):
    name = "heights"
    config = HeightsConfig
    shows = "picture"
    placed = {"span": (2,)}  # noqa: RUF012

    def read(self, config):
        return torch.from_numpy(np.loadtxt(config.data.path))

    def task(self, config, data, field=None):
        return HeightsTask(config, data, field)

    def blank(self, settings, placed):
        return HeightField(settings, placed["span"])

    def numbers(self, settings):
        return network_numbers(settings)

    def quality(self, field, data):
        field.set_dtype(torch.float32)
        error = (field.grid(len(data)) - data).square().mean()
        return float(10 * torch.log10((data.max() - data.min()) ** 2 / error))

    def extent(self, field):
        return {"span": field.span.tolist()}, "the square from -1 to 1"

    def picture(self, field, width=None):
        heights = field.grid(width or 32).numpy()
        grey = 255 * (heights - heights.min()) / np.ptp(heights)
        return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)

    def surface(self, field, resolution, level=None, dense=False, crop=None):
        n = resolution
        z = field.grid(n).numpy().ravel()
        vertices = np.column_stack([square(n).numpy(), z])
        corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
        faces = np.concatenate(
            [np.stack([corner, corner + n, corner + 1], 1), np.stack([corner + 1, corner + n, corner + n + 1], 1)]
        )
        about = {"minimum": z.min(), "maximum": z.max(), "evaluations": n * n, "level": 0.0, "level_note": None}
        return vertices, faces.astype(np.int32), about


HEIGHTS = register_kind(HeightsKind())


def truth(n: int) -> np.ndarray:
    x, y = square(n).double().unbind(1)
    return (3 + torch.sin(2 * x) * torch.cos(3 * y) + 0.5 * x).numpy().reshape(n, n)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heights")
    np.savetxt(folder / "hills.txt", truth(32))
    (folder / "hills.yaml").write_text("kind: heights\ndata:\n  path: hills.txt\ntraining:\n  batch: 512\n")
    assert main(["train", str(folder / "hills.yaml"), "--out", str(folder / "run"), "--training.steps", "300"]) == 0
    return folder


def said(arguments: list[Any], capsys) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_it_learns(trained, capsys):
    report = said(["eval", trained / "run"], capsys)
    assert report["kind"] == "heights" and report["psnr"] > 25
    assert np.abs(sf.load(trained / "run")._torch().grid(32).numpy() - truth(32)).max() < 0.5


def test_what_is_stored_is_what_was_trained(trained):
    field = sf.load(trained / "run")
    arrays = dict(field._torch().named_parameters())
    assert arrays["network.weights.1.row"].shape == (24,) and field.params == sum(p.numel() for p in arrays.values())
    matrix = field._torch().network.weights[1]()
    assert torch.equal(matrix, torch.stack([arrays["network.weights.1.row"].roll(i) for i in range(24)]))


@pytest.mark.parametrize(
    "options", [["--max-bytes", "900", "--steps", "60"], ["--bits", "6", "--steps", "0"], ["--steps", "30"]]
)
def test_it_packs(trained, tmp_path, capsys, options):
    report = said(["pack", trained / "run", tmp_path / "hills.sine", *options], capsys)
    packed, run = sf.load(tmp_path / "hills.sine"), sf.load(trained / "run")
    assert report["bytes"] == packed.nbytes and ("900" not in options or packed.nbytes <= 900)
    noted = {} if "900" in options else {"psnr": pytest.approx(report["psnr"], abs=1e-3)}  # where every byte counts
    assert packed.kind == "heights" and packed.scores == noted
    assert torch.equal(packed._torch().span, run._torch().span)
    assert packed._torch().config == run._torch().config
    assert (packed._torch().grid(16) - run._torch().grid(16)).abs().max() < 1.0


def test_commands_take_it(trained, tmp_path, capsys):
    run, file = trained / "run", tmp_path / "hills.sine"
    said(["pack", run, file, "--steps", "0"], capsys)
    for path in (run, file):
        assert said(["info", path], capsys)["span"] == sf.load(run)._torch().span.tolist()
        assert said(["image", path, tmp_path / f"{path.name}.png", "--width", "40"], capsys)["width"] == 40
        assert np.ptp(np.asarray(Image.open(tmp_path / f"{path.name}.png"))) == 255
        assert said(["report", path, "--out", tmp_path / f"{path.name}.html"], capsys)["kind"] == "heights"
    assert {row["kind"] for row in said(["compare", run, file, "--out", tmp_path / "c.png"], capsys)["runs"]} == {
        "heights"
    }
    assert said(["unpack", file, tmp_path / "again"], capsys)["kind"] == "heights"
    assert torch.equal(sf.load(tmp_path / "again")._torch().grid(9), sf.load(file)._torch().grid(9))


def test_it_is_meshed(trained):
    mesh = sf.load(trained / "run").mesh(24)
    assert isinstance(mesh, trimesh.Trimesh) and np.abs(mesh.vertices[:, 2] - truth(24).ravel()).max() < 0.5


def test_what_it_cannot_do_is_said(trained, tmp_path, capsys):
    for command in (["video", trained / "run", tmp_path / "a.mp4"], ["mesh", trained / "run", tmp_path / "a.ply"]):
        assert main([str(c) for c in command]) == 2
        assert "heights" in capsys.readouterr().err
    with pytest.raises(SinefieldError, match="heights"):
        sf.load(trained / "run").sdf([[0, 0, 0]])


def test_damage_is_said(trained, tmp_path):
    said_path = tmp_path / "hills.sine"
    assert main(["pack", str(trained / "run"), str(said_path), "--steps", "0"]) == 0
    data = said_path.read_bytes()
    for cut in (5, 20, len(data) // 2, len(data) - 1):
        said_path.write_bytes(data[:cut])
        with pytest.raises(SinefieldError):
            sf.load(said_path)


def test_names_are_taken_once():
    with pytest.raises(SinefieldError, match="already"):
        register_weight("sine", Circulant)
    with pytest.raises(SinefieldError, match="cannot name"):
        register_weight("two words", Circulant)
    assert weight_class("dense") is Dense and register_weight("circulant", Circulant) is Circulant

    class Other(HeightsKind):
        pass

    with pytest.raises(SinefieldError, match="already"):
        register_kind(Other())
    assert kind_named("heights") is HEIGHTS
