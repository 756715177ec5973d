"""What a fleet costs: shapes an hour, their quality and size, what Ray and the files add, and what is lost.

    python scripts/benchmarks/fleet.py --json [--items 300] [--cores 2] [--max-bytes 2048] [--seed 0]
    python scripts/benchmarks/fleet.py --json --cpu --items 40      # one process, CPU seconds: on a busy machine
    python scripts/benchmarks/fleet.py --json --empty 100000        # Ray's part: items that do nothing
    python scripts/benchmarks/fleet.py --json --empty 100000 --here # the driver's own part: without Ray

Items are equally many shapes of the eight procedural families, and the closed meshes of the data folder. `per_hour` is
by the clock, with the start of Ray and the loading of kernels; with --cpu it is 3,600 · cores / CPU seconds of an item,
in a process of its own as in a fleet. `overhead` is (clock · cores − CPU seconds of the items) / CPU seconds of the
items; `lost` counts items that are neither done nor quarantined; `driver_ms` is CPU time of the driver an item.
With --write the figures go to docs/results/fleet.json, beside those of other settings, and the page is made anew.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

from sinefield.config import data_folder
from sinefield.data.made.families import FAMILIES
from sinefield.files import write_text
from sinefield.fleet.child import Answer, Apart
from sinefield.fleet.cluster import Cluster
from sinefield.fleet.items import Item, find_items
from sinefield.fleet.run import Plan, load_scene, prepare, run_fleet
from sinefield.fleet.store import FleetStore
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "results" / "fleet.json"
OPEN = ("stanford-bunny_open.obj",)
"""Meshes of the data folder that are not closed: the families' figures are of closed shapes."""


def items_of(count: int, seed: int) -> list[Item]:
    """Meshes first, then families in turn, from a seed on."""
    folder = data_folder() / "meshes"
    meshes = [item for item in find_items(str(folder)) if item.id not in OPEN] if folder.is_dir() else []
    meshes = meshes[: count // 8]
    each = -(-(count - len(meshes)) // len(FAMILIES))
    return [*meshes, *find_items(f"family:all:{seed}-{seed + each - 1}")][:count]


class Here:
    """In place of a cluster: tasks are answered at once, by this process."""

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cores(self) -> int:
        return 2

    def submit(self, requests: list[dict[str, Any]], memory: int, seconds: float) -> tuple[int, ...]:
        self.sent = getattr(self, "sent", 0) + 1
        return self.sent, len(requests)

    def wait(self, pending: list[tuple[int, ...]], seconds: float) -> list[tuple[int, ...]]:
        return pending[:]

    def take(self, sent: tuple[int, ...]) -> list[Answer]:
        return [({"status": "ok", "error": None, "seconds": 0.0, "scores": {"iou": 0.97}}, bytes(2048))] * sent[1]


def on_ray(items: list[Item], plan: Plan, cores: int, out: str, here: bool = False) -> dict[str, Any]:
    """A fleet on this machine; without Ray if `here`."""
    begin = time.perf_counter()
    store = FleetStore(out)
    prepare(items, plan, store)
    with Here() if here else Cluster(cores=cores) as cluster:
        started, driver = time.perf_counter() - begin, time.process_time()
        run_fleet(items, plan, store, cast("Cluster", cluster), "benchmark")
        driver = time.process_time() - driver
    store.close()
    clock = time.perf_counter() - begin
    rows = list(store.rows.values())
    cpu = sum(row["seconds"] or 0.0 for row in rows)
    return {
        "per_hour": round(3600 * len(items) / clock, 1),
        "overhead": round((clock * cores - cpu) / cpu, 4) if cpu else None,
        "seconds": round(clock, 1),
        "start_seconds": round(started, 1),
        "driver_ms": round(1000 * driver / len(items), 3),
        **figures(rows, len(items)),
    }


def by_cpu(items: list[Item], plan: Plan, cores: int) -> dict[str, Any]:
    """The same work in one process after another, counted in CPU seconds."""
    rows = []
    with Apart() as apart:
        apart.do({"do": "nothing"}, plan.memory, 60.0)
        for item in items:
            report, content = apart.do(plan.request(item), plan.memory, plan.timeout)
            score = next(iter((report.get("scores") or {}).values()), None)
            row = {**report, "id": item.id, "score": score, "bytes": len(content)}
            rows.append(row)
            print(item.id, report["seconds"], score, len(content), report["parts"], file=sys.stderr, flush=True)
    mean = sum(row["seconds"] for row in rows) / len(rows)
    parts = {name: round(sum(row["parts"].get(name, 0) for row in rows) / len(rows), 2) for name in rows[0]["parts"]}
    return {"per_hour": round(3600 * cores / mean, 1), "overhead": None, "parts": parts, **figures(rows, len(items))}


def figures(rows: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Medians over the items that are done."""
    good = [row for row in rows if row["status"] == "ok"]
    scored = [row["score"] for row in good if row["score"] is not None]
    return {
        "items": count,
        "median_iou": round(median(scored), 5) if scored else None,
        "least_iou": round(min(scored), 5) if scored else None,
        "median_bytes": median(row["bytes"] for row in good) if good else None,
        "most_bytes": max((row["bytes"] for row in good), default=None),
        "cpu_seconds": round(sum(row["seconds"] for row in good) / max(len(good), 1), 3),
        "failed": len(rows) - len(good),
        "lost": count - len({row["id"] for row in rows}),
    }


def empty(count: int, cores: int, out: str, chunk: int | None, here: bool) -> dict[str, Any]:
    """Items that do nothing: what sending, waiting and writing take."""
    plan = Plan({"kind": "shape", "training": {"steps": 1}}, do="nothing", chunk=chunk)
    items = [Item(f"item-{i:07d}", f"family:chair:{i}") for i in range(count)]
    report = on_ray(items, plan, cores, out, here)
    return {**report, "milliseconds": round(1000 * report["seconds"] / count, 3), "chunk": chunk}


def page(rows: dict[str, dict[str, Any]]) -> str:
    """Tables of all that was measured."""
    fields = [{"fleet": name, **row} for name, row in rows.items() if "milliseconds" not in row]
    nothing = [{"fleet": name, **row} for name, row in rows.items() if "milliseconds" in row]
    columns = ["fleet", "items", "per_hour", "overhead", "cpu_seconds", "median_iou", "least_iou", "median_bytes"]
    columns += ["failed", "lost", "date", "cpu"]
    empties = ["fleet", "items", "seconds", "milliseconds", "driver_ms", "lost", "date", "cpu"]
    return "\n\n".join(
        [
            "# What a fleet costs",
            "Equally many shapes of the eight procedural families and the closed meshes of the data folder, two\n"
            "cores, seed 0. `per_hour` is by the clock, with the start of Ray and the loading of kernels; by --cpu it\n"
            "is reckoned from processor seconds of one process. `overhead` is what the clock's two cores took beyond\n"
            "the items' own processor seconds. IoU on 60,000 points that no training sees.",
            table(columns, fields, markdown=True) if fields else "",
            "Items that do nothing: what keys, sending, waiting, rows and parquet take; `driver_ms` is processor time "
            "of the driver an item.",
            table(empties, nothing, markdown=True) if nothing else "",
            "`python scripts/benchmarks/fleet.py --write`, with the options that a name says.\n",
        ]
    )


def name_of(options: argparse.Namespace) -> str:
    """What was asked for, as words."""
    if options.empty:
        return f"--empty {options.empty}" + (" --here" if options.here else "")
    return f"--items {options.items} --max-bytes {options.max_bytes}" + (" --cpu" if options.cpu else "")


def write(name: str, report: dict[str, Any]) -> None:
    """Add figures to the page."""
    rows = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    rows[name] = {**report, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    write_text(FIGURES, json.dumps(rows, indent=1) + "\n")
    write_text(FIGURES.with_suffix(".md"), page(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--max-bytes", type=int, default=2048)
    parser.add_argument("--packing", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="first seed of the families")
    parser.add_argument("--scene", default=str(ROOT / "scenes" / "fleet.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the scene")
    parser.add_argument("--out", help="keep the fleet there")
    parser.add_argument("--cpu", action="store_true", help="no Ray: CPU seconds of one process")
    parser.add_argument("--empty", type=int, default=0, help="so many items that do nothing")
    parser.add_argument("--here", action="store_true", help="with --empty: no Ray")
    parser.add_argument("--chunk", type=int, help="items of a task; by their time without")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="add the figures to docs/results/fleet.md")
    options = parser.parse_args()
    scene = load_scene(options.scene, dict(pair.split("=", 1) for pair in options.set))
    plan = Plan(scene, options.max_bytes, options.packing, chunk=options.chunk)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or f"{folder}/fleet"
        if options.empty:
            report = empty(options.empty, options.cores, out, options.chunk, options.here)
        elif options.cpu:
            report = by_cpu(items_of(options.items, options.seed), plan, options.cores)
        else:
            report = on_ray(items_of(options.items, options.seed), plan, options.cores, out)
    report |= {"cores_asked": options.cores, "max_bytes": options.max_bytes, **describe_machine()}
    if options.write:
        write(name_of(options), report)
    print(json.dumps(report) if options.json else "\n".join(f"{name}: {value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
