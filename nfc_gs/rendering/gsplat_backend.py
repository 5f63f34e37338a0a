"""gsplat's CUDA rasterizer (Ye et al., "gsplat", 2024) behind our contract.

Culling and colors are computed by the specification's own functions, so that both agree with the other backends and
so that Inf and NaN never reach gsplat's kernels. Where gsplat 1.5 still differs from the specification:

- alpha is capped at 0.999 instead of 0.99;
- a pixel is finished when transmittance would fall to 1e-4 or below, instead of below it;
- a splat is drawn only in the 16 x 16 tiles that its box (half extents rounded up to pixels) touches;
- its sums run in no fixed order, so results differ in the last bits from run to run.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import BLUR, NEAR_PLANE, TILE_SIZE
from nfc_gs.core.errors import UserError
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, SplatInfo, Splats
from nfc_gs.rendering.projection import scatter_rows, select, view_colors, visible_splats
from nfc_gs.rendering.torch_backend import TorchBackend

_log = logging.getLogger("nfc_gs")


class GsplatBackend(RasterBackend):
    """Renders splats with gsplat: float32 tensors on a GPU."""

    name = "gsplat"
    summary = "gsplat's CUDA kernels"
    devices = ("cuda",)

    def __init__(self) -> None:
        """Load gsplat and its kernels; the first time on a machine gsplat compiles them, which takes minutes.

        Raises:
            UserError: there is no GPU, no gsplat, or its kernels cannot be built.
        """
        if not torch.cuda.is_available():
            raise UserError(
                "The backend 'gsplat' needs an NVIDIA GPU and a CUDA build of torch, and torch sees none; "
                "use the backend 'cpu'."
            )
        self._rasterization = _load_rasterization()

    def _render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None
    ) -> RasterOutput:
        _require_gpu(splats)
        ids, radii = visible_splats(splats, camera, settings)
        visible = select(splats, ids)
        colors = _colors(visible, camera, settings)
        if len(ids) == 0 or (colors is None and not settings.depth):  # gsplat fails without splats or channels
            return TorchBackend().render(splats, camera, settings, background)

        channels = 0 if colors is None else colors.shape[1]
        image, alpha, meta = self._rasterization(
            visible.means,
            visible.quats,
            visible.scales,
            visible.opacities,
            visible.means if colors is None else colors,  # not read when only depth is rendered
            camera.viewmat[None],
            camera.K[None],
            camera.width,
            camera.height,
            near_plane=NEAR_PLANE,
            far_plane=float("inf"),
            eps2d=BLUR,
            packed=False,
            tile_size=TILE_SIZE,
            backgrounds=None if background is None or not channels else background[None],
            render_mode=_mode(channels, settings.depth),
            absgrad=settings.absgrad,
            rasterize_mode="antialiased" if settings.antialiased else "classic",
            # gsplat keeps only the absolute gradients of the last chunk of channels: take them all at once.
            channel_chunk=512 if settings.absgrad else 32,
        )
        image, alpha = image[0], alpha[0]
        depth = image[..., channels:] if settings.depth else None
        info = _collect(meta, ids, radii, settings.absgrad)
        return RasterOutput(image[..., :channels], alpha, depth, info)


def _load_rasterization() -> Any:
    """gsplat's function, once its kernels are known to load."""
    try:
        import gsplat
    except ImportError as error:
        raise UserError(
            f"The backend 'gsplat' cannot be imported ({error}); run 'pip install gsplat' or use the backend 'cpu'."
        ) from None
    _log.info("Loading gsplat's CUDA kernels (the first time on a machine they are compiled, which takes minutes).")
    try:
        from gsplat.cuda import _backend
    except Exception as error:  # whatever the compiler, the loader or the disk says
        raise UserError(
            f"The backend 'gsplat' could not build its CUDA kernels ({error}); mend the CUDA toolkit or use another "
            "backend."
        ) from error
    if _backend._C is None:
        raise UserError(
            "The backend 'gsplat' found neither ready-made kernels nor a CUDA toolkit to compile them; install the "
            "CUDA toolkit (nvcc) that matches torch, or use another backend."
        )
    return gsplat.rasterization


def _require_gpu(splats: Splats) -> None:
    if splats.means.device.type != "cuda":
        raise UserError(
            f"The backend 'gsplat' draws on a GPU but the splats are on '{splats.means.device}'; move the model with "
            ".to('cuda') or use the backend 'cpu'."
        )
    if splats.means.dtype != torch.float32:
        raise ValueError(f"the backend 'gsplat' computes in float32, got {splats.means.dtype}")


def _colors(visible: Splats, camera: Camera, settings: RasterSettings) -> Tensor | None:
    """[V, D] the channels to composite, without depth; None if there are none."""
    parts = []
    if visible.sh_bases:
        parts.append(view_colors(visible, camera, settings))
    if visible.features is not None and visible.features.shape[1]:
        parts.append(visible.features)
    return torch.cat(parts, dim=-1) if parts else None


def _mode(channels: int, depth: bool) -> str:
    """gsplat's name of what to render."""
    if not depth:
        return "RGB"
    return "RGB+ED" if channels else "ED"


def _collect(meta: dict[str, Any], ids: Tensor, radii: Tensor, absgrad: bool) -> SplatInfo:
    """The facts of all N splats from gsplat's of the visible ones; the gradients are filled in on backward."""
    means2d = meta["means2d"]  # [1, V, 2]
    drawn = (meta["radii"][0] > 0).all(-1, keepdim=True)  # gsplat leaves the rest of `means2d` unset
    info = SplatInfo(
        radii=scatter_rows(torch.where(drawn, meta["radii"][0], 0).to(torch.int32), ids, len(radii)),
        means2d=scatter_rows(torch.where(drawn, means2d.detach()[0], 0), ids, len(radii)),
    )

    def store(v_means2d: Tensor) -> None:
        info.means2d_grad = scatter_rows(v_means2d[0], ids, len(radii))
        if absgrad:
            info.means2d_absgrad = scatter_rows(means2d.absgrad[0], ids, len(radii))

    if means2d.requires_grad:
        means2d.register_hook(store)
    return info
