"""A field into a small file by rounding alone: as many bits an entry as are asked for or needed."""

import torch
from torch import nn

from sinefield.compress.container import encode
from sinefield.compress.quantize import Codebook, Quantiser, Uniform
from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of, read_data
from sinefield.learning.refine import install
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import note_of, to_packed

BITS = (8, 7, 6, 5, 4, 3)


def pack_rounded(
    run: Run,
    config: Config,
    bits: int | None,
    max_bytes: int | None,
    min_quality: float | None,
    quantiser: str,
) -> tuple[bytes, float, float, int]:
    """The file's bytes, the main score before and after, and the number of parameters.

    Every matrix is rounded to one number of bits an entry, with a step a row, everything else to 8 bits. Nothing is
    trained on. The number is `bits`, or the largest that fits `max_bytes`, or the smallest that keeps `min_quality`, by
    default 0.004 below what the field has. It is chosen on the very held-out shapes that are reported.

    Raises:
        SinefieldError: a size or quality that cannot be reached.
    """
    field, note = load_field(run.folder)
    kind, data = kind_of(config), read_data(config)
    trained = {name: p.detach().clone() for name, p in field.named_parameters()}
    before = kind.quality(field, data)
    if min_quality is not None and min_quality > before:
        raise SinefieldError(
            f"quality {min_quality:g} is asked for, the field itself has {before:.4g}; train it longer"
        )

    def packed(quantisers: dict[str, Quantiser], after: float) -> bytes:
        about = note_of(config, note) | {kind.score: [round(before, 4), round(after, 4)]}
        return encode(to_packed(field, quantisers, about))

    best: tuple[dict[str, Quantiser], float] | None = None
    needed = before - kind.affordable if min_quality is None else min_quality
    for n in BITS if bits is None else (bits,):
        quantisers = rounded(trained, n, quantiser)
        if max_bytes is not None and len(packed(quantisers, 0.98765)) > max_bytes:
            continue
        install(field, quantisers)
        after = kind.quality(field, data)
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
