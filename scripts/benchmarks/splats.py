"""Splats of a field judged by viewers that are not ours; docs/results/splats.md.

    npm install --prefix FOLDER three @sparkjsdev/spark @mkkellogg/gaussian-splats-3d
    python scripts/benchmarks/splats.py RUN --npm FOLDER [--count 50000] [--steps 1000] [--json]

RUN is a radiance run whose photographs have test views. A headless Chromium opens the exported .ply and .spz in Spark
and in GaussianSplats3D, as these come, and looks from the cameras of the test views. PSNR is against the photographs,
on the field's background; beside it is the field's own.
"""

import argparse
import base64
import functools
import http.server
import io
import json
import shutil
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sinefield.data.photographs.images import load_posed, reference
from sinefield.errors import SinefieldError
from sinefield.export.splat_files import ENDINGS
from sinefield.export.splats import splats_of, write_splats
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.tables import table

VIEWERS = {"spark": "Spark", "gs3d": "GaussianSplats3D"}
SLOWEST = 1200
"""Seconds that a picture may take: software draws it, beside other work."""
ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "splats.md"
sys.path.insert(0, str(ROOT / "tests"))

PAGE = """<!doctype html><body style="margin:0"><script type="importmap">{"imports": {
"three": "/node_modules/three/build/three.module.js", "three/addons/": "/node_modules/three/examples/jsm/",
"spark": "/node_modules/@sparkjsdev/spark/dist/spark.module.js",
"gs3d": "/node_modules/@mkkellogg/gaussian-splats-3d/build/gaussian-splats-3d.module.js"}}</script>
<script type="module">
import * as THREE from "three";
window.failed = null;
window.addEventListener("error", e => { window.failed = String(e.message); });
window.addEventListener("unhandledrejection", e => { window.failed = String(e.reason); });
const ask = new URLSearchParams(location.search);
const [width, height] = [Number(ask.get("w")), Number(ask.get("h"))];
const camera = new THREE.PerspectiveCamera(Number(ask.get("fov")), width / height, 0.01, 1000);
camera.matrixAutoUpdate = false;
const renderer = new THREE.WebGLRenderer({ antialias: false, preserveDrawingBuffer: true });
renderer.setPixelRatio(1);
renderer.setSize(width, height);
const ground = ask.get("ground").split(",").map(Number);
renderer.setClearColor(new THREE.Color().setRGB(...ground, THREE.LinearSRGBColorSpace), 1);
document.body.appendChild(renderer.domElement);
const rest = ms => new Promise(done => setTimeout(done, ms));
let frame;
if (ask.get("viewer") === "spark") {
  const { SplatMesh, SparkRenderer } = await import("spark");
  const scene = new THREE.Scene();
  scene.add(new SparkRenderer({ renderer }));
  const splats = new SplatMesh({ url: ask.get("file") });
  await splats.initialized;
  scene.add(splats);
  frame = () => renderer.render(scene, camera);
} else {
  const GS = await import("gs3d");
  const viewer = new GS.Viewer({ selfDrivenMode: false, useBuiltInControls: false, renderer, camera,
    sharedMemoryForWorkers: false, gpuAcceleratedSort: false, dynamicScene: false,
    sceneRevealMode: GS.SceneRevealMode.Instant, sphericalHarmonicsDegree: 2, rootElement: document.body });
  const plain = { showLoadingUI: false, progressiveLoad: false, splatAlphaRemovalThreshold: 1 };
  await viewer.addSplatScene(ask.get("file"), plain);
  frame = () => { viewer.update(); viewer.render(); };
}
window.look = async pose => {
  camera.matrix.fromArray(pose);
  camera.matrixWorldNeedsUpdate = true;
  camera.matrix.decompose(camera.position, camera.quaternion, camera.scale);
  camera.updateMatrixWorld(true);
  // Splats are sorted beside the page: until two pictures are the same, and for a while at least.
  let last = "";
  for (let i = 0; i < 20; i++) {
    frame();
    await rest(60);
    frame();
    const now = renderer.domElement.toDataURL("image/png");
    if (i > 4 && now === last) break;
    last = now;
  }
  window.picture = last;
};
window.ready = true;
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, quietly."""

    def log_message(self, *_):
        pass


def judged(browser, url: str, poses: np.ndarray, wait_for) -> list[np.ndarray]:
    """What a viewer shows from each pose, (h, w, 3) in [0, 1]."""
    browser.open(url)
    wait_for(lambda: browser.ask("window.ready || window.failed"))
    if problem := browser.ask("window.failed"):
        raise SinefieldError(f"the viewer did not open the file: {problem}")
    pictures = []
    for pose in poses:
        whole = np.concatenate([pose, [[0, 0, 0, 1]]]).T.ravel().tolist()
        browser.ask(f"window.picture = null; window.look({json.dumps(whole)}); 0")
        data = wait_for(lambda: browser.ask("window.picture"), SLOWEST)
        with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as image:
            pictures.append(np.asarray(image.convert("RGB")) / 255)
    return pictures


def psnr(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(given - wanted).mean()))


def main() -> None:
    from browser import Browser, wait_for

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--npm", required=True, help="where npm has installed the viewers")
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--views", type=int, default=25, help="test views to look from, evenly chosen")
    parser.add_argument("--viewers", nargs="+", choices=list(VIEWERS), default=list(VIEWERS))
    parser.add_argument("--keep", type=Path, help="folder of the splats, which are taken from there if it holds them")
    parser.add_argument("--pictures", help="folder for what the viewers show")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SinefieldError("no Chromium on this machine; install the package chromium")
    config = Run(options.run).config()
    scene = load_posed(config.data.path, config.data.downscale, config.data.aabb, config.data.holdout, splits=("test",))
    assert scene.test is not None
    field = load_field(options.run)[0]
    ground = field.background.tolist()
    chosen = np.linspace(0, len(scene.test.cameras) - 1, options.views).round().astype(int).tolist()
    cameras = scene.test.cameras[chosen]
    photographs = [reference(scene.test.images[i], ground).numpy() / 255 for i in chosen]
    rows, folder = [], (options.keep or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    own = []
    for i in range(len(chosen)):
        colours = field.render(*cameras.view(i)).over(field.background).clamp(0, 1)
        own.append(psnr(colours.numpy().reshape(photographs[i].shape), photographs[i]))
    note = folder / "splats.json"
    if note.exists():
        made = json.loads(note.read_text())
    else:
        begin, cpu = time.perf_counter(), time.process_time()
        splats, report = splats_of(options.run, options.count, options.steps)
        made = {"splats": report["splats"], "seconds": [time.perf_counter() - begin, time.process_time() - cpu]}
        for ending in ENDINGS:
            write_splats(folder / f"splats{ending}", splats)
        note.write_text(json.dumps(made))
    (folder / "page.html").write_text(PAGE)
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(Path(options.npm).resolve() / "node_modules")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fov = np.degrees(2 * np.arctan(cameras.height / 2 / float(cameras.focal[0, 1])))
    base = f"http://127.0.0.1:{server.server_port}/page.html?w={cameras.width}&h={cameras.height}&fov={fov}"
    browser = Browser(program, Path(tempfile.mkdtemp()))
    try:
        for viewer, name in ((viewer, VIEWERS[viewer]) for viewer in options.viewers):
            for file in ("splats.ply", "splats.spz"):
                url = f"{base}&viewer={viewer}&file=/{file}&ground={','.join(map(str, ground))}"
                seen = judged(browser, url, cameras.c2w.numpy(), wait_for)
                found = float(np.mean([psnr(a, b) for a, b in zip(seen, photographs, strict=True)]))
                rows.append({"viewer": name, "file": file[-4:], "bytes": (folder / file).stat().st_size, "psnr": found})
                print(rows[-1], flush=True)
                if options.pictures:
                    Path(options.pictures).mkdir(parents=True, exist_ok=True)
                    both = np.concatenate([seen[0], photographs[0]], 1)
                    Image.fromarray((both * 255).astype(np.uint8)).save(f"{options.pictures}/{viewer}{file[-4:]}.png")
    finally:
        browser.close()
        server.shutdown()
    result = {
        "run": Path(options.run).name,
        "trained": f"{config.training.seconds:g} s"
        if config.training.steps is None
        else f"{config.training.steps:,} steps",
        "encoding": config.field.encoding,
        "size": [cameras.width, cameras.height],
        "views": len(chosen),
        "field_psnr": float(np.mean(own)),
        "splats": made["splats"],
        "steps": options.steps,
        "seconds": made["seconds"],
        "rows": rows,
    }
    write_page(result)
    if options.json:
        print(json.dumps(result))


def write_page(result: dict[str, Any]) -> None:
    own = result["field_psnr"]
    rows = [
        {"viewer": row["viewer"], "file": row["file"], "bytes": row["bytes"], "PSNR (dB)": row["psnr"]}
        | {"against the field": f"{row['psnr'] - own:+.2f}"}
        for row in result["rows"]
    ]
    command = (
        f"python scripts/benchmarks/splats.py RUN --npm FOLDER --count {result['splats']} --steps {result['steps']}"
    )
    width, height = result["size"]
    wall, cpu = result["seconds"]
    about = f"{result['encoding']} encoding, {result['trained']}"
    text = f"""# Splats, judged by viewers that are not ours

`{command}`, {date.today()}, {describe_machine()["cpu"]}.

Run `{result["run"]}` ({about}): {own:.2f} dB by itself on {result["views"]} test views of {width}×{height}.
{result["splats"]:,} splats, fitted in {wall:.0f} s ({cpu:.0f} CPU s). PSNR is against the photographs.

{table(list(rows[0]), rows, markdown=True)}
"""
    write_text(OUT, text)


if __name__ == "__main__":
    main()
