"""What a file is, by how it begins and by its ending; and what to do with one that is none of those read."""

import re
import zipfile
from io import BytesIO

EXPORT = "export a mesh as GLB, OBJ, PLY or STL"
SCAN = "export the points as PLY, LAS or XYZ"
START = 1 << 13
"""Bytes that are looked at."""

MAGIC: list[tuple[bytes, str, str]] = [
    (rb"\s*ISO-10303-21", "a STEP file (CAD)", EXPORT),
    (rb"Kaydara FBX Binary|;\s*FBX \d", "an FBX file", EXPORT),
    (rb"BLENDER", "a Blender file", EXPORT),
    (rb"PXR-USDC|#usda", "a USD file", EXPORT),
    (rb"#VRML|#X3D", "a VRML file", EXPORT),
    (rb"ASTM-E57", "an E57 file (scan)", SCAN),
    (rb"AC10\d\d", "a DWG file (CAD)", EXPORT),
    (rb"AutoCAD Binary DXF|\s*0\s*\r?\n\s*SECTION", "a DXF file (CAD)", EXPORT),
    (rb"\xff\xfe\xff\x0eS\0k\0e\0t\0c\0h\0U\0p|SketchUp", "a SketchUp file", EXPORT),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself", "run: git lfs pull"),
    (rb"%PDF", "a PDF file", EXPORT),
    (rb"Rar!", "a RAR archive", "unpack it first"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (rb"\xfd7zXZ|BZh[1-9]|\x28\xb5\x2f\xfd", "a compressed file", "unpack it first"),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP",
        "an image",
        "give a mesh or a point cloud",
    ),
    (rb"\x89HDF|CDF[\x01\x02]", "an HDF5 or NetCDF file", EXPORT),
    (rb"# vtk DataFile", "a VTK file", EXPORT),
    (rb"\s*\$MeshFormat", "a Gmsh file", EXPORT),
    (rb"\x7fELF|MZ\x90", "a program", "give a mesh or a point cloud"),
    (rb"OFF BINARY", "a binary OFF", "export it as a text OFF, PLY or GLB"),
    (rb"DRACO", "a bare Draco file", "export it as GLB"),
    (rb"#INVENTOR|#Inventor", "an Open Inventor file", EXPORT),
]
TAGS: list[tuple[bytes, str, str]] = [
    (rb"<!doctype html|<html", "a web page, not the file itself", "download the file again"),
    (rb"<COLLADA", "a COLLADA file (DAE)", EXPORT),
    (rb"<X3D", "an X3D file", EXPORT),
    (rb"<VTKFile", "a VTK file", EXPORT),
    (rb"<svg", "an SVG drawing", EXPORT),
    (rb"<amf", "an AMF file", EXPORT),
    (rb"<error|<\?xml[^>]*>\s*<Error", "an error message saved as a file", "download the file again"),
]
ENDINGS: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".step", ".stp"), ("a STEP file (CAD)", EXPORT)),
    **dict.fromkeys((".iges", ".igs"), ("an IGES file (CAD)", EXPORT)),
    **dict.fromkeys((".usd", ".usda", ".usdc", ".usdz"), ("a USD file", EXPORT)),
    **dict.fromkeys((".wrl", ".vrml"), ("a VRML file", EXPORT)),
    **dict.fromkeys((".x3d", ".x3dv", ".x3db"), ("an X3D file", EXPORT)),
    **dict.fromkeys((".max", ".ma", ".mb", ".c4d", ".lwo", ".skp", ".3dm"), ("a modelling program's file", EXPORT)),
    **dict.fromkeys((".sldprt", ".sldasm", ".ipt", ".f3d", ".catpart", ".prt", ".brep"), ("a CAD file", EXPORT)),
    **dict.fromkeys((".zip", ".rar", ".7z", ".tar", ".bz2", ".xz", ".zst"), ("an archive", "unpack it first")),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"), ("an image", "give a mesh")),
    ".fbx": ("an FBX file", EXPORT),
    ".blend": ("a Blender file", EXPORT),
    ".dae": ("a COLLADA file (DAE)", EXPORT),
    ".3ds": ("a 3DS file", EXPORT),
    ".amf": ("an AMF file", EXPORT),
    ".vtk": ("a VTK file", EXPORT),
    ".drc": ("a bare Draco file", "export it as GLB"),
    ".e57": ("an E57 file (scan)", SCAN),
    ".dwg": ("a DWG file (CAD)", EXPORT),
    ".dxf": ("a DXF file (CAD)", EXPORT),
    ".pdf": ("a PDF file", EXPORT),
}


def foreign(data: bytes, ending: str) -> tuple[str, str] | None:
    """What a file is that none of the readers takes, and what to do: "a STEP file (CAD)", "export a mesh …"."""
    start = data[:START].removeprefix(b"\xef\xbb\xbf")
    for pattern, what, remedy in MAGIC:
        if re.match(pattern, start, re.DOTALL):
            return what, remedy
    if start.lstrip()[:1] == b"<":
        for pattern, what, remedy in TAGS:
            if re.search(pattern, start, re.IGNORECASE):
                return what, remedy
    if re.match(rb".{72}S      1[\r\n]", start):
        return "an IGES file (CAD)", EXPORT
    if start[:2] == b"MM" and len(data) >= 6 and int.from_bytes(start[2:6], "little") == len(data):
        return "a 3DS file", EXPORT
    if start[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        return "a document or a CAD file", EXPORT
    if start[257:262] == b"ustar":
        return "an archive", "unpack it first"
    if start[:2] == b"PK":
        return _foreign_zip(data, ending)
    return None


def _foreign_zip(data: bytes, ending: str) -> tuple[str, str] | None:
    if own(data) in ("3mf", "npz") or ending in (".3mf", ".npz"):
        return None
    if ending == ".usdz" or re.match(rb"PK\x03\x04.{26}[^\n]{1,100}\.usd[ac]?", data[:200], re.DOTALL):
        return "a USDZ file", EXPORT
    return "a ZIP archive", "unpack it first"


def own(data: bytes) -> str | None:
    """The kind of a file that one of the readers takes, where its first bytes leave no doubt."""
    start = data[:START].removeprefix(b"\xef\xbb\xbf")
    for pattern, kind in (
        (rb"\x1f\x8b", "gz"),
        (rb"ply[\r\n]", "ply"),
        (rb"glTF", "glb"),
        (rb"\s*\{.*\"asset\"", "gltf"),
        (rb"(?i)\s*(?:ST)?C?N?4?n?OFF[\s\d]", "off"),
        (rb"LASF", "las"),
        (rb"\x93NUMPY", "npy"),
        (rb"(?i)(?:#[^\n]*\n)*\s*VERSION\s+\.?\d.*\nFIELDS", "pcd"),
        (rb"(?i)\s*solid\b.*\bfacet\s+normal\b", "stl"),
    ):
        if re.match(pattern, start, re.DOTALL):
            return kind
    if start[:2] == b"PK":
        return _own_zip(data)
    if len(data) > 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little"):
        return "stl"
    if len(re.findall(rb"(?m)^v[ \t]+[-+\d.]", start)) >= 3:
        return "obj"
    return None


def _own_zip(data: bytes) -> str | None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = [name.lower() for name in archive.namelist()[:1000]]
    except Exception:  # a damaged archive makes it raise nearly anything; what reads it says so
        return None
    if any(name.endswith(".model") for name in names):
        return "3mf"
    return "npz" if names and all(name.endswith(".npy") for name in names) else None
