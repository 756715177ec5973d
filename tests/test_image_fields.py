"""Images as fields: they are learned, scored on the pixels they show, packed within what is promised, and exported."""

import json
import os
import signal

import numpy as np
import pytest
import second_decoder
import torch
from PIL import Image

from sinefield.commands.cli import main
from sinefield.config import load_config, locate, make_config, portable
from sinefield.data.picture import load_image
from sinefield.errors import SinefieldError
from sinefield.export.image import export_image
from sinefield.fields.base import kind_of
from sinefield.fields.image.field import ImageField, pixel_centres
from sinefield.learning.evaluate import evaluate_file
from sinefield.learning.loop import Interrupted
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.store.fields import load_field
from sinefield.store.sine_files import load_packed

WIDTH, HEIGHT = 48, 32


def disc(width=WIDTH, height=HEIGHT):
    """A gradient to the right and down behind a soft disc: (h, w, 3) uint8 in closed form."""
    y, x = (np.mgrid[:height, :width] + 0.5) / [[[height]], [[width]]]
    inside = 1 / (1 + np.exp((np.hypot((x - 0.4) * 1.5, y - 0.5) - 0.25) / 0.03))[..., None]
    colours = np.stack([x, y, np.full_like(x, 0.3)], -1) * (1 - inside) + np.array([0.9, 0.2, 0.7]) * inside
    return (colours * 255).round().astype(np.uint8)


def config_for(path, **training):
    field = {"width": 24, "weights": "sine", "rank": 4, "frequencies": 4}
    training = {"batch": 1024, "precision": "fp32", **training}
    return make_config({"kind": "image", "data": {"path": str(path)}, "field": field, "training": training}, "test")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "disc.png"
    Image.fromarray(disc()).save(path)
    return path


@pytest.fixture(scope="module")
def disc_run(picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "disc"
    return folder, train(config_for(picture, steps=250), folder)


def psnr(a, b):
    return -10 * np.log10(np.square(a / 255 - b / 255).mean())


def test_an_image_is_learned_and_scored_on_its_pixels(disc_run, tmp_path):
    folder, report = disc_run
    assert report["psnr"] > 32 and report["ssim"] > 0.9 and (report["width"], report["height"]) == (WIDTH, HEIGHT)
    assert report["params"] == 18 * 24 + 24 + 2 * (2 * 4 * 24 + 24) + 24 * 3 + 3
    export_image(folder, tmp_path / "a.png")
    shown = np.asarray(Image.open(tmp_path / "a.png"))
    assert report["psnr"] == pytest.approx(psnr(shown, disc()), abs=1e-6)  # a file's pixels are those that are scored
    row = np.asarray(Image.open(folder / "pictures" / "image.png"))
    factor = row.shape[0] // HEIGHT
    np.testing.assert_array_equal(row[::factor, : WIDTH * factor : factor], disc())
    assert (folder / "pictures" / "curves.png").stat().st_size > 0


def test_places_of_pixels():
    x = pixel_centres(torch.arange(8), 4, 2)
    assert x[0].tolist() == [-0.75, -0.25] and x[7].tolist() == [0.75, 0.25] and x[1].tolist() == [-0.25, -0.25]


def test_larger_and_smaller_are_the_same_picture(disc_run):
    field, _ = load_field(disc_run[0])
    for width in (3 * WIDTH, 37, 12):
        image = kind_of(field).picture(field, width)
        assert image.shape == (round(HEIGHT * width / WIDTH), width, 3)
        assert psnr(image, disc(width, image.shape[0])) > (27 if width > 20 else 24)
    for width in (0, -1, 20_000):
        with pytest.raises(SinefieldError, match="pixels"):
            kind_of(field).picture(field, width)


def test_packing_costs_no_more_than_promised(disc_run, picture, tmp_path):
    report = pack(disc_run[0], tmp_path / "a.sine", steps=120)
    assert report["psnr_before"] == disc_run[1]["psnr"] and report["psnr"] >= report["psnr_before"] - 0.2
    assert report["bytes"] == (tmp_path / "a.sine").stat().st_size < report["float_bytes"] / 3
    assert evaluate_file(tmp_path / "a.sine", str(picture))["psnr"] == pytest.approx(report["psnr"], abs=1e-9)
    assert pack(disc_run[0], tmp_path / "b.sine", min_quality=28, steps=60)["psnr"] >= 28
    assert pack(disc_run[0], tmp_path / "c.sine", max_bytes=900, steps=60)["bytes"] <= 900


def test_a_second_decoder_reads_the_file(disc_run, tmp_path):
    pack(disc_run[0], tmp_path / "a.sine", bits=5, seconds=0)
    settings, size, values, _, note = second_decoder.decode((tmp_path / "a.sine").read_bytes())
    packed = load_packed(tmp_path / "a.sine")
    field, _ = load_field(tmp_path / "a.sine")
    assert settings == packed.settings and size.tolist() == [WIDTH, HEIGHT] == field.size.tolist()
    assert note == packed.note and values.keys() == dict(field.named_parameters()).keys()
    for name, parameter in field.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), values[name])


def test_the_bases_of_both_decoders_are_one():
    from sinefield.compress.settings import BASE

    assert BASE["image"] == second_decoder.IMAGE


def test_same_seed_same_field_and_resume_is_exact(picture, tmp_path, monkeypatch):
    import sinefield.learning.loop as loop

    def state(name):
        return load_field(tmp_path / name)[0].state_dict()

    for name in ("whole", "again"):
        train(config_for(picture, steps=16), tmp_path / name)
    original = loop.step_generator

    def counting(seed, step, device="cpu"):
        if step == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return original(seed, step, device)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "step_generator", counting)
        train(config_for(picture, steps=16), tmp_path / "half")
    assert train(config_for(picture, steps=16), tmp_path / "half", resume=True)["steps"] == 16
    for name in ("again", "half"):
        assert all(torch.equal(value, state(name)[key]) for key, value in state("whole").items())


def test_every_command(disc_run, picture, tmp_path, capfd):
    run, file = str(disc_run[0]), str(tmp_path / "a.sine")
    for arguments in (
        ["eval", run],
        ["pack", run, file, "--bits", "6", "--seconds", "0"],
        ["eval", file, "--data", str(picture)],
        ["unpack", file, str(tmp_path / "run")],
        ["image", str(tmp_path / "run"), str(tmp_path / "b.png"), "--width", "20"],
        ["image", file, str(tmp_path / "c.png"), "--width", "20"],
        ["info", run],
        ["info", file],
        ["compare", run, file, "--out", str(tmp_path / "c2.png")],
        ["report", run, "--out", str(tmp_path / "run.html")],
        ["report", file],
    ):
        assert main([*arguments, "--json"]) == 0, capfd.readouterr().err
        json.loads(capfd.readouterr().out.splitlines()[-1])
    assert main(["info", file]) == 0 and f"size {WIDTH}×{HEIGHT} pixels" in capfd.readouterr().out
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    for page in ("run.html", "a.html"):
        text = (tmp_path / page).read_text()
        assert "data:image/png" in text and "<video" not in text and "<canvas" not in text
    for arguments, says in (
        (["mesh", run, str(tmp_path / "a.ply")], "sinefield image"),
        (["video", run, str(tmp_path / "a.gif")], "sinefield image"),
        (["image", run, str(tmp_path / "a.jpg")], ".png"),
        (["image", run, str(tmp_path / "b.png")], "exists already"),
        (["image", run, str(tmp_path / "d.png"), "--width", "0"], "0×"),
    ):
        assert main(arguments) == 2
        error = capfd.readouterr().err.splitlines()
        assert len(error) == 1 and says in error[0]


def test_an_image_command_on_a_shape(ball_run, tmp_path, capfd):
    assert main(["image", str(ball_run[0]), str(tmp_path / "a.png")]) == 2
    assert "of kind shape" in capfd.readouterr().err


def test_one_pixel(tmp_path):
    Image.fromarray(np.full((1, 1, 3), 77, np.uint8)).save(tmp_path / "dot.png")
    report = train(config_for(tmp_path / "dot.png", steps=100), tmp_path / "run")
    assert report["psnr"] > 40 and report["ssim"] is None and "SSIM" in report["remarks"][0]
    field, _ = load_field(tmp_path / "run")
    assert abs(int(kind_of(field).picture(field, 1)[0, 0, 0]) - 77) < 3


def test_odd_files_are_shown_as_people_see_them(tmp_path):
    straight = disc()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(straight[::-1, ::-1]).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png").numpy(), straight)
    exif[0x0112] = 6  # to be turned a quarter to the right
    Image.fromarray(np.rot90(straight)).save(tmp_path / "side.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "side.png").numpy(), straight)
    Image.fromarray(np.dstack([straight, np.zeros((HEIGHT, WIDTH, 1), np.uint8)])).save(tmp_path / "clear.png")
    assert (
        load_image(tmp_path / "clear.png").eq(255).all() and load_image(tmp_path / "clear.png", 1, "black").eq(0).all()
    )
    Image.fromarray(np.full((4, 6), 257 * 99, np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png").eq(99).all()
    assert load_image(tmp_path / "deep.png", 2).shape == (2, 3, 3)


def test_bad_images_are_one_line(picture, tmp_path, capfd):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (20_000, 4)).save(tmp_path / "wide.png")
    scene = tmp_path / "scene.yaml"
    scene.write_text("kind: image\ndata:\n  path: skimage:astronaut.png\n")
    for settings, says in (
        (["--data.path", str(tmp_path / "text.png")], "not an image"),
        (["--data.path", str(tmp_path / "none.png")], "no such image"),
        (["--data.path", "skimage:none.png"], "no such image"),
        (["--data.path", str(tmp_path / "wide.png")], "above the limit"),
        (["--data.path", str(picture), "--data.downscale", "40"], "leaves no pixels"),
        (["--data.downscale", "0"], "downscale is 0"),
        (["--data.bakground", "black"], "did you mean 'background'"),
        (["--data.background", "red"], "white, black"),
        (["--field.encoding", "hash"], "use frequency"),
    ):
        assert main(["train", str(scene), "--out", str(tmp_path / "run"), *settings]) == 2
        error = capfd.readouterr().err.splitlines()
        assert len(error) == 1 and says in error[0] and not (tmp_path / "run").exists()


def test_another_image_than_it_was_trained_on(disc_run, tmp_path):
    Image.fromarray(disc(40, 30)).save(tmp_path / "other.png")
    pack(disc_run[0], tmp_path / "a.sine", bits=6, seconds=0)
    with pytest.raises(SinefieldError, match="is 40×30, the field was made from 48×32"):
        evaluate_file(tmp_path / "a.sine", str(tmp_path / "other.png"))


def test_pictures_of_scikit_image_are_named_alike_everywhere(tmp_path):
    import skimage.data

    (tmp_path / "scene.yaml").write_text("kind: image\ndata:\n  path: skimage:astronaut.png\n")
    path = load_config(tmp_path / "scene.yaml").data.path
    np.testing.assert_array_equal(load_image(path).numpy(), skimage.data.astronaut())
    assert portable(path) == "skimage:astronaut.png" and locate(portable(path)) == path
    assert portable(str(tmp_path / "a.png")) is None


def test_a_path_out_of_a_folder_is_not_followed(disc_run, tmp_path):
    from sinefield.store.sine_files import config_of

    pack(disc_run[0], tmp_path / "a.sine", bits=6, seconds=0)
    packed = load_packed(tmp_path / "a.sine")
    for path in ("skimage:../a.png", "$SINEFIELD_DATA/../a.png", "/etc/a.png"):
        packed.note = {"data": {"path": path}}
        with pytest.raises(SinefieldError, match="give --data"):
            config_of(packed, "a.sine")


def test_a_field_of_no_size_is_refused(disc_run, tmp_path):
    from sinefield.store.fields import save_field

    field, note = load_field(disc_run[0])
    field.size = torch.tensor([0, 5])
    save_field(tmp_path / "bad.safetensors", field, note)
    with pytest.raises(SinefieldError, match="no sensible size"):
        load_field(tmp_path / "bad.safetensors")


def test_the_paper_s_own_network():
    """2→256, three hidden 256×256 of rank k, 256→3, on bare coordinates."""
    settings = {"width": 256, "depth": 4, "weights": "sine", "rank": 5, "frequencies": 0, "sigma": 0.1}
    config = make_config({"kind": "image", "field": settings, "data": {"path": "-"}}, "test").field
    count = sum(p.numel() for p in ImageField(config, 8, 8).parameters())
    assert count == (2 + 1) * 256 + 3 * (2 * 5 * 256 + 256) + (256 + 1) * 3
