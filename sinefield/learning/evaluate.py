"""Scores of a trained field against what it was trained on, by one written protocol.

Image: every pixel it was fitted to, rendered at the image's own size and rounded to 8 bits; PSNR and SSIM.
Radiance: every test view (val, or train, where there is none) rendered on the run's background and rounded to 8 bits,
against the 8-bit composited photograph; PSNR, SSIM and LPIPS are means of per-view values. Shape: IoU on points uniform
in the object's box that training never saw; Chamfer distances, F-score and normal consistency between the
extracted surface and the given one, by `metrics.shapes.compare_meshes`. Many shapes: see `training.score_shapes`.
"""

import csv
import io
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinefield.adapters.edits import load_edit
from sinefield.cameras.cameras import look_at
from sinefield.config import Config, ImageConfig, RadianceConfig
from sinefield.data.photographs.images import PosedScene, Views, reference
from sinefield.data.shape_sets import ShapeSet
from sinefield.data.surfaces.sampling import heldout_points
from sinefield.data.surfaces.surface import Surface, signed_distance
from sinefield.errors import SinefieldError
from sinefield.export.mesh import extract_field
from sinefield.fields.image.field import ImageField
from sinefield.fields.image.training import image_psnr
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.latent.scores import score_shapes
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.training import render_view
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.training import HELDOUT_SEED
from sinefield.files import write_text
from sinefield.learning.tasks import load_data
from sinefield.machine import describe_machine
from sinefield.metrics.images import SSIM_WINDOW, Lpips, score_views, ssim
from sinefield.metrics.shapes import compare_meshes, iou
from sinefield.pictures import save_curves, save_png, side_by_side
from sinefield.store.run import Run, edited_config, load_field
from sinefield.store.sine_files import config_of, from_packed, load_packed

HELDOUT_POINTS = 300_000
SURFACE_RESOLUTION = 192
PICTURED_VIEWS = 4
LPIPS_SIDE = 32  # its network halves images four times, and wants something left
Data = PosedScene | Surface | torch.Tensor | ShapeSet
"""What a field is scored against; of an image its pixels."""
Field = RadianceField | ShapeField | ImageField | LatentShapeField


def evaluate(run: Run, data: Data | None = None) -> dict[str, Any]:
    """Score a run, write report.json, scores.csv and pictures into its folder, return the report.

    Args:
        data: the run's data where the caller holds them already; otherwise they are read again.

    Returns:
        run, kind, params, bytes, seconds_evaluating, and by kind psnr, ssim, lpips, views, per_view, or psnr, ssim, or
        iou, chamfer_l1, chamfer_l2, fscore, normal_consistency.

    Raises:
        SinefieldError: no run, no field, a damaged file, data that moved.
    """
    config = run.config()
    field, note = load_field(run.folder)
    if field.kind != config.kind:
        raise SinefieldError(f"{run.folder}: config.yaml says {config.kind}, the field is a {field.kind}; train again")
    report = _report(run.folder, run.field_path, field, note, config, run.pictures, data)
    metrics = run.read_metrics()
    if metrics:
        save_curves(run.pictures / "curves.png", metrics, config.kind)
    write_text(run.report_path, json.dumps(report, indent=2) + "\n")
    write_text(run.folder / "scores.csv", _csv(report))
    return report


def evaluate_file(path: str | Path, data_path: str | None = None) -> dict[str, Any]:
    """Score a `.sine` file against its data; nothing is written.

    Args:
        data_path: the mesh, photographs or image; what the file itself names when None.
    """
    packed = load_packed(path)
    config = config_of(packed, str(path), data_path)
    field, note = from_packed(packed, str(path))
    return _report(path, Path(path), field, note, config, None, None)


def evaluate_edited(base: str | Path, adapters: Sequence[str | Path], data_path: str | None = None) -> dict[str, Any]:
    """Score a field with edits on the changed scene; nothing is written. params and bytes are those of the edits.

    Args:
        adapters: files of `sinefield adapt`.
        data_path: the changed mesh, photographs or image; what the last edit itself names when None.
    """
    config = edited_config(base, adapters, data_path)
    field, _ = load_field(base, adapters)
    edits = [load_edit(path) for path in adapters]
    report = _report(base, Path(adapters[-1]), field, edits[-1].note, config, None, None)
    return {
        **report,
        "adapters": [str(path) for path in adapters],
        "params": sum(coded.levels.size for edit in edits for coded in edit.tensors.values()),
        "bytes": sum(Path(path).stat().st_size for path in adapters),
    }


def _report(
    run: str | Path,
    file: Path,
    field: Field,
    note: dict[str, Any],
    config: Config,
    pictures: Path | None,
    data: Data | None,
) -> dict[str, Any]:
    begin = time.perf_counter()
    report = {
        "run": str(run),
        "kind": config.kind,
        "seed": note.get("seed"),
        "steps": note.get("steps"),
        "seconds": note.get("seconds"),
        "params": sum(p.numel() for p in field.parameters()),
        "bytes": file.stat().st_size,
    }
    report |= score(field, config, pictures, data)
    report["seconds_evaluating"] = round(time.perf_counter() - begin, 2)
    report["machine"] = describe_machine()
    return report


def score(field: Field, config: Config, pictures: Path | None, data: Data | None = None) -> dict[str, Any]:
    """The scores of one field, and its pictures where there is a folder for them."""
    data = load_data(config) if data is None else data
    if isinstance(field, ShapeField):
        return score_shape(field, data, pictures)
    if isinstance(field, ImageField):
        return score_image(field, config, data, pictures)
    if isinstance(field, LatentShapeField):
        return score_shapes(field, config, data, pictures)
    return score_radiance(field, config, data, pictures)


def score_radiance(
    field: RadianceField, config: RadianceConfig, scene: PosedScene, pictures: Path | None
) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS over the test views; the first few as pictures."""
    split = next(name for name in ("test", "val", "train") if getattr(scene, name) is not None)
    views = getattr(scene, split)
    network, why = _lpips(views)
    distances: list[torch.Tensor] = []
    shown = np.linspace(0, len(views) - 1, min(PICTURED_VIEWS, len(views))).round().astype(int)

    def rendered() -> Iterator[torch.Tensor]:
        for i in range(len(views)):
            image, truth = render_view(field, views, i), reference(views.images[i], field.background).float() / 255
            if network:
                distances.append(network(image, truth))
            if pictures and i in shown:
                save_png(pictures / f"view_{i:03d}.png", side_by_side(truth, image))
            yield image

    # One view at a time: hundreds of large ones would not fit.
    scores = score_views(rendered(), (reference(image, field.background) for image in views.images))
    rows = [
        {"view": name, "psnr": _finite(p), "ssim": s}
        for name, p, s in zip(views.names, scores["psnr_per_view"], scores["ssim_per_view"], strict=True)
    ]
    return {
        "psnr": _finite(scores["psnr"]),
        "ssim": scores["ssim"],
        "lpips": float(torch.stack(distances).mean()) if network else None,
        "lpips_note": why,
        "split": split,
        "views": len(views),
        "skipped": scene.skipped,
        "background": config.data.background,
        "downscale": config.data.downscale,
        "per_view": rows,
        "remarks": [
            f"{n} {what}"
            for n, what in (
                (scene.skipped, "frames have no image file and were skipped"),
                (scene.unposed, "images have no pose and were left out"),
            )
            if n
        ]
        + _left_out(scores["ssim"]),
    }


def score_image(field: ImageField, config: ImageConfig, image: torch.Tensor, pictures: Path | None) -> dict[str, Any]:
    """PSNR and SSIM over all pixels of the (h, w, 3) uint8 image; it, the field and the error as picture.

    Raises:
        SinefieldError: the image is not of the size that the field was made from.
    """
    size = (image.shape[1], image.shape[0])
    if size != (field.width, field.height):
        raise SinefieldError(
            f"{config.data.path}: is {size[0]}×{size[1]}, the field was made from {field.width}×{field.height} pixels; "
            "give the image that it was trained on"
        )
    rendered = field.render()
    if pictures:
        save_png(pictures / "image.png", side_by_side(image.float() / 255, rendered.float() / 255))
    score = None if min(size) < SSIM_WINDOW else float(ssim(rendered, image))
    return {
        "psnr": image_psnr(field, image),
        "ssim": score,
        "width": size[0],
        "height": size[1],
        "background": config.data.background,
        "downscale": config.data.downscale,
        "remarks": _left_out(score),
    }


def _left_out(score: float | None) -> list[str]:
    return [f"SSIM needs {SSIM_WINDOW} pixels a side; it is left out"] if score is None else []


def _finite(value: float) -> float:
    """Identical images have infinite PSNR, which JSON cannot say: 8 bits cannot tell more than 100 dB apart."""
    return value if math.isfinite(value) else 100.0


def _lpips(views: Views) -> tuple[Lpips | None, str | None]:
    """What measures LPIPS of these views, or None and the line that says why it cannot run here."""
    if min(views.cameras.width, views.cameras.height) < LPIPS_SIDE:
        return None, f"LPIPS needs {LPIPS_SIDE} pixels a side; it is left out"
    try:
        return Lpips(), None
    except SinefieldError as error:
        return None, str(error)


def score_shape(field: ShapeField, surface: Surface, pictures: Path | None) -> dict[str, Any]:
    """IoU on held-out points and surface distances of the extracted mesh; two shaded views as picture."""
    scores: dict[str, Any] = {"iou": heldout_iou(field, surface)}
    scores["surface"] = {k: v for k, v in surface.report.items() if isinstance(v, int | float | str | bool)}
    scores["remarks"] = _remarks(surface.report)
    empty = {"chamfer_l1": None, "chamfer_l2": None, "fscore": None, "normal_consistency": None}
    try:
        vertices, faces, _ = extract_field(field, SURFACE_RESOLUTION)
    except SinefieldError as error:  # an untrained field may have no surface at all; its IoU still counts
        return {**scores, **empty, "surface_note": str(error)}
    scores |= compare_meshes(vertices, faces, surface)
    if surface.faces is not None and pictures:
        save_png(pictures / "shape.png", shape_picture(surface, vertices, faces))
    return scores


def heldout_iou(field: ShapeField, surface: Surface) -> float:
    """IoU on points uniform in the object's box, of a seed that neither training nor any choice uses."""
    points, inside = heldout_points(surface, HELDOUT_POINTS, seed=HELDOUT_SEED + 1)
    return iou(field.inside(torch.from_numpy(points)).cpu().numpy(), inside)


def mean_psnr(field: RadianceField, views: Views, most: int | None = None) -> float:
    """Mean PSNR over the views, or over `most` of them spread evenly, as `score_radiance` has it."""
    chosen = np.linspace(0, len(views) - 1, min(most or len(views), len(views))).round().astype(int)
    truths = (reference(views.images[i], field.background.cpu()) for i in chosen)
    return float(score_views((render_view(field, views, int(i)) for i in chosen), truths)["psnr"])


def _remarks(report: dict[str, Any]) -> list[str]:
    """What a person should know of the input that was repaired or is incomplete."""
    remarks = []
    if report.get("boundary_edges"):
        share = 100 * report["open_fraction"]
        remarks.append(
            f"the mesh is open: {report['boundary_edges']:,} boundary edges, about {share:.1f} % of its surface "
            "missing; inside is where the winding number exceeds one half"
        )
    for key, what in (
        ("duplicate_faces", "repeated faces dropped"),
        ("degenerate_faces", "degenerate faces dropped"),
        ("reoriented_faces", "faces turned to agree with their neighbours"),
        ("dropped_points", "points dropped (doubles, or without a normal)"),
    ):
        if report.get(key):
            remarks.append(f"{report[key]:,} {what}")
    return remarks


def shape_picture(surface: Surface, vertices: np.ndarray, faces: np.ndarray, size: int = 320) -> np.ndarray:
    """Two rows (front, back) of reference, prediction and error; red is 1 % of the box diagonal or more."""
    import trimesh

    from sinefield.data.made.synthetic import render_views

    low, high = surface.aabb[:3], surface.aabb[3:]
    diagonal = float(np.linalg.norm(high - low))
    eyes = (low + high) / 2 + diagonal * np.array([[0.75, 0.45, 1.3], [-0.75, 0.45, -1.3]])
    poses = look_at(torch.from_numpy(eyes), torch.from_numpy((low + high) / 2), (0.0, 1.0, 0.0)).numpy()
    clay = np.array([205, 195, 184, 255], np.uint8)
    error = np.abs(signed_distance(surface, vertices)) / (0.01 * diagonal)
    heat = np.stack([np.ones_like(error), 1 - error.clip(0, 1), 1 - error.clip(0, 1)], axis=1)
    heat = np.column_stack([heat * 235, np.full(len(error), 255)]).astype(np.uint8)
    columns = []
    for v, f, colours in (
        (surface.vertices, surface.faces, np.tile(clay, (len(surface.vertices), 1))),
        (vertices, faces, np.tile(clay, (len(vertices), 1))),
        (vertices, faces, heat),
    ):
        mesh = trimesh.Trimesh(v, f, vertex_colors=colours, process=False)
        views = render_views(mesh, poses, size, size, focal=1.35 * size, samples=2, up=(0, 1, 0))
        alpha = views[..., 3:].astype(np.float32) / 255
        columns.append((views[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
    return np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1)


def _whole(rows: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Rows with the same columns in each, empty where a shape has no surface."""
    columns = dict.fromkeys(key for row in rows or [] for key in row)
    return rows and [{key: row.get(key) for key in columns} for row in rows]


def _csv(report: dict[str, Any]) -> str:
    """Rows by view for radiance, by shape for many shapes, one row for a shape or an image."""
    rows = (
        report.get("per_view")
        or _whole(report.get("per_shape"))
        or [{k: v for k, v in report.items() if isinstance(v, int | float | str) and not isinstance(v, bool)}]
    )
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
