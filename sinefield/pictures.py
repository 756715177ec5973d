"""Pictures that a run leaves: curves, and reference / prediction / error side by side."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sinefield.files import write_bytes


def save_png(path: str | Path, image: np.ndarray) -> None:
    """An (h, w, 3 or 4) uint8 array as PNG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def side_by_side(
    reference: Float[Tensor, "h w 3"], prediction: Float[Tensor, "h w 3"], least_height: int = 200
) -> np.ndarray:
    """Reference, prediction and error |difference| × 4 (brighter is worse) in one row, small images enlarged."""
    gap = torch.ones(reference.shape[0], 4, 3)
    error = ((prediction - reference).abs() * 4).clamp(0, 1)
    row = torch.cat([reference, gap, prediction, gap, error], dim=1)
    pixels = (row.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    factor = -(-least_height // pixels.shape[0])
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def save_curves(path: str | Path, metrics: list[dict[str, Any]], score: str, label: str) -> None:
    """Loss and quick score over training time.

    Arguments:
        score, label: the score's key in `metrics`, and what people call it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = "seconds", "loss", score
    metrics = [m for m in metrics if all(isinstance(m.get(name), int | float) for name in names)]
    if not metrics:
        return
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    seconds = [m["seconds"] for m in metrics]
    left.plot(seconds, [m["loss"] for m in metrics], marker=".", color="#b5482a")
    # A run whose rays never met the box has only zeros, which no logarithm shows.
    scale = "log" if any(m["loss"] > 0 for m in metrics) else "linear"
    left.set(xlabel="seconds of training", ylabel="loss", yscale=scale)
    right.plot(seconds, [m[score] for m in metrics], marker=".", color="#1f6f8b")
    right.set(xlabel="seconds of training", ylabel=label)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
