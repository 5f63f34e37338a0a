"""What a viewer shows, the same for all its pages."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData
from nfc_gs.export.paths import DEFAULT_UP
from nfc_gs.formats.notes import first_view, up_of
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.runs.opening import what_opens
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.draw import Photo
from nfc_gs.viewer.frame_rate import TARGET_FPS
from nfc_gs.viewer.frames import Placement, place
from nfc_gs.viewer.guess import Guess, guessed_view
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.source import Source, Vector, frame_of, middle_and_radius

logger = logging.getLogger("nfc_gs")

HOME_ASPECT = 16 / 9
"""Width / height of the window that the camera of a new page is for."""

WIDEST_HOME = math.radians(100.0)
"""Widest vertical field of view of that camera in a narrow window; a wider one distorts."""

MOVES_BACK = 2.0
"""In a narrow window the camera of a new page moves back to at most so many times the distance that the capture's
farthest camera has from the middle of the content. Nothing is known of what is there: there may be a wall."""

HOME_FOV = math.radians(75.0)
"""Vertical field of view of a new page's camera where there is no capture."""


@dataclass(frozen=True)
class HomeCamera:
    """Where the camera of a new page is, in the frame that is shown; `fov` is vertical, radians."""

    position: Vector
    look_at: Vector
    up: Vector
    fov: float


class Content:
    """Sources, and how they lie beside each other in space and time.

    Attributes:
        sources: what can be shown, the first one at the start; their names differ.
        live: the training that is shown; None where none runs.
        backend: rasterizer of Gaussians, its name or the object.
        scene: the capture whose cameras and photos are shown, that of the first source that has one, if possible with
            photos; None without.
        placements: where the sources lie in the frame that is shown, by name; the frame is that of the capture, or of
            the first source.
        time_axis: what the times 0 and 1 mean; None where nothing moves, or where it is not known.
        guess: the view to begin with where neither a capture nor a file says anything of one; None else.
        target_fps: pictures per second while a camera moves.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        backend: str | RasterBackend = "auto",
        live: LiveTraining | None = None,
    ) -> None:
        """Bring sources together; `live` is the training behind the first of them.

        Raises:
            UserError: there is no source.
        """
        if not sources:
            raise UserError(f"There is nothing to look at; give {what_opens()}.")
        self.sources, self.backend, self.live = with_unique_names(sources), backend, live
        scenes = [source.scene for source in self.sources if source.scene is not None]
        self.scene: SceneData | None = next(
            (scene for scene in scenes if scene.has_photos), scenes[0] if scenes else None
        )
        shown = self.sources[0].frame if self.scene is None else frame_of(self.scene)
        self.placements = {source.name: place(source.name, source.frame, shown) for source in self.sources}
        if self.scene is None:
            self.placements[self.sources[0].name] = Placement()
        axes = [None if self.scene is None else self.scene.time_axis, *(source.time_axis for source in self.sources)]
        self.time_axis = next((axis for axis in axes if axis is not None), None)
        device = self.sources[0].snapshot().model.device.type
        self.guess = self._guessed_view()
        self.target_fps = TARGET_FPS.get(device, TARGET_FPS["cpu"])

    @cached_property
    def _by_name(self) -> dict[str, Source]:
        return {source.name: source for source in self.sources}

    def source(self, name: str) -> Source:
        """The source of this name."""
        return self._by_name[name]

    def placement_of(self, source: Source) -> Placement:
        """Where a source lies in the frame that is shown."""
        return self.placements[source.name]

    def options_of(self, source: Source) -> RenderOptions:
        """How a source is rendered."""
        return replace(source.options, backend=self.backend)

    def time_of(self, source: Source, time: float | None) -> float | None:
        """A time of the axis that is shown on the axis of a source; None for one that does not change with time."""
        if time is None or not source.snapshot().model.changes_with_time:
            return None
        shown, own = self.time_axis, source.time_axis
        if shown is None or own is None or shown == own or shown.unit != own.unit:
            return time
        return min(max(own.normalised(shown.own(time)), 0.0), 1.0)

    @property
    def is_training(self) -> bool:
        """Whether a training runs that pictures take time from."""
        return self.live is not None and self.live.is_running

    @property
    def changes_with_time(self) -> bool:
        """Whether any source changes with time."""
        return any(source.snapshot().model.changes_with_time for source in self.sources)

    @property
    def has_gaussians(self) -> bool:
        """Whether any source consists of Gaussians."""
        return any(source.snapshot().gaussians is not None for source in self.sources)

    @property
    def has_views(self) -> bool:
        """Whether there are cameras of a capture."""
        return self.scene is not None and len(self.scene.views) > 0

    @property
    def first_view(self) -> int:
        """Index of the view of the capture that is chosen at first: a held-out one if there are any; 0 without."""
        return 0 if self.scene is None else first_view(self.scene)

    @property
    def has_photos(self) -> bool:
        """Whether there are photos to compare with."""
        return self.scene is not None and self.scene.has_photos

    def photo(self, view: int) -> Photo | None:
        """The photo of a view of the capture; None without photos."""
        if self.scene is None or not self.scene.has_photos:
            return None
        return Photo(self.scene.views[view].camera, self.scene.image(view).rgb)

    def middle_and_radius(self) -> tuple[Vector, float]:
        """Where the content of the first source is, in the frame that is shown, and how far it reaches around that."""
        middle, radius = middle_and_radius(self.sources[0])
        placement = self.placement_of(self.sources[0])
        return placement.point(middle), radius * placement.scale

    @cached_property
    def home(self) -> HomeCamera:
        """The camera of a new page: that of the first view, or one that sees all of the content."""
        middle, radius = self.middle_and_radius()
        if self.scene is not None and self.scene.views:
            return _home_at(self.scene.views[self.first_view].camera, middle, radius, up_of(self.scene))
        notes = self.sources[0].notes
        up = notes.up or (DEFAULT_UP if self.guess is None else self.guess.up)
        camera = notes.camera or (None if self.guess is None else self.guess.camera)
        if camera is not None:
            return HomeCamera(camera.position, camera.look_at, up, camera.fov)
        x, y, z = middle
        return HomeCamera((x, y - 0.5 * radius, z - 4.0 * radius), middle, up, HOME_FOV)

    def _guessed_view(self) -> Guess | None:
        """A view of the first source where it is not known how to look at it."""
        first = self.sources[0]
        gaussians, notes = first.snapshot().gaussians, first.notes
        has_cameras = self.scene is not None and len(self.scene.views) > 0
        if has_cameras or gaussians is None or (notes.up is not None and notes.camera is not None):
            return None
        guess = guessed_view(gaussians, notes.up)
        if notes.up is None:
            x, y, z = guess.up
            why = "across what looks like the ground" if guess.has_ground else "as in most splats"
            logger.info(
                "%s does not say what is up: (%.2g, %.2g, %.2g) is taken, %s. To change it: Cameras, Up.",
                first.name, x, y, z, why,
            )  # fmt: skip
        return guess

    def home_in(self, aspect: float) -> HomeCamera:
        """The camera of a new page in a window of this aspect (width / height).

        It is `home` unless the window is too narrow for the first view's photo, or, without a view, narrower than high.
        Then its field of view is wider, up to `WIDEST_HOME`; where that is not enough, it moves back from `look_at`, as
        far as `MOVES_BACK` allows.
        """
        home, needed = self.home, self._fov_needed(aspect)
        if needed < home.fov + 1e-6:
            return home
        fov = max(min(needed, WIDEST_HOME), home.fov)
        back = math.tan(needed / 2) / math.tan(fov / 2)
        if back <= 1.0:
            return replace(home, fov=fov)
        distance = math.dist(home.position, home.look_at)
        farthest = max(distance, MOVES_BACK * self._farthest_camera(distance))
        scale = min(back, farthest / distance)
        x, y, z = (scale * place + (1 - scale) * at for place, at in zip(home.position, home.look_at, strict=True))
        return replace(home, position=(x, y, z), fov=fov)

    def _fov_needed(self, aspect: float) -> float:
        """Vertical field of view, radians, at which a window of this aspect shows the subject from `home`."""
        if self.scene is not None and self.scene.views:
            return pose_of(self.scene.views[self.first_view].camera, aspect).fov
        return 2 * math.atan(math.tan(self.home.fov / 2) / min(aspect, 1.0))

    def _farthest_camera(self, default: float) -> float:
        """Distance of the farthest training camera from the middle of the content; `default` without any."""
        views = [] if self.scene is None else [self.scene.views[index] for index in self.scene.train]
        middle, _ = self.middle_and_radius()
        return max((math.dist(view.camera.center.tolist(), middle) for view in views), default=default)


def _home_at(view: Camera, middle: Vector, radius: float, up: Vector) -> HomeCamera:
    """A page's camera where a view is, which turns around a point as far away as the middle of the content."""
    pose = pose_of(view, HOME_ASPECT)
    forward, center = view.viewmat[2, :3].double(), view.center.double()
    distance = float((center - center.new_tensor(middle)).norm()) or radius
    x, y, z = (center + forward * distance).tolist()
    return HomeCamera(pose.position, (x, y, z), up, pose.fov)


def with_unique_names(sources: Sequence[Source]) -> list[Source]:
    """The sources; those whose name an earlier one has get a number."""
    taken: set[str] = set()
    for source in sources:
        name, number = source.name, 1
        while source.name in taken:
            number += 1
            source.name = f"{name} ({number})"
        taken.add(source.name)
    return list(sources)
