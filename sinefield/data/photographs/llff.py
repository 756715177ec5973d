"""Reading poses_bounds.npy, the pose file of forward-facing captures (LLFF).

Each row is a 3 x 5 matrix (camera to world with columns down, right, back; the camera's position; height, width, focal
length in pixels of the full images), then the nearest and farthest depth. Source: the LLFF code's description of its
format, github.com/Fyusion/LLFF.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sinefield.cameras.cameras import LARGEST, rigid
from sinefield.data.photographs.image_files import image_size
from sinefield.data.photographs.lens_models import LENS_KEYS
from sinefield.data.photographs.shared import (
    check_bounds,
    check_spread,
    choose_folder,
    frustum_corners,
    image_names,
    npy_header,
)
from sinefield.data.photographs.transforms import Frame, Listing, divide, find_image
from sinefield.errors import SinefieldError
from sinefield.files import MAX_POSES, open_file


def read_llff(path: Path, splits: Sequence[str], holdout: int, downscale: int) -> Listing:
    """Read an LLFF capture. The box is the smallest around the cameras and their views' corners at the far depth, its
    core the same at the geometric mean of the near and the far depth.

    Arguments:
        path: poses_bounds.npy; its images are in the folder `images`, or `images_K`, beside it, in sorted order. Where
            they are a whole number of times smaller than it says, lenses are made smaller, with a note.
        splits: which of train, val, test to read.
        holdout: every `holdout`-th image by sorted name is a test view; 0 for none.
        downscale: how many times smaller than the full size the images are wanted.

    Raises:
        SinefieldError: a malformed file, poses and images that do not match, depths or cameras that make no sense.
    """
    rows = read_rows(path)
    reduction, folder = choose_folder(path.parent, downscale)
    names = image_names(folder)
    if len(names) != len(rows):
        raise SinefieldError(
            f"{path}: has {len(rows)} poses, but {folder.name} holds {len(names)} images; provide one pose an image"
        )
    frames, matrices, smaller = [], rows[:, :15].reshape(-1, 3, 5), Counter()
    for index, (name, matrix, (near, far)) in enumerate(zip(names, matrices, rows[:, 15:], strict=True)):
        where = f"{path}, row {index}"
        height, width, focal = matrix[:, 4]
        check_bounds(near, far, where)
        c2w = rigid(np.stack([matrix[:, 1], -matrix[:, 0], matrix[:, 2], matrix[:, 3]], 1), where)
        file = find_image(folder, name, where)
        if file is None:
            raise SinefieldError(f"{folder / name}: is not an image file; provide one image a pose")
        size = image_size(file)
        if times := _reduced(size, (width, height), reduction):
            smaller[f"{width:g}x{height:g} pixels, {times} times those of {folder.name}, {size[0]}x{size[1]}"] += 1
            focal, width, height = focal * size[0] * reduction / width, size[0] * reduction, size[1] * reduction
        lens = dict.fromkeys(LENS_KEYS) | {"fl_x": float(focal), "w": float(width), "h": float(height)}
        lens |= {"cx": float(width) / 2, "cy": float(height) / 2}
        frames.append(Frame(file.relative_to(path.parent).as_posix(), file, c2w, lens, where, reduction))
    sizes = [frame.declared_size() or (0, 0) for frame in frames]
    lenses = np.array([frame.intrinsics(*size)[:4] for frame, size in zip(frames, sizes, strict=True)])
    c2w = np.stack([frame.c2w for frame in frames])
    near, far = float(rows[:, 15].min()), float(rows[:, 16].max())
    check_spread(c2w[:, :, 3], near, path)
    boxes = []
    for depth in (rows[:, 16], np.sqrt(rows[:, 15] * rows[:, 16])):
        corners = np.concatenate([frustum_corners(c2w, lenses, np.array(sizes), depth).reshape(-1, 3), c2w[:, :, 3]])
        boxes.append([*corners.min(0).tolist(), *corners.max(0).tolist()])
    divided = divide({}, path, frames, holdout)
    kept = {split: divided[split] for split in splits}
    notes = tuple(
        f"{count} poses are for images of {what}: their lenses are made smaller" for what, count in smaller.items()
    )
    return Listing(path, kept, boxes[0], 0, (near, far), reduction, core=boxes[1], notes=notes)


def _reduced(size: tuple[int, int], declared: tuple[float, float], reduction: int) -> int | None:
    """How many times smaller images are than the poses say, where that is a whole number, not the folder's own."""
    times = round(declared[0] / size[0])
    if times < 2 or times == reduction:
        return None
    exact = all(abs(side * times - whole) < times for side, whole in zip(size, declared, strict=True))
    return times if exact else None


def read_rows(path: Path) -> Float[np.ndarray, "n 17"]:
    """The (n, 17) float64 numbers of poses_bounds.npy, all finite; never a pickle, never more than the file holds."""
    advice = "provide LLFF's poses_bounds.npy"
    with open_file(path, MAX_POSES, "pose file") as stream:
        try:
            shape, by_columns, dtype = npy_header(stream)
        except Exception as error:  # damaged headers make numpy's parser raise nearly anything
            raise SinefieldError(f"{path}: is not a readable .npy file ({str(error)[:60]}); {advice}") from error
        if dtype.kind != "f" or len(shape) != 2 or shape[1] != 17 or shape[0] < 1:
            raise SinefieldError(f"{path}: holds {dtype} of shape {shape}; expected (N, 17) floats; {advice}")
        claimed, there = shape[0] * 17 * dtype.itemsize, os.fstat(stream.fileno()).st_size - stream.tell()
        if claimed != there:
            raise SinefieldError(f"{path}: claims {claimed} bytes of numbers but has {there}; {advice}")
        rows = np.frombuffer(stream.read(claimed), dtype).reshape(shape, order="F" if by_columns else "C")
    with np.errstate(invalid="ignore"):  # what is no number is refused just below
        rows = rows.astype(np.float64)
    if not (np.abs(rows[:, :15]) < LARGEST).all():  # bounds are checked by themselves
        index = int(np.argmin((np.abs(rows[:, :15]) < LARGEST).all(1)))
        raise SinefieldError(f"{path}, row {index}: has numbers that are not finite; {advice}")
    return rows
