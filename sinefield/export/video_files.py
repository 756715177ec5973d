"""Frames to a video file, or a folder of pictures, that either is complete or does not exist."""

import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from sinefield.errors import SinefieldError
from sinefield.files import atomic_folder, atomic_path, check_folder_place, check_output, foreign
from sinefield.machine import ffmpeg_program

EXTENSIONS = (".mp4", ".webm", ".gif")
Frame = UInt8[np.ndarray, "h w 3"]
AlphaFrame = UInt8[np.ndarray, "h w 4"]

# Players assume BT.709 colours where a file does not say: so convert to it, and say so.
COLOURS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-color_range", "tv"]
COLOURS += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
# Players take H.264 in yuv420p only. The index goes first (faststart) so that a browser can play while it loads.
H264 = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
# VP9 at constant quality; its search is cut short where that costs minutes and shows nothing.
VP9 = ["-an", "-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1"]
ENCODE = {
    (".mp4", 3): [*H264, *COLOURS],
    (".webm", 3): [*VP9, "-pix_fmt", "yuv420p", *COLOURS],
    # libvpx codes alpha as a second stream, which frames from the future would put out of step.
    (".webm", 4): [*VP9, "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", *COLOURS],
}
PICTURE = re.compile(r"\d{4,}\.png")


def is_folder(path: str | Path) -> bool:
    """Whether an output is to be a folder of pictures: it ends with a slash, has no suffix, or is a folder."""
    return str(path).endswith(("/", os.sep)) or Path(path).suffix == "" or Path(path).is_dir()


def check_video_path(path: str | Path, overwrite: bool = False, alpha: bool = False) -> Path:
    """Return `path` if a video can be written there; ask before rendering for minutes.

    Arguments:
        path: a file .mp4, .webm or .gif, or a folder (see `is_folder`), which is made, or may be there and empty.
        overwrite: replace a file, or a folder that holds nothing but an earlier video's pictures.
        alpha: frames will have four channels.

    Raises:
        SinefieldError: another extension, a format without alpha, no ffmpeg, a file that exists while `overwrite` is
            False, a folder with contents.
    """
    folder, path = is_folder(path), Path(path)
    if not folder and path.suffix.lower() not in EXTENSIONS:
        raise SinefieldError(
            f"{path}: unknown kind of video '{path.suffix}'; name it {', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}, "
            "or end it with / for a folder of pictures"
        )
    if alpha and not folder and path.suffix.lower() != ".webm":
        raise SinefieldError(f"{path}: {path.suffix} keeps no alpha; write a .webm or a folder of pictures (OUT/)")
    if not folder:
        if path.suffix.lower() != ".gif":
            encoder(path)
        check_output(path, overwrite)
        return path
    if path.exists() and not path.is_dir():
        raise SinefieldError(f"{path}: is a file; give another name, or .mp4, .webm or .gif")
    return check_folder(path, PICTURE, "one of a video's pictures", overwrite)


def encoder(path: Path) -> str:
    """The program that writes an .mp4 or .webm.

    Raises:
        SinefieldError: there is none.
    """
    try:
        return ffmpeg_program()
    except SinefieldError as error:
        raise SinefieldError(f"{path}: {error}, or write a .gif") from error


def check_folder(path: Path, pattern: re.Pattern[str], what: str, overwrite: bool) -> Path:
    """Return `path` if it can become a folder whose files match `pattern`: new, empty, or one such before.

    Raises:
        SinefieldError: a folder that holds something else, or such files while `overwrite` is False.
    """
    if path.exists() and not path.is_dir():
        raise SinefieldError(f"{path}: is a file; give another name")
    if odd := foreign(path, pattern):
        raise SinefieldError(f"{path}: is a folder with '{odd[0]}' in it, not {what}; name another")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise SinefieldError(f"{path}: holds pictures already; give another name or --overwrite")
    check_folder_place(path)
    return path


def write_video(
    path: str | Path,
    frames: Iterable[Frame | AlphaFrame],
    fps: float = 30,
    overwrite: bool = False,
    n_frames: int | None = None,
) -> Path:
    """Write frames to an .mp4 (H.264), a .webm (VP9), an endlessly looping .gif, or as PNGs 0000.png … to a folder,
    making what is above it; on any failure nothing is left.

    All but a gif take frames one by one as they are made; in an mp4 or webm an odd width or height grows by one pixel,
    a copy of the edge. A gif holds them all in memory, 256 colours each; its clock ticks in hundredths of a second, so
    fps is rounded.

    Arguments:
        path: file or folder to write; see `check_video_path`.
        frames: (h, w, 3) uint8 sRGB pictures, or for a .webm and a folder (h, w, 4) with straight alpha; all of one
            shape; may be a generator.
        fps: frames a second, at most 50 for a gif.
        overwrite: replace what is there.
        n_frames: their number, if known, for the progress bar.

    Returns:
        `path`.

    Raises:
        SinefieldError: see `check_video_path`; no frames, frames of different sizes or types, fps not positive,
            a failing encoder. What `frames` itself raises passes through.
    """
    folder, path = is_folder(path), check_video_path(path, overwrite)
    kind = "" if folder else path.suffix.lower()
    most = 50 if kind == ".gif" else 1000
    if not 0 < fps <= most:
        raise SinefieldError(f"{path}: fps {fps}; must be positive and at most {most}")
    channels = (3, 4) if kind in ("", ".webm") else (3,)
    frames = _checked(path, tqdm(frames, path.name, n_frames, leave=False, disable=None), channels)
    first = next(frames, None)
    if first is None:
        raise SinefieldError(f"{path}: no frames to write; render at least one")
    if folder:
        with atomic_folder(path) as build:
            for number, frame in enumerate(chain([first], frames)):
                Image.fromarray(frame).save(build / f"{number:04d}.png")
        return path
    with atomic_path(path, overwrite) as temporary:
        (_write_gif if kind == ".gif" else _encode)(temporary, path, first, frames, fps)
    return path


def _checked(path: Path, frames: Iterable[np.ndarray], channels: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The frames as contiguous arrays, each held to the shape of the first."""
    shape = None
    for index, frame in enumerate(frames):
        frame = np.ascontiguousarray(frame)
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in channels or 0 in frame.shape:
            expected = " or ".join(f"(h, w, {n})" for n in channels)
            raise SinefieldError(f"{path}: frame {index} is {frame.dtype} {frame.shape}; expected uint8 {expected}")
        if frame.shape != shape:
            raise SinefieldError(
                f"{path}: frame {index} is {frame.shape[1]}x{frame.shape[0]} but the first is {shape[1]}x{shape[0]}; "
                "render all frames at one size"
            )
        yield frame


def _encode(temporary: Path, path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    height, width, channels = first.shape
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    size = f"{width + width % 2}x{height + height % 2}"
    source = f"-f rawvideo -pix_fmt {'rgba' if channels == 4 else 'rgb24'} -s {size} -r {fps} -i -".split()
    command = [
        encoder(path),
        "-y",
        "-loglevel",
        "error",
        *source,
        *ENCODE[path.suffix.lower(), channels],
        str(temporary),
    ]
    # imageio_ffmpeg's own writer never asks how ffmpeg ended; a full disk would pass for success.
    with tempfile.TemporaryFile(dir=temporary.parent) as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
        assert process.stdin is not None
        try:
            for frame in chain([first], rest):
                process.stdin.write(np.pad(frame, pad, "edge").tobytes())
            process.stdin.close()
            failed = process.wait() != 0
        except BrokenPipeError:
            failed = True
        finally:
            _end(process)
        if failed:
            log.seek(0)
            reason = log.read().decode(errors="replace").strip() or f"exit status {process.returncode}"
            full = os.strerror(errno.ENOSPC)
            if process.returncode == 256 - errno.ENOSPC or full in reason:  # its own log may be cut short by that, too
                raise OSError(errno.ENOSPC, full)
            raise SinefieldError(f"{path}: ffmpeg failed ({reason[-300:]}); check the disk or write a .gif")


def _end(process: subprocess.Popen) -> None:
    """Leave no ffmpeg running and no pipe open, whatever happened."""
    if process.poll() is None:
        process.kill()
        process.wait()
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # frames still in the pipe's buffer when ffmpeg went
        process.stdin.close()


def _write_gif(temporary: Path, path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    # A palette of its own for each frame, without dithering: its speckle crawls from frame to frame and packs badly.
    images = [Image.fromarray(f).quantize(256, dither=Image.Dither.NONE) for f in chain([first], rest)]
    duration = max(20, 10 * round(100 / fps))  # milliseconds; browsers slow down anything under 20
    images[0].save(temporary, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
