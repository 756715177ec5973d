"""The files of COLMAP's sparse models, binary and text: cameras, images, points3D.

Formats: colmap.github.io/format.html. No count in a file is trusted before it was compared with the file's size.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.cameras.cameras import rigid
from sinefield.data.photographs.lens_models import ADVICE, COLMAP_MODELS, LENS_KEYS, UNREAD_MODELS, is_number
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes, read_text

MAX_BYTES = 4 << 30
PARAMETERS = dict(COLMAP_MODELS.values())


@dataclass(frozen=True)
class Image:
    """A registered image: its file's name, its camera, and (3, 4) float64 camera to world in OpenGL axes."""

    name: str
    camera: int
    c2w: np.ndarray


def file_of(folder: Path, name: str) -> Path | None:
    """folder/name.bin, else folder/name.txt, if there."""
    return next((file for file in (folder / f"{name}.bin", folder / f"{name}.txt") if file.is_file()), None)


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
    if min(lens.get("fl_x", 1), lens.get("fl_y", 1)) <= 0 or min(width, height) < 1:
        raise SinefieldError(f"{where}: focal length or image size is not positive; reconstruct the poses again")
    return dict.fromkeys(LENS_KEYS) | lens | {"w": width, "h": height, "camera_model": model}


def unsupported(model: str | int, where: str) -> SinefieldError:
    """The one line for a camera model that is not read."""
    return SinefieldError(
        f"{where}: camera model {str(model)[:40]} is not supported; {ADVICE} (docs/your_photographs.md lists them)"
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
        self.path, self.data, self.at = path, read_bytes(path, MAX_BYTES, "model's file"), 0

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


def binary_cameras(path: Path) -> dict[int, dict[str, Any] | SinefieldError]:
    """Lenses by number; of a model that is not supported what is wrong, which only counts where an image has it."""
    source, entries = Bytes(path), {}
    for _ in range(source.count(24)):
        number, model, width, height = source.take("IiQQ")
        where = f"{path}, camera {number}"
        if model in UNREAD_MODELS:
            source.need(8 * UNREAD_MODELS[model][1])
            add(entries, number, unsupported(UNREAD_MODELS[model][0], where), where)
            continue
        if model not in COLMAP_MODELS:
            raise unsupported(f"number {model}", where)
        name, keys = COLMAP_MODELS[model]
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
    lines = iter(enumerate(read_text(path, MAX_BYTES, "model's file").splitlines(), 1))
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


def text_camera(line: str, more: list[str], where: str) -> tuple[int, dict[str, Any] | SinefieldError]:
    number, model, width, height, *values = line.split()
    if model not in PARAMETERS:
        return int(number), unsupported(model, where)
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
