"""The names of the files in a run folder; no name stands anywhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath

CHECKPOINT_NAME = "checkpoint.safetensors"
"""What `--resume` needs."""

CONFIG_NAME = "config.yaml"
"""Every setting of the run, for people to read."""

HISTORY_NAME = "history.jsonl"
"""The curves as numbers."""

METRICS_NAME = "metrics.json"
"""How well the held-out views are rendered."""

SPLAT_NAME = "splat.ply"
"""The Gaussians as a file that splat viewers open."""

REPORT_NAME = "report.html"
"""The report."""

RENDERS = "renders"
"""Folder of rendered images and videos."""

TEST_RENDERS = f"{RENDERS}/test"
"""Folder of the held-out views."""

TIMELAPSE = f"{RENDERS}/timelapse"
"""Folder of the pictures of one view while it was trained."""

LOOP_NAME = f"{RENDERS}/loop.mp4"
"""The looping video of a moving scene."""

VIEWER_NAME = "viewer.json"
"""Camera, keyframes and settings of the viewer, there once somebody changed them."""

LOCK_NAME = ".lock"
"""There while a process works in the folder (`runs.lock`)."""

TENSORBOARD = "tensorboard"
"""Folder of the curves for TensorBoard."""

FRAMES_NAME = "frames"
"""Folder of splat files at several times of a moving scene."""

PHOTO_ENDING = "_truth"
"""`<stem>_truth.png` is the photo of the view whose rendering is `<stem>.png`."""

LONGEST_STEM = 120
"""Characters; longer names of views are cut, since file systems take 255 bytes."""

IMAGE_CACHE = "image-cache"
"""Folder of decoded copies of photos, beside the run folders that share it (`data.image_copies`)."""


def image_stems(names: Sequence[str]) -> list[str]:
    """File names without suffix for views, one each: folders become underscores, clashes keep suffix or number.

    Args:
        names: of all held-out views, in their order.
    """
    flat = [str(PurePosixPath(name).with_suffix("")).replace("/", "_") for name in names]
    whole = [name.replace("/", "_").replace(".", "_") for name in names]
    stems: list[str] = []
    for name, short, long in zip(names, flat, whole, strict=True):
        clear = flat.count(short) == 1 and not short.endswith(PHOTO_ENDING)
        base = _shortened(short if clear else long, name)
        stem, number = base, 2
        while stem in stems:
            stem, number = f"{base}_{number}", number + 1
        stems.append(stem)
    return stems


def _shortened(stem: str, name: str) -> str:
    if len(stem.encode()) <= LONGEST_STEM:
        return stem
    return f"{stem[: LONGEST_STEM // 4]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
