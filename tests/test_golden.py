"""Files of an earlier day are read as they were then, and no change of what they mean would pass unseen."""

import itertools
import json
import subprocess
import sys

import golden_reading
import pytest
import second_decoder
from golden_reading import FOLDER, cells_of, checksum, differences, read

from sinefield.compress import adapter_table, container, note, quantize, reader, settings
from sinefield.errors import SinefieldError
from sinefield.nn import mlp

EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
FILES = EXPECTED["files"]
PACKED = [name for name in FILES if name.endswith(".sine") and FILES[name]["kind"] not in ("mesh", "shared", "code")]
"""What the second decoder reads, of kinds with a number; it has no meshes."""
FIELDS = [name for name in FILES if FILES[name]["kind"] not in ("adapter", "code")]
FAR_OFF = 5.0
"""So many times the tolerance a change of meaning must differ by."""


def differ(name, slack=1.0):
    return differences(read(FOLDER, name, EXPECTED["ask"]), FILES[name], slack)


# --- the files


@pytest.mark.parametrize("name", FILES)
def test_it_decodes_to_what_it_did(name):
    assert differ(name) == []


def test_opening_a_field_needs_no_compiler_of_torch():
    """It would take 140 MB and a second; arithmetic on shapes alone, torch's meta device, brings it in."""
    names = [str(FOLDER / name) for name in FIELDS]
    code = f"""
import sys
from sinefield.store.fields import load_field
for name in {names}:
    load_field(name)
    assert "torch._dynamo" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_file_is_expected_and_all_are_small():
    assert sorted(golden_reading.names_in(FOLDER)) == sorted(FILES)
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    for path in files:  # nothing of the machine that made them
        for word in (b"/tmp", b"/work", b"/home", b"/root"):
            assert word not in path.read_bytes(), path


def test_the_files_have_every_choice():
    have = {}
    for name in FIELDS:
        for key, value in FILES[name]["settings"].items():
            have.setdefault(key, set()).add(value if isinstance(value, str) else str(value))
    for key, values in CHOICES.items():
        assert have[key] == set(values), key
    kinds = {form["kind"] for form in FILES["adapter_kmeans.sine"]["settings"].values()}
    assert kinds == set(ADAPTERS)


@pytest.mark.parametrize("name", PACKED)
def test_the_second_decoder_reads_the_same(name):
    settings, place, values, cells, note = second_decoder.decode((FOLDER / name).read_bytes())
    was = FILES[name]
    found = {key: [list(value.shape), checksum(value)] for key, value in values.items()}
    assert found == was["tensors"] and note == was.get("note", {})
    if was["kind"] != "adapter":
        assert settings == was["settings"]
        if place is not None:
            assert list(place) == was["place"]["size" if was["kind"] == "image" else "aabb"]
        assert cells is None or cells_of(cells) == was["cells"]
    elif "edit" in was["settings"]:
        edit = was["settings"]["edit"]
        box = None if place[2] is None else list(place[2])
        assert settings == was["settings"]["targets"] and (place[0], place[1], box) == (
            *(edit["of"], edit["base"]),
            edit["box"],
        )
    else:
        assert settings == was["settings"]


def test_the_second_decoder_reads_the_same_base_and_code():
    base, code = FILES["shared.sine"], FILES["code_of_shared.sine"]
    told = second_decoder.decode_registered((FOLDER / "shared.sine").read_bytes(), second_decoder.shared_shapes)
    kind, settings, arrays, values, note = told
    assert (kind, settings, arrays, note) == ("shared", base["settings"], {}, base["note"])
    assert {key: [list(value.shape), checksum(value)] for key, value in values.items()} == base["tensors"]
    slopes = values["slopes"].astype(int).tolist()
    box, mark, levels, note = second_decoder.code((FOLDER / "code_of_shared.sine").read_bytes(), slopes)
    assert {"base": mark, "levels": list(levels)} == code["settings"]
    assert (box == code["place"]["aabb"]).all() and note == code["note"]


# --- what a change would do


def unlike(names):
    """Every one of these files is read otherwise by far, or not at all."""
    for name in names:
        try:
            found = differ(name, FAR_OFF)
        except (SinefieldError, RuntimeError, IndexError, KeyError, ValueError):
            found = ["refused"]
        assert found, name


ACTIVATED = {
    "relu": "shape_relu.sine",
    "leaky_relu": "shape.sine",
    "gaussian": "occupancy_lowrank.sine",
    "sine": "shape_siren.sine",
    "softplus": "occupancy_dense.sine",
}


@pytest.mark.parametrize("pair", list(itertools.combinations(ACTIVATED, 2)), ids="-".join)
def test_two_activations_swapped(pair, monkeypatch):
    plain = mlp.Activation

    def swapped(name, *rest):
        return plain(pair[1 - pair.index(name)] if name in pair else name, *rest)

    monkeypatch.setattr(mlp, "Activation", swapped)
    unlike(ACTIVATED[name] for name in pair)


CHOICES = {
    "weights": ["sine", "lowrank", "dense"],
    "activation": ["relu", "leaky_relu", "gaussian", "sine", "softplus"],
    "represents": ["distance", "occupancy", "sheet"],
    "loss": ["tanh", "l1", "bce", "mse", "asinh"],
    "encoding": ["frequency", "hash"],
    "space": ["box", "ndc", "contracted"],
    "density": ["free", "distance"],
    "attention": ["softmax", "x", "x^3"],
    "graying": ["none", "svd", "dct"],
    "colours": ["no", "yes"],
}
"""A choice is stored as its place in this list, whatever the order in the configuration."""
PAIRS = [(setting, *pair) for setting, names in CHOICES.items() for pair in itertools.combinations(names, 2)]


@pytest.mark.parametrize(("setting", "one", "other"), PAIRS)
def test_two_choices_swapped_in_the_table(setting, one, other, monkeypatch):
    names = [{one: other, other: one}.get(name, name) for name in CHOICES[setting]]
    monkeypatch.setitem(settings.FORMS, setting, tuple(names))
    # A file says only what is not usual.
    bases = {"shape": second_decoder.SHAPE, "radiance": second_decoder.RADIANCE}
    bases |= {"image": second_decoder.IMAGE, "shapes": second_decoder.SHAPES}
    said = [n for n in PACKED if FILES[n]["kind"] != "adapter"]
    said = [n for n in said if FILES[n]["settings"].get(setting) in (one, other)]
    said = [n for n in said if FILES[n]["settings"][setting] != bases[FILES[n]["kind"]][setting]]
    assert said
    unlike(said)


@pytest.mark.parametrize("pair", list(itertools.combinations(("sine", "lora", "sine-dora", "dora"), 2)), ids="-".join)
def test_two_kinds_of_adapter_swapped(pair, monkeypatch):
    swap = dict(zip(pair, pair[::-1], strict=True))
    monkeypatch.setattr(adapter_table, "ADAPTER_KINDS", [swap.get(kind, kind) for kind in ADAPTERS])
    unlike(["adapter_kmeans.sine", "adapter_uniform.sine"])


@pytest.mark.parametrize("pair", list(itertools.combinations(("shape", "radiance", "image"), 2)), ids="-".join)
def test_two_kinds_of_edit_swapped(pair, monkeypatch):
    swap = dict(zip(pair, pair[::-1], strict=True))
    monkeypatch.setattr(adapter_table, "EDITED", [swap.get(kind, kind) for kind in EDITED])
    unlike(f"edit_of_{name}.sine" for name in pair)


@pytest.mark.parametrize(
    "pair", list(itertools.combinations(("shape", "radiance", "image", "adapter", "shapes"), 2)), ids="-".join
)
def test_two_kinds_of_file_swapped(pair, monkeypatch):
    swap = dict(zip(pair, pair[::-1], strict=True))
    monkeypatch.setattr(container, "KINDS", {swap.get(kind, kind): number for kind, number in KINDS.items()})
    unlike("adapter_kmeans.sine" if name == "adapter" else f"{name}.sine" for name in pair)


# --- the numbers of the format

KINDS = {"shape": 1, "radiance": 2, "image": 3, "adapter": 4, "shapes": 5, "mesh": 6, "code": 7}
ADAPTERS = ["sine", "lora", "sine-dora", "dora"]
EDITED = ["shape", "radiance", "image"]
WHOLE, NUMBER, YES, LIST = (5, b"\x05"), (0.25, b"\0\0\x80>"), (True, b"\x01"), ([1, 200], b"\x02\x01\xc8\x01")
SETTINGS = {
    **{1: ("width", WHOLE), 2: ("depth", WHOLE), 3: ("skips", LIST), 4: ("weights", CHOICES), 5: ("rank", WHOLE)},
    **{6: ("omega", NUMBER), 7: ("phase", NUMBER), 8: ("bound", NUMBER), 9: ("activation", CHOICES)},
    **{10: ("sigma", NUMBER), 11: ("omega0", NUMBER), 12: ("frequencies", WHOLE), 13: ("represents", CHOICES)},
    **{14: ("band", NUMBER), 15: ("loss", CHOICES), 16: ("features", WHOLE), 17: ("head_width", WHOLE)},
    **{18: ("head_depth", WHOLE), 19: ("grid", WHOLE), 20: ("steps", WHOLE), 21: ("encoding", CHOICES)},
    **{22: ("levels", WHOLE), 23: ("log2_table", WHOLE), 24: ("coarsest", WHOLE), 25: ("finest", WHOLE)},
    **{26: ("space", CHOICES), 27: ("grid_levels", WHOLE), 28: ("cone_angle", NUMBER), 29: ("density", CHOICES)},
    **{30: ("beta", NUMBER), 31: ("points", WHOLE), 32: ("dim", WHOLE), 33: ("tokens", WHOLE), 34: ("heads", WHOLE)},
    **{35: ("blocks", WHOLE), 36: ("expand", WHOLE), 37: ("attention", CHOICES), 38: ("graying", CHOICES)},
    **{39: ("epsilon", NUMBER), 40: ("skip_attention", YES), 41: ("skip_feedforward", YES), 42: ("colours", CHOICES)},
    **{43: ("colour_width", WHOLE), 44: ("colour_depth", WHOLE), 45: ("colour_frequencies", WHOLE)},
    **{46: ("vertices", WHOLE), 47: ("faces", WHOLE), 48: ("digits", WHOLE), 49: ("subdivisions", WHOLE)},
}
"""By number in a file: the name, and a value with the bytes that it is stored as."""
OF_KIND = {
    "shape": [*range(1, 16), *range(21, 26), *range(42, 46)],
    "radiance": [*range(1, 13), *range(16, 31)],
    "image": [*range(1, 13), *range(21, 26)],
    "shapes": [*range(4, 9), 13, 14, *range(31, 42)],
    "mesh": [46, 47, 48, 49],
    "code": [],
}
NONE_TOO = {"omega", "phase"}


def test_numbers_of_kinds():
    assert container.KINDS == KINDS and (container.MAGIC, container.VERSION) == (b"SINE", 2)
    assert list(adapter_table.ADAPTER_KINDS) == ADAPTERS and list(adapter_table.EDITED) == EDITED


def test_a_kind_has_these_settings():
    assert len(settings.SETTINGS) == len(SETTINGS)
    for kind, numbers in OF_KIND.items():
        assert set(settings.BASE[kind]) == {SETTINGS[n][0] for n in numbers}, kind


@pytest.mark.parametrize(("kind", "number"), [(kind, n) for kind, numbers in OF_KIND.items() for n in numbers])
def test_bytes_of_a_setting(kind, number):
    name, form = SETTINGS[number]
    cases = [form] if form is not CHOICES else [(choice, bytes([i])) for i, choice in enumerate(CHOICES[name])]
    if name in NONE_TOO:
        cases = [*cases, (None, None)]
    base = settings.BASE[kind][name]
    for value, data in cases:
        row = bytes([number | 128]) if data is None else bytes([number]) + data
        found = settings.settings_in(kind, reader.Reader(b"\x01" + row))
        assert found == {**settings.BASE[kind], name: value} and type(found[name]) is type(value)
        written = settings.settings_out(kind, {name: value})
        assert written == (b"\0" if value == base else b"\x01" + row)


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_choice_more_is_unknown(kind):
    """Whoever gives a choice a number adds it at the end, here too."""
    for number in OF_KIND[kind]:
        name, form = SETTINGS[number]
        if form is CHOICES:
            with pytest.raises(ValueError, match="is unknown"):
                settings.settings_in(kind, reader.Reader(bytes([1, number, len(CHOICES[name])])))


def test_base_values_are_those_of_version_1():
    for kind in OF_KIND:
        assert settings.BASE[kind] == getattr(second_decoder, kind.upper()), kind
    assert note.NOTE_WORDS == second_decoder.WORDS and quantize.MAX_LEVEL == 1 << 15
