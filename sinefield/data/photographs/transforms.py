"""Reading transforms.json, the pose file of Blender (NeRF-synthetic), instant-ngp and nerfstudio, all values checked.

Files come from the internet: nothing is read outside the data folder, and every complaint names file, frame and key.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from sinefield.cameras.cameras import rigid
from sinefield.data.photographs.lens_models import LENS_KEYS, intrinsics, is_number, number
from sinefield.data.photographs.sparse_points import read_points
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes
from sinefield.json_text import from_json

MAX_BYTES = 256 << 20
SPLITS = ("train", "val", "test")
DEPTH = ("depth", "depth_file_path")
EXTENSIONS = (".png", ".jpg", ".jpeg")  # tried in turn where a file_path has none, as Blender's do
ENDINGS = (*EXTENSIONS, ".tif", ".tiff", ".webp", ".bmp")
Stems = dict[Path, dict[str, list[str]]]
STATED, BLENDER = "the file's aabb", "the usual one of Blender's scenes"


@dataclass(frozen=True)
class Frame:
    """One listed view whose image file exists.

    Attributes:
        name: image file relative to the data folder, with forward slashes.
        file: the same as a path that can be opened.
        c2w: (3, 4) float64 camera to world, OpenGL axes, orthonormal rotation.
        lens: its intrinsics as written, the frame's own before the file's.
        where: how to name it in an error.
        reduction: the image file is so many times smaller than the w x h that `lens` speaks of, give or take the pixel
            that rounding adds or takes.
        mask: an image of the same size whose brightness is the view's alpha.
        upright: the poses belong to the image as its EXIF orientation turns it.
        cover: an image of the same shape, black where the view is to be ignored.
        depth: a depth image, and `depth_unit`: how many world units its 1 is.
    """

    name: str
    file: Path
    c2w: np.ndarray
    lens: dict[str, Any]
    where: str
    reduction: int = 1
    mask: Path | None = None
    upright: bool = False
    cover: Path | None = None
    depth: Path | None = None
    depth_unit: float = 1e-3

    def declared_size(self) -> tuple[int, int] | None:
        """(w, h) in pixels before any reduction, if the file says."""
        width, height = number(self.lens, "w", self.where), number(self.lens, "h", self.where)
        if width is None or height is None:
            return None
        if any(value < 1 or value != int(value) for value in (width, height)):
            raise SinefieldError(f"{self.where}: image size {width:g}x{height:g}; w, h must be positive and whole")
        return int(width), int(height)

    def lens_for(self, width: int, height: int) -> tuple[int, list[float]]:
        """Projection and numbers for an image of this size; see `lens_models.intrinsics`, also for what is refused."""
        full = self.declared_size()
        if self.reduction == 1 or full is None:
            return intrinsics(self.lens, width, height, self.where)
        projection, (fx, fy, cx, cy, *rest) = intrinsics(self.lens, *full, self.where)
        across, down = width / full[0], height / full[1]  # it shows the whole of the full one, however rounded
        return projection, [fx * across, fy * down, cx * across, cy * down, *rest]

    def intrinsics(self, width: int, height: int) -> list[float]:
        """fx, fy, cx, cy (pixels) and distortion for an image of this size."""
        return self.lens_for(width, height)[1]


@dataclass(frozen=True)
class Listing:
    """What a dataset's pose files say.

    Attributes:
        source: the file or folder of the poses.
        frames: per split, the views whose image exists.
        aabb: xmin ymin zmin xmax ymax zmax of the scene in world units; None where the data do not tell.
        skipped: posed views without an image file.
        bounds: (near, far) depths along the viewing axes between which the scene lies, world units.
        reduction: the images are so many times smaller than the size `downscale` counts from.
        unposed: image files beside the posed ones that have no pose.
        points: (p, 3) float64 sparse points of the scene in world units.
        core: the part of `aabb` that a contraction should leave as it is; None for all of it.
        notes: lines for people on what was guessed or is not used.
        rule: what `aabb` follows, for people, where that is a rule of the pose file's makers; None where it was
            measured, or found by `box.placed`.
        beyond: the photographs show more than what lies in a box that was so found.
        origin: what was taken off all positions; see `origin.recentred`.
    """

    source: Path
    frames: dict[str, list[Frame]]
    aabb: list[float] | None
    skipped: int
    bounds: tuple[float, float] | None = None
    reduction: int = 1
    unposed: int = 0
    points: np.ndarray | None = None
    core: list[float] | None = None
    notes: tuple[str, ...] = ()
    rule: str | None = None
    beyond: bool = False
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)


def has_transforms(folder: Path) -> bool:
    """Whether the folder holds a transforms file of one of the known names."""
    return any((folder / name).exists() for name in ("transforms.json", *(f"transforms_{s}.json" for s in SPLITS)))


def read_transforms(path: Path, splits: Sequence[str], holdout: int) -> Listing:
    """Read transforms_train.json (and _val, _test) or transforms.json: a folder that has them, or one of these files.

    Raises:
        SinefieldError: anything missing, malformed, unsafe or unsupported.
    """
    folder = path if path.is_dir() else path.parent
    by_split = {split: folder / f"transforms_{split}.json" for split in SPLITS}
    if path in by_split.values() or (path.is_dir() and any(file.exists() for file in by_split.values())):
        return read_blender(path, by_split, splits)
    path = path / "transforms.json" if path.is_dir() else path
    meta = read_json(path)
    frames, skipped, notes = read_frames(meta, path)
    divided = divide(meta, path, frames, holdout)
    if meta.get("test_filenames") == [] and not divided["val"]:
        notes += ("test_filenames is empty: scores are of training views",)
    kept = {split: divided[split] for split in splits}
    points, more = read_points(meta, folder)
    notes = (*notes, *more)
    return Listing(path, kept, world_box(meta, path), skipped, points=points, notes=notes, rule=box_rule(meta))


def read_blender(path: Path, by_split: dict[str, Path], splits: Sequence[str]) -> Listing:
    """One JSON file a split, val and test optional. The box is +-1.5, where those scenes live, unless a file says."""
    frames, skipped, aabb, rule, notes, points = {}, 0, [-1.5] * 3 + [1.5] * 3, BLENDER, (), None
    for split in splits:
        file = by_split[split]
        frames[split] = []
        if split == "train" or file.exists():
            meta = read_json(file)
            frames[split], missing, more = read_frames(meta, file)
            skipped, notes = skipped + missing, notes + more
            if {"aabb_scale", "aabb", "scale", "offset"} & set(meta):
                aabb, rule = world_box(meta, file), box_rule(meta)
            if points is None:
                points, more = read_points(meta, file.parent)
                notes = (*notes, *more)
    return Listing(path, frames, aabb, skipped, points=points, notes=tuple(dict.fromkeys(notes)), rule=rule)


def read_json(path: Path) -> dict[str, Any]:
    """The file's top level, which must be an object with a non-empty list of frames."""
    data = read_bytes(path, MAX_BYTES, "pose file")
    try:
        meta = from_json(data, finite=False)  # frames are named where their numbers are looked at
    except json.JSONDecodeError as error:
        raise SinefieldError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); correct the file") from error
    except ValueError as error:
        raise SinefieldError(f"{path}: not readable as JSON ({str(error)[:60]}); provide a proper pose file") from error
    if not isinstance(meta, dict):
        raise SinefieldError(f"{path}: its top level is a {type(meta).__name__}; expected an object with 'frames'")
    frames = meta.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise SinefieldError(f"{path}: 'frames' must be a non-empty list of objects; list at least one posed image")
    return meta


def read_frames(meta: dict[str, Any], source: Path) -> tuple[list[Frame], int, tuple[str, ...]]:
    """The frames whose image exists, in the file's order, how many have none, and notes on what was guessed.

    An image is found by its path beside the file, else by its path's last parts: paths of the machine where the file
    was made lead nowhere. Last, other cases and endings of its name are tried.
    """
    folder, frames, moved, lost, guessed = source.parent, [], [], [], []
    known: Stems = {}
    for index, entry in enumerate(meta["frames"]):
        where = f"{source}, frame {index}"
        name, outside = clean_name(entry.get("file_path"), where)
        where += f" ({name[:80]})"
        file = None if outside else find_image(folder, name, where)
        if file is None and (file := find_similar(folder, name, where, outside, known)) is not None:
            (moved if outside else guessed).append((entry["file_path"], file.relative_to(folder).as_posix()))
        if file is None:
            if outside:
                lost.append(
                    f"{where}: file_path '{entry['file_path']}' leaves the data folder; move the image inside it"
                )
            continue
        name = file.relative_to(folder).as_posix()
        lens = {key: entry.get(key, meta.get(key)) for key in LENS_KEYS}
        frames.append(Frame(name, file, read_pose(entry, where), lens, where, **companions(entry, meta, folder, where)))
    if lost and not moved:
        raise SinefieldError(lost[0])
    notes = []
    if moved:
        told = f"'{moved[0][0][:80]}' as {moved[0][1][:80]}"
        notes.append(f"{len(moved)} file paths lead elsewhere; their images were found beside {source.name}: {told}")
    if guessed:
        told = f"'{guessed[0][0][:80]}' as {guessed[0][1][:80]}"
        notes.append(f"{len(guessed)} images were found under another name or ending: {told}")
    return frames, len(meta["frames"]) - len(frames), (*notes, *lost_companions(meta, folder))


def companions(entry: dict[str, Any], meta: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """A frame's mask and depth, those that are there, and the unit of the latter; for `Frame`."""
    unit = number({**meta, **entry}, "depth_unit_scale_factor", where)
    if unit is not None and unit <= 0:
        raise SinefieldError(f"{where}: depth_unit_scale_factor {unit:g}; it must be positive")
    found = {name: _companion(folder, entry.get(key)) for name, key in (("cover", "mask_path"), DEPTH)}
    return {**found, **({} if unit is None else {"depth_unit": unit})}


def lost_companions(meta: dict[str, Any], folder: Path) -> list[str]:
    """Notes on masks and depths that frames name and that are missing."""
    notes = []
    for key, what in (("mask_path", "masks"), ("depth_file_path", "depths")):
        named = [entry[key] for entry in meta["frames"] if isinstance(entry.get(key), str) and entry[key].strip()]
        if gone := [name for name in named if _companion(folder, name) is None]:
            notes.append(
                f"{len(named)} frames name {what} ({key}); {len(gone)} of the files are missing, {gone[0][:80]!r} the "
                "first"
            )
    return notes


def _companion(folder: Path, name: Any) -> Path | None:
    """A file beside the images, by its path or its last parts; None where there is none."""
    try:
        clean, outside = clean_name(name, "")
        parts = [part for part in PurePosixPath(clean).parts if part not in ("/", "..") and not part.endswith(":")]
        tails = ["/".join(parts[first:]) for first in range(len(parts))] if outside else [clean]
        for tail in tails:
            file = folder / tail
            if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
                return file
    except (SinefieldError, OSError, ValueError, RuntimeError):
        pass
    return None


def clean_name(value: Any, where: str) -> tuple[str, bool]:
    """A file_path with forward slashes, and whether it leads out of the data folder."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise SinefieldError(f"{where}: 'file_path' is {str(value)[:40]!r}; give a path relative to the JSON file")
    path = PurePosixPath(value.replace("\\", "/"))
    outside = path.is_absolute() or bool(PureWindowsPath(value).drive) or ".." in path.parts
    return path.as_posix(), outside


def safe_name(value: Any, where: str) -> str:
    """A file_path as a clean relative path; one that leaves the data folder is refused."""
    name, outside = clean_name(value, where)
    if outside:
        raise SinefieldError(f"{where}: file_path '{value}' leaves the data folder; move the image inside it")
    return name


def find_similar(folder: Path, name: str, where: str, outside: bool, known: Stems) -> Path | None:
    """The image that a path may mean: by its last parts, of one that leads outside; else in `images`; else the one file
    whose name differs in case or ending. None where there is none, or several."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..") and not part.endswith(":")]
    tails = ["/".join(parts[first:]) for first in range(len(parts))] if outside else [name]
    tails += [f"images/{parts[-1]}"] if parts else []
    for tail in tails:
        if (file := find_image(folder, tail, where)) is not None:
            return file
    for tail in tails:
        place = (folder / tail).parent
        stem = PurePosixPath(tail).stem.lower()
        same = _by_stem(place, known).get(stem, [])
        if len(same) == 1:
            return find_image(folder, (place / same[0]).relative_to(folder).as_posix(), where)
    return None


def _by_stem(folder: Path, known: Stems) -> dict[str, list[str]]:
    """Names of a folder's images by their stems in lower case; listed once."""
    if folder not in known:
        known[folder] = {}
        with suppress(OSError, ValueError):
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() in ENDINGS:
                    known[folder].setdefault(file.stem.lower(), []).append(file.name)
    return known[folder]


def find_image(folder: Path, name: str, where: str) -> Path | None:
    """The image file, with an extension tried if it has none; None if there is no such file."""
    try:
        for file in (folder / name, *(folder / (name + extension) for extension in EXTENSIONS)):
            if not file.resolve().is_relative_to(folder.resolve()):
                raise SinefieldError(f"{where}: is a link out of the data folder; copy the image inside it")
            if file.is_file():
                return file
    except (OSError, RuntimeError, ValueError) as error:  # a name too long or no text for the disk, a loop of links
        raise SinefieldError(
            f"{where}: cannot be looked up ({getattr(error, 'strerror', error)}); rename the image"
        ) from error
    return None


def read_pose(entry: dict[str, Any], where: str) -> np.ndarray:
    """(3, 4) camera to world with its rotation made exactly orthonormal; a uniform scale is removed."""
    rows: Any = entry.get("transform_matrix")
    proper = isinstance(rows, list) and len(rows) in (3, 4) and all(isinstance(r, list) and len(r) == 4 for r in rows)
    if not proper or not all(is_number(value) for row in rows for value in row):
        raise SinefieldError(f"{where}: 'transform_matrix' must be 4 rows of 4 finite numbers; export the pose again")
    pose = np.array(rows, dtype=np.float64)
    if len(rows) == 4 and not np.allclose(pose[3], (0, 0, 0, 1), atol=1e-4):
        raise SinefieldError(f"{where}: the last row of 'transform_matrix' is not 0 0 0 1; give a camera-to-world pose")
    return rigid(pose, where)


def divide(meta: dict[str, Any], source: Path, frames: list[Frame], holdout: int) -> dict[str, list[Frame]]:
    """Split one file's frames: by its own lists of file names (nerfstudio), else every holdout-th by name is test."""
    ordered = sorted(frames, key=lambda frame: frame.name)
    keys = {split: f"{split}_filenames" for split in SPLITS}
    if not any(key in meta for key in keys.values()):
        test = ordered[::holdout] if holdout else []
        train = [frame for index, frame in enumerate(ordered) if not holdout or index % holdout]
        return {"train": train, "val": [], "test": test}
    divided = {}
    for split, key in keys.items():
        listed = meta.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise SinefieldError(f"{source}: '{key}' must be a list of file paths; correct or remove it")
        chosen = {PurePosixPath(name.replace("\\", "/")).as_posix() for name in listed}
        # Absolute paths name a frame by their end.
        ends = {"/".join(PurePosixPath(name).parts[first:]) for name in chosen for first in range(1, 9)}
        divided[split] = [frame for frame in ordered if frame.name in chosen or frame.name in ends]
    if ordered and not any(divided.values()):
        key = next((key for key in keys.values() if meta.get(key)), "train_filenames")
        first = f", its first is {meta[key][0][:80]!r}" if meta.get(key) else ""
        raise SinefieldError(
            f"{source}: no usable frames: '{key}' names no frame{first}, a frame is {ordered[0].name[:80]!r}; correct "
            "or remove the list"
        )
    return divided


def world_box(meta: dict[str, Any], source: Path) -> list[float]:
    """The scene's box xmin ymin zmin xmax ymax zmax in world units, by instant-ngp's convention.

    It maps world to unit cube by x * scale + offset (per world axis; 0.33 and 0.5 unless given, or an 'aabb' that fills
    the cube) and looks at the cube's centre +- aabb_scale / 2.
    """
    size, scale = number(meta, "aabb_scale", str(source)), number(meta, "scale", str(source))
    size, scale = 1.0 if size is None else size, 0.33 if scale is None else scale
    offset = meta.get("offset", 0.5)
    offset = offset if isinstance(offset, list) else [offset] * 3
    if len(offset) != 3 or not all(is_number(value) for value in offset):
        raise SinefieldError(f"{source}: 'offset' must be one or three finite numbers; correct or remove it")
    if "aabb" in meta:
        corners = meta["aabb"]
        proper = isinstance(corners, list) and len(corners) == 2 and all(isinstance(c, list) for c in corners)
        low, high = check_box([*corners[0], *corners[1]] if proper else [], f"{source}: 'aabb'").reshape(2, 3)
        scale = 1 / (high - low).max()
        offset = 0.5 - (low + high) / 2 * scale
    if size <= 0 or scale <= 0:
        raise SinefieldError(f"{source}: aabb_scale {size:g}, scale {scale:g}; both must be positive")
    return [float((side - shift) / scale) for side in (0.5 - size / 2, 0.5 + size / 2) for shift in offset]


def box_rule(meta: dict[str, Any]) -> str:
    """What `world_box` goes by, for people."""
    size = meta.get("aabb_scale")
    if "aabb" in meta and size in (None, 1):
        return STATED
    return "instant-ngp's rule" + (" (no aabb_scale)" if size is None else f" (aabb_scale {size:g})")


def check_box(values: Sequence[Any], where: str) -> np.ndarray:
    """Six finite numbers xmin ymin zmin xmax ymax zmax, each min below its max, as a float64 array."""
    values = list(values)
    if len(values) != 6 or not all(is_number(v) for v in values) or any(values[i] >= values[i + 3] for i in range(3)):
        raise SinefieldError(f"{where} must be xmin ymin zmin xmax ymax zmax with each min below its max; correct it")
    return np.array(values, dtype=np.float64)
