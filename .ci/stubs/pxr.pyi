from typing import Any

Gf: Any
Sdf: Any
Tf: Any
Usd: Any
UsdGeom: Any
Vt: Any
