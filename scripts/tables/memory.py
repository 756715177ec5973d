"""What each command takes at most of memory, by images, resolution and samples; docs/results/memory.*.

    python scripts/tables/memory.py       about 15 minutes on two cores; needs the data folder, Linux

Of each child process its own memory, which the system cannot take back, and what it maps from files (libraries, and
images of large sets) are looked at twenty times a second.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sinefield.config import data_folder
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "memory.json"
WORK = ROOT / "runs" / "memory"
MANY, SIDE = 4000, 256


def peak(arguments: list[str]) -> tuple[float, float]:
    """GiB of own and of mapped memory that a command reaches."""
    environment = {**os.environ, "SINEFIELD_DATA": str(data_folder())}
    command = [sys.executable, "-m", "sinefield.cli", *arguments]
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own = mapped = 0
    status = Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        time.sleep(0.05)
        found = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
        if "RssAnon" in found:
            own = max(own, int(found["RssAnon"].split()[0]))
            mapped = max(mapped, int(found["RssFile"].split()[0]) + int(found["RssShmem"].split()[0]))
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: {child.stderr.read().decode()}")
    return own / 2**20, mapped / 2**20


def photographs(folder: Path) -> Path:
    """A data set of many random photographs, 0.8 GB when decoded: links to a few files."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    frames = []
    for i in range(MANY):
        angle, name = 2 * np.pi * i / MANY, f"images/{i}.png"
        c, s = np.cos(angle), np.sin(angle)
        pose = [[c, 0, s, 4 * s], [0, 1, 0, 0], [-s, 0, c, 4 * c], [0, 0, 0, 1]]
        frames.append({"file_path": name, "transform_matrix": pose})
        if i < 10:
            Image.fromarray(draws.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / name)
        elif not (folder / name).exists():
            os.link(folder / f"images/{i % 10}.png", folder / name)
    write_text(folder / "transforms.json", json.dumps({"fl_x": 300.0, "w": SIDE, "h": SIDE, "frames": frames}))
    return folder


def rows() -> list[tuple[str, list[str]]]:
    def train(scene: str, name: str, steps: int, *more: str) -> list[str]:
        begin = ["train", f"scenes/{scene}.yaml", "--out", str(WORK / name), "--overwrite"]
        return [*begin, "--training.steps", str(steps), *more]

    def run(name: str) -> str:
        return str(WORK / name)

    many = photographs(WORK / "many")
    return [
        ("train a shape, 16,384 points a step", train("armadillo", "armadillo", 300)),
        ("train a shape, 65,536 points a step", train("armadillo", "large", 50, "--training.batch", "65536")),
        ("eval of it", ["eval", run("armadillo")]),
        ("mesh at 256", ["mesh", run("armadillo"), run("a256.ply"), "--overwrite"]),
        ("mesh at 512", ["mesh", run("armadillo"), run("a512.ply"), "--resolution", "512", "--overwrite"]),
        ("mesh at 1024", ["mesh", run("armadillo"), run("a1024.ply"), "--resolution", "1024", "--overwrite"]),
        ("pack of it", ["pack", run("armadillo"), run("armadillo.sine"), "--steps", "200", "--overwrite"]),
        ("video of it, 4 frames of 256²", ["video", run("armadillo"), run("a.mp4"), "--frames", "4", "--overwrite"]),
        ("train Lego at 100², 100 views", train("lego", "lego", 200)),
        ("train Lego at 400², 100 views", train("lego", "lego_400", 100, "--data.downscale", "2")),
        ("eval of Lego at 100²", ["eval", run("lego")]),
        ("video of Lego, 4 frames of 400²", ["video", run("lego"), run("l.mp4"), "--frames", "4", "--width", "400"]),
        ("train Lego at 200², hash grid", train("lego_hash", "lego_hash", 100)),
        ("train the fern at 504×378", train("fern", "fern", 100)),
        (f"train on {MANY:,} photographs of {SIDE}²", train("demo", "run_many", 50, "--data.path", str(many))),
        ("train an image of 512²", train("image", "image", 200)),
    ]


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    found = []
    for name, arguments in rows():
        if arguments[0] == "video":
            arguments = [*arguments, "--overwrite"] if "--overwrite" not in arguments else arguments
        own, mapped = peak(arguments)
        shown = [Path(a).name if a.startswith(str(ROOT)) else a for a in arguments if a != "--overwrite"]
        found.append({"what": name, "own GiB": round(own, 2), "mapped GiB": round(mapped, 2)})
        found[-1]["command"] = f"`sinefield {' '.join(shown)}`"
        print(json.dumps(found[-1]), flush=True)
        write_text(STORE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    machine = describe_machine()
    text = (
        "# Memory\n\n"
        + table(list(found[0]), found, markdown=True)
        + f"\n\nMade by `python scripts/tables/memory.py`; {machine['cpu']}, {machine['threads']} threads, "
        f"{time.strftime('%Y-%m-%d')}. Highest values seen at twenty looks a second. Own memory is what the process\n"
        "cannot do without; mapped are its libraries and, of sets of more than half a GiB of decoded images, the file\n"
        "that holds them, which the system keeps in memory as far as there is room.\n"
    )
    write_text(STORE.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
