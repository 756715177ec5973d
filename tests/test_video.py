"""Videos read back with an independent reader; writers that fail leave nothing."""

import errno
import os
import re
import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from sinefield.errors import SinefieldError
from sinefield.export import video_files as video
from sinefield.export.video_files import check_video_path, write_video
from sinefield.machine import ffmpeg_program
from sinefield.render.channels import Layers, colourise_depth, picture, with_legend

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


def frames(count, height=37, width=51):
    """A bright square that moves right by 2 pixels a frame on a smooth ground."""
    ramp = np.linspace(40, 120, width).astype(np.uint8)
    for number in range(count):
        frame = np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()
        frame[10:20, 2 * number : 2 * number + 10] = (240, 60, 30)
        yield frame


def read(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    stream = re.search(r"Video: (\w+).*?(yuv\w+)\(.*?bt709.*? (\d+)x(\d+).*? ([\d.]+) fps", done.stderr.decode())
    assert stream, done.stderr.decode()
    codec, pixels, width, height, fps = stream.groups()
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return {"codec": codec, "pix_fmt": pixels, "size": (int(width), int(height)), "fps": float(fps)}, pictures


def test_mp4_comes_back_frame_for_frame_and_padded_to_even(tmp_path):
    path = write_video(tmp_path / "new" / "a.mp4", frames(12), fps=24, n_frames=12)
    meta, back = read(path)
    assert meta["fps"] == 24 and meta["pix_fmt"].startswith("yuv420p") and meta["codec"] == "h264"
    assert back.shape == (12, 38, 52, 3)
    for shown, frame in zip(back, frames(12), strict=True):
        assert np.abs(shown[:37, :51].astype(int) - frame).mean() < 6
        square = shown[13:17, :, 0] > 180
        assert abs(np.nonzero(square)[1].mean() - np.nonzero(frame[13:17, :, 0] > 180)[1].mean()) < 1
        assert np.abs(shown[37].astype(int) - shown[36]).mean() < 8  # the pad repeats the edge
    assert [entry.name for entry in path.parent.iterdir()] == ["a.mp4"]
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads


def test_even_sizes_are_left_alone(tmp_path):
    assert read(write_video(tmp_path / "a.mp4", frames(2, 18, 34)))[0]["size"] == (34, 18)


def test_gif_has_all_frames_and_loops(tmp_path):
    path = write_video(tmp_path / "a.gif", frames(7), fps=20)
    with Image.open(path) as image:
        assert image.n_frames == 7 and image.size == (51, 37) and image.info["loop"] == 0
        assert image.info["duration"] == 50
        for number, frame in enumerate(frames(7)):
            image.seek(number)
            assert np.abs(np.array(image.convert("RGB")).astype(int) - frame).mean() < 3


def with_alpha(count, height=36, width=50):
    """A square that moves over nothing, and is half transparent in its lower half."""
    for number in range(count):
        frame = np.full((height, width, 4), 255, np.uint8)
        frame[..., 3] = 0
        frame[10:20, 2 * number : 2 * number + 16] = (240, 60, 30, 255)
        frame[20:30, 2 * number : 2 * number + 16] = (240, 60, 30, 128)
        yield frame


def test_webm_is_vp9_and_keeps_alpha(tmp_path):
    path = write_video(tmp_path / "a.webm", frames(5), fps=12)
    meta, back = read(path)
    assert meta["codec"] == "vp9" and meta["pix_fmt"] == "yuv420p" and meta["fps"] == 12 and meta["size"] == (52, 38)
    for shown, frame in zip(back, frames(5), strict=True):
        assert np.abs(shown[:37, :51].astype(int) - frame).mean() < 6
    path = write_video(tmp_path / "b.webm", with_alpha(5))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-c:v", "libvpx-vp9", "-i", str(path)]
    raw = subprocess.run(
        [*command, *["-f", "rawvideo", "-pix_fmt", "rgba", "-"]], capture_output=True, check=True
    ).stdout
    back = np.frombuffer(raw, np.uint8).reshape(-1, 36, 50, 4)
    assert len(back) == 5
    for shown, frame in zip(back, with_alpha(5), strict=True):
        assert np.abs(shown[..., 3].astype(int) - frame[..., 3]).mean() < 4
        inner = frame[..., 3] == 255
        assert np.abs(shown[inner].astype(int) - frame[inner]).mean() < 16


@pytest.mark.parametrize(("name", "made"), [("new/v.1/", frames), ("plain", with_alpha)])
def test_a_folder_gets_the_frames_to_the_bit(tmp_path, name, made):
    write_video(f"{tmp_path}/{name}", made(3))
    folder = tmp_path / name
    assert sorted(entry.name for entry in folder.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    for number, frame in enumerate(made(3)):
        assert (np.array(Image.open(folder / f"{number:04d}.png")) == frame).all()
    with pytest.raises(SinefieldError, match="--overwrite"):
        write_video(f"{folder}/", made(1))

    def broken():
        yield from made(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(f"{folder}/", broken(), overwrite=True)
    assert len(list(folder.iterdir())) == 3 and not list(tmp_path.rglob(".tmp-*"))
    write_video(f"{folder}/", made(1), overwrite=True)
    assert [entry.name for entry in folder.iterdir()] == ["0000.png"]
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(SinefieldError, match=r"mine\.txt"):
        check_video_path(folder, overwrite=True)


def test_a_folder_on_a_full_disk_is_not_made(tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SinefieldError, match="disk is full"):
        write_video(tmp_path / "frames", frames(2))
    assert not list(tmp_path.iterdir())


def test_mp4_takes_frames_one_by_one(tmp_path):
    """No frame is asked for before the one ahead of it was handed over and let go."""
    alive = []

    def watched():
        for number in range(30):
            frame = np.full((16, 16, 3), number, np.uint8)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(ref() is not None for ref in alive) <= 4

    write_video(tmp_path / "a.mp4", watched())


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_an_interrupted_writer_leaves_what_was_there(tmp_path, name):
    def broken():
        yield from frames(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / name, broken())
    assert not list(tmp_path.iterdir())
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / name, broken(), overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


@pytest.mark.parametrize("arguments", [["-c:v", "no_such_codec"], ["-fs", "nonsense"]])
def test_a_failing_encoder_is_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.setitem(video.ENCODE, (".mp4", 3), arguments)
    with pytest.raises(SinefieldError, match="ffmpeg failed") as caught:
        write_video(tmp_path / "a.mp4", frames(40))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_bad_input(tmp_path):
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"x")
    with pytest.raises(SinefieldError, match=r"\.mp4, \.webm or \.gif"):
        check_video_path(tmp_path / "a.avi")
    with pytest.raises(SinefieldError, match="exists"):
        check_video_path(taken)
    assert check_video_path(taken, overwrite=True) == taken
    with pytest.raises(SinefieldError, match="no frames"):
        write_video(tmp_path / "a.mp4", [])
    for name in ("a.mp4", "a.gif"):
        with pytest.raises(SinefieldError, match="keeps no alpha"):
            check_video_path(tmp_path / name, alpha=True)
    assert check_video_path(tmp_path / "a.webm", alpha=True) and check_video_path(f"{tmp_path}/b/", alpha=True)
    with pytest.raises(SinefieldError, match="is a file"):
        check_video_path(f"{taken}/")
    (tmp_path / "plain").write_bytes(b"x")
    with pytest.raises(SinefieldError, match="is a file"):
        check_video_path(tmp_path / "plain")
    (tmp_path / "plain").unlink()
    small, large = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)
    for name in ("a.mp4", "a.gif"):
        with pytest.raises(SinefieldError, match="frame 1 is 10x8 but the first is 8x8"):
            write_video(tmp_path / name, [small, large])
    for frame in (small / 255.0, small[..., 0], np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(SinefieldError, match="frame 0 is"):
            write_video(tmp_path / "a.mp4", [frame])
    for name, fps in (("a.mp4", 0), ("a.mp4", float("nan")), ("a.gif", 60)):
        with pytest.raises(SinefieldError, match="fps"):
            write_video(tmp_path / name, [small], fps=fps)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.mp4"]


def test_depth_colours():
    depth = np.array([[2.0, 3.0, 4.0, 9.0, 3.0, np.nan]])
    opacity = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, 1.0]])
    picture = colourise_depth(depth, opacity, 2.0, 4.0)
    luminance = picture[0] @ (0.2126, 0.7152, 0.0722)
    assert picture.dtype == np.uint8 and picture.shape == (1, 6, 3)
    assert luminance[0] > luminance[1] > luminance[2]  # near is bright
    assert (picture[0, 2] == picture[0, 3]).all() and (picture[0, 5] == picture[0, 2]).all()
    assert picture[0, 4].tolist() == [255, 255, 255]
    half = colourise_depth(depth[:, :1], np.full((1, 1), 0.5), 2.0, 4.0)
    assert np.abs(half[0, 0] - (picture[0, 0] / 2 + 127.5)).max() <= 1
    with pytest.raises(SinefieldError):
        colourise_depth(depth, opacity, 4.0, 4.0)


def test_channels_of_a_view():
    rng = np.random.default_rng(0)
    opacity = np.array([[0, 0.25, 1.0]], np.float32)
    straight = rng.random((1, 3, 3)).astype(np.float32)
    normal = np.array([[[0, 0, 0], [1, 0, 0], [0, -0.6, 0.8]]], np.float32)
    layers = Layers(straight * opacity[..., None], opacity, np.array([[9.0, 2, 3]], np.float32), normal)
    background, span = np.array([1.0, 1, 1]), (1.0, 4.0)
    for channel in ("rgb", "depth", "normals"):
        flat, clear = (picture(layers, channel, background, span, alpha=a) for a in (False, True))
        assert clear[..., 3].tolist() == [[0, 64, 255]]
        a = clear[..., 3:] / 255  # composited by the reader it is what is shown without alpha
        assert np.abs(clear[..., :3] * a + 255 * (1 - a) - flat).max() <= 1.5
        assert (flat[0, 0] == 255).all()
    assert (np.abs(picture(layers, "normals", background, span)[0, 2] - 255 * np.array([0.5, 0.2, 0.9])) < 1).all()
    assert (np.abs(picture(layers, "rgb", background, span, True)[0, 1:, :3] - 255 * straight[0, 1:]) < 1).all()
    assert picture(layers, "opacity", background, span)[0, :, 0].tolist() == [0, 64, 255]
    assert (
        picture(layers, "depth", background, span)[0, 2]
        == colourise_depth(np.array([[3.0]]), np.ones((1, 1)), *span)[0, 0]
    ).all()


@pytest.mark.parametrize(("width", "channels"), [(200, 3), (200, 4), (16, 3)])
def test_the_legend_runs_from_near_to_far(width, channels):
    image = np.full((100, width, channels), 7, np.uint8)
    shown = with_legend(image, 1.5, 4.0)
    assert (shown[:100] == 7).all() and shown.shape[0] > 108
    row = shown[100 + (len(shown) - 100) // 2, :, :3].astype(int)
    bar = np.flatnonzero(np.ptp(row, axis=1) > 30)  # coloured; text is grey
    ends = colourise_depth(np.array([[1.5, 4.0]]), np.ones((1, 2)), 1.5, 4.0)[0]
    assert np.abs(row[bar[0]] - ends[0]).max() < 12 and np.abs(row[bar[-1]] - ends[1]).max() < 12
    assert (channels == 3) or (shown[100:, :, 3] == 255).all()
    if width > 100:  # words on both sides
        strip = shown[100:, :, 0]
        assert (strip[:, : bar[0] - 2] < 128).any() and (strip[:, bar[-1] + 2 :] < 128).any()


def test_without_ffmpeg_a_video_is_refused_before_anything_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SinefieldError, match=r"no ffmpeg program; pip install 'sinefield\[video\]', or write a \.gif"):
        check_video_path(tmp_path / "a.mp4")
    assert write_video(tmp_path / "a.gif", frames(3)).exists()
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")  # the system's own will do
    assert check_video_path(tmp_path / "a.webm").name == "a.webm"
    assert ffmpeg_program() == "/somewhere/ffmpeg"
