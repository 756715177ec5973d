"""A field of many shapes into a small file: its tensors rounded, as many bits an entry as are asked for or needed."""

import torch
from torch import nn

from sinefield.compress.container import encode
from sinefield.compress.quantize import Codebook, Quantiser, Uniform
from sinefield.config import ShapesConfig
from sinefield.data.shape_sets import shape_set
from sinefield.errors import SinefieldError
from sinefield.fields.latent.training import Probe, mean_iou
from sinefield.learning.refine import install
from sinefield.store.run import Run, load_field
from sinefield.store.sine_files import note_of, to_packed

BITS = (8, 7, 6, 5, 4, 3)
JUDGED_POINTS = 8192
ALLOWED = 0.004
"""Loss of IoU that packing may cost by default."""


def pack_shapes(
    run: Run,
    config: ShapesConfig,
    bits: int | None,
    max_bytes: int | None,
    min_quality: float | None,
    quantiser: str,
) -> tuple[bytes, float, float, int]:
    """The file's bytes, mean IoU on the held-out shapes before and after, and the number of parameters.

    Every matrix is rounded to one number of bits an entry, with a step a row, everything else to 8 bits. Nothing is
    trained on. The number is `bits`, or the largest that fits `max_bytes`, or the smallest that keeps `min_quality`, by
    default 0.004 below what the field has. It is chosen on the very held-out shapes that are reported.

    Raises:
        SinefieldError: a size or quality that cannot be reached.
    """
    field, note = load_field(run.folder)
    probes = [Probe(entry, config, JUDGED_POINTS, i) for i, entry in enumerate(shape_set(config.data).held_out)]
    trained = {name: p.detach().clone() for name, p in field.named_parameters()}
    before = mean_iou(field, probes)
    if min_quality is not None and min_quality > before:
        raise SinefieldError(
            f"quality {min_quality:g} is asked for, the field itself has {before:.4g}; train it longer"
        )

    def packed(quantisers: dict[str, Quantiser], after: float) -> bytes:
        about = note_of(config, note) | {"iou": [round(before, 4), round(after, 4)]}
        return encode(to_packed(field, quantisers, about))

    best: tuple[dict[str, Quantiser], float] | None = None
    needed = before - ALLOWED if min_quality is None else min_quality
    for n in BITS if bits is None else (bits,):
        quantisers = rounded(trained, n, quantiser)
        if max_bytes is not None and len(packed(quantisers, 0.98765)) > max_bytes:
            continue
        install(field, quantisers)
        after = mean_iou(field, probes)
        if max_bytes is None and bits is None and after < needed:
            break
        best = quantisers, after
        if max_bytes is not None:
            break
    if best is None:
        asked = f"--max-bytes {max_bytes}" if max_bytes is not None else f"quality {needed:.4g}"
        raise SinefieldError(f"{asked}: no rounding of this field reaches it; train a smaller field, or ask for less")
    params = sum(p.numel() for p in trained.values())
    return packed(*best), before, best[1], params


def rounded(tensors: dict[str, torch.Tensor], bits: int, quantiser: str) -> dict[str, Quantiser]:
    """Matrices at `bits` an entry, vectors at 8."""

    def of(p: torch.Tensor) -> Quantiser:
        if p.dim() < 2:
            return Uniform(p, bits=8)
        return Codebook(p, bits=bits) if quantiser == "kmeans" else Uniform(p, bits=bits, per_row=True)

    return {name: of(nn.Parameter(p)) for name, p in tensors.items()}
