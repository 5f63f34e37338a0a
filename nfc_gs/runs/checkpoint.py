"""Saving and loading the state of a training run.

One safetensors file: model, optimizer moments and density statistics as tensors, everything else as JSON in its
header. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, write_error
from nfc_gs.data import stored
from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.model.deformation import make_deformation
from nfc_gs.model.gaussians import GaussianModel, parameter_names

FORMAT = "nfc-gs checkpoint"
VERSION = 1
_GROUPS = ("model", "optimizer", "density", "deformation", "deformation_optimizer")
"""Fields of `Checkpoint` that hold tensors."""
_SCENE = "scene"
"""Group of the tensors of its scene."""
CHECKPOINT_NAME = "checkpoint.safetensors"
"""Name of the checkpoint in a run folder."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        model: the tensors of `GaussianModel`, by name.
        step: optimisation steps done.
        seconds: training time so far.
        config: the resolved configuration, as plain values.
        capture: the path the scene was read from.
        data: how the capture was read (`data.config.DataConfig`, as plain values).
        transform: [4, 4] float64, from the capture's world frame to the frame of the model (`SceneData.transform`).
        background: color in [0, 1] behind the splats at evaluation.
        optimizer: Adam's moments, "m.means", "v.means", ...: shapes as in `model`.
        density: per-Gaussian statistics of density control, each [N, ...].
        state: small plain values (counters of density control, timings).
        motion: settings of the field that moves the model (`Deformation.settings`); empty for a static one.
        deformation: that field's tensors, by name.
        deformation_optimizer: Adam's moments of the field's parameters.
        time_axis: what the times 0 and 1 mean in the capture; None for a static scene.
        scene: the capture without its photos (`data.stored.without_photos`), to draw from where it is not there; None
            in files of before.
    """

    model: Mapping[str, Tensor]
    step: int
    seconds: float
    config: Mapping[str, Any]
    capture: str
    transform: np.ndarray
    background: tuple[float, float, float]
    data: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    density: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    motion: Mapping[str, Any] = field(default_factory=dict)
    deformation: Mapping[str, Tensor] = field(default_factory=dict)
    deformation_optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    time_axis: TimeAxis | None = None
    scene: SceneData | None = None

    def make_model(self, device: str = "cpu") -> GaussianModel:
        """The model, on a device; the Gaussians' tensors are used as they are if they lie there already."""
        deformation = None
        if self.motion:
            deformation = make_deformation(self.motion, self.deformation["bounds"], None)
            deformation.load_state_dict(dict(self.deformation))
            deformation.to(device)
        return GaussianModel({name: tensor.to(device) for name, tensor in self.model.items()}, deformation)


@dataclass(frozen=True)
class LoadedModel:
    """A trained model and where it stands in the world.

    Attributes:
        model: on the CPU.
        transform: [4, 4] float64 similarity from the capture's world frame to the frame of the model.
        background: color in [0, 1] that was behind the splats.
        checkpoint: the rest of what was saved.
    """

    model: GaussianModel
    transform: np.ndarray
    background: tuple[float, float, float]
    checkpoint: Checkpoint


def checkpoint_path(path: Path | str) -> Path:
    """The checkpoint file that a run folder or a file name stands for.

    Raises:
        UserError: there is no such file or folder, or the folder holds no checkpoint.
    """
    given = Path(path)
    if given.is_dir():
        inside = given / CHECKPOINT_NAME
        if not inside.is_file():
            raise UserError(f"{given} is not a run: it holds no {CHECKPOINT_NAME}; give a folder made by training.")
        return inside
    if not given.is_file():
        raise UserError(f"There is no run or checkpoint {given}; check the path.")
    return given


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: at any moment `path` holds the old one or the new one, whole.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "gaussians": int(checkpoint.model["means"].shape[0]),
        "config": dict(checkpoint.config),
        "capture": checkpoint.capture,
        "data": dict(checkpoint.data),
        "transform": np.asarray(checkpoint.transform, dtype=np.float64).tolist(),
        "background": list(checkpoint.background),
        "state": dict(checkpoint.state),
        "motion": dict(checkpoint.motion),
        "time_axis": None if checkpoint.time_axis is None else asdict(checkpoint.time_axis),
    }
    tensors: dict[str, Tensor] = {}
    for group in _GROUPS:
        for name, tensor in getattr(checkpoint, group).items():
            tensors[f"{group}.{name}"] = tensor.detach().cpu().contiguous()
    if checkpoint.scene is not None:
        header["scene"], of_scene = stored.to_parts(checkpoint.scene)
        tensors |= {f"{_SCENE}.{name}": tensor.contiguous() for name, tensor in of_scene.items()}
    metadata = {"nfc_gs": json.dumps(header), "format": "pt"}
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=metadata)
        except SafetensorError as error:
            raise _write_failure(Path(path), error) from None


def save_compact(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write what drawing needs of a checkpoint: no optimizer, and colors and motion in half precision.

    With the checkpoint's `scene` it can be drawn from where the capture is not. `load_model` reads it as any other;
    training cannot go on from it. Means, scales, rotations and opacities stay as they are.

    Raises:
        UserError: it cannot be written.
    """
    kept = ("means", "log_scales", "quats", "opacity_logits", "bounds")

    def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor if name in kept else tensor.half() for name, tensor in tensors.items()}

    save_checkpoint(
        path,
        replace(
            checkpoint,
            model=halved(checkpoint.model),
            deformation=halved(checkpoint.deformation),
            optimizer={},
            density={},
            deformation_optimizer={},
        ),
    )


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint file, or the one in a run folder, onto the CPU.

    Raises:
        UserError: no such file, not a checkpoint, of another version, cut short, or its tensors do not fit together.
    """
    file = checkpoint_path(path)
    header = _read_header(file)
    groups = _read_tensors(file)
    try:
        transform = np.array(header["transform"], dtype=np.float64)
        time_axis = _time_axis(header.get("time_axis"))
        values = header.get("scene")
        checkpoint = Checkpoint(
            model=groups["model"],
            optimizer=groups["optimizer"],
            density=groups["density"],
            deformation=groups["deformation"],
            deformation_optimizer=groups["deformation_optimizer"],
            motion=dict(header.get("motion") or {}),  # not there before moving scenes
            time_axis=time_axis,
            scene=None if values is None else stored.from_parts(values, groups[_SCENE], transform, time_axis),
            step=int(header["step"]),
            seconds=float(header["seconds"]),
            config=dict(header["config"]),
            capture=stored.file_name(header["capture"]),
            data=dict(header["data"]),
            transform=transform,
            background=tuple(float(value) for value in header["background"]),  # type: ignore[arg-type]
            state=dict(header["state"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"The checkpoint {file} has a broken header ({error}); use another checkpoint.") from None
    _check_shapes(file, checkpoint, header.get("gaussians"))
    return checkpoint


def load_model(path: Path | str) -> LoadedModel:
    """The trained model of a run folder or a checkpoint file, on the CPU.

    Raises:
        UserError: as `load_checkpoint`.
    """
    checkpoint = load_checkpoint(path)
    return LoadedModel(checkpoint.make_model(), checkpoint.transform, checkpoint.background, checkpoint)


def _read_header(file: Path) -> dict[str, Any]:
    """Our JSON, out of the safetensors header; read by hand so that each way of being broken gets its sentence."""
    foreign = f"{file} is not an nfc-gs checkpoint; give the {CHECKPOINT_NAME} of a run."
    try:
        with open(file, "rb") as handle:
            size = file.stat().st_size
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= 100_000_000:
                raise UserError(foreign)
            raw = handle.read(length)
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}; check its permissions.") from None
    if not raw.startswith(b'{"'):
        raise UserError(foreign)
    if len(raw) < length:
        raise _cut_short(file)
    try:
        table = json.loads(raw)
        end = max((int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__"), default=0)
        header = json.loads(table["__metadata__"]["nfc_gs"])
        if header["format"] != FORMAT:
            raise UserError(foreign)
        version = header["version"]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(foreign) from None
    if version != VERSION:
        raise UserError(
            f"The checkpoint {file} has format version {version}, but this nfc-gs reads version {VERSION}; "
            "use the nfc-gs that wrote it, or train again."
        )
    if size < 8 + length + end:
        raise _cut_short(file)
    return header


def _time_axis(value: Any) -> TimeAxis | None:
    """The time axis of a header; raises KeyError, TypeError or ValueError if it is none."""
    if not value:
        return None
    axis = TimeAxis(float(value["start"]), float(value["end"]), str(value.get("unit", "")))
    if not 0.0 < axis.end - axis.start < math.inf:
        raise ValueError(f"the times run from {axis.start} to {axis.end}")
    return axis


def _read_tensors(file: Path) -> dict[str, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        flat = load_file(str(file))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The checkpoint {file} is damaged ({error}); use another checkpoint.") from None
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in (*_GROUPS, _SCENE)}
    for name, tensor in flat.items():
        group, _, rest = name.partition(".")
        if group in groups:
            groups[group][rest] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return groups


def _check_shapes(file: Path, checkpoint: Checkpoint, gaussians: object) -> None:
    """Raise if tensors are missing or do not fit together."""
    for name in parameter_names("bits" if "bit_logits" in checkpoint.model else "sh"):
        if name not in checkpoint.model:
            raise UserError(f"The checkpoint {file} holds no tensor '{name}'; use another checkpoint.")
    n = checkpoint.model["means"].shape[0]
    try:
        _check_deformation(checkpoint)
        checkpoint.make_model()
        if n != gaussians:
            raise ValueError(f"means has {n} rows where the header says {gaussians} Gaussians")
        for name, tensor in checkpoint.optimizer.items():
            like = checkpoint.model.get(name.partition(".")[2])
            if like is None or tensor.shape != like.shape:
                raise ValueError(f"the optimizer's {name} has shape {tuple(tensor.shape)}")
        for name, tensor in checkpoint.density.items():
            if tensor.shape[:1] != (n,):
                raise ValueError(f"the density statistic {name} has shape {tuple(tensor.shape)} for {n} Gaussians")
        if checkpoint.transform.shape != (4, 4) or len(checkpoint.background) != 3:
            raise ValueError("transform or background has another size")
    except (ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"The tensors of the checkpoint {file} do not fit together: {error}; use another one."
        ) from None


def _check_deformation(checkpoint: Checkpoint) -> None:
    """Raise ValueError if the field's tensors and their moments do not fit together."""
    if bool(checkpoint.motion) != bool(checkpoint.deformation):
        raise ValueError("there are settings of a deformation field, or its tensors, but not both")
    bounds = checkpoint.deformation.get("bounds")
    if checkpoint.motion and (
        bounds is None
        or bounds.shape != (2, 3)
        or not bool(bounds.isfinite().all())
        or not bool((bounds[0] < bounds[1]).all())
    ):
        raise ValueError("the bounds of the deformation field are no box")
    if checkpoint.motion:
        field = make_deformation(checkpoint.motion, checkpoint.deformation["bounds"], None).state_dict()
        shapes, found = ({n: tuple(t.shape) for n, t in tensors.items()} for tensors in (field, checkpoint.deformation))
        others = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        if others:
            raise ValueError(f"the deformation field's {others[0]} is not as this version of nfc-gs has it")
    for name, tensor in checkpoint.deformation_optimizer.items():
        like = checkpoint.deformation.get(name.partition(".")[2])
        if like is None or tensor.shape != like.shape:
            raise ValueError(f"the optimizer's {name} has shape {tuple(tensor.shape)}")


def _cut_short(file: Path) -> UserError:
    return UserError(f"The checkpoint {file} is cut short; use another checkpoint, or copy it again.")


def _write_failure(path: Path, error: Exception) -> UserError:
    """The sentence for a failure inside safetensors, which names the system's error number in its text."""
    import errno
    import re

    found = re.search(r"os error (\d+)", str(error))
    number = int(found.group(1)) if found else errno.EIO
    return write_error(path, OSError(number, str(error)))
