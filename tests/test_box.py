"""The box and the space of a capture against what its cameras were made to look at."""

import json
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from sinefield.data.photographs.capture_settings import capture_settings
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.inspect import inspect
from sinefield.data.photographs.looking import find_focus
from sinefield.data.photographs.placing import read_placed
from sinefield.data.photographs.sparse_points import points_box, read_points

FOCAL, SIDE = 60.0, 48
TANGENT = SIDE / 2 / FOCAL
BALL = 0.8  # its radius, where cameras stand 4 away


def towards(positions, target):
    """(n, 3, 4) cameras that look from places at one, OpenGL axes, z up."""
    poses = []
    for position in positions:
        back = position - target
        back = back / np.linalg.norm(back)
        right = np.cross([0.02, 0.01, 1.0], back)
        right = right / np.linalg.norm(right)
        poses.append(np.column_stack([right, np.cross(back, right), back, position]))
    return np.array(poses)


def sphere(n, half=False, seed=0):
    """Directions spread evenly over the ball, or its upper half."""
    places = Rotation.random(n, random_state=seed).apply([0, 0, 1.0])
    return np.abs(places) * [1, 1, 1] * np.sign(np.c_[places[:, :2], np.ones(n)]) if half else places


def ball_image(pose, centre, radius, background):
    """A ball as a camera sees it: rays that pass its centre at less than its radius."""
    x, y = np.meshgrid(np.arange(SIDE) + 0.5 - SIDE / 2, np.arange(SIDE) + 0.5 - SIDE / 2)
    rays = np.stack([x / FOCAL, -y / FOCAL, -np.ones_like(x)], -1) @ pose[:, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    offset = centre - pose[:, 3]
    miss = np.linalg.norm(np.cross(rays, offset), axis=-1)
    shown = (miss < radius) & (rays @ offset > 0)
    return np.where(shown[..., None], np.uint8([90, 140, 60]), background)


def capture(folder, poses, backdrop=None, focals=None, centre=(0, 0, 0), radius=BALL, **meta):
    """A transforms.json of photographs: of a ball before a plain backdrop, or of noise all over."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for index, pose in enumerate(poses):
        name = f"images/{index:03}.png"
        noise = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        picture = noise if backdrop is None else ball_image(pose, np.array(centre), radius, np.uint8(backdrop))
        Image.fromarray(picture).save(folder / name)
        matrix = [*pose.tolist(), [0, 0, 0, 1]]
        more = {} if focals is None else {"fl_x": focals[index]}
        frames.append({"file_path": name, "transform_matrix": matrix, **more})
    content = {"fl_x": FOCAL, "w": SIDE, "h": SIDE, "frames": frames, **meta}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def box_of(folder):
    """The box that training takes, which has to be the one that `inspect` tells; and the notes."""
    scene, (report, text) = load_posed(folder, holdout=0), inspect(folder)
    corners = scene.aabb.double().numpy() + np.tile(scene.origin, 2)
    assert np.allclose(report["box"], corners, rtol=1e-5)
    assert [note for note in scene.notes if not note.startswith("far from")] == report["notes"]
    assert all(note in text for note in scene.notes) and (report["offset"] is not None) == any(scene.origin)
    return np.reshape(report["box"], (2, 3)), " ".join(scene.notes)


@pytest.mark.parametrize(
    ("meta", "half", "scale"),
    [({}, True, 1.0), ({"aabb_scale": 32}, False, 0.01), ({"aabb_scale": 128}, True, 100.0)],
)
def test_a_ball_before_a_backdrop(tmp_path, meta, half, scale):
    centre = np.array([5.0, -2.0, 1.0])
    poses = towards(centre + 4 * sphere(24, half), centre)
    poses[:, :, 3] *= scale
    folder = capture(tmp_path, poses, (250, 250, 250), centre=centre * scale, radius=BALL * scale, **meta)
    box, told = box_of(folder)
    assert (box[0] <= (centre - BALL) * scale).all() and (box[1] >= (centre + BALL) * scale).all()
    assert np.ptp(box, 0).max() < 2 * 1.3 * BALL * scale
    assert told.count("data.aabb overrides it") == 1 and "instant-ngp's rule" in told and "before the backdrop" in told


def test_an_object_beside_where_the_cameras_look(tmp_path):
    centre = np.array([0.3, 0.2, -0.3])
    folder = capture(tmp_path, towards(4 * sphere(24, True), np.zeros(3)), (9, 9, 9), centre=centre, aabb_scale=16)
    box, _ = box_of(folder)
    assert (box[0] <= centre - BALL).all() and (box[1] >= centre + BALL).all() and np.ptp(box, 0).max() < 2.6 * BALL


def test_a_rule_that_fits_is_kept(tmp_path):
    poses = towards(3.5 * sphere(16), np.zeros(3))
    for meta, half in (({}, 1 / 0.66), ({"aabb": [[-0.9] * 3, [0.9] * 3]}, 0.9), ({"scale": 0.5}, 1.0)):
        box, told = box_of(capture(tmp_path, poses, (255, 255, 255), **meta))
        assert np.allclose(box, [[-half] * 3, [half] * 3]) and told == ""


def test_photographs_of_more_than_the_middle(tmp_path):
    """Noise all over: a box of what is in view, and of all space beyond. A rule that holds the cameras is kept."""
    poses = towards(4 * sphere(20, True), np.zeros(3))
    box, told = box_of(capture(tmp_path, poses, aabb_scale=64))
    assert np.allclose(box, 4 * TANGENT * np.array([[-1.0], [1]]), rtol=1e-3)
    assert "field.space contracted" in told and inspect(tmp_path)[0]["suggested_space"] == "contracted"
    settings = capture_settings(tmp_path)
    assert settings["field"]["space"] == "contracted" and "aabb" not in settings["data"]
    box, told = box_of(capture(tmp_path, poses, aabb_scale=4))
    assert np.allclose(box[1], 2 / 0.33) and told == "" and capture_settings(tmp_path)["field"]["space"] == "contracted"


def test_what_is_in_view_is_measured_across(tmp_path):
    """A ring of cameras that see twice as far sideways as up, some of them zoomed in, and one that looks elsewhere."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    target = np.array([7.0, 8, 9])
    poses = towards(target + 5 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1), target)
    tangents = np.tile([0.6, 0.3], (24, 1))
    tangents[::4] /= 8
    poses[5, :, :3] = poses[5, :, :3] @ Rotation.from_euler("y", 90, degrees=True).as_matrix()
    focus = find_focus(poses, tangents)
    assert np.allclose(focus.point, target, atol=1e-3) and abs(focus.distance - 5) < 1e-3
    assert np.allclose(focus.half, [3.0, 3.0, 1.5], rtol=0.03)


def test_the_point_is_where_lines_come_nearest():
    """Against a search by brute force, with axes that miss one another."""
    generator = np.random.default_rng(3)
    poses = towards(6 * sphere(15, seed=4), np.zeros(3))
    poses[:, :, 3] += generator.normal(0, 0.2, (15, 3))
    focus = find_focus(poses, np.full((15, 2), 0.5))

    def total(point):
        offset = point - poses[:, :, 3]
        return np.linalg.norm(np.cross(offset, poses[:, :, 2]), axis=1).sum()

    steps = generator.normal(0, 1, (2000, 3)) * 10.0 ** generator.uniform(-3, 0, (2000, 1))
    assert total(focus.point) <= min(total(focus.point + step) for step in steps) * (1 + 1e-5)


def side_by_side():
    poses = np.tile(np.eye(4)[:3], (9, 1, 1))
    poses[:, :2, 3] = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    return poses


def outwards():
    places = 0.5 * sphere(20)
    return towards(places, np.zeros(3)) @ np.diag([-1.0, 1, -1, 1])  # the same places, turned round


@pytest.mark.parametrize("poses", [side_by_side(), outwards(), towards(np.array([[4.0, 0, 0]]), np.zeros(3))])
def test_cameras_without_a_common_focus(tmp_path, poses):
    assert find_focus(poses, np.full((len(poses), 2), 0.4)) is None
    box, told = box_of(capture(tmp_path, poses, holdout=0))
    assert np.allclose(box[1], 1 / 0.66) and told == ""  # the rule's holds them, or lies before them
    far = poses.copy()
    far[:, :, 3] += [0, 300, 0]
    box, told = box_of(capture(tmp_path, far))
    if len(poses) > 1:
        assert ((far[:, :, 3] > box[0]) & (far[:, :, 3] < box[1])).all()
        assert "around the cameras" in told and inspect(tmp_path)[0]["suggested_space"] == "contracted"
    else:  # a single one says nothing
        assert np.allclose(box[1], 1 / 0.66)


def ply(path, points, form="binary_little_endian", count=None):
    head = f"ply\nformat {form} 1.0\nelement vertex {len(points) if count is None else count}\n"
    head += "".join(f"property double {axis}\n" for axis in "xyz") + "property uchar red\nend_header\n"
    order = ">" if "big" in form else "<"
    body = b"".join(struct.pack(order + "3dB", *point, 7) for point in points)
    if form == "ascii":
        body = "".join(f"{x!r} {y!r} {z!r} 7\n" for x, y, z in points.tolist()).encode()
    path.write_bytes(head.encode() + body)


def test_points_place_the_box(tmp_path):
    """A tenth of them are wrong matches, a thousand times farther; they say more than the cameras' focus does."""
    generator = np.random.default_rng(0)
    points = generator.uniform([-0.5, -1, -0.2], [0.5, 1, 0.2], (2000, 3)) + np.array([0.5, 0, 0])
    points[::10] *= 1000
    poses = towards(4 * sphere(12, True), np.zeros(3))
    capture(tmp_path, poses, aabb_scale=32, ply_file_path="points.ply")
    for form in ("binary_little_endian", "binary_big_endian", "ascii"):
        ply(tmp_path / "points.ply", points, form)
        box, told = box_of(tmp_path)
        assert np.allclose(box, [[0, -1, -0.2], [1, 1, 0.2]], atol=0.13) and "by 2,000 sparse points" in told
        assert inspect(tmp_path)[0]["sparse_points"] == 2000
    capture(tmp_path, poses, aabb_scale=1, ply_file_path="C:\\work\\points.ply")
    box, told = box_of(tmp_path)
    assert np.allclose(box[1], 1 / 0.66) and told == ""  # that rule's box holds them
    ply(tmp_path / "points.ply", points + np.array([0, 0, 5000.0]))
    assert "0% of the sparse points are in view" in box_of(tmp_path)[1]


def test_points_that_cannot_be_used_are_said(tmp_path):
    poses, points = towards(4 * sphere(12, True), np.zeros(3)), np.zeros((5, 3))
    file = tmp_path / "points.ply"
    for write, said in (
        (lambda: None, "is not there"),
        (lambda: file.write_bytes(b""), "is not used"),
        (lambda: file.write_bytes(b"\x89PNG" * 99), "no PLY header"),
        (lambda: ply(file, points, count=10**15), "claims 1,000,000,000,000,000 points"),
        (lambda: ply(file, points, "ascii", count=6), "claims 6 points"),
        (lambda: ply(file, points + np.nan), "not finite"),
        (lambda: ply(file, points), "5 sparse points are too few"),
    ):
        capture(tmp_path, poses, aabb_scale=32, ply_file_path="points.ply")
        write()
        box, told = box_of(tmp_path)
        assert said in told and "12 optical axes meet" in told and np.ptp(box, 0).max() < 4
    (tmp_path / "scene").mkdir()
    for path in ("../points.ply", "/etc/passwd", 7, "", "a\0b"):
        found, notes = read_points({"ply_file_path": path}, tmp_path / "scene")
        assert found is None and len(notes) == 1


@pytest.mark.parametrize(("name", "scale"), [("aabb_scale_32", 1.0), ("nerfstudio_no_box", 2.5)])
def test_the_faults_have_nearly_the_true_box(data_folder, name, scale):
    """That is what the capture they were made of states."""
    low, high = scale * np.array([[-1.0085, -1.0085, -0.5588], [1.0085, 1.0085, 0.6778]])
    scene = load_posed(data_folder / "faults/captures" / name)
    box = scene.aabb.numpy().reshape(2, 3)
    assert (box[0] <= low).all() and (box[1] >= high).all() and (box[1] - box[0] < 1.35 * (high - low)).all()
    assert any(note.startswith("box: instant-ngp's rule") for note in scene.notes)


@pytest.mark.parametrize(("name", "half"), [("lego", 1.5), ("fox", 2 / 0.33)])
def test_known_captures_keep_their_rule(data_folder, name, half):
    listing = read_placed(data_folder / name)
    assert np.allclose(listing.aabb, [-half] * 3 + [half] * 3) and listing.notes == () and listing.rule is not None


def test_boxes_of_points():
    points = np.random.default_rng(0).normal(0, 1, (500, 3))
    low, high = np.percentile(points, (1, 99), axis=0)
    margin = 0.05 * (high - low).max()
    assert np.allclose(points_box(points), [*(low - margin), *(high + margin)])
    assert points_box(points[:7]) is None and points_box(np.ones((50, 3))) is None
