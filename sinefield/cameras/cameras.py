"""Pinhole cameras with lens distortion: pixels to rays, points to pixels, and paths to fly along.

Axes are OpenGL's: x right, y up, the camera looks along -z. The pixel in column i, row j has its centre at (i + 0.5,
j + 0.5), so that shrinking an image by an integer factor divides focal lengths and principal point alike. Distortion is
OpenCV's k1, k2 (radial) and p1, p2 (tangential), whose y axis points down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.kernels.choose import choose

Number = float | int
Vector = Sequence[Number] | Tensor | np.ndarray

LARGEST = 1e9  # of coordinates, so that float32 arithmetic on them stays finite

# Newton on a lens polynomial doubles its digits each turn: 5 reach float32 for any lens whose image does not fold over.
NEWTON_STEPS = 6


@dataclass(frozen=True, eq=False)
class Cameras:
    """n cameras of one image size, OpenGL axes (x right, y up, looking along -z), OpenCV distortion.

    Attributes:
        c2w: (n, 3, 4) camera to world, orthonormal rotation, world units.
        focal: (n, 2) fx, fy in pixels.
        centre: (n, 2) cx, cy in pixels, from the image's top left corner.
        distortion: (n, 4) k1, k2, p1, p2.
        width: pixels a row.
        height: pixels a column.
    """

    c2w: Float[Tensor, "n 3 4"]
    focal: Float[Tensor, "n 2"]
    centre: Float[Tensor, "n 2"]
    distortion: Float[Tensor, "n 4"]
    width: int
    height: int

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> "Cameras":
        """The chosen cameras; a single integer gives a `Cameras` of length 1."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"camera {index} of {len(self)}")
            index = [index]
        return self._each(lambda tensor: tensor[index])

    def moved(self, by: Float[Tensor, "3"]) -> "Cameras":
        """The same cameras, each moved by a vector of world units."""
        return replace(self, c2w=torch.cat([self.c2w[:, :, :3], (self.c2w[:, :, 3] + by.to(self.c2w))[:, :, None]], 2))

    def to(self, device: str | torch.device) -> "Cameras":
        """The same cameras on `device`."""
        return self._each(lambda tensor: tensor.to(device))

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
        plane = (pixels - self.centre[camera_indices]) / self.focal[camera_indices]
        if self._is_distorted:
            plane = undistort(plane, self.distortion[camera_indices])
        learns = plane.requires_grad or self.c2w.requires_grad
        run = choose("camera_rays", plane.device, plane.dtype, int(learns)).function
        if run is not None and plane.ndim == 2 and self.c2w.dtype == plane.dtype:
            return run(plane, camera_indices, self.c2w)
        return self._rays_through(plane, camera_indices)

    def _rays_through(self, plane: Tensor, camera_indices: Tensor) -> tuple[Tensor, Tensor]:
        """`rays` from where they meet the plane before their camera, in plain torch."""
        x, y = plane.unbind(-1)
        local = torch.stack([x, -y, -torch.ones_like(x)], -1)
        c2w = self.c2w[camera_indices]
        rays_d = (c2w[:, :, :3] * local[:, None, :]).sum(-1)
        return c2w[:, :, 3].contiguous(), rays_d / rays_d.norm(dim=-1, keepdim=True)

    def view(self, index: int) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """rays_o, rays_d, each (height * width, 3), of camera `index`'s whole image in row-major order."""
        device = self.c2w.device
        rows = torch.arange(self.height, device=device) + 0.5
        columns = torch.arange(self.width, device=device) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        pixels = torch.stack([x, y], -1).reshape(-1, 2).to(self.c2w.dtype)
        return self.rays(torch.full((len(pixels),), index, device=device), pixels)

    def project(
        self, camera_index: int, points: Float[Tensor, "p 3"]
    ) -> tuple[Float[Tensor, "p 2"], Float[Tensor, "p"]]:
        """Where world points land in one camera's image, distortion included.

        A lens polynomial holds inside the image only: far outside it, a point's pixel can fold back into view.

        Arguments:
            camera_index: which camera.
            points: (p, 3) world units.

        Returns:
            pixels: (p, 2) x, y; without meaning where depth <= 0.
            depth: (p,) along the viewing axis in world units, positive in front of the camera.
        """
        c2w = self.c2w[camera_index]
        local = (points - c2w[:, 3]) @ c2w[:, :3]
        depth = -local[:, 2]
        plane = torch.stack([local[:, 0], -local[:, 1]], -1) / depth[:, None]
        if self._is_distorted:
            plane = distort(plane, self.distortion[camera_index])
        return plane * self.focal[camera_index] + self.centre[camera_index], depth

    def downscaled(self, factor: int) -> "Cameras":
        """The cameras of images averaged over factor x factor blocks, cropped to whole blocks at the right and bottom.

        Raises:
            SinefieldError: factor is below 1, or leaves no pixels.
        """
        check_downscale(factor, self.width, self.height)
        return replace(
            self,
            focal=self.focal / factor,
            centre=self.centre / factor,
            width=self.width // factor,
            height=self.height // factor,
        )

    @cached_property
    def _is_distorted(self) -> bool:  # asked once: on a GPU every answer waits for the device
        return bool(self.distortion.any())

    def _each(self, change) -> "Cameras":
        tensors = {name: change(getattr(self, name)) for name in ("c2w", "focal", "centre", "distortion")}
        return replace(self, **tensors)


def check_downscale(factor: int, width: int, height: int) -> None:
    """Raise SinefieldError unless images of width x height pixels keep at least one pixel at 1/`factor`."""
    if factor != int(factor) or factor < 1:
        raise SinefieldError(f"downscale {factor}: must be a whole number of at least 1; use 1 for full size")
    if width // factor < 1 or height // factor < 1:
        raise SinefieldError(f"downscale {factor} leaves no pixels of {width}x{height} images; use a smaller factor")


def distort(plane: Float[Tensor, "*p 2"], distortion: Float[Tensor, "*#p 4"]) -> Float[Tensor, "*p 2"]:
    """Where the lens puts ideal points of the image plane at distance 1 (x right, y down): OpenCV's polynomial."""
    x, y = plane.unbind(-1)
    k1, k2, p1, p2 = distortion.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * k2)
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        -1,
    )


def undistort(plane: Float[Tensor, "*p 2"], distortion: Float[Tensor, "*#p 4"]) -> Float[Tensor, "*p 2"]:
    """The inverse of `distort`, by Newton's method; a point no ideal point maps to is returned as it came."""
    k1, k2, p1, p2 = distortion.unbind(-1)
    guess = plane
    for _ in range(NEWTON_STEPS):
        x, y = guess.unbind(-1)
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * k2)
        slope = 2 * (k1 + 2 * k2 * r2)  # d radial / dx = slope * x
        xx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
        yy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
        xy = slope * x * y + 2 * p1 * x + 2 * p2 * y  # the Jacobian is symmetric
        error_x, error_y = (distort(guess, distortion) - plane).unbind(-1)
        step = torch.stack([yy * error_x - xy * error_y, xx * error_y - xy * error_x], -1)
        guess = guess - step / (xx * yy - xy * xy)[..., None]
    # Beyond the fold of a strong lens there is no inverse, and Newton wanders off: such a pixel keeps a usable ray.
    missed = (distort(guess, distortion) - plane).abs().amax(-1, keepdim=True)
    return torch.where(missed < 1e-3, guess, plane)


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
