"""HexPlane deformation: features looked up in six planes and decoded by small networks.

4D Gaussian splatting (Wu et al. 2024, arXiv 2310.08528, section 4.2); the planes are those of Cao and Johnson 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfc_gs.core.checks import CheckedFields
from nfc_gs.model.deformation import WIDTHS, Deformation, Quantity, linear_layer, quantiles
from nfc_gs.ops.operations import Operations

PLANE_AXES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Axes (column, row) of the six planes: xy, xz, yz, and with time xt, yt, zt."""

TIME_AXIS = 3

VIEWS_PER_CELL = 6
"""Views to train on that each cell along time has at least: with fewer, motion is made up that suits one view alone."""

MAX_GROWTH = 0.25
"""By how much of its side the box may grow at each end, beside the one it has when motion begins."""

GROW_SHARE = 0.005
"""The box grows when more than this share of the Gaussians have left it on one side."""


@dataclass(frozen=True)
class HexPlaneConfig(CheckedFields):
    """Size of a HexPlane and the weights of its regularisers (4DGS, arguments/dnerf and section 4.3)."""

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


def plane_shapes(config: HexPlaneConfig, time_resolution: int) -> list[tuple[int, int, int]]:
    """Shape [rows, columns, features] of each plane, by level and then in the order of `PLANE_AXES`."""
    shapes = []
    for level in config.levels:
        for _, row in PLANE_AXES:
            cells = time_resolution if row == TIME_AXIS else level * config.resolution
            shapes.append((cells, level * config.resolution, config.features))
    return shapes


def is_time_plane(index: int) -> bool:
    """Whether the plane at this place in the order of `plane_shapes` has time along its rows."""
    return PLANE_AXES[index % len(PLANE_AXES)][1] == TIME_AXIS


def choose_time_resolution(config: HexPlaneConfig, times: int, views: int) -> int:
    """Cells along time for a scene with so many different times, and views to train on."""
    return config.time_resolution or max(8, min(75, times // 2, views // VIEWS_PER_CELL))


# ---- features, network and regularisers: the references, and the choice between them and accelerated operations ------


def hexplane_features(planes: Sequence[Tensor], coords: Tensor, time: float, operations: Operations) -> Tensor:
    """`hexplane_features_reference`, accelerated where the operations take planes of this size."""
    if operations.hexplane_features is None or planes[0].shape[2] % operations.width_multiple:
        return hexplane_features_reference(planes, coords, time)
    return operations.hexplane_features(planes, coords, time)


def hexplane_features_reference(planes: Sequence[Tensor], coords: Tensor, time: float) -> Tensor:
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
    for first in range(0, len(planes), len(PLANE_AXES)):
        product: Tensor | None = None
        for plane, axes in zip(planes[first : first + len(PLANE_AXES)], PLANE_AXES, strict=True):
            grid = points[:, axes].view(1, 1, -1, 2)
            sampled = functional.grid_sample(
                plane.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=True
            )[0, :, 0].T  # [N, F]
            product = sampled if product is None else product * sampled
        assert product is not None
        levels.append(product)
    return torch.cat(levels, dim=1)


def mlp(x: Tensor, weights: Sequence[Tensor], operations: Operations) -> Tensor:
    """`mlp_reference`, accelerated where the operations take layers of these widths."""
    widths = (x.shape[1], len(weights[1]))
    multiple, most = operations.width_multiple, operations.max_width
    if operations.mlp is None or len(weights) != 6 or any(width % multiple or width > most for width in widths):
        return mlp_reference(x, weights)
    return operations.mlp(x, weights)


def mlp_reference(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """A network with ReLU between its layers: [N, inputs] -> [N, outputs].

    Args:
        weights: of each layer its matrix [outputs, inputs] and its bias [outputs].
    """
    for index in range(0, len(weights), 2):
        x = functional.linear(x if index == 0 else x.relu(), weights[index], weights[index + 1])
    return x


def add_plane_regulariser_gradient(
    plane: Tensor,
    gradient: Tensor,
    column_tv: float,
    row_tv: float,
    smoothness: float,
    sparsity: float,
    operations: Operations,
) -> None:
    """`add_plane_regulariser_gradient_reference`, accelerated where the operations take planes of this size."""
    weights = (column_tv, row_tv, smoothness, sparsity)
    if operations.add_plane_regulariser_gradient is None or plane.shape[2] % operations.width_multiple:
        add_plane_regulariser_gradient_reference(plane, gradient, *weights)
    else:
        operations.add_plane_regulariser_gradient(plane, gradient, *weights)


def add_plane_regulariser_gradient_reference(
    plane: Tensor, gradient: Tensor, column_tv: float, row_tv: float, smoothness: float, sparsity: float
) -> None:
    """Add the gradient of column_tv/2 |d plane/d column|^2 + row_tv/2 |d plane/d row|^2 +
    smoothness/2 |d^2 plane/d row^2|^2 + sparsity |plane - 1|, sums over the plane [rows, columns, F], in place."""
    if column_tv:
        step = column_tv * (plane[:, 1:] - plane[:, :-1])
        gradient[:, 1:] += step
        gradient[:, :-1] -= step
    if row_tv:
        step = row_tv * (plane[1:] - plane[:-1])
        gradient[1:] += step
        gradient[:-1] -= step
    if smoothness and len(plane) > 2:
        second = smoothness * (plane[:-2] - 2.0 * plane[1:-1] + plane[2:])
        gradient[:-2] += second
        gradient[1:-1] -= 2.0 * second
        gradient[2:] += second
    if sparsity:
        gradient += sparsity * (plane - 1.0).sign()


# ---- the deformation ------------------------------------------------------------------------------------------------


class HexPlane(Deformation):
    """Six planes per level, and two small networks: one for colors, one for all other quantities.

    The planes of space begin with random features, those with time with ones: at first features do not depend on time.
    (4DGS draws the random ones from 0.1 to 0.5; the product of three of them is so small that its network hardly tells
    places apart at first, which cost 0.15 dB in short runs. Here they are around 1.)

    (4DGS has one layer for all quantities and then heads. Most of a scene does not move, and layers that learn this
    have no gradient left there; where colors have layers of their own, those find what recolors, and what moves is
    found sooner, too.)

    Attributes:
        config: its sizes and regularisers.
        planes: in the order of `plane_shapes`.
        networks: by what they change, "geometry" (all but colors) and "colors": layers, from features to changes.
    """

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
            if generator is not None and not is_time_plane(index):
                plane.uniform_(0.5, 1.5, generator=generator)
            self.planes.append(nn.Parameter(plane))
        inputs = config.features * len(config.levels)
        colors = WIDTHS["colors"] if "colors" in self.quantities else 0
        geometry = sum(WIDTHS[name] for name in self.quantities) - colors
        color_width = 16 * -(-config.width // 32)
        self.networks = nn.ModuleDict()
        for name, width, outputs in (("geometry", config.width, geometry), ("colors", color_width, colors)):
            if outputs:
                first, second = linear_layer(inputs, width, generator), linear_layer(width, width, generator)
                self.networks[name] = nn.ModuleList([first, second, linear_layer(width, outputs, None)])

    @property
    def time_resolution(self) -> int:
        """Cells along time."""
        return self.planes[TIME_AXIS].shape[0]

    def key_times(self) -> Tensor:
        # Between two cells features are products of three straight lines, which may turn half-way.
        return torch.linspace(0.0, 1.0, 2 * self.time_resolution - 1)

    def changes(self, means: Tensor, time: float, operations: Operations) -> Tensor:
        features = hexplane_features(list(self.planes), self.normalized(means), 2.0 * time - 1.0, operations)
        changes = [mlp(features, list(layers.parameters()), operations) for layers in self.networks.values()]
        return torch.cat(changes, dim=1)

    @torch.no_grad()
    def extrapolate_constant(self, first: float, last: float) -> None:
        """Make all times before `first` and after `last`, 0..1, the same as these times."""
        cells = self.time_resolution - 1
        low, high = math.floor(max(0.0, first) * cells), math.ceil(min(1.0, last) * cells)
        for index, plane in enumerate(self.planes):
            if is_time_plane(index):
                plane[:low] = plane[low]
                plane[high + 1 :] = plane[high]

    @torch.no_grad()
    def fit_bounds(self, points: Tensor) -> None:
        super().fit_bounds(points)
        low, high = self.bounds
        room = MAX_GROWTH * (high - low)
        self.settings["max_bounds"] = torch.stack([low - room, high + room]).tolist()

    @torch.no_grad()
    def grow_bounds(self, means: Tensor, optimizer_state: Sequence[Mapping[str, Tensor]] = ()) -> None:
        """Enlarge the box where more than `GROW_SHARE` of the Gaussians have left it, and by a tenth of its side more,
        but never beyond `settings["max_bounds"]`: points outside have the features of the border.

        The planes are sampled anew. What they say inside the old box stays nearly the same, but it has fewer cells
        there. (Without a limit a few Gaussians far behind the scene had boxes of long runs grow to four times their
        size, until all that moved was within a few cells.)
        """
        low, high = self.bounds
        least, most = quantiles(means, GROW_SHARE)
        margin = 0.1 * (high - low)
        bounds = torch.stack(
            [torch.where(least < low, least - margin, low), torch.where(most > high, most + margin, high)]
        )
        if "max_bounds" in self.settings:
            lowest, highest = bounds.new_tensor(self.settings["max_bounds"])
            bounds = torch.stack([torch.maximum(bounds[0], lowest), torch.minimum(bounds[1], highest)])
        if torch.equal(bounds, self.bounds):
            return
        old = self.bounds.clone()
        for index, plane in enumerate(self.planes):
            for tensor in (plane, *(tensors[f"planes.{index}"] for tensors in optimizer_state)):
                tensor.copy_(_resampled(tensor, PLANE_AXES[index % len(PLANE_AXES)], old, bounds))
        self.bounds.copy_(bounds)


def _resampled(plane: Tensor, axes: tuple[int, int], old: Tensor, new: Tensor) -> Tensor:
    """A plane [rows, columns, F] over the box `old`, sampled at the cells of the box `new`."""
    positions = []
    for axis, cells in zip(axes, (plane.shape[1], plane.shape[0]), strict=True):
        steps = torch.linspace(-1.0, 1.0, cells, dtype=plane.dtype, device=plane.device)
        if axis != TIME_AXIS:
            where = new[0, axis] + (steps + 1.0) / 2.0 * (new[1, axis] - new[0, axis])
            steps = (where - old[0, axis]) * (2.0 / (old[1, axis] - old[0, axis])) - 1.0
        positions.append(steps)
    rows, columns = torch.meshgrid(positions[1], positions[0], indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]
    sampled = functional.grid_sample(plane.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=True)
    return sampled[0].permute(1, 2, 0)
