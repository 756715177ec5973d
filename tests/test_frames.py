"""`sinefield frames`: which frames of a drawn video are taken, and how they stand."""

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageFilter

from sinefield.commands.cli import main
from sinefield.data.photographs.frames import choose_frames, extract_frames
from sinefield.errors import SinefieldError

WIDTH, HEIGHT = 96, 64
PLACES = [0] * 20 + [3 * n for n in range(40)] + [117] * 20  # the camera stands, walks 117 pixels, stands


def picture(place):
    """A window on a wide noise, with red on top."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, 80, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((320, HEIGHT), Image.Resampling.BICUBIC)).copy()
    wide[: HEIGHT // 4] = (220, 20, 20)
    return np.ascontiguousarray(wide[:, place : place + WIDTH])


def write_video(path, frames, turn=0):
    """Losslessly; `turn` degrees in the metadata only."""
    raw = path.with_name("raw.mp4")
    form = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r 25 -i - -c:v libx264 -qp 4 -pix_fmt yuv420p".split()
    run = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    subprocess.run([*run, *form, raw], input=b"".join(f.tobytes() for f in frames), check=True)
    subprocess.run([*run, "-display_rotation", str(turn), "-i", raw, "-c", "copy", path], check=True)
    raw.unlink()


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Every frame blurred but each fifth."""
    path = tmp_path_factory.mktemp("video") / "100% a walk.mp4"
    frames = [Image.fromarray(picture(place)) for place in PLACES]
    frames = [f if n % 5 == 3 else f.filter(ImageFilter.GaussianBlur(1.5)) for n, f in enumerate(frames)]
    write_video(path, [np.asarray(frame) for frame in frames])
    return path


def test_sharp_frames_of_equal_movement(walk, tmp_path, capsys):
    out = tmp_path / "50% of it"
    assert main(["frames", str(walk), str(out), "--count", "8", "--png", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["frames"], report["read"]) == (8, 80)
    assert all(number % 5 == 3 for number in report["chosen"])
    steps = np.diff([PLACES[number] for number in report["chosen"]])
    assert (steps > 5).all() and (steps <= 30).all()  # every tenth frame would show the ends several times
    listed = json.loads((out / "frames.json").read_text())["frames"]
    files = sorted((out / "images").iterdir())
    assert listed == {file.name: number for file, number in zip(files, report["chosen"], strict=True)}
    for file, number in listed.items():
        taken = np.asarray(Image.open(out / "images" / file).convert("RGB"), float)
        assert np.abs(taken - picture(PLACES[number])).mean() < 12  # chroma is stored at half the size
    with pytest.raises(SinefieldError, match="frames already; use --overwrite"):
        extract_frames(walk, out)
    assert extract_frames(walk, out, 3, overwrite=True)["frames"] == 3
    assert len(list((out / "images").glob("*.jpg"))) == len(list((out / "images").iterdir())) == 3
    (out / "mine").write_text("x")
    with pytest.raises(SinefieldError, match="something other than frames"):
        extract_frames(walk, out, overwrite=True)


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_turned_videos_stand_upright(tmp_path, turn):
    """A phone stores frames as its sensor has them, and by how much to turn them."""
    upright = [picture(place) for place in range(0, 40, 8)]
    if turn == 180:
        write_video(tmp_path / "phone.mp4", [np.ascontiguousarray(f[::-1, ::-1]) for f in upright], turn)
    else:
        write_video(tmp_path / "phone.mp4", upright, turn)
    extract_frames(tmp_path / "phone.mp4", tmp_path / "out")
    frame = np.asarray(Image.open(sorted((tmp_path / "out" / "images").iterdir())[0]).convert("RGB"), float)
    expected = upright[0] if turn == 180 else np.rot90(upright[0], turn // 90)
    assert frame.shape == expected.shape and np.abs(frame - expected).mean() < 15


def test_nothing_moves():
    assert choose_frames([1.0] * 10, [0.0] * 10, 5) == [0, 2, 4, 6, 8]
    assert choose_frames([1.0, 2.0], [0.0, 0.0], 60) == [0, 1]


def test_bad_videos_are_one_line(walk, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{walk}\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(walk.read_bytes()[:300])
    for name in ("text.mp4", "list.mp4", "empty.mp4", "cut.mp4", "none.mp4"):
        assert main(["frames", str(tmp_path / name), str(tmp_path / "out")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
    for options in (["--count", "2"], ["--count", "6000"]):
        assert main(["frames", str(walk), str(tmp_path / "out"), *options]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "empty.mp4", "list.mp4", "text.mp4"]
