"""Terminals that know few characters, output that is full, closed or not read to its end."""

import json
import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from sinefield.commands.cli import entry; entry()"]


def run(words, output, tmp_path, encoding=None):
    """(exit code, what came on standard error) of a command in a shell that sends its output somewhere."""
    environment = {**os.environ, **({} if encoding is None else {"LC_ALL": "C", "PYTHONIOENCODING": encoding})}
    line = ["bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "-", *COMMAND, *words]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True)
    return done.returncode, done.stderr.decode(), done.stdout.decode("latin-1")


SAYING = [["info", "example:knot"], ["train", "--help"]]


@pytest.mark.parametrize("words", SAYING, ids=" ".join)
def test_output_that_is_full_closed_or_left(words, tmp_path):
    code, err, _ = run(words, "> /dev/full", tmp_path)
    assert code == 2 and "standard output cannot be written" in err and err.count("\n") == 1
    assert run(words, ">&-", tmp_path)[0] == 0
    code, err, _ = run(words, "| true", tmp_path)
    assert code in (0, 141) and not err
    for encoding in ("ascii",):
        code, err, out = run(words, "", tmp_path, encoding)
        assert code == 0 and not err and len(out) > 100


def test_closed_streams_are_not_taken_by_files(tmp_path):
    """A file that is opened next would get the number of a closed output, and what is printed."""
    code, _, _ = run(["mesh", "example:knot", "out.ply", "--resolution", "16"], ">&- 2>&- <&-", tmp_path)
    assert code == 0 and (tmp_path / "out.ply").read_bytes().startswith(b"ply\n")


def test_arithmetic_of_libraries_is_not_told(tmp_path):
    """A camera path with a number so small that its determinant cannot be: one line, without numpy's own."""
    matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1e-320, 4, 0, 0, 0, 1]
    frames = [{"camera_to_world": matrix, "fov": 50, "aspect": 1}]
    (tmp_path / "path.json").write_text(json.dumps({"camera_path": frames, "render_height": 32, "render_width": 32}))
    code, err, _ = run(["video", "example:toys", "a.mp4", "--path", "path.json"], "", tmp_path)
    assert code == 2 and err.startswith("sinefield: path.json") and err.count("\n") == 1, err
