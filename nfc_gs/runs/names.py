"""The names of the files in a run folder; no name stands anywhere else."""

from __future__ import annotations

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

FRAMES_NAME = "frames"
"""Folder of splat files at several times of a moving scene."""
