"""The lens of a frame of `transforms.json`, from its own fields and those of the file."""

from __future__ import annotations

import math
import re
from typing import Any

from nfc_gs.core.errors import UserError
from nfc_gs.data.json_file import number_of
from nfc_gs.data.lens import RADIAL4, SPHERICAL, Lens

_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")

_TERMS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""In the order of nerfstudio's 'distortion_params'."""

_ANY_TERM = re.compile(r"(k|p|s|b|sx|sy|tau|lambda)_?\d+|tau_?[xy]|skew", re.IGNORECASE)
"""How programs call terms of lenses."""

_X, _Y = ("fl_x", "camera_angle_x"), ("fl_y", "camera_angle_y")
_SYNONYMS = (_X, _Y, ("camera_model", "is_fisheye"))
"""Fields that say the same: one of a frame takes the place of all of the file."""

Fields = dict[str, Any]


def frame_fields(data: Fields, frame: Fields, where: str) -> Fields:
    """The fields of a frame, and those of its file that the frame has none for.

    Raises:
        UserError: the 'distortion_params' of one are not six numbers.
    """
    own, shared = _spelled_out(frame, where), _spelled_out(data, where)
    replaced = {key for group in _SYNONYMS if own.keys() & group for key in group}
    for axis, other in ((_X, _Y), (_Y, _X)):
        # an angle says how wide the frame is; the file's focal lengths in pixels are those of another width
        if axis[1] in own and axis[0] not in own and shared.keys() & axis:
            replaced |= set(other)
    return {**{key: value for key, value in shared.items() if key not in replaced}, **own}


def _spelled_out(fields: Fields, where: str) -> Fields:
    """Fields that are given, with 'distortion_params' under the names of its terms."""
    given = {key: value for key, value in fields.items() if value is not None}
    if "distortion_params" not in given:
        return given
    terms = given.pop("distortion_params")
    if not isinstance(terms, list) or len(terms) != len(_TERMS):
        raise UserError(f"{where}: 'distortion_params' is not the list of {', '.join(_TERMS)}; mend or remove it.")
    return {**given, **dict(zip(_TERMS, terms, strict=True))}


def lens_of(fields: Fields, size: tuple[int, int], where: str) -> Lens:
    """The lens that fields describe, for an image of that width and height; it is not checked (`lens.check_lens`).

    Raises:
        UserError: a field is not what it must be, or says what no lens here has; begins with `where`.
    """
    width, height = size

    def value(key: str, default: float = 0.0) -> float:
        return number_of(fields, key, where) if key in fields else default

    model = _model(fields, where)
    if model == SPHERICAL:
        _refuse_terms(fields, (), model, where)
        return Lens(SPHERICAL, width, height, (float(width), float(height)))
    fx = _focal(fields, *_X, width, where)
    fy = _focal(fields, *_Y, height, where) or fx
    fx = fx or fy
    if not fx or not fy:
        raise UserError(f"{where}: neither 'fl_x' nor 'camera_angle_x' is given, or not above 0; add the focal length.")
    centre = (value("cx", width / 2), value("cy", height / 2))
    k1, k2, k3, k4, p1, p2 = (value(key) for key in _TERMS)
    if model in _FISHEYE:
        _refuse_terms(fields, _TERMS[:4], model, where)
        return Lens("OPENCV_FISHEYE", width, height, (fx, fy, *centre, k1, k2, k3, k4))
    _refuse_terms(fields, _TERMS, model, where)
    if k3 or k4:
        return Lens(RADIAL4, width, height, (fx, fy, *centre, k1, k2, k3, k4, p1, p2))
    if k1 or k2 or p1 or p2:
        return Lens("OPENCV", width, height, (fx, fy, *centre, k1, k2, p1, p2))
    return Lens("PINHOLE", width, height, (fx, fy, *centre))


def _model(fields: Fields, where: str) -> str:
    fisheye = fields.get("is_fisheye", False)
    if fisheye not in (True, False):  # 0 and 1 are these
        raise UserError(f"{where}: 'is_fisheye' is {str(fisheye)[:40]!r}, neither true nor false; mend it.")
    model = str(fields.get("camera_model") or ("OPENCV_FISHEYE" if fisheye else "OPENCV")).upper()
    if model not in (*_PERSPECTIVE, *_FISHEYE, SPHERICAL):
        known = ", ".join((*_PERSPECTIVE, *_FISHEYE, SPHERICAL))
        raise UserError(f"{where}: 'camera_model' {ascii(model[:40])[1:-1]} is not known; it may be {known}.")
    return model


def _refuse_terms(fields: Fields, known: tuple[str, ...], model: str, where: str) -> None:
    """Raise unless all terms of lenses but the known ones are zero."""
    for key in fields:
        if key not in known and _ANY_TERM.fullmatch(key) and isinstance(fields[key], (int, float)):
            term = number_of(fields, key, where)
            if term:
                terms = f"only {', '.join(known)}" if known else "no such terms"
                raise UserError(
                    f"{where}: '{key}' is {term:.6g}, but a lens of the model {model} has {terms} here; calibrate "
                    "with these alone, or undistort the images first."
                )


def _focal(fields: Fields, key: str, angle_key: str, side: int, where: str) -> float | None:
    if key in fields:
        return number_of(fields, key, where)
    # one angle is enough, and files that give fl_x give no meaning to the other
    if angle_key not in fields or (angle_key == "camera_angle_y" and "fl_x" in fields):
        return None
    angle = number_of(fields, angle_key, where)
    if not 0.0 < angle < math.pi:
        raise UserError(f"{where}: '{angle_key}' is {angle:.4g}; it must lie between 0 and pi (radians).")
    return 0.5 * side / math.tan(0.5 * angle)
