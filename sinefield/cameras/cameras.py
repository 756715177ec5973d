"""Cameras with lenses of any kind: pixels to rays, points to pixels, and paths to fly along.

Axes are OpenGL's: x right, y up, the camera looks along -z. The pixel in column i, row j has its centre at (i + 0.5,
j + 0.5), so that shrinking an image by an integer factor divides focal lengths and principal point alike. What a lens
does is in `cameras.lenses`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.cameras.lenses import PERSPECTIVE, directions, fold_radius, meet_plane
from sinefield.errors import SinefieldError
from sinefield.kernels.choose import choose

Number = float | int
Vector = Sequence[Number] | Tensor | np.ndarray

LARGEST = 1e9  # of coordinates, so that float32 arithmetic on them stays finite


@dataclass(frozen=True, eq=False)
class Cameras:
    """n cameras, OpenGL axes (x right, y up, looking along -z).

    Attributes:
        c2w: (n, 3, 4) camera to world, orthonormal rotation, world units.
        focal: (n, 2) fx, fy in pixels.
        centre: (n, 2) cx, cy in pixels, from the image's top left corner.
        distortion: (n, 4) k1, k2, p1, p2, or (n, 11) `lenses.COLUMNS`.
        width: pixels a row; of the usual image, where they differ.
        height: pixels a column, likewise.
        projection: (n,) of `lenses.PROJECTIONS`, by number; None where all are perspective.
        sizes: (n, 2) width and height of each image; None where all are alike.
    """

    c2w: Float[Tensor, "n 3 4"]
    focal: Float[Tensor, "n 2"]
    centre: Float[Tensor, "n 2"]
    distortion: Float[Tensor, "n k"]
    width: int
    height: int
    projection: Int[Tensor, "n"] | None = None
    sizes: Int[Tensor, "n 2"] | None = None

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> "Cameras":
        """The chosen cameras; a single integer gives a `Cameras` of length 1."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"camera {index} of {len(self)}")
            index = [index]
        chosen = self._each(lambda tensor: tensor[index])
        if chosen.sizes is None or not len(chosen) or bool((chosen.sizes != chosen.sizes[0]).any()):
            return chosen
        width, height = chosen.sizes[0].tolist()
        return replace(chosen, width=width, height=height, sizes=None)

    def moved(self, by: Float[Tensor, "3"]) -> "Cameras":
        """The same cameras, each moved by a vector of world units."""
        return replace(self, c2w=torch.cat([self.c2w[:, :, :3], (self.c2w[:, :, 3] + by.to(self.c2w))[:, :, None]], 2))

    def to(self, device: str | torch.device) -> "Cameras":
        """The same cameras on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def size(self, index: int) -> tuple[int, int]:
        """Width and height in pixels of camera `index`'s image."""
        if self.sizes is None:
            return self.width, self.height
        width, height = self.sizes[index].tolist()
        return width, height

    @property
    def every_size(self) -> Int[Tensor, "n 2"]:
        """Width and height of each image, also where all are alike."""
        if self.sizes is not None:
            return self.sizes
        return torch.tensor([[self.width, self.height]], device=self.c2w.device).expand(len(self), 2)

    @property
    def is_perspective(self) -> bool:
        """Whether every lens is, distorted or not."""
        return self.projection is None or not bool((self.projection != PERSPECTIVE).any())

    def rays(
        self, camera_indices: Int[Tensor, "r"], pixels: Float[Tensor, "r 2"]
    ) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        """The world ray through each pixel position.

        Arguments:
            camera_indices: (r,) which camera each ray leaves.
            pixels: (r, 2) x, y in pixels; the centre of the top left pixel is (0.5, 0.5).

        Returns:
            rays_o, rays_d: (r, 3) origins in world units, and directions of unit length.
        """
        return self.leave(camera_indices, self.local(camera_indices, pixels)[0])

    def local(
        self, camera_indices: Int[Tensor, "r"], pixels: Float[Tensor, "r 2"]
    ) -> tuple[Float[Tensor, "r 3"], Bool[Tensor, "r"] | None]:
        """What each pixel position shows, in its camera's axes and of any length; and whether its lens shows anything
        there, None where every pixel of every lens does."""
        return self._local(camera_indices, pixels)

    def _local(self, camera_indices: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        plane = (pixels - self.centre[camera_indices]) / self.focal[camera_indices]
        if not self.has_bent_lens:
            x, y = plane.unbind(-1)
            return torch.stack([x, -y, -torch.ones_like(x)], -1), None
        kinds = PERSPECTIVE if self.projection is None else self.projection[camera_indices]
        found, seen = directions(plane, self.distortion[camera_indices], kinds, self._folds[camera_indices])
        return found.to(plane.dtype), seen

    def leave(
        self, camera_indices: Int[Tensor, "r"], local: Float[Tensor, "r 3"]
    ) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        """World rays that leave cameras along directions in their axes: see `rays`."""
        learns = local.requires_grad or self.c2w.requires_grad
        run = choose("camera_rays", local.device, local.dtype, int(learns)).function
        if run is not None and local.ndim == 2 and self.c2w.dtype == local.dtype:
            return run(local, camera_indices, self.c2w)
        return self._leave(camera_indices, local)

    def _leave(self, camera_indices: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """`leave` in plain torch."""
        c2w = self.c2w[camera_indices]
        rays_d = (c2w[:, :, :3] * local[:, None, :]).sum(-1)
        return c2w[:, :, 3].contiguous(), rays_d / rays_d.norm(dim=-1, keepdim=True)

    def view(self, index: int) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """rays_o, rays_d, each (height * width, 3), of camera `index`'s whole image in row-major order."""
        local = self.view_local(index)[0]
        return self.leave(torch.full((len(local),), index, device=local.device), local)

    def view_local(self, index: int) -> tuple[Float[Tensor, "p 3"], Bool[Tensor, "p"] | None]:
        """`local` of camera `index`'s whole image in row-major order."""
        one, (width, height) = self[index], self.size(index)
        device = self.c2w.device
        rows, columns = torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        pixels = torch.stack([x, y], -1).reshape(-1, 2).to(self.c2w.dtype)
        # One camera for all pixels, so that a lens's numbers need not be written out for each.
        return one._local(torch.zeros(1, dtype=torch.long, device=device), pixels)

    def project(
        self, camera_index: int, points: Float[Tensor, "p 3"]
    ) -> tuple[Float[Tensor, "p 2"], Float[Tensor, "p"]]:
        """Where world points land in one camera's image, distortion included.

        What lies beyond a lens's fold comes out far outside the image.

        Arguments:
            camera_index: which camera.
            points: (p, 3) world units.

        Returns:
            pixels: (p, 2) x, y; of a perspective lens without meaning where depth <= 0.
            depth: (p,) along the viewing axis in world units, positive in front of the camera.
        """
        c2w = self.c2w[camera_index]
        local = (points - c2w[:, 3]) @ c2w[:, :3]
        depth = -local[:, 2]
        kind = PERSPECTIVE if self.projection is None else int(self.projection[camera_index])
        lens = self.distortion[camera_index][None], kind, self._folds[camera_index][None]
        return meet_plane(local, *lens) * self.focal[camera_index] + self.centre[camera_index], depth

    def downscaled(self, factor: int) -> "Cameras":
        """The cameras of images averaged over factor x factor blocks, cropped to whole blocks at the right and bottom.

        Raises:
            SinefieldError: factor is below 1, or leaves no pixels.
        """
        for width, height in self.every_size.unique(dim=0).tolist():
            check_downscale(factor, width, height)
        return replace(
            self,
            focal=self.focal / factor,
            centre=self.centre / factor,
            width=self.width // factor,
            height=self.height // factor,
            sizes=None if self.sizes is None else self.sizes // factor,
        )

    @property
    def relative_focal(self) -> Float[Tensor, "n 2"]:
        """Focal lengths in image widths and heights; of lenses that are no perspective such that a picture by one
        spans at most 90 degrees. float64."""
        relative = self.focal.double() / self.every_size
        if self.projection is None:
            return relative
        return torch.where((self.projection != PERSPECTIVE)[:, None], relative.clamp(min=0.5), relative)

    @cached_property
    def has_bent_lens(self) -> bool:
        """Whether any lens is not a plain perspective. Asked once: on a GPU every answer waits for the device."""
        return bool(self.distortion.any()) or not self.is_perspective

    @cached_property
    def _folds(self) -> Float[Tensor, "n"]:
        if not self.has_bent_lens:
            return torch.full((len(self),), math.inf, dtype=torch.float64, device=self.c2w.device)
        return fold_radius(self.distortion)

    def _each(self, change) -> "Cameras":
        names = ("c2w", "focal", "centre", "distortion", "projection", "sizes")
        return replace(self, **{k: change(v) for k in names if (v := getattr(self, k)) is not None})


def joined(parts: Sequence[Cameras]) -> Cameras:
    """One or more sets of cameras as one; its usual size is that of the first."""
    widest = max(part.distortion.shape[1] for part in parts)
    bent = [torch.nn.functional.pad(x.distortion, (0, widest - x.distortion.shape[1])) for x in parts]
    kinds = [torch.zeros(len(x), dtype=torch.long) if x.projection is None else x.projection for x in parts]
    sizes = torch.cat([x.every_size for x in parts])
    return Cameras(
        torch.cat([part.c2w for part in parts]),
        torch.cat([part.focal for part in parts]),
        torch.cat([part.centre for part in parts]),
        torch.cat(bent),
        parts[0].width,
        parts[0].height,
        projection=None if all(x.is_perspective for x in parts) else torch.cat(kinds),
        sizes=sizes if bool((sizes != sizes[0]).any()) else None,
    )


def check_downscale(factor: int, width: int, height: int) -> None:
    """Raise SinefieldError unless images of width x height pixels keep at least one pixel at 1/`factor`."""
    if factor != int(factor) or factor < 1:
        raise SinefieldError(f"downscale {factor}: must be a whole number of at least 1; use 1 for full size")
    if width // factor < 1 or height // factor < 1:
        raise SinefieldError(f"downscale {factor} leaves no pixels of {width}x{height} images; use a smaller factor")


def look_at(eye: Vector, target: Vector, up: Vector = (0.0, 0.0, 1.0)) -> Float[Tensor, "*n 3 4"]:
    """Camera-to-world pose of a camera at `eye` that looks at `target` with `up` upwards in its image.

    Arguments:
        eye, target, up: three numbers, or tensors (*n, 3) that broadcast; world units.

    Raises:
        SinefieldError: eye and target coincide, or up is parallel to the line between them.
    """
    single = (torch.as_tensor(v, dtype=torch.float32) for v in (eye, target, up))
    position, centre, upwards = torch.broadcast_tensors(*single)
    back = position - centre
    right = torch.linalg.cross(upwards, back)
    size = back.norm(dim=-1) * upwards.norm(dim=-1)
    if not (right.norm(dim=-1) > 1e-6 * size).all():
        raise SinefieldError("look_at: eye equals target, or up points along the view; move the eye or change up")
    back = back / back.norm(dim=-1, keepdim=True)
    right = right / right.norm(dim=-1, keepdim=True)
    return torch.stack([right, torch.linalg.cross(back, right), back, position], -1)


def orbit(
    n: int,
    centre: Vector = (0.0, 0.0, 0.0),
    radius: Number = 1.0,
    elevation_degrees: Vector | Number = 30.0,
    up: Vector = (0.0, 0.0, 1.0),
    start_degrees: Number = 0.0,
    turns: Number = 1.0,
) -> Float[Tensor, "n 3 4"]:
    """Poses of n cameras evenly spaced around `centre`, all looking at it; the last stops one step short of the first.

    Arguments:
        n: number of cameras, at least 1.
        centre: three numbers, world units.
        radius: distance of every camera from the centre, world units.
        elevation_degrees: height above the horizon, between -90 and 90 exclusive; one number or (n,) numbers.
        up: the axis to circle; anti-clockwise seen from its tip.
        start_degrees: azimuth of the first camera; with up = z, 0 is the x axis.
        turns: how often to go round, for spirals with changing elevation.

    Raises:
        SinefieldError: n or radius is not positive, or a camera would stand at a pole.
    """
    if n < 1 or not radius > 0:
        raise SinefieldError(f"orbit: {n} cameras at radius {radius}; both must be positive")
    up, centre = (torch.as_tensor(v, dtype=torch.float32) for v in (up, centre))
    up = up / up.norm()
    # The x axis made perpendicular to up, or y where up is x itself.
    helper = torch.eye(3)[0 if up[0].abs() < 0.9 else 1]
    first = helper - (helper @ up) * up
    first = first / first.norm()
    second = torch.linalg.cross(up, first)
    azimuth = math.radians(start_degrees) + 2 * math.pi * turns / n * torch.arange(n)[:, None]
    elevation = torch.deg2rad(torch.as_tensor(elevation_degrees, dtype=torch.float32)).expand(n)[:, None]
    if not (elevation.cos() > 1e-4).all():
        raise SinefieldError("orbit: elevation must lie between -90 and 90 degrees, poles excluded")
    level = azimuth.cos() * first + azimuth.sin() * second
    return look_at(centre + radius * (elevation.cos() * level + elevation.sin() * up), centre, up)


def rigid(pose: np.ndarray, where: str) -> np.ndarray:
    """The first three rows of a finite (3 or 4, 4) pose with its rotation made orthonormal, a uniform scale removed."""
    rotation = pose[:3, :3]
    determinant = np.linalg.det(rotation)
    if not determinant > 1e-18:
        raise SinefieldError(
            f"{where}: pose rotation has determinant {determinant:.3g}: mirrored or not invertible; export it again"
        )
    rotation = rotation / np.cbrt(determinant)
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-2:
        raise SinefieldError(f"{where}: pose rotation is not orthonormal; export the pose without shear or stretch")
    left, _, right = np.linalg.svd(rotation)  # the nearest rotation: its transpose is then its inverse
    return np.concatenate([left @ right, pose[:3, 3:]], 1)
