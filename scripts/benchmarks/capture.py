"""From a video, and from photographs without poses, to a field by one command; docs/results/capture.md.

    python scripts/benchmarks/capture.py [video] [fox] [--seconds 600] [--json]       45 minutes on two idle cores

The video is our own: the demo's scene on a printed cloth, 20 s of 1280×720 at 15 frames a second, H.264, along the
path of a hand that walks round it and shakes, each frame blurred over half its time. Its light is computed once a
vertex. The photographs are instant-ngp's fox, without its poses. Scores are of every 8th view, which no training saw.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import trimesh
from tqdm import tqdm

from sinefield.cameras.cameras import look_at
from sinefield.config import data_folder
from sinefield.data.made.procedural import demo_scene
from sinefield.data.made.synthetic import Raycaster
from sinefield.data.surfaces.coloured import part_of, with_vertex_colours
from sinefield.export.video_files import write_video
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "capture.md"
WORK = ROOT / "runs" / "capture"
WIDTH, HEIGHT, FOCAL = 1280, 720, 1100.0
SECONDS, RATE, SHUTTER, MOMENTS = 20, 15, 0.5, 3
CLOTH, WAVES = 500, 60
FOX = {"data.downscale": "8"}


def cloth(centre: np.ndarray, half: float, draws: np.random.Generator) -> trimesh.Trimesh:
    """A square at height 0 with a print of many waves in three colours."""
    side = np.linspace(-half, half, CLOTH)
    x, y = np.meshgrid(side, side, indexing="ij")
    colours = np.full((CLOTH, CLOTH, 3), 0.5)
    for _ in range(WAVES):
        angle, phase = draws.uniform(0, 2 * np.pi, 2)
        length = np.exp(draws.uniform(np.log(0.02), np.log(0.6))) * half
        wave = np.sin(2 * np.pi / length * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        colours += 0.2 / WAVES**0.5 * wave[..., None] * draws.normal(size=3)
    number = np.arange(CLOTH**2).reshape(CLOTH, CLOTH)
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    points = np.stack([x + centre[0], y + centre[1], np.full_like(x, centre[2])], -1).reshape(-1, 3)
    rgba = np.concatenate([(255 * colours.clip(0, 1)).reshape(-1, 3), np.full((CLOTH**2, 1), 255)], 1).astype(np.uint8)
    return trimesh.Trimesh(points, faces, vertex_colors=rgba, process=False)


def lit(meshes: list[trimesh.Trimesh]) -> list[trimesh.Trimesh]:
    """The meshes with the light in their colours."""
    caster, found = Raycaster(meshes), []
    for mesh in meshes:
        normals = np.asarray(mesh.vertex_normals, np.float32)
        points = ((mesh.vertices - caster.centre) / caster.radius).astype(np.float32) + 2e-3 * normals
        colours = np.asarray(mesh.visual.vertex_colors)[:, :3] * caster._light(points, normals, 0, 1)[:, None]
        rgba = np.concatenate([colours.clip(0, 255), np.full((len(colours), 1), 255)], 1).astype(np.uint8)
        found.append(trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=rgba, process=False))
    return found


def hand_held(times: np.ndarray, centre: np.ndarray, distance: float, draws: np.random.Generator) -> np.ndarray:
    """(n, 3, 4) cameras once round the centre, the eye and what it looks at shaken as a hand shakes."""

    def shake(size: float) -> np.ndarray:
        waves = np.exp(draws.uniform(np.log(0.2), np.log(3.0), 12))
        phases, ways = draws.uniform(0, 2 * np.pi, 12), draws.normal(size=(12, 3)) / waves[:, None] ** 0.5
        return size * np.sin(2 * np.pi * waves * times[:, None] + phases) @ ways / np.sqrt(12)

    angle = 2 * np.pi * times / SECONDS
    height = 0.55 + 0.2 * np.sin(2 * np.pi * times / 11)
    eye = np.stack([np.cos(angle), np.sin(angle), height], 1) * distance + centre + shake(0.03 * distance)
    return look_at(eye, centre + shake(0.03 * distance)).numpy().astype(np.float64)


def make_video(path: Path, seed: int = 0) -> None:
    """The video described above."""
    draws = np.random.default_rng(seed)
    toys = with_vertex_colours([part_of(demo_scene(seed))])
    for _ in range(2):
        toys = toys.subdivide() if len(toys.faces) < 200_000 else toys
    low, high = toys.bounds
    size = float(np.linalg.norm(high - low))
    floor = np.array([*(low + high)[:2] / 2, low[2]])
    caster = Raycaster(lit([toys, cloth(floor, 1.2 * size, draws)]))
    count = SECONDS * RATE
    moments = (np.arange(count)[:, None] + SHUTTER * np.arange(MOMENTS) / MOMENTS) / RATE
    poses = hand_held(moments.reshape(-1), (low + high) / 2, 1.1 * size, draws).reshape(count, MOMENTS, 3, 4)

    def frames():
        for several in tqdm(poses, desc="frames", disable=None):
            total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
            for pose in several:
                seen = caster.view(pose, WIDTH, HEIGHT, FOCAL, samples=1, shaded=False).astype(np.float32)
                total += np.where(seen[..., 3:] > 0, seen[..., :3], np.float32([205, 215, 230]))
            yield np.round(total / MOMENTS).astype(np.uint8)

    write_video(path, frames(), RATE, overwrite=True)


def captured(name: str, source: Path, seconds: float, more: dict[str, str]) -> dict:
    """What `sinefield capture` says of one source, and the processor's minutes."""
    command = [sys.executable, "-m", "sinefield", "capture", str(source), "--out", str(WORK / name), "--overwrite"]
    command += ["--seconds", f"{seconds:g}", "--json"]
    command += [word for key, value in more.items() for word in (f"--{key}", value)]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout.splitlines()[-1])
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    settings = " ".join(f"--{key} {value}" for key, value in more.items())
    return {
        "input": name,
        "command": f"sinefield capture {source.name} --seconds {seconds:g} {settings}".strip(),
        **{key: report[key] for key in ("placed", "images", "space", "downscale", "steps", "views")},
        "psnr": report["psnr"],
        "ssim": report["ssim"],
        "minutes": round((time.perf_counter() - begin) / 60, 1),
        "cpu_minutes": round(used / 60, 1),
        "left_out": report["left_out"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="video, fox; both if none is named")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.inputs or ("video", "fox"):
        source, more = (WORK / "hand_held.mp4", {}) if name == "video" else (data_folder() / "fox" / "images", FOX)
        if name == "video" and not source.exists():
            make_video(source)
        rows.append(captured(name, source, options.seconds, more))
        print(rows[-1], file=sys.stderr, flush=True)
    machine = describe_machine()
    keys = ("input", "placed", "images", "space", "downscale", "steps", "psnr", "ssim", "minutes", "cpu_minutes")
    stored = OUT.with_suffix(".json")
    known = json.loads(stored.read_text())["rows"] if stored.exists() else []
    whole = [row for row in known if row["input"] not in {new["input"] for new in rows}]
    rows = [row | {"date": f"{date.today()}", "cpu": machine["cpu"], "cores": machine["cores"]} for row in rows]
    whole = sorted([*whole, *rows], key=lambda row: row["input"], reverse=True)
    write_text(stored, json.dumps({"rows": whole}, indent=1) + "\n")
    about = (__doc__ or "").split("\n\n", 1)[1]
    commands = "\n".join(
        f"- {row['input']}: `{row['command']}`, {row['date']}, {row['cpu']}, {row['cores']} cores, seed 0"
        for row in whole
    )
    write_text(OUT, f"# Captures by one command\n\n{about}\n{table(keys, whole, markdown=True)}\n\n{commands}\n")
    if options.json:
        print(json.dumps({"rows": whole}))


if __name__ == "__main__":
    main()
