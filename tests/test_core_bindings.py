"""The bindings of the compiled core: arrays that do not fit are refused, whatever is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfc_gs.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")

CALLS = Path(__file__).with_name("binding_calls.py")

WITHOUT_ARRAYS = {
    "LossWeights",
    "blend_ceiling",
    "instruction_set",
    "place_values",
    "set_threads",
    "stage_seconds",
    "threads",
    "use_instruction_set",
}


def test_every_array_that_does_not_fit_is_refused_and_none_crashes() -> None:
    result = subprocess.run([sys.executable, str(CALLS)], capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, f"it crashed after {lines[-1] if lines else 'nothing'}: {result.stderr[-2000:]}"
    assert len(lines) > 700
    assert [line for line in lines if not line.endswith((": ValueError", ": TypeError"))] == []


def test_every_function_that_takes_arrays_is_tried() -> None:
    import binding_calls

    rendering = {"RenderInputs", "RenderGradients", "RenderScratch", "SplatAdam", "AdamParameter", "AdamConstants"}
    tried = {name for name in binding_calls.CALLS if " " not in name and "ward" not in name} | {"hexplane_backward"}
    public = {name for name in dir(native.core()) if not name.startswith("_")}
    assert public - WITHOUT_ARRAYS - rendering == tried | {"network_backward"}


def test_an_array_of_no_dimension_is_named_with_what_is_expected() -> None:
    core, image = native.core(), np.zeros((12, 13, 3), np.float32)
    with pytest.raises(ValueError, match=r"x has shape \[\], expected 3 dimensions"):
        core.squared_error(np.zeros((), np.float32), image, None)
    with pytest.raises(ValueError, match=r"y has shape \[12, 12, 3\], expected \[12, 13, 3\]"):
        core.squared_error(image, np.zeros((12, 12, 3), np.float32), None)


def test_backward_refuses_the_inputs_of_another_rendering() -> None:
    import binding_calls as calls

    core = native.core()
    arrays = calls.render_arrays()
    own, other, scratch = calls.render_inputs(arrays), calls.render_inputs(calls.render_arrays()), core.RenderScratch()
    gradients = core.RenderGradients(**{**dict.fromkeys(calls.GRADIENT_ARRAYS), **calls.gradient_arrays(arrays)})
    with pytest.raises(ValueError, match="the inputs of the last forward pass with this scratch"):
        scratch.backward(own, gradients)  # nothing has been rendered yet
    scratch.forward(own)
    with pytest.raises(ValueError, match="the inputs of the last forward pass with this scratch"):
        scratch.backward(other, gradients)
    with pytest.raises(ValueError, match="the inputs of the last forward pass with this scratch"):
        scratch.backward(calls.render_inputs(arrays), gradients)  # the same arrays, but another object
    scratch.backward(own, gradients)
    scratch.forward(other)
    with pytest.raises(ValueError, match="the inputs of the last forward pass with this scratch"):
        scratch.backward(own, gradients)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"out_depth": None}, "depth and out_depth go together"),
        ({"bit_shifts": np.zeros((5, 3, 3), np.float32)}, "bit_logits and bit_shifts go together"),
        ({"means": None}, "RenderInputs"),
    ],
)
def test_arguments_of_a_rendering_that_would_be_ignored_are_refused(
    changes: dict[str, np.ndarray | None], sentence: str
) -> None:
    import binding_calls as calls

    with pytest.raises((ValueError, TypeError), match=sentence):
        calls.forward(**{**calls.render_arrays(), **changes})


def test_gradients_of_what_is_not_there_are_refused() -> None:
    import binding_calls as calls

    arrays = calls.render_arrays()
    backward = calls.backward_of({name: value for name, value in arrays.items() if name != "background"})
    with pytest.raises(ValueError, match="v_background is the gradient of nothing"):
        backward(**calls.gradient_arrays(arrays))
    missing = {name: value for name, value in calls.gradient_arrays(arrays).items() if name != "v_sh_coeffs"}
    with pytest.raises(ValueError, match="v_sh_coeffs is missing"):
        calls.backward_of(arrays)(**missing)
