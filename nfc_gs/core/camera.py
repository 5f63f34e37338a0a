"""The pinhole camera that everything after the readers uses.

Lenses with distortion exist only in `nfc_gs.data`: images are undistorted once, when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.tensors import Array, as_tensor

UP = (0.0, 0.0, 1.0)
"""What is up in the normalised frame of a scene (`data.normalize`)."""


@dataclass(frozen=True)
class Frame:
    """The picture of which a camera draws a part, and where in it that part begins.

    Attributes:
        left, top: first column and first row of the part, in pixels of the picture.
        cx, cy: principal point in pixels of the picture.
        width, height: size of the picture in pixels.
    """

    left: int
    top: int
    cx: float
    cy: float
    width: int
    height: int


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: OpenCV axes (x right, y down, z forward), pixel centres at +0.5.

    Attributes:
        viewmat: [4, 4] float, world-to-camera, rigid. May require grad (pose refinement). A NumPy array is converted
            to a float32 tensor.
        fx, fy, cx, cy: intrinsics in pixels of the image in use; the top left corner of the image is (0, 0).
        width, height: size of the image in pixels.
        part_of: the picture that this is a part of, as `crop` makes it; None for a whole picture.

    Raises:
        UserError: `viewmat` is not [4, 4], a focal length or size is not positive, or this is no part of `part_of`.

    >>> import numpy as np
    >>> pose = np.eye(4)  # at the origin, looking along +z
    >>> nfc_gs.Camera(pose, fx=300.0, fy=300.0, cx=160.0, cy=120.0, width=320, height=240)
    Camera(320 x 240 pixels, 56.1 x 43.6 degrees, at (0, 0, 0), looking along (0, 0, 1))
    """

    viewmat: Tensor
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    part_of: Frame | None = None

    def __post_init__(self) -> None:
        if isinstance(self.viewmat, np.ndarray):
            object.__setattr__(self, "viewmat", as_tensor(self.viewmat))
        if not isinstance(self.viewmat, Tensor) or self.viewmat.shape != (4, 4):
            found = tuple(self.viewmat.shape) if isinstance(self.viewmat, Tensor) else type(self.viewmat).__name__
            raise UserError(f"The viewmat of a camera is {found}, but must be a [4, 4] tensor or array.")
        if not (self.fx > 0 and self.fy > 0 and self.width >= 1 and self.height >= 1):
            sizes = f"{self.width} x {self.height} pixels and focal lengths {self.fx} and {self.fy}"
            raise UserError(f"A camera has {sizes}, but all must be positive.")
        if self.part_of is not None:
            self._check_part(self.part_of)

    def _check_part(self, whole: Frame) -> None:
        """Raise UserError unless the pixels of this camera are pixels of `whole`."""
        fits_across = whole.left >= 0 and whole.left + self.width <= whole.width
        if not (fits_across and whole.top >= 0 and whole.top + self.height <= whole.height):
            raise UserError(
                f"A part of {self.width} x {self.height} pixels at ({whole.left}, {whole.top}) does not fit into a "
                f"picture of {whole.width} x {whole.height}."
            )
        if (self.cx, self.cy) != (whole.cx - whole.left, whole.cy - whole.top):
            raise UserError(
                f"The principal point ({self.cx}, {self.cy}) of a part of a picture is not that of its picture; make "
                "parts with Camera.crop."
            )

    def __repr__(self) -> str:
        across = math.degrees(math.atan2(self.cx, self.fx) + math.atan2(self.width - self.cx, self.fx))
        down = math.degrees(math.atan2(self.cy, self.fy) + math.atan2(self.height - self.cy, self.fy))
        whole = self.part_of
        size = f"{self.width} x {self.height}"
        if whole is not None:
            size += f" from ({whole.left}, {whole.top}) of {whole.width} x {whole.height}"
        return (
            f"Camera({size} pixels, {across:.1f} x {down:.1f} degrees, "
            f"at {_in_words(self.center)}, looking along {_in_words(self.viewmat[2, :3])})"
        )

    @property
    def K(self) -> Tensor:
        """The intrinsics as a matrix, [3, 3], in the dtype and on the device of `viewmat`."""
        rows = [[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=self.viewmat.dtype, device=self.viewmat.device)

    @property
    def center(self) -> Tensor:
        """The camera's position in the world, [3]: -R^T t (exact for a rigid `viewmat`)."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    @property
    def frame(self) -> Frame:
        """The picture that this camera's pixels lie in: `part_of`, or the whole picture that this camera takes."""
        return self.part_of or Frame(0, 0, self.cx, self.cy, self.width, self.height)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        """This camera with its `viewmat` on another device or in another dtype."""
        return replace(self, viewmat=self.viewmat.to(device=device, dtype=dtype))

    def crop(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of a part of the picture: its rendering is that part of the whole rendering.

        Backends project splats as in the whole picture (`part_of`), so parts fit together without seams. What the
        backend `cpu` draws is equal bit for bit, and so are its gradients, if those of the rest of the picture are
        zero; sums over all splats or pixels (of `viewmat` and the background) and what is computed from composited
        bits are equal to rounding. Splats beyond the part cost no more than their projection. A crop of a crop is a
        part of the same whole picture. Runs and captures store a part as a picture of its own.

        Args:
            left, top: first column and first row of the part, pixels of this camera's picture.
            width, height: size of the part in pixels.

        Raises:
            UserError: the part is empty or reaches beyond the picture.

        >>> nfc_gs.look_at(eye=(0, 0, -3), target=(0, 0, 0), up=(0, -1, 0), width=640, height=480).crop(320, 0, 320, 9)
        Camera(320 x 9 from (320, 0) of 640 x 480 pixels, 30.0 x 0.8 degrees, at (0, 0, -3), looking along (0, 0, 1))
        """
        if not (0 <= left < left + width <= self.width and 0 <= top < top + height <= self.height):
            raise UserError(
                f"A part of {width} x {height} pixels at ({left}, {top}) does not fit into a picture of "
                f"{self.width} x {self.height}."
            )
        frame = self.frame
        return self._part(replace(frame, left=frame.left + left, top=frame.top + top), width, height)

    def _part(self, frame: Frame, width: int, height: int) -> Camera:
        """The camera of `width` x `height` pixels of `frame`; of all of them it is that of a whole picture."""
        cx, cy = frame.cx - frame.left, frame.cy - frame.top
        whole = (frame.left, frame.top, width, height) == (0, 0, frame.width, frame.height)
        return replace(self, cx=cx, cy=cy, width=width, height=height, part_of=None if whole else frame)

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same picture at another size in pixels.

        A part of a picture (`crop`) is resized with its picture. By whole factors it is exactly that part of the
        larger picture; else the picture's size and the part's place in it are rounded to whole pixels, which moves the
        limits to which splats are linearised by less than a pixel and nothing else.
        """
        sx, sy = width / self.width, height / self.height
        scaled = replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
            width=width,
            height=height,
            part_of=None,
        )
        if self.part_of is None:
            return scaled
        return scaled._part(_resized_frame(self.part_of, sx, sy, width, height), width, height)


def _resized_frame(frame: Frame, sx: float, sy: float, width: int, height: int) -> Frame:
    """`frame` in pixels of another size, in which its part has `width` x `height` pixels."""
    left, top = _nearest(frame.left * sx), _nearest(frame.top * sy)
    return Frame(
        left,
        top,
        frame.cx * sx + (left - frame.left * sx),
        frame.cy * sy + (top - frame.top * sy),
        max(_nearest(frame.width * sx), left + width),
        max(_nearest(frame.height * sy), top + height),
    )


def _nearest(value: float) -> int:
    """The nearest whole number; of two the larger one."""
    return math.floor(value + 0.5)


def look_at(
    eye: Array | Sequence[float],
    target: Array | Sequence[float],
    up: Array | Sequence[float] = UP,
    *,
    width: int,
    height: int,
    fov: float = 60.0,
) -> Camera:
    """A camera at `eye` that looks at `target`, with square pixels and the principal point in the middle.

    Args:
        eye, target: [3], in the frame of the model.
        up: [3], the direction that points up in the image; need not be normalised or perpendicular. By default +z, as
            in a scene that `load_scene` has normalised.
        width, height: of the image, pixels.
        fov: the horizontal field of view (across `width`), degrees.

    Raises:
        UserError: the two points are one, or a number is out of its range.

    >>> nfc_gs.look_at(eye=(0, -3, 1), target=(0, 0, 0), width=640, height=480)
    Camera(640 x 480 pixels, 60.0 x 46.8 degrees, at (0, -3, 1), looking along (0, 0.949, -0.316))
    """
    if not 0.0 < fov < 180.0:
        raise UserError(f"The field of view of a camera is {fov} degrees, but must lie between 0 and 180.")
    if width < 1 or height < 1:
        raise UserError(f"A camera of {width} x {height} pixels cannot be; give positive whole numbers.")
    start = as_tensor(eye)
    kind = start if start.dtype.is_floating_point else start.float()
    points = {"eye": start.to(kind), "target": as_tensor(target).to(kind), "up": as_tensor(up).to(kind)}
    for name, point in points.items():
        if point.shape != (3,) or not bool(point.isfinite().all()):
            raise UserError(f"{name} of the camera is {point.tolist()}, but must be three finite numbers.")
    if torch.equal(points["eye"], points["target"]):
        raise UserError(f"The camera stands at {_in_words(points['eye'])} and looks at the same point; move one.")
    if not points["up"].any():
        raise UserError("up of the camera is (0, 0, 0), which is no direction; give for example (0, 0, 1).")
    focal = 0.5 * width / math.tan(math.radians(fov) / 2)
    viewmat = look_at_viewmat(points["eye"], points["target"], points["up"])
    return Camera(viewmat, focal, focal, width / 2, height / 2, int(width), int(height))


def look_at_viewmat(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """World-to-camera matrix of a camera at `eye` that looks at `target`.

    Args:
        eye, target: [3], world frame.
        up: [3], the direction that points up in the image; need not be normalised or perpendicular.

    Returns:
        [4, 4] `viewmat`, OpenCV axes, dtype of `eye`.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.linalg.cross(forward, up)
    if right.norm() < 1e-6 * up.norm():  # looking straight up or down: any right will do
        helper = torch.eye(3, dtype=eye.dtype, device=eye.device)[int(forward.abs().argmin())]
        right = torch.linalg.cross(forward, helper)
    right = torch.nn.functional.normalize(right, dim=0)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward])
    viewmat = torch.eye(4, dtype=eye.dtype, device=eye.device)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ eye
    return viewmat


def _in_words(vector: Tensor) -> str:
    """(1, -0.25, 3.14)"""
    rounded = np.round(vector.detach().cpu().numpy(), 3) + 0.0  # no -0
    return f"({', '.join(f'{value:.3g}' for value in rounded)})"
