"""Images with a COLMAP sparse model: which files the poses belong to, and the box and depths that its points give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.cameras.cameras import LARGEST
from sinefield.data.photographs.colmap_files import READERS, Image, file_of
from sinefield.data.photographs.masks import find_mask
from sinefield.data.photographs.shared import (
    check_bounds,
    check_spread,
    choose_folder,
    image_folders,
    image_names,
)
from sinefield.data.photographs.sparse_points import FEWEST, points_box
from sinefield.data.photographs.transforms import Frame, Listing, divide, find_image, safe_name
from sinefield.errors import SinefieldError
from sinefield.files import require_file

# Where COLMAP, nerfstudio, LLFF's and Gaussian splatting's scripts leave models.
BELOW = ("sparse", "colmap/sparse", "colmap_sparse", "distorted/sparse", "colmap")
VIEWS = 3  # views that must see a point before it counts: two can agree on a wrong one
DEPTH_PERCENTILES = (0.1, 99.9)  # those of LLFF's poses_bounds.npy


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
        path: the model's folder, or one with it in `sparse/0` or another place of `BELOW`; its images are in the folder
            `images`, or `images_K`, there or where the model's folders begin.
        splits: which of train, val, test to read.
        holdout: every `holdout`-th image by sorted name is a test view; 0 for none.
        downscale: how many times smaller than the full size the images are wanted.

    Raises:
        SinefieldError: several models, a malformed one, a lens that is not read, no images.
    """
    folder = choose_model(path)
    model = read_model(folder)
    roots = [path, folder, folder.parent, folder.parent.parent]
    roots += [home.parent for home in roots[2:] if home.name in ("colmap", "distorted")]
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
        cover = find_mask(root / "masks", image.name)
        frames.append(Frame(file.relative_to(root).as_posix(), file, image.c2w, lens, where, reduction, cover=cover))
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
    """Folders with a model: `path` itself, else a folder of `BELOW` in it, or all that lie directly in one of these."""
    homes = [path, *(path / name for name in BELOW)]
    for home in homes:
        inside = sorted(home.iterdir()) if home != path and home.is_dir() else []
        for group in ([home], inside):
            if models := [folder for folder in group if file_of(folder, "cameras") or file_of(folder, "images")]:
                return models
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return [folder for folder in inside if file_of(folder, "cameras") or file_of(folder, "images")]


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


def read_model(folder: Path) -> Model:
    """Read a model's files; points3D may be absent.

    Raises:
        SinefieldError: a file is missing, truncated or inconsistent, or an image's camera model is not read.
    """
    parts = []
    for name, readers in READERS.items():
        file = file_of(folder, name)
        if file is None and name != "points3D":
            raise SinefieldError(f"{folder}: has no {name}.bin or {name}.txt; export the whole model")
        if file is None or (name == "points3D" and file.stat().st_size == 0):
            parts.append({})
        else:
            parts.append(readers[file.suffix](require_file(file, "COLMAP file")))
    lenses, images, points = parts
    for number, image in images.items():
        if image.camera not in lenses:
            raise SinefieldError(f"{folder}, image {number}: its camera {image.camera} is not listed; export it again")
        if isinstance(problem := lenses[image.camera], SinefieldError):
            raise problem
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
    if len(points) < FEWEST:
        return None, None, points
    point, seen_by = point[enough[point]], seen_by[enough[point]]
    box = points_box(points)
    poses = np.stack([model.images[number].c2w for number in known.tolist()])
    depths = ((poses[seen_by, :, 3] - model.points[point]) * poses[seen_by, :, 2]).sum(-1)
    if not (depths > 0).any():
        raise SinefieldError(f"{model.folder}: every point lies behind its cameras; reconstruct the poses again")
    near, far = np.percentile(depths[depths > 0], DEPTH_PERCENTILES).tolist()
    check_bounds(near, far, str(model.folder))
    return box, (near, far), points
