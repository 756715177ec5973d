"""The other programs of race.py: what each is given, how it is started, and what is read back."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sinefield.data.photographs.images import PosedScene, reference
from sinefield.data.photographs.views import Views
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes, write_text
from sinefield.metrics.images import psnr
from sinefield.render.splats import Splats, draw

HERE = Path(__file__).parent
Row = dict[str, Any]
LISTS = {"upsamp_list": ((2000, 3000, 4000, 5500, 7000), 1), "update_AlphaMask_list": ((2000, 4000), 200)}
"""TensoRF's schedule of configs/lego.txt, in iterations of 30,000; and how early each may come: before some 200 all is
still empty, and its mask of what is not fails."""
POINTS = 50_000
"""Random points that splats start from where there are no sparse ones, as nerfstudio has it."""


def alone(command: list[str], folder: Path) -> float | None:
    """Run a program on one core with one thread; its CPU seconds, None where it fails, which is shown."""
    pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    before = os.times()
    done = subprocess.run(
        [*pinned, *command], cwd=folder, env=os.environ | threads, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    after = os.times()
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-2000:], file=sys.stderr)
        return None
    return after.children_user + after.children_system - before.children_user - before.children_system


def as_blender(scene: PosedScene, folder: Path) -> None:
    """Write training and test views as a folder in NeRF-synthetic's layout, of the size that they have now."""
    for split, views in (("train", scene.training_views), ("test", scene.scored_views)):
        (folder / split).mkdir(parents=True)
        frames = []
        for i in range(len(views)):
            Image.fromarray(straight(views, i)).save(folder / split / f"r_{i}.png")
            matrix = [*views.cameras.c2w[i].tolist(), [0.0, 0.0, 0.0, 1.0]]
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        width, focal = views.cameras.width, float(views.cameras.focal[0, 0])
        meta = {"camera_angle_x": 2 * math.atan(width / (2 * focal)), "frames": frames}
        write_text(folder / f"transforms_{split}.json", json.dumps(meta))


def straight(views: Views, index: int) -> np.ndarray:
    """A view with straight alpha, uint8."""
    pixels = views.image(index).float()
    if pixels.shape[-1] == 4:
        pixels[..., :3] = (pixels[..., :3] * 255 / pixels[..., 3:].clamp(min=1)).clamp(max=255)
    return pixels.round().to(torch.uint8).numpy()


def as_nerfstudio(scene: PosedScene, folder: Path) -> None:
    """The same as nerfstudio and OpenSplat read it: composited images, one transforms.json, points to start from."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for split, views in (("train", scene.training_views), ("eval", scene.scored_views)):
        for i in range(len(views)):
            name = f"images/frame_{split}_{i:05d}.png"
            Image.fromarray(reference(views.image(i)).numpy()).save(folder / name)
            frames.append({"file_path": name, "transform_matrix": [*views.cameras.c2w[i].tolist(), [0, 0, 0, 1]]})
    views = scene.training_views
    (fx, fy), (cx, cy) = views.cameras.focal[0].tolist(), views.cameras.centre[0].tolist()
    meta: Row = {"camera_model": "OPENCV", "w": views.cameras.width, "h": views.cameras.height, "fl_x": fx, "fl_y": fy}
    meta |= {"cx": cx, "cy": cy, "k1": 0, "k2": 0, "p1": 0, "p2": 0, "ply_file_path": "points.ply", "frames": frames}
    write_text(folder / "transforms.json", json.dumps(meta))
    low, high = scene.aabb.view(2, 3).numpy()
    points = np.random.default_rng(0).uniform(low, high, (POINTS, 3)).astype("<f4")
    rows = np.zeros(POINTS, [("place", "<f4", 3), ("colour", "u1", 3)])
    rows["place"], rows["colour"] = points, 128
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {POINTS}"]
    head += [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    (folder / "points.ply").write_bytes("\n".join([*head, "end_header", ""]).encode() + rows.tobytes())


def read_splats(path: Path) -> Splats:
    """Gaussians from a PLY of floats as Kerbl et al.'s program, OpenSplat and `sinefield splats` write it.

    Raises:
        SinefieldError: another kind of file.
    """
    content = read_bytes(path, 1 << 32, "file of splats")
    head, end, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    names = [line.split()[2] for line in lines if line.startswith("property float ")]
    if not end or "format binary_little_endian 1.0" not in lines or "opacity" not in names:
        raise SinefieldError(f"{path}: is no PLY of splats in floats; give what a splatting program wrote")
    values = torch.from_numpy(np.frombuffer(body, "<f4").reshape(-1, len(names)).copy())

    def columns(*wanted: str) -> torch.Tensor:
        return values[:, [names.index(name) for name in wanted]]

    rest = sorted((n for n in names if n.startswith("f_rest_")), key=lambda n: int(n.rpartition("_")[2]))
    harmonics = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:  # all of red first
        harmonics = torch.cat([harmonics, columns(*rest).view(len(values), 3, -1).transpose(1, 2)], dim=1)
    return Splats(
        columns("x", "y", "z"),
        columns("scale_0", "scale_1", "scale_2"),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        columns("opacity")[:, 0],
        harmonics,
    )


def splats_psnr(splats: Splats, views: Views) -> float:
    """Mean PSNR of the views on white, as our rasteriser draws the splats."""
    scores = []
    for i in range(len(views)):
        colours, light = draw(splats, views.cameras, i)
        seen = (colours + light[..., None]).clamp(0, 1)
        scores.append(float(psnr(seen[None], reference(views.image(i))[None])))
    return sum(scores) / len(scores)


def tensorf(clone: str, folder: Path, scene: PosedScene, settings: Row, iterations: int) -> list[Row]:
    """Their train.py, with configs/lego.txt but for what the sweep says and the number of iterations."""
    out, share = folder / "scores.jsonl", iterations / 30000
    out.unlink(missing_ok=True)
    given: Row = {"n_iters": iterations, "vis_every": iterations, "N_vis": -1, "render_test": 0, **settings}
    given |= {"datadir": folder, "basedir": folder / "log", "expname": "race"}
    given |= {"downsample_train": 800 / scene.training_views.cameras.width}
    text = Path(clone, "configs", "lego.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    lines = [line for line in lines if line.split("=")[0].strip() not in {*given, *LISTS}]
    lines += [f"{name} = {value}" for name, value in given.items()]
    for name, (places, least) in LISTS.items():
        lines.append(f"{name} = {[max(round(share * at), least) for at in places]}")
    write_text(folder / "config.txt", "\n".join(lines) + "\n")
    script = str(HERE / "race_tensorf.py")
    alone(
        [sys.executable, script, str(Path(clone).resolve()), str(out), "--config", str(folder / "config.txt")], folder
    )
    if not out.exists():
        return []
    row, saved = json.loads(out.read_text().splitlines()[-1]), folder / "log" / "race" / "race.th"
    numbers = row.pop("numbers")
    return [{**row, "bytes": saved.stat().st_size if saved.exists() else 4 * numbers}]


def opensplat(program: str, folder: Path, scene: PosedScene, settings: Row, iterations: int) -> list[Row]:
    """Their program; all of its time counts."""
    out = folder / "splat.ply"
    command = [str(Path(program).resolve()), str(folder / "nerfstudio"), "--cpu", "-n", str(iterations), "-o", str(out)]
    command += [f"--{key}={value}" for key, value in settings.items()]
    seconds = alone(command, folder)
    if seconds is None:
        return []
    score = splats_psnr(read_splats(out), scene.scored_views)
    return [{"cpu_seconds": seconds, "psnr": score, "bytes": out.stat().st_size}]


def nerfstudio(programs: str, folder: Path, scene: PosedScene, settings: Row, iterations: int) -> list[Row]:
    """ns-train nerfacto with its torch implementation, then ns-eval; all of the training's time counts."""
    place, scores = folder / "nerfacto", folder / "eval.json"
    train = [str(Path(programs, "ns-train")), "nerfacto", "--machine.device-type", "cpu", "--vis", "tensorboard"]
    train += ["--pipeline.model.implementation", "torch", "--max-num-iterations", str(iterations)]
    train += ["--output-dir", str(place), "--experiment-name", "race", "--timestamp", "one"]
    train += [f"--{key}={value}" for key, value in settings.items()]
    train += ["nerfstudio-data", "--data", str(folder / "nerfstudio"), "--eval-mode", "filename"]
    seconds = alone(train, folder)
    config = next(place.rglob("config.yml"), None)
    evaluate = [str(Path(programs, "ns-eval")), "--load-config", str(config), "--output-path", str(scores)]
    if seconds is None or config is None or alone(evaluate, folder) is None:
        return []
    score = json.loads(scores.read_text())["results"]["psnr"]
    size = sum(p.stat().st_size for p in place.rglob("*.ckpt"))
    return [{"cpu_seconds": seconds, "psnr": score, "bytes": size}]


def siren(clone: str, folder: Path, image: Path, settings: Row, iterations: int) -> list[Row]:
    """Their training of an image; a row each time that they report."""
    out = folder / "scores.jsonl"
    out.unlink(missing_ok=True)
    given = [str(image), str(settings["rate"]), str(iterations), str(max(iterations // 4, 1))]
    alone([sys.executable, str(HERE / "race_siren.py"), str(Path(clone).resolve()), str(out), *given], folder)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return [{**row, "bytes": 4 * row.pop("numbers")} for row in rows if row["steps"]]


PEERS = {"tensorf": tensorf, "opensplat": opensplat, "nerfstudio": nerfstudio}
"""Those that fit photographs."""
SWEEPS: dict[str, list[Row]] = {
    "tensorf": [
        {"batch_size": 4096, "N_voxel_init": 128**3, "N_voxel_final": 300**3},  # configs/lego.txt
        {"batch_size": 1024, "N_voxel_init": 64**3, "N_voxel_final": 128**3},
        {"batch_size": 512, "N_voxel_init": 48**3, "N_voxel_final": 96**3},
    ],
    "siren": [{"rate": 1e-4}, {"rate": 5e-4}, {"rate": 2e-3}],  # the first is that of train_img.py
    "opensplat": [{}],
    "nerfstudio": [{}],
}
"""Settings that are tried, from the recommended ones on."""
