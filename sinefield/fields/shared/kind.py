"""Networks that a set of shapes shares: all that the package knows of them."""

from typing import Any, NoReturn

from torch import Tensor

from sinefield.data.surfaces.surface import Surface, load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import Kind, network_numbers, register_kind
from sinefield.fields.shared.field import SharedConfig, SharedField, SharedFieldConfig


class SharedKind(Kind):
    """One network for a set of shapes, each of which is a short code beside it: `sinefield fleet --shared`."""

    name = "shared"
    config = SharedConfig
    score = "iou"
    quick = "IoU, held-out points"
    instead = 'it is what shapes share; a shape is it with a code: --adapter CODE, in Python sf.load(BASE, ["CODE"])'
    trains_rounded = False

    def read(self, config: SharedConfig) -> Surface:
        return load_surface(config.data.path)

    def task(self, config: SharedConfig, data: Surface, field: SharedField | None = None) -> NoReturn:
        raise SinefieldError("a shared network is learned from many shapes; make one with: sinefield fleet --shared")

    def blank(self, settings: SharedFieldConfig, placed: dict[str, Tensor]) -> SharedField:
        return SharedField(settings)

    def numbers(self, settings: SharedFieldConfig) -> int:
        return network_numbers(settings.shape())

    def extent(self, field: SharedField) -> tuple[dict[str, Any], str]:
        numbers = field.numbers
        return {"numbers": numbers}, f"a code has {numbers:,} numbers"


register_kind(SharedKind())
