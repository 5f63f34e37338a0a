"""How large a picture may be, and of how many Gaussians, so that a moving camera stays smooth."""

from __future__ import annotations

import math

TARGET_FPS = {"cpu": 20.0, "cuda": 60.0}
"""Pictures per second while the camera moves, by device."""

MEMORY = 0.9
"""Factor of the weight of a measurement with each newer one."""

OUTLIER = 2.0
"""A measurement that is off by more than this factor is an outlier: a busy machine, or another scene."""

MAX_OUTLIERS = 3
"""After so many outliers in a row all earlier measurements are dropped; fewer are ignored."""

MIN_SLOPE = 0.2
"""Least cost of a pixel, as a share of the mean (seconds per pixel); the rest is a cost of the scene."""

MIN_SCALE = 0.1
"""The smallest picture, as a share of the full width."""

STEP = 0.05
"""Sizes are multiples of this share, so that the size does not change with every measurement."""

COARSE, FINE = 0.5, 0.75
"""Before pictures become smaller than the first share of the full width, fewer Gaussians are drawn; where they are
larger than the second, more are tried."""

SLOW = 1.2
"""Fewer Gaussians are drawn where a coarse picture takes longer than it may by this factor."""

MIN_GAUSSIANS = 50_000
"""Gaussians that are drawn at least, if there are so many: fewer would look worse and be hardly faster."""

PATIENCE = 50, 2000
"""Pictures after which more Gaussians are tried; twice as many each time that it was too much, up to a limit."""


class FrameRate:
    """Chooses the size of pictures, and how many Gaussians they show, from how long the ones before took.

    A picture takes `fixed + slope * pixels` seconds: projecting and sorting Gaussians does not depend on the size. Both
    are fitted to the measurements by least squares in which old ones fade. Where the scene alone takes longer than a
    picture may, pixels get half as much time again: fewer would look worse and be hardly faster.

    How much of the time goes with the number of Gaussians is not known before it is tried: where coarse pictures take
    too long fewer are drawn at once, and where fine ones do not more are tried from time to time.

    Attributes:
        share: of the Gaussians to draw, a power of 2 up to 1.
    """

    def __init__(self, fps: float) -> None:
        """Hold `fps` pictures per second."""
        self.share = 1.0
        self._budget = 1.0 / fps
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._outliers = 0
        self._window, self._scale = 0, 0.0  # of the last size
        self._tried, self._since, self._patience = False, 0, PATIENCE[0]

    def measured(self, pixels: int, seconds: float, gaussians: int = 0) -> None:
        """A picture took so long, from the request to what is sent.

        Args:
            pixels: of it, as `size` chose them.
            gaussians: how many there are, of which `share` was drawn.
        """
        if pixels <= 0 or not 0.0 < seconds < math.inf:
            return
        if self._n and not self._is_likely(pixels, seconds):
            self._outliers += 1
            if self._outliers < MAX_OUTLIERS:
                return
            self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._outliers = 0
        new = (1.0, pixels, seconds, pixels * pixels, pixels * seconds)
        sums = (self._n, self._x, self._y, self._xx, self._xy)
        self._n, self._x, self._y, self._xx, self._xy = (MEMORY * old + add for old, add in zip(sums, new, strict=True))
        self._choose_share(gaussians)

    def _choose_share(self, gaussians: int) -> None:
        """Draw fewer Gaussians, or try more, where it is time for that."""
        fixed, slope = self.cost()
        slow = (fixed + slope * COARSE**2 * self._window) / self._budget
        share = self.share
        self._since += 1
        if slow > SLOW:
            share /= 2.0 ** math.ceil(math.log2(slow))
            while share < self.share and share * gaussians < MIN_GAUSSIANS:
                share *= 2.0
        elif share < 1.0 and self._scale >= FINE and self._since >= self._patience:
            share *= 2.0
        if share == self.share:
            return
        if share < self.share and self._tried:
            self._patience = min(2 * self._patience, PATIENCE[1])
        self.share, self._tried, self._since = share, share > self.share, 0
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def _is_likely(self, pixels: int, seconds: float) -> bool:
        """Whether a time fits the mean of those before, whatever part of them goes with the pixels."""
        mean, scaled = self._y / self._n, self._y / self._x * pixels
        return min(mean, scaled) / OUTLIER <= seconds <= max(mean, scaled) * OUTLIER

    def cost(self) -> tuple[float, float]:
        """(fixed, slope): seconds of any picture, seconds of each pixel; zeros before the first measurement."""
        if self._n == 0.0:
            return 0.0, 0.0
        mean = self._y / self._x
        spread = self._n * self._xx - self._x * self._x
        slope = mean
        if spread > 1e-2 * self._x * self._x:  # else all were of one size, and tell no more than the mean
            fitted = (self._n * self._xy - self._x * self._y) / spread
            slope = min(max(fitted, MIN_SLOPE * mean), mean) if fitted > 0.0 else mean
        return max(0.0, (self._y - slope * self._x) / self._n), slope

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The size in pixels to draw a window of this size at, at least 1 x 1 and at most the window's."""
        fixed, slope = self.cost()
        scale = COARSE  # a guess, for the first picture of all
        if slope > 0.0:
            pixels = max(self._budget - fixed, 0.5 * fixed) / slope
            scale = math.sqrt(pixels / max(1, width * height))
        scale = math.floor(min(max(scale, MIN_SCALE), 1.0) / STEP + 1e-9) * STEP
        self._window, self._scale = width * height, scale
        return max(1, round(width * scale)), max(1, round(height * scale))
