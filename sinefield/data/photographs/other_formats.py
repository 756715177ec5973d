"""Pose formats that are recognised but not read, and what to do with each."""

from pathlib import Path

PROGRAM = "ns-process-data"  # nerfstudio's
FORMATS = {
    "Metashape's cameras (XML)": f"export them as COLMAP there, or convert them by '{PROGRAM} metashape'",
    "RealityCapture's cameras (CSV)": f"export them as COLMAP there, or convert them by '{PROGRAM} realitycapture'",
    "a Polycam export": f"convert it by '{PROGRAM} polycam'",
    "a Record3D export": f"convert it by '{PROGRAM} record3d'",
    "sdfstudio's meta_data.json": "write its frames as a transforms.json",
}


def recognised(path: Path) -> str | None:
    """What a file or folder is and what to do with it, if it is of a format that is known but not read."""
    name = _name(path)
    return None if name is None else f"{path}: is {name}, which is not read; {FORMATS[name]}"


def _name(path: Path) -> str | None:
    metashape, reality, polycam, record3d, sdfstudio = FORMATS
    if path.is_file():
        by_name = {".xml": metashape, ".csv": reality}
        return sdfstudio if path.name == "meta_data.json" else by_name.get(path.suffix.lower())
    if (path / "meta_data.json").is_file():
        return sdfstudio
    if (path / "keyframes" / "cameras").is_dir() or (path / "keyframes" / "corrected_cameras").is_dir():
        return polycam
    if (path / "metadata").is_file() and any((path / below).is_dir() for below in ("EXR_RGBD", "rgbd")):
        return record3d
    if any(path.glob("*.xml")):
        return metashape
    return reality if any(path.glob("*.csv")) else None
