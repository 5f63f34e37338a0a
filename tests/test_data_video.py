"""Video files that the system does not let be read."""

from __future__ import annotations

import errno
import os

import pytest
from videos import write_videos

from nfc_gs.core.errors import UserError
from nfc_gs.data.video import read_video_frame, read_video_header


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "cam00.mp4")
    with pytest.raises(UserError, match=r"cam00\.mp4 is no regular file"):
        read_video_header(tmp_path / "cam00.mp4")


@pytest.mark.parametrize("read", [read_video_header, lambda path: read_video_frame(path, 0)])
def test_too_many_open_files_are_not_called_damage(tmp_path, monkeypatch, read):
    path = next(write_videos(tmp_path).glob("cam00*"))

    def refuse(*_args, **_options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(UserError, match=r"Cannot read the video .*cam00.*too many files are open") as caught:
        read(path)
    assert "replace" not in str(caught.value)
