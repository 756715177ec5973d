"""What is no file where a file should be: pipes, devices, sockets, folders, holes, links that lead nowhere; slow."""

import os
import signal
import stat
from contextlib import suppress

import many
import pytest
from hostile_formats import FORMATS, examples

from sinefield.errors import SinefieldError

pytestmark = pytest.mark.slow


def holes(path):
    path.touch()
    os.truncate(path, 200 << 20)


KINDS = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "socket": lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
    "folder": lambda path: path.mkdir(),
    "holes": holes,
    "empty": lambda path: path.touch(),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.fixture
def patience():
    """Whoever waits for a pipe is told to stop."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for what is no file"))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", FORMATS)
def test_in_the_place_of_each_file_of_each_format(name, tmp_path, patience):
    for number, example in enumerate(examples(name).examples[:2]):
        for file in example:
            for kind, make in KINDS.items():
                folder = tmp_path / f"{number}{kind}{file.replace('/', '_')}"
                for other, content in example.items():
                    (folder / other).parent.mkdir(parents=True, exist_ok=True)
                    if other != file:
                        (folder / other).write_bytes(content)
                make(folder / file)
                signal.alarm(10)
                with suppress(SinefieldError):  # or it does without
                    examples(name).load(folder)


@pytest.fixture(scope="module")
def inputs(ball, photographs, tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    many.write_inputs(place, ball, photographs)
    return place


@pytest.mark.nightly
def test_in_the_place_of_each_input_of_each_command(inputs, tmp_path):
    lines = []
    (tmp_path / "out").mkdir()
    for kind, make in KINDS.items():
        (tmp_path / kind).mkdir()
        for line in many.LINES.values():
            pieces = line.split("{i}/")
            for n in range(1, len(pieces)):
                name, _, rest = pieces[n].partition(" ")
                place = tmp_path / kind / name.replace("/", "-")
                if not os.path.lexists(place):
                    make(place)
                words = [f"{inputs}/{piece}" for piece in pieces]
                words[n] = f"{place} {rest}"
                lines.append((pieces[0] + "".join(words[1:])).format(o=tmp_path / "out").encode().split())
    for line, code, said in many.run(tmp_path, lines, {}, before=["timeout", "600"]):
        told = [text for text in said if text.startswith("sinefield:") and "compiled kernels" not in text]
        assert code == "2" and len(told) == 1 and not any("Traceback" in text for text in said), (line, code, said)
    assert not list((tmp_path / "out").iterdir())
