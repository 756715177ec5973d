"""sinefield train."""

import argparse
import shlex
import sys
from pathlib import Path

from sinefield.commands.arguments import add_out, add_seed, scene_settings
from sinefield.commands.command import Answer, Command
from sinefield.commands.scores import summary

NOTES = """

every setting of the scene file can be given as --group.name VALUE:
  --training.seconds S  --training.steps N  --data.path P  --field.rank 8 …"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", help="scene file (YAML)")
    add_out(parser, "run folder; default runs/<name of the scene file>", optional=True, replaces="the run in --out")
    add_seed(parser, "field")
    parser.add_argument("--resume", action="store_true", help="go on from the run's saved state")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.config import load_config
    from sinefield.learning.loop import Interrupted
    from sinefield.learning.train import train

    settings = scene_settings(options)
    config = load_config(options.scene, settings)
    out = options.out or str(Path("runs") / Path(options.scene).stem)
    try:
        report = train(config, out, options.resume, options.overwrite)
    except Interrupted as error:
        command = resume_command(options.scene, out, settings)
        print(f"sinefield: {error}: the state is saved; resume with: {command}", file=sys.stderr)
        sys.stdout.flush()
        raise SystemExit(128 + error.signum) from None
    return report, f"{summary(report)}\n{out}: config, field, scores and pictures"


def resume_command(scene: str, out: str, settings: dict[str, str]) -> str:
    """What continues a run when it is typed into a shell.

    >>> resume_command("my scene.yaml", "runs/$1", {"training.steps": "9"})
    "sinefield train 'my scene.yaml' --out 'runs/$1' --resume --training.steps=9"
    """
    given = [f"--{name}={value}" for name, value in settings.items()]
    return shlex.join(["sinefield", "train", scene, "--out", out, "--resume", *given])


COMMAND = Command(
    help="train a field from a scene file",
    example="sinefield train scenes/armadillo.yaml --out runs/armadillo --training.seconds 60",
    arguments=arguments,
    run=run,
    notes=NOTES,
    settings=True,
)
