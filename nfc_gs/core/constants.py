"""Numerical thresholds of the renderer, each with its reason.

`cuda/include/nfc_gs/constants.h` repeats them for the compiled backends; a test holds the two together.
"""

NEAR_PLANE = 0.01
"""Gaussians whose centre is nearer than this (scene units) are culled: the projection divides by depth."""

BLUR = 0.3
"""Square pixels added to the diagonal of the 2D covariance, so that no splat is thinner than a pixel (3DGS)."""

ALPHA_MIN = 1.0 / 255.0
"""A splat fainter than one 8-bit step at a pixel is skipped there; this also bounds its footprint (3DGS)."""

ALPHA_MAX = 0.99
"""Cap of alpha, so that 1 - alpha can be divided by (Inria's 3DGS; gsplat 1.5.3 caps at 0.999)."""

TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished before the splat that would bring its transmittance below this (3DGS)."""

FRUSTUM_MARGIN = 0.3
"""The projection is linearised no farther outside the image than this fraction of half its extent (3DGS)."""

TILE_SIZE = 16
"""Pixels along a side of a tile."""

SSIM_WINDOW = 11
"""Taps of the Gaussian window of SSIM (Wang et al. 2004)."""

SSIM_SIGMA = 1.5
"""Standard deviation of that window in pixels."""

SSIM_C1 = 0.01**2
"""Stabiliser of the luminance term for values in [0, 1]."""

SSIM_C2 = 0.03**2
"""Stabiliser of the contrast term for values in [0, 1]."""

BITS = 8
"""Bits of a color channel, whose values are 0..255 (Neural Field Classifiers, section 3.1)."""
