"""What a user would pick instead of a neural shape: quadric decimation, then Draco.

    pip install fast-simplification DracoPy
    python scripts/benchmarks/draco.py [NAME ...] [--all]      without names: armadillo

Every mesh is decimated to several numbers of faces by two quadric decimators (Garland & Heckbert, SIGGRAPH 1997), coded
with several numbers of bits for positions, decoded again and scored as a field is: IoU on the held-out points, Chamfer
distance from samples. Writes docs/results/draco.csv, where frontier is 1 for the rows that no other of the same mesh
beats in bytes and IoU: the curve to compare with. Meshes that are not run again keep their rows.
"""

import argparse
import csv
import io
from pathlib import Path
from typing import Literal

import DracoPy
import fast_simplification
import igl
import numpy as np
from jaxtyping import Bool, Float

from sinefield.config import data_folder
from sinefield.data.surfaces.sampling import REPORTED_SEED, heldout_points
from sinefield.data.surfaces.surface import Surface, load_surface, winding_number
from sinefield.fields.shape.scores import HELDOUT_POINTS
from sinefield.files import write_text
from sinefield.metrics.rate import pareto
from sinefield.metrics.shapes import compare_meshes, iou

STORE = Path(__file__).parents[2] / "docs" / "results" / "draco.csv"
COLUMNS = ["mesh", "decimation", "faces", "position_bits", "bytes", "iou", "chamfer_l1", "frontier"]
WATERTIGHT = ["armadillo", "xyzrgb_dragon_28k", "bunny_closed", "igea", "rocker-arm", "fandisk", "spot"]
FACES = [200, 400, 800, 1500, 3000, 6000, 12000, 25000]
BITS = [8, 9, 10, 11]
DECIMATIONS = ["fast", "qslim"]
# fast-simplification accepts collapses below an absolute error, so its result depends on the unit: in a box of 1 the
# armadillo loses 0.01 IoU at 3,000 faces, in one of 300 it no longer gets down to 200.
FAST_SIDE = 50.0


def draco_curve(
    surface: Surface,
    faces: list[int],
    points: Float[np.ndarray, "n 3"],
    inside: Bool[np.ndarray, "n"],
    bits: int = 9,
    level: int = 10,
    decimation: Literal["fast", "qslim"] = "fast",
) -> list[dict]:
    """Rate and quality of a decimated, coded and decoded mesh.

    Args:
        surface: a mesh, input coordinates.
        faces: numbers of faces to decimate to; those above the mesh's own leave it as it is.
        points: (n, 3) held-out points, input coordinates.
        inside: (n,) whether each is inside.
        bits: of each coordinate of a vertex, 1 to 30, over the longest side of the box.
        level: Draco's compression level, 0 to 10.
        decimation: "fast", fast-simplification's, or "qslim", libigl's, which is slower and better at few faces.

    Returns:
        One row a number of faces: faces (what the decoded mesh has), bytes, iou, chamfer_l1 in input units.
    """
    rows = []
    for count in faces:
        vertices, triangles = _decimate(surface, count, decimation)
        code = DracoPy.encode(vertices, triangles, quantization_bits=bits, compression_level=level)
        mesh = DracoPy.decode(code)
        decoded = Surface(mesh.points.astype(np.float64), mesh.faces.astype(np.int32), None, None, "draco", {})
        rows.append(
            {
                "faces": len(decoded.faces),
                "bytes": len(code),
                "iou": float(iou(winding_number(decoded, points) > 0.5, inside)),
                "chamfer_l1": compare_meshes(decoded.vertices, decoded.faces, surface)["chamfer_l1"],
            }
        )
    return rows


def _decimate(surface: Surface, count: int, decimation: str) -> tuple[np.ndarray, np.ndarray]:
    if count >= len(surface.faces):
        return surface.vertices, surface.faces
    if decimation == "qslim":
        vertices, faces = igl.qslim(surface.vertices, surface.faces.astype(np.int64), count)[:2]
        return vertices, faces
    scale = FAST_SIDE / np.ptp(surface.vertices, axis=0).max()
    vertices, faces = fast_simplification.simplify(surface.vertices * scale, surface.faces, target_count=count)
    return vertices / scale, faces


def measure(name: str) -> list[dict]:
    """The rows of one mesh of the data folder, named with or without its suffix."""
    found = sorted((data_folder() / "meshes").glob(f"{Path(name).stem}.*"))
    if not found:
        raise SystemExit(f"{data_folder() / 'meshes'} has no mesh {name}; give the name of one that it has")
    surface = load_surface(found[0])
    points, inside = heldout_points(surface, HELDOUT_POINTS, seed=REPORTED_SEED)
    faces = sorted({min(count, len(surface.faces)) for count in FACES})
    rows = [
        {"mesh": found[0].stem, "decimation": decimation, "position_bits": bits} | row
        for decimation in DECIMATIONS
        for bits in BITS
        for row in draco_curve(surface, faces, points, inside, bits, decimation=decimation)
    ]
    best = set(zip(*pareto([row["bytes"] for row in rows], [row["iou"] for row in rows]), strict=True))
    return [row | {"frontier": int((row["bytes"], row["iou"]) in best)} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["armadillo"])
    parser.add_argument("--all", action="store_true", help=f"all that are closed: {', '.join(WATERTIGHT)}")
    options = parser.parse_args()
    for name in WATERTIGHT if options.all else options.names:
        fresh = measure(name)
        for row in fresh:
            row["iou"], row["chamfer_l1"] = f"{row['iou']:.5f}", f"{row['chamfer_l1']:.4g}"
            print(*(row[column] for column in COLUMNS), flush=True)
        stored = list(csv.DictReader(STORE.open())) if STORE.exists() else []
        kept = [row for row in stored if row["mesh"] != fresh[0]["mesh"]]
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + fresh)
        write_text(STORE, out.getvalue())


if __name__ == "__main__":
    main()
