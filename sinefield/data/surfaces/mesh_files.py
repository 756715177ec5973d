"""Files of meshes and of points into plain arrays: what each is, and who reads it (`readers/`)."""

import warnings
from collections.abc import Callable
from pathlib import Path

from sinefield.data.surfaces.memory import state_memory
from sinefield.data.surfaces.parts import ShapeFile
from sinefield.data.surfaces.readers.clouds import read_npy, read_npz, read_pcd
from sinefield.data.surfaces.readers.gltf import read_gltf
from sinefield.data.surfaces.readers.kinds import ENDINGS, foreign, own
from sinefield.data.surfaces.readers.las import read_las
from sinefield.data.surfaces.readers.obj import read_obj
from sinefield.data.surfaces.readers.off import read_off
from sinefield.data.surfaces.readers.ply import read_ply
from sinefield.data.surfaces.readers.points import read_points
from sinefield.data.surfaces.readers.source import AGAIN, MAX_BYTES, MAX_FACES, MAX_POINTS, Source, check_count, gunzip
from sinefield.data.surfaces.readers.stl import read_stl
from sinefield.data.surfaces.readers.threemf import read_3mf
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes

__all__ = ["EXTENSIONS", "MAX_BYTES", "MAX_FACES", "MAX_POINTS", "MESHES", "check_count", "read_shape"]

READERS: dict[str, Callable[[Source], ShapeFile]] = {
    "obj": read_obj,
    "ply": read_ply,
    "stl": read_stl,
    "off": read_off,
    "glb": read_gltf,
    "gltf": read_gltf,
    "3mf": read_3mf,
    "xyz": read_points,
    "txt": read_points,
    "csv": read_points,
    "asc": read_points,
    "pts": read_points,
    "pcd": read_pcd,
    "las": read_las,
    "laz": read_las,
    "npy": read_npy,
    "npz": read_npz,
}
MESHES = tuple(f".{kind}" for kind in ("obj", "ply", "stl", "off", "glb", "gltf", "3mf"))
"""Endings of files that may hold faces."""
EXTENSIONS = (*(f".{kind}" for kind in READERS), ".gz")
SAME = {"laz": "las", "gltf": "glb"}
"""Kinds that begin alike, or that one reader takes."""


def read_shape(path: str | Path) -> ShapeFile:
    """Read a mesh or a point cloud of any of the endings `EXTENSIONS`, packed by gzip or not.

    Polygons come as triangles, each node, object or group as a part with its transforms applied in double precision,
    its colours as paint. Points come with the normals and colours that the file has. A file whose first bytes say that
    it is of another kind than its ending is read as what it is, with a note.

    What takes more than a gigabyte of memory says so first, on standard error.

    Raises:
        SinefieldError: no such file, empty, of a kind that is not read, damaged, larger than the readers take, or than
            the memory that is free.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".obj") as file:
        ...     _ = file.write("o sail\\nv 0 0 0\\nv 1 0 0\\nv 0 2 0\\nf 1 2 3\\n")
        ...     file.flush()
        ...     [(part.name, len(part.faces)) for part in read_shape(file.name).parts]
        [('sail', 1)]
    """
    path = Path(path)
    kind = "shape"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about what is checked, and said in one line, later
            source = Source(path, read_bytes(path, MAX_BYTES, "mesh or point cloud"))
            kind = _kind(source)
            state_memory(source, kind)
            return READERS[kind](source)
    except SinefieldError:
        raise
    except MemoryError as error:
        raise SinefieldError(f"{path}: needs more memory than there is; decimate it first") from error
    except Exception as error:  # what a damaged file makes of its numbers is beyond foresight
        detail = str(error)[:120] or type(error).__name__
        raise SinefieldError(f"{path}: cannot be read as {kind.upper()} ({detail}); {AGAIN}") from error


def _kind(source: Source) -> str:
    """What to read a file as; a packed one is unpacked in its place.

    Raises:
        SinefieldError: of no kind that is read.
    """
    endings = [ending.lower() for ending in source.path.suffixes]
    kind = own(source.data)
    if kind == "gz":
        source.data = gunzip(source)
        kind = own(source.data)
    if endings[-1:] == [".gz"]:
        endings.pop()
    ending = endings[-1] if endings else ""
    said = ending[1:] if ending[1:] in READERS else None
    if kind not in READERS:
        kind = None
        if (found := foreign(source.data, ending)) or (said is None and (found := ENDINGS.get(ending))):
            what, remedy = found
            raise source.wrong(f"is {what}", remedy)
    if kind is None and said is None:
        raise source.wrong(f"unknown kind {ending or 'without extension'!r}", f"convert to {' '.join(EXTENSIONS)}")
    if kind is not None and (said is None or (SAME.get(kind, kind) != SAME.get(said, said))):
        if said == "stl" and len(source.data) == 84 + 50 * int.from_bytes(source.data[80:84], "little"):
            return said
        source.note(f"It is {kind.upper()} by its content{f', not {said.upper()}' if said else ''}: read as that.")
        return kind
    return said or str(kind)
