"""Reading cameras_sphere.npz, the pose file of object captures in the manner of DTU, IDR and NeuS.

For each image i it holds world_mat_i, a 4 x 4 projection from world coordinates to pixels whose whole numbers are pixel
centres, and scale_mat_i, which takes the unit sphere around the object to world coordinates. The photographs are in
`image`, their masks (white is the object) in `mask`, where there are any; sorted names count up with i. Source: the
data conventions that IDR (github.com/lioryariv/idr) and NeuS (github.com/Totoro97/NeuS) describe.
"""

import math
import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sinefield.cameras.cameras import LARGEST, rigid
from sinefield.data.photographs.lens_models import LENS_KEYS
from sinefield.data.photographs.shared import check_spread, image_names, npy_header
from sinefield.data.photographs.transforms import Frame, Listing, divide, find_image
from sinefield.errors import SinefieldError
from sinefield.files import MAX_POSES, open_file

NAMES = ("cameras_sphere.npz", "cameras.npz")
MAX_MEMBER = 4096  # bytes of a 4 x 4 matrix with its header: far more than any writer needs
MAX_SKEW = 0.5  # pixels by which slanted pixel axes may displace the image's edge
ADVICE = "provide the cameras_sphere.npz of IDR or NeuS"


def find_cameras(folder: Path) -> Path | None:
    """The pose file of a capture's folder, if it has one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_dtu(path: Path, splits: Sequence[str], holdout: int) -> Listing:
    """Read an object capture. The box is the smallest around scale_mat's unit sphere; coordinates are world_mat's.

    Arguments:
        path: the pose file, beside the folders `image` and, if there are masks, `mask`.
        splits: which of train, val, test to read.
        holdout: every `holdout`-th image by sorted name is a test view; 0 for none.

    Raises:
        SinefieldError: a malformed file, matrices that are no cameras, images or masks that do not match them.
    """
    matrices = read_matrices(path)
    names, masks = (image_names(path.parent / folder) for folder in ("image", "mask"))
    if not names:
        raise SinefieldError(f"{path.parent}: has no folder 'image' with images in it; add the photographs")
    cameras = sum(key.startswith("world_mat_") for key in matrices)
    if len(names) != cameras or any(f"world_mat_{i}" not in matrices for i in range(len(names))):
        raise SinefieldError(f"{path}: has {cameras} world_mat_i, but image/ holds {len(names)} images; one an image")
    if masks and len(masks) != len(names):
        raise SinefieldError(
            f"{path.parent / 'mask'}: holds {len(masks)} masks for {len(names)} images; provide one an image, or none"
        )
    if "scale_mat_0" not in matrices:
        raise SinefieldError(f"{path}: has no scale_mat_0, so the object's place is unknown; {ADVICE}")
    frames = []
    for index, name in enumerate(names):
        where = f"{path}, world_mat_{index}"
        file = find_image(path.parent, f"image/{name}", where)
        if file is None:
            raise SinefieldError(f"{where}: image/{name} is no file; add the photograph")
        mask = find_image(path.parent, f"mask/{masks[index]}", where) if masks else None
        c2w, lens = decompose(matrices[f"world_mat_{index}"], where)
        frames.append(Frame(f"image/{name}", file, c2w, lens, where, mask=mask))
    check_spread(np.stack([frame.c2w[:, 3] for frame in frames]), None, path)
    divided = divide({}, path, frames, holdout)
    return Listing(path, {split: divided[split] for split in splits}, sphere_box(matrices["scale_mat_0"], path), 0)


def decompose(projection: Float[np.ndarray, "4 4"], where: str) -> tuple[Float[np.ndarray, "3 4"], dict]:
    """Camera to world (OpenGL axes) and lens, as transforms.json would have them, of a projection matrix.

    P = K [R | t] up to a factor, K upper triangular, x right, y down, looking along z (Hartley & Zisserman, 2004,
    §6.2.4).

    Raises:
        SinefieldError: not invertible, or pixel axes that are not perpendicular.
    """
    from scipy.linalg import rq  # takes as long to import as all of the package's readers

    left = projection[:3, :3]
    scale = np.abs(left).max()
    if not scale > 0 or not abs(np.linalg.det(left / scale)) > 1e-15:
        raise SinefieldError(f"{where}: is not the projection of a camera (its left part is singular); {ADVICE}")
    # A camera's own sign has a rotation, not a mirror, on the right.
    k, rotation = rq(left * np.sign(np.linalg.det(left)))
    signs = np.where(np.diag(k) < 0, -1.0, 1.0)
    k, rotation = k * signs, signs[:, None] * rotation
    k = k / k[2, 2]
    fx, fy, skew, cx, cy = (float(k[i]) for i in ((0, 0), (1, 1), (0, 1), (0, 2), (1, 2)))
    if abs(skew) / fy * max(abs(cy), 1) > MAX_SKEW:
        raise SinefieldError(f"{where}: its pixel axes are not perpendicular (skew {skew:.3g}); undistort the images")
    centre = -np.linalg.solve(left, projection[:3, 3])
    c2w = rigid(np.concatenate([rotation.T * [1, -1, -1], centre[:, None]], 1), where)
    # Whole numbers are pixel centres there, halves are here.
    lens = dict.fromkeys(LENS_KEYS) | {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5}
    return c2w, lens


def sphere_box(scale: Float[np.ndarray, "4 4"], path: Path) -> list[float]:
    """xmin ymin zmin xmax ymax zmax of what a similarity makes of the unit sphere."""
    radius = np.linalg.norm(scale[:3, :3], axis=1)
    if not radius.min() > 0:
        raise SinefieldError(f"{path}: scale_mat_0 has a radius of {radius.min():g}; {ADVICE}")
    return [*(scale[:3, 3] - radius).tolist(), *(scale[:3, 3] + radius).tolist()]


def read_matrices(path: Path) -> dict[str, Float[np.ndarray, "4 4"]]:
    """The world_mat_i and scale_mat_i by name, float64, all finite; never a pickle, never more than a matrix each."""
    found = {}
    try:
        with open_file(path, MAX_POSES, "pose file") as stream, zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                kind, _, number = member.filename.removesuffix(".npy").rpartition("_")
                if kind in ("world_mat", "scale_mat") and number.isascii() and number.isdigit():
                    name = f"{kind}_{int(number)}"
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # as numpy writes them
                        raise ValueError(f"{name} is compressed in an unusual way")
                    # What the archive says of sizes is not believed: no more is ever unpacked.
                    with archive.open(member) as inner:
                        found[name] = _matrix(inner.read(MAX_MEMBER + 1), f"{path}, {name}")
    except SinefieldError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise SinefieldError(f"{path}: is not a readable .npz file ({str(error)[:60]}); {ADVICE}") from error
    if not found:
        raise SinefieldError(f"{path}: holds no world_mat_i; {ADVICE}")
    return found


def _matrix(data: bytes, where: str) -> np.ndarray:
    stream = BytesIO(data)
    try:
        shape, by_columns, dtype = npy_header(stream)
    except Exception as error:  # damaged headers make numpy's parser raise nearly anything
        raise SinefieldError(f"{where}: is not a readable array ({str(error)[:60]}); {ADVICE}") from error
    if dtype.kind not in "fiu" or shape not in ((4, 4), (3, 4)):
        raise SinefieldError(f"{where}: holds {dtype} of shape {shape}; expected a 4 x 4 matrix; {ADVICE}")
    claimed = math.prod(shape) * dtype.itemsize
    if len(data) - stream.tell() != claimed:
        raise SinefieldError(
            f"{where}: claims {claimed} bytes of numbers but has {len(data) - stream.tell()}; {ADVICE}"
        )
    values = np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if by_columns else "C").astype(np.float64)
    if not (np.abs(values) < LARGEST).all():
        raise SinefieldError(f"{where}: has numbers that are not finite; {ADVICE}")
    return np.concatenate([values, [[0.0, 0, 0, 1]]]) if shape == (3, 4) else values
