"""From whatever a person has in memory or on disk to a trained run."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from sinefield.config import FAMILIES, FOLDERS, KINDS, Config, locate, make_config
from sinefield.data.surfaces.mesh_files import EXTENSIONS as MESHES
from sinefield.errors import SinefieldError
from sinefield.learning.budget import CHOSEN, train_to_size
from sinefield.learning.loop import Interrupted
from sinefield.learning.presets import put_preset
from sinefield.learning.train import train
from sinefield.pictures import save_png
from sinefield.store.run import Run
from sinefield.strict import load_yaml, nearest, set_dotted

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
CAPTURES = ("poses_bounds.npy", "cameras_sphere.npz", "cameras.npz", "cameras.txt", "images.txt", "points3D.txt")
"""Files of poses whose endings clouds of points have, too."""
GROUPS = ("training", "field", "data")
"""Where a setting given by its bare name is looked for, in this order."""
FILES = "a mesh or point cloud, an image or a folder of posed photographs"
TAKEN = f"the path of {FILES}; a trimesh.Trimesh; points and normals, both (n, 3); an image (h, w, 3 or 4)"


class Given(NamedTuple):
    """Data as a scene file names them: the kind of field that suits, a path, and what else they ask for."""

    kind: str
    path: str
    settings: dict[str, Any]


def fitted(
    data: Any,
    folder: Path,
    scene: str | Path | None,
    settings: dict[str, Any],
    max_bytes: int | None = None,
    preset: str | None = None,
    effort: float | None = None,
) -> Path:
    """Train a field into a run folder; returns the folder.

    Arguments:
        data: see `sinefield.fit`.
        scene: a scene file whose settings count in place of the usual ones.
        settings: by bare or dotted name.
        max_bytes, effort: see `learning.budget.train_to_size`.
        preset: see `learning.presets.put_preset`.

    Raises:
        SinefieldError: unknown data or settings; see `learning.train.train`.
        KeyboardInterrupt: the training was interrupted.
    """
    keep = folder.parent / f".data-{folder.name}"  # a run's folder has to be empty before it is trained into
    given = given_data(data, keep)
    try:
        config = _config(given, scene, settings, preset)
        if max_bytes is None:
            train(config, folder)
        else:
            chosen = next((name for name in CHOSEN if {name, f"field.{name}"} & settings.keys()), None)
            train_to_size(config, folder, max_bytes, chosen, effort=effort)
        config = Run(folder).config()  # as the data have settled it
        moved = Path(given.path)
        if moved.parent == keep:
            _move_in(moved, folder, config)
    except Interrupted as error:
        raise KeyboardInterrupt from error
    finally:
        if keep.is_dir():
            for path in keep.iterdir():
                path.unlink()
            keep.rmdir()
    return folder


def given_data(data: Any, keep: Path) -> Given:
    """What data are, by their type or file.

    Arguments:
        keep: folder into which data that are no file are written.

    Raises:
        SinefieldError: none of `TAKEN`.
    """
    if isinstance(data, str | Path):
        return named_data(str(data))
    trimesh = sys.modules.get("trimesh")
    if trimesh is not None and isinstance(data, trimesh.Trimesh):
        return _mesh(data, keep)
    if isinstance(data, tuple) and len(data) == 2:
        return _cloud(_array(data[0]), _array(data[1]), keep)
    array = _array(data)
    if array.ndim == 3 and array.shape[2] in (3, 4):
        return _image(array, keep)
    raise SinefieldError(f"fit was given {_described(data, array)}; it takes {TAKEN}")


def data_config(path: str, overrides: dict[str, str], preset: str | None = None) -> Config:
    """The settings that suit a file or folder, with its `data.path` and dotted overrides put in.

    Raises:
        SinefieldError: see `named_data`, `strict.set_dotted`, `put_preset` and `make_config`; `data.path` among the
            overrides.
    """
    if "data.path" in overrides:
        raise SinefieldError(f"--data.path: the data are {path} already; give one of the two")
    given = named_data(path)
    content: dict[str, Any] = {"kind": given.kind, "data": {"path": given.path}}
    put_preset(content, preset, _values(overrides))
    for key, text in overrides.items():
        set_dotted(content, key, text)
    return make_config(content, path)


def _values(overrides: dict[str, str]) -> dict[str, Any]:
    """Dotted overrides as what their texts say."""
    content: dict[str, Any] = {}
    for key, text in overrides.items():
        set_dotted(content, key, text)
    groups = {group: names for group, names in content.items() if isinstance(names, dict)}
    return {f"{group}.{name}": value for group, names in groups.items() for name, value in names.items()}


def named_data(path: str) -> Given:
    """What a file or folder holds, by its name.

    Raises:
        SinefieldError: not there, or none of `FILES`.
    """
    if path.startswith(FAMILIES):
        return Given("shapes", path, {})
    place = Path(locate(path))
    if not place.exists():
        raise SinefieldError(f"{path}: no such file or folder; give {FILES}")
    if (place / "field.safetensors").is_file():
        raise SinefieldError(f"{path}: is a trained run, not data; to continue it, give its scene or data and --resume")
    if place.is_dir():
        return Given("radiance", str(place), {})
    suffix = place.suffix.lower()
    if suffix in IMAGES or path.startswith(tuple(FOLDERS)):
        return Given("image", str(place), {})
    if suffix in (".json", ".bin") or place.name in CAPTURES:
        return Given("radiance", str(place), {})
    if suffix in MESHES:
        return Given("shape", str(place), {})
    raise SinefieldError(f"{path}: unknown kind of file; give {FILES}")


def _mesh(mesh: Any, keep: Path) -> Given:
    if not len(mesh.faces):
        raise SinefieldError("the mesh has no faces; give one that has")
    kind = getattr(mesh.visual, "kind", None)
    if kind == "texture":
        return Given("shape", _glb(mesh, keep), {})
    parts = {"vertex": mesh.vertices, "face": mesh.faces}
    if kind == "vertex":
        parts["colour"] = mesh.visual.vertex_colors[:, :3]
    elif kind == "face":  # each face gets vertices of its own, which become one again where they are at one place
        parts["vertex"], parts["face"] = mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3)
        parts["colour"] = np.repeat(mesh.visual.face_colors[:, :3], 3, axis=0)
    return Given("shape", _ply(keep, parts), {})


def _glb(mesh: Any, keep: Path) -> str:
    """A textured mesh, its place said by a node, so that single precision keeps its shape."""
    import trimesh

    centre, near = np.asarray(mesh.bounds, np.float64).mean(axis=0), mesh.copy()
    near.apply_translation(-centre)
    scene = trimesh.Scene()
    scene.add_geometry(near, transform=trimesh.transformations.translation_matrix(centre))
    keep.mkdir(parents=True, exist_ok=True)
    scene.export(keep / "data.glb")
    return str(keep / "data.glb")


def _cloud(points: np.ndarray, normals: np.ndarray, keep: Path) -> Given:
    if points.ndim != 2 or points.shape[1] != 3 or points.shape != normals.shape:
        raise SinefieldError(f"points are {points.shape}, normals {normals.shape}; give both as (n, 3)")
    if not (np.isfinite(points).all() and np.isfinite(normals).all()):
        raise SinefieldError("points or normals are NaN or infinite; remove them")
    return Given("shape", _ply(keep, {"vertex": np.column_stack([points, normals])}), {})


def _ply(keep: Path, parts: dict[str, np.ndarray]) -> str:
    """Points, with normals if there are six columns, their colours and faces as a binary PLY in double precision."""
    keep.mkdir(parents=True, exist_ok=True)
    vertices = np.ascontiguousarray(parts["vertex"], "<f8")
    names = ("x", "y", "z", "nx", "ny", "nz")[: vertices.shape[1]]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    head += [f"property double {name}" for name in names]
    body = vertices.tobytes()
    if "colour" in parts:
        head += [f"property uchar {name}" for name in ("red", "green", "blue")]
        colours = np.asarray(parts["colour"], np.uint8)
        body = np.concatenate([vertices.view(np.uint8).reshape(len(vertices), -1), colours], axis=1).tobytes()
    if "face" in parts:
        faces = np.asarray(parts["face"], "<i4")
        rows = np.empty(len(faces), [("n", "u1"), ("corners", "<i4", 3)])
        rows["n"], rows["corners"] = 3, faces
        head += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        body += rows.tobytes()
    path = keep / "data.ply"
    path.write_bytes("\n".join([*head, "end_header", ""]).encode() + body)
    return str(path)


def _image(pixels: np.ndarray, keep: Path) -> Given:
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise SinefieldError("a float image has to be finite and lie in [0, 1]; divide it, or give uint8")
        pixels = np.round(255 * pixels).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise SinefieldError(f"the image is {pixels.dtype}; give uint8, or float in [0, 1]")
    keep.mkdir(parents=True, exist_ok=True)
    save_png(keep / "data.png", np.ascontiguousarray(pixels))
    return Given("image", str(keep / "data.png"), {})


def _array(data: Any) -> np.ndarray:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        data = data.detach().cpu().numpy()
    try:
        array = np.asarray(data)
    except ValueError:
        array = np.empty(0, object)
    return array if array.dtype.kind in "fiub" else np.empty(0)


def _described(data: Any, array: np.ndarray) -> str:
    return f"numbers of shape {array.shape}" if array.size else f"a {type(data).__name__}"


def _config(given: Given, scene: str | Path | None, settings: dict[str, Any], preset: str | None) -> Config:
    """The scene file's settings, or those that suit the data, with what was given put in."""
    content = {} if scene is None else load_yaml(scene)
    kind = content.setdefault("kind", given.kind)
    if kind != given.kind:
        raise SinefieldError(
            f"{scene}: is of kind {kind}, the data are for {given.kind}; give a scene file of that kind"
        )
    plain = {**given.settings, "data.path": given.path, **settings}
    placed = {_placed(key, KINDS[kind]): value for key, value in plain.items()}
    content.setdefault("data", {})["path"] = given.path
    if scene is not None and preset is not None:
        raise SinefieldError("a scene file has its settings; leave out the scene or the preset")
    if scene is None:
        put_preset(content, preset, {f"{group}.{name}": value for (group, name), value in placed.items()})
    for (group, name), value in placed.items():
        target = content.setdefault(group, {}) if group else content
        target[name] = list(value) if isinstance(value, tuple) else value
    return make_config(content, "fit" if scene is None else str(scene))


def _placed(key: str, kind: type[Any]) -> tuple[str, str]:
    """Group and name of a setting."""
    if key == "seed":
        return "", key
    group, dot, name = key.rpartition(".")
    groups = {g: [f.name for f in dataclasses.fields(get_type_hints(kind)[g])] for g in GROUPS}
    if dot and group in groups:
        return group, name
    for found in GROUPS:
        if key in groups[found]:
            return found, key
    known = [f"{g}.{n}" for g, names in groups.items() for n in names]
    known += [n for names in groups.values() for n in names]
    raise SinefieldError(f"fit: unknown setting {key}; {nearest(key, known)}")


def _move_in(path: Path, folder: Path, config: Config) -> None:
    """Bring data that were written for a run into it, and have its configuration say so."""
    path.replace(folder / path.name)
    placed = dataclasses.replace(config.data, path=str((folder / path.name).absolute()))
    Run(folder).write_config(dataclasses.replace(config, data=placed))
