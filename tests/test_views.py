"""Videos of fields whose pictures are known in closed form, and the whole command on trained ones."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small import CENTRE, RADIUS

from sinefield.cameras.cameras import orbit
from sinefield.cameras.orbits import Orbit, pinholes
from sinefield.commands.cli import main
from sinefield.config import RadianceFieldConfig
from sinefield.data.photographs.images import load_posed, reference
from sinefield.export.flight import Flight
from sinefield.export.video import export_video
from sinefield.fields.base import kind_of
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.painter import ALONG, RadiancePainter
from sinefield.fields.radiance.scores import render_view
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.painter import ShapePainter, _edges
from sinefield.render.occupancy import OccupancyGrid
from sinefield.render.volume import Pixels
from sinefield.store.fields import load_field
from sinefield.store.sine_files import save_sine, to_packed


class SoftBall(RadianceField):
    """What a radiance field shows of itself: a ball of radius 1 whose density falls off across its surface."""

    aabb = torch.tensor([-1.5, -1.5, -1.5, 1.5, 1.5, 1.5])
    background = torch.tensor([1.0, 1.0, 1.0])

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.config = RadianceFieldConfig()
        self.grid = OccupancyGrid(self.aabb, 4)
        self.frame = torch.zeros(15)

    def density(self, x):
        return 50 * torch.exp(-(x.norm(dim=1) - 1) / 0.03)

    def render(self, rays_o, rays_d, **_):
        along = -(rays_o * rays_d).sum(1)
        hit = (rays_o.square().sum(1) - along**2 < 1).float()
        t = along - (1 - (rays_o.square().sum(1) - along**2)).clamp(min=0).sqrt()
        return Pixels(hit[:, None] * torch.tensor([1.0, 0.5, 0]), hit, hit * t)


class Ball(ShapeField):
    """A shape field's face, of a distance that is right within a band only."""

    aabb = torch.tensor([-1.0, -1, -1, 1, 1, 1], dtype=torch.float64)
    distance, default_level = True, 0.0

    def __init__(self):
        torch.nn.Module.__init__(self)

    def evaluate(self, points, chunk=None):
        return (0.05 * torch.tanh((points.norm(dim=1) - 1) / 0.05)).float()


def sphere_seen(cameras):
    """Distance along each pixel's ray to the unit ball, infinite beside it, and the point met."""
    o, d = (x.double() for x in cameras.view(0))
    along = -(o * d).sum(1)
    inner = 1 - (o.square().sum(1) - along**2)
    t = torch.where(inner > 0, along - inner.clamp(min=0).sqrt(), torch.inf)
    return t.view(cameras.height, cameras.width), (o + t.nan_to_num(posinf=0)[:, None] * d).view(
        cameras.height, cameras.width, 3
    )


CAMERA = pinholes(orbit(1, radius=4.0, elevation_degrees=30.0, up=(0, 1, 0)), 1.2, (60, 50))


def test_normals_of_a_soft_ball_point_out_of_it():
    layers = RadiancePainter(SoftBall()).layers(CAMERA, 0, normals=True)
    t, points = sphere_seen(CAMERA)
    hit = torch.isfinite(t).numpy()
    assert ((layers.opacities > 0.5) == hit).all() and np.abs(layers.depths - t.numpy())[hit].max() < 1e-4
    assert (layers.normals * points.numpy())[hit].sum(-1).min() > math.cos(math.radians(0.5))
    assert (layers.normals[~hit] == 0).all() and RadiancePainter(SoftBall()).layers(CAMERA, 0).normals is None


def test_a_ball_of_clay_is_a_ball():
    layers = ShapePainter(Ball()).layers(CAMERA, 0)
    t, points = sphere_seen(CAMERA)
    hit = torch.isfinite(t)
    whole = ~_edges(torch.cat([torch.zeros(50, 60, 3), hit[..., None], torch.ones(50, 60, 4)], -1).float())
    inside, outside = (hit & whole).numpy(), (~hit & whole).numpy()
    assert (layers.opacities[inside] == 1).all() and (layers.opacities[outside] == 0).all()
    steep = inside & (layers.normals @ CAMERA.c2w[0, :, 2].numpy() > 0.8)  # elsewhere a pixel may count as an edge
    assert np.abs(layers.depths - t.numpy())[steep].max() < 1e-3
    assert (layers.normals * points.numpy())[steep].sum(-1).min() > math.cos(math.radians(0.5))
    # Outlines are the mean of rays through the pixel: as a whole they cover what the ball does.
    fine = pinholes(CAMERA.c2w, 1.2, (600, 500))
    assert abs(layers.opacities.sum() - torch.isfinite(sphere_seen(fine)[0]).sum() / 100) < 4
    assert ((layers.opacities > 0) & (layers.opacities < 1)).sum() > 50
    assert (layers.colours[outside] == 0).all()
    # Light comes from above, and from a sun in front on the left.
    top, bottom = points[..., 1].numpy() > 0.6, points[..., 1].numpy() < 0.0
    assert layers.colours[inside & top].mean() > layers.colours[inside & bottom].mean() + 0.05
    assert layers.colours[inside].min() > 0.2 and layers.colours[inside].max() <= 1


def test_a_trained_ball_from_all_sides(ball_run, tmp_path):
    for channel in ("depth", "normals", "opacity"):
        export_video(ball_run[0], f"{tmp_path}/{channel}/", Flight(frames=2, size=(64, None)), channel)
    matte = np.array(Image.open(tmp_path / "opacity" / "0001.png"))[..., 0] / 255
    focal, box = 1.35 * 64, RADIUS * math.sqrt(3)
    distance = box * math.hypot(2 * focal, 64) / 64 * 1.02
    radius = focal * math.tan(math.asin(RADIUS / distance))
    assert abs(matte.sum() / (math.pi * radius**2) - 1) < 0.03
    field, _ = load_field(ball_run[0])
    assert np.allclose(field.aabb[:3], CENTRE - RADIUS, atol=0.1)
    normals = np.array(Image.open(tmp_path / "normals" / "0000.png"))[32, 32] / 127.5 - 1
    toward = np.array([0, math.sin(math.radians(20)), math.cos(math.radians(20))])  # the first camera, up to its turn
    assert abs(normals[1] - toward[1]) < 0.1 and abs(np.linalg.norm(normals) - 1) < 0.1
    assert np.array(Image.open(tmp_path / "depth" / "0000.png")).shape[0] > 64  # the legend


def test_transparent_pictures_composited_are_the_opaque_ones(photo_run, tmp_path):
    export_video(photo_run[0], f"{tmp_path}/clear/", Flight(frames=2), alpha=True)
    export_video(photo_run[0], tmp_path / "flat", Flight(frames=2))
    clear, flat = (np.array(Image.open(tmp_path / name / "0001.png")).astype(float) for name in ("clear", "flat"))
    alpha = clear[..., 3:] / 255
    assert clear.shape[2] == 4 and flat.shape[2] == 3 and 0.1 < alpha.mean() < 0.9
    assert np.abs(clear[..., :3] * alpha + 255 * (1 - alpha) - flat).max() <= 2


def test_beside_its_photographs(photo_run, photographs, tmp_path):
    report = export_video(photo_run[0], f"{tmp_path}/out/", Flight(beside=True))
    views = load_posed(photographs).test
    assert (report["frames"], report["width"], report["height"], report["path"]) == (3, 64, 32, "beside")
    field, _ = load_field(photo_run[0])
    for i in range(3):
        shown = np.array(Image.open(tmp_path / "out" / f"{i:04d}.png"))
        assert (shown[:, 32:] == reference(views.images[i]).numpy()).all()
        assert np.abs(shown[:, :32] - 255 * render_view(field, views, i).numpy()).max() <= 1


def test_the_usual_path_stays_where_the_photographs_were(photo_run, tmp_path, capfd, monkeypatch):
    for name, path in (("radiance", "orbit"), ("radiance_ndc", "spiral"), ("radiance_contracted", "walk")):
        field, _ = load_field(Path(__file__).parent / "golden" / f"{name}.sine")
        assert kind_of(field).painter(field).usual_path == path
    monkeypatch.setitem(ALONG, "box", "walk")

    def filmed(run, *more):
        assert main(["video", str(run), f"{tmp_path}/out/", "--frames", "3", "--json", "--overwrite", *more]) == 0
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    report = filmed(photo_run[0])
    assert report["path"] == "walk" and "--path orbit" in report["path_note"]
    first = Path(f"{tmp_path}/out/0000.png").read_bytes()
    assert filmed(photo_run[0], "--path", "walk")["path_note"] is None
    assert Path(f"{tmp_path}/out/0000.png").read_bytes() == first
    for asked in (["--path", "orbit"], ["--elevation", "10"]):
        report = filmed(photo_run[0], *asked)
        assert report["path"] == "orbit" and report["path_note"] is None
    field, note = load_field(photo_run[0])
    save_sine(tmp_path / "a.sine", to_packed_plain(field, note))
    report = filmed(tmp_path / "a.sine")  # it does not know its photographs
    assert report["path"] == "orbit" and "an orbit may leave it" in report["path_note"]


def test_paths_of_a_run_and_of_a_file(photo_run, photographs, tmp_path, capfd):
    for path in ("ellipse", "spiral", "walk", "cameras"):
        more = {"cameras": ["0", "train/r_5", "3"]} if path == "cameras" else {"path": path}
        report = export_video(photo_run[0], f"{tmp_path}/{path}/", Flight(frames=3, **more))
        assert (report["path"], report["frames"], report["width"]) == (path, 3, 32)
        pictures = [np.array(Image.open(tmp_path / path / f"000{i}.png")).astype(float) for i in range(3)]
        # The ball stays in view from all of them: its colours are in the middle.
        assert all(picture[14:18, 14:18].min(-1).mean() < 120 for picture in pictures)
    field, note = load_field(photo_run[0])
    first = load_posed(photographs).train
    shown = np.array(Image.open(tmp_path / "cameras" / "0000.png"))
    assert np.abs(shown - 255 * render_view(field, first, 0).numpy()).max() <= 2
    save_sine(tmp_path / "a.sine", to_packed_plain(field, note))
    assert main(["video", str(tmp_path / "a.sine"), str(tmp_path / "a.gif"), "--path", "ellipse"]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "does not say what it was trained on; give --data" in line
    command = ["video", tmp_path / "a.sine", tmp_path / "a.gif", "--path", "ellipse", "--frames", 2]
    assert main([*map(str, command), "--data", str(photographs), "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["path"] == "ellipse"


def to_packed_plain(field, note):
    from sinefield.compress.quantize import Uniform

    return to_packed(field, {n: Uniform(p, bits=8) for n, p in field.named_parameters()}, {"seed": 0})


def test_a_path_of_nerfstudio_is_flown(ball_run, photo_run, tmp_path):
    field, _ = load_field(photo_run[0])
    along = Orbit.of(field.view).cameras(4, (32, 32))
    angle = math.degrees(2 * math.atan(16 / float(along.focal[0, 1])))
    frames = [
        {"camera_to_world": np.vstack([pose, [0, 0, 0, 1]]).flatten().tolist(), "fov": angle, "aspect": 1}
        for pose in along.c2w.double().numpy()
    ]
    file = tmp_path / "path.json"
    file.write_text(
        json.dumps({"camera_path": frames, "render_width": 32, "render_height": 32, "seconds": 2, "fps": 2})
    )
    report = export_video(photo_run[0], f"{tmp_path}/flown/", Flight(str(file)))
    export_video(photo_run[0], f"{tmp_path}/orbit/", Flight(frames=4))
    assert report["fps"] == 2 and report["path"] == str(file)
    for i in range(4):
        one, other = (np.array(Image.open(tmp_path / name / f"000{i}.png")).astype(int) for name in ("flown", "orbit"))
        assert np.abs(one - other).max() <= 2
    export_video(ball_run[0], tmp_path / "ball.gif", Flight(str(file)))


def test_what_cannot_be_meant_is_one_line(photo_run, ball_run, tmp_path, capfd):
    (tmp_path / "p.json").write_text(json.dumps({"frames": []}))
    photos, shape = photo_run[0], ball_run[0]
    for run, out, options, says in (
        (photos, "a.mp4", ["--path", "circle"], "path circle: unknown"),
        (photos, "a.mp4", ["--path", "cameras"], "--cameras 0,5,12"),
        (photos, "a.mp4", ["--path", "orbit", "--cameras", "0,1"], "--cameras does not go with path orbit"),
        (photos, "a.mp4", ["--cameras", "0,99"], "training views 0 to 23"),
        (photos, "a.mp4", ["--path", "ellipse", "--elevation", "3"], "--elevation does not go with path ellipse"),
        (photos, "a.mp4", ["--path", tmp_path / "p.json"], "has no list 'camera_path'"),
        (photos, "a.mp4", ["--path", tmp_path / "p.json", "--frames", "3"], "--frames does not go with a path from"),
        (photos, "a.mp4", ["--beside", "--width", "9"], "does not go with --beside"),
        (photos, "a", ["--beside", "--alpha"], "--alpha does not go with --beside"),
        (photos, "a.mp4", ["--alpha"], "keeps no alpha"),
        (photos, "a.gif", ["--alpha"], "keeps no alpha"),
        (photos, "a.avi", [], "unknown kind of video"),
        (photos, "a.mp4", ["--path", "spiral", "--data", tmp_path], "--data is for .sine files"),
        (photos, "a.mp4", ["--frames", "0"], "1 to 10,000 frames"),
        (shape, "a.mp4", ["--path", "ellipse"], "path ellipse needs photographs, and a shape has none"),
        (shape, "a.mp4", ["--beside"], "--beside needs photographs"),
        (shape, "a.mp4", ["--channel", "heat"], "--channel"),
    ):
        assert main(["video", str(run), str(tmp_path / out), *map(str, options)]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and says in lines[0], (options, lines)
        assert [entry.name for entry in tmp_path.iterdir()] == ["p.json"]


def test_photographs_that_moved(photo_run, tmp_path, capfd):
    run = shutil.copytree(photo_run[0], tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("\n".join(
        "  path: /nowhere/photos" if line.strip().startswith("path:") else line for line in text.splitlines()
    ))  # fmt: skip
    assert main(["video", str(run), str(tmp_path / "a.gif"), "--path", "ellipse"]) == 2
    assert "/nowhere/photos" in capfd.readouterr().err
    assert main(["video", str(run), str(tmp_path / "a.gif"), "--frames", "1", "--width", "16"]) == 0
