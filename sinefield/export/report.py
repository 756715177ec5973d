"""A run as one web page that opens from disk: scores, curves, pictures, the field to turn, a video, the settings."""

import base64
import io
import shlex
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float
from PIL import Image

from sinefield.adapters.edits import load_edit
from sinefield.adapters.file import describe_adapter
from sinefield.errors import SinefieldError
from sinefield.example_files import EXAMPLE, is_sine
from sinefield.export.flight import Flight
from sinefield.export.info import describe
from sinefield.export.mesh import extract_field
from sinefield.export.page import curve, data_uri, html_table, page
from sinefield.export.player import KINDS, contents_of, element_of, script_for
from sinefield.export.video import export_video
from sinefield.fields.base import Field, Kind, Mesh, kind_of
from sinefield.files import check_output, read_bytes, scratch_folder, write_text
from sinefield.json_text import to_json
from sinefield.meshing.extract import strays_said
from sinefield.metrics import SCORES
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.strict import dump_yaml, to_plain

MESH_RESOLUTION = 128
MAX_VERTICES = 65_535
"""Faces are written as 16-bit indices; and with as many vertices a mesh takes 2 MB of the page."""
FRAMES, FPS, VIDEO_WIDTH = 48, 16, 200
MAX_VIDEO = 64 << 20
"""Bytes of a video that goes into the page."""
MAX_LIVE = 4 << 20
"""Bytes of a field that goes into the page, to be drawn there."""
MAX_PICTURES = 6
MAX_PNG = 256 << 20
MAX_PICTURE, PICTURE_WIDTH = 400_000, 1200
"""A picture of more bytes goes in as a JPEG no wider than this."""


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
    video: str | Path | None = None,
) -> dict[str, Any]:
    """Write the page of a run folder or a `.sine` file, atomically.

    What a run does not have (scores, curves, pictures; a surface; of a `.sine` file all that only a folder holds) is
    left out, and the page says so.

    Arguments:
        out: an .html file; when None report.html in the run's folder, the `.sine` file's name with .html, or NAME.html
            in the current folder for `example:NAME`.
        adapters: edits of the run's field: the page is then of the edited field, and beside the last of them.
        video: an .mp4 of the field that is there already, in place of one turn around it.

    Returns:
        run, out, kind, bytes, vertices of the mesh, left_out (lines), seconds.

    Raises:
        SinefieldError: see `load_field`; `out` is no .html or exists already; a damaged report.json; `video` is
            missing, empty or larger than 64 MiB.
    """
    out = _page_path(run, out, adapters)
    begin = time.perf_counter()
    field, _ = load_field(run, adapters)
    check_output(out, overwrite)
    facts, _ = describe(run)
    left_out: list[str] = []
    body, settings = _training_parts(run, adapters, field, facts, left_out)
    title = " + ".join(Path(path).resolve().name for path in (run, *adapters))
    live, player = _live_part(run, adapters, field, title, left_out)
    shown, vertices = _field_parts(run, adapters, field, left_out, video, bool(live))
    end = _closing_parts(facts, "Sizes of the base" if adapters else "Sizes", settings, left_out)
    summary = f"base: {_summary(facts)}" if adapters else _summary(facts)
    head = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(summary)}</p>']
    write_text(out, page(title, [*head, *live, *body, *shown, *end], vertices > 0, player), overwrite)
    return {
        "run": str(run),
        "out": str(out),
        "kind": facts["kind"],
        "bytes": out.stat().st_size,
        "vertices": vertices,
        "left_out": left_out,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _page_path(run: str | Path, out: str | Path | None, adapters: Sequence[str | Path]) -> Path:
    if out is not None:
        out = Path(out)
    elif adapters:
        out = Path(adapters[-1]).with_suffix(".html")
    else:
        beside = Path(str(run).removeprefix(EXAMPLE)).with_suffix(".html")  # of an example in the current folder
        out = beside if is_sine(run) else Run(run).page_path
    if out.suffix.lower() not in (".html", ".htm"):
        raise SinefieldError(f"{out}: the name of a web page must end in .html")
    return out


def _training_parts(
    run: str | Path, adapters: Sequence[str | Path], field: Any, facts: dict[str, Any], left_out: list[str]
) -> tuple[list[str], str]:
    """What is known of how the field came to be and how good it is; and its settings as YAML."""
    if adapters:
        body, note = _edit_parts(adapters, left_out)
        return body, dump_yaml({"kind": facts["kind"], "field": to_plain(field.config), "note": note})
    if is_sine(run):
        settings = {"kind": facts["kind"], "field": facts["settings"], "note": facts["note"]}
        return _file_parts(facts, left_out), dump_yaml(settings)
    return _run_parts(Run(run), facts, left_out), dump_yaml(to_plain(Run(run).config()))


def _field_parts(
    run: str | Path,
    adapters: Sequence[str | Path],
    field: Any,
    left_out: list[str],
    video: str | Path | None,
    live: bool,
) -> tuple[list[str], int]:
    """What the field shows of itself, and the vertices of its mesh: 0 where there is none.

    Arguments:
        live: whether the page draws the field itself: then a surface needs no mesh beside it.
    """
    shows = kind_of(field).shows
    if shows == "picture":
        return _image_part(field), 0
    if shows is None:
        return [], 0
    shown, vertices = ([], 0) if live and shows == "surface" else _mesh_part(field, left_out)
    turning = _video_part(run, left_out, adapters) if video is None else _given_video(Path(video))
    return [*shown, *turning], vertices


def _live_part(
    run: str | Path, adapters: Sequence[str | Path], field: Any, title: str, left_out: list[str]
) -> tuple[list[str], str | None]:
    """The field itself, drawn by the page, and the script that does it; nothing of a kind that the player lacks."""
    if field.kind not in KINDS:
        return [], None
    try:
        contents = contents_of(run, field, adapters)
    except SinefieldError as error:
        left_out.append(f"live field: {error}")
        return [], None
    size = sum(map(len, contents))
    if size > MAX_LIVE:
        left_out.append(f"live field: {size:,} bytes are too many for a page; sinefield page makes one of its own")
        return [], None
    does = "move" if kind_of(field).shows == "picture" else "turn"
    hint = f"Drawn from the field's {size:,} bytes. Drag to {does} it; click, then use the wheel, to come closer."
    return ["<h2>The field</h2>", *element_of(title, contents), f'<p class="soft">{hint}</p>'], script_for(
        field, bool(adapters)
    )


def _closing_parts(facts: dict[str, Any], sizes: str, settings: str, left_out: list[str]) -> list[str]:
    parts = [f"<h2>{sizes}</h2>", *_sizes(facts), "<h2>Configuration</h2>", f"<pre>{escape(settings)}</pre>"]
    if left_out:
        items = "".join(f"<li>{escape(what)}</li>" for what in left_out)
        parts += ["<h2>Left out</h2>", f'<ul class="soft">{items}</ul>']
    return parts


def _summary(facts: dict[str, Any]) -> str:
    trained = f", {facts['steps']:,} steps" if facts["steps"] is not None else ""
    if trained and facts["seconds"] is not None:
        trained += f" in {facts['seconds']:.0f} s"
    return f"{facts['kind']} field, {facts['params']:,} parameters, {facts['bytes']:,} bytes{trained}"


def _run_parts(run: Run, facts: dict[str, Any], left_out: list[str]) -> list[str]:
    """Scores, command, machine, curves and pictures of a run folder."""
    report = run.read_report()
    if report is None:
        left_out.append("scores: the run has no report.json; sinefield eval makes it")
    again = f"runs/{run.folder.resolve().name}_again"
    command = shlex.join(["sinefield", "train", str(run.config_path), "--out", again])
    parts = _score_parts(report) if report is not None else []
    parts += ["<h2>To train it again</h2>", f"<pre>{escape(command)}</pre>"]
    machine = (report or {}).get("machine")
    if isinstance(machine, dict):
        line = ", ".join(f"{key} {value}" for key, value in machine.items())
        parts.append(f'<p class="soft">Scored on: {escape(line)}</p>')
    kind = kind_of(run.config())
    parts += _curve_parts(run.read_metrics(), kind, left_out)
    return parts + _picture_parts(run, kind, left_out)


def _score_parts(report: dict[str, Any]) -> list[str]:
    """Scores and what has to be said of them."""
    remarks = report.get("remarks")
    notes = [report.get("lpips_note"), report.get("surface_note"), *(remarks if isinstance(remarks, list) else [])]
    if report.get("views"):
        notes.insert(0, f"means over {report['views']} {report.get('split')} views, on {report.get('background')}")
    lines = [f'<p class="soft">{escape(str(line))}</p>' for line in notes if line]
    return [*_scores({SCORES[key]: report.get(key) for key in SCORES}), *lines]


def _curve_parts(metrics: list[dict[str, Any]], kind: Kind, left_out: list[str]) -> list[str]:
    """Loss and score over the time of training."""
    losses, scores = _series(metrics, "loss"), _series(metrics, kind.score)
    # A run whose rays never met the box has only zeros, which no logarithm shows.
    loss = curve(losses, "loss", "loss", logarithmic=any(y > 0 for _, y in losses))
    curves = [loss, curve(scores, "score", kind.quick)]
    if not any(curves):
        left_out.append("curves: metrics.jsonl holds no scored moment")
        return []
    return ["<h2>Training</h2>", '<div class="curves">', *curves, "</div>"]


def _series(metrics: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = [(line.get("seconds"), line.get(key)) for line in metrics if isinstance(line, dict)]
    return [(x, y) for x, y in pairs if isinstance(x, int | float) and isinstance(y, int | float)]


def _scores(scores: dict[str, Any]) -> list[str]:
    known = [(name, value) for name, value in scores.items() if isinstance(value, int | float)]
    items = "".join(f"<li><b>{value:.4g}</b><span>{escape(name)}</span></li>" for name, value in known)
    return [f'<ul class="scores">{items}</ul>'] if items else []


def _picture_parts(run: Run, kind: Kind, left_out: list[str]) -> list[str]:
    """Reference, prediction and error pictures as evaluation left them."""
    figures = []
    found = sorted(run.pictures.glob(kind.pictures))
    for path in found[:MAX_PICTURES]:
        try:
            uri = _picture(path)
        except (SinefieldError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            left_out.append(f"picture {path.name}: cannot be read ({error})")
            continue
        figures.append(f'<figure><img alt="{escape(path.stem)}" src="{uri}"></figure>')
    if len(found) > MAX_PICTURES:
        left_out.append(f"pictures: {len(found) - MAX_PICTURES} more in {run.pictures}")
    if not figures:
        left_out.append(f"pictures: none in {run.pictures}")
        return []
    return ["<h2>Pictures</h2>", f'<p class="soft">{escape(kind.legend)}</p>', *figures]


def _image_part(field: Any) -> list[str]:
    """What an image field shows, no larger than PICTURE_WIDTH."""
    content = io.BytesIO()
    width = getattr(field, "width", None)  # a registered kind need not have a size of its own
    pixels = kind_of(field).picture(field, None if width is None else min(width, PICTURE_WIDTH))
    width, height = (pixels.shape[1], pixels.shape[0]) if width is None else (width, field.height)
    size = f"{width:,}×{height:,} pixels, from the field alone"
    Image.fromarray(pixels).save(content, "PNG")
    return [
        "<h2>Image</h2>",
        f'<p class="soft">{size}; sinefield image renders it at any size.</p>',
        f'<figure><img alt="the field" src="{_uri(content.getvalue())}"></figure>',
    ]


def _picture(path: Path) -> str:
    return _uri(read_bytes(path, MAX_PNG, "picture"))


def _uri(content: bytes) -> str:
    """A PNG within an attribute, as a smaller JPEG where it is large."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        if len(content) <= MAX_PICTURE:
            return data_uri(content, "image/png")
        image.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
        smaller = io.BytesIO()
        image.convert("RGB").save(smaller, "JPEG", quality=88)
    return data_uri(smaller.getvalue(), "image/jpeg")


def _file_parts(facts: dict[str, Any], left_out: list[str]) -> list[str]:
    """What a `.sine` file knows of its scores."""
    left_out.append("training command, machine, curves and pictures: a packed file does not hold them")
    quality = facts["quality_before_and_after"]
    if not quality:
        left_out.append("scores: the file's note has none; sinefield eval FILE --data PATH computes them")
    words = ("before packing", "after packing")
    return _scores({f"{SCORES[k]} {w}": v for k, pair in quality.items() for w, v in zip(words, pair, strict=True)})


def _edit_parts(adapters: Sequence[str | Path], left_out: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Scores and layers of edits, and the last one's note."""
    left_out.append("training command, machine, curves and pictures: an adapter file does not hold them")
    note = load_edit(adapters[-1]).note
    words = ("of the adapter before packing", "after packing")
    scores = {f"{SCORES[k]} {w}": v for k in SCORES if k in note for w, v in zip(words, note[k], strict=True)}
    parts = _scores(scores)
    for path in adapters:
        facts, _ = describe_adapter(path)
        line = f"{facts['params']:,} parameters in {facts['bytes']:,} bytes"
        parts += [f"<h2>Adapter {escape(Path(path).name)}</h2>", f'<p class="soft">{line}</p>']
        parts.append(html_table(["layer", "matrix", "kind", "rank", "params", "bytes", "bits"], facts["layers"]))
    return parts, note


def _sizes(facts: dict[str, Any]) -> list[str]:
    """The tables of `sinefield info`."""
    if "weights" not in facts:
        rows = [*facts["tensors"], *facts["parts"]]
        return [html_table(["tensor", "shape", "levels", "bits", "bytes", "share"], rows)]
    ranks = ["name", "weight", "shape", "params", "stable_rank", "effective_rank", "numerical_rank"]
    parts = [html_table(["tensor", "shape", "params", "bytes"], facts["tensors"])]
    return [*parts, "<h2>Ranks</h2>", html_table(ranks, facts["weights"])] if facts["weights"] else parts


def _mesh_part(field: Field, left_out: list[str]) -> tuple[list[str], int]:
    """The surface to turn, and how many vertices it has: 0 where there is none."""
    try:
        (vertices, faces, about), resolution = _small_surface(field)
    except SinefieldError as error:  # an untrained field may have no surface; the rest of the page still counts
        left_out.append(f"mesh: {error}")
        return [], 0
    kind = kind_of(field)
    normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    colours, up = kind.vertex_colours(field, vertices, np.asarray(normals)), kind.up(field)
    hint = "Drag to turn, then use the wheel to come closer; double click to go back. "
    hint += f"{len(vertices):,} vertices, at {resolution}³."
    if strays := about.get("strays"):
        hint += f" Note: {strays_said(strays)}."
    parts = [
        "<h2>Surface</h2>",
        '<canvas id="viewer" tabindex="0" aria-label="the surface, to turn with the mouse or the arrow keys"></canvas>',
        f'<p class="soft" id="hint">{hint}</p>',
        f'<script type="application/json" id="mesh">{to_json(mesh_data(vertices, faces, colours, up))}</script>',
    ]
    return parts, len(vertices)


def _small_surface(field: Field) -> tuple[Mesh, int]:
    """The mesh and the finest resolution of at most MESH_RESOLUTION whose vertices 16 bits can count."""
    resolution = MESH_RESOLUTION
    while True:
        mesh = extract_field(field, resolution)
        if len(mesh[0]) <= MAX_VERTICES:
            return mesh, resolution
        # Vertices grow with the square of the resolution.
        resolution = int(resolution * min(0.95, (MAX_VERTICES / len(mesh[0])) ** 0.5))


def mesh_data(
    vertices: Float[np.ndarray, "v 3"], faces: np.ndarray, colours: np.ndarray | None, up: Float[np.ndarray, "3"]
) -> dict[str, Any]:
    """A mesh as `viewer.js` takes it: turned so that `up` is y, in 16 bits a coordinate of its box.

    Arguments:
        vertices: (v, 3) world units, at most MAX_VERTICES of them.
        faces: (f, 3) indices.
        colours: (v, 3) uint8, or None.
        up: (3,) direction, not zero.

    Returns:
        box ((2, 3), world units from the middle), and in base64 vertices and faces (little-endian uint16) and colours.
    """
    # Right is x, or y where up is x itself; then z, towards the eye, is against the horizontal y of a z-up scene.
    up = up / np.linalg.norm(up)
    helper = np.eye(3)[0 if abs(up[0]) < 0.9 else 1]
    right = helper - (helper @ up) * up
    right /= np.linalg.norm(right)
    turned = vertices @ np.stack([right, up, np.cross(right, up)]).T
    low, high = turned.min(0), turned.max(0)
    middle, side = (low + high) / 2, np.maximum(high - low, 1e-30)
    quantised = ((turned - low) / side * 65535).round()

    def packed(values: np.ndarray, kind: str) -> str:
        return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()

    return {
        "box": [(low - middle).tolist(), (high - middle).tolist()],
        "vertices": packed(quantised, "<u2"),
        "faces": packed(faces, "<u2"),
        "colours": None if colours is None else packed(colours, "u1"),
    }


def _given_video(video: Path) -> list[str]:
    uri = data_uri(read_bytes(video, MAX_VIDEO, "video"), "video/mp4")
    return ["<h2>Video</h2>", f'<video autoplay loop muted playsinline controls src="{uri}"></video>']


def _video_part(run: str | Path, left_out: list[str], adapters: Sequence[str | Path] = ()) -> list[str]:
    """One turn around the field, or the usual path through it, as an mp4."""
    try:
        with scratch_folder() as folder:
            turn = Flight(frames=FRAMES, fps=FPS, size=(VIDEO_WIDTH, None))
            made = export_video(run, folder / "turn.mp4", turn, adapters=adapters)
            uri = data_uri((folder / "turn.mp4").read_bytes(), "video/mp4")
    except (SinefieldError, OSError) as error:
        left_out.append(f"video: {error}")
        return []
    size = f'width="{made["width"]}" height="{made["height"]}"'
    return ["<h2>One turn</h2>", f'<video {size} autoplay loop muted playsinline controls src="{uri}"></video>']
