"""Photographs and their poses for tests/hostile.py: small sound files of each format, and what reads them."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import trimesh
from captures import llff_rows, names, poses, write_images, write_model
from hostile_format import Format, closed_zip, folder_of, opened_zip, words_of
from PIL import Image, ImageCms

from sinefield.cameras.orbits import usual_orbit
from sinefield.cameras.path_files import read_camera_path
from sinefield.data.photographs.images import load_posed
from sinefield.data.picture import load_image

# ---- images


def image(kind: str) -> Format:
    values = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    values[:, :6] = 77
    rgba = Image.fromarray(values)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    # A profile that calls for a conversion: one of another name.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    own = {"icc_profile": profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))}
    deep = Image.fromarray(np.arange(117, dtype=np.uint16).reshape(9, 13) * 500)
    made: list[tuple[Image.Image, dict]] = {
        "png": [(rgba, own), (rgb, {"exif": exif}), (rgb.quantize(8), {"transparency": 0}), (deep, {}), (grey, {})],
        "jpg": [(rgb, own), (grey, {}), (rgb, {"progressive": True, "exif": exif}), (rgb.convert("CMYK"), {})],
        "tif": [(rgb, own), (rgba, {"compression": "tiff_lzw"}), (rgb, {"compression": "tiff_deflate"}), (deep, {}),
                (rgb, {"compression": "jpeg"}), (grey.convert("1"), {"compression": "group4"})],
        "webp": [(rgba, {"lossless": True} | own), (rgb, {}), (rgb, {"exif": exif})],
        "bmp": [(rgb, {}), (grey, {}), (rgb.quantize(8), {}), (rgba, {}), (grey.convert("1"), {})],
    }[kind]  # fmt: skip
    files = []
    for picture, options in made:
        stream = io.BytesIO()
        picture.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()), **options)
        files.append(stream.getvalue())
    words = words_of(
        "IHDR IDAT IEND PLTE tRNS iCCP eXIf zTXt acTL fcTL fdAT gAMA Exif II* MM RIFF WEBP VP8 VP8L VP8X ALPH"
    )
    mended = {"mend": _mended_png} if kind == "png" else {}
    load = partial(_read_image, kind)
    return Format(kind, [{f"a.{kind}": file} for file in files], [f"a.{kind}"], load, words, **mended)


def _read_image(kind: str, folder: Path) -> None:
    load_image(folder / f"a.{kind}")


def _mended_png(data: bytes, rng: Random) -> bytes:
    """The checksums of the chunks as their contents are now, for the most part."""
    if rng.random() < 0.2:
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (size,) = struct.unpack(">I", out[at : at + 4])
        if at + 12 + size > len(out):
            break
        out[at + 8 + size : at + 12 + size] = struct.pack(">I", zlib.crc32(out[at + 4 : at + 8 + size]))
        at += 12 + size
    return bytes(out)


# ---- poses


def _lists(folder: Path, extra: dict, split: str = "", each: dict | None = None) -> None:
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]} | (each or {})
        for name, pose in zip(names(4), poses(4), strict=True)
    ]
    (folder / f"transforms{split}.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames} | extra))


def _pictures(folder: Path) -> None:
    write_images(folder / "images", names(4))


def transforms() -> Format:
    lens = {"fl_x": 10.0, "fl_y": 11.0, "cx": 6, "cy": 4, "w": 12, "h": 8, "k1": 0.01, "p2": 0.001, "aabb_scale": 4}
    split = {"train_filenames": [f"images/{n}" for n in names(3)], "test_filenames": [f"images/{names(4)[3]}"]}
    boxed = {"aabb": [[-1, -1, -1], [1, 1, 1]], "offset": [0.5, 0.5, 0.5], "scale": 0.33, "camera_model": "OPENCV"}
    examples = [folder_of(_pictures, partial(_lists, extra=extra)) for extra in ({}, lens | split, lens | boxed)]
    each = {"mask_path": "masks/a.png", "depth_file_path": "depths/a.npy"}
    fish = {
        "ply_file_path": "points.ply",
        "camera_model": "OPENCV_FISHEYE",
        "k1": 0.01,
        "k2": 0.0,
        "k3": 0.0,
        "k4": 0.001,
    }
    fish |= {"depth_unit_scale_factor": 0.5, "w": 12, "h": 8, "fl_x": 10.0, "fl_y": 10.0}
    examples.append(folder_of(_pictures, _beside, partial(_lists, extra=fish, each=each)))
    words = words_of(
        "file_path transform_matrix frames camera_angle_x fl_x w h aabb scale offset train_filenames k4 cx"
    )
    words += words_of(
        "mask_path depth_file_path depth_unit_scale_factor ply_file_path k3 OPENCV_FISHEYE FULL_OPENCV FOV"
    )
    damaged = ["transforms.json", "points.ply", "masks/a.png", "depths/a.npy"]
    return Format("transforms", examples, damaged, _read_posed, words)


def _beside(folder: Path) -> None:
    """Sparse points, a mask and a depth image."""
    generator = np.random.default_rng(0)
    trimesh.PointCloud(generator.uniform(-1, 1, (50, 3))).export(folder / "points.ply")
    (folder / "masks").mkdir()
    Image.fromarray(generator.integers(0, 2, (8, 12), np.uint8) * 255).save(folder / "masks" / "a.png")
    (folder / "depths").mkdir()
    np.save(folder / "depths" / "a.npy", generator.uniform(1, 3, (8, 12)).astype(np.float32))


def _read_posed(folder: Path) -> None:
    scene = load_posed(folder, depths=True)
    cameras = scene.train.cameras
    assert all(rays.isfinite().all() for rays in cameras.view(0)) and usual_orbit(cameras).to_vector().isfinite().all()
    assert scene.aabb.isfinite().all() and (scene.aabb[3:] > scene.aabb[:3]).all()


def camera_path() -> Format:
    frames = [{"camera_to_world": [*pose.ravel().tolist(), 0, 0, 0, 1], "fov": 50, "aspect": 1.5} for pose in poses(3)]
    path = {"camera_type": "perspective", "render_height": 8, "render_width": 12, "fps": 24, "seconds": 2.0}
    example = {"a.json": json.dumps(path | {"camera_path": frames}).encode()}
    example["dataparser_transforms.json"] = json.dumps({"transform": poses(1)[0].tolist(), "scale": 0.5}).encode()
    words = words_of("camera_to_world fov aspect fps seconds camera_path render_height perspective transform scale")
    return Format("camera_path", [example, {"a.json": example["a.json"]}], list(example), _read_path, words)


def _read_path(folder: Path) -> None:
    read_camera_path(folder / "a.json")


def llff() -> Format:
    def rows(dtype: str, order: str, folder: Path) -> None:
        np.save(folder / "poses_bounds.npy", np.asarray(llff_rows(poses(4)), dtype, order))

    examples = [folder_of(_pictures, partial(rows, *kind)) for kind in (("<f8", "C"), (">f4", "F"))]
    words = words_of("descr fortran_order shape True <f8 |O <U9 (4, (17,) )} object")
    return Format("llff", examples, ["poses_bounds.npy"], _read_posed, words)


def dtu() -> Format:
    arrays = {}
    for index, pose in enumerate(poses(4)):
        rotation = (pose[:, :3] @ np.diag([1.0, -1, -1])).T
        camera = np.array([[10.0, 0, 6], [0, 10, 4], [0, 0, 1]]) @ np.column_stack([rotation, -rotation @ pose[:, 3]])
        arrays[f"world_mat_{index}"] = np.concatenate([camera, [[0, 0, 0, 1.0]]])
        arrays[f"scale_mat_{index}"] = np.diag([2.0, 2, 2, 1])

    def save(write: Callable, folder: Path) -> None:
        write(folder / "cameras_sphere.npz", **arrays)
        for name in ("image", "mask"):
            write_images(folder / name, names(4))

    examples = [folder_of(partial(save, write)) for write in (np.savez, np.savez_compressed)]
    words = words_of("world_mat_0.npy scale_mat_0.npy world_mat_9.npy ../../world_mat_0.npy PK descr shape (9999999,)")
    return Format("dtu", examples, ["cameras_sphere.npz"], _read_posed, words, opened_zip, closed_zip)


def colmap(text: bool) -> Format:
    examples = [
        folder_of(_pictures, lambda folder, m=model: write_model(folder / "sparse/0", poses(4), m, text))
        for model in ("OPENCV", "SIMPLE_PINHOLE")
    ]
    ending = "txt" if text else "bin"
    files = [f"sparse/0/{name}.{ending}" for name in ("cameras", "images", "points3D")]
    words = words_of("PINHOLE OPENCV_FISHEYE OPENCV # view 01.png 7 9 3")
    return Format("colmap_" + ("text" if text else "binary"), examples, files, _read_posed, words)
