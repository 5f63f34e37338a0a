"""Calls every function of the compiled core that takes arrays, each array in turn replaced by one that does not fit.

Run as a script it prints one line for each call: the function, the argument, what is wrong with it, and the exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nfc_gs.ops import native

core = native.core()

N, H, W = 5, 12, 13
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.random(shape, dtype=np.float32)


def octets(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def render_arrays() -> dict[str, Any]:
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[2, 3] = 4.0
    return {
        "means": floats(N, 3),
        "quats": floats(N, 4),
        "scales": floats(N, 3),
        "opacities": floats(N),
        "sh_coeffs": floats(N, 4, 3),
        "features": floats(N, 2),
        "background": floats(5),
        "viewmat": viewmat,
        "intrinsics": np.array([10, 10, W / 2, H / 2], np.float32),
        "radii": np.zeros((N, 2), np.int32),
        "means2d": floats(N, 2),
        "out": floats(H, W, 5),
        "out_alpha": floats(H, W, 1),
        "out_depth": floats(H, W, 1),
    }


def bit_arrays() -> dict[str, Any]:
    arrays = render_arrays()
    del arrays["sh_coeffs"], arrays["features"], arrays["background"]
    return {**arrays, "bit_logits": floats(N, 24), "bit_shifts": floats(N, 3, 3), "out": floats(H, W, 3)}


def gradient_arrays(inputs: dict[str, Any]) -> dict[str, Any]:
    not_inputs = ("intrinsics", "radii", "means2d", "out", "out_alpha", "out_depth")
    gradients = {f"v_{name}": np.empty_like(value) for name, value in inputs.items() if name not in not_inputs}
    results = {"v_out": inputs["out"], "v_alpha": inputs["out_alpha"], "v_depth": inputs["out_depth"]}
    return {**gradients, **results, "v_means2d": np.empty((N, 2), np.float32)}


RENDER_ARRAYS = (*render_arrays(), "bit_logits", "bit_shifts")
GRADIENT_ARRAYS = (
    *("v_sh_coeffs", "v_bit_logits", "v_bit_shifts", "v_features", "v_viewmat", "v_background"),
    "v_means2d_abs",
)
"""The gradients that may be left out."""


def render_inputs(arrays: dict[str, Any], raw: bool = False) -> Any:
    return core.RenderInputs(
        **{**dict.fromkeys(RENDER_ARRAYS), **arrays},
        sh_degree=1,
        composite_bits=False,
        width=W,
        height=H,
        left=0,
        top=0,
        whole_width=W,
        whole_height=H,
        antialiased=False,
        depth=True,
        raw=raw,
    )


def forward(**arrays: Any) -> None:
    core.RenderScratch().forward(render_inputs(arrays))


def backward_of(inputs: dict[str, Any]) -> Callable[..., None]:
    def backward(**arrays: Any) -> None:
        scratch, given = core.RenderScratch(), render_inputs(inputs)
        scratch.forward(given)
        scratch.backward(given, core.RenderGradients(**{**dict.fromkeys(GRADIENT_ARRAYS), **arrays}))

    return backward


def step_of(inputs: dict[str, Any]) -> Callable[..., None]:
    """A backward pass that moves the means with the moments that are given."""

    def parameter(name: str, first: np.ndarray, second: np.ndarray) -> Any:
        value = inputs[name]
        return core.AdamParameter(value, first, second, rates=[1e-3] * (value.size // N))

    def step(first: np.ndarray, second: np.ndarray) -> None:
        scratch, given = core.RenderScratch(), render_inputs(inputs, raw=True)
        scratch.forward(given)
        names = {"quats": "quats", "log_scales": "scales", "opacity_logits": "opacities", "sh_coeffs": "sh_coeffs"}
        others = {
            name: parameter(of, np.zeros_like(inputs[of]), np.zeros_like(inputs[of])) for name, of in names.items()
        }
        adam = core.SplatAdam(
            means=parameter("means", first, second), **others, bit_logits=None, bit_shifts=None,
            constants=core.AdamConstants(0.9, 0.999, 1e-15, 10.0, 1000.0, 1), opacity_weight=0.1, scale_weight=0.1,
        )  # fmt: skip
        results = {"v_out": inputs["out"], "v_alpha": inputs["out_alpha"], "v_depth": inputs["out_depth"]}
        missing = [f"v_{name}" for name in ("means", "quats", "scales", "opacities")] + ["v_means2d"]
        gradients = core.RenderGradients(**{**dict.fromkeys((*GRADIENT_ARRAYS, *missing)), **results})
        scratch.backward(given, gradients, adam)

    return step


def without_features() -> dict[str, Any]:
    arrays = render_arrays()
    del arrays["features"], arrays["background"]
    return {**arrays, "out": floats(H, W, 3)}


def planes() -> list[np.ndarray]:
    return [floats(3, 4, 16) for _ in range(6)]


def layers() -> list[np.ndarray]:
    return [floats(16, 16), floats(16), floats(16, 16), floats(16), floats(3, 16), floats(3)]


WINDOW = [1 / 11] * 11
LOSS = {"weights": core.LossWeights(1.0, 1.0, 1.0, 1.0, 0.1)}
REGULARISERS = {"tv_columns": 1.0, "tv_rows": 1.0, "smoothness": 1.0, "sparsity": 1.0}
NOISE = {"strength": 1.0, "sharpness": 1.0, "threshold": 1.0, "seed": 1, "step": 1}
ADAM = {"rates": [0.1] * 3, "constants": core.AdamConstants(0.9, 0.99, 1e-8, 1.0, 1.0, 1)}

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "forward": (forward, render_arrays(), {}),
    "forward with bits": (forward, bit_arrays(), {}),
    "backward": (backward_of(render_arrays()), gradient_arrays(render_arrays()), {}),
    "backward with bits": (backward_of(bit_arrays()), gradient_arrays(bit_arrays()), {}),
    "backward with a step": (step_of(without_features()), {"first": floats(N, 3), "second": floats(N, 3)}, {}),
    "photometric_loss": (
        core.photometric_loss,
        {"rendered": floats(H, W, 3), "target": octets(H, W, 3), "mask": octets(H, W), "gradient": floats(H, W, 3)},
        LOSS,
    ),
    "bit_loss": (
        core.bit_loss,
        {
            "probabilities": floats(H, W, 24),
            "target": octets(H, W, 3),
            "mask": octets(H, W),
            "gradient": floats(H, W, 24),
        },
        {"eps": 0.1},
    ),
    "squared_error": (
        core.squared_error,
        {"x": floats(H, W, 3), "y": octets(H, W, 3), "counted": octets(H, W) > 9},
        {},
    ),
    "ssim": (
        core.ssim,
        {"x": floats(H, W, 3), "y": octets(H, W, 3), "counted": octets(H, W) > 9},
        {"window": WINDOW, "c1": 1e-4, "c2": 9e-4},
    ),
    "adam": (
        core.adam,
        {
            "value": floats(N, 3),
            "gradient": floats(N, 3),
            "first": floats(N, 3),
            "second": floats(N, 3),
            "visible": octets(N) > 9,
        },
        ADAM,
    ),
    "mcmc_noise": (
        core.mcmc_noise,
        {"means": floats(N, 3), "quats": floats(N, 4), "log_scales": floats(N, 3), "opacity_logits": floats(N)},
        NOISE,
    ),
    "hexplane": (core.hexplane, {"planes": planes(), "coords": floats(N, 3), "out": floats(N, 16)}, {"time": 0.5}),
    "hexplane_backward": (
        core.hexplane_backward,
        {
            "planes": planes(),
            "coords": floats(N, 3),
            "v_out": floats(N, 16),
            "v_planes": planes(),
            "v_coords": floats(N, 3),
        },
        {"time": 0.5},
    ),
    "plane_regularisers": (
        core.plane_regularisers,
        {"plane": floats(3, 4, 16), "v_plane": floats(3, 4, 16)},
        REGULARISERS,
    ),
    "network": (core.network, {"x": floats(N, 16), "weights": layers(), "out": floats(N, 3)}, {}),
    "network_backward": (
        core.network_backward,
        {
            "x": floats(N, 16),
            "weights": layers(),
            "v_out": floats(N, 3),
            "v_x": floats(N, 16),
            "v_weights": floats(sum(layer.size for layer in layers())),
        },
        {},
    ),
}
"""By name: the function, its arrays, and its other arguments."""


def misfits(array: np.ndarray) -> dict[str, Any]:
    """What is wrong with an array, and such an array."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    return {
        "no dimension": array.reshape(-1)[0].reshape(()),
        "empty": array[:0],
        "empty and flat": np.empty(0, array.dtype),
        "flat": array.reshape(-1) if array.ndim > 1 else array[:, None],
        "one more row": np.concatenate([array, array[:1]]),
        "one more column": np.concatenate([array, array[..., :1]], axis=-1),
        "one more dimension": array[None],
        "another dtype": array.astype(np.int64),
        "complex": array.astype(np.complex64),
        "objects": array.astype(object),
        "not contiguous": wide[..., ::2],
        "backwards": array[::-1],
        "no array": "abc",
    }


FITS = {
    *(("adam", name, "flat") for name in ("value", "gradient", "first", "second")),
    *(("backward with a step", name, what) for name in ("first", "second") for what in ("flat", "one more dimension")),
    *(("adam", name, "one more dimension") for name in ("value", "gradient", "first", "second")),
    ("hexplane", "planes", "one more row"),
}
"""Adam takes its values in any shape, and planes have sizes of their own."""


def main() -> None:
    for function, (call, arrays, others) in CALLS.items():
        call(**arrays, **others)
        for name, value in arrays.items():
            listed = isinstance(value, list)
            for what, misfit in misfits(value[0] if listed else value).items():
                if (function, name, what) in FITS:
                    continue
                given = [misfit, *value[1:]] if listed else misfit
                try:
                    call(**{**arrays, name: given}, **others)
                    outcome = "accepted"
                except Exception as error:
                    outcome = type(error).__name__
                print(f"{function}, {name}, {what}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
