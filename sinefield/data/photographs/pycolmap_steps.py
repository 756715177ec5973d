"""COLMAP's steps by pycolmap, in a process of their own: what runs in C++ can then be stopped, or fail, at any moment.

Run as `python -m sinefield.data.photographs.pycolmap_steps ORDER.json`; what it logs is COLMAP's own.
"""

import ctypes
import json
import signal
import sys
from pathlib import Path
from typing import Any

SIZES = {"low": (1000, 2048), "medium": (1600, 4096), "high": (2400, 8192), "extreme": (3200, 8192)}
"""COLMAP's presets: longest side in pixels, and features a photograph."""
SMALLEST = 3
SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
CENTRED = 0.1
"""The principal point may move by this share of the image's side; one that moves more is not known from the images."""


def run(order: dict[str, Any]) -> None:
    """Find features, match them, place the photographs, refine the largest model; write what was found.

    Arguments:
        order: images (folder), names, masks (folder or null), scratch (folder), matching, quality, threads, seed.
    """
    import pycolmap

    scratch = Path(order["scratch"])
    database, threads, seed = scratch / "database.db", order["threads"], order["seed"]
    side, features = SIZES[order["quality"]]
    pycolmap.set_random_seed(seed)
    extraction = pycolmap.FeatureExtractionOptions(num_threads=threads, max_image_size=side, use_gpu=False)
    extraction.sift.max_num_features = features
    reader = pycolmap.ImageReaderOptions(camera_model="OPENCV")
    if order["masks"]:
        reader.mask_path = order["masks"]
    pycolmap.extract_features(
        database,
        order["images"],
        image_names=order["names"],
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False)
    match = {"exhaustive": pycolmap.match_exhaustive, "sequential": pycolmap.match_sequential}[order["matching"]]
    match(database, matching_options=matching, device=pycolmap.Device.cpu)
    options = pycolmap.IncrementalPipelineOptions(num_threads=threads, random_seed=seed, min_model_size=SMALLEST)
    (scratch / "sparse").mkdir()
    models = pycolmap.incremental_mapping(database, order["images"], scratch / "sparse", options=options)
    if models:
        best = max(models, key=lambda number: models[number].num_reg_images())
        refine(models[best], scratch / "sparse" / str(best))
    with pycolmap.Database.open(database) as opened:
        pairs = opened.read_two_view_geometries()[1]
    matched = sum(len(pair.inlier_matches) >= options.min_num_matches for pair in pairs)
    (scratch / "matched.json").write_text(json.dumps(matched))


def refine(model: Any, folder: Path) -> None:
    """Let the principal point go in one last adjustment, and write the model if that was for the better."""
    import pycolmap

    before = model.compute_mean_reprojection_error()
    pycolmap.bundle_adjustment(
        model, pycolmap.BundleAdjustmentOptions(refine_principal_point=True, print_summary=False)
    )
    model.update_point_3d_errors()
    centred = all(
        abs(camera.principal_point_x / camera.width - 0.5) < CENTRED
        and abs(camera.principal_point_y / camera.height - 0.5) < CENTRED
        for camera in model.cameras.values()
    )
    if centred and model.compute_mean_reprojection_error() <= before:
        model.write_binary(folder)


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that began it is gone, which SIGKILL leaves no time to say so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
