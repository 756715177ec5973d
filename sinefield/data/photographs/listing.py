"""Which reader a folder of photographs needs."""

from collections.abc import Sequence
from pathlib import Path

from sinefield.data.photographs.colmap import find_models, read_colmap
from sinefield.data.photographs.dtu import find_cameras, read_dtu
from sinefield.data.photographs.llff import read_llff
from sinefield.data.photographs.other_formats import recognised
from sinefield.data.photographs.shared import image_folders
from sinefield.data.photographs.transforms import SPLITS, Listing, has_transforms, read_transforms
from sinefield.errors import SinefieldError
from sinefield.files import require_file


def read_listing(path: str | Path, splits: Sequence[str] = SPLITS, holdout: int = 8, downscale: int = 1) -> Listing:
    """Read a dataset's poses, whatever its layout: transforms*.json, else poses_bounds.npy, else
    cameras_sphere.npz, else a COLMAP model.

    Arguments:
        path: a folder that holds one of these, or one of these itself.
        splits: which of train, val, test to read.
        holdout: where the data name no test views, every `holdout`-th by sorted name is one; 0 for none.
        downscale: how many times smaller than the full size the images are wanted, where there is a choice of folders.

    Raises:
        SinefieldError: anything missing, malformed, unsafe or unsupported; see `load_posed`.
    """
    if unknown := set(splits) - set(SPLITS):
        raise SinefieldError(f"split '{sorted(unknown)[0]}' is unknown; choose from {', '.join(SPLITS)}")
    if holdout < 0:
        raise SinefieldError(f"holdout {holdout}: must be 0 (no test views) or positive")
    path = Path(path)
    if not path.is_dir():
        require_file(path, "data folder or pose file")
        if told := recognised(path):
            raise SinefieldError(told)
        if path.suffix == ".npy":
            return read_llff(path, splits, holdout, downscale)
        if path.suffix == ".npz":
            return read_dtu(path, splits, holdout)
        if path.suffix in (".bin", ".txt"):
            return read_colmap(path.parent, splits, holdout, downscale)
        return read_transforms(path, splits, holdout)
    if has_transforms(path):
        return read_transforms(path, splits, holdout)
    if (path / "poses_bounds.npy").exists():
        return read_llff(path / "poses_bounds.npy", splits, holdout, downscale)
    if cameras := find_cameras(path):
        return read_dtu(cameras, splits, holdout)
    if find_models(path):
        return read_colmap(path, splits, holdout, downscale)
    if told := recognised(path):
        raise SinefieldError(told)
    problem = f"{path}: has neither transforms*.json nor poses_bounds.npy nor cameras_sphere.npz nor a COLMAP model"
    if folders := image_folders(path):
        images = folders[min(folders)]
        where = images.name or images
        remedy = f"find the poses by 'sinefield poses {path}', or do all steps by 'sinefield capture {path} --out DIR'"
        raise SinefieldError(f"{problem}, but images without poses in {where}; {remedy}")
    raise SinefieldError(f"{problem}; give a data folder")
