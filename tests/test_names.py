"""Every command with names that are no text, in terminals that know few characters, and with output that is full."""

import os
from pathlib import Path

import pytest
from killed import write_scene
from many import run
from small import shape_config

from sinefield.commands.cli import COMMANDS
from sinefield.example_files import file_of

NAMES = {
    "some": b"some",
    "bytes": b"\xff\xfe",
    "latin": "é".encode("latin-1"),
    "wide": "日本 ü".encode(),
    "odd": b"a\nb\x1b[2Jc",
}
WAYS = {
    "utf-8": {"PYTHONUTF8": "1"},
    "latin-1": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    "ascii": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


def commands(folder, name):
    """Lines for every command, of inputs and outputs of that name; {} stands for it."""
    lines = [
        [command, b"{}.sine"] for command in COMMANDS if command not in ("doctor", "view")
    ]  # one argument, none there
    lines += [[command, b"{}.none.sine", b"{}.none"] for command in COMMANDS if command not in ("doctor", "synth")]
    lines += [
        ["info", b"{}.sine"],
        ["info", b"{}"],
        ["compare", b"{}.sine", "--out", b"{}.png"],
        ["inspect", b"{}.ply", "--out", b"{}2.png"],
        ["page", b"{}.sine", b"{}.html"],
        ["code", b"{}.sine", b"{}.h"],
        ["mesh", b"{}.sine", b"{}m.ply", "--resolution", "16"],
        ["mesh", b"{}.sine", b"{}m.obj", "--resolution", "16", "--texture", "16", "--faces", "50"],
        ["mesh", b"{}.sine", b"{}m.usdz", "--resolution", "16"],
        ["video", b"{}.sine", b"{}.mp4", "--frames", "2", "--width", "16"],
        ["video", b"{}.sine", b"{}.frames/", "--frames", "2", "--width", "16"],
        ["frames", b"{}.mp4", b"{}.taken", "--count", "3"],
        ["unpack", b"{}.sine", b"{}.run"],
        ["info", b"{}.run"],
        ["pack", b"{}.run", b"{}.packed.sine", "--bits", "6", "--steps", "1"],
        ["eval", b"{}.sine"],
        ["report", b"{}.sine", "--out", b"{}.report.html"],
        ["train", b"{}.yaml", "--out", b"{}.trained", "--training.steps", "1"],
        [
            "train",
            b"{}.ply",
            "--out",
            b"{}.trained2",
            "--training.steps",
            "1",
            "--field.width",
            "8",
            "--field.rank",
            "2",
        ],
        ["adapt", b"{}.sine", b"{}.yaml", "--out", b"{}.edit.sine", "--training.steps", "2"],
        ["adapter", "info", b"{}.sine"],
        ["synth", b"{}.synth", "--views", "1", "--test-views", "0", "--resolution", "8"],
        ["fleet", b"{}.csv", "--out", b"{}.fleet"],
        ["capture", b"{}.mp4", "--out", b"{}.captured"],
        ["poses", b"{}.taken", "--out", b"{}.posed"],
        ["image", b"{}.sine", b"{}.image.png"],
        ["splats", b"{}.none", b"{}.spz"],
        ["cameras", b"{}.sine", b"{}.json"],
        ["reconstruct", b"{}.sine", b"{}.ply", b"{}r.ply"],
        ["view", b"{}.ply", "--port", "1", "--no-browser"],
        [b"{}"],
        ["info", "--{}", b"{}.sine"],
    ]
    filled = lambda word: (word if isinstance(word, bytes) else word.encode()).replace(b"{}", name)  # noqa: E731
    return [[filled(word) for word in line] for line in lines]


@pytest.fixture
def folder(ball, tmp_path):
    for name in NAMES.values():
        here = os.fsencode(tmp_path) + b"/" + name
        knot = file_of("example:knot").read_bytes()
        scene = write_scene(tmp_path / "scene.yaml", shape_config(ball, steps=1)).read_bytes()
        files = {b".sine": knot, b".ply": ball.read_bytes(), b".yaml": scene, b".csv": b"path\n" + name + b".ply\n"}
        for ending, content in files.items():
            Path(os.fsdecode(here + ending)).write_bytes(content)
    return tmp_path


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_names(name, way, folder):
    for line, code, said in run(folder, commands(folder, NAMES[name]), WAYS[way]):
        errors = [text for text in said if "sinefield:" in text]
        assert code in ("0", "2") and len(errors) == (code == "2"), (line, code, said)
        assert not any("Traceback" in text or "\x1b" in text for text in said), (line, said)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["/dev/full", "/dev/null"])
def test_full_output(output, folder):
    """What was asked for is made; that nobody could be told is said."""
    told = [line for line in commands(folder, b"some") if line[0] not in (b"view", b"fleet", b"capture", b"poses")]
    for line, code, said in run(folder, told, WAYS["utf-8"], output):
        errors = [text for text in said if "sinefield:" in text]
        assert code in ("0", "2") and len(errors) == (code == "2"), (line, code, said)
        assert not any("Traceback" in text for text in said), (line, said)
        if output == "/dev/full":
            assert code == "2", line
