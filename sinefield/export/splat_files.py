"""Gaussian splats as files: the .ply of Kerbl et al. (ACM TOG 2023), and Niantic's .spz, version 2."""

import gzip
import math
import struct

import numpy as np
from jaxtyping import Float

from sinefield.errors import SinefieldError
from sinefield.render.splats import Splats

ENDINGS = (".ply", ".spz")
SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 2
FRACTION_BITS = 12
"""Of positions at most: with 24 bits they then reach ± 2,048."""
DC_SCALE, DC = 0.15, 0.28209479177387814
SCALE_OFFSET, SCALE_STEPS = 10.0, 16.0


def splat_file(splats: Splats, ending: str, about: dict[str, str]) -> bytes:
    """The file's bytes.

    Arguments:
        ending: one of `ENDINGS`.
        about: comments of a .ply; .spz has no place for them.

    Raises:
        SinefieldError: positions that .spz cannot hold.
    """
    return _ply(splats, about) if ending == ".ply" else _spz(splats)


def _ply(splats: Splats, about: dict[str, str]) -> bytes:
    means, scales, turns, logits, harmonics = (part.detach().cpu().numpy() for part in splats)
    count = harmonics.shape[1] - 1
    rest = harmonics[:, 1:].transpose(0, 2, 1).reshape(len(means), 3 * count)  # all of red first
    columns = [
        (means, ("x", "y", "z")),
        (np.zeros_like(means), ("nx", "ny", "nz")),
        (harmonics[:, 0], [f"f_dc_{i}" for i in range(3)]),
        (rest, [f"f_rest_{i}" for i in range(3 * count)]),
        (logits[:, None], ("opacity",)),
        (scales, [f"scale_{i}" for i in range(3)]),
        (_unit(turns), [f"rot_{i}" for i in range(4)]),
    ]
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {key}: {' '.join(value.split())}" for key, value in about.items()]
    header += [f"element vertex {len(means)}", *(f"property float {name}" for _, names in columns for name in names)]
    rows = np.concatenate([values for values, _ in columns], axis=1).astype("<f4")
    return "\n".join([*header, "end_header", ""]).encode() + rows.tobytes()


def _spz(splats: Splats) -> bytes:
    means, scales, turns, logits, harmonics = (part.detach().cpu().double().numpy() for part in splats)
    reach = float(np.abs(means).max(initial=0.0))
    bits = min(FRACTION_BITS, int(np.floor(np.log2((2**23 - 1) / max(reach, 1e-9)))))
    smallest = float(np.exp(np.median(scales))) if len(scales) else 0.0
    if bits < 0 or 2.0**-bits > max(smallest, 1e-12) / 4:
        finest, far = 2.0 ** -max(bits, 0), f"{reach:.3g} from the origin"
        raise SinefieldError(
            f".spz holds positions to {finest:.2g} units where splats reach {far}: too coarse for these; write .ply"
        )
    degree = math.isqrt(harmonics.shape[1]) - 1
    head = struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, len(means), degree, bits, 0, 0)
    places = np.round(means * 2.0**bits).astype("<i4").view(np.uint8).reshape(-1, 3, 4)[:, :, :3]
    turns = _unit(turns)
    turns *= np.where(turns[:, :1] < 0, -1, 1)  # w is not stored, and taken to be positive
    parts = [
        places,
        _bytes(255 / (1 + np.exp(-logits))),
        _bytes(harmonics[:, 0] * DC_SCALE * 255 + 127.5),
        _bytes((scales + SCALE_OFFSET) * SCALE_STEPS),
        _bytes(turns[:, 1:] * 127.5 + 127.5),
        _bytes(harmonics[:, 1:] * 128 + 128),
    ]
    return gzip.compress(head + b"".join(part.tobytes() for part in parts), mtime=0)


def _unit(turns: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    return turns / np.maximum(np.linalg.norm(turns, axis=1, keepdims=True), 1e-12)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
