"""sinefield eval."""

import argparse
import os
from typing import Any

from sinefield.commands.arguments import add_data, add_edits, add_run
from sinefield.commands.command import Answer, Command
from sinefield.commands.scores import summary
from sinefield.errors import SinefieldError


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_data(parser, "the training data, if a .sine file or an adapter does not name it")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.example_files import is_sine

    report = _evaluate(options)
    if options.adapter or is_sine(options.run):
        return report, summary(report)
    files = "report.json, scores.csv, pictures/"
    kept = files if os.access(options.run, os.W_OK) else f"may not be written, so {files} stay as they are"
    return report, f"{summary(report)}\n{options.run}: {kept}"


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from sinefield.example_files import is_sine
    from sinefield.learning.evaluate import evaluate, evaluate_edited, evaluate_file
    from sinefield.store.run import Run

    if options.adapter:
        return evaluate_edited(options.run, options.adapter, options.data)
    if is_sine(options.run):
        return evaluate_file(options.run, options.data)
    if options.data:
        raise SinefieldError("--data is for .sine files; a run folder's config.yaml says where its data are")
    return evaluate(Run(options.run))


COMMAND = Command(help="score a trained field", example="sinefield eval runs/armadillo", arguments=arguments, run=run)
