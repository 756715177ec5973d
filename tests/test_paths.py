"""Camera paths against curves drawn by hand, and nerfstudio's files."""

import json
import math

import numpy as np
import pytest
import torch
from captures import llff_rows, names, write_images
from captures import poses as captured
from scipy.spatial.transform import Rotation, Slerp

from sinefield.cameras.cameras import Cameras, look_at
from sinefield.cameras.orbits import Orbit, usual_orbit
from sinefield.cameras.path_files import read_camera_path
from sinefield.cameras.paths import box_depths, ellipse_path, spiral_path, through_path, walk_path
from sinefield.data.photographs.capture_cameras import Capture, choose_cameras, load_capture
from sinefield.errors import SinefieldError


def cameras_at(eyes, target, up=(0.0, 0.0, 1.0), focal=60.0, width=48, height=32):
    poses = look_at(torch.as_tensor(eyes), torch.as_tensor(target), up)
    n = len(poses)
    lens = torch.full((n, 2), focal), torch.tensor([width / 2, height / 2]).repeat(n, 1), torch.zeros(n, 4)
    return Cameras(poses, *lens, width, height)


def looking(cameras):
    return -cameras.c2w[:, :, 2]


def test_the_orbit_of_a_ring_is_the_ring():
    """Cameras 30° above a point, 4 away: the orbit is that ring, and its own cameras have the same orbit again."""
    angle, centre, tilt = torch.arange(12) * 2 * math.pi / 12, torch.tensor([3.0, -1, 2]), math.radians(30)
    flat = torch.stack([angle.cos(), angle.sin()], 1) * math.cos(tilt)
    eyes = centre + 4 * torch.cat([flat, torch.full((12, 1), math.sin(tilt))], 1)
    found = usual_orbit(cameras_at(eyes, centre))
    assert found.centre == pytest.approx((3, -1, 2), abs=1e-5) and found.up == (0, 0, 1)
    assert (found.distance, found.elevation, found.focal) == pytest.approx((4, 30, 60 / 48), rel=1e-5)
    assert (found.width, found.height) == (48, 32)
    turn = found.cameras(12)
    assert torch.allclose(turn.c2w[:, :, 3], eyes, atol=1e-5) and torch.allclose(turn.focal, torch.tensor(60.0))
    assert usual_orbit(turn).to_vector().tolist() == pytest.approx(found.to_vector().tolist(), abs=1e-4)


def test_an_orbit_is_stored_as_eleven_numbers_in_their_order():
    orbit = Orbit((1.0, 2.0, 3.0), (0.0, 0.0, 1.0), 4.0, 25.5, 1.25, 48, 32)
    stored = orbit.to_vector()
    assert stored.tolist() == [1, 2, 3, 0, 0, 1, 4, 25.5, 1.25, 48, 32] and stored.dtype == torch.float32
    assert Orbit.of(stored) == Orbit.of(stored.numpy()) == orbit


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_walk_is_the_way_without_its_shaking(shuffled):
    """Half a round, shaken: the path stays nearer to the round than the cameras do, and leads from end to end."""
    rng, angle = np.random.default_rng(0), np.linspace(0, np.pi, 60)
    ring = np.stack([4 * np.cos(angle), 4 * np.sin(angle), 1 + 0 * angle], 1)
    eyes = ring + rng.normal(0, 0.05, ring.shape)
    order = rng.permutation(60) if shuffled else np.arange(60)
    path = walk_path(cameras_at(torch.from_numpy(eyes[order]).float(), torch.zeros(3)), 90, (24, None))
    places = path.c2w[:, :, 3].double().numpy()
    assert (len(path), path.width) == (90, 24)
    off = np.abs(np.linalg.norm(places[:, :2], axis=1) - 4)
    assert off.max() < 0.1 and off.mean() < np.abs(np.linalg.norm(eyes[:, :2], axis=1) - 4).mean()
    assert np.ptp(np.unwrap(np.arctan2(places[:, 1], places[:, 0]))) > 2.8
    toward = torch.nn.functional.normalize(-path.c2w[:, :, 3], dim=1)
    assert ((looking(path) * toward).sum(1) > 0.999).all()


def test_an_ellipse_is_found_again():
    angle = torch.arange(40) * 2 * math.pi / 40
    ring = torch.stack([3 * angle.cos(), 1.5 * angle.sin(), 1 + 0.4 * angle.cos()], 1)
    turn = torch.from_numpy(Rotation.from_euler("z", 35, degrees=True).as_matrix()).float()
    shift = torch.tensor([10.0, -4, 2])
    path = ellipse_path(cameras_at(ring @ turn.T + shift, shift), 90, (24, None))
    assert (path.width, path.height, len(path)) == (24, 16, 90) and torch.allclose(path.focal, torch.tensor(30.0))
    back = (path.c2w[:, :, 3] - shift) @ turn
    assert ((back[:, 0] / 3) ** 2 + (back[:, 1] / 1.5) ** 2 - 1).abs().max() < 1e-3
    assert (back[:, 2] - 1 - 0.4 * back[:, 0] / 3).abs().max() < 1e-3
    steps = (path.c2w[:, :, 3] - path.c2w[:, :, 3].roll(1, 0)).norm(dim=1)
    assert steps.max() < 1.01 * steps.min()  # even speed, and the last frame leads to the first
    toward = torch.nn.functional.normalize(shift - path.c2w[:, :, 3], dim=1)
    assert ((looking(path) * toward).sum(1) > 0.9999).all() and (path.c2w[:, 2, 1] > 0).all()
    turned = torch.atan2(back[:, 1], back[:, 0]).numpy()
    assert np.unwrap(turned)[-1] - turned[0] > 6  # anti-clockwise, as the orbit goes


def test_a_spiral_stays_where_the_cameras_were_and_looks_at_one_point():
    generator = torch.Generator().manual_seed(0)
    eyes = (torch.rand(60, 3, generator=generator) * 2 - 1) * torch.tensor([2.0, 1.0, 0.5])
    cameras = cameras_at(eyes, eyes - torch.tensor([0.0, 0, 1]), (0.0, 1, 0))
    path = spiral_path(cameras, 80, 4.0, 20.0)
    middle = eyes.mean(0)
    radii = np.percentile((eyes - middle).abs().numpy(), 90, axis=0)
    off = (path.c2w[:, :, 3] - middle).numpy() / radii
    assert np.abs(off[:, 0] ** 2 + off[:, 1] ** 2 - 1).max() < 1e-3
    assert np.abs(off[:, 2]).max() < 1.001 and np.ptp(off[:, 2]) > 1.9
    focus = middle - torch.tensor([0, 0, 1 / (0.25 / 4 + 0.75 / 20)])
    toward = torch.nn.functional.normalize(focus - path.c2w[:, :, 3], dim=1)
    assert ((looking(path) * toward).sum(1) > 0.99999).all()
    assert (path.c2w[1:, :, 3] - path.c2w[:-1, :, 3]).norm(dim=1).max() < 0.5
    near, far = box_depths(cameras, torch.tensor([-1.0, -1, -9, 1, 1, -5]))
    assert abs(near - (5 + float(middle[2]))) < 1e-5 and abs(far - (9 + float(middle[2]))) < 1e-5


def test_between_two_cameras_is_a_line_and_a_slerp():
    cameras = cameras_at([[3.0, 0, 0], [0, 3.0, 1]], [0.0, 0, 0])
    cameras.focal[1] = 90
    path = through_path(cameras, 11)
    share = torch.linspace(0, 1, 11)[:, None]
    assert torch.allclose(
        path.c2w[:, :, 3], cameras.c2w[0, :, 3] * (1 - share) + cameras.c2w[1, :, 3] * share, atol=1e-5
    )
    ends = Rotation.from_matrix(cameras.c2w[:, :, :3].double().numpy())
    truth = Slerp([0, 1], ends)(share[:, 0].numpy()).as_matrix()
    assert np.abs(truth - path.c2w[:, :, :3].numpy()).max() < 1e-5
    assert path.focal[0, 0] == 60 and path.focal[-1, 0] == 90 and (path.focal.diff(dim=0) >= 0).all()


def test_through_many_cameras_it_is_smooth_and_meets_each():
    angle = torch.linspace(0, 4, 6)
    cameras = cameras_at(torch.stack([3 * angle.cos(), 3 * angle.sin(), angle / 4], 1), [0.0, 0, 0])
    path = through_path(cameras, 501)
    for pose in cameras.c2w:
        # even speed along a ring: each camera is near one of the 501 frames, turn and all
        assert (path.c2w - pose).abs().amax((1, 2)).min() < 0.02
    turns = path.c2w[:, :, :3]
    assert (turns.transpose(1, 2) @ turns - torch.eye(3)).abs().max() < 1e-5
    speed, bend = path.c2w.double().diff(dim=0), path.c2w.double().diff(dim=0, n=2)
    assert bend.norm(dim=(1, 2)).max() < 0.1 * speed.norm(dim=(1, 2)).max()  # no corner at a camera
    assert (speed[:, :, 3].norm(dim=1) < 1.5 * speed[:, :, 3].norm(dim=1).mean()).all()


def test_cameras_are_chosen_by_number_and_name():
    cameras = cameras_at(torch.tensor([[float(i), 0, 5] for i in range(4)]), [0.0, 0, 0], (0.0, 1, 0))
    others = [("test/r_1.png", cameras[3]), ("test/z.png", cameras[3])]
    capture = Capture(cameras[:3], ["train/r_0.png", "train/r_1.png", "train/r_2.png"], others, None, "here")
    chosen = choose_cameras(capture, ["2", "r_0", "train/r_1", "z.png"])
    assert chosen.c2w[:, 0, 3].tolist() == [2, 0, 1, 3]
    for name, says in (("3", "0 to 2"), ("-1", "0 to 2"), ("r_1", "2 views of that name"), ("r_9.png", "did you mean")):
        with pytest.raises(SinefieldError, match=says) as caught:
            choose_cameras(capture, [name])
        assert "\n" not in str(caught.value)
    with pytest.raises(SinefieldError, match="single camera"):
        through_path(cameras[:1], 5)
    with pytest.raises(SinefieldError, match="twice in a row"):
        through_path(cameras[[0, 0, 1]], 5)
    for bad in (cameras[:1], cameras_at([[1.0, 2, 3]] * 3, [0.0, 0, 0])):
        with pytest.raises(SinefieldError, match="one spot"):
            ellipse_path(bad, 5)
        with pytest.raises(SinefieldError, match="one spot"):
            walk_path(bad, 5)
    with pytest.raises(SinefieldError, match="spiral"):
        spiral_path(cameras, 5, 3.0, 2.0)


def test_a_capture_is_read_without_decoding(tmp_path, monkeypatch):
    np.save(tmp_path / "poses_bounds.npy", llff_rows(captured(9)))
    write_images(tmp_path / "images", names(9))
    monkeypatch.setattr("sinefield.data.photographs.views.read_pixels", lambda *_: pytest.fail("decoded"))
    capture = load_capture(str(tmp_path))
    assert len(capture.cameras) == len(capture.names) and capture.others and 0 < capture.bounds[0] < capture.bounds[1]


def nerfstudio(poses, **more):
    """As its viewer writes it."""
    frames = [
        {"camera_to_world": np.vstack([pose, [0, 0, 0, 1]]).flatten().tolist(), "fov": 50.0 + i, "aspect": 1.5}
        for i, pose in enumerate(poses)
    ]
    head = {
        "default_fov": 75.0,
        "keyframes": [],
        "camera_type": "perspective",
        "is_cycle": False,
        "smoothness_value": 0.5,
    }
    size = {"render_height": 200, "render_width": 300, "fps": 24, "seconds": len(frames) / 24}
    return head | size | {"camera_path": frames} | more


@pytest.fixture
def poses():
    return cameras_at([[3.0, 0, 0], [0, 3.0, 1], [1, 1, 2]], [0.0, 0, 0]).c2w.double().numpy()


def test_a_path_of_nerfstudio(tmp_path, poses):
    file = tmp_path / "path.json"
    file.write_text(json.dumps(nerfstudio(poses)))
    cameras, fps = read_camera_path(file)
    assert (cameras.width, cameras.height, len(cameras), fps) == (300, 200, 3, 24)
    assert np.abs(cameras.c2w.numpy() - poses).max() < 1e-6
    for i in range(3):  # the angle is the height's: a point half of it above the axis lands on the picture's upper edge
        local = torch.tensor([0.0, math.tan(math.radians(50 + i) / 2), -1.0])
        world = cameras.c2w[i, :, :3] @ local + cameras.c2w[i, :, 3]
        pixel, _ = cameras.project(i, world[None])
        assert torch.allclose(pixel, torch.tensor([[150.0, 0.0]]), atol=1e-3)
    small, _ = read_camera_path(file, (None, 50))
    assert (small.width, small.height) == (75, 50) and torch.allclose(small.focal, cameras.focal / 4)
    square, _ = read_camera_path(file, (50, 50))
    assert torch.allclose(square.focal, small.focal)
    content = nerfstudio(poses, seconds=0.5)
    del content["fps"], content["render_width"], content["render_height"]
    file.write_text(json.dumps(content))
    cameras, fps = read_camera_path(file)
    assert fps == 6 and cameras.width == round(1.5 * cameras.height)
    # in the model's own coordinates x' = scale (R x + t), where it says these
    turn, move, scale = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix(), np.array([1.0, 2, 3]), 0.25
    moved = [np.column_stack([turn @ p[:, :3], scale * (turn @ p[:, 3] + move)]) for p in poses]
    file.write_text(json.dumps(nerfstudio(moved)))
    (tmp_path / "dataparser_transforms.json").write_text(
        json.dumps({"transform": np.column_stack([turn, move]).tolist(), "scale": scale})
    )
    assert np.abs(read_camera_path(file)[0].c2w.numpy() - poses).max() < 1e-5


BAD_PATHS = {
    "another tool's list": ({"frames": []}, "camera_path"),
    "instant-ngp's": ({"path": [{"R": [0, 0, 0, 1], "T": [0, 0, 0]}]}, "instant-ngp"),
    "a list": ([], "holds a list"),
    "empty": ({"camera_path": []}, "empty"),
    "no object": ({"camera_path": [3]}, r"camera_path\[0\]"),
    "short": ({"camera_path": [{"camera_to_world": [1, 2], "fov": 50}]}, "16 finite numbers"),
    "text": ({"camera_path": [{"camera_to_world": "none", "fov": 50}]}, "16 finite numbers"),
    "flat": ({"camera_path": [{"camera_to_world": [0] * 16, "fov": 50}]}, "determinant"),
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_other_files_are_one_line(tmp_path, name):
    content, says = BAD_PATHS[name]
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(SinefieldError, match=says) as caught:
        read_camera_path(tmp_path / "p.json")
    assert "\n" not in str(caught.value) and "p.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"camera_type": "equirectangular"}, "only 'perspective'"),
        ({"render_width": -3}, "render_width"),
        ({"render_height": "tall"}, "render_height"),
        ({"fps": 0}, "fps"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, poses, change, says):
    (tmp_path / "p.json").write_text(json.dumps(nerfstudio(poses, **change)))
    with pytest.raises(SinefieldError, match=says):
        read_camera_path(tmp_path / "p.json")


def test_unreadable_files(tmp_path, poses):
    content = nerfstudio(poses)
    content["camera_path"][1]["fov"] = 180
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(SinefieldError, match=r"camera_path\[1\].fov is 180"):
        read_camera_path(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(SinefieldError, match="not JSON"):
        read_camera_path(tmp_path / "p.json")
    with pytest.raises(SinefieldError, match="no such camera path"):
        read_camera_path(tmp_path / "q.json")
