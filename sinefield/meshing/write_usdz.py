"""USDZ (OpenUSD; Pixar), by the package usd-core: one Mesh prim a mesh."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.files import scratch_folder
from sinefield.meshing.frame import Placing
from sinefield.meshing.named_mesh import NamedMesh, linear


def check_usd() -> None:
    """Refuse, before a long evaluation, what needs usd-core where it is not installed."""
    try:
        import pxr  # noqa: F401
    except ImportError as error:
        raise SinefieldError("USDZ needs usd-core; run: pip install 'sinefield[usd]', or write .glb") from error


def write_usdz(path: Path, meshes: Sequence[NamedMesh], about: dict[str, str], placing: Placing) -> None:
    """Coordinates are single precision around a local origin, which a translation has in double precision.

    `metersPerUnit` and `upAxis` are those of the numbers; a unit that is not known counts as metre, as in a GLB.
    Colours are `primvars:displayColor`, linear.

    Raises:
        SinefieldError: see `check_usd`.
    """
    check_usd()
    from pxr import Sdf, Usd, UsdGeom

    with scratch_folder() as folder:
        file = folder / "mesh.usdc"
        stage: Any = Usd.Stage.CreateNew(str(file))
        stage.GetRootLayer().documentation = "; ".join(f"{key}: {value}" for key, value in about.items())
        UsdGeom.SetStageMetersPerUnit(stage, placing.metres)
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if placing.up == "z" else UsdGeom.Tokens.y)
        root = UsdGeom.Xform.Define(stage, "/mesh").GetPrim()
        Usd.ModelAPI(root).SetKind("component")
        stage.SetDefaultPrim(root)
        for place, mesh in zip(_places(meshes), meshes, strict=True):
            _define(stage, f"/mesh/{place}", mesh)
        stage.GetRootLayer().Save()
        with Sdf.ZipFileWriter.CreateNew(str(path)) as archive:
            archive.AddFile(str(file), file.name)


def _define(stage: Any, place: str, mesh: NamedMesh) -> None:
    from pxr import Gf, Sdf, UsdGeom, Vt

    prim = UsdGeom.Mesh.Define(stage, place)
    if mesh.name:
        prim.GetPrim().SetDisplayName(mesh.name)
    origin, vertices = mesh.local()
    prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(vertices))
    prim.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([vertices.min(axis=0), vertices.max(axis=0)])))
    faces = np.ascontiguousarray(mesh.faces, np.int32)
    prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    prim.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1)))
    prim.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    if origin.any():
        prim.AddTranslateOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Vec3d(*origin.tolist()))
    if mesh.normals is not None:
        prim.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.normals, np.float32)))
        prim.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    if mesh.colours is not None:
        kind, held = Sdf.ValueTypeNames.Color3fArray, Vt.Vec3fArray.FromNumpy(linear(mesh.colours))
        UsdGeom.PrimvarsAPI(prim).CreatePrimvar("displayColor", kind, UsdGeom.Tokens.vertex).Set(held)


def _places(meshes: Sequence[NamedMesh]) -> list[str]:
    """A name for each that a prim may have, no two alike."""
    from pxr import Tf

    places: list[str] = []
    for i, mesh in enumerate(meshes):
        name = Tf.MakeValidIdentifier(mesh.name or "part")
        places.append(f"{name}_{i + 1}" if name in places else name)
        while places.count(places[-1]) > 1:
            places[-1] += "_"
    return places
