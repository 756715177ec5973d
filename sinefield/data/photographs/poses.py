"""Poses for photographs that have none: COLMAP, where it is installed."""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sinefield.data.photographs.colmap import Model, find_models, read_model
from sinefield.data.photographs.shared import image_folders, image_names
from sinefield.errors import SinefieldError
from sinefield.files import swap, write_error

QUALITIES = ("low", "medium", "high", "extreme")
# What COLMAP's log says as it works, release after release: an image read, an image placed.
STAGES = (
    (re.compile(r"Processed file \[(\d+)/(\d+)\]"), "reading"),
    (re.compile(r"Registering image #\d+ \((?:num_reg_frames=)?(\d+)\)"), "placing"),
)
TAIL = 30


def find_poses(folder: str | Path, quality: str = "medium", overwrite: bool = False) -> dict[str, Any]:
    """Find the poses of a folder's photographs by COLMAP, as folder/sparse/0.

    All photographs are taken to be of one camera, with OpenCV's k1, k2, p1, p2. Where COLMAP ends with several models,
    the one of the most photographs is kept.

    Arguments:
        folder: holds `images`, or the photographs themselves.
        quality: COLMAP's preset: low, medium, high or extreme.
        overwrite: replace folder/sparse.

    Returns:
        folder, model, images (given), registered, points, models (found), seconds.

    Raises:
        SinefieldError: COLMAP is not installed, failed, or placed nothing; no photographs; poses are there already.
    """
    folder = Path(folder)
    images, program = _check(folder, quality, overwrite)
    begin = time.perf_counter()
    names = image_names(images)
    try:
        with tempfile.TemporaryDirectory(prefix=".poses-", dir=folder) as scratch:
            _run(program, images.resolve(), Path(scratch), quality, len(names))
            model, found = _keep_largest(Path(scratch), folder, len(names))
    except OSError as error:
        raise write_error(folder, error) from error
    return {
        "folder": str(folder),
        "model": str(folder / "sparse" / "0"),
        "images": len(names),
        "registered": len(model.images),
        "points": len(model.points),
        "models": found,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _check(folder: Path, quality: str, overwrite: bool) -> tuple[Path, str]:
    """The folder of the photographs themselves, and COLMAP's program."""
    if not folder.is_dir():
        raise SinefieldError(f"{folder}: no such folder; give one of photographs")
    if quality not in QUALITIES:
        raise SinefieldError(f"--quality {quality}: one of {', '.join(QUALITIES)}")
    folders = image_folders(folder)
    if not folders:
        raise SinefieldError(f"{folder}: has no photographs, nor a folder 'images' of them")
    if find_models(folder) and not overwrite:
        raise SinefieldError(f"{folder}: has a COLMAP model already; use --overwrite to replace it")
    program = shutil.which("colmap")
    if program is None:
        raise SinefieldError(
            "COLMAP, which finds poses, is not installed; apt install colmap, brew install colmap, or see "
            "https://colmap.github.io/install.html"
        )
    return folders[min(folders)], program


def _keep_largest(scratch: Path, folder: Path, total: int) -> tuple[Model, int]:
    """Move the model of the most photographs to folder/sparse/0; returns it, and how many models there were."""
    models = {path: read_model(path) for path in find_models(scratch)}
    if not models:
        raise SinefieldError(
            f"{folder}: COLMAP placed none of {total} photographs; take more that overlap, all in focus, "
            "from places some steps apart"
        )
    best = max(models, key=lambda path: len(models[path].images))
    kept = scratch / "kept"
    kept.mkdir()
    best.rename(kept / "0")
    swap(kept, folder / "sparse", scratch / "old")
    return models[best], len(models)


def _run(program: str, images: Path, workspace: Path, quality: str, total: int) -> None:
    """COLMAP's own chain of commands, with a bar; its last words if it fails."""
    command = [program, "automatic_reconstructor", "--workspace_path", str(workspace), "--image_path", str(images)]
    command += ["--quality", quality, "--dense", "0", "--single_camera", "1", "--camera_model", "OPENCV"]
    # Without a CUDA device its features would need a screen to be computed on.
    command += [] if shutil.which("nvidia-smi") else ["--use_gpu", "0"]
    tail: deque[str] = deque(maxlen=TAIL)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    try:
        with tqdm(total=total, desc="COLMAP", unit="image", leave=False, disable=None, file=sys.stderr) as bar:
            for line in process.stdout:
                tail.append(line.strip())
                for pattern, stage in STAGES:
                    if found := pattern.search(line):
                        bar.set_description(f"COLMAP: {stage}")
                        bar.n = min(int(found[1]), total)
                        bar.refresh()
        failed = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if failed:
        said = next((line for line in reversed(tail) if line), f"exit status {failed}")
        raise SinefieldError(f"{images}: COLMAP failed ({said[-200:]}); run it by hand: {shlex.join(command)}")
