"""The gallery: twelve small fields of data that may be shown; docs/gallery/, docs/gallery.md and the README's row.

    python scripts/gallery.py                 all of them: about five minutes of one core
    python scripts/gallery.py chair vase      some of them; the others stay as they are
    python scripts/gallery.py page            only write the page anew

Each field is made by two commands, which stand below it. Seeds are 0 and trainings count steps, so that one machine
makes the same files again. Seconds are of processor time, for both commands, with reading, sampling and scoring.
"""

import contextlib
import html
import io
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import sinefield as sf
from sinefield.commands.cli import main as sinefield
from sinefield.files import write_text
from sinefield.machine import describe_machine

ROOT = Path(__file__).parents[1]
OUT, WORK = ROOT / "docs" / "gallery", ROOT / "runs" / "gallery"
STORE = OUT / "gallery.json"
POSTER = 240  # pixels
SHAPE = "--training.batch 2048 --data.points 60000"
SMALL = f"{SHAPE} --field.width 48 --field.rank 8 --training.steps 400"
LARGE = f"{SHAPE} --field.width 64 --field.rank 12 --training.steps 500"
PICTURE = "--training.steps 300"
LONGER = "--training.batch 8192 --data.points 200000"


class Entry(NamedTuple):
    """One field: what it shows, where its data come from, how it is trained and packed."""

    title: str
    source: str
    data: Callable[[], str]
    train: str
    max_bytes: int
    steps: int


def family(name: str, seed: int, coloured: bool = False) -> Callable[[], str]:
    """Makes a mesh of a procedural family; with stripes by height if it is coloured."""

    def make() -> str:
        import trimesh
        from skimage.measure import marching_cubes

        from sinefield.data.made.families import make_shape

        shape = make_shape(name, seed)
        reach, step = np.array(shape.reach), 0.015
        axes = [np.arange(-r - 2 * step, r + 3 * step, step) for r in reach]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        values = shape.implicit(grid.reshape(-1, 3)).reshape(grid.shape[:3])
        corners, faces, *_ = marching_cubes(values, 0.0, spacing=(step,) * 3)
        mesh = trimesh.Trimesh(corners + grid[0, 0, 0], faces[:, ::-1])
        if mesh.volume < 0:
            mesh.invert()
        if coloured:
            height = (mesh.vertices[:, 2] - mesh.bounds[0, 2]) / np.ptp(mesh.bounds[:, 2])
            bands = np.array([[196, 78, 52], [238, 196, 104], [40, 96, 120], [236, 228, 210]])
            mesh.visual.vertex_colors = bands[(height * 7.999).astype(int) % 4].astype(np.uint8)
        mesh.vertices = mesh.vertices[:, [0, 2, 1]] * (1, 1, -1)  # z up becomes y up, as pages look at shapes
        path = WORK / f"{name}.ply"
        mesh.export(path)
        return str(path.relative_to(ROOT))

    return make


def terrain() -> str:
    """Waves whose height falls with their number: a surface without an inside."""
    import trimesh

    side = 128
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    rng = np.random.default_rng(0)
    height = np.zeros_like(x)
    for octave in range(1, 6):
        for _ in range(4):
            a, b, phase = *rng.normal(0, 1.6 * octave, 2), rng.uniform(0, 2 * np.pi)
            height += np.sin(a * x + b * y + phase) * 0.11 / octave**1.3
    corner = np.arange(side * side).reshape(side, side)
    a, b, c, d = corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, c, b), (a, d, c))])
    path = WORK / "terrain.ply"
    trimesh.Trimesh(np.stack([x, height, y], -1).reshape(-1, 3), faces, process=False).export(path)
    return str(path.relative_to(ROOT))


def knot() -> str:
    """The demo's shape."""
    from sinefield.data.made.procedural import demo_shape

    path = WORK / "knot.ply"
    demo_shape().export(path)
    return str(path.relative_to(ROOT))


OWN, CC0 = "made here, by a formula", "CC0"
ENTRIES = {
    "knot": Entry(
        "Knot", "the demo's shape", knot,
        f"{LONGER} --field.width 64 --field.rank 12 --training.steps 1500", 3500, 800,
    ),
    "chair": Entry(
        "Chair", OWN, family("chair", 3),
        f"{LONGER} --field.width 48 --field.rank 8 --training.steps 800", 2500, 600,
    ),
    "vase": Entry("Vase, with colours", OWN, family("vase", 1, True), SMALL, 4000, 150),
    "gear": Entry("Gear", OWN, family("gear", 2), LARGE, 3500, 200),
    "assembly": Entry("Assembly of solids", OWN, family("assembly", 5), SMALL, 2500, 150),
    "blob": Entry("Blob", OWN, family("blob", 4), SMALL, 1500, 150),
    "terrain": Entry("Terrain, an open sheet", OWN, terrain, SMALL, 3000, 150),
    "coffee": Entry(
        "Coffee", f"Rachel Michetti, {CC0}", lambda: "skimage:coffee.png",
        f"--data.downscale 2 --field.width 80 --field.weights sine {PICTURE}", 7000, 150,
    ),
    "chelsea": Entry(
        "Chelsea", f"Stéfan van der Walt, {CC0}", lambda: "skimage:chelsea.png",
        "--data.downscale 2 --field.width 80 --field.weights sine --training.steps 600", 7000, 400,
    ),
}  # fmt: skip
EXAMPLES = {
    "spot": Entry("Spot", "Keenan Crane, public domain", str, "", 0, 0),
    "toys": Entry("Toys, from photographs", "the demo's scene", str, "", 0, 0),
    "picture": Entry("Eileen Collins", "NASA, public domain", str, "", 0, 0),
}
"""Fields that the package brings: they are not made again."""
ALL = {**ENTRIES, **EXAMPLES}


def run(line: str) -> dict[str, Any]:
    """Run a line of the command line, without `sinefield`; what --json prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = sinefield([*shlex.split(line), "--json"])
    if code:
        raise SystemExit(f"sinefield {line}: exit code {code}")
    return json.loads(told.getvalue().splitlines()[-1])


def described(field: sf.Field, place: Path) -> dict[str, Any]:
    """Draw a field; what the page says of any."""
    picture = field.image(POSTER) if field.kind == "image" else field.render(width=POSTER, height=POSTER)
    Image.fromarray(picture).save(place, quality=75, method=6)
    score = next(key for key in ("psnr", "iou", "shell_iou") if key in field.scores)
    sizes = {"kind": field.kind, "bytes": field.nbytes, "params": field.params}
    return {**sizes, "score": score, "value": field.scores[score], "date": time.strftime("%Y-%m-%d")}


def bring(name: str) -> dict[str, Any]:
    """A field of the package."""
    row = described(sf.load(f"example:{name}"), OUT / f"{name}.webp")
    return {**row, "commands": [f"python scripts/make_examples.py --only {name}"]}


def make(name: str) -> dict[str, Any]:
    """Train, pack and draw one field; what the page says of it."""
    entry = ENTRIES[name]
    data, place = entry.data(), WORK.relative_to(ROOT) / name
    lines = [
        f"train {shlex.quote(data)} --out {place} {entry.train}",
        f"pack {place} docs/gallery/{name}.sine --max-bytes {entry.max_bytes} --steps {entry.steps}",
    ]
    start = time.process_time()
    reports = [run(f"{line} --overwrite") for line in lines]
    seconds = time.process_time() - start
    return {
        **described(sf.load(OUT / f"{name}.sine"), OUT / f"{name}.webp"),
        "steps": reports[0]["steps"],
        "cpu_seconds": round(seconds, 1),
        "commands": [f"sinefield {line}" for line in lines],
        "cpu": describe_machine()["cpu"],
    }


def said(row: dict[str, Any]) -> str:
    """Bytes, score and seconds of a field in one line."""
    names = {"psnr": "PSNR", "iou": "IoU", "shell_iou": "IoU of the shell"}
    value = f"{row['value']:.2f} dB" if row["score"] == "psnr" else f"{row['value']:.4f}"
    seconds = f" · {row['cpu_seconds']:.0f} s" if "cpu_seconds" in row else ""
    return f"{row['bytes']:,} bytes · {names[row['score']]} {value}{seconds}"


def figure(name: str, row: dict[str, Any]) -> str:
    """A field in the page. Where no script runs, as on GitHub, its picture is shown."""
    entry, source = ALL[name], f"example:{name}" if name in EXAMPLES else f"gallery/{name}.sine"
    alt = html.escape(f"{entry.title}, a field of {row['bytes']:,} bytes")
    commands = "".join(f"<code>{html.escape(line)}</code>" for line in row["commands"])
    return (
        f'<figure><sine-field src="{source}" poster="gallery/{name}.webp" alt="{alt}" camera-controls>'
        f'<img src="gallery/{name}.webp" alt="{alt}"></sine-field>\n'
        f"<figcaption><b>{entry.title}</b> ({entry.source})<br>{said(row)}{commands}</figcaption></figure>"
    )


def write_page(rows: dict[str, Any]) -> None:
    """docs/gallery.md, and the row of pictures in README.md."""
    machines, dates = (
        sorted({row["cpu"] for row in rows.values() if "cpu" in row}),
        sorted({row["date"] for row in rows.values()}),
    )
    total = sum(row["bytes"] for row in rows.values())
    figures = "\n".join(figure(name, row) for name, row in rows.items())
    text = (
        f"# Gallery\n\n{len(rows)} fields, {total:,} bytes in all, drawn by your browser. Drag to turn them. Seconds "
        "are of processor time for\nboth commands, with reading, sampling and scoring.\n\n"
        f'<div class="gallery">\n{figures}\n</div>\n\n'
        f"Made by `python scripts/gallery.py`, seed 0, {', '.join(machines)}, one thread, {', '.join(dates)}. "
        "The script also makes\nthe meshes and photographs that the commands name in `runs/gallery/`. Trainings are "
        "short:\n[results](results/README.md) says what longer ones reach.\n"
    )
    write_text(ROOT / "docs" / "gallery.md", text)
    chosen = [name for name in ("chair", "vase", "gear", "terrain", "toys", "chelsea") if name in rows]
    images = "\n".join(
        f'<img src="docs/gallery/{name}.webp" width="120" alt="{html.escape(ALL[name].title)}">' for name in chosen
    )
    sizes = ", ".join(f"{ALL[name].title.split(',')[0].lower()} {rows[name]['bytes']:,}" for name in chosen)
    row = f"{images}\n\nBytes: {sizes}. All {len(rows)} of them, live: [gallery](docs/gallery.md).\n"
    readme = ROOT / "README.md"
    head, begin, rest = readme.read_text().partition("<!-- gallery -->\n")
    _, end, tail = rest.partition("<!-- /gallery -->")
    write_text(readme, head + begin + row + end + tail)


def main() -> None:
    names = [name for name in sys.argv[1:] or ALL if name != "page"]
    if unknown := [name for name in names if name not in ALL]:
        raise SystemExit(f"unknown {unknown[0]}; one of {', '.join(ALL)}")
    for folder in (OUT, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    for name in names:
        stored[name] = bring(name) if name in EXAMPLES else make(name)
        print(name, said(stored[name]), flush=True)
        write_text(STORE, json.dumps({k: stored[k] for k in ALL if k in stored}, indent=1, ensure_ascii=False) + "\n")
    write_page({name: stored[name] for name in ALL if name in stored})


if __name__ == "__main__":
    main()
