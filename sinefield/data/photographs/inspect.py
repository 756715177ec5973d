"""What a folder of posed photographs holds, and whether its cameras, box and scale fit together."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import laplace
from tqdm import tqdm

from sinefield.cameras.lenses import directions
from sinefield.cameras.pixel_rays import lens_notes
from sinefield.config import RadianceConfig, load_config
from sinefield.data.photographs.depths import depth_note
from sinefield.data.photographs.image_files import decoders, read_header, read_pixels
from sinefield.data.photographs.images import uprighted
from sinefield.data.photographs.lens_models import model_of
from sinefield.data.photographs.masks import Covering, covered, ignored_note, read_kept
from sinefield.data.photographs.origin import offset_note, offset_of
from sinefield.data.photographs.placing import read_placed
from sinefield.data.photographs.shared import FORWARD, SPREAD, image_folders
from sinefield.data.photographs.transforms import Frame, Listing, check_box
from sinefield.data.photographs.views import frame_cameras
from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, check_output

FAR_AWAY = 10  # box diagonals between a box and its nearest camera: it covers a tenth of the picture at most
BLURRED = 0.5  # of the median sharpness: what is below is an outlier
SHARPNESS_SIDE, SMALLEST_SIDE = 640, 32  # pixels of the longest side that sharpness is measured at; of the least
PICTURES = (".png", ".jpg", ".pdf", ".svg")


def inspect(path: str | Path, out: str | Path | None = None, overwrite: bool = False) -> tuple[dict[str, Any], str]:
    """Describe a data set; its images are decoded only to see which are blurred.

    Arguments:
        path: what `load_posed` takes, or a scene file (YAML) whose downscale, box and holdout then count.
        out: a picture of cameras, box and sparse points to write.
        overwrite: replace `out`.

    Returns:
        The findings (lengths in world units), and the same as text.

    Raises:
        SinefieldError: what `load_posed` refuses; a scene file of a shape; `out` exists or has an unknown suffix.
    """
    path, box, holdout, covering = Path(path), None, 8, Covering()
    if out is not None:
        if Path(out).suffix.lower() not in PICTURES:
            raise SinefieldError(f"{out}: unknown kind of picture; choose from {', '.join(PICTURES)}")
        check_output(out, overwrite)
    if path.suffix in (".yaml", ".yml"):
        config = load_config(path)
        if not isinstance(config, RadianceConfig):
            raise SinefieldError(f"{path}: is a scene of kind {config.kind}; only photographs can be inspected")
        covering = Covering(config.data.masks, config.data.alpha)
        path, box, holdout, downscale = (
            Path(config.data.path), config.data.aabb, config.data.holdout, config.data.downscale
        )  # fmt: skip
    else:  # the largest images there are
        downscale = next((min(k) for root in (path, *path.parents[:2]) if (k := image_folders(root))), 1)
    placed = read_placed(path, holdout=holdout, downscale=downscale, boxed=box is not None)
    listing = covered(uprighted(placed), covering)
    box = listing.aabb if box is None else check_box(box, "aabb").tolist()
    report = describe(listing, box, downscale)
    if out is not None:
        draw(listing, box, Path(out), overwrite)
        report["picture"] = str(out)
    return report, as_text(report)


def describe(listing: Listing, box: list[float] | None, downscale: int) -> dict[str, Any]:
    """The findings; see `inspect`."""
    frames = [frame for split in listing.frames.values() for frame in split]
    if not frames:
        raise SinefieldError(f"{listing.source}: no usable frames ({listing.skipped} lack their image); add the images")
    sizes = [read_header(frame)[0] for frame in frames]
    found = [frame.lens_for(*size) for frame, size in zip(frames, sizes, strict=True)]
    lenses = np.array([numbers for _, numbers in found])
    angles = np.array([view_degrees(*lens, size) for lens, size in zip(found, sizes, strict=True)])
    c2w = np.stack([frame.c2w for frame in frames])
    positions = c2w[:, :, 3]
    report = {
        "source": str(listing.source),
        "views": {split: len(frames) for split, frames in listing.frames.items()},
        "without_image": listing.skipped,
        "without_pose": listing.unposed,
        "image_sizes": {f"{w}x{h}": n for (w, h), n in Counter(sizes).most_common()},
        "images_reduced": listing.reduction,
        "downscale": downscale,
        "focal_pixels": [float(lenses[:, :2].min()), float(lenses[:, :2].max())],
        "view_degrees": np.median(angles, 0).tolist(),
        "distorted": bool(lenses[:, 4:].any()),
        "lenses": dict(Counter(model_of(frame.lens, frame.where) for frame in frames).most_common()),
        "box": box,
        "near_far": listing.bounds,
        "sparse_points": None if listing.points is None else len(listing.points),
        "offset": offset.tolist() if (offset := offset_of(replace(listing, aabb=box))).any() else None,
        "cameras_from": positions.min(0).tolist(),
        "cameras_to": positions.max(0).tolist(),
    }
    hints = []
    sharp = sharpness(frames, sizes)
    report["blurred"] = blurred = {name: round(share, 3) for name, share in sharp.items() if share < BLURRED}
    if blurred:
        listed = sorted(blurred, key=blurred.__getitem__)
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        hints.append(f"less sharp than half the others' median: {', '.join(listed[:5])}{more}; leave them out")
    span = float(np.linalg.norm(np.ptp(positions, 0)))
    near = listing.bounds[0] if listing.bounds else _distance(positions, box)
    if len(frames) > 1 and span <= SPREAD * near:
        hints.append("all cameras stand in one spot; no depth can be learned from them")
    if box is None:
        hints.append("too few sparse points to place the box; give data.aabb")
    else:
        found, more = against_box(c2w, np.reshape(box, (2, 3)), listing.points)
        inside = len(frames) if listing.beyond else found["cameras_inside_box"]
        report |= found | {"suggested_space": suggested_space(c2w, inside, listing.bounds)}
        hints += more
    notes = [*listing.notes, *lens_notes([frame_cameras(frames, sizes, 1)]), *ignored_pixels(frames, sizes)]
    notes += depth_note(listing, False)
    return report | {"notes": notes, "hints": hints}


def ignored_pixels(frames: list[Frame], sizes: list[tuple[int, int]]) -> tuple[str, ...]:
    """How many pixels masks leave out."""
    if not any(frame.cover for frame in frames):
        return ()
    pairs = zip(frames, sizes, strict=True)
    return ignored_note(
        (read_kept(f, size, 1) for f, size in pairs if f.cover), (width * height for width, height in sizes)
    )


def view_degrees(projection: int, numbers: list[float], size: tuple[int, int]) -> tuple[float, float]:
    """How much a lens sees across and down, in degrees, through the middle of the picture."""
    fx, fy, _, _, *distortion = numbers
    ends = torch.tensor([[size[0] / 2 / fx, 0.0], [0.0, size[1] / 2 / fy]], dtype=torch.float64)
    seen, _ = directions(ends, torch.tensor([distortion], dtype=torch.float64), projection)
    away = torch.atan2(seen[:, :2].norm(dim=1), -seen[:, 2]) * 360 / torch.pi
    return float(away[0]), float(away[1])


def _distance(positions: np.ndarray, box: list[float] | None) -> float:
    """From the middle of the cameras to that of the box, or where there is none to the origin."""
    middle = np.zeros(3) if box is None else np.reshape(box, (2, 3)).mean(0)
    return float(np.linalg.norm(positions.mean(0) - middle))


def sharpness(frames: list[Frame], sizes: list[tuple[int, int]]) -> dict[str, float]:
    """Sharpness of each image as a share of the median, by file; nothing where images are tiny.

    Measured as the standard deviation of the Laplacian over that of the image itself, both of the luma at one size, so
    that dark and bright photographs compare. Motion and focus blur lower it, little texture does too.
    """
    found: dict[str, float] = {}
    hidden = len(frames) <= 20 or not sys.stderr.isatty()

    def measure(job: tuple[Frame, tuple[int, int]]) -> float:
        frame, size = job
        grey = Image.fromarray(read_pixels(frame, size, False)).convert("L")
        grey.thumbnail((SHARPNESS_SIDE, SHARPNESS_SIDE), Image.Resampling.BOX)
        values = np.asarray(grey, np.float32)
        return float(laplace(values).std() / max(values.std(), 1e-6))

    jobs = [(f, size) for f, size in zip(frames, sizes, strict=True) if min(size) >= SMALLEST_SIDE]
    with ThreadPoolExecutor(min(map(decoders, sizes))) as pool:
        values = list(tqdm(pool.map(measure, jobs), total=len(jobs), desc="sharpness", leave=False, disable=hidden))
    middle = float(np.median(values)) if values else 0.0
    for (frame, _), value in zip(jobs, values, strict=True):
        found[frame.name] = value / middle if middle > 0 else 1.0
    return found


def suggested_space(c2w: np.ndarray, inside: int, bounds: tuple[float, float] | None) -> str:
    """Which field.space suits (n, 3, 4) cameras, `inside` of which stand in the scene's box."""
    axes = c2w[:, :, 2]
    mean = axes.mean(0) / max(float(np.linalg.norm(axes.mean(0))), 1e-9)
    if bounds is not None and (axes @ mean).min() >= FORWARD:
        return "ndc"
    return "contracted" if inside > len(c2w) / 2 else "box"


def against_box(c2w: np.ndarray, box: np.ndarray, points: np.ndarray | None) -> tuple[dict[str, Any], list[str]]:
    """How (n, 3, 4) cameras stand to a (2, 3) box, and what of it looks wrong."""
    positions, looking, n = c2w[:, :, 3], -c2w[:, :, 2], len(c2w)
    diagonal = float(np.linalg.norm(box[1] - box[0]))
    offset = box.mean(0) - positions
    distance = np.linalg.norm(offset, axis=1)
    inside = int(((positions >= box[0]) & (positions <= box[1])).all(1).sum())
    facing = int(((offset * looking).sum(1) > 0).sum())
    with np.errstate(divide="ignore", invalid="ignore"):  # where each axis enters and leaves the box's three slabs
        crossing = (box[:, None] - positions) / looking
    enters, leaves = np.nanmax(crossing.min(0), 1), np.nanmin(crossing.max(0), 1)
    meeting = int(((leaves >= enters) & (leaves > 0)).sum())
    report = {
        "cameras_inside_box": inside,
        "cameras_facing_centre": facing,
        "cameras_with_box_ahead": meeting,
        "distance_to_centre": [float(distance.min()), float(np.median(distance)), float(distance.max())],
        "box_diagonal": diagonal,
    }
    hints = []
    if not facing:
        hints.append("all cameras look away from the box's centre; is their z axis flipped (OpenGL looks along -z)?")
    elif facing < n / 2:
        hints.append(f"only {facing} of {n} cameras have the box's centre before them; check axes and box")
    elif not meeting:
        hints.append("no camera has the box straight ahead; check its place and the scale of the poses")
    if 0 < inside < n:
        hints.append(f"{inside} of {n} cameras stand inside the box, the others outside; check its size")
    if distance.min() > FAR_AWAY * diagonal:
        hints.append(f"the nearest camera is {distance.min() / diagonal:.0f} box diagonals away; check the scale")
    if points is not None and len(points):
        report["points_inside_box"] = share = float(((points >= box[0]) & (points <= box[1])).all(1).mean())
        if share < 0.5:
            hints.append(f"only {share:.0%} of the sparse points lie in the box; enlarge or move it")
    return report, hints


def as_text(report: dict[str, Any]) -> str:
    """The findings, one line each."""

    def numbers(values) -> str:
        digits = 10 if report["offset"] else 4
        return " ".join(f"{value:.{digits}g}" for value in values)

    views = ", ".join(f"{n} {split}" for split, n in report["views"].items())
    missing = f"{report['without_image']} poses without image, {report['without_pose']} images without pose"
    sizes = ", ".join(f"{n} of {size}" for size, n in report["image_sizes"].items())
    if report["images_reduced"] > 1:
        sizes += f" (1/{report['images_reduced']} of the full size)"
    low, high = report["focal_pixels"]
    lens = f"focal {low:.1f}" + (f" to {high:.1f}" if high > low else "") + " pixels, view "
    lens += "x".join(f"{angle:.0f}" for angle in report["view_degrees"]) + " degrees"
    lens += ", distorted" if report["distorted"] else ""
    lens += "; " + ", ".join(f"{n} {model}" for model, n in report["lenses"].items())
    lines = [
        report["source"],
        f"views    {views}; {missing}",
        f"images   {sizes}",
        f"lens     {lens}",
        f"cameras  from {numbers(report['cameras_from'])} to {numbers(report['cameras_to'])}",
    ]
    if report["offset"]:
        lines.append(f"offset   {offset_note(np.array(report['offset']))}")
    if report["box"]:
        n = sum(report["views"].values())
        lines += [
            f"box      {numbers(report['box'])}",
            f"         {report['cameras_inside_box']} of {n} cameras inside, {report['cameras_facing_centre']} face "
            f"its centre, at distances {numbers(report['distance_to_centre'])} (least, median, most); "
            f"diagonal {report['box_diagonal']:.4g}",
            f"space    {report['suggested_space']} suits these cameras (field.space)",
        ]
    if report["near_far"]:
        lines.append(f"depth    near {report['near_far'][0]:.4g}, far {report['near_far'][1]:.4g}")
    if report["sparse_points"] is not None:
        lines.append(f"points   {report['sparse_points']:,} sparse ones")
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"hint: {hint}" for hint in report["hints"]]
    if "picture" in report:
        lines.append(f"{report['picture']}: cameras, box and points from three sides")
    return "\n".join(lines)


def draw(listing: Listing, box: list[float] | None, out: Path, overwrite: bool) -> None:
    """Cameras (with the way they look), box and sparse points, seen along each world axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(15, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    train, test = (
        np.reshape([frame.c2w for split in splits for frame in listing.frames[split]], (-1, 3, 4))
        for splits in (("train", "val"), ("test",))
    )
    every = np.concatenate([train, test])[:, :, 3]
    corners = every if box is None else np.concatenate([every, np.reshape(box, (2, 3))])
    length = 0.06 * float(np.ptp(corners, 0).max() or 1)
    for axes, (a, b) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        if listing.points is not None:
            shown = listing.points[:: max(1, len(listing.points) // 20_000)]
            axes.plot(shown[:, a], shown[:, b], ",", color="0.5", label="sparse points", rasterized=True, zorder=0)
        if box is not None:
            x, y = box[a], box[b]
            axes.add_patch(
                Rectangle((x, y), box[a + 3] - x, box[b + 3] - y, fill=False, edgecolor="tab:green", label="box")
            )
        for poses, colour, name in ((train, "tab:blue", "training cameras"), (test, "tab:red", "test cameras")):
            start = poses[:, :, 3]
            end = start - length * poses[:, :, 2]
            axes.plot([start[:, a], end[:, a]], [start[:, b], end[:, b]], color=colour, linewidth=0.8)
            axes.plot(start[:, a], start[:, b], "o", color=colour, markersize=3, label=name)
        low, high = corners.min(0), corners.max(0)
        axes.set_xlim(low[a] - length, high[a] + length)
        axes.set_ylim(low[b] - length, high[b] + length)
        axes.set(xlabel="xyz"[a], ylabel="xyz"[b], aspect="equal", title=f"along {'xyz'[3 - a - b]}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    with atomic_path(out, overwrite) as temporary:
        figure.savefig(temporary, dpi=100)
