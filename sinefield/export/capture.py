"""From a video or a folder of photographs to a field, its video, mesh and report, one finished step after the other."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinefield.config import Config, make_config
from sinefield.data.photographs.capture_settings import capture_settings
from sinefield.data.photographs.colmap import find_models
from sinefield.data.photographs.dtu import find_cameras
from sinefield.data.photographs.frames import FRAMES, check_video, extract_frames
from sinefield.data.photographs.image_files import read_header
from sinefield.data.photographs.placing import read_placed
from sinefield.data.photographs.poses import Search, find_poses
from sinefield.data.photographs.prepared import find_photographs
from sinefield.data.photographs.transforms import Listing, has_transforms
from sinefield.errors import SinefieldError
from sinefield.export.flight import Flight
from sinefield.export.mesh import export_mesh
from sinefield.export.report import write_report
from sinefield.export.video import export_video
from sinefield.fields.radiance.painter import ALONG
from sinefield.files import check_output, read_bytes, write_error, write_text
from sinefield.json_text import from_json, to_json
from sinefield.learning.train import train
from sinefield.store.run import Run
from sinefield.strict import set_dotted

NOTE = "capture.json"
LEFT = ("frames", "photographs", "poses.json", "run", "video.mp4", "mesh.glb", "report.html")
POSE_FILES = (".json", ".npy", ".npz", ".bin", ".txt")
# Of the video and the mesh; `sinefield video` and `sinefield mesh` make finer ones.
FRAMES_SHOWN, LONGER_SIDE, RESOLUTION = 30, 240, 192
MAX_NOTE = 16 << 20
Say = Callable[[str], None]


def capture(
    source: str | Path,
    out: str | Path,
    settings: dict[str, str] | None = None,
    count: int = 60,
    search: Search | None = None,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Make a field of a video, of photographs, or of photographs with poses; what is done already is not done again.

    Arguments:
        source: a video file, a folder of photographs, or what `load_posed` takes.
        out: folder to fill: frames (of a video), photographs (with poses), run, video.mp4, mesh.glb, report.html.
        settings: of the scene file, as dotted names, in place of those that `capture_settings` chooses.
        count: frames to take of a video.
        search: how poses are looked for.
        overwrite: begin anew in a folder of an earlier capture; what that left is removed first.
        say: told each step as it begins or is found done.

    Returns:
        What training reports; images and placed (None where they had poses), box, space, downscale, skipped (steps
        found done), files, left_out (what could not be made, and why), minutes.

    Raises:
        SinefieldError: what a step before or in training refuses; `out` holds something else.
        Interrupted: training was stopped by a signal; the same call goes on.
    """
    begin, source, out = time.perf_counter(), Path(source), Path(out)
    if not source.exists():
        raise SinefieldError(f"{source}: no such video or folder; check the path")
    _check_settings(settings or {})
    has_poses = _has_poses(source)
    _check_source(source, has_poses)
    _claim(source, out, overwrite)
    skipped: list[str] = []

    def done(step: str, there: bool) -> bool:
        """Whether a step's output is there; says so, or that it begins."""
        there = there and not overwrite
        say(f"{step}: done already, skipped" if there else f"{step} …")
        skipped.extend([step] if there else [])
        return there

    data, posed = source, {"images": None, "registered": None}
    if not has_poses:
        data, posed = out / "photographs", _pose(source, out, count, search, overwrite, done)
    config = _config(data, settings or {})
    run = out / "run"
    anew = overwrite or (data != source and "poses" not in skipped)  # other poses than those that it learned from
    report, trained = _train(config, run, anew, done)
    files, left_out = {"run": str(run)}, {}
    listing = read_placed(data, downscale=config.data.downscale)
    path = ALONG.get(config.field.space, "ellipse" if _has_alpha(listing) else "walk")
    flight = Flight(path=path, frames=FRAMES_SHOWN, fps=10, size=_size(listing))
    makers: list[tuple[str, str, Callable[[Path], Any]]] = [
        ("video", "video.mp4", lambda target: export_video(run, target, flight, overwrite=True)),
        ("mesh", "mesh.glb", lambda target: export_mesh(run, target, resolution=RESOLUTION, overwrite=True)),
        ("report", "report.html", lambda target: write_report(run, target, True, video=files.get("video"))),
    ]
    for step, name, make in makers:
        target = out / name
        if not done(step, target.exists() and not trained):
            try:
                make(target)
            except SinefieldError as error:
                left_out[step] = str(error)
                continue
        files[step] = str(target)
    box = config.data.aabb or listing.aabb
    return {
        **report,
        "images": posed["images"],
        "placed": posed["registered"],
        "box": box,
        "space": config.field.space,
        "downscale": config.data.downscale,
        "skipped": skipped,
        "files": files,
        "left_out": left_out,
        "minutes": round((time.perf_counter() - begin) / 60, 2),
    }


def _has_alpha(listing: Listing) -> bool:
    """Whether the photographs show an object alone, which looks as good from between the cameras."""
    return read_header(next(frame for split in listing.frames.values() for frame in split))[1]


def _size(listing: Listing) -> tuple[int | None, int | None]:
    """Of the video: its longer side is known, upright or not."""
    (width, height), _ = read_header(next(frame for split in listing.frames.values() for frame in split))
    return (LONGER_SIDE, None) if width >= height else (None, LONGER_SIDE)


def _claim(source: Path, out: Path, overwrite: bool) -> None:
    """Make `out` the folder of this capture, or refuse it."""
    here, there = source.resolve(), out.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise SinefieldError(f"--out {out}: must lie beside {source}, neither in it nor above it")
    note = out / NOTE
    if note.is_file():
        try:
            known = from_json(read_bytes(note, MAX_NOTE, "note of a capture"))["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise SinefieldError(f"{note}: damaged; give another --out") from error
        if known != str(here) and not overwrite:
            raise SinefieldError(f"{out}: holds a capture of {known}; use --overwrite or another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SinefieldError(f"--out {out}: holds something other than a capture; give a new folder")
    check_output(note)
    if overwrite:  # first, so that nothing of it passes for done if this capture is stopped in its turn
        for old in (out / name for name in LEFT):
            try:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
            except OSError as error:
                raise write_error(old, error) from error
    write_text(note, to_json({"source": str(here)}))


def _has_poses(source: Path) -> bool:
    if source.is_file():
        return source.suffix.lower() in POSE_FILES
    found = has_transforms(source) or (source / "poses_bounds.npy").exists() or find_cameras(source)
    return bool(found or find_models(source))


def _check_source(source: Path, has_poses: bool) -> None:
    """Refuse what cannot be read before a folder is made, or an earlier capture removed, for it."""
    if has_poses:
        read_placed(source)  # of photographs the headers alone
    elif source.is_file():
        check_video(source)
    else:
        find_photographs(source)


def _pose(
    source: Path, out: Path, count: int, search: Search | None, overwrite: bool, done: Callable[[str, bool], bool]
) -> dict[str, Any]:
    """Frames of a video, and poses, in out/photographs; what `find_poses` said of them."""
    photographs, note = out / "photographs", out / "poses.json"
    if source.is_file() and not done("frames", (out / "frames" / FRAMES).is_file()):
        extract_frames(source, out / "frames", count, overwrite=overwrite)
    if done("poses", bool(find_models(photographs)) and note.is_file()):
        try:
            posed = from_json(read_bytes(note, MAX_NOTE, "note of the poses"))
            posed = {"images": posed["images"], "registered": posed["registered"]}
        except (ValueError, KeyError, TypeError) as error:
            raise SinefieldError(f"{note}: damaged; start again with --overwrite") from error
    else:
        posed = find_poses(out / "frames" if source.is_file() else source, search, photographs, overwrite=True)
        write_text(note, to_json(posed, indent=1))
    return posed


def _config(data: Path, settings: dict[str, str]) -> Any:
    """The chosen settings with the given ones in their place."""
    downscale = settings.get("data.downscale", "")
    chosen = capture_settings(
        data, settings.get("field.space"), int(downscale) if downscale.isdecimal() and int(downscale) else None
    )
    for name, value in settings.items():
        set_dotted(chosen, name, value)
    return make_config(chosen, "capture")


def _check_settings(settings: dict[str, str]) -> None:
    """Refuse unknown settings and wrong values before anything is removed or searched for."""
    given: dict[str, Any] = {"kind": "radiance", "data": {"path": "photographs"}}
    for name, value in settings.items():
        if name in ("data.path", "kind"):
            raise SinefieldError(f"--{name}: a capture's photographs and kind are its own; leave it out")
        set_dotted(given, name, value)
    make_config(given, "capture")


def _train(
    config: Config, folder: Path, overwrite: bool, done: Callable[[str, bool], bool]
) -> tuple[dict[str, Any], bool]:
    """The report of a training that is there with these settings, is gone on with, or begun; and whether it was."""
    run = Run(folder)
    begun = run.config_path.exists() and not overwrite
    if begun:
        Run.check(folder, config, resume=True)
    ends = ("seconds", "steps")
    same = begun and all(getattr(run.config().training, end) == getattr(config.training, end) for end in ends)
    report = run.read_report() if same else None
    if done("training", report is not None) and report is not None:
        return report, False
    return train(config, folder, resume=begun, overwrite=overwrite), True
