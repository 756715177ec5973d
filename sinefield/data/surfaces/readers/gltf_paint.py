"""The colours of a glTF file's faces: of materials, textures and vertices, brought from linear light to sRGB."""

from typing import Any

import numpy as np

from sinefield.data.surfaces.parts import PLAIN, Paint
from sinefield.data.surfaces.readers.colours import Look, Pictures, linear, painted, srgb
from sinefield.data.surfaces.readers.gltf_data import Document

GLOSS = "KHR_materials_pbrSpecularGlossiness"
WRITERS = ("trimesh",)
"""In whose files colours of vertices are sRGB as they are, against the specification."""


class Materials:
    """What colours the primitives of one file."""

    def __init__(self, document: Document) -> None:
        self.document, self.pictures = document, Pictures(document.source)
        generator = str((document.tree.get("asset") or {}).get("generator", ""))
        self.plain_srgb = any(name in generator.lower() for name in WRITERS)
        self.tinted: dict[tuple, int] = {}

    def paint(self, primitive: dict[str, Any], corners: np.ndarray, attribute) -> Paint | None:
        """Paint of a primitive's faces, or None.

        Arguments:
            corners: (f, 3) vertices of its faces.
            attribute: name → (v, k) of its vertices, None where it has none.
        """
        number = primitive.get("material")
        material = {} if number is None else self.document.item("materials", number)
        factor, info = self._base(material)
        colours = attribute("COLOR_0")
        look, uv = Look(), None
        if info:
            texture, uv = self._texture(info, factor, corners, attribute)
            look = Look(None, texture)
        given = None
        if colours is not None:
            given = self.of_vertices(colours, factor)[corners]
            if look.texture != PLAIN and uv is not None and (colours[:, :3] < 0.999).any():
                self.document.source.note("Colours of vertices that tint a texture are left out.")
        elif factor is not None:
            red, green, blue = srgb(factor)
            look = look._replace(colour=(float(red), float(green), float(blue)))
        return painted([look], np.zeros(len(corners), np.int64), uv, given, self.pictures)

    def _base(self, material: dict[str, Any]) -> tuple[np.ndarray | None, dict[str, Any] | None]:
        """A material's colour in linear light where it says one, and its texture."""
        gloss = (material.get("extensions") or {}).get(GLOSS)
        base = material.get("pbrMetallicRoughness") or {}
        names = ("baseColorFactor", "baseColorTexture")
        if gloss is not None and not (set(names) & base.keys()):
            base, names = gloss, ("diffuseFactor", "diffuseTexture")
        factor = base.get(names[0])
        if factor is not None:
            factor = np.clip(np.nan_to_num(np.array([float(value) for value in factor[:3]])), 0, 1)
            factor = factor if len(factor) == 3 else None
        return factor, base.get(names[1])

    def _texture(self, info: dict[str, Any], factor: np.ndarray | None, corners: np.ndarray, attribute):
        moved = (info.get("extensions") or {}).get("KHR_texture_transform") or {}
        which = moved.get("texCoord", info.get("texCoord", 0))
        own = attribute(f"TEXCOORD_{self.document.whole({'texCoord': which}, 'texCoord')}")
        if own is None:
            return PLAIN, None
        number = self._picture(info.get("index"))
        if number != PLAIN and factor is not None and (factor < 0.999).any():
            number = self._tint(number, factor)
        uv = _moved(own[:, :2].astype(np.float64), moved)
        uv[:, 1] = 1 - uv[:, 1]  # glTF counts from the upper edge
        return number, uv[corners].astype(np.float32)

    def _picture(self, number: Any) -> int:
        texture = self.document.item("textures", number)
        webp = (texture.get("extensions") or {}).get("EXT_texture_webp") or {}
        source = webp.get("source", texture.get("source"))
        if source is None:
            self.document.source.note("A texture of a form that is not read is left out; use PNG or JPEG.")
            return PLAIN
        image = self.document.item("images", source)
        name, uri = str(image.get("name") or f"image {source}"), image.get("uri")
        if ("image", source) in self.pictures.numbers:
            return self.pictures.numbers["image", source]
        if isinstance(uri, str):
            data = self.document.linked(uri)
            name = name if uri.startswith("data:") else uri
        else:
            data = self.document.view(image.get("bufferView"))[0]
        return self.pictures.number(("image", source), data, name)

    def _tint(self, number: int, factor: np.ndarray) -> int:
        """The picture times a colour, in linear light."""
        key = (number, *factor.tolist())
        if key not in self.tinted:
            picture = self.pictures.found[number]
            if picture.size // 3 > self.pictures.left:
                self.document.source.note("Too many textures are tinted by their materials: some are left as they are.")
                return number
            self.pictures.left -= picture.size // 3
            table = np.round(255 * srgb(linear(np.arange(256)[:, None] / 255) * factor)).astype(np.uint8)
            tinted = np.stack([table[:, i][picture[..., i]] for i in range(3)], -1)
            self.tinted[key] = self.pictures.added(tinted)
        return self.tinted[key]

    def of_vertices(self, colours: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
        """sRGB of (v, 3 or 4) colours of vertices times the material's."""
        colours = colours[:, :3].astype(np.float64)
        tint = np.ones(3) if factor is None else factor
        if self.plain_srgb:
            self.document.source.note(
                "Colours of vertices are taken as sRGB, as the program that wrote them means them."
            )
            colours = linear(np.clip(colours, 0, 1))
        return srgb(colours * tint).astype(np.float32)


def _moved(uv: np.ndarray, moved: dict[str, Any]) -> np.ndarray:
    """Texture coordinates as KHR_texture_transform places them."""
    scale = np.array([float(value) for value in moved.get("scale", (1, 1))])
    offset = np.array([float(value) for value in moved.get("offset", (0, 0))])
    turn = float(moved.get("rotation", 0))
    cos, sin = np.cos(turn), np.sin(turn)
    return uv * scale @ np.array([[cos, sin], [-sin, cos]]).T + offset
