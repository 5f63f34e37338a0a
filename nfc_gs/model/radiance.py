"""What evaluation, report, viewer, export and checkpoint need of a model, whatever its family.

A family is a kind of radiance model: Gaussians (`model.gaussians`), or a ray-marched field. `runs.families` knows them
all: it makes a model from saved state and renders it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.pixels import png_bytes

Output = Literal["rgb", "depth", "normals", "bits", "bit_entropy"]


@dataclass(frozen=True)
class Part:
    """A named part of saved state: of a model, an optimizer, density control, a companion.

    Attributes:
        tensors: by name.
        values: plain values, as JSON holds them.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def always_complete() -> bool:
    """Of renderings for which there is always enough memory."""
    return True


@dataclass
class RenderOutput:
    """A rendered view. A notebook shows its color.

    Attributes:
        rgb: [H, W, 3] color, not clamped (a splat's color may pass 1).
        alpha: [H, W, 1] coverage, 0..1.
        depth: [H, W, 1] expected depth along the camera's z axis in scene units if asked for, else None.
        info: what the model's own training wants to know of the rendering (per-Gaussian facts for density control);
            None where a family has nothing to say.
        bits: [H, W, 24] composited probabilities of the bits of red, green and blue, each most significant first, if
            asked for, else None. `rgb` is then decoded from them.
        bit_entropy: [H, W, 1] how undecided these are, 0..1 (`model.target_encoding.entropy`), if asked for.
        normals: [H, W, 3] unit normals in the frame of the model (the world of `Camera.viewmat`), towards the camera;
            zero where nothing is seen; if asked for, else None. Of Gaussians they are composited from the shortest
            axes.
        complete: whether the rendering counts; else it is to be repeated. Always true but where a training lets a GPU
            render with memory of a guessed size (`rendering.backend.RasterOutput`).

    >>> trained = nfc_gs.load_model("runs/garden")
    >>> output = nfc_gs.render(trained, trained.scene.camera(0), outputs=("rgb", "depth"))
    >>> output
    RenderOutput(rgb [36, 48, 3], alpha [36, 48, 1], depth [36, 48, 1])
    >>> float(output.rgb.mean()) > 0 and output.normals is None
    True
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    info: Any = field(default=None, repr=False)
    bits: Tensor | None = None
    bit_entropy: Tensor | None = None
    normals: Tensor | None = None
    complete: Callable[[], bool] = field(default=always_complete, repr=False)

    def __repr__(self) -> str:
        names = ("rgb", "alpha", "depth", "bits", "bit_entropy", "normals")
        shapes = ((name, getattr(self, name)) for name in names)
        return f"RenderOutput({', '.join(f'{n} {list(t.shape)}' for n, t in shapes if t is not None)})"

    def _repr_png_(self) -> bytes:
        return png_bytes(self.rgb)


def check_outputs(outputs: Collection[str]) -> None:
    """Raise UserError for the first name that is no `Output`."""
    for name in outputs:
        if name not in get_args(Output):
            raise UserError(f"There is no output '{name}' of a rendering; choose from {', '.join(get_args(Output))}.")


def check_rendered(output: RenderOutput, outputs: Collection[str], family: str) -> None:
    """Raise UserError unless a rendering has all outputs that were asked for.

    Args:
        family: of the model, for the sentence.
    """
    check_outputs(outputs)
    for name in outputs:
        if getattr(output, name) is None:
            raise UserError(f"Models of the family '{family}' cannot be rendered with the output '{name}'.")


@dataclass(frozen=True)
class RenderOptions:
    """How a model's views are rendered, whatever is shown of them.

    Attributes:
        background: color in [0, 1] behind the model.
        backend: rasterizer of Gaussians, its name or the object (`rendering.registry.get_backend`).
        antialiased: Mip-Splatting's opacities; models trained with them need them.
        corrections: trained corrections of single views (`model.corrections.ViewCorrection`), applied in order.

    >>> nfc_gs.RenderOptions(background=(1.0, 1.0, 1.0), backend="cpu")
    RenderOptions(background=(1.0, 1.0, 1.0), backend='cpu', antialiased=False, corrections=())
    """

    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    backend: Any = "auto"
    antialiased: bool = False
    corrections: tuple[Any, ...] = ()


@runtime_checkable
class RadianceModel(Protocol):
    """A model of any family."""

    @property
    def family(self) -> str:
        """The name of its family in `runs.families.FAMILIES`, "gaussians" for example."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        ...

    @property
    def changes_with_time(self) -> bool:
        """Whether a view of it depends on the time."""
        ...

    def parts(self) -> dict[str, Part]:
        """Its state by name, sharing memory; `runs.families` makes the same model of it again."""
        ...

    def copy(self) -> RadianceModel:
        """The same model in memory of its own, with gradients."""
        ...

    def detached(self) -> RadianceModel:
        """The same model without gradients, sharing memory: what is rendered of it are plain tensors."""
        ...

    def sizes(self) -> dict[str, int]:
        """How many elements it has, by what they are: {"gaussians": 12345}; the first says how large it is."""
        ...

    def facts(self) -> dict[str, str]:
        """Names and values for people: {"Gaussians": "12,345", "SH degree": "3"}; the first says how large it is."""
        ...
