"""Two sources side by side."""

from __future__ import annotations

from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source


def add_compare(session: Session) -> None:
    """Which source is looked at, which it is compared with, and how well both fit the photos."""
    gui, sources = session.client.gui, session.viewer.sources
    names = [source.name for source in sources]
    mode = gui.add_dropdown("Compare", ("off", "split", "flicker"), initial_value="off", disabled=len(names) < 2,
                            hint="Split: left and right of a border. Flicker: in turn. Give several runs to the "
                            "command to compare them.")  # fmt: skip
    left = gui.add_dropdown("Left", names, initial_value=session.source.name, hint="What is looked at.")
    right = gui.add_dropdown("Right", names, initial_value=session.other.name, disabled=len(names) < 2,
                             hint="What it is compared with.")  # fmt: skip
    split = gui.add_slider("Border", 0.0, 1.0, 0.005, 0.5, disabled=len(names) < 2, hint="Drag it over the picture.")
    measure = gui.add_button(
        "PSNR of both", disabled=session.source.scene is None, hint="On the training view nearest to your camera."
    )
    result = gui.add_markdown("")

    def changed(_: object) -> None:
        session.change(
            compare=mode.value, source=_named(sources, left.value), other=_named(sources, right.value),
            split=float(split.value),
        )  # fmt: skip

    def measured(_: object) -> None:
        index = session.nearest_view()
        assert session.source.scene is not None
        lines = [f"Nearest view: {session.source.scene.views[index].name}", ""]
        for source in dict.fromkeys([session.source, session.other]):
            lines.append(f"- {source.name}: {session.psnr(source, index):.2f} dB")
        result.content = "\n".join(lines)

    for control in (mode, left, right, split):
        control.on_update(session.guarded(changed))
    measure.on_click(session.guarded(measured))


def _named(sources: list[Source], name: str) -> Source:
    return next(source for source in sources if source.name == name)
