"""The scene that training, evaluation and viewer use, whatever capture it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.image_source import ImageSource
from nfc_gs.data.normalize import transform_points, transform_viewmats


@dataclass(frozen=True, repr=False)
class PointCloud:
    """Sparse points of a scene.

    Attributes:
        xyz: [P, 3] float32, in the frame of the scene that holds them.
        rgb: [P, 3] uint8.

    >>> import numpy as np
    >>> xyz = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    >>> cloud = nfc_gs.PointCloud(xyz, rgb=np.full((50, 3), 128, dtype=np.uint8))
    >>> cloud
    PointCloud(50 points)
    >>> nfc_gs.GaussianModel.from_points(cloud)
    GaussianModel(50 Gaussians, SH degree 3, float32 on cpu)
    """

    xyz: np.ndarray
    rgb: np.ndarray

    def __repr__(self) -> str:
        return f"PointCloud({len(self):,} points)"

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True)
class ViewImage:
    """The decoded picture of a view.

    Attributes:
        rgb: [H, W, 3] uint8, contiguous.
        mask: [H, W] uint8, 255 where the pixel counts and 0 where it is ignored; None where all count.
    """

    rgb: np.ndarray
    mask: np.ndarray | None


@dataclass(frozen=True, repr=False)
class View:
    """One image of a capture and the camera that took it.

    Attributes:
        name: unique in the scene; the path of the image relative to the image folder, with forward slashes.
        camera: pinhole camera of the picture as `SceneData.image` returns it (undistorted, resized), CPU float32.
        source: how the picture is made from the file; None without photos.
        time: normalised, 0..1 (`SceneData.time_axis` says what that is in the capture); None in a static scene.
    """

    name: str
    camera: Camera
    source: ImageSource | None
    time: float | None = None

    def __repr__(self) -> str:
        time = "" if self.time is None else f", at time {self.time:.4g}"
        return f"View('{self.name}', {self.camera.width} x {self.camera.height} pixels{time})"


class ViewImages(Protocol):
    """Where the pictures of views come from; the arguments are those of the methods of `SceneData`."""

    def image(self, view: View, divisor: int = 1) -> ViewImage: ...

    def moving(self, view: View) -> np.ndarray | None: ...

    def foreground(self, view: View) -> np.ndarray | None: ...

    def prefetch(self, views: Sequence[View], divisor: int = 1) -> None: ...


@dataclass(frozen=True)
class TimeAxis:
    """What the normalised times of a moving scene mean.

    Attributes:
        start, end: the capture's own times at 0 and 1; start < end.
        unit: "seconds", "frames", or "" where the capture does not say.
    """

    start: float
    end: float
    unit: str = ""

    def normalised(self, time: float) -> float:
        """The capture's own time on the axis from 0 to 1."""
        return (time - self.start) / (self.end - self.start)

    def own(self, normalised: float) -> float:
        """The inverse of `normalised`."""
        return self.start + normalised * (self.end - self.start)

    def in_seconds(self, rate: float) -> TimeAxis:
        """An axis of frames in seconds, at so many frames per second; normalised times stay what they are."""
        return TimeAxis(self.start / rate, self.end / rate, "seconds")


@dataclass(frozen=True, repr=False)
class SceneData:
    """A capture, ready to train on. `load_scene` makes one.

    Attributes:
        root: the folder it was read from.
        views: all views, sorted by name.
        train, test: indices into `views`; disjoint.
        points: SfM points or seeded random ones, in the normalised frame.
        points_are_random: they are the latter, which say no more than where to look.
        transform: [4, 4] float64 similarity from the capture's world frame to the normalised frame in which
            cameras and points are given; `export` undoes it.
        extent: radius of the cameras around their centre in the normalised frame, scene units (3DGS's
            `cameras_extent`: 1.1 times the largest distance of a camera from the mean camera).
        background: color in [0, 1] that transparent pixels were composited on, or None.
        messages: sentences on what was decided when it was read (several models, missing images, ...), also logged.
        time_axis: what the times of the views mean; None in a static scene.
        format: what the capture was read as, "a COLMAP project" for example; "" where that is not known.
        images: decodes pictures (`data.image_cache.ImageCache`); None where there are no photos, since the
            scene comes from a checkpoint (`data.stored`).

    A training of your own:

    >>> import torch
    >>> scene = nfc_gs.load_scene("captures/garden")
    >>> model = nfc_gs.GaussianModel.from_points(scene.points, sh_degree=1, max_gaussians=200)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    >>> losses = []
    >>> for step in range(20):
    ...     index = scene.train[step % len(scene.train)]
    ...     image = nfc_gs.render(model, scene.camera(index, divisor=2))
    ...     difference = (image.rgb - scene.photo(index, divisor=2)).abs()
    ...     loss = (difference * scene.mask(index, divisor=2)).mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     losses.append(loss.item())
    >>> losses[-1] < losses[0]
    True
    """

    root: Path
    views: tuple[View, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    points: PointCloud
    transform: np.ndarray
    extent: float
    background: tuple[float, float, float] | None = None
    messages: tuple[str, ...] = ()
    time_axis: TimeAxis | None = None
    format: str = ""
    points_are_random: bool = False
    images: ViewImages | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        held_out = f"{len(self.test)} held out" if self.test else "none held out"
        times = ""
        if self.time_axis is not None:
            times = f", times {self.time_axis.start:g} to {self.time_axis.end:g} {self.time_axis.unit}".rstrip()
        rest = f"{len(self.points):,} points" if self.has_photos else "without photos"
        views = f"{len(self.views)} views, {len(self.train)} to train on and {held_out}"
        return f"SceneData('{self.root}': {views}{times}, {rest})"

    @property
    def has_photos(self) -> bool:
        """Whether `image` can return pictures."""
        return self.images is not None

    def image(self, index: int, divisor: int = 1) -> ViewImage:
        """The decoded picture of `views[index]`, from the cache where it is there.

        Args:
            divisor: a power of two; the picture is made smaller by averaging, to
                (max(1, round(W / divisor)), max(1, round(H / divisor))); use `camera(index, divisor)` with it.

        Raises:
            UserError: the file cannot be read any more, or there are no photos.
        """
        return self._images.image(self._view(index), divisor)

    def photo(self, index: int, divisor: int = 1) -> Tensor:
        """`image(index, divisor)` as a tensor of its own, [H, W, 3] float32 in [0, 1]; raises as `image`."""
        return torch.from_numpy(self.image(index, divisor).rgb).float() / 255

    def mask(self, index: int, divisor: int = 1) -> Tensor:
        """Which pixels of `photo(index, divisor)` count, [H, W, 1] bool; all where nothing is masked out."""
        image = self.image(index, divisor)
        counts = np.ones(image.rgb.shape[:2], bool) if image.mask is None else image.mask >= 128
        return torch.from_numpy(counts)[..., None]

    def moving(self, index: int) -> np.ndarray | None:
        """Which pixels of `image(index)` show something that moves, [H, W] bool; None where the capture does not say.

        It is used by metrics alone, not by training.

        Raises:
            UserError: the mask cannot be read any more, or there are no photos.
        """
        return self._images.moving(self.views[index])

    def foreground(self, index: int) -> np.ndarray | None:
        """Which pixels of `image(index)` are foreground, [H, W] bool: their alpha is above one half. None where no
        alpha channel and no mask is laid on a color.

        It is used by metrics alone, not by training.

        Raises:
            UserError: the image cannot be read any more, or there are no photos.
        """
        return self._images.foreground(self.views[index])

    def prefetch(self, indices: Sequence[int], divisor: int = 1) -> None:
        """Start decoding these pictures in the background; returns at once."""
        self._images.prefetch([self.views[i] for i in indices], divisor)

    def _view(self, index: int) -> View:
        """`views[index]`. Raises UserError where there is none."""
        count = len(self.views)
        if not isinstance(index, (int, np.integer)) or not -count <= index < count:
            raise UserError(f"There is no view {index!r} in {self.root}; views have the numbers 0 to {count - 1}.")
        return self.views[index]

    @property
    def _images(self) -> ViewImages:
        if self.images is None:
            raise UserError(
                f"There are no photos of {self.root}: this scene comes from a checkpoint; read the capture with "
                "nfc_gs.load_scene, or say where it is with --capture."
            )
        return self.images

    def camera(self, index: int, divisor: int = 1) -> Camera:
        """The camera of `image(index, divisor)`."""
        camera = self._view(index).camera
        if divisor == 1:
            return camera
        return camera.resized(max(1, round(camera.width / divisor)), max(1, round(camera.height / divisor)))

    def in_frame(self, transform: np.ndarray) -> SceneData:
        """The same scene with cameras, points and extent in another frame.

        Args:
            transform: [4, 4] similarity from the capture's world frame to that frame.
        """
        if np.array_equal(transform, self.transform):
            return self
        change = transform @ np.linalg.inv(self.transform)
        viewmats = np.stack([view.camera.viewmat.double().cpu().numpy() for view in self.views])
        moved = torch.from_numpy(transform_viewmats(viewmats, change)).float()
        cameras = [replace(view.camera, viewmat=viewmat) for view, viewmat in zip(self.views, moved, strict=True)]
        return replace(
            self,
            views=tuple(replace(view, camera=camera) for view, camera in zip(self.views, cameras, strict=True)),
            points=replace(self.points, xyz=transform_points(self.points.xyz, change).astype(np.float32)),
            transform=transform,
            extent=self.extent * float(np.cbrt(np.linalg.det(change[:3, :3]))),
        )

    def with_split(self, train: Sequence[int], test: Sequence[int]) -> SceneData:
        """The same scene with other views for training and testing."""
        return replace(self, train=tuple(train), test=tuple(test))
