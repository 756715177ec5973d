"""Poses for photographs that have none: by pycolmap, or by the COLMAP program where that is installed."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sinefield.data.photographs.colmap import Model, find_models, read_model
from sinefield.data.photographs.frames import FRAMES
from sinefield.data.photographs.prepared import Photographs, find_photographs, write_masks, write_upright
from sinefield.errors import SinefieldError
from sinefield.files import atomic_folder, check_folder_place, foreign, scratch_beside, swap, write_error

QUALITIES = ("low", "medium", "high", "extreme")
MATCHING = ("auto", "exhaustive", "sequential")
PROGRAMS = ("pycolmap", "colmap")
MANY = 150  # photographs: beyond, each is matched with its neighbours by name only
SMALLEST = 3  # photographs placed: from two alone no depth can be checked
ANGLE = 1.0  # degrees between a point's rays, in the median: less, and the photographs were taken from one spot
# What COLMAP's log says as it works, release after release: an image read, a block of pairs matched, an image placed.
STAGES = (
    (re.compile(r"Processed file \[(\d+)/(\d+)\]"), "reading"),
    (re.compile(r"Processing (?:block|image) \[(\d+)/(\d+)"), "matching"),
    (re.compile(r"Registering image #\d+ \((?:num_reg_frames=)?(\d+)\)"), "placing"),
)
TAIL = 30
MORE = "take more that overlap, all in focus, from places some steps apart"


@dataclass(frozen=True)
class Search:
    """How poses are looked for.

    Attributes:
        quality: COLMAP's preset: low, medium, high or extreme.
        matching: exhaustive (every photograph with every other), sequential (with its neighbours by name), or auto:
            sequential for frames of a video and more than 150 photographs.
        program: pycolmap or colmap; what is installed if None.
        threads: how many; None for all. One thread and one seed give the same poses again.
        seed: of COLMAP's random choices.
    """

    quality: str = "medium"
    matching: str = "auto"
    program: str | None = None
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("quality", self.quality, QUALITIES),
            ("matching", self.matching, MATCHING),
            ("program", self.program or PROGRAMS[0], PROGRAMS),
        ):
            if value not in known:
                raise SinefieldError(f"--{name} {value}: one of {', '.join(known)}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise SinefieldError(f"--threads {self.threads}: 1 to 1024")
        if not 0 <= self.seed < 2**31:
            raise SinefieldError(f"--seed {self.seed}: 0 to 2,147,483,647")


MODELS = re.compile(r"\d+/|(\d+/)?((cameras|images|points3D|rigs|frames)\.(bin|txt)|project\.ini)")
"""What COLMAP writes into a folder `sparse`."""


def find_poses(
    folder: str | Path, search: Search | None = None, out: str | Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Find the poses of a folder's photographs, as a COLMAP model in `sparse/0`.

    All photographs are taken to be of one camera, with OpenCV's k1, k2, p1, p2. Of several models the one of the most
    photographs is kept. In a folder `masks`, NAME.png or NAME.jpg.png hides what is black from the search, and
    later from training (`data.masks`).

    Arguments:
        folder: holds `images`, or the photographs themselves.
        search: how; the defaults if None.
        out: a new folder for `images` and `masks` (copies, turned upright) and `sparse`; without, `sparse` goes into
            `folder`.
        overwrite: replace folder/sparse, or `out` if it holds poses found earlier.

    Returns:
        folder (of the data set), model, images (given), registered, points, models (found), angle (median of the
        largest angle between a point's rays, degrees), program, matching, left_out (name and why), unplaced (names),
        seconds.

    Raises:
        SinefieldError: nothing that finds poses is installed, or it failed; no photographs; poses are there already;
            photographs need turning and there is no `out`; fewer than three, or less than half, were placed together;
            all were taken from one spot.
    """
    folder, search = Path(folder), search or Search()
    begin = time.perf_counter()
    photographs = find_photographs(folder)
    home = folder if out is None else Path(out)
    _check_home(folder, photographs, out, overwrite)
    program = _choose_program(search)
    matching = _choose_matching(search, folder, len(photographs.names))
    try:
        with ExitStack() as stack:
            if out is not None:
                data = stack.enter_context(atomic_folder(home))
                scratch = data.parent  # beside the new folder, and gone with it
                images = data / "images"
                copies = write_upright(photographs, images)
            else:
                scratch = stack.enter_context(scratch_beside(folder / "sparse"))
                data, images, copies = folder, photographs.folder, photographs.names
            # Beside copies masks stay, for training; beside the photographs they are already.
            masks = (scratch if out is None else data) / "masks" if photographs.masks else None
            if masks is not None:
                write_masks(photographs, copies, masks)
            work = scratch / "work"
            work.mkdir()
            command = _command(program, search, matching, images.resolve(), copies, masks, work)
            _run(command, images, len(copies))
            model, found = _largest(work, folder, len(copies))
            angle = median_angle(model)
            _check_model(folder, model, found, angle, len(copies))
            kept = work / "kept"
            kept.mkdir()
            model.folder.rename(kept / "0")
            swap(kept, data / "sparse", work / "old")
    except OSError as error:
        raise write_error(home, error) from error
    placed = {image.name for image in model.images.values()}
    return {
        "folder": str(home),
        "model": str(home / "sparse" / "0"),
        "images": len(photographs.names) + len(photographs.left_out),
        "registered": len(model.images),
        "points": len(model.points),
        "models": len(found),
        "angle": round(angle, 2),
        "program": program,
        "matching": matching,
        "left_out": photographs.left_out,
        "unplaced": sorted(set(copies) - placed),
        "seconds": round(time.perf_counter() - begin, 2),
    }


def median_angle(model: Model) -> float:
    """Median over a model's points (at most 2,000 of them) of the largest angle between two rays to it, degrees."""
    where = {number: image.c2w[:, 3] for number, image in model.images.items()}
    angles = []
    for index in np.linspace(0, len(model.points) - 1, min(len(model.points), 2000)).astype(int):
        seen = [where[number] for number in model.tracks[index].tolist() if number in where]
        rays = model.points[index] - np.array(seen).reshape(-1, 3)
        rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
        if len(rays) > 1:
            angles.append(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1, 1))))
    return float(np.median(angles)) if angles else 0.0


def _check_home(folder: Path, photographs: Photographs, out: str | Path | None, overwrite: bool) -> None:
    """Refuse before any work what could not be written, or would be lost."""
    if out is None:
        if not photographs.ready:
            raise SinefieldError(
                f"{photographs.folder}: {photographs.said()} of {len(photographs.names)} photographs; give --out "
                "FOLDER, where copies are made that stand upright"
            )
        if find_models(folder) and not overwrite:
            raise SinefieldError(f"{folder}: has a COLMAP model already; use --overwrite to replace it")
        if odd := foreign(folder / "sparse", MODELS):
            raise SinefieldError(f"{folder / 'sparse'}: holds {odd[0]!r}, which is no COLMAP model's; move it away")
        return
    here, there = folder.resolve(), Path(out).resolve()
    if there == here or here in there.parents or there in here.parents:
        raise SinefieldError(f"--out {out}: must lie beside {folder}, neither in it nor above it")
    if there.exists():
        if not there.is_dir():
            raise SinefieldError(f"--out {out}: is a file; give a folder")
        check_folder_place(there)
        if any(there.iterdir()):
            odd = foreign(there, _copied(photographs))
            if odd or not find_models(there):
                named = f" ({odd[0]})" if odd else ""
                raise SinefieldError(
                    f"--out {out}: holds something other than poses found earlier{named}; give a new folder"
                )
            if not overwrite:
                raise SinefieldError(f"--out {out}: has a COLMAP model already; use --overwrite to replace it")


def _copied(photographs: Photographs) -> re.Pattern[str]:
    """What the folder of the copies of these photographs consists of."""
    copies = {stem for name in photographs.names for stem in (name, f"{Path(name).with_suffix('')}.jpg")}
    copies |= {f"{Path(name).with_suffix('')}_heic.jpg" for name in photographs.names}
    folders = {f"{parent.as_posix()}/" for name in photographs.names for parent in Path(name).parents if parent.name}
    paths = "|".join(re.escape(path) for path in sorted(copies | folders))
    return re.compile(rf"images/({paths})?|masks/(({paths})(\.png)?)?|sparse/({MODELS.pattern})?")


def _choose_program(search: Search) -> str:
    """pycolmap or the path of the COLMAP program."""
    has_pycolmap = importlib.util.find_spec("pycolmap") is not None
    if search.program != "colmap" and has_pycolmap:
        return "pycolmap"
    program = None if search.program == "pycolmap" else shutil.which("colmap")
    if program is None and search.program == "colmap":
        raise SinefieldError(
            "COLMAP is not installed; apt install colmap, brew install colmap, or see "
            "https://colmap.github.io/install.html; or leave --program out"
        )
    if program is None:
        raise SinefieldError("nothing that finds poses is installed; pip install 'sinefield[capture]'")
    return program


def _choose_matching(search: Search, folder: Path, count: int) -> str:
    if search.matching != "auto":
        return search.matching
    return "sequential" if count > MANY or (folder / FRAMES).is_file() else "exhaustive"


def _command(
    program: str, search: Search, matching: str, images: Path, names: list[str], masks: Path | None, work: Path
) -> list[str]:
    """What to run. Both kinds write numbered models into work/sparse."""
    work, masks = work.resolve(), masks and masks.resolve()
    if program == "pycolmap":
        order = {"images": str(images), "names": names, "masks": masks and str(masks), "scratch": str(work)}
        order |= {"matching": matching, "quality": search.quality, "threads": search.threads or -1}
        order |= {"seed": search.seed}
        (work / "order.json").write_text(json.dumps(order), encoding="utf-8")
        return [sys.executable, "-m", "sinefield.data.photographs.pycolmap_steps", str(work / "order.json")]
    command = [program, "automatic_reconstructor", "--workspace_path", str(work), "--image_path", str(images)]
    command += ["--quality", search.quality, "--dense", "0", "--single_camera", "1", "--camera_model", "OPENCV"]
    command += ["--data_type", "video" if matching == "sequential" else "individual"]
    command += ["--random_seed", str(search.seed), "--num_threads", str(search.threads or -1)]
    command += ["--mask_path", str(masks)] if masks else []
    # Without a CUDA device its features would need a screen to be computed on.
    return command + ([] if shutil.which("nvidia-smi") else ["--use_gpu", "0"])


def _largest(work: Path, folder: Path, total: int) -> tuple[Model, list[Model]]:
    """The model of the most photographs, and all of them, largest first."""
    found = sorted((read_model(path) for path in find_models(work)), key=lambda model: -len(model.images))
    if found:
        return found[0], found
    pairs = json.loads((work / "matched.json").read_text()) if (work / "matched.json").exists() else 0
    if pairs >= max(total - 1, 2):
        raise SinefieldError(
            f"{folder}: the photographs match each other ({pairs} pairs) but show no depth: they seem to be taken from "
            "one spot; walk around the scene while photographing, rather than turning on the spot"
        )
    raise SinefieldError(f"{folder}: none of {total} photographs could be placed; {MORE}")


def _check_model(folder: Path, model: Model, found: list[Model], angle: float, total: int) -> None:
    """Refuse a model that nothing should be learned from."""
    placed = len(model.images)
    if placed < SMALLEST:
        raise SinefieldError(f"{folder}: only {placed} of {total} photographs could be placed; {MORE}")
    if angle < ANGLE:
        raise SinefieldError(
            f"{folder}: rays to a point meet at {angle:.2g}° in the median: all photographs are taken from one spot; "
            "walk around the scene while photographing, rather than turning on the spot"
        )
    if 2 * placed < total:
        sizes = ", ".join(str(len(other.images)) for other in found[:8])
        first = min(image.name for image in model.images.values())
        raise SinefieldError(
            f"{folder}: the photographs do not hang together: of {total}, groups of {sizes} were placed, the largest "
            f"with {first}; keep the photographs of one place, or take more that overlap between them"
        )


def _run(command: list[str], images: Path, total: int) -> None:
    """COLMAP's chain of steps in a process, with a bar; its last words if it fails."""
    tail: deque[str] = deque(maxlen=TAIL)
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert process.stdout is not None
    try:
        with tqdm(total=total, desc="COLMAP", unit="", leave=False, disable=None, file=sys.stderr) as bar:
            for line in process.stdout:
                tail.append(line.strip())
                for pattern, stage in STAGES:
                    if found := pattern.search(line):
                        bar.set_description(f"COLMAP: {stage}")
                        bar.total = int(found[2]) if pattern.groups > 1 else total
                        bar.n = min(int(found[1]), bar.total)
                        bar.refresh()
        failed = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if failed:
        said = next((line for line in reversed(tail) if line), f"exit status {failed}")
        remedy = f"run it by hand: {shlex.join(command)}"
        if command[0] == sys.executable:
            remedy = "try --threads 1, or --quality low if memory ran out"
        raise SinefieldError(f"{images}: COLMAP failed ({said[-200:]}); {remedy}")
