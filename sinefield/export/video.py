"""Frames to an mp4 or gif file that either is complete or does not exist."""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, check_output

EXTENSIONS = (".mp4", ".gif")
Frame = UInt8[np.ndarray, "h w 3"]

# Players take H.264 in yuv420p only, and assume BT.709 colours where a file does not say: so convert to it, and say so.
# The index goes first (faststart) so that a browser can play while it loads.
ENCODE = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
ENCODE += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-color_range", "tv"]
ENCODE += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]


def check_video_path(path: str | Path, overwrite: bool = False) -> Path:
    """Return `path` if a video can be written there; ask before rendering for minutes.

    Raises:
        SinefieldError: an extension other than .mp4 and .gif, a file that exists while `overwrite` is False, a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise SinefieldError(f"{path}: unknown kind of video '{path.suffix}'; name it {' or '.join(EXTENSIONS)}")
    check_output(path, overwrite)
    return path


def write_video(
    path: str | Path,
    frames: Iterable[Frame],
    fps: float = 30,
    overwrite: bool = False,
    n_frames: int | None = None,
) -> Path:
    """Write frames to an .mp4 (H.264) or an endlessly looping .gif, making its folder; on any failure nothing is left.

    An mp4 takes frames one by one as they are made; an odd width or height grows by one pixel, a copy of the edge.
    A gif holds them all in memory, 256 colours each; its clock ticks in hundredths of a second, so fps is rounded.

    Arguments:
        path: file to write; its extension chooses the format.
        frames: (h, w, 3) uint8 sRGB pictures, all of one size; may be a generator.
        fps: frames a second, at most 50 for a gif.
        overwrite: replace an existing file.
        n_frames: their number, if known, for the progress bar.

    Returns:
        `path`.

    Raises:
        SinefieldError: see `check_video_path`; no frames, frames of different sizes or types, fps not positive,
            a failing encoder. What `frames` itself raises passes through.
    """
    path = check_video_path(path, overwrite)
    gif = path.suffix.lower() == ".gif"
    if not 0 < fps <= (50 if gif else 1000):
        raise SinefieldError(f"{path}: fps {fps}; must be positive and at most {50 if gif else 1000}")
    frames = _checked(path, tqdm(frames, path.name, n_frames, leave=False, disable=None))
    first = next(frames, None)
    if first is None:
        raise SinefieldError(f"{path}: no frames to write; render at least one")
    with atomic_path(path, overwrite) as temporary:
        (_write_gif if gif else _write_mp4)(temporary, path, first, frames, fps)
    return path


def colourise_depth(
    depth: Float[np.ndarray, "h w"], opacity: Float[np.ndarray, "h w"], near: float, far: float
) -> Frame:
    """Depth as a picture: near is bright yellow, far is dark violet (viridis, perceptually uniform), empty is white.

    Arguments:
        depth: (h, w) distance along the ray in world units; values outside [near, far] are clipped, NaN counts as far.
        opacity: (h, w) in [0, 1]; the colour is blended with white by it.
        near, far: the depths of the ends of the colour map, near < far.

    Raises:
        SinefieldError: near is not below far.
    """
    if not near < far:
        raise SinefieldError(f"depth range {near:g} to {far:g}: near must be below far")
    from matplotlib import colormaps  # a second to import, and only depth pictures need it

    closeness = np.nan_to_num(1 - (depth - near) / (far - near), nan=0.0)
    colour = colormaps["viridis"](np.clip(closeness, 0, 1))[..., :3]
    opacity = np.clip(np.nan_to_num(opacity), 0, 1)[..., None]
    return np.round(255 * (colour * opacity + 1 - opacity)).astype(np.uint8)


def _checked(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames as contiguous arrays, each held to the shape of the first."""
    shape = None
    for index, frame in enumerate(frames):
        frame = np.ascontiguousarray(frame)
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise SinefieldError(f"{path}: frame {index} is {frame.dtype} {frame.shape}; expected uint8 (h, w, 3)")
        if frame.shape != shape:
            raise SinefieldError(
                f"{path}: frame {index} is {frame.shape[1]}x{frame.shape[0]} but the first is {shape[1]}x{shape[0]}; "
                "render all frames at one size"
            )
        yield frame


def _write_mp4(temporary: Path, path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    import imageio_ffmpeg  # brings the ffmpeg program along

    height, width, _ = first.shape
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    size = f"{width + width % 2}x{height + height % 2}"
    source = f"-f rawvideo -pix_fmt rgb24 -s {size} -r {fps} -i -".split()
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise SinefieldError(
            f"{path}: no ffmpeg program ({error}); reinstall imageio-ffmpeg or write a .gif"
        ) from error
    command = [program, "-y", "-loglevel", "error", *source, *ENCODE, str(temporary)]
    # imageio_ffmpeg's own writer never asks how ffmpeg ended; a full disk would pass for success.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
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
            raise SinefieldError(f"{path}: ffmpeg failed ({reason[-300:]}); check the disk or write a .gif")


def _end(process: subprocess.Popen) -> None:
    """Leave no ffmpeg running and no pipe open, whatever happened."""
    if process.poll() is None:
        process.kill()
        process.wait()
    with suppress(BrokenPipeError):  # frames still in the pipe's buffer when ffmpeg went
        process.stdin.close()


def _write_gif(temporary: Path, path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    # A palette of its own for each frame, without dithering: its speckle crawls from frame to frame and packs badly.
    images = [Image.fromarray(f).quantize(256, dither=Image.Dither.NONE) for f in chain([first], rest)]
    duration = max(20, 10 * round(100 / fps))  # milliseconds; browsers slow down anything under 20
    images[0].save(temporary, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
