"""`bench.py viewer`: pictures per second and their delay while a camera moves, the cost to a training, memory.

    python tools/bench/bench.py viewer
    python tools/bench/bench.py viewer --run RUN --parts frames

There is no browser. A scripted client in a thread of this process takes its place: it opens a websocket, sends the
messages of a moving camera as viser's page does, and unpacks the answers. What is measured includes the server's
handling of messages, the wait for the scheduler, rendering, JPEG, the socket and the unpacking, but not decoding the
JPEG and showing it. The client shares Python's lock and the two cores with the viewer, as a browser on the same machine
shares the cores.
"""

from __future__ import annotations

import gc
import math
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import msgspec
import numpy as np
import torch
import viser
import zstandard
from measuring import Samples, check_counts, console, frozen_trainer, make_table, seconds_of, with_points
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from nfc_gs.core.errors import UserError
from nfc_gs.core.rotation import matrix_to_quat
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.formats.ply import write_ply
from nfc_gs.model.gate import GatedDeformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops import native
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.preview import PreviewModels
from nfc_gs.viewer.scheduler import run_to_end
from nfc_gs.viewer.session import AT_REST, MOVING, REST, Session
from nfc_gs.viewer.source import Source, open_source

Part = Literal["frames", "training", "memory", "open"]

FOV = 0.9
"""Vertical field of view of the client's window, radians."""

RADIUS = 4.0
"""Distance of the client's camera from the middle of the scene."""

MESSAGE_RATE = 60.0
"""Messages of the camera per second while it moves; a busy machine manages fewer."""

ORBIT_SECONDS = 6.0
"""The camera goes around the scene in this time."""


@dataclass(frozen=True)
class Options:
    """The viewer: pictures per second and their delay, what it costs a training, memory and threads."""

    parts: tuple[Part, ...] = ("frames", "training", "memory")
    """What to measure; "open": opening a PLY of this number of Gaussians and its first pictures."""
    run: Path | None = None
    """A trained moving splat: also play it, with its deformation on all Gaussians and on those that move."""
    gaussians: tuple[int, ...] = (50_000, 500_000)
    """Sizes of the scenes."""
    window: tuple[int, int] = (1280, 720)
    """Width and height of the client's window, pixels."""
    seconds: float = 10.0
    """How long the camera moves in each round."""
    rounds: int = 3
    """How often everything is measured in turn."""
    steps: int = 100
    """Training steps per variant and round."""
    pictures: int = 1000
    """Pictures between the two measurements of memory."""
    threads: int = 2
    """Number of threads of the core."""


def cloud(count: int, seed: int = 0) -> GaussianModel:
    """Gaussians on thirty balls in front of a far wall, of many sizes and opacities, with SH of degree 3.

    Their sizes shrink as their number grows, so that the surfaces stay covered, as in a splat of a room.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    balls, wall = normal(30, 3) * torch.tensor([1.0, 0.6, 1.0]), 8.0
    radii = 0.15 + 0.35 * torch.rand(30, generator=generator)
    which = torch.randint(30, (count,), generator=generator)
    far = torch.rand(count, generator=generator) < 0.2
    directions = torch.nn.functional.normalize(normal(count, 3), dim=1)
    radius = torch.where(far, torch.tensor(wall), radii[which])
    on_each = torch.where(far, 0.2 * count, 0.8 * count / 30)
    spacing = radius * (4.0 * math.pi / on_each).sqrt()
    scales = 0.6 * spacing[:, None] * (0.5 * normal(count, 3)).exp() * torch.tensor([1.0, 1.0, 0.3])
    colors = (0.5 * normal(31, 3))[torch.where(far, 30, which)] + 0.3 * normal(count, 3)
    sh = torch.cat([colors[:, None], 0.05 * normal(count, 15, 3)], dim=1)
    return GaussianModel(
        {
            "means": directions * radius[:, None] + torch.where(far[:, None], torch.zeros(3), balls[which]),
            "log_scales": scales.log(),
            "quats": normal(count, 4),
            "opacity_logits": 0.5 + 2.0 * normal(count),
            "sh_coeffs": sh,
        }
    )


class Client:
    """The browser's end of the connection.

    Attributes:
        pictures: times (`perf_counter`) at which pictures arrived.
        sent: time of each message of the camera, by the position of the camera.
        rendered_from: positions of the camera of the rendered pictures.
    """

    def __init__(self, viewer: Viewer, window: tuple[int, int]) -> None:
        """Connect, send a first camera, and wait for the session."""
        self.pictures: list[float] = []
        self.sent: dict[tuple[float, ...], float] = {}
        self.window = window
        self._socket = connect(
            viewer.url.replace("http", "ws"),
            subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
            max_size=None,
            compression=None,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._start = time.perf_counter()
        self.send_camera()
        wait_for(lambda: bool(viewer.sessions))
        self.session: Session = next(iter(viewer.sessions.values()))
        self.rendered_from: deque[tuple[float, ...]] = deque()
        render = self.session.renderer.render

        def recorded(*args: Any) -> Any:
            self.rendered_from.append(self.session.pose.position)
            return render(*args)

        self.session.renderer.render = recorded  # type: ignore[method-assign]

    def send_camera(self, angle: float | None = None) -> None:
        """Send a camera that looks at the middle of the scene, by default the one of this time."""
        angle = 2.0 * math.pi * (time.perf_counter() - self._start) / ORBIT_SECONDS if angle is None else angle
        position = (RADIUS * math.sin(angle), -1.0, RADIUS * math.cos(angle))
        forward = -np.array(position) / np.linalg.norm(position)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        self.sent[position] = time.perf_counter()
        message = {
            "type": "ViewerCameraMessage", "wxyz": matrix_to_quat(torch.from_numpy(rotation)).tolist(),
            "position": position, "fov": FOV, "near": 0.01, "far": 100.0, "image_width": self.window[0],
            "image_height": self.window[1], "look_at": (0.0, 0.0, 0.0), "up_direction": (0.0, -1.0, 0.0),
        }  # fmt: skip
        self._socket.send(msgspec.msgpack.encode(message))

    def move(self, until: Callable[[], bool]) -> None:
        """Move the camera until the condition holds."""
        while not until():
            self.send_camera()
            time.sleep(1.0 / MESSAGE_RATE)

    def wait_until_idle(self) -> None:
        """Wait until no more pictures are requested or rendered, and those that were rendered have arrived."""
        quiet = 0
        while quiet < 3:  # a job that the scheduler has just started is not in its queue any more, and may add another
            self.session.run(lambda: None)
            quiet = quiet + 1 if self.session.scheduler.wait_time() is None else 0
            time.sleep(0.05)
        time.sleep(0.2)

    def close(self) -> None:
        self._socket.close()
        self._thread.join()

    def _read(self) -> None:
        unpacker = zstandard.ZstdDecompressor()
        try:
            while True:
                data = self._socket.recv()
                assert isinstance(data, bytes)
                size = int.from_bytes(data[8:16], "little")
                messages = msgspec.msgpack.decode(unpacker.decompress(data[16 : 16 + size]))["messages"]
                count = sum(message["type"] == "BackgroundImageMessage" for message in messages)
                self.pictures += [time.perf_counter()] * count
        except ConnectionClosed:
            pass


@contextmanager
def connected(viewer: Viewer, window: tuple[int, int]) -> Iterator[Client]:
    """A client of a viewer while the block lasts."""
    client = Client(viewer, window)
    try:
        yield client
    finally:
        client.close()
        wait_for(lambda: not viewer.sessions)


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until another thread has made the condition true."""
    limit = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > limit:
            raise UserError("The viewer did not answer in time; is the machine busy?")
        time.sleep(0.005)


def memory_mb() -> float:
    """Resident memory of this process, MB; nan where there is no /proc."""
    gc.collect()
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 / 1e6 if status.is_file() else math.nan


def render_at_rest(session: Session) -> None:
    """The whole window, as for a camera at rest."""
    session.run_steps(session._send_picture(session.window, AT_REST))


def measure_moving(client: Client, seconds: float, samples: Samples, delays: list[float]) -> None:
    """Pictures per second, and the time from each camera's message to its picture, while the camera moves."""
    client.wait_until_idle()
    for kept in (client.rendered_from, client.pictures, client.sent):
        kept.clear()
    start = time.perf_counter()
    client.move(lambda: time.perf_counter() - start > seconds)
    spent = time.perf_counter() - start
    arrived, messages, end = len(client.pictures), len(client.sent), time.perf_counter()
    while len(client.pictures) < len(client.rendered_from) and time.perf_counter() - end < REST:
        time.sleep(0.001)  # for the last one of these, before those at rest are rendered
    rendered_from, pictures = list(client.rendered_from), list(client.pictures)
    client.wait_until_idle()
    if len(pictures) == len(rendered_from):
        pairs = list(zip(rendered_from, pictures, strict=True))[:arrived]
        delays += [arrival - client.sent[position] for position, arrival in pairs if position in client.sent]
    else:  # viser drops a picture when a newer one is there, and which one it was is not known
        console.print(f"{len(rendered_from) - len(pictures)} pictures were rendered, not sent: no delays of this round")
    samples.add("rate", arrived / spent)
    samples.add("messages", messages / spent)
    samples.add("width", client.session.moving_picture.width)
    samples.add("share", client.session.renderer.frame_rate.share)


def compare_frames(args: Options, port: int) -> None:
    """Move the camera around scenes of all sizes, in turn, and print pictures per second and delays."""
    viewers = {count: Viewer([Source(f"{count}", cloud(count))], port=port, backend="cpu") for count in args.gaussians}
    samples = {count: Samples() for count in viewers}
    delays: dict[int, list[float]] = {count: [] for count in viewers}
    resting: dict[int, list[float]] = {count: [] for count in viewers}
    try:
        for _ in range(args.rounds):
            for count, viewer in viewers.items():
                with connected(viewer, args.window) as client:
                    measure_moving(client, 2.0, Samples(), [])  # the viewer finds the size of its pictures
                    measure_moving(client, args.seconds, samples[count], delays[count])
                    session = client.session
                    resting[count].append(seconds_of(lambda session=session: render_at_rest(session)))
    finally:
        for viewer in viewers.values():
            viewer.close()
    width, height = args.window
    heads = ("Gaussians", "messages/s", "pictures/s", "size", "share drawn", "delay, ms: median", "95 %", "at rest: ms")
    table = make_table(f"A camera that moves, window {width} x {height}, {args.threads} threads", heads)
    for count, found in samples.items():
        middle, late = np.quantile(delays[count] or [math.nan], (0.5, 0.95))
        rendered_width = found.median("width")
        numbers = (f"{found.median('messages'):.0f}", f"{found.median('rate'):.1f}")
        size = f"{rendered_width:.0f} x {rendered_width * height / width:.0f}"
        times = (f"{1e3 * seconds:.0f}" for seconds in (middle, late, float(np.median(resting[count]))))
        table.add_row(f"{count:,}", *numbers, size, f"{found.median('share'):.3g}", *times)
    console.print(table)


def compare_training(scene: SceneData, args: Options, folder: Path, port: int) -> None:
    """Steps of a training without a viewer, with one whose camera is idle, and with one whose camera moves, in turn."""
    trainer = frozen_trainer(scene, folder / "run", method="nfr")
    samples = {name: Samples() for name in ("closed", "open, idle", "open, moving")}

    def steps() -> float:
        return seconds_of(lambda: [trainer.step() for _ in range(args.steps)]) / args.steps

    def watched_steps(moving: bool) -> float:
        live = LiveTraining(trainer, Source("run", trainer.model.copy(), scene=scene))
        trainer.run.add_listener(live)
        ended = threading.Event()
        with (
            Viewer([live.source], port=port, backend="cpu", live=live) as viewer,
            connected(viewer, args.window) as client,
        ):
            mover = threading.Thread(target=client.move, args=(ended.is_set,))
            if moving:
                mover.start()
            try:
                return steps()
            finally:
                ended.set()
                if moving:
                    mover.join()
                trainer.run._listeners.remove(live)

    steps()
    for _ in range(args.rounds):
        samples["closed"].add("step", steps())
        samples["open, idle"].add("step", watched_steps(False))
        samples["open, moving"].add("step", watched_steps(True))
    camera = scene.camera(scene.train[0])
    title = f"A training: {len(scene.points)} Gaussians, {camera.width} x {camera.height}"
    table = make_table(title, ("viewer", "step, ms", "/ closed", "lowest - highest"), left=("viewer",))
    for name, found in samples.items():
        ratios = found.ratios(samples["closed"], "step")
        table.add_row(
            name,
            f"{1e3 * found.median('step'):.1f}",
            f"{np.median(ratios):.2f}",
            f"{min(ratios):.2f} - {max(ratios):.2f}",
        )
    console.print(table)


def measure_memory(args: Options, count: int, port: int) -> None:
    """Memory and threads before and after many pictures, each requested when the one before has arrived."""
    with (
        Viewer([Source("cloud", cloud(count))], port=port, backend="cpu") as viewer,
        connected(viewer, args.window) as client,
    ):

        def request(pictures: int) -> None:
            for _ in range(pictures):
                before = len(client.pictures)
                client.send_camera()
                wait_for(lambda before=before: len(client.pictures) > before)
            client.sent.clear()
            client.rendered_from.clear()

        request(50)
        memory, threads = memory_mb(), threading.active_count()
        spent = seconds_of(lambda: request(args.pictures))
        console.print(
            f"{count:,} Gaussians, {args.pictures} pictures in {spent:.0f} s: memory {memory:.0f} MB before, "
            f"{memory_mb():.0f} MB after; threads {threads} before, {threading.active_count()} after"
        )


def compare_playing(args: Options, port: int) -> None:
    """Play a moving splat with its deformation on all Gaussians and on those that move, in turn; print times."""
    assert args.run is not None
    source = open_source(args.run, device="cpu")
    size = (args.window[0] // 2, args.window[1] // 2)
    variants = {"deformation on all": lambda _, number, gaussians: gaussians, "gated": PreviewModels._gated_model}
    samples = {name: Samples() for name in variants}
    with Viewer([source], port=port, backend="cpu") as viewer, connected(viewer, args.window) as client:
        client.wait_until_idle()
        session = client.session
        session._replace(playing=True)  # without the request that `play` adds: time advances with each picture here

        def play(pictures: int) -> None:
            for time_ in np.linspace(0.0, 1.0, pictures):
                session._replace(time=float(time_))
                session.run(lambda: run_to_end(session._send_picture(size, MOVING)))

        start = time.perf_counter()
        while source.previews._gated is None:
            play(1)
        gate = time.perf_counter() - start
        for _ in range(args.rounds):
            for name, model in variants.items():
                with patch.object(PreviewModels, "_gated_model", model):
                    samples[name].add("picture", seconds_of(lambda: play(40)) / 40)
    found, count = source.previews._gated[1].deformation, len(source.snapshot().gaussians or ())
    moving = len(found.moving) if isinstance(found, GatedDeformation) else 0
    all_, few = (samples[name].values["picture"] for name in variants)
    console.print(
        f"Playing {count:,} Gaussians at {size[0]} x {size[1]}: {1e3 * np.median(all_):.1f} ms a picture, with a gate "
        f"({moving:,} move; found in {gate:.1f} s of playing) {1e3 * np.median(few):.1f} ms, ratio "
        f"{np.median(np.divide(few, all_)):.2f}"
    )


def open_file(args: Options, count: int, folder: Path, port: int) -> None:
    """Open a PLY of this number of Gaussians, view it, and print times and memory."""
    file = folder / "cloud.ply"
    write_ply(file, cloud(count))
    megabytes, before, start = file.stat().st_size / 1e6, memory_mb(), time.perf_counter()
    source = open_source(file, device="cpu")
    opened = time.perf_counter() - start
    with Viewer([source], port=port, backend="cpu") as viewer, connected(viewer, args.window) as client:
        wait_for(lambda: len(client.pictures) > 0)
        first = time.perf_counter() - start
        samples, delays = Samples(), []
        for _ in range(2):
            measure_moving(client, args.seconds, samples, delays)
        width, height = client.session.moving_picture.width, client.session.moving_picture.height
        rate, share = samples.values["rate"][-1], samples.values["share"][-1]
        console.print(
            f"{count:,} Gaussians, a PLY of {megabytes:.0f} MB: read in {opened:.1f} s, first picture after "
            f"{first:.1f} s, then {rate:.1f} pictures/s of {width} x {height} with {share:.3g} of the Gaussians; "
            f"memory {before:.0f} MB before, {memory_mb():.0f} MB after"
        )


def check(args: Options) -> None:
    """Raise UserError if a number makes no sense."""
    numbers: Sequence[tuple[str, float]] = [
        *((name, getattr(args, name)) for name in ("rounds", "steps", "pictures", "threads")),
        *(("gaussians", count) for count in args.gaussians),
        *(("window", side) for side in args.window),
    ]
    check_counts(numbers)
    if not args.seconds > 0.0:
        raise UserError(f"--seconds is {args.seconds}, but must be more than 0.")


def run(args: Options) -> None:
    """Measure and print."""
    check(args)
    native.set_threads(args.threads)
    port = 8790
    console.print(f"kernels {native.core().instruction_set()}, {args.threads} threads, {args.rounds} rounds in turn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "frames" in args.parts:
            compare_frames(args, port)
        if "training" in args.parts:
            scene = load_scene(write_capture(folder / "capture"), DataConfig())
            compare_training(with_points(scene, args.gaussians[0]), args, folder, port)
        if "memory" in args.parts:
            measure_memory(args, args.gaussians[0], port)
        if args.run is not None:
            compare_playing(args, port)
        for count in args.gaussians if "open" in args.parts else ():
            open_file(args, count, folder, port)
