"""A newcomer's walk with a stopwatch: installation, first look, own mesh, a page on a phone; docs/results/walk.*

    python scripts/walk.py [--mesh spot.obj] [--seconds 20] [--no-install] [--browser chromium]

Installs the package as the README says into a fresh environment in a temporary folder, and then types what a new user
would type, each a process of its own. Wall-clock time is what a person waits; processor time is of the process and its
children. --no-install walks in the environment that runs this script, and keeps the row of an earlier installation.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sinefield.config import data_folder
from sinefield.files import write_text
from sinefield.machine import describe_machine

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "results" / "walk.json"
PHONE = (390, 844)
PICTURE = """import sinefield as sf
from PIL import Image
Image.fromarray(sf.load("example:knot").render()).save("knot.png")"""
ASK = """import sinefield as sf
print(sf.load("example:knot").sdf([[0.5, 0.2, 0.1]], gradient=True))"""


def timed(label: str, shown: str, command: list[str], folder: Path, **environment: str) -> dict[str, Any]:
    """Run a command; what the table says of it."""
    print(f"{label}: {shown}", flush=True)
    used, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    unset = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or environment.get("keep")}
    done = subprocess.run(command, cwd=folder, env=unset, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{shown}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {"step": label, "command": shown, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def install(folder: Path) -> tuple[dict[str, Any], Path]:
    """A fresh environment as the README says; its row, and the folder of its programs."""
    source = folder / "source"
    source.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    line = "python3 -m venv .venv && .venv/bin/pip install -c .ci/constraints.txt -e ."
    row = timed("install", line, ["bash", "-c", line.replace("python3", shlex.quote(sys.executable), 1)], source)
    sizes = {
        path.name: size_of(path) for path in next((source / ".venv/lib").iterdir()).joinpath("site-packages").iterdir()
    }
    largest = sorted(sizes, key=lambda name: -sizes[name])[:6]
    row |= {"bytes": sum(sizes.values()), "largest": {name: sizes[name] for name in largest}}
    return row, source / ".venv" / "bin"


def commands(mesh: Path, seconds: int) -> list[tuple[str, str, list[str]]]:
    """What a new user types: step, command line as shown, its words."""
    lines = [
        ("first look", "sinefield info example:knot"),
        ("first look", "sinefield page example:toys toys.html"),
        ("own mesh", f"sinefield train {mesh.name} --max-bytes 4000 --training.seconds {seconds}"),
        ("own mesh", f"sinefield mesh runs/{mesh.stem}.sine out.glb"),
        ("own mesh", f"sinefield page runs/{mesh.stem} {mesh.stem}.html"),
    ]
    return [(step, line, shlex.split(line)) for step, line in lines]


def on_a_phone(page: Path, program: str, folder: Path) -> dict[str, Any]:
    """Open a page from disk on a small screen; how long until the field is drawn, and whether it fits."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import Browser, wait_for

    begin = time.perf_counter()
    browser = Browser(program, folder)
    try:
        screen = {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True}
        browser.do("Emulation.setDeviceMetricsOverride", **screen)
        opened = time.perf_counter()
        browser.open(page.as_uri())
        wait_for(lambda: browser.ask("document.querySelector('sine-field')?.field?.kind"))
        wait_for(lambda: browser.picture().std() > 5)
        drawn, width = time.perf_counter(), browser.ask("document.documentElement.scrollWidth")
    finally:
        browser.close()
    return {
        "step": f"page, {PHONE[0]}×{PHONE[1]}",
        "command": f"{page.name} in Chromium, from disk",
        "seconds": round(drawn - opened, 1),
        "starting_seconds": round(opened - begin, 1),
        "page_width": width,
    }


def walk(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All steps in a folder."""
    rows = []
    if options.install:
        row, programs = install(folder)
        rows.append(row)
    else:
        rows += (
            [row for row in json.loads(STORE.read_text())["rows"] if row["step"] == "install"] if STORE.exists() else []
        )
        programs = Path(sys.executable).parent
    keep = {} if options.install else {"keep": "yes"}
    here = folder / "here"
    here.mkdir()
    shutil.copy(options.mesh, here)
    python, program = [str(programs / "python"), "-c"], str(programs / "python")
    rows.append(timed("first look", 'Python: sf.load("example:knot").sdf(…)', [*python, ASK], here, **keep))
    rows.append(timed("first look", 'Python: sf.load("example:knot").render()', [*python, PICTURE], here, **keep))
    for step, shown, words in commands(options.mesh, options.seconds):
        rows.append(timed(step, shown, [program, "-m", *words], here, **keep))
    if options.browser:
        (folder / "profile").mkdir()
        rows.append(on_a_phone(here / f"{options.mesh.stem}.html", options.browser, folder / "profile"))
    return rows


def text_of(found: dict[str, Any]) -> str:
    """docs/results/walk.md."""
    machine, rows = found["machine"], found["rows"]
    lines = "\n".join(
        f"| {row['step']} | `{row['command']}` | {row['seconds']:,.1f} | {row.get('cpu_seconds', '')} |" for row in rows
    )
    installed = next((row for row in rows if "bytes" in row), None)
    size = ""
    if installed:
        parts = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in installed["largest"].items())
        size = f"\nThe environment takes {installed['bytes'] / 1e6:,.0f} MB; of it {parts}.\n"
    page = next((row for row in rows if "page_width" in row), None)
    fits = f"\nThe page is {page['page_width']} pixels wide on that screen: nothing is cut off.\n" if page else ""
    return (
        "# A newcomer's walk\n\nWhat a new user types, each a process of its own, by `python scripts/walk.py`. Seconds "
        "are of waiting; processor seconds\nare of the command and its children.\n\n"
        f"| step | command | seconds | processor seconds |\n|---|---|---:|---:|\n{lines}\n{size}{fits}\n"
        f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, Python {machine['python']}, "
        f"{found['date']}; load average {found['load'][0]:.1f} at the start\nand {found['load'][1]:.1f} at the end: on "
        "an idle machine seconds of waiting are fewer. Kernels of numba were "
        f"{'compiled anew' if found['fresh_kernels'] else 'stored already'}.\n\n"
        "Not walked: own photographs, a fleet of 20, an adapter on SmolLM2.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", type=Path, default=data_folder() / "meshes" / "spot.obj")
    parser.add_argument("--seconds", type=int, default=20, help="training time of the own mesh")
    parser.add_argument("--no-install", dest="install", action="store_false")
    parser.add_argument("--browser", default=shutil.which("chromium"))
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as scratch:
        if options.install:
            os.environ["NUMBA_CACHE_DIR"] = str(Path(scratch) / "numba")
        rows = walk(options, Path(scratch))
    load.append(os.getloadavg()[0])
    found = {
        "rows": rows,
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d"),
        "load": load,
        "fresh_kernels": options.install,
    }
    write_text(STORE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write_text(STORE.with_suffix(".md"), text_of(found))


if __name__ == "__main__":
    main()
