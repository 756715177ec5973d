"""Pages that draw a field: their bytes, and their pictures beside Python's.

    python scripts/benchmarks/page.py [--json] [--out docs/results/page]

Bytes are those of `sinefield page`. The exact picture is drawn by Node.js (the page's own code, WASM with SIMD) and by
Python, both at 200×200 on one thread; processor time is the least of three. The moving picture is Chromium's, by WebGL
from voxels, in software where there is no graphics processor: its decibels count, its time does not. Writes OUT.json
and OUT.md unless --json alone is wanted.
"""

import argparse
import json
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
from sinefield.example_files import example
from sinefield.export.field_page import write_page
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.store.fields import load_field

WEB = Path(sinefield.__file__).parent / "web"
TESTS = Path(__file__).parents[2] / "tests"
SIDE, TIMES, TURN = 200, 3, 1
KEPT = ("kind", "bytes", "gzip_bytes", "code_gzip_bytes", "field_bytes")
QUICK = """(() => {
  const e = document.querySelector("sine-field"), q = e.player?.quick;
  if (e.player) e.player.exactly = () => {};
  if (!q?.ready || q.size < %d) return null;
  const camera = %s;
  const canvas = Object.assign(document.createElement("canvas"), camera), context = canvas.getContext("2d");
  q.draw(camera, context);
  return Array.from(context.getImageData(0, 0, camera.width, camera.height).data);
})()"""


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


def moving(picture, camera, folder):
    """Decibels of WebGL's picture from 64³ and 128³ voxels; {} without Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return {}
    sys.path.insert(0, str(TESTS))
    from browser import Browser, wait_for

    out = folder / "toys.html"
    write_page("example:toys", out)
    text = out.read_text(encoding="utf-8").replace("<sine-field ", '<sine-field webgl="always" ')
    out.write_text(text, encoding="utf-8")
    browser = Browser(program, folder / "profile", (300, 300))
    try:
        browser.open(out.as_uri())
        found = {}
        for size in (64, 128):
            pixels = wait_for(lambda size=size: browser.ask(QUICK % (size, json.dumps(camera))))
            found[f"moving_{size}_db"] = psnr(np.array(pixels).reshape(-1, 4)[:, :3] / 255, picture)
        return found
    finally:
        browser.close()


def measure():
    torch.set_num_threads(1)
    report = {"machine": describe_machine(), "side": SIDE, "pages": {}}
    picture, camera, report["python_seconds"], background = python_picture()
    report["exact_db"], report["exact_seconds"] = exact(picture, camera, background)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in ("toys", "spot", "knot", "picture"):
            made = write_page(f"example:{name}", Path(folder) / f"{name}_.html")
            report["pages"][name] = {k: made[k] for k in KEPT}
        report |= moving(picture, camera, Path(folder))
    return report


def table(report):
    rows = ["| page | kind | field | page | gzipped | of it code |", "|---|---|---|---|---|---|"]
    for name, p in report["pages"].items():
        sizes = (f"{p[k]:,}" for k in ("field_bytes", "bytes", "gzip_bytes", "code_gzip_bytes"))
        rows.append(f"| {name} | {p['kind']} | {' | '.join(sizes)} |")
    ratio = report["exact_seconds"] / report["python_seconds"]
    lines = [
        "# Pages that draw a field",
        "",
        "`python scripts/benchmarks/page.py`; fields are the package's examples, nothing is random.",
        f"Machine: {report['machine']}. Bytes:",
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
    lines += [
        f"| moving, WebGL, {n}³ voxels | {report[f'moving_{n}_db']} | in software here: not measured |"
        for n in (64, 128)
        if f"moving_{n}_db" in report
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
