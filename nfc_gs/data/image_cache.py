"""The cache of decoded pictures, which are held as uint8 and decoded by threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nfc_gs.data.image_copies import ImageCopies
from nfc_gs.data.image_source import ImageSource
from nfc_gs.data.images import decode, decode_foreground, decode_moving, shrink
from nfc_gs.data.scene import View, ViewImage
from nfc_gs.data.video import frames_beside

DECODING_BYTES, RESAMPLING_BYTES = 10, 60
"""For each pixel of a file, and of a picture that is undistorted, measured."""


LEAST_DECODING = 300_000_000
"""Bytes for decoding, however small the bound: those of an image of 24 megapixels, and of small ones beside it."""


class ImageCache:
    """Decoded pictures of the views of one scene, within a bound of memory.

    Pictures are decoded by threads; the least recently used are dropped first. A picture does not depend on what
    is in the cache, on timing, or on the number of threads. The frames of a video are decoded many at a time: where
    one is needed, those beside it are kept, too, as far as there is room.

    Args:
        cache_gb: bound in 10^9 bytes. The newest picture is kept even if it alone is larger. What decoding itself
            needs comes on top: a quarter of the bound, or `LEAST_DECODING`, or what one image needs.
        threads: decoding threads; by default one per processor, at most 4.
        copies: where decoded pictures are on disk; None to decode what was dropped again.
        views: those of the scene, among which are the frames beside a frame of a video.
    """

    def __init__(
        self,
        cache_gb: float = 2.0,
        threads: int | None = None,
        *,
        copies: ImageCopies | None = None,
        views: Sequence[View] = (),
    ) -> None:
        self._limit, self._copies = int(cache_gb * 1e9), copies
        self._decoding = Throttle(max(self._limit // 4, LEAST_DECODING))
        self._threads = threads or max(1, min(4, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._images: OrderedDict[tuple[str, int], ViewImage] = OrderedDict()
        self._bytes = 0
        self._running: dict[tuple[str, int], Future[ViewImage]] = {}
        self._pool: ThreadPoolExecutor | None = None
        sources = [(view, view.source) for view in views]
        self._frames = {(s.path, s.frame): view for view, s in sources if s is not None and s.frame is not None}
        self._kept_beside: set[tuple[Path, int]] = set()  # video and first of the frames that are decoded together

    @property
    def limit(self) -> int:
        """The bound, bytes."""
        return self._limit

    @property
    def nbytes(self) -> int:
        """Bytes of pixels held now."""
        return self._bytes

    def image(self, view: View, divisor: int = 1) -> ViewImage:
        """The picture of a view, 1 / `divisor` of its size; see `SceneData.image`.

        The arrays are the cache's own: do not write to them.

        Raises:
            UserError: the file cannot be read any more.
        """
        key = (view.name, divisor)
        while True:
            with self._lock:
                if key in self._images:
                    self._images.move_to_end(key)
                    return self._images[key]
                running = self._running.get(key)
                if running is None or running.cancel():  # not started: decode it in this thread
                    running = None
                    own: Future[ViewImage] = Future()
                    own.set_running_or_notify_cancel()
                    self._running[key] = own
            if running is None:
                return self._finish(key, own, view, divisor)
            try:
                return running.result()
            except CancelledError:
                continue

    def prefetch(self, views: Sequence[View], divisor: int = 1) -> None:
        """Start decoding pictures in the background; errors are raised when a picture is requested.

        Of many, those are left out that would push the first ones out of the cache before they are used.
        """
        room = self._limit // 2
        with self._lock:
            for view in views:
                key = (view.name, divisor)
                room -= picture_bytes(view) // divisor**2
                if room < 0:
                    break
                if key in self._images:
                    self._images.move_to_end(key)
                    continue
                if key in self._running:
                    continue
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
                self._running[key] = self._pool.submit(self._make_and_store, key, view, divisor)

    def moving(self, view: View) -> np.ndarray | None:
        """Which pixels of a view show something that moves, see `SceneData.moving`; nothing of it is kept."""
        return decode_moving(_source(view))

    def foreground(self, view: View) -> np.ndarray | None:
        """Which pixels of a view are foreground, see `SceneData.foreground`; nothing of it is kept."""
        return decode_foreground(_source(view))

    def _make_and_store(self, key: tuple[str, int], view: View, divisor: int) -> ViewImage:
        try:
            image = self._make(view, divisor)
        except BaseException:
            with self._lock:
                self._running.pop(key, None)
            raise
        with self._lock:
            self._store(key, image, evict=True)
            self._running.pop(key, None)
        return image

    def _finish(self, key: tuple[str, int], own: Future[ViewImage], view: View, divisor: int) -> ViewImage:
        try:
            image = self._make_and_store(key, view, divisor)
        except BaseException as error:
            own.set_exception(error)
            raise
        own.set_result(image)
        return image

    def _make(self, view: View, divisor: int) -> ViewImage:
        if divisor == 1:
            return self._full(view)
        with self._lock:
            full = self._images.get((view.name, 1))
        if full is None:
            full = self._full(view)
            with self._lock:  # the next, larger stage will need it; other pictures are not dropped for it
                self._store((view.name, 1), full, evict=False)
        height, width = full.rgb.shape[:2]
        return shrink(full, max(1, round(width / divisor)), max(1, round(height / divisor)))

    def _full(self, view: View) -> ViewImage:
        """The picture at full working size, from its copy if there is one."""
        source = _source(view)
        return self._decode(source) if self._copies is None else self._copies.image(source, self._decode)

    def _decode(self, source: ImageSource) -> ViewImage:
        with self._decoding.holding(decoding_bytes(source)):
            image = decode(source)
        if source.frame is not None:
            self._start_keeping_beside(source.path, frames_beside(source.path, source.frame))
        return image

    def _start_keeping_beside(self, video: Path, frames: range) -> None:
        """Once for these frames, which are in memory for now; without threads nothing happens."""
        with self._lock:
            if self._pool is None or (video, frames.start) in self._kept_beside:
                return
            self._kept_beside.add((video, frames.start))
            self._pool.submit(self._keep, [self._frames[video, k] for k in frames if (video, k) in self._frames])

    def _keep(self, views: Sequence[View]) -> None:
        """Make pictures that nobody waits for, and keep them where there is room: in memory, or as copies on disk."""
        for view in views:
            key = (view.name, 1)
            with self._lock:
                if key in self._images or key in self._running:
                    continue
                room = self._bytes + picture_bytes(view) <= self._limit
            if not room and self._copies is None:
                return
            image = self._full(view)
            with self._lock:
                self._store(key, image, evict=False)

    def _store(self, key: tuple[str, int], image: ViewImage, evict: bool) -> None:
        """Keep a picture (without `evict` only where there is room); the lock is held."""
        size = _size(image)
        if key in self._images or (not evict and self._bytes + size > self._limit):
            return
        self._images[key] = image
        self._bytes += size
        while self._bytes > self._limit and len(self._images) > 1:
            _, gone = self._images.popitem(last=False)
            self._bytes -= _size(gone)


class Throttle:
    """Lets threads in as long as the sizes of what they do stay within a limit together; one alone always."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Wait until there is room, and take it for the time of a context."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


def picture_bytes(view: View) -> int:
    """About the bytes that the picture of a view takes, at most: those of its colors, and of its mask if it may have
    one."""
    source = _source(view)
    masked = source.mask is not None or source.header.has_alpha or source.lens is not None
    return view.camera.width * view.camera.height * (4 if masked else 3)


def decoding_bytes(source: ImageSource) -> int:
    """About the bytes that decoding an image takes for a moment."""
    pixels = source.header.width * source.header.height
    resampled = 0 if source.pinhole is None else source.pinhole.width * source.pinhole.height
    return DECODING_BYTES * pixels + RESAMPLING_BYTES * resampled


def _size(image: ViewImage) -> int:
    return image.rgb.nbytes + (0 if image.mask is None else image.mask.nbytes)


def _source(view: View) -> ImageSource:
    assert view.source is not None, "the views of a scene with a cache have sources"
    return view.source
