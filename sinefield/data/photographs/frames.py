"""Photographs out of a video: where the camera has moved on, the sharpest frame."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.ndimage import laplace
from tqdm import tqdm

from sinefield.errors import SinefieldError
from sinefield.files import atomic_folder, check_folder_place, foreign, require_file
from sinefield.machine import ffmpeg_program

FRAMES = "frames.json"
"""Stands beside `images` of a video: these are in the order in which they were taken."""
SIDE = 384  # pixels of the squares that frames are compared as: enough to see a blur of single pixels
BLOCK = 12  # pixels averaged before movement is measured, so that noise is none
STILL = 0.02  # of the mean movement, added to each frame's: time counts a little even where nothing moves
MOST = 5000
KINDS = (".png", ".jpg")
OURS = re.compile(r"frames\.json|images/(frame_\d{5,}\.(png|jpg))?")


def extract_frames(
    video: str | Path, out: str | Path, count: int = 60, kind: str = ".jpg", overwrite: bool = False
) -> dict[str, Any]:
    """Write the frames of a video that are worth photographs to out/images, upright.

    The video is cut into `count` parts of equal movement (mean absolute difference of small grey frames); of each part
    the sharpest frame is taken (variance of the Laplacian).

    Arguments:
        video: a file that ffmpeg reads.
        out: folder to make, with `images` and `frames.json` (of each image the frame's number, from 0).
        count: frames wanted, 3 to 5,000; a shorter video gives all it has.
        kind: .jpg or .png.
        overwrite: replace an earlier folder of frames.

    Returns:
        out, frames (taken), read (frames of the video), chosen (their numbers).

    Raises:
        SinefieldError: no such file, no video ffmpeg can read, a count or kind out of range, `out` holds something.
    """
    video, out = require_file(video, "video"), Path(out)
    if not 3 <= count <= MOST:
        raise SinefieldError(f"--count {count}: 3 to {MOST:,}")
    if kind not in KINDS:
        raise SinefieldError(f"--kind {kind}: one of {', '.join(KINDS)}")
    _check_out(out, overwrite)
    sharpness, movement = _measure(video)
    chosen = choose_frames(sharpness, movement, count)
    with atomic_folder(out) as folder:
        (folder / "images").mkdir()
        written = _write(video, chosen, folder / "images", kind)
        (folder / FRAMES).write_text(json.dumps({"video": video.name, "frames": written}, indent=1), encoding="utf-8")
    return {"out": str(out), "frames": len(chosen), "read": len(sharpness), "chosen": chosen}


def check_video(video: str | Path) -> None:
    """Refuse, before anything is made of it, a file of which no frame can be read.

    Raises:
        SinefieldError: no such file, or no video that ffmpeg can read.
    """
    with closing(_grey(require_file(video, "video"))) as frames:
        next(frames, None)


def choose_frames(sharpness: Sequence[float], movement: Sequence[float], count: int) -> list[int]:
    """Numbers of the sharpest frame of each of `count` parts of equal movement; a part without a frame gives none.

    Arguments:
        sharpness: of each frame.
        movement: of each frame since the one before; the first entry counts for nothing.

    >>> choose_frames([1, 5, 1, 1, 5, 1, 5, 1], [0, 1, 1, 1, 1, 1, 1, 1], 3)
    [1, 4, 6]
    """
    total = len(sharpness)
    if total <= count:
        return list(range(total))
    steps = np.asarray(movement, float)
    steps[0] = 0
    steps[1:] += STILL * steps.mean() or 1.0
    parts = np.minimum((np.cumsum(steps) / steps.sum() * count).astype(int), count - 1)
    sharp = np.asarray(sharpness, float)
    return [int(here[sharp[here].argmax()]) for part in range(count) if len(here := np.flatnonzero(parts == part))]


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise SinefieldError(f"{out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        odd = foreign(out, OURS)
        if odd or not (out / FRAMES).exists():
            raise SinefieldError(
                f"{out}: holds something other than frames{f' ({odd[0]})' if odd else ''}; give a new folder"
            )
        if not overwrite:
            raise SinefieldError(f"{out}: holds frames already; use --overwrite to replace them")
    check_folder_place(out)


def _measure(video: Path) -> tuple[list[float], list[float]]:
    """Sharpness and movement of every frame."""
    sharpness, movement, before = [], [], None
    with tqdm(desc="looking at frames", unit="", leave=False, disable=None, file=sys.stderr) as bar:
        for frame in _grey(video):
            grey = frame.astype(np.float32)
            small = grey.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).mean((1, 3))
            small -= small.mean()  # a change of exposure moves nothing
            sharpness.append(float(laplace(grey).var()))
            movement.append(0.0 if before is None else float(np.abs(small - before).mean()))
            before = small
            bar.update()
    return sharpness, movement


def _grey(video: Path) -> Generator[Float[np.ndarray, "side side"], None, None]:
    """Every frame as a grey square, whatever its shape: no size that the file claims is trusted."""
    picture = ["-vf", f"scale={SIDE}:{SIDE}:flags=area,format=gray", "-f", "rawvideo", "-"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*_reading(video), *picture], stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        read = 0
        try:
            while len(data := process.stdout.read(SIDE * SIDE)) == SIDE * SIDE:
                read += 1
                yield np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)
            process.wait()
        finally:
            _end(process)
        if not read:  # a file cut short gives the frames that are whole
            raise _unreadable(video, log)


def _write(video: Path, chosen: list[int], folder: Path, kind: str) -> dict[str, int]:
    """Write the chosen frames in full size; returns the number of each file's frame."""
    # One test of a sorted list by halves, since a sum of 5,000 comparisons would be slow for each frame.
    picture = ["-vf", f"select='{_among(chosen)}'", *(["-q:v", "2"] if kind == ".jpg" else [])]
    target = str(folder).replace("%", "%%") + f"/frame_%05d{kind}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*_reading(video), *picture, "-f", "image2", target], stderr=log)
        try:
            process.wait()
        finally:
            _end(process)
        files = sorted(folder.iterdir())
        if process.returncode == 256 - errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(files) != len(chosen):
            raise _unreadable(video, log)
    return {file.name: number for file, number in zip(files, chosen, strict=True)}


def _among(numbers: list[int]) -> str:
    """ffmpeg's expression for: n is one of these."""
    if len(numbers) == 1:
        return f"eq(n,{numbers[0]})"
    half = len(numbers) // 2
    return f"if(lt(n,{numbers[half]}),{_among(numbers[:half])},{_among(numbers[half:])})"


def _reading(video: Path) -> list[str]:
    """ffmpeg, and how it reads: this file alone, each frame once, turned as its metadata say."""
    try:
        program = ffmpeg_program()
    except SinefieldError as error:
        raise SinefieldError(f"{video}: {error}") from error
    source = ["-protocol_whitelist", "file", "-i", f"file:{video}", "-map", "0:v:0", "-fps_mode", "passthrough"]
    return [program, "-nostdin", "-y", "-loglevel", "error", *source]


def _unreadable(video: Path, log: Any) -> SinefieldError:
    log.seek(0)
    said = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return SinefieldError(f"{video}: no video that ffmpeg can read ({said[-1][-200:] if said else 'no frames'})")


def _end(process: subprocess.Popen) -> None:
    """Leave no ffmpeg running and no pipe open."""
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        with suppress(OSError):
            process.stdout.close()
