"""Runs beside each other: what the table says is what their reports say; what cannot be compared is refused."""

import json
import shutil

import pytest
from PIL import Image

from sinefield.commands.cli import main
from sinefield.compress.quantize import Uniform
from sinefield.errors import SinefieldError
from sinefield.export import compare as module
from sinefield.export.compare import compare
from sinefield.store.fields import load_field
from sinefield.store.sine_files import save_sine, to_packed


def packed(run, path, note):
    field, _ = load_field(run)
    save_sine(path, to_packed(field, {n: Uniform(p, bits=8) for n, p in field.named_parameters()}, note))
    return path


def test_rows_are_what_reports_and_notes_say(ball_run, photo_run, tmp_path, capfd):
    note = {"steps": 250, "seconds": 3, "iou": [0.91, 0.87]}
    file = packed(ball_run[0], tmp_path / "small.sine", note)
    assert main(["compare", str(ball_run[0]), str(photo_run[0]), str(file), "--json"]) == 0
    ball, photo, small = json.loads(capfd.readouterr().out.splitlines()[-1])["runs"]
    for row, (folder, report) in ((ball, ball_run), (photo, photo_run)):
        keys = {"kind", "params", "bytes", "seconds", "steps"}
        keys |= {"psnr", "ssim"} if report["kind"] == "radiance" else {"iou", "chamfer_l1", "normal_consistency"}
        assert {k: row[k] for k in keys} == {k: report[k] for k in keys}
        assert row["name"] == folder.name and row["weights"] == "sine, rank 4"
    assert ball["psnr"] is None and photo["iou"] is None
    assert small["params"] == ball["params"] and small["bytes"] == file.stat().st_size
    assert (small["iou"], small["steps"], small["seconds"], small["name"]) == (0.87, 250, 3, "small.sine")


def test_one_table_with_scores_in_their_own_columns(ball_run, photo_run):
    _, text = compare([ball_run[0], photo_run[0]])
    head, ball, photo = text.splitlines()
    assert head.split()[:7] == ["name", "kind", "weights", "params", "bytes", "seconds", "steps"]
    iou, psnr = f"{ball_run[1]['iou']:.4g}", f"{photo_run[1]['psnr']:.4g}"
    # numbers stand to the right, under their own name
    assert ball[: head.index(" iou") + 4].endswith(iou) and iou not in photo
    assert photo[: head.index("psnr") + 4].endswith(psnr) and psnr not in ball


def test_equal_names_are_told_apart(ball_run, tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(ball_run[0], tmp_path / parent / "run")
    report, _ = compare([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [row["name"] for row in report["runs"]] == ["a/run", "b/run"]


def test_the_plot_has_a_panel_a_kind_and_names_that_do_not_cover_each_other(ball_run, photo_run, tmp_path, monkeypatch):
    files = [packed(ball_run[0], tmp_path / f"$x_{i}.sine", {"iou": [1.0, 0.9 + 1e-4 * i]}) for i in range(5)]
    parted, seen, boxes = module._push_apart, [], []

    def look(labels, canvas):
        parted(labels, canvas)
        canvas.draw()
        seen.extend(labels)
        boxes.extend(label.get_window_extent() for label in labels)

    monkeypatch.setattr(module, "_push_apart", look)
    compare([ball_run[0], photo_run[0], *files], tmp_path / "deep" / "c.png")
    with Image.open(tmp_path / "deep" / "c.png") as image:
        assert image.format == "PNG" and image.width > 1.5 * image.height
    assert [axes.get_title() for axes in seen[0].figure.axes] == ["radiance", "shape"]
    assert all(axes.get_xscale() == "log" for axes in seen[0].figure.axes)
    points = {label.get_text().replace("\\$", "$"): label.xy for label in seen}
    size, score = photo_run[1]["bytes"], photo_run[1]["psnr"]
    assert len(points) == 7 and points["photo"] == (size, score)
    assert points["$x_3.sine"] == (files[3].stat().st_size, 0.9003)
    assert all(box.width > 10 and box.height > 5 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_what_cannot_be_compared_is_one_line(ball_run, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(ball_run[0], run)
    report = (run / "report.json").read_text()
    plain = tmp_path / "plain"
    plain.mkdir()
    (tmp_path / "c.png").write_text("mine")
    bare = packed(run, tmp_path / "bare.sine", {})

    def says(*words, arguments):
        assert main(["compare", *map(str, arguments)]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and all(str(word) in lines[0] for word in words), lines

    says(tmp_path / "gone", "no such run", arguments=[run, tmp_path / "gone"])
    says(plain, "not a run folder", arguments=[plain])
    says("report.json", "no such", arguments=[run / "report.json"])
    says("c.png", "--overwrite", arguments=[run, "--out", tmp_path / "c.png"])
    says("c.pdf", ".png", arguments=[run, "--out", tmp_path / "c.pdf"])
    says("score to draw", arguments=[bare, "--out", tmp_path / "d.png"])
    (run / "report.json").unlink()
    says(run, "no report.json", "sinefield eval", arguments=[run])
    for content in (
        "{",
        "[]",
        "{}",
        report.replace('"shape"', '"radiance"'),
        report.replace('"bytes": ', '"bytes": -'),
    ):
        (run / "report.json").write_text(content)
        says("report.json", "sinefield eval", arguments=[run])
    assert (tmp_path / "c.png").read_text() == "mine" and not (tmp_path / "d.png").exists()
    with pytest.raises(SinefieldError, match="not a run folder"):
        compare([plain])
