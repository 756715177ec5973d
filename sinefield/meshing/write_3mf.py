"""3MF (core specification 1.3, materials extension 1.2; 3MF Consortium): a zip of XML, one object a mesh."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from sinefield.meshing.frame import Placing
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.write_plain import digits, write_rows

UNITS = {"um": "micron", "mm": "millimeter", "cm": "centimeter", "in": "inch", "ft": "foot", "m": "meter"}
MODEL = "3D/3dmodel.model"
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIALS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
_TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
"""
_RELATIONS = f"""<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Target="/{MODEL}" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
"""
_START = (1980, 1, 1, 0, 0, 0)


def write_3mf(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str], placing: Placing) -> None:
    """A unit that is not known is left out, which by the specification is read as millimetres; colours are sRGB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("[Content_Types].xml"), _TYPES)
        archive.writestr(_entry("_rels/.rels"), _RELATIONS)
        with archive.open(_entry(MODEL), "w", force_zip64=True) as raw:
            stream = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
            _write_model(stream, meshes, about, placing.unit)
            stream.flush()


def _write_model(
    stream: io.TextIOWrapper, meshes: Sequence[NamedMesh], about: dict[str, str], unit: str | None
) -> None:
    said = "" if unit is None else f' unit="{UNITS[unit]}"'
    stream.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<model{said} xml:lang="en-US" xmlns="{CORE}" ')
    stream.write(f'xmlns:m="{MATERIALS}">\n')
    for name, keys in (("Application", ("generator",)), ("Description", ("surface", "frame"))):
        if text := "; ".join(about[key] for key in keys if key in about):
            stream.write(f'<metadata name="{name}">{_text(text)[1:-1]}</metadata>\n')
    stream.write("<resources>\n")
    for i, mesh in enumerate(meshes):
        _write_object(stream, mesh, 2 * i + 1)
    stream.write("</resources>\n<build>\n")
    stream.writelines(f'<item objectid="{2 * i + 1}"/>\n' for i in range(len(meshes)))
    stream.write("</build>\n</model>\n")


def _write_object(stream: io.TextIOWrapper, mesh: NamedMesh, number: int) -> None:
    """Object `number`; its colours are the resource with the next number."""
    name = f" name={_text(mesh.name)}" if mesh.name else ""
    faces, triangle, painted = mesh.faces, '<triangle v1="%d" v2="%d" v3="%d"', ""
    if mesh.colours is not None:
        codes, colour_of = np.unique(mesh.colours.astype(np.int64) @ [1 << 16, 1 << 8, 1], return_inverse=True)
        stream.write(f'<m:colorgroup id="{number + 1}">\n')
        write_rows(stream, '<m:color color="#%06X"/>', codes[:, None])
        stream.write("</m:colorgroup>\n")
        faces = np.column_stack([faces, colour_of[faces]])
        triangle += ' p1="%d" p2="%d" p3="%d"'
        painted = f' pid="{number + 1}" pindex="0"'
    stream.write(f'<object id="{number}" type="model"{name}{painted}>\n<mesh>\n<vertices>\n')
    one = f"%.{digits([mesh])}g"
    write_rows(stream, f'<vertex x="{one}" y="{one}" z="{one}"/>', mesh.vertices)
    stream.write("</vertices>\n<triangles>\n")
    write_rows(stream, triangle + "/>", faces)
    stream.write("</triangles>\n</mesh>\n</object>\n")


def _entry(name: str) -> zipfile.ZipInfo:
    """The same bytes for the same mesh: no time of day."""
    entry = zipfile.ZipInfo(name, _START)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _text(text: str) -> str:
    """Quoted for XML, without the control characters that it does not have."""
    return quoteattr("".join(letter for letter in text if letter.isprintable()))
