"""Motion: fields that say how each Gaussian differs from its canonical state at a time.

A field maps canonical means and a time to changes that are added to the Gaussians' tensors; at the start every change
is exactly zero. Two kinds:

- `HexPlane` (4D Gaussian splatting, Wu et al. 2024, arXiv 2310.08528, section 4.2; the planes are those of Cao and
  Johnson 2023): features are looked up in six planes and decoded by a small network.
- `MlpField` (Deformable 3D Gaussians, Yang et al. 2024, arXiv 2309.13101, section 3.2): one network of the encoded mean
  and time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

MotionName = Literal["hexplane", "mlp"]
Quantity = Literal["means", "quats", "log_scales", "opacity_logits", "colors"]

WIDTHS: dict[Quantity, int] = {"means": 3, "quats": 4, "log_scales": 3, "opacity_logits": 1, "colors": 3}
"""Numbers per Gaussian of each quantity that may change."""

PAIRS = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Axes (column, row) of the six planes: xy, xz, yz, and with time xt, yt, zt."""

VIEWS_PER_CELL = 6
"""Views to train on that each cell along time has at least: with fewer, motion is made up that suits one view alone."""

TIME = 3
"""The axis of time."""

GROWTH = 0.25
"""By how much of its side the box of a field may grow at each end, beside the one it has when motion begins."""


@dataclass(frozen=True)
class HexPlaneConfig:
    """Size of a HexPlane field and the weights of its regularisers (4DGS, arguments/dnerf and section 4.3)."""

    features: int = 32
    """Features of each plane, a multiple of 16."""
    resolution: int = 64
    """Cells along each axis of space, at level 1."""
    time_resolution: int | None = None
    """Cells along time, the same at every level. By default half the number of times, but no more than a sixth of the
    number of views: 8 to 75."""
    levels: tuple[int, ...] = (1, 2)
    """Multiples of the resolution of space."""
    width: int = 64
    """Width of the layers of the network that moves things; those of the one for colors have half of it, or a little
    more: a multiple of 16, which the compiled kernels take."""
    tv: float = 1e-4
    """Weight of the total variation of the planes of space."""
    smoothness: float = 1e-2
    """Weight of the second differences along time of the planes with time."""
    sparsity: float = 1e-4
    """Weight of the distance of the planes with time from 1."""


@dataclass(frozen=True)
class MlpConfig:
    """Size of an MLP field (Deformable 3D Gaussians, section 3.2 and 3.3)."""

    depth: int = 8
    """Layers."""
    width: int = 256
    """Width of the layers."""
    mean_frequencies: int = 10
    """Octaves of the encoding of means."""
    time_frequencies: int = 6
    """Octaves of the encoding of time."""
    time_noise: float | None = None
    """Noise on the time of training views, in intervals between frames, falling to 0 in the course of the run (annealed
    smooth training). By default 0.1, and 0 for pictures that were laid on a background, as rendered ones are."""


def plane_shapes(config: HexPlaneConfig, time_resolution: int) -> list[tuple[int, int, int]]:
    """Shape [rows, columns, features] of each plane, by level and then in the order of `PAIRS`."""
    shapes = []
    for level in config.levels:
        for _, row in PAIRS:
            cells = time_resolution if row == TIME else level * config.resolution
            shapes.append((cells, level * config.resolution, config.features))
    return shapes


def has_time(index: int) -> bool:
    """Whether the plane at this place in the order of `plane_shapes` has time along its rows."""
    return PAIRS[index % len(PAIRS)][1] == TIME


def look_up_reference(planes: Sequence[Tensor], coords: Tensor, time: float) -> Tensor:
    """Features of points: bilinear in each plane, multiplied over the six planes, level beside level (4DGS, eq. 6).

    Args:
        planes: six per level, [rows, columns, F] each, as `plane_shapes` orders them; corners are cell centres.
        coords: [N, 3] in [-1, 1]; points beyond have the features of the border.
        time: in [-1, 1].

    Returns:
        [N, levels * F].
    """
    # NaN has the features of the lowest border; grid_sample would write anywhere for it.
    points = torch.cat([coords.nan_to_num(nan=-1.0), coords.new_full((len(coords), 1), time)], dim=1)  # [N, 4]
    levels = []
    for first in range(0, len(planes), len(PAIRS)):
        product: Tensor | None = None
        for plane, pair in zip(planes[first : first + len(PAIRS)], PAIRS, strict=True):
            grid = points[:, pair].view(1, 1, -1, 2)
            found = functional.grid_sample(
                plane.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=True
            )[0, :, 0].T  # [N, F]
            product = found if product is None else product * found
        assert product is not None
        levels.append(product)
    return torch.cat(levels, dim=1)


def network_reference(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """A network with ReLU between its layers: [N, inputs] -> [N, outputs].

    Args:
        weights: of each layer its matrix [outputs, inputs] and its bias [outputs].
    """
    for index in range(0, len(weights), 2):
        x = functional.linear(x if index == 0 else x.relu(), weights[index], weights[index + 1])
    return x


def add_plane_gradient_reference(
    plane: Tensor, gradient: Tensor, along_columns: float, along_rows: float, bend: float, from_one: float
) -> None:
    """Add the gradient of along_columns/2 |d plane/d column|^2 + along_rows/2 |d plane/d row|^2 +
    bend/2 |d^2 plane/d row^2|^2 + from_one |plane - 1|, sums over the plane [rows, columns, F], in place."""
    if along_columns:
        step = along_columns * (plane[:, 1:] - plane[:, :-1])
        gradient[:, 1:] += step
        gradient[:, :-1] -= step
    if along_rows:
        step = along_rows * (plane[1:] - plane[:-1])
        gradient[1:] += step
        gradient[:-1] -= step
    if bend and len(plane) > 2:
        second = bend * (plane[:-2] - 2.0 * plane[1:-1] + plane[2:])
        gradient[:-2] += second
        gradient[1:-1] -= 2.0 * second
        gradient[2:] += second
    if from_one:
        gradient += from_one * (plane - 1.0).sign()


@dataclass(frozen=True)
class FieldKernels:
    """The implementations of a field's heavy parts; the layers above know faster ones."""

    look_up: Callable[[Sequence[Tensor], Tensor, float], Tensor] = look_up_reference
    network: Callable[[Tensor, Sequence[Tensor]], Tensor] = network_reference
    add_plane_gradient: Callable[[Tensor, Tensor, float, float, float, float], None] = add_plane_gradient_reference


REFERENCE = FieldKernels()


class Deformation(nn.Module, ABC):
    """What both kinds of field share.

    Attributes:
        kind: its name.
        quantities: what it changes, in the order of `WIDTHS`.
        bounds: [2, 3] lowest and highest corner of the box in which the Gaussians move, scene frame.
        unit: what a change of means by 1 is in scene units: a good way through the scene, so that one learning rate
            suits changes of all quantities.
        settings: what `make_deformation` needs to make the same field again, as plain values.
    """

    kind: MotionName
    quantities: tuple[Quantity, ...]
    bounds: Tensor
    unit: float = 1.0
    settings: dict[str, Any]

    def __init__(self, kind: MotionName, quantities: Sequence[Quantity], bounds: Tensor) -> None:
        super().__init__()
        self.kind = kind
        self.quantities = tuple(name for name in WIDTHS if name in quantities)
        self.register_buffer("bounds", bounds.detach().clone())

    def normalised(self, means: Tensor) -> Tensor:
        """Means [N, 3] with the box `bounds` as [-1, 1]."""
        low, high = self.bounds
        return (means - low) * (2.0 / (high - low)) - 1.0

    def forward(self, means: Tensor, time: float, kernels: FieldKernels = REFERENCE) -> dict[Quantity, Tensor]:
        """What to add to the Gaussians at a time.

        Args:
            means: [N, 3] canonical, scene frame.
            time: 0..1.

        Returns:
            By quantity [N, its width]; opacity_logits [N]. "colors" is in units of the constant color, [0, 1].
        """
        parts = self.changes(means, time, kernels).split([WIDTHS[name] for name in self.quantities], dim=1)
        changes = dict(zip(self.quantities, parts, strict=True))
        if "means" in changes:
            changes["means"] = changes["means"] * self.unit
        if "opacity_logits" in changes:
            changes["opacity_logits"] = changes["opacity_logits"].squeeze(1)
        return changes

    @abstractmethod
    def changes(self, means: Tensor, time: float, kernels: FieldKernels) -> Tensor:
        """The changes side by side, [N, sum of their widths]."""

    def moments(self) -> Tensor:
        """[T] times, 0..1, that show all the motion there is."""
        return torch.linspace(0.0, 1.0, 64)

    def part(self, kept: Tensor) -> Deformation | None:
        """The field of those Gaussians that are `kept` ([N] bool); None if they stand still."""
        return self  # it is one of places

    @torch.no_grad()
    def surround(self, points: Tensor) -> None:
        """Put the box around points [P, 3], when nothing has been learnt yet."""
        self.bounds.copy_(box_of(points))
        low, high = self.bounds
        room = GROWTH * (high - low)
        self.settings["widest"] = torch.stack([low - room, high + room]).tolist()

    def grow_bounds(self, means: Tensor, companions: Sequence[Mapping[str, Tensor]] = ()) -> None:
        """Enlarge the box if the Gaussians have left it. Not all fields need that.

        Args:
            companions: tensors by the names of parameters, which belong to their values and go with them.
        """


class HexPlane(Deformation):
    """Six planes per level, and two small networks: one for colors, one for all that moves.

    The planes of space begin with random features, those with time with ones: at first features do not depend on time.
    (4DGS draws the random ones from 0.1 to 0.5; the product of three of them is so small that its network hardly tells
    places apart at first, which cost 0.15 dB in short runs. Here they are around 1.)

    (4DGS has one layer for all quantities and then heads. Most of a scene stands still, and layers that learn this have
    no gradient left there; where colors have layers of their own, what recolors is found by them, and what moves is
    found sooner, too.)

    Attributes:
        config: its sizes and regularisers.
        planes: in the order of `plane_shapes`.
        networks: by what they change, "motion" (all but colors) and "colors": layers, from features to changes.
    """

    GROW_SHARE = 0.005
    """The box grows when more than this share of the Gaussians have left it on one side."""

    def __init__(
        self,
        config: HexPlaneConfig,
        time_resolution: int,
        quantities: Sequence[Quantity],
        bounds: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """`generator` of the first values; None leaves them to be loaded."""
        super().__init__("hexplane", quantities, bounds)
        self.config = config
        self.planes = nn.ParameterList()
        for index, shape in enumerate(plane_shapes(config, time_resolution)):
            plane = torch.ones(shape)
            if generator is not None and not has_time(index):
                plane.uniform_(0.5, 1.5, generator=generator)
            self.planes.append(nn.Parameter(plane))
        inputs = config.features * len(config.levels)
        colors = WIDTHS["colors"] if "colors" in self.quantities else 0
        motion = sum(WIDTHS[name] for name in self.quantities) - colors
        color_width = 16 * -(-config.width // 32)
        self.networks = nn.ModuleDict()
        for name, width, outputs in (("motion", config.width, motion), ("colors", color_width, colors)):
            if outputs:
                first, second = _linear(inputs, width, generator), _linear(width, width, generator)
                self.networks[name] = nn.ModuleList([first, second, _linear(width, outputs, None)])

    @property
    def time_resolution(self) -> int:
        """Cells along time."""
        return self.planes[TIME].shape[0]

    def moments(self) -> Tensor:
        # Between two cells features are products of three straight lines, which may turn half-way.
        return torch.linspace(0.0, 1.0, 2 * self.time_resolution - 1)

    def changes(self, means: Tensor, time: float, kernels: FieldKernels) -> Tensor:
        features = kernels.look_up(list(self.planes), self.normalised(means), 2.0 * time - 1.0)
        changes = [kernels.network(features, list(layers.parameters())) for layers in self.networks.values()]
        return torch.cat(changes, dim=1)

    @torch.no_grad()
    def hold_beyond(self, first: float, last: float) -> None:
        """Let what is before `first` and after `last`, 0..1, be as at these times."""
        cells = self.time_resolution - 1
        low, high = math.floor(max(0.0, first) * cells), math.ceil(min(1.0, last) * cells)
        for index, plane in enumerate(self.planes):
            if has_time(index):
                plane[:low] = plane[low]
                plane[high + 1 :] = plane[high]

    @torch.no_grad()
    def grow_bounds(self, means: Tensor, companions: Sequence[Mapping[str, Tensor]] = ()) -> None:
        """Enlarge the box where more than `GROW_SHARE` of the Gaussians have left it, and by a tenth of its side more,
        but never beyond `GROWTH`: points outside have the features of the border.

        The planes are sampled anew. What they say inside the old box stays nearly the same, but it has fewer cells
        there. (Without an end a few Gaussians far behind the scene had boxes of long runs grow to four times their
        size, until all that moved was within a few cells.)
        """
        low, high = self.bounds
        share = HexPlane.GROW_SHARE
        wanted_low, wanted_high = _quantiles(means, share)
        margin = 0.1 * (high - low)
        bounds = torch.stack(
            [
                torch.where(wanted_low < low, wanted_low - margin, low),
                torch.where(wanted_high > high, wanted_high + margin, high),
            ]
        )
        if "widest" in self.settings:
            least, most = bounds.new_tensor(self.settings["widest"])
            bounds = torch.stack([torch.maximum(bounds[0], least), torch.minimum(bounds[1], most)])
        if torch.equal(bounds, self.bounds):
            return
        old = self.bounds.clone()
        for index, plane in enumerate(self.planes):
            for tensor in (plane, *(companion[f"planes.{index}"] for companion in companions)):
                tensor.copy_(_resampled(tensor, PAIRS[index % len(PAIRS)], old, bounds))
        self.bounds.copy_(bounds)


def _resampled(plane: Tensor, pair: tuple[int, int], old: Tensor, new: Tensor) -> Tensor:
    """A plane [rows, columns, F] over the box `old`, sampled at the cells of the box `new`."""
    positions = []
    for axis, cells in zip(pair, (plane.shape[1], plane.shape[0]), strict=True):
        steps = torch.linspace(-1.0, 1.0, cells, dtype=plane.dtype, device=plane.device)
        if axis != TIME:
            where = new[0, axis] + (steps + 1.0) / 2.0 * (new[1, axis] - new[0, axis])
            steps = (where - old[0, axis]) * (2.0 / (old[1, axis] - old[0, axis])) - 1.0
        positions.append(steps)
    rows, columns = torch.meshgrid(positions[1], positions[0], indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]
    found = functional.grid_sample(plane.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=True)
    return found[0].permute(1, 2, 0)


def encode(x: Tensor, octaves: int) -> Tensor:
    """[N, D] -> [N, D (2 octaves + 1)]: x and sin, cos of 2^k pi x (NeRF, Mildenhall et al. 2020, eq. 4)."""
    waves = x[:, None] * (math.pi * 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device))[:, None]
    return torch.cat([x, waves.sin().flatten(1), waves.cos().flatten(1)], dim=1)


class MlpField(Deformation):
    """One network of the encoded mean and time, which come in again in its middle (skip)."""

    def __init__(
        self,
        config: MlpConfig,
        quantities: Sequence[Quantity],
        bounds: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """`generator` of the first values; None leaves all zero, to be loaded."""
        super().__init__("mlp", quantities, bounds)
        self.config = config
        inputs = 3 * (2 * config.mean_frequencies + 1) + 2 * config.time_frequencies + 1
        self.skip = config.depth // 2  # at least 1: there are 2 layers or more
        self.layers = nn.ModuleList(
            _linear((inputs if k == 0 else config.width) + (inputs if k == self.skip else 0), config.width, generator)
            for k in range(config.depth)
        )
        self.layers.append(_linear(config.width, sum(WIDTHS[name] for name in self.quantities), None))

    def changes(self, means: Tensor, time: float, kernels: FieldKernels) -> Tensor:
        # Motion flows back to the means through the picture alone, as in the paper: the encoding's gradients are wild.
        mean = encode(self.normalised(means.detach()).nan_to_num(), self.config.mean_frequencies)
        moment = encode(means.new_full((1, 1), time), self.config.time_frequencies)
        inputs = torch.cat([mean, moment.expand(len(mean), -1)], dim=1)
        *hidden_layers, last = self.layers
        hidden = inputs
        for k, layer in enumerate(hidden_layers):
            if k == self.skip:
                hidden = torch.cat([inputs, hidden], dim=1)
            hidden = layer(hidden).relu()
        return last(hidden)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer, its weights drawn as torch draws them but from our generator; all zero without one.

    The last layer of a field is zero: at first nothing moves.
    """
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1.0 / math.sqrt(inputs)
    for tensor in (layer.weight, layer.bias):
        if generator is None:
            nn.init.zeros_(tensor)
        else:
            nn.init.uniform_(tensor, -bound, bound, generator=generator)
    return layer


def box_of(points: Tensor, share: float = 0.01) -> Tensor:
    """[2, 3] the box that holds all but `share` of the points [P, 3] on each side of each axis, a fifth larger.

    The points are finite, and at least one.
    """
    low, high = _quantiles(points, share)
    sides = high - low
    # No side is so short that rounding, or the slopes of a field over it, would have no bounds.
    least = torch.maximum(1e-3 * sides.amax(), 1e-3 * (1.0 + torch.maximum(low.abs(), high.abs())))
    margin = 0.1 * torch.maximum(sides, least)
    return torch.stack([low - margin, high + margin])


def _quantiles(points: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Below and above which lies that share of the points [P, 3], by axis; of very many points some are asked."""
    some = points[:: len(points) // 1_000_000 + 1]  # torch.quantile takes no more than 2^24
    return torch.quantile(some, share, dim=0), torch.quantile(some, 1.0 - share, dim=0)


def time_cells(config: HexPlaneConfig, moments: int, views: int) -> int:
    """Cells along time for a scene with so many different times, and views to train on."""
    return config.time_resolution or max(8, min(75, moments // 2, views // VIEWS_PER_CELL))


def make_deformation(settings: Mapping[str, Any], bounds: Tensor, generator: torch.Generator | None) -> Deformation:
    """A field of the sizes in `settings`, which it keeps.

    Args:
        settings: "kind", "quantities", "config" (of `HexPlaneConfig` or `MlpConfig`), for a HexPlane
            "time_resolution", "unit" (1 without it), and "widest" (what `bounds` may become; anything without it), as
            plain values.
        bounds: [2, 3].
        generator: of the first values; None leaves all zero, to be loaded.

    Raises:
        KeyError, TypeError, ValueError: the settings are no such thing.
    """
    quantities = settings["quantities"]
    if not quantities or not set(quantities) <= set(WIDTHS):
        raise ValueError(f"quantities {quantities}")
    if settings["kind"] == "hexplane":
        config = HexPlaneConfig(**{**settings["config"], "levels": tuple(settings["config"]["levels"])})
        field: Deformation = HexPlane(config, int(settings["time_resolution"]), quantities, bounds, generator)
    elif settings["kind"] == "mlp":
        field = MlpField(MlpConfig(**settings["config"]), quantities, bounds, generator)
    else:
        raise ValueError(f"kind {settings['kind']}")
    if "widest" in settings and torch.tensor(settings["widest"]).shape != (2, 3):
        raise ValueError(f"widest {settings['widest']}")
    field.unit = float(settings.get("unit", 1.0))
    field.settings = dict(settings)
    return field
