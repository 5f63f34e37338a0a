"""A camera path: keyframes, preview, video."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import viser

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.export.video import write_png, write_video
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.frustums import Frustums, frustum_size
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.path import FPS, MAX_KEYS, SECONDS, CameraPath, Key, path_from_json
from nfc_gs.viewer.session import Session

LINE_POINTS = 120
"""Points of the line that shows the path in the scene."""

MAX_MARKS = 100
"""Keyframes that are shown in the scene; of longer paths the first ones."""

PREVIEW, STOP = "Preview", "Stop the preview"
"""What the button that previews the path is called, while it stands still and while it is previewed."""

CLEAR, UNDO = "Clear all", "Undo: bring the keyframes back"
"""What the button that clears the path is called, before and after."""

PLAIN, CHOSEN = (250, 82, 82), (255, 212, 59)
"""Colors of the path, and of the keyframe that the buttons act on."""

MAX_PIXELS = {"MP4": 20_000_000_000, "PNGs (zip)": 1_000_000_000}
"""Pixels of all pictures of a file together: it is sent from memory, and may then have a few gigabytes."""

CameraFrames = list[tuple[Camera, float | None]]
"""Camera and time of each picture of a video."""


class _CancelledError(Exception):
    """The user has cancelled the video."""


class PathPanel(Panel):
    """The camera path of a page, and its controls."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.path, self.chosen = CameraPath(), 0
        self._cancel, self._previewing = threading.Event(), threading.Event()
        self._frustums = Frustums(session, "/keyframes", frustum_size(session.content))
        self._line: viser.SplineCatmullRomHandle | None = None
        self._tab_is_open = False
        self._cleared: tuple[Key, ...] = ()  # what the last "Clear all" removed
        self._drawing = threading.Lock()  # held while the path is drawn or removed

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        session, guarded = self.session, self.session.guarded
        add = gui.add_button("Add keyframe here", color="blue", hint="Position, field of view and time. Key: K")
        self.keys: viser.GuiDropdownHandle[Any] = gui.add_dropdown(
            "Keyframe", ("none",), initial_value="none", hint="The one the buttons act on. Or click it in the scene."
        )
        order = gui.add_button_group("Move it", ("earlier", "later"), hint="Its place in the order.")
        act = gui.add_button_group("Act on it", ("go there", "replace", "remove"), hint="Replace: by your camera.")
        self.clear = gui.add_button(CLEAR, color="gray", visible=False, hint="Remove all keyframes; can be undone.")
        self.seconds = gui.add_number(
            "Duration (s)", 5.0, min=SECONDS[0], max=SECONDS[1], step=0.1, hint="Of the whole path."
        )
        self.fps = gui.add_number("Frames / s", 30.0, min=FPS[0], max=FPS[1], step=1.0, hint="Of the video.")
        self.loop = gui.add_checkbox("Closed loop", False, hint="Come back to the first keyframe.")
        self.shown = gui.add_checkbox("Show the path", True, hint="A line and its keyframes, while this tab is open.")
        self.preview = gui.add_button(PREVIEW, hint="Go along the path once; again to stop.")
        self._build_video(gui)
        with gui.add_folder("Save and load", expand_by_default=False):
            save = gui.add_button("Download path as JSON", hint="To load it again, here or elsewhere.")
            load = gui.add_upload_button("Load path", mime_type="application/json", hint="A JSON saved here.")
        add.on_click(guarded(lambda _: self.add()))
        self.keys.on_update(guarded(self._choose))
        order.on_click(guarded(lambda _: self._move(-1 if order.value == "earlier" else 1)))
        act.on_click(guarded(lambda _: self._act(act.value)))
        self.clear.on_click(guarded(lambda _: self._clear()))
        self.watch(self.seconds, self.fps, self.loop, self.shown)
        start = session.in_background(lambda _: self._preview(), busy="The path is being previewed already.")
        self.preview.on_click(
            guarded(lambda event: self._previewing.clear() if self._previewing.is_set() else start(event))
        )
        save.on_click(guarded(lambda _: self._save()))
        load.on_upload(guarded(lambda _: self._load(load.value.name, load.value.content)))

    def _build_video(self, gui: viser.GuiApi) -> None:
        with gui.add_folder("Video"):
            self.width = gui.add_number("Width (px)", 1280, min=16, max=7680, step=2, hint="Of the video.")
            self.height = gui.add_number("Height (px)", 720, min=16, max=4320, step=2, hint="Of the video.")
            self.file_type = gui.add_dropdown("File", tuple(MAX_PIXELS), initial_value="MP4", hint="What is made.")
            render = gui.add_button("Render and download", color="green", hint="Draws the whole path.")
            self.cancel = gui.add_button("Cancel", visible=False, hint="Stop rendering.")
            self.progress = gui.add_progress_bar(0.0, visible=False)
        busy = "A video is being rendered already; cancel it, or wait for it."
        render.on_click(self.session.in_background(lambda _: self.render(), busy=busy))
        self.cancel.on_click(self.session.guarded(lambda _: self._cancel.set()))

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {
            "seconds": self.seconds,
            "fps": self.fps,
            "loop": self.loop,
            "width": self.width,
            "height": self.height,
            "file_type": self.file_type,
        }

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Give the path its duration and shape."""
        seconds = min(max(float(self.seconds.value), SECONDS[0]), SECONDS[1])
        fps = min(max(float(self.fps.value), FPS[0]), FPS[1])
        self.path = replace(self.path, seconds=seconds, fps=fps, loop=bool(self.loop.value))
        self._draw()

    def kept(self) -> Any:
        """The keyframes, if there are any."""
        return self.path.to_json() if self.path.keys else None

    def restore(self, kept: Any) -> None:
        """Bring back keyframes."""
        if not isinstance(kept, str):
            raise UserError("The last camera path is no text.")
        self._take(path_from_json(kept))

    def on_tab(self, is_open: bool) -> None:
        """Show the path with the tab."""
        self._tab_is_open = is_open
        self._show()

    def commands(self) -> Sequence[Command]:
        """A key to add a keyframe."""
        return (Command("K", "Add a keyframe", self.add),)

    def add(self) -> None:
        """Add a keyframe where the browser's camera is, after the others.

        Raises:
            UserError: the path has as many as it may have.
        """
        if len(self.path.keys) >= MAX_KEYS:
            raise UserError(f"The camera path has {MAX_KEYS:,} keyframes, the most that it takes; remove some first.")
        self.path = replace(self.path, keys=(*self.path.keys, self._here()))
        self.chosen = len(self.path.keys) - 1
        self._changed()

    def _clear(self) -> None:
        """Remove all keyframes, or bring back those that were removed last."""
        before, self.path = self.path.keys, replace(self.path, keys=() if self.path.keys else self._cleared)
        self._cleared = before
        self._changed()

    def _here(self) -> Key:
        return Key(self.session.pose, self.session.state.time if self.session.content.changes_with_time else None)

    def _choose(self, event: viser.GuiEvent) -> None:
        if event.client is not None and self.keys.value in self.keys.options and self.path.keys:
            self.chosen = self.keys.options.index(self.keys.value)
            self._draw()

    def _move(self, by: int) -> None:
        moved = self.path.moved(self.chosen, by)
        if moved != self.path:
            self.path, self.chosen = moved, self.chosen + by
            self._changed()

    def _act(self, what: str) -> None:
        if not self.path.keys:
            raise UserError("The camera path has no keyframe yet; add one at your camera.")
        key = self.path.keys[self.chosen]
        if what == "go there":
            self.session.move_camera_to(key.pose, key.time)
        elif what == "replace":
            keys = list(self.path.keys)
            keys[self.chosen] = self._here()
            self.path = replace(self.path, keys=tuple(keys))
        else:
            self.path = self.path.without(self.chosen)
        self._changed()

    def _changed(self) -> None:
        """Bring the list and what the scene shows up to date."""
        count = len(self.path.keys)
        self.chosen = min(max(self.chosen, 0), max(count - 1, 0))
        times = ["" if key.time is None else f" at time {key.time:.2f}" for key in self.path.keys]
        self.keys.options = tuple(f"{i + 1}{time}" for i, time in enumerate(times)) or ("none",)
        self.keys.value = self.keys.options[self.chosen]
        self.clear.label, self.clear.visible = CLEAR if count else UNDO, bool(count or self._cleared)
        self._draw()

    def _draw(self) -> None:
        """Draw the path as a line in the scene and its keyframes as frustums, in place of those before."""
        with self._drawing:
            self._frustums.clear()
            if self._line is not None:
                self._line.remove()
                self._line = None
            path = self.path  # which others may change meanwhile, and then show
            if len(path.keys) > 1:
                points = np.stack([camera.center.numpy() for camera, _ in path.camera_frames(64, 36, LINE_POINTS)])
                self._line = self.session.client.scene.add_spline_catmull_rom(
                    "/path", points, closed=path.loop, thickness=2.0, thickness_units="screen", color=PLAIN,
                    visible=self._frustums.visible,
                )  # fmt: skip
            aspect = max(float(self.width.value), 1.0) / max(float(self.height.value), 1.0)
            for index, key in enumerate(path.keys[:MAX_MARKS]):
                color, choose = CHOSEN if index == self.chosen else PLAIN, partial(self._choose_mark, index)
                self._frustums.add(key.pose, aspect, color, self.session.guarded(choose))
        self._show()

    def _show(self) -> None:
        """Show what is drawn, or hide it: in other tabs, and while the path is previewed."""
        with self._drawing:
            is_shown = self._tab_is_open and bool(self.shown.value) and not self._previewing.is_set()
            self._frustums.visible = is_shown
            if self._line is not None and self._line.visible != is_shown:
                self._line.visible = is_shown
            self.session.set_in_scene("path", is_shown and len(self._frustums) > 0)

    def _choose_mark(self, index: int, _: object) -> None:
        """Choose the keyframe that was clicked in the scene."""
        if index < len(self.path.keys):
            self.chosen = index
            self._changed()

    def _preview(self) -> None:
        """Go along the path at its own pace; frames are skipped where they come too slowly."""
        width, height = self.session.window
        frames = self.path.camera_frames(max(width, 16), max(height, 16))
        self.session.update(playing=False)  # the path has times of its own
        self._previewing.set()
        self.preview.label = STOP
        self._show()
        start = perf_counter()
        try:
            while self._previewing.is_set() and not self.session.closed:
                place = int((perf_counter() - start) * self.path.fps)
                ends = place >= len(frames) - 1 and not self.path.loop
                camera, time = frames[-1] if ends else frames[place % len(frames)]
                self.session.move_camera_to(pose_of(camera, camera.width / camera.height), time)
                if ends:
                    break
                sleep(1.0 / 30.0)
        finally:
            self._previewing.clear()
            self.preview.label = PREVIEW
            self._show()

    def render(self) -> None:
        """Draw the path into a file and send it to the browser."""
        width, height = int(self.width.value), int(self.height.value)
        if not (16 <= width <= 7680 and 16 <= height <= 4320):
            raise UserError(f"A video of {width} x {height} pixels cannot be made; give 16 x 16 to 7680 x 4320.")
        count, file_type = self.path.frame_count, self.file_type.value
        if count * width * height > MAX_PIXELS[file_type]:
            raise UserError(
                f"{count:,} pictures of {width} x {height} are too many for one file: {file_type} may have "
                f"{MAX_PIXELS[file_type] // 10**6:,} million pixels in all. Make them smaller or fewer."
            )
        frames = self.path.camera_frames(width, height)
        self._cancel.clear()
        self.cancel.visible = self.progress.visible = True
        try:
            if file_type == "MP4":
                name, content = "path.mp4", self._video(frames)
            else:
                name, content = "path.zip", self._zipped_pngs(frames)
            self.session.send_file(name, content)
            self.session.notify("The path is rendered", f"{len(frames)} pictures of {width} x {height}: {name}")
        except _CancelledError:
            self.session.notify("Cancelled", "No file was made.")
        finally:
            if not self.session.closed:
                self.cancel.visible = self.progress.visible = False

    def _drawn(self, frames: CameraFrames) -> Iterator[np.ndarray]:
        """The pictures of the path.

        Raises:
            _CancelledError: the user has cancelled the video.
        """
        draw = self.session.frame_drawer()
        for index, (camera, time) in enumerate(frames):
            if self._cancel.is_set():
                raise _CancelledError
            picture = draw(camera, time)
            if index % 5 == 0:
                self.progress.value = 100.0 * index / len(frames)
            yield picture

    def _video(self, frames: CameraFrames) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "path.mp4"
            write_video(file, self._drawn(frames), self.path.fps)
            return file.read_bytes()

    def _zipped_pngs(self, frames: CameraFrames) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "path.zip"
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for index, rgb in enumerate(self._drawn(frames)):
                    picture = Path(folder) / f"frame_{index:05d}.png"
                    write_png(picture, rgb)
                    archive.write(picture, picture.name)
                    picture.unlink()
            return file.read_bytes()

    def _save(self) -> None:
        content = self.path.to_json().encode("utf-8")
        self.session.send_file("path.json", content)

    def _load(self, name: str, content: bytes) -> None:
        """Show the path of a file, or say why it is not loaded."""
        try:
            path = path_from_json(content.decode("utf-8"))
        except UnicodeDecodeError:
            self.session.notify(f"{name} is not loaded", "It is not JSON; load a file that was saved here.", "red")
        except UserError as error:
            self.session.notify(f"{name} is not loaded", str(error), "red")
        else:
            self._take(path)
            self.session.notify("The path is loaded", f"{len(path.keys):,} keyframes: {name}")

    def _take(self, path: CameraPath) -> None:
        """Show another path."""
        self.path, self.chosen = path, 0
        self.seconds.value, self.fps.value, self.loop.value = path.seconds, path.fps, path.loop
        self._changed()
