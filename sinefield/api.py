"""The package from Python: load a field, fit one, ask it, show it, save it.

What is asked first decides what is imported: a shape's distances need NumPy alone, everything else torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sinefield.errors import SinefieldError
from sinefield.example_files import file_of, is_sine
from sinefield.files import Home
from sinefield.metrics import SCORES
from sinefield.plain.distance import TrueDistance, checked_points
from sinefield.plain.questions import like, numbers, whole
from sinefield.plain.sheet import distances_of
from sinefield.plain.stored import PLACE, file_with, stored_shape
from sinefield.store.distances import Distances

if TYPE_CHECKING:
    import trimesh

    from sinefield.cameras.cameras import Cameras

Array = NDArray[Any]


class Field(Distances):
    """A trained field. `load` and `fit` make them.

    All coordinates are those of the data. Methods take NumPy arrays or torch tensors and return the same; lists of
    numbers count as arrays.

    Attributes:
        path: the run folder or `.sine` file that it is kept in.

    Examples:
        >>> import sinefield as sf
        >>> knot = sf.load("example:knot")
        >>> knot.kind, knot.nbytes < 10_000
        ('shape', True)
    """

    def __init__(self, path: str | Path, adapters: Sequence[str | Path] = (), home: Any = None) -> None:
        self.path = str(path)
        self._adapters = list(adapters)
        self._home = home  # a temporary folder, kept as long as the field is
        self._module: Any = None
        self._note: dict[str, Any] = {}
        self._distances: TrueDistance | None = None
        self._plain = None if adapters else stored_shape(path)
        if self._plain is None:
            self._torch()

    def __repr__(self) -> str:
        return f"<sinefield.Field {self.kind}, {self.params:,} parameters, {self.nbytes:,} bytes, {self.path}>"

    def _torch(self) -> Any:
        """The field as a module of torch."""
        if self._module is None:
            from sinefield.store.fields import load_field

            self._module, self._note = load_field(self.path, self._adapters)
        return self._module

    def _kind(self) -> Any:
        from sinefield.fields.base import kind_of

        return kind_of(self._torch())

    @property
    def kind(self) -> str:
        """shape, radiance, image, shapes, or the name of a registered kind."""
        return "shape" if self._plain is not None else str(self._torch().kind)

    @property
    def bounds(self) -> Array | None:
        """(2, 3) lowest and highest corner of the field's box, float64; None for a kind without one."""
        if self._plain is not None:
            return np.asarray(self._plain["aabb"], np.float64).reshape(2, 3)
        from sinefield.fields.origins import origin_of

        box = getattr(self._torch(), "aabb", None)
        return None if box is None else box.double().cpu().numpy().reshape(2, 3) + origin_of(self._torch())

    @property
    def params(self) -> int:
        """How many numbers were learned."""
        if self._plain is not None:
            return sum(int(array.size) for name, array in self._plain.items() if name not in PLACE)
        return sum(p.numel() for p in self._torch().parameters())

    @property
    def nbytes(self) -> int:
        """Bytes of the file that holds the field: the `.sine` file, or a run's field.safetensors."""
        return file_with(self.path).stat().st_size

    @property
    def scores(self) -> dict[str, float]:
        """Scores by name (`metrics.SCORES`), as a run's report or a packed file's note has them; empty without one."""
        if is_sine(self.path):
            note = self._plain.note if self._plain is not None else self._note
            return {name: float(note[name][1]) for name in SCORES if name in note}
        from sinefield.store.run import Run

        report = Run(self.path).read_report() or {}
        return {name: float(report[name]) for name in SCORES if isinstance(report.get(name), int | float)}

    def _true_distance(self) -> TrueDistance:
        if self._distances is None and self._plain is not None:
            self._distances = distances_of(self._plain.config, self._plain)
        elif self._distances is None:
            self._distances = self._kind().true_distance(self._torch())
        assert self._distances is not None
        return self._distances

    def density(self, points: Any) -> Any:
        """Density of a radiance field at points (n, 3); (n,) per unit of length, 0 where its occupancy grid is empty.

        In the spaces "ndc" and "contracted" a unit of length is that of the field's space (docs/your_photographs.md).

        Raises:
            SinefieldError: points of another shape or not finite; a field of another kind.
        """
        import torch

        field, given = self._radiance("density"), numbers(points)
        with torch.no_grad():
            near = torch.tensor(checked_points(given) - field.origin, dtype=torch.float32)
            x = field.place(near.to(field.aabb.device))
            values = torch.where(field.grid.occupied(x), field.density(x), 0.0)
        return like(points, values.double().cpu().numpy())

    def colour(self, points: Any, directions: Any = None) -> Any:
        """sRGB in [0, 1] of points (n, 3): (n, 3).

        For a shape field that was fitted to coloured data it is the colour of the surface, the same from all
        directions; off the surface it has no meaning. For a radiance field it is what the points send to a camera that
        looks along directions (n, 3).

        Raises:
            SinefieldError: points or directions of another shape or not finite, directions without length, different
                numbers of points and directions; directions missing, or given to a shape; a field without colours.
        """
        x, d = checked_points(numbers(points)), None if directions is None else checked_points(numbers(directions))
        return like(points, self._kind().colour_at(self._torch(), x, d))

    def mesh(self, resolution: int = 192, level: float | None = None) -> trimesh.Trimesh:
        """The field's surface, in the coordinates of its data; with vertex colours where the field has them.

        Pieces of a shape that lie wholly outside its box are left out; `metadata["strays"]` counts them.

        To write a file, use `save_mesh`: far from the origin trimesh's files lose precision, and its GLB holds sRGB
        colours where glTF wants linear ones.

        Arguments:
            resolution: samples along the longest side of the box.
            level: a signed distance in input units, an occupancy, or a density; the field's usual one when None.

        Raises:
            SinefieldError: a field without a surface, a level that it does not reach, too high a resolution.
        """
        import trimesh

        kind, field = self._kind(), self._torch()
        vertices, faces, about = kind.surface(field, whole("resolution", resolution), level)
        mesh: Any = trimesh.Trimesh(vertices, faces, process=False)
        mesh.metadata["strays"] = about.get("strays", 0)
        colours = kind.vertex_colours(field, vertices, np.asarray(mesh.vertex_normals))
        if colours is not None:
            mesh.visual.vertex_colors = colours
        return mesh

    def save_mesh(
        self,
        path: str | Path,
        resolution: int = 256,
        level: float | None = None,
        unit: str | None = None,
        up: str | None = None,
        input_unit: str | None = None,
        input_up: str | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write the field's surface as `.ply .obj .off .stl .glb .usdz .3mf`, as `sinefield mesh` does.

        Without the four options of units and axes the file has the numbers of the field's data.

        Arguments:
            resolution, level: see `mesh`.
            unit, up: of the file's numbers: m cm mm in ft; y z. A GLB's node takes them to metres and y up.
            input_unit, input_up: of the data; where the field does not know them m, and y.
            overwrite: replace what is there.

        Returns:
            what was written, as it was read back; see `export.mesh.export_mesh`.

        Raises:
            SinefieldError: see `mesh`; a file that cannot be written, or an STL that would lose too much.
        """
        from sinefield.export.mesh import export_mesh
        from sinefield.meshing.frame import Frame

        frame = Frame(unit, up, input_unit, input_up)
        samples = whole("resolution", resolution)
        return export_mesh(self.path, path, samples, level, overwrite=overwrite, adapters=self._adapters, frame=frame)

    def orbit(
        self, frames: int = 8, width: int | None = None, height: int | None = None, elevation: float | None = None
    ) -> Cameras:
        """Cameras of one turn around the field, for `render`. If the field has an offset (data far from the origin,
        docs/your_photographs.md), it is subtracted from their positions.

        Arguments:
            width, height: of the pictures in pixels; the field's own choice when None.
            elevation: degrees above the horizon; the field's own choice when None.
        """
        return self._kind().painter(self._torch()).orbit(whole("frames", frames), (width, height), elevation)

    def render(self, camera: Any = None, width: int | None = None, height: int | None = None) -> Array:
        """Pictures of the field: the light of a radiance field, or a shape's surface, as clay, under soft light.

        Arguments:
            camera: `Cameras`, as `orbit` returns them; or the pose of one camera, (3, 4) or (4, 4) camera to world,
                OpenGL axes (x right, y up, looking along −z), as `look_at` returns it; the usual view when None.
            width, height: in pixels, unless `camera` says; the field's own choice when None.

        Returns:
            uint8 sRGB with straight alpha: (h, w, 4), or (n, h, w, 4) for n > 1 cameras.

        Raises:
            SinefieldError: no camera, a size out of range, a field that no camera can see.

        Examples:
            >>> import sinefield as sf
            >>> sf.load("example:knot").render(width=64).shape
            (64, 64, 4)
        """
        from sinefield.export.flight import cameras_for
        from sinefield.fields.origins import origin_of
        from sinefield.render.channels import picture

        painter = self._kind().painter(self._torch())
        cameras = cameras_for(painter, camera, width, height, origin_of(self._torch()))
        span = painter.span(cameras)
        images = [
            picture(painter.layers(cameras, i), "rgb", painter.background, span, alpha=True)
            for i in range(len(cameras))
        ]
        return images[0] if len(images) == 1 else np.stack(images)

    def image(self, width: int | None = None) -> Array:
        """An image field as a picture (h, w, 3), uint8 sRGB, of a width in pixels, its own when None.

        Raises:
            SinefieldError: a field of another kind; a size out of range.
        """
        return self._kind().picture(self._torch(), None if width is None else whole("width", width))

    def save(
        self,
        path: str | Path,
        max_bytes: int | None = None,
        min_quality: float | None = None,
        seconds: float | None = None,
        steps: int | None = None,
        overwrite: bool = False,
        effort: float | None = None,
    ) -> str:
        """Keep the field: as one small `.sine` file, or as a run folder, which every command takes.

        A `.sine` file of a run is packed: its weights are rounded and train on (`learning.pack.pack`). What was read
        from a `.sine` file is written as it is.

        Arguments:
            max_bytes: the best field that fits into so many bytes; or
            min_quality: the smallest of that IoU or PSNR; or with neither the smallest that costs almost nothing.
            seconds, steps: training with rounded weights, in all; 0 for rounding alone.
            overwrite: replace what is there.
            effort: that training in times of the usual number of steps, which for a shape of 4,000 bytes take about
                30 seconds of one core. Steps and an effort give the same file again, seconds need not. 1 when None.

        Returns:
            the path, as text; it is the field's own from then on.

        Raises:
            SinefieldError: something is there already, cannot be written, or a size or quality cannot be reached.
        """
        from sinefield.store.copies import copy_file, copy_run

        source = None if is_sine(self.path) else self.path
        if is_sine(path) and self._adapters:
            raise SinefieldError(f"{self.path}: has adapters, which no .sine file holds with it; give a folder")
        if is_sine(path):
            if source is None:
                if max_bytes is not None or min_quality is not None:
                    raise SinefieldError(f"{self.path}: is packed already; load the run that it was made from")
                copy_file(file_of(self.path), path, overwrite)
            else:
                from sinefield.learning.budget import pack_run

                asked: dict[str, Any] = {"max_bytes": max_bytes, "min_quality": min_quality}
                pack_run(source, path, **asked, seconds=seconds, steps=steps, overwrite=overwrite, effort=effort)
        elif source is None or self._adapters:
            from sinefield.store.unpack import unpack

            unpack(self.path, path, overwrite, self._adapters)
        else:
            copy_run(source, path, overwrite)
        self.__init__(path)
        return self.path

    def _radiance(self, what: str) -> Any:
        field = self._torch()
        if not hasattr(field, "grid"):
            has = f"a field of kind {self.kind} has no {what}"
            raise SinefieldError(f"{self.path}: {has}; {self._kind().instead}")
        return field


def load(path: str | Path, adapters: Sequence[str | Path] = ()) -> Field:
    """A trained field from a run folder, a `.sine` file, or `example:NAME`.

    Arguments:
        adapters: edits by `sinefield adapt`, applied to the field in this order.

    Raises:
        SinefieldError: there is none, it is damaged, or of a newer version.

    Examples:
        >>> import sinefield as sf
        >>> sf.load("example:picture").kind
        'image'
    """
    given: Any = path
    if not isinstance(given, str | Path):
        raise SinefieldError(f"load takes the path of a run folder or .sine file, not {type(given).__name__}")
    if not is_sine(path) and not Path(path).exists():
        raise SinefieldError(f"{path}: no such run folder or .sine file; check the path")
    return Field(path, adapters)


def look_at(
    eye: Sequence[float] | Array, target: Sequence[float] | Array, up: Sequence[float] | Array = (0.0, 1.0, 0.0)
) -> Array:
    """Where a camera at `eye` stands that looks at `target`: (3, 4) camera to world, OpenGL axes, for `Field.render`.

    Raises:
        SinefieldError: no direction to look in, or `up` along it.

    Examples:
        >>> import sinefield as sf
        >>> sf.look_at((0, 0, 4), (0, 0, 0))[:, 3].tolist()
        [0.0, 0.0, 4.0]
    """
    import torch

    from sinefield.cameras.cameras import look_at as pose

    triples = (torch.as_tensor(np.asarray(v, np.float64)) for v in (eye, target, up))
    return pose(*triples).numpy()


def fit(
    data: Any,
    seconds: float | None = None,
    steps: int | None = None,
    scene: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    max_bytes: int | None = None,
    preset: str | None = None,
    effort: float | None = None,
    **settings: Any,
) -> Field:
    """Fit a field to data, with a progress bar.

    Arguments:
        data: the path of a mesh or point cloud, an image, or a folder of posed photographs; a `trimesh.Trimesh`;
            points and their outward normals, both (n, 3); an image (h, w, 3 or 4), uint8 or float in [0, 1].
        seconds, steps: how long to train; the kind's usual time with neither. Steps repeat.
        scene: a scene file whose settings count in place of the usual ones.
        out: a run folder to train into; a temporary one, kept as long as the field is, when None.
        max_bytes: choose the network for a file of so many bytes, and give what that file holds: the packed field,
            or of a closed mesh an optimised mesh where that is better. With `out` it is beside the run, as OUT.sine.
        effort: how long `max_bytes` packs, as in `Field.save`.
        preset: "small", "balanced" or "best" settings for data of this kind and size, in place of the usual ones.
        settings: any setting of a scene file by its name, as in `width=64`, or `"field.width"` in a dictionary.

    Returns:
        the field, scored; `save` keeps it.

    Raises:
        SinefieldError: data or settings that are unknown or unfit; `out` holds something.

    Examples:
        >>> import sinefield as sf, trimesh
        >>> ball = sf.fit(trimesh.creation.icosphere(3), steps=50, width=16, rank=2, points=5000)
        >>> ball.kind, ball.scores["iou"] > 0.5
        ('shape', True)
    """
    from sinefield.learning.fit import fitted

    home = Home() if out is None else None
    folder = home.path / "run" if home else Path(str(out))
    given = {**settings, "seed": seed}
    given |= {"training.seconds": seconds} if seconds is not None else {}
    given |= {"training.steps": steps} if steps is not None else {}
    if max_bytes is not None:
        if preset is not None:
            raise SinefieldError("max_bytes and preset both choose the network; leave out one of the two")
        run = fitted(data, folder, scene, given, max_bytes, effort=effort)
        return Field(run.with_name(folder.name + ".sine"), home=home)
    if effort is not None:
        raise SinefieldError("effort says how max_bytes packs; give both, or leave effort out")
    return Field(fitted(data, folder, scene, given, preset=preset), home=home)
