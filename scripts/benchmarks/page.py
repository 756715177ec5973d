"""Pages that draw a field: their bytes, and their pictures beside Python's.

    python scripts/benchmarks/page.py [--json] [--out docs/results/page]

Bytes are those of `sinefield page`. The exact picture is drawn by Node.js (the page's own code, WASM with SIMD) and by
Python, both at 200×200 on one thread; processor time is the least of ten. The moving picture is Chromium's, by WebGL
from voxels, in software where there is no graphics processor: its decibels count, its time does not. The photographs
are four views of the demo's scene that the field was not trained on. From open to first pictures: time by the page's
clock, and processor time of the page's process, without that of WebGL, of a page that nothing else is asked of. Writes
OUT.json and OUT.md unless --json alone is wanted.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import sinefield
from sinefield.cameras.orbits import Orbit
from sinefield.data.made.synthetic import synthesize
from sinefield.data.photographs.images import load_posed
from sinefield.example_files import example
from sinefield.export.field_page import write_page
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.store.fields import load_field

WEB = Path(sinefield.__file__).parent / "web"
TESTS = Path(__file__).parents[2] / "tests"
SIDE, TIMES, TURN = 200, 10, 1
KEPT = ("kind", "bytes", "gzip_bytes", "code_gzip_bytes", "field_bytes")
SIZES, PHOTOGRAPHS, CORES = (64, 128, 192), 4, 4
TICKS = os.sysconf("SC_CLK_TCK")
WATCH = """
Object.defineProperty(navigator, "hardwareConcurrency", { get: () => CORES });
window.seen = {};
document.addEventListener("DOMContentLoaded", () => {
  const e = document.querySelector("sine-field"), picture = (camera) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: camera.width, height: camera.height });
    e.player.quick.draw(camera, canvas.getContext("2d"));
    return Array.from(canvas.getContext("2d").getImageData(0, 0, camera.width, camera.height).data);
  };
  e.addEventListener("draw", () => (seen.first ??= { at: performance.now() }));
  setInterval(() => {
    const size = e.player?.quick?.size;
    if (size && !seen[size]) seen[size] = { at: performance.now(), pictures: CAMERAS.map(picture) };
  }, 10);
});
""".replace("CORES", str(CORES))
"""As on a machine that has the cores for the finest voxels."""


NOTES = (
    "Voxels hold values at their nodes, and pictures interpolate linearly, which cuts every bend on its hollow side.",
    "So nodes are moved out by a twelfth of their second differences (quasi-interpolation by linear B-splines).",
    "With the values as they are it was 32.5, 40.2 and 45.8 dB against Python, and 3.2, 0.65 and 0.15 dB less against",
    "photographs.",
    "",
    "The machine was busy when the times were measured (a load of ten on two cores). That slows Python's picture more",
    "than the page's: at a load of one they took 0.14 and 0.23 s, 1.7 times Python's.",
)
"""What was tried, with the figures of before."""


def psnr(a, b):
    return round(float(-10 * np.log10(np.mean((np.asarray(a) - np.asarray(b)) ** 2))), 2)


def python_picture():
    """The demo's scene by Python: picture, its camera for JavaScript, and processor seconds."""
    field, _ = load_field("example:toys")
    cameras = Orbit.of(field.view).cameras(8, (SIDE, SIDE))
    rays, seconds = cameras.view(TURN), []
    for _ in range(TIMES + 1):  # the first compiles
        begin = time.process_time()
        pixels = field.render(*rays)
        seconds.append(time.process_time() - begin)
    camera = {"pose": cameras.c2w[TURN].flatten().tolist(), "focal": float(cameras.focal[TURN, 0])}
    picture = pixels.over(field.background).clamp(0, 1).numpy()
    return picture, {**camera, "width": SIDE, "height": SIDE}, min(seconds[1:]), field.background.numpy()


def photographs(folder):
    """Views of the demo's scene that the field was not trained on: photographs, Python's pictures, cameras."""
    synthesize(folder / "demo", n_train=1, n_val=0, n_test=PHOTOGRAPHS, resolution=SIDE)
    views = load_posed(folder / "demo", splits=("test",)).scored_views
    field, _ = load_field("example:toys")
    found = []
    every = views.pixels.float().view(PHOTOGRAPHS, SIDE, SIDE, 4).numpy() / 255  # premultiplied
    for i in range(PHOTOGRAPHS):
        photograph = every[i, ..., :3] + (1 - every[i, ..., 3:]) * field.background.numpy()
        picture = field.render(*views.cameras.view(i)).over(field.background).clamp(0, 1).numpy()
        pose, focal = views.cameras.c2w[i].flatten().tolist(), float(views.cameras.focal[i, 0])
        camera = {"pose": pose, "focal": focal, "width": SIDE, "height": SIDE}
        found.append((photograph, picture.reshape(photograph.shape), camera))
    return found


def exact(picture, camera, background):
    """Decibels and processor seconds of the page's exact picture."""
    found = []
    for _ in range(TIMES):
        told = json.dumps([{"file": str(example("toys")), "camera": camera, "repeat": 2}])
        command = ["node", str(TESTS / "web" / "ask.mjs"), str(WEB / "src" / "index.js")]
        done = subprocess.run(command, input=told, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout)[0])
    colours, opacities = np.array(found[0]["colours"]).reshape(-1, 3), np.array(found[0]["opacities"])
    return psnr(colours + (1 - opacities)[:, None] * background, picture), min(f["seconds"] for f in found)


def page_seconds(folder):
    """Processor time so far of the processes that run the page of a profile."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = (stat.parent / "cmdline").read_bytes()
            if b"--type=renderer" in words and str(folder).encode() in words:
                total += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue  # it has ended
    return total / TICKS


def moving(picture, camera, folder):
    """Decibels of WebGL's pictures from voxels, and when the first came; {} without Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return {}
    sys.path.insert(0, str(TESTS))
    import browser as driver

    driver.PATIENCE = 900.0  # WebGL in software, on a machine that may have much else to do
    out = folder / "toys.html"
    write_page("example:toys", out)
    text = out.read_text(encoding="utf-8").replace("<sine-field ", '<sine-field webgl="always" ')
    out.write_text(text, encoding="utf-8")
    views = photographs(folder)
    found = {"photographs_db": mean_psnr([(v[1], v[0]) for v in views])}
    told = watched(program, out, folder / "times", [])
    found["first_ms"] = round(told["first"]["at"])
    for size in SIZES:
        found |= {f"page_seconds_{size}": told[size]["seconds"], f"voxels_{size}_ms": round(told[size]["at"])}
    told = watched(program, out, folder / "pictures", [camera, *(view[2] for view in views)])
    for size in SIZES:
        pixels = np.array(told[size]["pictures"], float) / 255
        pixels = pixels.reshape(len(views) + 1, SIDE, SIDE, 4)[..., :3]
        found[f"moving_{size}_db"] = psnr(pixels[0].reshape(picture.shape), picture)
        found[f"lost_{size}_db"] = round(
            found["photographs_db"] - mean_psnr([(p, v[0]) for p, v in zip(pixels[1:], views, strict=True)]), 2
        )
    return found


def watched(program, page, profile, cameras):
    """When a page had its first picture, and voxels of each size, by clock and processor time; pictures of them."""
    from browser import Browser, wait_for

    told, browser = {}, Browser(program, profile, (500, 400))
    try:
        browser.do("Page.addScriptToEvaluateOnNewDocument", source=WATCH.replace("CAMERAS", json.dumps(cameras)))
        before = page_seconds(profile)
        browser.open(page.as_uri())
        for size in SIZES:
            wait_for(lambda size=size: browser.ask(f"!!window.seen?.[{size}]"), 900)
            seconds = round(page_seconds(profile) - before, 2)
            told[size] = browser.ask(f"seen[{size}]") | {"seconds": seconds}
        return told | {"first": browser.ask("seen.first")}
    finally:
        browser.close()


def mean_psnr(pairs):
    return round(float(np.mean([psnr(a, b) for a, b in pairs])), 2)


def measure():
    torch.set_num_threads(1)
    report = {"machine": describe_machine(), "side": SIDE, "pages": {}}
    picture, camera, report["python_seconds"], background = python_picture()
    report["exact_db"], report["exact_seconds"] = exact(picture, camera, background)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in ("toys", "spot", "knot", "picture", "mesh"):
            source = str(TESTS / "golden" / "mesh.sine") if name == "mesh" else f"example:{name}"
            made = write_page(source, Path(folder) / f"{name}_.html")
            report["pages"][name] = {k: made[k] for k in KEPT}
        report |= moving(picture, camera, Path(folder))
    return report


def table(report):
    rows = ["| page | kind | field | page | gzipped | of it code |", "|---|---|---|---|---|---|"]
    for name, p in report["pages"].items():
        sizes = (f"{p[k]:,}" for k in ("field_bytes", "bytes", "gzip_bytes", "code_gzip_bytes"))
        rows.append(f"| {name} | {p['kind']} | {' | '.join(sizes)} |")
    ratio = report["exact_seconds"] / report["python_seconds"]
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [
        "# Pages that draw a field",
        "",
        "`python scripts/benchmarks/page.py`; fields are the package's examples, nothing is random.",
        f"Machine: {machine}; other work ran beside. Bytes:",
        "",
        *rows,
        "",
        f"The demo's scene (`example:toys`) at {SIDE}×{SIDE}, one thread, against Python's picture:",
        "",
        "| picture | dB against Python | processor time |",
        "|---|---|---|",
        f"| Python | | {report['python_seconds']:.2f} s |",
        f"| exact, WASM | {report['exact_db']} | {report['exact_seconds']:.2f} s, {ratio:.1f} times Python's |",
    ]
    if "photographs_db" not in report:
        return "\n".join(lines) + "\n"
    lines += [
        f"| moving, WebGL, {n}³ voxels | {report[f'moving_{n}_db']} | in software here: not measured |" for n in SIZES
    ]
    lost = ", ".join(f"{report[f'lost_{n}_db']} dB less at {n}³" for n in SIZES)
    score = report["photographs_db"]
    lines += [
        "",
        f"Against {PHOTOGRAPHS} photographs that it was not trained on: exact {score} dB; from voxels {lost}.",
    ]
    lines += ["", *NOTES, "", "From open to picture, a page of 500×400 pixels, WebGL in software:", ""]
    lines += ["| picture | by the clock | processor time of the page |", "|---|---|---|"]
    lines += [f"| first, exact, with few pixels | {report['first_ms'] / 1000:.2f} s | |"]
    lines += [
        f"| from {n}³ voxels | {report[f'voxels_{n}_ms'] / 1000:.2f} s | {report[f'page_seconds_{n}']:.2f} s |"
        for n in SIZES
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and write nothing")
    parser.add_argument("--out", default="docs/results/page")
    options = parser.parse_args()
    report = measure()
    if options.json:
        print(json.dumps(report))
        return
    write_text(f"{options.out}.json", json.dumps(report, indent=1) + "\n")
    write_text(f"{options.out}.md", table(report))
    print(table(report))


if __name__ == "__main__":
    main()
