"""Fields by kind. Importing this package registers the kinds that it brings."""

from sinefield.fields.image import kind as image_kind
from sinefield.fields.latent import kind as latent_kind
from sinefield.fields.mesh import kind as mesh_kind
from sinefield.fields.radiance import kind as radiance_kind
from sinefield.fields.shape import kind as shape_kind
from sinefield.fields.shared import kind as shared_kind

__all__ = ["image_kind", "latent_kind", "mesh_kind", "radiance_kind", "shape_kind", "shared_kind"]
