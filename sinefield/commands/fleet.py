"""sinefield fleet."""

import argparse
import sys
from contextlib import closing
from dataclasses import replace

from sinefield.commands.arguments import add_overwrite, number, whole
from sinefield.commands.command import Answer, Command
from sinefield.errors import SinefieldError

NOTES = """

ITEMS is one of:
  a folder of meshes, with its subfolders;  a glob, in quotes: 'parts/**/*.obj'
  a manifest .csv, .jsonl or .parquet with a column path, and if wanted id, overrides (JSON) and seed
  family:chairs:0-999, procedural shapes by their seeds; family:all:0-9 for all families

Killed at any moment, the same command goes on with what is missing, has changed or has failed."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", help="scene file (YAML) for all items, with training.steps; its data.path is ignored")
    parser.add_argument("items", help="folder, glob, manifest or family:NAME:FIRST-LAST")
    parser.add_argument("--out", required=True, help="folder or URL (s3://bucket/folder)")
    add_overwrite(parser, "the fleet in --out")
    help_ = "one network for all shapes and a short code each; BASE: that of another fleet, as it is"
    parser.add_argument("--shared", nargs="?", const="", metavar="BASE", help=help_)
    parser.add_argument("--max-bytes", type=whole, help="choose the network for files of at most this many bytes")
    help_ = "steps with rounded weights, as a multiple of the training steps (1)"
    parser.add_argument("--packing", type=number, default=1.0, help=help_)
    parser.add_argument("--address", help="head of a Ray cluster, HOST:PORT or auto; default: this machine alone")
    parser.add_argument("--cores", type=whole, help="cores of this machine to use, one for each item; default: all")
    parser.add_argument("--gpu", type=number, default=0.0, help="share of a GPU for each item (0)")
    parser.add_argument("--memory", type=whole, default=4096, help="MiB that an item may take (4096)")
    parser.add_argument("--timeout", type=number, default=3600.0, help="seconds that an item may last (3600)")
    parser.add_argument("--retries", type=whole, default=1, help="how often a failed item is tried again (1)")


def run(options: argparse.Namespace) -> Answer:
    try:
        from sinefield.fleet.cluster import Cluster
        from sinefield.fleet.items import find_items
        from sinefield.fleet.run import Plan, load_scene, prepare, run_fleet
        from sinefield.fleet.shared import find_base, given_base, shared_config
        from sinefield.fleet.store import FleetStore
    except ImportError as error:
        raise SinefieldError(f"a fleet needs more packages ({error}); pip install 'sinefield[fleet]'") from error
    from sinefield.learning.budget import CHOSEN

    scene = load_scene(options.scene, options.settings)
    sized = any(f"field.{name}" in options.settings for name in CHOSEN)
    given = {name: getattr(options, name) for name in ("max_bytes", "packing", "memory", "timeout", "retries", "gpu")}
    plan = Plan(scene, resize=not sized, **given)
    shared, base = options.shared is not None, None
    if shared:
        shared_config(scene)
        if options.max_bytes is not None:
            raise SinefieldError("--max-bytes: the size of a code follows from training.rate; leave it out")
        base = given_base(options.shared) if options.shared else None
    elif scene.get("kind") == "shared":
        raise SinefieldError(f"{options.scene}: is of kind shared; give --shared")
    items = find_items(options.items)
    store = FleetStore(options.out)
    if options.cores is not None and options.cores < 1:
        raise SinefieldError(f"--cores {options.cores}; should be at least 1")
    try:
        with Cluster(options.address, options.cores, options.gpu) as cluster, closing(store):
            prepare(items, plan, store, options.overwrite)  # what was there stays where Ray does not start
            if shared:
                plan = replace(plan, base=find_base(items, plan, store, cluster, base))
            report = run_fleet(items, plan, store, cluster, f"Fleet of {options.items}")
    except KeyboardInterrupt:
        print("sinefield: what is done is kept; the same command goes on", file=sys.stderr)
        raise
    text = (
        f"{report['out']}: {report['done']:,} of {report['items']:,} fields, {report['failed']:,} failed, "
        f"{report['bytes']:,} bytes"
    )
    return report, "\n".join([text, *report["errors"]])


COMMAND = Command(
    help="make the fields of many items, on this machine or a Ray cluster",
    example="sinefield fleet scenes/fleet.yaml parts/ --out fleets/parts --max-bytes 2048",
    arguments=arguments,
    run=run,
    notes=NOTES,
    settings=True,
)
