"""Numbers that are none, of every command and every setting: one line, before any work."""

import argparse
import dataclasses
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from sinefield import config
from sinefield.commands.cli import COMMANDS, main, make_parser
from sinefield.data.photographs.images import on_background, reference
from sinefield.errors import SinefieldError
from sinefield.strict import build, load_yaml, set_dotted

ODD = [
    "nan",
    "NaN",
    "inf",
    "-inf",
    "infinity",
    "1e400",
    "1e30",
    "9" * 30,
    "9" * 5000,
    "1_000",
    "1:2:3",
    "0x10",
    "",
    " ",
]
ODD += ["yes", "true", "1e", "1,5", "٣", "１", "2024-01-01", "[1]", "1\n2", "1 2", "--", "one"]
KINDS = ["shape", "radiance", "image", "shapes"]


def numeric():
    """Each numeric option of each command, and whether it is whole."""
    commands = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert commands.keys() == COMMANDS.keys()
    for name, parser in commands.items():
        inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        for sub in [parser, *(p for a in inner for p in a.choices.values())]:
            for action in sub._actions:
                assert action.type not in (int, float), (
                    f"{name} {action.dest}: use whole or number of commands.arguments"
                )
                if action.type is not None:
                    yield name, action.option_strings[0], action.type


def test_every_numeric_option_refuses_what_is_no_number():
    found = list(numeric())
    assert len(found) > 25
    for name, option, kind in found:
        for text in ODD:
            if kind.__name__ == "number" and text in ("1e30", "9" * 30):
                assert kind(text) == 1e30
                continue
            with pytest.raises(argparse.ArgumentTypeError) as told:
                kind(text)
            assert len(str(told.value)) < 200 and "\n" not in str(told.value), (name, option)


ALONE = [
    ["pack", "RUN", "OUT.sine", "--min-quality", "nan"],
    ["mesh", "RUN", "OUT.ply", "--resolution", "1e30"],
    ["mesh", "RUN", "OUT.ply", "--resolution", "9" * 18],
    ["mesh", "RUN", "OUT.ply", "--crop", "0", "0", "0", "1", "1", "inf"],
    ["video", "RUN", "OUT.mp4", "--cameras", ",,,"],
    ["video", "RUN", "OUT.mp4", "--cameras", ""],
    ["synth", "OUT", "--views", "1e9"],
    ["synth", "OUT", "--views", "1000000000"],
    ["synth", "OUT", "--test-views", "9" * 18],
    ["synth", "OUT", "--seed", "-1"],
    ["frames", "VIDEO", "OUT", "--count", "9" * 18],
    ["poses", "OUT", "--seed", "9" * 5000],
    ["poses", "OUT", "--seed", "٣"],
    ["view", "RUN", "--port", "9" * 18],
]


@pytest.mark.parametrize("words", ALONE, ids=lambda words: " ".join(words)[:60])
def test_one_line_and_nothing_made(words, ball_run, tmp_path, capsys):
    named = {"RUN": str(ball_run[0]), "VIDEO": str(tmp_path / "none.mp4")}
    words = [named.get(word, str(tmp_path / word) if word.startswith("OUT") else word) for word in words]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("sinefield:") and err.count("\n") == 1 and len(err) < 600
    assert not list(tmp_path.iterdir())


def leaves(cls, prefix=""):
    for field in dataclasses.fields(cls):
        kind = get_type_hints(cls)[field.name]
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{field.name}.")
        elif {int, float, bool} & {kind, *get_args(kind)}:
            yield prefix + field.name


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_refuses_what_is_no_number(kind):
    cls = config._config_class(kind, "")
    names = list(leaves(cls))
    assert len(names) > 10
    wrong = [
        "nan",
        ".nan",
        "inf",
        "-.inf",
        "1e400",
        "1:2:3",
        "010",
        "1_000",
        "0x1F",
        "yes",
        "no",
        "on",
        "off",
        "2024-01-01",
    ]
    wrong += ["'5'", "9" * 400, "9" * 5000, "{}", "1,5"]
    for name in names:
        for text in wrong:
            content = {"kind": kind, "data": {"path": "x"}}
            with pytest.raises(SinefieldError) as told:
                set_dotted(content, name, text)
                build(cls, content, "scene")
            assert name.rpartition(".")[2] in str(told.value) and len(str(told.value)) < 6000


def test_words_are_read_as_yaml_1_2_reads_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: no\nb: 1:2:3\nc: 010\nd: 2024-01-01\ne: 1e-3\nf: -5\ng: true\nh: ~\ni: .5\nj: 1_0\nk:\n")
    texts = {"a": "no", "b": "1:2:3", "c": "010", "d": "2024-01-01", "j": "1_0"}
    assert load_yaml(path) == {**texts, "e": 1e-3, "f": -5, "g": True, "h": None, "i": 0.5, "k": None}


def test_photographs_are_composited_in_bands(monkeypatch):
    """As all at once; opaque ones are not turned into floats, which take four times the memory, at all."""
    from sinefield.data.photographs import images

    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 17, 13, 4), dtype=np.uint8))
    pixels[..., :3] = torch.minimum(pixels[..., :3], pixels[..., 3:])
    for background in ((1.0, 1.0, 1.0), (0.2, 0.0, 0.7), torch.rand(17, 13, 3)):
        whole = (on_background(pixels, background) * 255).round().clamp(0, 255).to(torch.uint8)
        monkeypatch.setattr(images, "BAND", 64)
        assert torch.equal(reference(pixels, background), whole)
        monkeypatch.undo()
    opaque = pixels[..., :3]
    assert torch.equal(reference(opaque), opaque)
