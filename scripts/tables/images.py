"""Sine low rank, plain low rank, dense and a narrower dense network on one image, packed, beside JPEG and WebP.

    python scripts/tables/images.py [scenes/image_small.yaml] [--steps 500] [--rates 0.5 1]

Every contender trains for the same number of steps on the same pixels; its learning rates (Muon's and Adam's together)
are swept over --rates, the sine's phase over --phases. The best by PSNR is packed as `sinefield pack` does with no
options, for --pack-steps.
The narrower dense network has as many parameters as the low-rank ones, or a few less. JPEG and WebP are Pillow's, at
the lowest quality that reaches the packed field's PSNR. Writes docs/results/images.md and .png.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sinefield.config import ImageConfig, load_config, make_config
from sinefield.fields.base import read_data
from sinefield.fields.image.field import ImageField
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.machine import describe_machine
from sinefield.metrics.images import psnr
from sinefield.nn.mlp import count_parameters
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.strict import to_plain
from sinefield.tables import table

OUT = Path(__file__).parents[2] / "docs" / "results"
CODECS = {"JPEG": {"optimize": True}, "WebP": {"method": 6}}
MARKS = {"sine low rank": "o", "plain low rank": "s", "narrower dense": "^", "dense": "*"}


def variant(config: ImageConfig, rate: float, **field: object) -> ImageConfig:
    """The scene's config with other field settings and both learning rates scaled."""
    plain = to_plain(config)
    plain["field"] |= field
    plain["training"]["lr"] *= rate
    plain["training"]["adam_lr"] *= rate
    return make_config(plain, "variant")


def equal_width(config: ImageConfig, params: int) -> int:
    """Width of the dense network with the most parameters that is no larger."""
    widths = range(config.field.width, 0, -1)
    fields = (ImageField(variant(config, 1, weights="dense", width=w, rank=1).field, 8, 8) for w in widths)
    return next(w for w, field in zip(widths, fields, strict=True) if count_parameters(field) <= params)


def coded(image: np.ndarray, codec: str) -> list[tuple[int, float, np.ndarray]]:
    """Bytes, PSNR and pixels at every quality from 1 to 95."""
    rows = []
    for quality in range(1, 96):
        file = io.BytesIO()
        Image.fromarray(image).save(file, codec, quality=quality, **CODECS[codec])
        shown = np.asarray(Image.open(file).convert("RGB"))
        rows.append((file.tell(), float(psnr(torch.tensor(shown), torch.tensor(image))), shown))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", nargs="?", default=str(OUT.parents[1] / "scenes" / "image_small.yaml"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--pack-steps", type=int, default=180)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--phases", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    options = parser.parse_args()
    begin = time.time()
    config = load_config(options.scene, {"training.steps": str(options.steps), "training.score_seconds": "1e9"})
    image = read_data(config).numpy()
    codecs = {codec: coded(image, codec) for codec in CODECS}
    rows, shown = [], {}

    def contend(name: str, folder: Path, **field: object) -> int:
        tried = []

        def attempt(rate: float, phase: float) -> None:
            run = folder / f"{name} {rate} {phase}"
            tried.append((train(variant(config, rate, phase=phase, **field), run)["psnr"], rate, phase, run))

        for phase in options.phases if field["weights"] == "sine" else options.phases[:1]:
            attempt(options.rates[-1], phase)
        phase = max(tried)[2]
        for rate in options.rates[:-1]:
            attempt(rate, phase)
        _, rate, phase, run = max(tried)
        report = Run(run).read_report()
        packed = pack(run, run.with_suffix(".sine"), steps=options.pack_steps)
        rival = {f"{c} bytes": next((n for n, p, _ in all_ if p >= packed["psnr"]), None) for c, all_ in codecs.items()}
        rows.append({
            "weights": name,
            "width": field.get("width", config.field.width),
            "params": report["params"],
            "rate": rate,
            "phase": phase if field["weights"] == "sine" else None,
            "PSNR": round(report["psnr"], 2),
            "SSIM": round(report["ssim"], 3),
            "packed bytes": packed["bytes"],
            "packed PSNR": round(packed["psnr"], 2),
            **rival,
        })  # fmt: skip
        print(rows[-1], flush=True)
        shown[name] = load_field(run.with_suffix(".sine"))[0].render().numpy()
        return report["params"]

    with tempfile.TemporaryDirectory() as folder:
        params = contend("sine low rank", Path(folder), weights="sine")
        contend("plain low rank", Path(folder), weights="lowrank")
        contend("narrower dense", Path(folder), weights="dense", width=equal_width(config, params), rank=1)
        contend("dense", Path(folder), weights="dense")

    plot(image, rows, shown["sine low rank"], codecs, OUT / "images.png")
    name = Path(config.data.path).name
    training, (height, width) = config.training, image.shape[:2]
    rates, phases = (", ".join(f"{value:g}" for value in swept) for swept in (options.rates, options.phases))
    about = [
        f"`python scripts/tables/images.py --steps {options.steps}`: {name}, {width}×{height},",
        f"{options.steps} steps of {training.batch:,} pixels, {options.pack_steps} steps of packing,",
        f"seed {config.seed}, {describe_machine()['cpu']}, threads: {torch.get_num_threads()},",
        f"{time.strftime('%Y-%m-%d')}, {(time.time() - begin) / 60:.0f} minutes for all.",
        f"`rate` multiplies the scene's learning rates ({training.lr:g} Muon, {training.adam_lr:g} Adam), the best of",
        f"{rates}; `phase` is the best of {phases}; both by PSNR. That is of all pixels, the very ones trained on.",
        "Packing may cost 0.2 dB. JPEG and WebP: what Pillow takes to reach the packed field's PSNR.",
    ]
    picture = "![PSNR over bytes, and the picture](images.png)"
    parts = ["# An image as a field", "\n".join(about), table(list(rows[0]), rows, markdown=True), picture]
    (OUT / "images.md").write_text("\n\n".join(parts) + "\n")


def plot(image: np.ndarray, rows: list[dict], field: np.ndarray, codecs: dict, path: Path) -> None:
    """PSNR over bytes; and the image, the sine field and both codecs at the least size that is no smaller."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4)
    axes = figure.add_subplot(grid[:, :2])
    for codec, colour in zip(codecs, ("#6a6a6a", "#1f6f8b"), strict=True):
        near = [(n, p) for n, p, _ in codecs[codec] if n < 3 * max(row["packed bytes"] for row in rows)]
        axes.plot(*zip(*near, strict=True), color=colour, label=codec)
    for row in rows:
        mark = {"marker": MARKS[row["weights"]], "color": "#b5482a", "linestyle": "", "markersize": 8}
        axes.plot(row["packed bytes"], row["packed PSNR"], label=f"{row['weights']}, packed", **mark)
    axes.set(xlabel="bytes", ylabel="PSNR (dB)", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    size = rows[0]["packed bytes"]
    pictures = {"reference": image, f"sine low rank, {size:,} bytes": field}
    for codec, all_ in codecs.items():
        n, _, pixels = next(row for row in all_ if row[0] >= size)
        pictures[f"{codec}, {n:,} bytes"] = pixels
    for i, (title, pixels) in enumerate(pictures.items()):
        axes = figure.add_subplot(grid[i // 2, 2 + i % 2])
        axes.imshow(pixels)
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
