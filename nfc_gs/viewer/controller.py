"""How large a picture may be so that a moving camera stays smooth."""

from __future__ import annotations

import math

TARGET_FPS = {"cpu": 20.0, "cuda": 60.0}
"""Pictures per second while the camera moves, by device."""

MEMORY = 0.9
"""What a measurement still counts for after the next one."""

SURPRISE = 2.0
"""A measurement that is off by more than this factor is a surprise: a busy machine, or another scene."""

SURPRISES = 3
"""So many of them in a row, and all that was measured before is forgotten; fewer are left out."""

LEAST_SLOPE = 0.2
"""Share of the mean cost of a pixel that its own cost is at least taken for; the rest belongs to the scene."""

MIN_SCALE = 0.1
"""The smallest picture, as a share of the full width."""

STEP = 0.05
"""Sizes are multiples of this share, so that the picture does not breathe with every measurement."""


class FrameRate:
    """Chooses the size of pictures from how long the ones before took.

    A picture takes `fixed + slope * pixels` seconds: projecting and sorting Gaussians does not depend on the size. Both
    are fitted to the measurements by least squares in which old ones fade. Where the scene alone takes longer than a
    picture may, pixels get half as much time again: fewer would look worse and be hardly faster.
    """

    def __init__(self, fps: float) -> None:
        """Hold `fps` pictures per second."""
        self._budget = 1.0 / fps
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._surprises = 0

    def measured(self, pixels: int, seconds: float) -> None:
        """A picture of so many pixels took so long, from the request to what is sent."""
        if pixels <= 0 or not 0.0 < seconds < math.inf:
            return
        if self._n and not self._is_likely(pixels, seconds):
            self._surprises += 1
            if self._surprises < SURPRISES:
                return
            self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._surprises = 0
        new = (1.0, pixels, seconds, pixels * pixels, pixels * seconds)
        sums = (self._n, self._x, self._y, self._xx, self._xy)
        self._n, self._x, self._y, self._xx, self._xy = (MEMORY * old + add for old, add in zip(sums, new, strict=True))

    def _is_likely(self, pixels: int, seconds: float) -> bool:
        """Whether a time fits the mean of those before, whatever part of them goes with the pixels."""
        mean, scaled = self._y / self._n, self._y / self._x * pixels
        return min(mean, scaled) / SURPRISE <= seconds <= max(mean, scaled) * SURPRISE

    def cost(self) -> tuple[float, float]:
        """(fixed, slope): seconds of any picture, seconds of each pixel; zeros before the first measurement."""
        if self._n == 0.0:
            return 0.0, 0.0
        mean = self._y / self._x
        spread = self._n * self._xx - self._x * self._x
        slope = mean
        if spread > 1e-2 * self._x * self._x:  # else all were of one size, and tell no more than the mean
            fitted = (self._n * self._xy - self._x * self._y) / spread
            slope = min(max(fitted, LEAST_SLOPE * mean), mean) if fitted > 0.0 else mean
        return max(0.0, (self._y - slope * self._x) / self._n), slope

    def size(self, width: int, height: int, seconds: float | None = None) -> tuple[int, int]:
        """The size in pixels to draw a window of this size at, at least 1 x 1 and at most the window's.

        Args:
            seconds: how long the picture may take; None for what the frame rate allows.
        """
        budget = self._budget if seconds is None else seconds
        fixed, slope = self.cost()
        scale = 0.5  # a guess, for the first picture of all
        if slope > 0.0:
            pixels = max(budget - fixed, 0.5 * fixed) / slope
            scale = math.sqrt(pixels / max(1, width * height))
        scale = math.floor(min(max(scale, MIN_SCALE), 1.0) / STEP + 1e-9) * STEP
        return max(1, round(width * scale)), max(1, round(height * scale))
