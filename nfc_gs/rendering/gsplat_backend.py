"""gsplat's CUDA rasterizer (Ye et al., "gsplat", 2024) behind our contract.

Culling and colors are computed by the specification's own functions, so that both agree with the other backends and
so that Inf and NaN never reach gsplat's kernels. Where gsplat 1.5 still differs from the specification:

- alpha is capped at 0.999 instead of 0.99;
- a pixel is finished when transmittance would fall to 1e-4 or below, instead of below it;
- a splat is drawn only in the 16 x 16 tiles that its box (half extents rounded up to pixels) touches;
- its sums run in no fixed order, so results differ in the last bits from run to run.

A part of a picture (`Camera.crop`) equals that part of the whole to the rounding of its centres, which are projected in
the whole picture and then moved: 1e-3 of a color.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
        self._gsplat = _load_gsplat()

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
        draw = self._draw_whole if camera.part_of is None else self._draw_part
        image, alpha, meta = draw(visible, colors, camera, settings, background)
        depth = image[..., channels:] if settings.depth else None
        info = _collect(meta, ids, radii, settings.absgrad)
        return RasterOutput(image[..., :channels], alpha, depth, info)

    def _draw_whole(
        self,
        visible: Splats,
        colors: Tensor | None,
        camera: Camera,
        settings: RasterSettings,
        background: Tensor | None,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Composite `colors` [V, D], and depth as the last channel if it is asked for.

        Returns:
            [H, W, D (+ 1)] channels over the background, [H, W, 1] alpha, and gsplat's facts of the splats.
        """
        channels = 0 if colors is None else colors.shape[1]
        image, alpha, meta = self._gsplat.rasterization(
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
        return image[0], alpha[0], meta

    def _draw_part(
        self,
        visible: Splats,
        colors: Tensor | None,
        camera: Camera,
        settings: RasterSettings,
        background: Tensor | None,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """`_draw_whole` for a part of a picture: what `gsplat.rasterization` does, with the splats projected in the
        whole picture, whose frustum gsplat clamps slopes to, and moved to the part."""
        frame = camera.frame
        intrinsics = camera.K.clone()
        intrinsics[0, 2], intrinsics[1, 2] = frame.cx, frame.cy
        radii, means2d, depths, conics, compensations = self._gsplat.fully_fused_projection(
            visible.means,
            None,
            visible.quats,
            visible.scales,
            camera.viewmat[None],
            intrinsics[None],
            frame.width,
            frame.height,
            eps2d=BLUR,
            near_plane=NEAR_PLANE,
            far_plane=float("inf"),
            calc_compensations=settings.antialiased,
            opacities=visible.opacities,
        )
        means2d = means2d - means2d.new_tensor([frame.left, frame.top])
        opacities = visible.opacities[None] if compensations is None else visible.opacities[None] * compensations
        channels = visible.means.new_zeros(1, len(visible.means), 0) if colors is None else colors[None]
        backgrounds = None if background is None else background[None]
        if settings.depth:
            channels = torch.cat([channels, depths[..., None]], dim=-1)
            backgrounds = None if backgrounds is None else functional.pad(backgrounds, (0, 1))
        tiles_x, tiles_y = -(-camera.width // TILE_SIZE), -(-camera.height // TILE_SIZE)
        _, isect_ids, flatten_ids = self._gsplat.isect_tiles(means2d, radii, depths, TILE_SIZE, tiles_x, tiles_y)
        image, alpha = self._gsplat.rasterize_to_pixels(
            means2d,
            conics,
            channels,
            opacities,
            camera.width,
            camera.height,
            TILE_SIZE,
            self._gsplat.isect_offset_encode(isect_ids, 1, tiles_x, tiles_y),
            flatten_ids,
            backgrounds=backgrounds,
            absgrad=settings.absgrad,
        )
        if settings.depth:
            image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)], dim=-1)
        return image[0], alpha[0], {"means2d": means2d, "radii": radii}


def _load_gsplat() -> Any:
    """gsplat, once its kernels are known to load."""
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
    return gsplat


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
