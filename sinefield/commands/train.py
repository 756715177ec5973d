"""sinefield train."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinefield.commands.arguments import add_effort, add_out, add_seed, parts_text, scene_settings, whole
from sinefield.commands.command import Answer, Command
from sinefield.commands.scores import summary
from sinefield.errors import SinefieldError, harmless

NOTES = """

every setting of the scene file can be given as --group.name VALUE:
  --training.seconds S  --training.steps N  --data.path P  --field.rank 8 …
a scene file holds such settings:
  sinefield train scenes/armadillo.yaml --out runs/armadillo"""

SCENES = (".yaml", ".yml", ".json", "")
"""Endings of scene files."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scene", help="scene file (YAML); or a mesh, a point cloud, an image, or a folder of posed photographs"
    )
    add_out(
        parser, "run folder; default runs/<name of the scene file or data>", optional=True, replaces="the run in --out"
    )
    add_seed(parser, "field")
    help_ = "score on all held-out points even where training took less than 20 seconds, as sinefield eval does"
    parser.add_argument("--full-scores", action="store_true", help=help_)
    help_ = "fit each named part of a mesh, or each of its pieces, as a field of its own, all in one folder"
    parser.add_argument("--split", action="store_true", help=help_)
    help_ = "choose the network for a file of at most this many bytes, written as OUT.sine; or a mesh, if better"
    parser.add_argument("--max-bytes", type=whole, help=help_)
    add_effort(parser, " for --max-bytes")
    help_ = "settings by kind and size of the data: small, balanced or best; small is for few bytes, best takes longest"
    parser.add_argument("--preset", help=help_)
    parser.add_argument("--resume", action="store_true", help="continue from the run's saved state")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.team import joined

    with joined() as team:
        answer = _trained(options, team)
        if not team.leads:
            raise SystemExit(0)
    return answer


def _trained(options: argparse.Namespace, team: Any) -> Answer:
    """What the command answers; of several processes the leader's counts."""
    from sinefield.learning.loop import Interrupted

    with team.together():
        settings, config, out, fit = _wishes(options, team)
    try:
        report = fit(config, out, options.resume, options.overwrite, options.full_scores, team)
    except Interrupted as error:
        command = resume_command(options.scene, out, settings) + " --split" * options.split
        command += f" --max-bytes {options.max_bytes}" * (options.max_bytes is not None)
        command += f" --effort {options.effort}" * (options.effort is not None)
        command += f" --preset {options.preset}" * (options.preset is not None)
        print(f"sinefield: {error}: the state is saved; resume with: {command}", file=sys.stderr)
        sys.stdout.flush()
        raise SystemExit(128 + error.signum) from None
    if not team.leads:
        return report, ""
    if options.split:
        return report, f"{parts_text(report)}\n{out}: parts.json and a run of each part"
    text = f"{summary(report)}\n{out}: config, field, scores and pictures"
    return report, f"{text}\n{packed_text(report['packed'])}" if "packed" in report else text


def _wishes(options: argparse.Namespace, team: Any) -> tuple[dict[str, str], Any, str, Callable[..., Any]]:
    """The settings given, all settings, the run folder, and what trains."""
    from sinefield.config import load_config, locate
    from sinefield.learning.fit import data_config
    from sinefield.learning.train import train

    settings = scene_settings(options)
    if is_scene(options.scene):
        if options.preset is not None:
            raise SinefieldError(f"--preset: {options.scene} has its settings; leave it out, or train on the data")
        config = load_config(options.scene, settings)
    else:
        config = data_config(options.scene, settings, options.preset)
        print(
            harmless(f"{options.scene}: trained as kind {config.kind}, with the settings usual for it"), file=sys.stderr
        )
    out = options.out or str(Path("runs") / Path(locate(options.scene)).resolve().stem)
    fit = train
    if options.max_bytes is not None:
        if options.preset is not None:
            raise SinefieldError("--max-bytes and --preset both choose the network; leave out one of the two")
        fit = _to_size(options, settings)
    elif options.effort is not None:
        raise SinefieldError("--effort says how --max-bytes packs; give both, or leave --effort out")
    if options.split:
        from sinefield.learning.split import train_parts

        if team.size > 1:
            raise SinefieldError("--split trains one part after another; give each --data.part a process of its own")
        return settings, config, out, lambda *given: train_parts(*given[:-1])
    return settings, config, out, fit


def _to_size(options: argparse.Namespace, settings: dict[str, str]) -> Callable[..., Any]:
    """`train` for a number of bytes."""
    from sinefield.learning.budget import CHOSEN, train_to_size

    if options.split:
        raise SinefieldError("--max-bytes and --split exclude each other; pack the folder of parts afterwards")
    given = next((name for name in CHOSEN if f"field.{name}" in settings), None)

    def fit(config: Any, out: str, *rest: Any) -> dict[str, Any]:
        return train_to_size(config, out, options.max_bytes, given, *rest, effort=options.effort)

    return fit


def packed_text(packed: dict[str, Any]) -> str:
    """A line on the file of so many bytes, and what it was chosen over."""
    from sinefield.metrics import SCORES

    score = next(name for name in SCORES if name in packed)
    text = f"{packed['file']}: {packed['kind']}, {packed['bytes']:,} bytes, {score} {packed[score]:.4g}"
    if other := packed.get("instead"):
        text += f"; a {other['kind']} of {other['bytes']:,} bytes would have {other[score]:.4g}"
    return text


def is_scene(path: str) -> bool:
    """Whether a path names a scene file, not data to train on.

    >>> is_scene("scenes/armadillo.yaml"), is_scene("bunny.obj"), is_scene("lego/transforms_train.json")
    (True, False, False)
    """
    from sinefield.config import FAMILIES, locate

    place = Path(locate(path))
    if path.startswith(FAMILIES) or place.is_dir() or place.name.startswith("transforms"):
        return False
    return place.suffix.lower() in SCENES


def resume_command(scene: str, out: str, settings: dict[str, str]) -> str:
    """What continues a run when it is typed into a shell.

    >>> resume_command("my scene.yaml", "runs/$1", {"training.steps": "9"})
    "sinefield train 'my scene.yaml' --out 'runs/$1' --resume --training.steps=9"
    """
    given = [f"--{name}={value}" for name, value in settings.items()]
    return shlex.join(["sinefield", "train", scene, "--out", out, "--resume", *given])


COMMAND = Command(
    help="train a field from a scene file, or from data with the usual settings",
    example="sinefield train bust.obj --out runs/bust --training.seconds 60",
    arguments=arguments,
    run=run,
    notes=NOTES,
    settings=True,
)
