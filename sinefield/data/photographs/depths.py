"""Depth images of photographs, as distances along the rays."""

import math
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sinefield.cameras.cameras import Cameras
from sinefield.data.photographs.image_files import MAX_PIXELS, MAX_SIDE
from sinefield.data.photographs.shared import npy_header
from sinefield.data.photographs.transforms import Frame, Listing
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes

MILLIMETRE = 1e-3
"""World units of a stored one where a file does not say: nerfstudio's."""
MAX_BYTES = 1 << 30
ADVICE = "provide 16-bit PNG or .npy of the images' shape"


def read_distances(
    frame: Frame, size: tuple[int, int], downscale: int, cameras: Cameras, index: int
) -> Float[Tensor, "p"]:
    """How far along its ray each pixel's surface is, world units; NaN where the depth image does not know (0, or no
    finite number). Row by row.

    What is stored is, in a perspective, the depth along the viewing axis; of other lenses the distance itself. The
    depth image may have another size of the same shape: each pixel takes the nearest depth, none is averaged.

    Arguments:
        frame: with a `depth` and its `depth_unit`.
        size: (w, h) of its image before `downscale`.
        cameras, index: which camera took the image, as it is after.

    Raises:
        SinefieldError: missing, no depth image, or of another shape.
    """
    stored = _stored(frame)
    height, width = stored.shape
    if abs(width * size[1] - height * size[0]) > max(size[0], size[1], width, height):
        raise SinefieldError(f"{frame.depth}: is {width}x{height}, its image {size[0]}x{size[1]}; {ADVICE}")
    across, down = cameras.size(index)
    columns, rows = (
        ((np.arange(n) + 0.5) * downscale * stored_side / side).astype(int).clip(max=stored_side - 1)
        for n, stored_side, side in ((across, width, size[0]), (down, height, size[1]))
    )
    depth = torch.from_numpy(stored[np.ix_(rows, columns)].astype(np.float64) * frame.depth_unit).flatten()
    depth = torch.where(depth.isfinite() & (depth > 0), depth, math.nan)
    local = cameras.view_local(index)[0].double()
    if cameras[index].is_perspective:
        depth = depth * local.norm(dim=1) / -local[:, 2]
    return depth.float()


def depth_note(listing: Listing, used: bool) -> tuple[str, ...]:
    """A line on the depth images of the training views, where there are any."""
    frames = [frame for frame in listing.frames.get("train", []) if frame.depth is not None]
    if not frames:
        return ()
    units = sorted({frame.depth_unit for frame in frames})
    unit = f"{units[0]:g}" + (f" to {units[-1]:g}" if len(units) > 1 else "")
    what = f"{len(frames)} training views have depths (depth_file_path, a stored 1 is {unit} world units)"
    return (f"{what}; training uses them" if used else f"{what}, which training.depth_weight 0 leaves unused",)


def _stored(frame: Frame) -> np.ndarray:
    """(h, w) numbers of a depth file, whatever its kind; never a pickle, never more than the file holds."""
    assert frame.depth is not None
    data = read_bytes(frame.depth, MAX_BYTES, "depth image")
    try:
        values = _array(data) if frame.depth.suffix.lower() == ".npy" else _picture(data)
    except SinefieldError:
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        raise SinefieldError(f"{frame.depth}: no depth image that can be read ({str(error)[:80]}); {ADVICE}") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or not values.size or max(values.shape) > MAX_SIDE:
        raise SinefieldError(f"{frame.depth}: holds an array of shape {values.shape}; {ADVICE}")
    return values


def _array(data: bytes) -> np.ndarray:
    stream = BytesIO(data)
    shape, by_columns, dtype = npy_header(stream)
    if dtype.kind not in "fiu":
        raise ValueError(f"numbers of type {dtype}")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its size is not what it claims")
    return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if by_columns else "C")


def _picture(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data), formats=("PNG", "TIFF")) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"claims {image.width}x{image.height} pixels")
        if image.mode not in ("L", "F") and not image.mode.startswith("I"):
            raise ValueError(f"a picture of mode {image.mode}, not of one channel")
        return np.asarray(image)
