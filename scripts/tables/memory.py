"""Memory of each command, by photographs, resolution and samples; docs/results/memory.*

    python scripts/tables/memory.py [COMMAND ...]      without names: all; some minutes
    python scripts/tables/memory.py tables             only write the table anew

Every command is a process of its own on small real scenes ($SINEFIELD_DATA), with a few steps of training: what a step
takes does not change after. Rows that are not run again stay as they are. Linux only.
"""

import http.client
import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from measure import Used, measure

from sinefield.config import data_folder
from sinefield.files import write_text
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "memory.json"
STEPS = ["--training.steps", "20"]
SINEFIELD = [sys.executable, "-m", "sinefield"]
LEGO, SHAPE = ["scenes/lego.yaml", *STEPS], ["scenes/armadillo.yaml", *STEPS]
SURFACE = ["--training.steps", "300"]  # so many that there is a surface to mesh
SHAPES = ["scenes/shapes.yaml", *STEPS, "--data.path", "families:chair", "--data.shapes", "16", "--data.held_out", "1"]
# command: rows of (what, arguments). {runs} is a folder of this script, where the rows above leave theirs.
ROWS: dict[str, list[tuple[str, list[str]]]] = {
    "train": [
        ("shape, 100,000 points", [*SHAPE, *SURFACE, "--data.points", "100000", "--out", "{runs}/shape"]),
        ("shape, 2,000,000 points", [*SHAPE, "--out", "{runs}/shape2"]),
        ("shape, four times the samples", [*SHAPE, "--data.points", "100000", "--training.batch", "65536"]),
        ("radiance, 100 of 100×100", [*LEGO, "--out", "{runs}/lego"]),
        ("radiance, 100 of 200×200", [*LEGO, "--data.downscale", "4"]),
        ("radiance, 100 of 400×400", [*LEGO, "--data.downscale", "2"]),
        ("radiance, 100×100, four times the samples", [*LEGO, "--training.batch", "131072"]),
        ("radiance, hash grids", ["scenes/lego_hash.yaml", *STEPS]),
        (
            "image, 512×512",
            ["scenes/image_small.yaml", *STEPS, "--data.path", "skimage:astronaut.png", "--out", "{runs}/image"],
        ),
        ("shapes, 16 chairs", [*SHAPES, "--out", "{runs}/shapes"]),
    ],
    "eval": [
        ("shape", ["{runs}/shape"]),
        ("radiance, 25 of 100×100", ["{runs}/lego"]),
        ("image, 512×512", ["{runs}/image"]),
    ],
    "mesh": [
        (f"{kind}, {n}³", [f"{{runs}}/{run}", f"{{runs}}/{run}_{n}.ply", "--resolution", str(n)])
        for kind, run in (("shape", "shape"), ("radiance", "lego"))
        for n in (256, 512)
    ]
    + [("shape, the largest that is not refused", ["{runs}/shape", "{runs}/most.ply", "--resolution", "1024"])],
    "video": [
        (f"radiance, {n} pixels wide", ["{runs}/lego", f"{{runs}}/{n}.mp4", "--frames", "3", "--width", str(n)])
        for n in (200, 800)
    ],
    "image": [(f"{n} pixels wide", ["{runs}/image", f"{{runs}}/{n}.png", "--width", str(n)]) for n in (512, 2048)],
    "pack": [
        ("shape", ["{runs}/shape", "{runs}/shape.sine", "--steps", "20"]),
        ("radiance", ["{runs}/lego", "{runs}/lego.sine", "--steps", "20"]),
    ],
    "reconstruct": [("1,024 points, 96³", ["{runs}/shapes", "{runs}/scan.xyz", "{runs}/scan.glb"])],
    "adapt": [("shape", ["{runs}/shape", *SHAPE, "--data.points", "100000", "--out", "{runs}/edit.sine"])],
    "report": [("radiance", ["{runs}/lego"])],
    "inspect": [("100 and 25 of 800×800", ["{data}/lego"])],
    "view": [("radiance, one request", ["{runs}/lego", "--port", "0", "--no-browser"])],
}


def run(command: str, arguments: list[str], runs: Path) -> tuple[Used, list[str]]:
    """One command; a mesh that is refused is made as large as the refusal says, and what was run is given back."""
    filled = [text.format(runs=runs, data=data_folder()) for text in arguments]
    if command in ("train", "adapt") and "--out" not in filled:
        filled += ["--out", str(runs / "other")]
    flags = {"train", "mesh", "video", "image", "pack", "reconstruct", "adapt", "report"}
    filled += ["--overwrite"] if command in flags else []
    program = [*SINEFIELD, command, *filled]
    if command == "view":  # ends at Ctrl-C: a script around it asks for the page and stops it
        program = [sys.executable, str(Path(__file__)), "visit", *filled]
    used = measure(program, cwd=ROOT)
    refused = re.search(r"try --resolution (\d+)", used.output)
    if used.code == 2 and refused and "--resolution" in filled:
        filled[filled.index("--resolution") + 1] = refused[1]
        used = measure([*SINEFIELD, command, *filled], cwd=ROOT)
    if used.code:
        raise SystemExit(f"sinefield {command} {' '.join(filled)}: {used.output}")
    return used, filled


def visit(arguments: list[str]) -> None:
    """The viewer in this very process, with its page asked for once."""
    from sinefield.viewer.server import Viewer

    with Viewer(arguments[0], port=0) as viewer:
        connection = http.client.HTTPConnection("127.0.0.1", viewer.server.get_port())
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        time.sleep(1)


def write_tables() -> None:
    stored = json.loads(STORE.read_text())
    rows = [
        {
            "command": f"`sinefield {row['command']}`",
            "of": row["of"],
            "own": f"{row['own'] / 2**20:,.0f} MiB",
            "with mapped files": f"{row['peak'] / 2**20:,.0f} MiB",
        }
        for row in sorted(stored["rows"], key=lambda row: list(ROWS).index(row["command"]))
    ]
    text = f"""# Memory

The most that each command holds: its own, and with what is mapped from files (libraries, large sets of photographs),
which the system takes back where it needs room.

{table(list(rows[0]), rows, markdown=True)}

Made by `python scripts/tables/memory.py` ({stored["date"]}, {stored["threads"]} thread, Linux; 20 steps of training,
300 of the first shape; data of $SINEFIELD_DATA). Photographs take a byte a channel and pixel, and from 512 MiB on lie
in a file in the cache folder. A mesh of N³ takes 4 N³ bytes for values and 1,680 N² for the surface; what is
estimated above 3.5 GiB is refused, and the largest resolution that is not is named.
"""
    write_text(STORE.with_suffix(".md"), text)


def main() -> None:
    names = [name for name in sys.argv[1:] or ROWS if name != "tables"]
    if names[:1] == ["visit"]:
        return visit(sys.argv[2:])
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"unknown {unknown[0]}; one of {', '.join(ROWS)}")
    stored = json.loads(STORE.read_text()) if STORE.exists() else {"rows": []}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        write_text(runs / "scan.xyz", "".join(f"{x} {y} {z}\n" for x, y, z in sphere(1024)))
        for command in [*(["train"] if names and "train" not in names else []), *names]:  # the others need its runs
            for what, arguments in ROWS[command]:
                used, filled = run(command, arguments, runs)
                if "--resolution" in filled and "largest" in what:
                    what = f"shape, {filled[filled.index('--resolution') + 1]}³, the largest that is not refused"
                row = {"command": command, "of": what, "own": used.own, "peak": used.peak, "seconds": used.seconds}
                print(json.dumps(row, ensure_ascii=False), flush=True)
                fresh = [r for r in stored["rows"] if (r["command"], r["of"]) != (command, what)] + [row]
                stored = {"date": time.strftime("%Y-%m-%d"), "threads": threads(), "rows": fresh}
                write_text(STORE, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    write_tables()


def sphere(n: int) -> list[tuple[float, float, float]]:
    """Points on a unit sphere, along a spiral."""
    heights = [1 - (2 * i + 1) / n for i in range(n)]
    return [
        (math.cos(2.4 * i) * math.sqrt(1 - z * z), math.sin(2.4 * i) * math.sqrt(1 - z * z), z)
        for i, z in enumerate(heights)
    ]


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())


if __name__ == "__main__":
    main()
