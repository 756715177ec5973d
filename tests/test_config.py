"""Scene files: what is read, what is refused and in which words."""

import importlib
from pathlib import Path

import pytest

from sinefield.config import FAMILIES, load_config, make_config
from sinefield.errors import SinefieldError
from sinefield.strict import dump_yaml, to_plain
from sinefield.tables import table

ROOT = Path(__file__).parents[1]
SCENES = sorted((ROOT / "scenes").glob("*.yaml"))
SHAPE = "kind: shape\ndata:\n  path: a.obj\n"


def write(folder, text):
    path = folder / "scene.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SCENES, ids=lambda p: p.stem)
def test_every_scene_of_ours_loads(path):
    # Each item of a fleet brings its own data.
    config = load_config(path, {"data.path": "shape.ply"} if path.stem in ("fleet", "shared") else {})
    assert make_config(to_plain(config), "again") == config
    assert Path(config.data.path).is_absolute() or config.data.path.startswith(FAMILIES)


def test_there_are_scenes():
    assert {"demo", "demo_shape", "lego", "fox", "armadillo", "dragon"} <= {p.stem for p in SCENES}


def test_saved_config_reads_back(tmp_path):
    config = load_config(write(tmp_path, SHAPE), {"field.skips": "[1, 2]", "training.lr": "1e-3"})
    path = tmp_path / "saved.yaml"
    path.write_text(dump_yaml(to_plain(config)))
    assert load_config(path) == config


def test_overrides(tmp_path):
    config = load_config(write(tmp_path, SHAPE), {"field.rank": "4", "training.steps": "7", "seed": "3"})
    assert (config.field.rank, config.training.steps, config.seed) == (4, 7, 3)
    assert config.training.seconds == 60  # defaults stay


@pytest.mark.parametrize(("word", "read"), [("no", "no"), ("yes", "yes"), ("auto", "auto")])
def test_bare_yes_and_no_are_words(tmp_path, word, read):
    """YAML 1.1 takes them for true and false."""
    path = write(tmp_path, f"kind: shape\ndata: {{path: x.obj}}\nfield: {{colours: {word}}}\n")
    assert load_config(path).field.colours == read
    assert load_config(path, {"field.colours": word}).field.colours == read


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("SINEFIELD_DATA", "/somewhere")
    monkeypatch.chdir("/")
    assert load_config(write(tmp_path, SHAPE)).data.path == str(tmp_path / "a.obj")
    text = SHAPE.replace("a.obj", "$SINEFIELD_DATA/b.obj")
    assert load_config(write(tmp_path, text)).data.path == "/somewhere/b.obj"
    assert load_config(write(tmp_path, SHAPE), {"data.path": "c.obj"}).data.path == "/c.obj"


BAD = {
    "unknown key": (SHAPE + "field:\n  widht: 3\n", "did you mean 'width'"),
    "unknown group": (SHAPE + "feild: {}\n", "did you mean 'field'"),
    "wrong type": (SHAPE + "field:\n  width: wide\n", "field.width is 'wide'; should be a whole number"),
    "fraction": (SHAPE + "field:\n  width: 3.5\n", "should be a whole number"),
    "bool for number": (SHAPE + "field:\n  width: true\n", "should be a whole number"),
    "list for number": (SHAPE + "training:\n  lr: [1]\n", "should be a number"),
    "nan": (SHAPE + "training:\n  lr: .nan\n", "should be a number"),
    "not one of": (SHAPE + "field:\n  weights: sparse\n", "should be one of sine, lowrank, dense"),
    "rank too large": (SHAPE + "field:\n  width: 8\n  rank: 9\n", "rank is 9, larger than the width 8"),
    "both phases": (SHAPE + "field:\n  omega: 9\n  phase: 1\n", "omega and phase"),
    "negative": (SHAPE + "training:\n  seconds: -1\n", "seconds is -1"),
    "no budget": (SHAPE + "training:\n  seconds: null\n", "training.seconds or training.steps"),
    "loss": (SHAPE + "field:\n  loss: bce\n", "loss bce does not suit distance"),
    "skip": (SHAPE + "field:\n  skips: [9]\n", "skips has 9"),
    "no kind": ("data:\n  path: a\n", "has no kind"),
    "kind": ("kind: shap\n", "did you mean 'shape'"),
    "no path": ("kind: shape\n", "data.path is missing"),
    "syntax": ("kind: shape\ndata: [1,\n", "line"),
    "tab": ("kind: shape\n\tdata: 1\n", "line 2"),
    "twice": ("kind: shape\nkind: shape\n", "stands twice"),
    "alias": ("a: &x [1]\nb: *x\n", "aliases"),
    "tag": ("kind: !!python/object/apply:os.system ['true']\n", "line 1"),
    "not a mapping": ("- 1\n", "key: value"),
    "empty": ("", "empty"),
    "binary": ("\x00\x01", "not a readable"),
    "box": ("kind: radiance\ndata:\n  path: a\n  aabb: [1, 2]\n", "aabb has 2 numbers"),
    "box inside out": ("kind: radiance\ndata:\n  path: a\n  aabb: [1, 0, 0, 0, 1, 1]\n", "minimum above maximum"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scene_files(tmp_path, name):
    text, words = BAD[name]
    path = write(tmp_path, text)
    with pytest.raises(SinefieldError) as caught:
        load_config(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_deep_nesting_is_refused(tmp_path):
    with pytest.raises(SinefieldError):
        load_config(write(tmp_path, "a: " + "[" * 50_000))


def test_huge_file_is_refused(tmp_path):
    with pytest.raises(SinefieldError, match="larger"):
        load_config(write(tmp_path, "# " + "x" * 1_000_001))


def test_bad_override(tmp_path):
    with pytest.raises(SinefieldError, match="did you mean 'rank'"):
        load_config(write(tmp_path, SHAPE), {"field.rnk": "4"})
    with pytest.raises(SinefieldError, match="kind is a value"):
        load_config(write(tmp_path, SHAPE), {"kind.x": "4"})


def test_table_aligns():
    text = table(["name", "n"], [{"name": "a", "n": 1000}, {"name": "bb", "n": 2}])
    assert text.splitlines() == ["name      n", "a     1,000", "bb        2"]
    assert table(["x"], [{"x": [1, 2]}], markdown=True).splitlines() == ["| x   |", "|-----|", "| 1×2 |"]


def test_every_setting_is_on_its_page(monkeypatch):
    """docs/settings.md is what scripts/tables/settings.py makes, and no setting lacks a comment."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "tables")
    settings = importlib.import_module("settings")
    assert settings.page() == (ROOT / "docs" / "settings.md").read_text()


def test_omega_replaces_the_usual_phase(tmp_path):
    scene = write(tmp_path, SHAPE)
    assert (load_config(scene).field.omega, load_config(scene).field.phase) == (None, 0.5)
    field = load_config(scene, {"field.omega": "9"}).field
    assert (field.omega, field.phase) == (9, None)
    # Neither, which files may say, stays as it is: it means what it meant when they were written.
    assert load_config(scene, {"field.phase": "null"}).field.phase is None


DEFAULTS = {"shape": "armadillo", "radiance": "lego", "image": "image", "shapes": "shapes"}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_those_of_the_scenes(kind):
    """A scene of the usual size gives its data and how long it is trained, nothing more."""
    scene = to_plain(load_config(ROOT / "scenes" / f"{DEFAULTS[kind]}.yaml"))
    usual = to_plain(make_config({"kind": kind, "data": {"path": "a"}}, "usual"))
    scene["training"].pop("seconds"), usual["training"].pop("seconds")
    assert (scene["field"], scene["training"]) == (usual["field"], usual["training"])


@pytest.mark.parametrize("name", ["sigma", "omega0", "phase", "bound"])
@pytest.mark.parametrize("value", ["1e-320", "1e30", "0", "-1"])
def test_factors_that_single_precision_cannot_hold(tmp_path, name, value):
    with pytest.raises(SinefieldError, match=rf"{name} is .*; 1e-6 to 1e6"):
        load_config(write(tmp_path, SHAPE), {f"field.{name}": value})
