"""Saving and loading the state of a run, as named parts.

One safetensors file: the tensors of each part as "part/name", and everything else as JSON in the file's header, whose
`step` can be read without reading the rest. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core import plain_json
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, check_path, write_error
from nfc_gs.core.text import in_one_line
from nfc_gs.data import stored
from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.model.correction_kinds import CORRECTIONS
from nfc_gs.model.corrections import ViewCorrection
from nfc_gs.model.radiance import Part, RadianceModel, RenderOptions
from nfc_gs.objective.terms import BUILT_IN
from nfc_gs.runs.families import FAMILIES
from nfc_gs.runs.names import CHECKPOINT_NAME

logger = logging.getLogger("nfc_gs")

FORMAT = "nfc-gs checkpoint"
VERSION = 2
_SCENE = "scene"
"""Name of the part with the tensors of the scene."""

RUN_PART = "run"
"""Name of the part with the state of the run itself (timings, evaluations)."""

GIVEN_PART = "given"
"""Name of the part that names the terms and companions a run was given from Python: code cannot be saved."""

MOST_SECONDS = 1e12
"""That a run may say it took, or may take: 30,000 years."""

RESERVED_PARTS = (_SCENE, RUN_PART, GIVEN_PART)
"""Names that no part of a model or its training can have."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        family: of the model (`runs.families.FAMILIES`).
        model_parts: names of those parts that the model is made of; the others belong to its training.
        parts: named state. Who puts a part in takes it out again; nobody else looks inside.
        correction_parts: names of those parts that are corrections of views.
        step: optimisation steps done.
        seconds: training time so far.
        config: the resolved configuration, as plain values.
        capture: the path the scene was read from.
        data: how the capture was read (`DataConfig`, as plain values).
        scene: the capture without its images (`data.stored.without_photos`), to render from where it is not there.
        background: color in [0, 1] behind the model at evaluation.
    """

    family: str
    model_parts: tuple[str, ...]
    parts: Mapping[str, Part]
    step: int
    seconds: float
    config: Mapping[str, Any]
    capture: str
    scene: SceneData
    background: tuple[float, float, float]
    data: Mapping[str, Any] = field(default_factory=dict)
    correction_parts: tuple[str, ...] = ()

    @property
    def transform(self) -> np.ndarray:
        """[4, 4] float64 similarity from the capture's world frame to the frame of the model."""
        return self.scene.transform

    @property
    def time_axis(self) -> TimeAxis | None:
        """What the times 0 and 1 mean in the capture; None for a static scene."""
        return self.scene.time_axis

    def make_model(self, device: str = "cpu") -> RadianceModel:
        """The model, on a device; tensors are used as they are if they lie there already."""
        parts = {name: self.parts[name] for name in self.model_parts}
        return FAMILIES[self.family].restore(parts, device)

    def term_weights(self) -> dict[str, float]:
        """Weights of the terms of the objective by name, those that the run was given included."""
        objective = self.config.get("objective", {})
        built_in = {name: objective[name] for name in BUILT_IN if name in objective}
        given = self.parts[GIVEN_PART].values.get("terms", {}) if GIVEN_PART in self.parts else {}
        return {**built_in, **objective.get("extra", {}), **given}

    def corrections(self) -> tuple[ViewCorrection, ...]:
        """The trained corrections of single views that were saved with the model; unknown ones are logged."""
        unknown = [name for name in self.correction_parts if name not in CORRECTIONS]
        if unknown:
            logger.warning(
                "The run was trained with the correction '%s', which is not known here: views are rendered without it; "
                "add it to nfc_gs.model.correction_kinds.CORRECTIONS.",
                unknown[0],
            )
        return tuple(CORRECTIONS[name](self.parts[name]) for name in self.correction_parts if name in CORRECTIONS)

    def render_options(self, backend: Any = "auto") -> RenderOptions:
        """How views of the model are rendered."""
        antialiased = bool(self.config.get("antialiased", False))
        return RenderOptions(self.background, backend, antialiased, self.corrections())


def checkpoint_path(path: Path | str) -> Path:
    """The checkpoint file that a run folder or a file name stands for.

    Raises:
        UserError: there is no such file or folder, or the folder holds no checkpoint.
    """
    check_path(path)
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

    scene_values, scene_tensors = stored.to_parts(checkpoint.scene)
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "family": checkpoint.family,
        "model_parts": list(checkpoint.model_parts),
        "correction_parts": list(checkpoint.correction_parts),
        "config": dict(checkpoint.config),
        "capture": checkpoint.capture,
        "data": dict(checkpoint.data),
        "transform": np.asarray(checkpoint.transform, dtype=np.float64).tolist(),
        "background": list(checkpoint.background),
        "time_axis": None if checkpoint.time_axis is None else asdict(checkpoint.time_axis),
        "scene": scene_values,
        "parts": {name: dict(part.values) for name, part in checkpoint.parts.items()},
    }
    tensors: dict[str, Tensor] = {f"{_SCENE}/{name}": tensor.contiguous() for name, tensor in scene_tensors.items()}
    for part_name, part in checkpoint.parts.items():
        for name, tensor in part.tensors.items():
            tensors[f"{part_name}/{name}"] = tensor.detach().cpu().contiguous()
    metadata = {"nfc_gs": json.dumps(header), "format": "pt"}
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=metadata)
        except SafetensorError as error:
            raise _write_failure(Path(path), error) from None


def save_compact(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write what rendering needs of a checkpoint: the model and the corrections of views, partly in half precision.

    It can be rendered from where the capture is not. `load_checkpoint` reads it as any other; training cannot go on
    from it.

    Raises:
        UserError: it cannot be written.
    """
    model = {name: checkpoint.parts[name] for name in checkpoint.model_parts}
    corrections = {name: checkpoint.parts[name] for name in checkpoint.correction_parts}
    save_checkpoint(path, replace(checkpoint, parts=FAMILIES[checkpoint.family].compact(model) | corrections))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint file, or the one in a run folder, onto the CPU.

    Raises:
        UserError: no such file, not a checkpoint, of another version, cut short, or its tensors do not fit together.
    """
    file = checkpoint_path(path)
    header = _read_header(file)
    tensors = _read_tensors(file)
    try:
        checkpoint = _from_header(header, tensors)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"The checkpoint {file} has a broken header ({in_one_line(error)}); use another checkpoint."
        ) from None
    _check(file, checkpoint)
    return checkpoint


def _from_header(header: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> Checkpoint:
    """The checkpoint of a header, whose values may be anything, and of its tensors by part and name.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, AttributeError: a value is missing, or odd.
    """
    values_of = {
        name: plain_json.as_dict(values, f"parts/{name}")
        for name, values in plain_json.as_dict(header["parts"], "parts").items()
    }
    _check_state(values_of.get(RUN_PART, {}), values_of.get(GIVEN_PART, {}))
    transform = np.array(header["transform"], dtype=np.float64)
    if not np.isfinite(transform).all():
        raise ValueError("the transform is not finite")
    background = plain_json.as_list(header["background"], "background")
    return Checkpoint(
        family=plain_json.as_text(header["family"], "family"),
        model_parts=_names(header, "model_parts"),
        parts={name: Part(tensors.get(name, {}), values) for name, values in values_of.items()},
        step=plain_json.as_int(header["step"], "step"),
        seconds=plain_json.as_float(header["seconds"], "seconds", 0.0, MOST_SECONDS),
        config=_config(header["config"]),
        capture=stored.file_name(header["capture"]),
        scene=stored.from_parts(header["scene"], tensors.get(_SCENE, {}), transform, _time_axis(header["time_axis"])),
        background=tuple(plain_json.as_float(value, "background", 0.0, 1.0) for value in background),  # type: ignore[arg-type]
        data=_data(header["data"]),
        correction_parts=_names(header, "correction_parts"),
    )


def _names(header: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(plain_json.as_text(value, name) for value in plain_json.as_list(header[name], name))


def _config(value: Any) -> dict[str, Any]:
    """The resolved configuration; here what is used of it without making a `ResolvedConfig`."""
    config = plain_json.as_dict(value, "config")
    for name in ("device", "backend", "preset", "method"):
        plain_json.as_text(config.get(name, ""), f"config/{name}")
    for name, low in (("seed", -plain_json.LARGEST), ("max_gaussians", 0)):
        plain_json.as_int(config.get(name, 0), f"config/{name}", low, 2**63)
    for name in ("steps", "budget_seconds"):
        if config.get(name) is not None:
            plain_json.as_float(config[name], f"config/{name}", 0.0, MOST_SECONDS)
    if not isinstance(config.get("antialiased", False), bool):
        raise ValueError("config/antialiased is neither true nor false")
    objective = plain_json.as_dict(config.get("objective", {}), "config/objective")
    extra = plain_json.as_dict(objective.get("extra", {}), "config/objective/extra")
    for name, weight in {**{name: objective[name] for name in BUILT_IN if name in objective}, **extra}.items():
        plain_json.as_float(weight, f"config/objective/{name}")
    return config


def _data(value: Any) -> dict[str, Any]:
    """How the capture was read; `runs.opening.scene_of` makes a `DataConfig` of it."""
    data = plain_json.as_dict(value, "data")
    for name, field_value in data.items():
        if isinstance(field_value, (int, float)) and not isinstance(field_value, bool):
            plain_json.as_float(field_value, f"data/{name}")
        elif isinstance(field_value, list):
            for number in field_value:
                plain_json.as_float(number, f"data/{name}")
        elif field_value is not None and not isinstance(field_value, (str, bool)):
            raise ValueError(f"data/{name} is {plain_json.in_short(field_value)}")
    if data.get("background") is not None and len(plain_json.as_list(data["background"], "data/background")) != 3:
        raise ValueError("data/background is no color")
    return data


def _check_state(run: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError for odd values of the run itself, and of what it was given from Python."""
    plain_json.as_int(run.get("evaluations", 0), "run/evaluations")
    plain_json.as_int(run.get("evaluation_due", 0), "run/evaluation_due", 0, 1)
    for name, psnr in plain_json.as_dict(run.get("view_psnr", {}), "run/view_psnr").items():
        plain_json.as_float(psnr, f"run/view_psnr/{name}")
    for stage, seconds in plain_json.as_dict(run.get("timings", {}), "run/timings").items():
        plain_json.as_float(seconds, f"run/timings/{stage}", 0.0, MOST_SECONDS)
    for name, weight in plain_json.as_dict(given.get("terms", {}), "given/terms").items():
        plain_json.as_float(weight, f"given/terms/{name}")
    for name in plain_json.as_list(given.get("companions", []), "given/companions"):
        plain_json.as_text(name, "given/companions")


def _check(file: Path, checkpoint: Checkpoint) -> None:
    """Raise unless a model can be made of the parts."""
    if checkpoint.family not in FAMILIES:
        raise UserError(
            f"The checkpoint {file} holds a model of the family '{checkpoint.family[:40]}', which this nfc-gs does not "
            f"have ({', '.join(FAMILIES)}); use the nfc-gs that wrote it."
        )
    try:
        if checkpoint.transform.shape != (4, 4) or len(checkpoint.background) != 3:
            raise ValueError("transform or background has another size")
        for name in (*checkpoint.model_parts, *checkpoint.correction_parts):
            if name not in checkpoint.parts:
                raise ValueError(f"there is no part '{name}'")
        if not _is_similarity(checkpoint.transform):
            raise ValueError("the transform from the capture is no similarity")
        checkpoint.make_model()
        for name in checkpoint.correction_parts:
            if name in CORRECTIONS:
                CORRECTIONS[name](checkpoint.parts[name])
    except (ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"The tensors of the checkpoint {file} do not fit together: {in_one_line(error)}; use another one."
        ) from None


def _is_similarity(transform: np.ndarray) -> bool:
    """Whether [4, 4] finite numbers turn, move and scale by a positive factor."""
    linear = transform[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        squared = linear.T @ linear  # scale^2 times the identity
        scale = squared.trace() / 3
        rotates = np.abs(squared - scale * np.eye(3)).max() <= 1e-3 * scale and np.linalg.det(linear) > 0.0
        return bool(rotates and 0.0 < scale < math.inf and (transform[3] == (0.0, 0.0, 0.0, 1.0)).all())


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
        table = plain_json.parse(raw)
        end = max((int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__"), default=0)
        header = plain_json.as_dict(plain_json.parse(table["__metadata__"]["nfc_gs"]), "the header")
        if header["format"] != FORMAT:
            raise UserError(foreign)
        version = header["version"]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        raise UserError(foreign) from None
    if version == 1:
        raise UserError(
            f"The checkpoint {file} was written by a development version of nfc-gs and is too old; train again."
        )
    if version != VERSION:
        raise UserError(
            f"The checkpoint {file} has format version {plain_json.in_short(version)}, but this nfc-gs reads version "
            f"{VERSION}; use the nfc-gs that wrote it, or train again."
        )
    if size < 8 + length + end:
        raise _cut_short(file)
    return header


def _time_axis(value: Any) -> TimeAxis | None:
    """The time axis of a header; raises KeyError, TypeError or ValueError if it is none."""
    if value is None:
        return None
    start, end = (plain_json.as_float(value[name], f"time_axis/{name}") for name in ("start", "end"))
    axis = TimeAxis(start, end, plain_json.as_text(value.get("unit", ""), "time_axis/unit"))
    if not 0.0 < axis.end - axis.start < math.inf:
        raise ValueError(f"the times run from {axis.start} to {axis.end}")
    return axis


def _read_tensors(file: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors by part and name; what was saved in half precision as float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        flat = load_file(str(file))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The checkpoint {file} is damaged ({in_one_line(error)}); use another checkpoint.") from None
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return parts


def _cut_short(file: Path) -> UserError:
    return UserError(f"The checkpoint {file} is cut short; use another checkpoint, or copy it again.")


def _write_failure(path: Path, error: Exception) -> UserError:
    """The sentence for a failure inside safetensors, which names the system's error number in its text."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found.group(1)) if found else errno.EIO
    return write_error(path, OSError(number, str(error)))
