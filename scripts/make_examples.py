"""Make the small fields that the package brings, `sinefield/example_fields/*.sine`.

    python scripts/make_examples.py [--data FOLDER] [--only NAME]

knot: the demo's shape. spot: Keenan Crane's Spot (public domain), a mesh of the data folder. toys: the demo's scene by
its photographs. picture: NASA's photograph of Eileen Collins (public domain), which scikit-image brings. Each is
trained and packed for a fixed number of steps with seed 0, so that one machine always makes the same files; the largest
takes some minutes of one core.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import sinefield as sf
from sinefield.config import data_folder, make_config
from sinefield.data.made.synthetic import synthesize
from sinefield.learning.pack import pack
from sinefield.learning.train import train

FOLDER = Path(__file__).parents[1] / "sinefield" / "example_fields"
SHAPE = {"phase": 0.5, "bound": 4.0, "frequencies": 5, "activation": "leaky_relu", "band": 0.03}
FAST = {"optimizer": "muon", "lr": 0.02, "adam_lr": 1e-2}
FIELDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int, int]] = {
    "knot": ("shape", {**SHAPE, "width": 64, "rank": 10}, {**FAST, "batch": 16384, "steps": 4000}, 3500, 4000),
    "spot": ("shape", {**SHAPE, "width": 64, "rank": 12}, {**FAST, "batch": 16384, "steps": 5000}, 4000, 4000),
    "toys": (
        "radiance",
        {"width": 64, "depth": 4, "rank": 16, "phase": 0.5, "bound": 4.0, "frequencies": 8, "steps": 128},
        {**FAST, "batch": 32768, "steps": 3000},
        12000,
        1500,
    ),
    "picture": (
        "image",
        {"width": 96, "depth": 3, "weights": "sine", "rank": 16, "sigma": 0.25, "frequencies": 7},
        {"lr": 0.04, "adam_lr": 2e-2, "steps": 6000},
        9000,
        4000,
    ),
}
"""Kind, field, training, most bytes, and steps of packing."""


def data_of(name: str, folder: Path, given: Path) -> dict[str, Any]:
    """The data that a field is made from."""
    if name == "spot":
        return {"path": str(given / "meshes" / "spot.obj"), "points": 1_000_000}
    if name == "picture":
        return {"path": "skimage:astronaut.png", "downscale": 2}
    synthesize(folder / "demo")
    if name == "toys":
        return {"path": str(folder / "demo")}
    return {"path": str(folder / "demo" / "shape.ply"), "points": 1_000_000}


def make(name: str, given: Path) -> None:
    """Train and pack one field."""
    from sinefield.config import locate

    kind, field, training, most, steps = FIELDS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = data_of(name, folder, given)
        data["path"] = locate(data["path"])
        config = make_config({"kind": kind, "data": data, "field": field, "training": training}, name)
        train(config, folder / "run")
        FOLDER.mkdir(exist_ok=True)
        report = pack(folder / "run", FOLDER / f"{name}.sine", max_bytes=most, steps=steps, overwrite=True)
    print(
        name,
        report["bytes"],
        {k: v for k, v in report.items() if k in ("iou", "psnr")},
        sf.load(FOLDER / f"{name}.sine"),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--only", choices=FIELDS)
    options = parser.parse_args()
    for name in [options.only] if options.only else FIELDS:
        make(name, options.data)
