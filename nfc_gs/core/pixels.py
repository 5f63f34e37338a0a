"""Pictures as bytes of a file."""

from __future__ import annotations

import io

from torch import Tensor


def png_bytes(rgb: Tensor) -> bytes:
    """A picture [H, W, 3] in [0, 1] (clamped, NaN is black) as a PNG file."""
    from PIL import Image

    pixels = (rgb.detach().nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
