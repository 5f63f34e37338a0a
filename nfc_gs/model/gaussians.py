"""The trainable Gaussians."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from nfc_gs.core.checks import check_alike
from nfc_gs.core.sh import MAX_DEGREE
from nfc_gs.core.tensors import Array, as_tensor
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.deformation import Deformation, Quantity
from nfc_gs.model.deformation_kinds import make_deformation
from nfc_gs.model.heads.color_head import BitView, ColorHead, HeadOptions, check_dimensions
from nfc_gs.model.heads.registry import HEADS, HeadName, get_head, head_of
from nfc_gs.model.init import chosen_points, neighbour_distances
from nfc_gs.model.radiance import Part
from nfc_gs.ops.operations import REFERENCE, Operations, operations_for

GEOMETRY = ("means", "log_scales", "quats", "opacity_logits")
"""Names of the tensors that every model has."""


class GaussianModel(nn.Module):
    """N Gaussians, their color head and, in a moving scene, their deformation.

    Attributes:
        family: "gaussians", as a `model.radiance.RadianceModel`.
        color_head: what colors them, one of `model.heads.registry.HEADS`; it is known by the tensors' names.
        means: [N, 3] centres, scene frame.
        log_scales: [N, 3] logarithms of the standard deviations (scene units).
        quats: [N, 4] rotations wxyz, not normalised.
        opacity_logits: [N].
        sh_coeffs: with head "sh", [N, K, 3], K = (degree + 1)^2; color = max(0, 0.5 + sum_k Y_k(d) sh_coeffs[k]);
            else None.
        bit_logits, bit_shifts: with head "bits", [N, 24] and [N, K - 1, 3 or 24]; else None.
        deformation: how the Gaussians change with time; None for a static model. The tensors above are the canonical
            state, which it changes.

    The tensors of every other head are attributes, too, under the names in its `parameters`: None where the model has
    another head.

    >>> import numpy as np
    >>> nfc_gs.GaussianModel(  # two round Gaussians, a red one and a grey one; NumPy arrays or tensors
    ...     {
    ...         "means": np.array([[0, 0, 0], [1, 0, 0]]),
    ...         "log_scales": np.log(np.full((2, 3), 0.1)),
    ...         "quats": np.array([[1, 0, 0, 0], [1, 0, 0, 0]]),
    ...         "opacity_logits": np.array([2, 2]),
    ...         "sh_coeffs": np.array([[[1.7, -1.7, -1.7]], [[0, 0, 0]]]),
    ...     }
    ... )
    GaussianModel(2 Gaussians, SH degree 0, float32 on cpu)
    """

    family = "gaussians"
    color_head: ColorHead
    means: nn.Parameter
    log_scales: nn.Parameter
    quats: nn.Parameter
    opacity_logits: nn.Parameter
    sh_coeffs: nn.Parameter | None
    bit_logits: nn.Parameter | None
    bit_shifts: nn.Parameter | None
    deformation: Deformation | None

    def __init__(self, tensors: Mapping[str, Array], deformation: Deformation | None = None) -> None:
        """Make a model of the tensors in `GEOMETRY` and those of a color head.

        Args:
            tensors: are used as they are, not copied; NumPy arrays are copied to float32.

        Raises:
            ValueError: a tensor is missing, there are those of several color heads, or shapes, dtypes or devices
                do not fit together.
        """
        super().__init__()
        _check_present(GEOMETRY, tensors)
        tensors = {name: as_tensor(values) for name, values in tensors.items()}
        self.color_head = head_of(tensors)
        self.deformation = deformation
        for head in HEADS.values():
            for name in head.parameters:
                self.register_parameter(name, None)
        self.replace(tensors)

    @classmethod
    def from_points(
        cls,
        points: PointCloud,
        sh_degree: int = MAX_DEGREE,
        *,
        head: HeadName = "sh",
        bit_view: BitView = "shared",
        bit_hardness: float = 0.0,
        opacity: float = 0.1,
        scale_factor: float = 1.0,
        max_gaussians: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> GaussianModel:
        """One round Gaussian per point, as large as the distance to its neighbours, in the point's color.

        Args:
            points: the cloud, `SceneData.points` for example; points that are not finite are left out.
            sh_degree: 0..3, what the model can hold; all but degree 0 starts at zero.
            head: what colors the Gaussians, a name of `heads.registry.HEADS`; `bit_view` and `bit_hardness` are the
                bit head's (`heads.color_head.HeadOptions`).
            opacity: in (0, 1), of every Gaussian (0.1 as in 3D Gaussian splatting).
            scale_factor: multiplies the neighbours' distance.
            max_gaussians: keep at most this many points, a random choice of `seed`; None for all.

        Returns:
            A model with N = min(finite points, max_gaussians).

        Raises:
            UserError: there is no finite point.
            ValueError: an argument is out of its range, or there is no such head.

        >>> scene = nfc_gs.load_scene("captures/garden")
        >>> nfc_gs.GaussianModel.from_points(scene.points, sh_degree=1, max_gaussians=500)
        GaussianModel(500 Gaussians, SH degree 1, float32 on cpu)
        """
        if not isinstance(points, PointCloud):
            raise ValueError(f"points is a {type(points).__name__}, expected a PointCloud(xyz, rgb)")
        if not 0 <= sh_degree <= MAX_DEGREE:
            raise ValueError(f"sh_degree is {sh_degree}, expected 0 to {MAX_DEGREE}")
        if not 0 < opacity < 1:
            raise ValueError(f"opacity is {opacity}, expected a number between 0 and 1")
        if scale_factor <= 0:
            raise ValueError(f"scale_factor is {scale_factor}, expected a positive number")
        if max_gaussians is not None and max_gaussians < 1:
            raise ValueError(f"max_gaussians is {max_gaussians}, expected at least 1")
        xyz, rgb = chosen_points(points, max_gaussians, seed)
        count = len(xyz)
        scales = torch.from_numpy(neighbour_distances(xyz) * scale_factor)
        colors = torch.from_numpy(rgb.astype(np.float64) / 255)
        tensors = {
            "means": torch.from_numpy(xyz.astype(np.float64)),
            "log_scales": scales.log()[:, None].repeat(1, 3),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
            "opacity_logits": torch.logit(torch.full((count,), opacity, dtype=torch.float64)),
            **get_head(head).start(colors, sh_degree, HeadOptions(bit_view, bit_hardness)),
        }
        return cls({name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()})

    def __repr__(self) -> str:
        moving = "" if self.deformation is None else f", moving ({self.deformation.kind})"
        dtype = str(self.means.dtype).removeprefix("torch.")
        return f"GaussianModel({len(self):,} Gaussians, SH degree {self.sh_degree}{moving}, {dtype} on {self.device})"

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other tensors (perhaps with another N) in place of all parameters; raises as `__init__`."""
        _check_present(self.parameter_names, tensors)
        check_dimensions("means", tensors["means"], 2)
        n = tensors["means"].shape[0]
        shapes = {"means": (n, 3), "log_scales": (n, 3), "quats": (n, 4), "opacity_logits": (n,)}
        shapes |= self.color_head.shapes(n, tensors)
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}")
        check_alike({name: tensors[name] for name in shapes})
        for name in shapes:
            setattr(self, name, nn.Parameter(tensors[name].detach().contiguous()))

    @property
    def head(self) -> str:
        """The name of its color head."""
        return self.color_head.name

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the model's tensors, in the order in which they are saved."""
        return (*GEOMETRY, *self.color_head.parameters)

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, detached (they share memory with the model)."""
        return {name: getattr(self, name).detach() for name in self.parameter_names}

    def posed(self, time: float | None, operations: Operations = REFERENCE) -> dict[str, Tensor]:
        """The tensors as they are at a time, by name, differentiable by canonical state and deformation.

        Args:
            time: 0..1; None for the canonical state. A static model is the same at all times.
            operations: compute the deformation (`operations_for` the model's device and dtype).
        """
        if self.deformation is None or time is None:
            return self.changed({})
        return self.changed(self.deformation(self.means, time, operations))

    def changed(self, changes: Mapping[Quantity, Tensor]) -> dict[str, Tensor]:
        """The tensors by name after changes, [N, width] by quantity as a deformation gives them; differentiable."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in self.parameter_names}
        for name, change in changes.items():
            if name == "colors":
                tensors |= self.color_head.recolored(tensors, change)
            else:
                tensors[name] = tensors[name] + change
        return tensors

    @torch.no_grad()
    def at(self, time: float | None, operations: Operations | None = None) -> GaussianModel:
        """The static model that this one is at a time; what does not change with time is shared, not copied.

        Args:
            time: 0..1; None for the canonical state.
            operations: compute the deformation; None for those of the model's device and dtype.
        """
        return GaussianModel(self.posed(time, operations or operations_for(self.device, self.means.dtype)))

    def subset(self, kept: Tensor) -> GaussianModel:
        """A copy of the Gaussians that are `kept` ([N] bool), with their deformation."""
        deformation = None if self.deformation is None else self.deformation.subset(kept)
        return GaussianModel({name: tensor[kept] for name, tensor in self.tensors().items()}, deformation)

    def copy(self) -> GaussianModel:
        """The same model in memory of its own, with gradients."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors().items()}
        return GaussianModel(tensors, copy.deepcopy(self.deformation))

    def detached(self) -> GaussianModel:
        """The same model without gradients, sharing memory."""
        deformation = self.deformation
        if deformation is not None:
            shared: dict[int, Tensor] = {id(buffer): buffer for buffer in deformation.buffers()}
            shared |= {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in deformation.parameters()}
            deformation = copy.deepcopy(deformation, shared)  # which copies nothing that is in `shared`
        return GaussianModel(self.tensors(), deformation).requires_grad_(False)

    def parts(self) -> dict[str, Part]:
        """Its state by name, sharing memory: "model" and, in a moving scene, "deformation" with its settings."""
        parts = {"model": Part(self.tensors())}
        if self.deformation is not None:
            parts["deformation"] = Part(self.deformation.state_dict(), self.deformation.settings)
        return parts

    @classmethod
    def from_parts(cls, parts: Mapping[str, Part], device: torch.device | str = "cpu") -> GaussianModel:
        """The inverse of `parts`, which may hold other parts, too.

        Args:
            device: where the model will be; tensors that lie there already are used as they are.

        Raises:
            ValueError: the state is not that of a model.
        """
        if "model" not in parts:
            raise ValueError("there is no model")
        deformation = _make_deformation(parts["deformation"]) if "deformation" in parts else None
        tensors = {name: tensor.to(device) for name, tensor in parts["model"].tensors.items()}
        for name, tensor in tensors.items():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} has dtype {tensor.dtype}, expected float32 or float64")
        return cls(tensors, None if deformation is None else deformation.to(device))

    def sizes(self) -> dict[str, int]:
        """{"gaussians": N}."""
        return {"gaussians": len(self)}

    def facts(self) -> dict[str, str]:
        """Names and values for people."""
        head = self.color_head.describe(self._color_tensors())
        facts = {"Gaussians": f"{len(self):,}", "SH degree": str(self.sh_degree), "Color head": head}
        return facts if self.deformation is None else {**facts, "Deformation": self.deformation.kind}

    def baked(self, degree: int | None = None) -> GaussianModel:
        """The same Gaussians with direct SH that comes closest to their colors (`ColorHead.baked`).

        The deformation stays; where that changes colors, bake the model `at` a time instead.

        Args:
            degree: of the SH, 0..3; None for that of the model. Direct SH is cut off there, or filled up with zeros.

        Returns:
            A model with head "sh"; the model itself if it has that head already and no other degree is asked for.
        """
        degree = self.sh_degree if degree is None else degree
        if self.sh_coeffs is not None and degree == self.sh_degree:
            return self
        tensors = self.tensors()
        geometry = {name: tensors[name] for name in GEOMETRY}
        return GaussianModel(geometry | {"sh_coeffs": self.color_head.baked(tensors, degree)}, self.deformation)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations along the axes, scene units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def sh_degree(self) -> int:
        """The highest degree of view dependence the model can hold, 0..3."""
        return self.color_head.degree(self._color_tensors())

    @property
    def changes_with_time(self) -> bool:
        """Whether it has a deformation."""
        return self.deformation is not None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.means.device

    def _color_tensors(self) -> dict[str, Tensor]:
        """The color head's parameters by name."""
        return {name: getattr(self, name) for name in self.color_head.parameters}


def _check_present(names: Iterable[str], tensors: Mapping[str, Array]) -> None:
    """Raise ValueError for the first name of which there is no tensor."""
    for name in names:
        if name not in tensors:
            raise ValueError(f"there is no tensor '{name}'")


def _make_deformation(part: Part) -> Deformation:
    """The deformation of a saved part.

    Raises:
        ValueError: its settings, or its tensors, are not those of a deformation of this version.
    """
    bounds = part.tensors.get("bounds")
    if (
        bounds is None
        or bounds.shape != (2, 3)
        or not bool(bounds.isfinite().all())
        or not bool((bounds[0] < bounds[1]).all())
    ):
        raise ValueError("the bounds of the deformation are no box")
    try:
        deformation = make_deformation(part.values, bounds, None)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"the settings of the deformation make none: {error}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in deformation.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
    others = sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name))
    if others:
        raise ValueError(f"the deformation's {others[0]} is not as this version of nfc-gs has it")
    deformation.load_state_dict(dict(part.tensors))
    return deformation
