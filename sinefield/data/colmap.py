"""Reading COLMAP's sparse models, binary or text: cameras, images, points3D.

Formats: colmap.github.io/format.html. No count in a file is trusted before it was compared with the file's size.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.data.captures import LARGEST, check_bounds, check_spread, choose_folder, image_folders, image_names
from sinefield.data.transforms import LENS_KEYS, Frame, Listing, divide, find_image, is_number, rigid, safe_name
from sinefield.errors import SinefieldError
from sinefield.files import require_file

MODELS = {  # by number: name, and what its parameters are called in a lens; f stands for both focal lengths
    0: ("SIMPLE_PINHOLE", ("f", "cx", "cy")),
    1: ("PINHOLE", ("fl_x", "fl_y", "cx", "cy")),
    2: ("SIMPLE_RADIAL", ("f", "cx", "cy", "k1")),
    3: ("RADIAL", ("f", "cx", "cy", "k1", "k2")),
    4: ("OPENCV", ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")),
}
PARAMETERS = dict(MODELS.values())
VIEWS = 3  # views that must see a point before it counts: two can agree on a wrong one
BOX_PERCENTILES = (1, 99)
BOX_MARGIN = 0.05  # of the longest side, on each
DEPTH_PERCENTILES = (0.1, 99.9)  # those of LLFF's poses_bounds.npy


@dataclass(frozen=True)
class Image:
    """A registered image: its file's name, its camera, and (3, 4) float64 camera to world in OpenGL axes."""

    name: str
    camera: int
    c2w: np.ndarray


@dataclass(frozen=True)
class Model:
    """A sparse model.

    Attributes:
        folder: where its files are.
        lenses: per camera number, what transforms.json would say of it.
        images: per image number.
        points: (p, 3) float64 world units.
        tracks: p arrays of the image numbers that see each point.
    """

    folder: Path
    lenses: dict[int, dict[str, Any]]
    images: dict[int, Image]
    points: np.ndarray
    tracks: list[np.ndarray]


def read_colmap(path: Path, splits: Sequence[str], holdout: int, downscale: int) -> Listing:
    """Read images with a COLMAP sparse model.

    The box holds the middle 98 % along each axis of the points that 3 or more views see, 5 % more on each side; near
    and far leave out a thousandth of those points' depths each.

    Arguments:
        path: the model's folder, or one with it in `sparse/0` or `sparse`; its images are in the folder `images`, or
            `images_K`, there or one or two levels above the model.
        splits: which of train, val, test to read.
        holdout: every `holdout`-th image by sorted name is a test view; 0 for none.
        downscale: how many times smaller than the full size the images are wanted.

    Raises:
        SinefieldError: several models, a malformed one, a lens that k1 k2 p1 p2 do not describe, no images.
    """
    folder = choose_model(path)
    model = read_model(folder)
    roots = (path, folder, folder.parent, folder.parent.parent)
    root = next((root for root in roots if image_folders(root)), path)
    reduction, pictures = choose_folder(root, downscale)
    files = match_files(model, root, pictures)
    frames = []
    for number, image in model.images.items():
        where = f"{folder}, image {number} ({image.name[:80]})"
        name = files.get(number)
        if name is None or (file := find_image(pictures, name, where)) is None:
            continue
        lens = model.lenses[image.camera]
        frames.append(Frame(file.relative_to(root).as_posix(), file, image.c2w, lens, where, reduction))
    positions = np.stack([image.c2w[:, 3] for image in model.images.values()])
    box, bounds, points = measure(model)
    check_spread(positions, bounds and bounds[0], folder)
    divided = divide({}, folder, frames, holdout)
    return Listing(
        folder,
        {split: divided[split] for split in splits},
        box,
        len(model.images) - len(frames),
        bounds,
        reduction,
        len(set(image_names(pictures)) - set(files.values())),
        points,
    )


def find_models(path: Path) -> list[Path]:
    """Folders with a model: `path` itself, else path/sparse, else all folders directly in path/sparse or in path."""
    sparse = path / "sparse"
    below = [sorted(folder.iterdir()) if folder.is_dir() else [] for folder in (sparse, path)]
    for group in ([path], [sparse], *below):
        if models := [folder for folder in group if file_of(folder, "cameras") or file_of(folder, "images")]:
            return models
    return []


def choose_model(path: Path) -> Path:
    """The only model of a data folder."""
    models = find_models(path)
    if not models:
        raise SinefieldError(
            f"{path}: has no COLMAP model (cameras, images, points3D as .bin or .txt); give its folder"
        )
    if len(models) > 1:
        listed = ", ".join(f"{folder.name} ({len(read_model(folder).images)} images)" for folder in models)
        raise SinefieldError(f"{models[0].parent}: holds {len(models)} models: {listed}; give one of them as the path")
    return models[0]


def file_of(folder: Path, name: str) -> Path | None:
    """folder/name.bin, else folder/name.txt, if there."""
    return next((file for file in (folder / f"{name}.bin", folder / f"{name}.txt") if file.is_file()), None)


def read_model(folder: Path) -> Model:
    """Read a model's files; points3D may be absent.

    Raises:
        SinefieldError: a file is missing, truncated or inconsistent, or a camera is no pinhole with k1 k2 p1 p2.
    """
    parts = []
    for name, readers in READERS.items():
        file = file_of(folder, name)
        if file is None and name != "points3D":
            raise SinefieldError(f"{folder}: has no {name}.bin or {name}.txt; export the whole model")
        empty = file is None or (name == "points3D" and file.stat().st_size == 0)
        parts.append({} if empty else readers[file.suffix](require_file(file, "COLMAP file")))
    lenses, images, points = parts
    for number, image in images.items():
        if image.camera not in lenses:
            raise SinefieldError(f"{folder}, image {number}: its camera {image.camera} is not listed; export it again")
    if not images:
        raise SinefieldError(f"{folder}: no image is registered; reconstruct the poses again")
    xyz = np.array([point for point, _ in points.values()], dtype=np.float64).reshape(-1, 3)
    if not (np.abs(xyz) < LARGEST).all():
        raise SinefieldError(f"{folder}: points3D has coordinates that are not finite or beyond 1e9; export it again")
    return Model(folder, lenses, images, xyz, [track for _, track in points.values()])


def match_files(model: Model, root: Path, pictures: Path) -> dict[int, str]:
    """Which file of `pictures` shows each registered image; one without a file is left out.

    By its name, else by its name with another extension. Reduced images are often renumbered (LLFF's image000.png):
    where no name is known and there are as many as full images, or as registered ones, they pair up in sorted order.
    """
    there = image_names(pictures)
    names = {number: safe_name(image.name, f"{model.folder}, image {number}") for number, image in model.images.items()}
    stems = {str(Path(name).with_suffix("")): name for name in there}
    exact = set(there)
    files = {n: name if name in exact else stems.get(str(Path(name).with_suffix(""))) for n, name in names.items()}
    files = {number: name for number, name in files.items() if name}
    if not files and pictures != root / "images":
        full = image_names(root / "images") if (root / "images").is_dir() else []
        full = full or sorted(names.values())
        if len(full) == len(there):
            renamed = dict(zip(full, there, strict=True))
            files = {number: renamed[name] for number, name in names.items() if name in renamed}
    return files


def measure(model: Model) -> tuple[list[float] | None, tuple[float, float] | None, np.ndarray]:
    """Box, (near, far) and the points they come from; None where too few points are seen by enough views."""
    known = np.array(sorted(model.images))
    seen_by = np.concatenate([*model.tracks, np.empty(0, dtype=np.int64)]).astype(np.int64)
    point = np.repeat(np.arange(len(model.points)), [len(track) for track in model.tracks])
    registered = np.isin(seen_by, known)
    pairs = np.sort(point[registered] * len(known) + np.searchsorted(known, seen_by[registered]))
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique is far slower on these
    point, seen_by = np.divmod(pairs, len(known))
    enough = np.bincount(point, minlength=len(model.points)) >= VIEWS
    points = model.points[enough]
    if len(points) < 8:
        return None, None, points
    point, seen_by = point[enough[point]], seen_by[enough[point]]
    low, high = np.percentile(points, BOX_PERCENTILES, axis=0)
    margin = BOX_MARGIN * (high - low).max()
    box = [*(low - margin).tolist(), *(high + margin).tolist()] if margin > 0 else None
    poses = np.stack([model.images[number].c2w for number in known.tolist()])
    depths = ((poses[seen_by, :, 3] - model.points[point]) * poses[seen_by, :, 2]).sum(-1)
    if not (depths > 0).any():
        raise SinefieldError(f"{model.folder}: every point lies behind its cameras; reconstruct the poses again")
    near, far = np.percentile(depths[depths > 0], DEPTH_PERCENTILES).tolist()
    check_bounds(near, far, str(model.folder))
    return box, (near, far), points


# ---- what one entry means, whichever format it is written in


def make_lens(model: str, width: int, height: int, values: Sequence[float], where: str) -> dict[str, Any]:
    """A camera as transforms.json would describe it."""
    if len(values) != len(PARAMETERS[model]) or not all(map(is_number, values)):
        raise SinefieldError(
            f"{where}: {model} needs {len(PARAMETERS[model])} finite parameters; export the model again"
        )
    lens = dict(zip(PARAMETERS[model], map(float, values), strict=True))
    if "f" in lens:
        lens["fl_x"] = lens["fl_y"] = lens.pop("f")
    if min(lens["fl_x"], lens["fl_y"]) <= 0 or min(width, height) < 1:
        raise SinefieldError(f"{where}: focal length or image size is not positive; reconstruct the poses again")
    return dict.fromkeys(LENS_KEYS) | lens | {"w": width, "h": height, "camera_model": model}


def unsupported(model: str | int, where: str) -> SinefieldError:
    """The one line for a camera model that is no pinhole with k1 k2 p1 p2."""
    return SinefieldError(
        f"{where}: camera model {str(model)[:40]} is not supported ({', '.join(PARAMETERS)} are); "
        "undistort with 'colmap image_undistorter' and give the result"
    )


def make_image(name: str, camera: int, qvec: Sequence[float], tvec: Sequence[float], where: str) -> Image:
    """An image from its rotation (quaternion w x y z) and translation world to camera, x right, y down, z forward."""
    norm = math.hypot(*qvec)
    if not all(map(is_number, (*qvec, *tvec))) or not abs(norm - 1) < 1e-2:
        raise SinefieldError(
            f"{where}: its pose is no unit quaternion with a finite translation; export the model again"
        )
    w, x, y, z = np.asarray(qvec) / norm
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    position = -rotation.T @ np.asarray(tvec)
    return Image(name, camera, rigid(np.column_stack([rotation.T * [1, -1, -1], position]), where))


def add(entries: dict[int, Any], number: int, entry: Any, where: str) -> None:
    """Enter under a number that must be new, of 64 bits."""
    if not 0 <= number < 2**64:
        raise SinefieldError(f"{where}: its number {str(number)[:40]} is out of range; export the model again")
    if number in entries:
        raise SinefieldError(f"{where}: is listed twice; export the model again")
    entries[number] = entry


# ---- binary


class Bytes:
    """A little-endian file read from front to back, never past its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def truncated(self) -> SinefieldError:
        return SinefieldError(
            f"{self.path}: ends or breaks off at byte {self.at}; the file is truncated, copy it again"
        )

    def need(self, size: int) -> int:
        """The position of the next `size` bytes, which are thereby passed."""
        if size > len(self.data) - self.at:
            raise self.truncated()
        self.at += size
        return self.at - size

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack_from("<" + layout, self.data, self.need(struct.calcsize("<" + layout)))

    def count(self, least: int) -> int:
        """A 64-bit count of entries of at least `least` bytes, which the rest of the file must be able to hold."""
        (count,) = self.take("Q")
        if count * least > len(self.data) - self.at:
            raise SinefieldError(
                f"{self.path}: claims {count} entries at byte {self.at - 8}, more than the file can hold; "
                "it is truncated or no COLMAP file, copy it again"
            )
        return count

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.truncated()
        raw = self.data[self.at : end]
        self.at = end + 1
        return raw.decode(errors="replace")

    def finish(self) -> None:
        if self.at != len(self.data):
            raise SinefieldError(
                f"{self.path}: has {len(self.data) - self.at} bytes after its last entry; copy it again"
            )


def binary_cameras(path: Path) -> dict[int, dict[str, Any]]:
    source, entries = Bytes(path), {}
    for _ in range(source.count(24)):
        number, model, width, height = source.take("IiQQ")
        where = f"{path}, camera {number}"
        if model not in MODELS:
            raise unsupported(f"number {model}", where)
        name, keys = MODELS[model]
        add(entries, number, make_lens(name, width, height, source.take(f"{len(keys)}d"), where), where)
    source.finish()
    return entries


def binary_images(path: Path) -> dict[int, Image]:
    source, entries = Bytes(path), {}
    for _ in range(source.count(73)):
        number, *pose, camera = source.take("I7dI")
        where = f"{path}, image {number}"
        add(entries, number, make_image(source.text(), camera, pose[:4], pose[4:], where), where)
        source.need(24 * source.count(24))  # x, y, number of the point
    source.finish()
    return entries


def binary_points(path: Path) -> dict[int, tuple[tuple[float, ...], np.ndarray]]:
    source, entries = Bytes(path), {}
    for _ in range(source.count(51)):
        number, x, y, z, *_ = source.take("Q3d3Bd")
        length = source.count(8)
        track = np.frombuffer(source.data, "<u4", 2 * length, source.need(8 * length))[::2]
        add(entries, number, ((x, y, z), track), f"{path}, point {number}")
    source.finish()
    return entries


# ---- text


def text_entries(
    path: Path, what: str, parse: Callable[[str, list[str], str], tuple[int, Any]], second: bool = False
) -> dict[int, Any]:
    """The entries of a text file, each parsed from its line and, for images, the fields of the line after it.

    A file with fewer entries than its own '# Number of …' comment says was cut short.
    """
    try:
        lines = iter(enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1))
    except (ValueError, OSError) as error:
        raise SinefieldError(f"{path}: is not readable as text ({str(error)[:60]}); copy it again") from error
    claimed, entries = 0, {}
    for index, line in lines:
        if line.startswith(f"# Number of {what}:"):
            digits = line.split(":", 1)[1].split(",")[0].strip()
            claimed = int(digits) if digits.isdecimal() and len(digits) < 19 else 0
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {index}"
        more = next(lines, (0, ""))[1].split() if second else []
        try:
            number, entry = parse(line, more, where)
        except (ValueError, IndexError, OverflowError) as error:
            raise SinefieldError(f"{where}: is no complete entry of {what}; copy the file again") from error
        add(entries, number, entry, where)
    if len(entries) < claimed:
        raise SinefieldError(f"{path}: has {len(entries)} {what} of {claimed}; the file is truncated, copy it again")
    return entries


def text_camera(line: str, more: list[str], where: str) -> tuple[int, dict[str, Any]]:
    number, model, width, height, *values = line.split()
    if model not in PARAMETERS:
        raise unsupported(model, where)
    return int(number), make_lens(model, int(width), int(height), [float(value) for value in values], where)


def text_image(line: str, more: list[str], where: str) -> tuple[int, Image]:
    number, *pose, camera, name = line.split(maxsplit=9)
    if len(pose) != 7 or len(more) % 3:
        raise ValueError
    pose = [float(value) for value in pose]
    return int(number), make_image(name.strip(), int(camera), pose[:4], pose[4:], where)


def text_point(line: str, more: list[str], where: str) -> tuple[int, tuple[tuple[float, ...], np.ndarray]]:
    number, x, y, z, _red, _green, _blue, _error, *track = line.split()
    if len(track) % 2:
        raise ValueError
    return int(number), ((float(x), float(y), float(z)), np.array(track[::2], dtype=np.int64))


READERS = {
    "cameras": {".bin": binary_cameras, ".txt": lambda path: text_entries(path, "cameras", text_camera)},
    "images": {".bin": binary_images, ".txt": lambda path: text_entries(path, "images", text_image, second=True)},
    "points3D": {".bin": binary_points, ".txt": lambda path: text_entries(path, "points", text_point)},
}
