"""What is shown, and the line that says how it goes."""

from __future__ import annotations

import math

import numpy as np
import torch
import viser

from nfc_gs.core.colormap import MAP_NAMES
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.core.sh import sh0_to_rgb
from nfc_gs.viewer.draw import BIT_SHOWS, SHOWS
from nfc_gs.viewer.session import Session

CHANNELS = ("red", "green", "blue")

BROWSER_LIMIT = 1_000_000
"""Gaussians that a browser is given at most; of more, those that are seen best."""


def add_status(session: Session) -> None:
    """A line on the source and on the pictures, always in sight."""
    line = session.client.gui.add_markdown("")

    def tick() -> None:
        snapshot = session.source.snapshot()
        step = "" if snapshot.step is None else f" · step {snapshot.step:,}"
        width, height, spent, share = session.drawn
        how = f"{width} x {height} in {1000 * spent:.0f} ms" if spent else "waiting for the first picture"
        if spent and share < 1.0:
            how += f", {100 * share:.3g} % of the Gaussians while you move"
        if session.browser:
            how = "drawn by the browser"
        text = f"**{session.source.name}**{step} · {len(snapshot.model):,} Gaussians  \n{how}"
        if text != line.content:
            line.content = text

    session.on_tick.append(tick)


def add_show(session: Session) -> None:
    """What to show, and how."""
    gui = session.client.gui
    models = [source.snapshot().model for source in session.viewer.sources]  # any of which may be chosen to look at
    has_bits, degree = any(model.head == "bits" for model in models), max(model.sh_degree for model in models)
    shows = [show for show in SHOWS if show not in BIT_SHOWS or has_bits]
    if not session.has_photos:
        shows.remove("error")
    show = gui.add_dropdown(
        "Show", shows, initial_value="color",
        hint="Error: difference from the photo of the view chosen under Cameras, where you should stand. Count: how "
        "many Gaussians lie over a pixel, each by its falloff. Bits: the eight planes of a channel, most significant "
        "first, and the picture. Entropy: how undecided the bits are.",
    )  # fmt: skip
    session.show_control = show
    colors = gui.add_dropdown("Color map", MAP_NAMES, initial_value="turbo", visible=False, hint="Of depth and count.")
    auto = gui.add_checkbox("Range of depths by itself", True, visible=False, hint="From what is seen: 1 % to 99 %.")
    near = gui.add_number("Nearest", 0.0, min=0.0, step=0.01, visible=False, hint="Depth of the first color.")
    far = gui.add_number("Farthest", 10.0, min=0.0, step=0.01, visible=False, hint="Depth of the last color.")
    channel = gui.add_dropdown("Channel", CHANNELS, initial_value="red", visible=False, hint="Whose bits are shown.")
    bit = gui.add_slider("Bit plane", 0, 7, 1, 0, visible=False, hint="0 is the most significant bit, 7 the least.")
    background = gui.add_rgb("Background", _bytes(session.source.background), hint="The color behind the splats.")
    sh = gui.add_slider("SH degree", 0, max(1, degree), 1, degree, hint="View dependence of the colors: 0 has none.")
    scale = gui.add_slider("Scale of splats", 0.05, 2.0, 0.05, 1.0, hint="Factor of the size of every Gaussian.")
    points = gui.add_checkbox("Points", False, hint="A dot at the centre of each Gaussian instead of splats.")
    browser = gui.add_checkbox(
        "Draw in the browser", False,
        hint="Send the splats once and draw them with WebGL: smooth motion without load on the server, but colors "
        "without view dependence, of this moment, and without what this panel shows otherwise.",
    )  # fmt: skip

    def visibilities() -> None:
        colors.visible = show.value in ("depth", "count", "entropy")
        auto.visible = show.value == "depth"
        near.visible = far.visible = show.value == "depth" and not auto.value
        channel.visible = show.value in ("bit", "bits")
        bit.visible = show.value == "bit"

    def changed(*_: object) -> None:
        visibilities()
        chosen = None if auto.value else (near.value, max(far.value, near.value + 1e-6))
        session.change(
            show=show.value,
            colors=colors.value,
            depth_range=chosen,
            channel=CHANNELS.index(channel.value),
            bit=int(bit.value),
            background=tuple(value / 255.0 for value in background.value),
            sh_degree=int(sh.value),
            splat_scale=float(scale.value),
            points=bool(points.value),
        )

    for control in (show, colors, auto, near, far, channel, bit, background, sh, scale, points):
        control.on_update(session.guarded(changed))

    def switch(event: viser.GuiEvent) -> None:
        if event.client is None:
            return  # it is unticked because it failed
        try:
            draw_in_browser(session, bool(browser.value))
        except Exception:
            if not session.closed:
                browser.value = False
            raise

    browser.on_update(session.apart(switch))


def draw_in_browser(session: Session, on: bool) -> None:
    """Send the splats as they are now, or go back to pictures of the server, where what fails leads, too.

    Of wishes that come quickly, one after the other is granted, but none that a newer one has undone.
    """
    session.browser = on
    session.viewer.scheduler.forget(session.id)  # whatever is left to draw
    if on:
        session.playing = False
    else:
        session.request()  # now: what is being sent may take long
    with session.handing_over:
        if session.browser is not on:
            return
        try:
            if on:
                _hand_over(session)
            else:
                session.client.scene.remove_by_name("/splats")
        except Exception:
            session.browser = False
            session.request()
            raise


def _hand_over(session: Session) -> None:
    """Give the browser splats in the place of pictures, unless it wants pictures again by then."""
    splats = browser_splats(session)

    def clear() -> None:  # after a picture that is just being sent
        if session.browser:
            session.client.scene.set_background_image(None)

    session.run(clear)
    if session.browser:
        session.client.scene.add_gaussian_splats("/splats", *splats)


@torch.no_grad()
def browser_splats(session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres [N, 3], covariances [N, 3, 3], colors [N, 3] and opacities [N, 1] of what is shown, float32.

    All are in the frame that is shown.
    """
    model = session.still().baked(0)
    if len(model) > BROWSER_LIMIT:
        weight = model.opacities * model.log_scales.sum(1).exp().pow(2 / 3)
        kept = weight.topk(BROWSER_LIMIT).indices
        model = type(model)({name: tensor[kept] for name, tensor in model.tensors().items()})
    axes = quat_to_matrix(model.quats).nan_to_num() * (model.scales * session.look.splat_scale)[:, None, :]
    colors = sh0_to_rgb(model.tensors()["sh_coeffs"][:, 0]).clamp(0, 1)
    means, place = model.means, session.place_of(session.source)
    if place.matrix is not None:
        matrix = means.new_tensor(place.matrix)
        means, axes = means @ matrix[:3, :3].T + matrix[:3, 3], matrix[:3, :3] @ axes
    tensors = (means, axes @ axes.transpose(1, 2), colors, model.opacities[:, None])
    centers, covariances, rgbs, opacities = (tensor.float().cpu().numpy() for tensor in tensors)
    return centers, covariances, rgbs, opacities


def _bytes(color: tuple[float, float, float]) -> tuple[int, int, int]:
    r, g, b = (math.floor(255 * value + 0.5) for value in color)
    return (r, g, b)
