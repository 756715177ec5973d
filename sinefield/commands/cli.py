"""One command, thin: parse, call one function, print."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinefield.commands.arguments import make_parser, read_overrides
from sinefield.errors import SinefieldError
from sinefield.metrics import MAIN_SCORE, SCORES
from sinefield.tables import table


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 or 143 when interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        parser, subparsers = make_parser()
        options, rest = parser.parse_known_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
        if rest and options.command not in ("train", "adapt"):
            subparsers[options.command].error(f"unrecognized arguments: {' '.join(rest)}")
        report, text = COMMANDS[options.command](options, rest)
        print(json.dumps(report, default=str) if options.json else text)
        return 0
    except SinefieldError as error:
        print(f"sinefield: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sinefield: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        print("sinefield: out of memory; lower the resolution, the batch or the number of points", file=sys.stderr)
        return 2


def _train(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.config import load_config
    from sinefield.learning.loop import Interrupted
    from sinefield.learning.train import train

    overrides = read_overrides(rest)
    if options.seed is not None:
        overrides["seed"] = options.seed
    config = load_config(options.scene, overrides)
    out = options.out or str(Path("runs") / Path(options.scene).stem)
    try:
        report = train(config, out, options.resume, options.overwrite)
    except Interrupted as error:
        command = f"sinefield train {options.scene} --out {out} --resume" + "".join(
            f" --{k} {v}" for k, v in overrides.items()
        )
        print(f"sinefield: {error}: the state is saved; resume with: {command}", file=sys.stderr)
        sys.stdout.flush()
        raise SystemExit(128 + error.signum) from None
    return report, f"{_summary(report)}\n{out}: config, field, scores and pictures"


def _eval(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.learning.evaluate import evaluate, evaluate_edited, evaluate_file
    from sinefield.store.run import Run
    from sinefield.store.sine_files import is_sine

    if options.adapter:
        report = evaluate_edited(options.run, options.adapter, options.data)
        return report, _summary(report)
    if is_sine(options.run):
        report = evaluate_file(options.run, options.data)
        return report, _summary(report)
    if options.data:
        raise SinefieldError("--data is for .sine files; a run folder's config.yaml says where its data are")
    report = evaluate(Run(options.run))
    return report, f"{_summary(report)}\n{options.run}: report.json, scores.csv, pictures/"


def _summary(report: dict[str, Any]) -> str:
    scores = ", ".join(f"{k} {report[k]:.4g}" for k in SCORES if isinstance(report.get(k), int | float))
    line = (
        f"{report['kind']}: {scores} | {report['params']:,} parameters, {report['bytes']:,} bytes, "
        f"{report['steps']} steps in {report['seconds'] or 0:.0f} s"
    )
    if categories := report.get("categories"):
        rows = [{"category": name, **scores} for name, scores in categories.items()]
        line += "\n" + table(["category", "shapes", "iou", "chamfer_l1", "fscore", "normal_consistency"], rows)
    return "\n".join([line, *(f"note: {remark}" for remark in report.get("remarks", []))])


def _mesh(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.mesh import export_mesh

    report = export_mesh(
        options.run,
        options.out,
        resolution=options.resolution,
        level=options.level,
        largest=options.largest,
        colours=not options.no_colours,
        dense=options.dense,
        overwrite=options.overwrite,
        crop=options.crop,
        faces=options.faces,
        adapters=options.adapter,
    )
    why = report["level_note"]
    note = f"\nnote: a density mesh is an estimate; its level: {why}" if why else ""
    return report, (
        f"{options.out}: {report['vertices']:,} vertices, {report['faces']:,} faces, "
        f"{'watertight' if report['watertight'] else 'open'}, level {report['level']:g}, {report['seconds']:.1f} s"
        f"{note}"
    )


def _video(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.video import export_video

    report = export_video(
        options.run,
        options.out,
        frames=options.frames,
        fps=options.fps,
        size=(options.width, options.height),
        elevation=options.elevation,
        channel=options.channel,
        overwrite=options.overwrite,
        path=options.path,
        cameras=[name.strip() for name in (options.cameras or "").split(",") if name.strip()],
        beside=options.beside,
        alpha=options.alpha,
        data=options.data,
        adapters=options.adapter,
    )
    return (
        report,
        f"{options.out}: {report['frames']} frames of {report['width']}×{report['height']}, {report['seconds']:.1f} s",
    )


def _image(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.image import export_image

    report = export_image(options.run, options.out, options.width, options.overwrite, options.adapter)
    return report, f"{options.out}: {report['width']}×{report['height']} pixels, {report['seconds']:.1f} s"


def _reconstruct(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.reconstruct import reconstruct_shape

    report = reconstruct_shape(
        options.run,
        options.points,
        options.out,
        resolution=options.resolution,
        level=options.level,
        largest=options.largest,
        overwrite=options.overwrite,
    )
    return report, (
        f"{options.out}: from {report['points']:,} points {report['vertices']:,} vertices, {report['faces']:,} faces, "
        f"{'watertight' if report['watertight'] else 'open'}, {report['seconds']:.1f} s"
    )


def _pack(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.learning.pack import pack

    report = pack(
        options.run,
        options.out,
        bits=options.bits,
        max_bytes=options.max_bytes,
        min_quality=options.min_quality,
        quantiser=options.quantiser,
        seconds=options.seconds,
        steps=options.steps,
        data=options.data,
        overwrite=options.overwrite,
    )
    name = MAIN_SCORE[report["kind"]]
    return report, (
        f"{options.out}: {report['bytes']:,} bytes, {report['float_bytes'] / report['bytes']:.1f} times smaller; "
        f"{name} {report[name + '_before']:.4g} before, {report[name]:.4g} after, {report['seconds']:.0f} s"
    )


def _unpack(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.store.unpack import unpack

    report = unpack(options.file, options.out, options.overwrite, options.adapter)
    return (
        report,
        f"{options.out}: {report['kind']} field, {report['params']:,} parameters; what eval and the rest take",
    )


def _synth(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.data.made.synthetic import synthesize

    report = synthesize(
        Path(options.out),
        mesh=Path(options.mesh) if options.mesh else None,
        n_train=options.views,
        n_test=options.test_views,
        resolution=options.resolution,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    return (
        report,
        f"{options.out}: {options.views} training and {options.test_views} test views of {options.resolution}²",
    )


def _info(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.info import describe

    return describe(options.run)


def _compare(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.compare import compare

    return compare(options.runs, options.out, options.overwrite)


def _report(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.export.report import write_report

    report = write_report(options.run, options.out, options.overwrite, options.adapter)
    lines = [f"{report['out']}: {report['bytes']:,} bytes, {report['seconds']:.1f} s"]
    return report, "\n".join([*lines, *(f"left out: {what}" for what in report["left_out"])])


def _view(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.viewer.server import view

    report = view(options.run, options.host, options.port, not options.no_browser, options.adapter)
    return report, f"{report['visitors']} visits, {report['pictures']} pictures, {report['seconds']:.0f} s"


def _poses(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.data.photographs.poses import reconstruct

    report = reconstruct(options.folder, options.quality, options.overwrite)
    others = f"; {report['models'] - 1} smaller models left out" if report["models"] > 1 else ""
    return report, (
        f"{report['model']}: {report['registered']} of {report['images']} photographs placed, "
        f"{report['points']:,} points, {report['seconds']:.0f} s{others}"
    )


def _inspect(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.data.photographs.inspect import inspect

    return inspect(options.scene, options.out, options.overwrite)


def _adapter(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.adapters.file import describe_adapter, merge_files, pack_adapter

    if options.action == "info":
        return describe_adapter(options.adapter)
    if options.action == "merge":
        report = merge_files(options.adapter, options.base, options.out, options.overwrite)
        return report, f"{options.out}: {report['layers']} layers merged, {report['files']} files"
    report = pack_adapter(options.adapter, options.out, options.bits, options.quantiser, options.overwrite)
    error = "" if report["delta_error"] is None else f"; ΔW is off by {100 * report['delta_error']:.3g} %"
    smaller = report["float_bytes"] / report["bytes"]
    return report, f"{options.out}: {report['bytes']:,} bytes, {smaller:.1f} times smaller than float32{error}"


def _adapt(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.adapters.layers import AdapterSpec
    from sinefield.config import load_config
    from sinefield.learning.adapt import SPEC, adapt

    overrides = read_overrides(rest, "adapt")
    if options.seed is not None:
        overrides["seed"] = options.seed
    config = load_config(options.scene, overrides)
    out = options.out or str(Path("runs") / f"{Path(options.scene).stem}.adapter.sine")
    rank, alpha, omega = (
        usual if given is None else given
        for given, usual in ((options.rank, SPEC.rank), (options.alpha, SPEC.alpha), (options.omega, SPEC.omega))
    )
    report = adapt(
        options.run,
        config,
        out,
        layers=[pattern.strip() for pattern in options.layers.split(",")],
        spec=AdapterSpec("sine" if omega else "lora", rank, alpha, omega or None),
        bits=options.bits,
        max_bytes=options.max_bytes,
        quantiser=options.quantiser,
        overwrite=options.overwrite,
    )
    name = MAIN_SCORE[report["kind"]]
    return report, (
        f"{out}: {report['bytes']:,} bytes on {len(report['layers'])} layers; {name} of the base "
        f"{report[name + '_base']:.4g}, adapted {report[name + '_before']:.4g}, packed {report[name]:.4g}, "
        f"{report['seconds']:.0f} s"
    )


def _doctor(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], str]:
    from sinefield.commands.doctor import examine

    return examine()


Command = Callable[[argparse.Namespace, list[str]], tuple[dict[str, Any], str]]
COMMANDS: dict[str, Command] = {
    "train": _train,
    "eval": _eval,
    "mesh": _mesh,
    "video": _video,
    "image": _image,
    "reconstruct": _reconstruct,
    "pack": _pack,
    "unpack": _unpack,
    "synth": _synth,
    "info": _info,
    "compare": _compare,
    "report": _report,
    "view": _view,
    "poses": _poses,
    "inspect": _inspect,
    "adapt": _adapt,
    "adapter": _adapter,
    "doctor": _doctor,
}


def entry() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())


if __name__ == "__main__":
    entry()
