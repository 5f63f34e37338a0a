"""`bench.py viewer`: pictures per second and their delay while a camera moves, what looking costs a training, memory.

No browser takes part. A scripted client in a thread of this process stands for it: it opens a websocket, sends the
messages of a moving camera as viser's page does, and unpacks what comes back. So all that is measured includes the
server's handling of messages, the wait for the scheduler, drawing, JPEG, the way through the socket and the unpacking;
it leaves out decoding the JPEG and showing it. The client shares Python's lock and the two cores with the viewer, as a
browser on the same machine shares the cores.
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
from bench_common import Samples, console, seconds_of, still_trainer, with_points
from rich.table import Table
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
from nfc_gs.viewer.light import Light
from nfc_gs.viewer.live import LiveTraining, copy_of
from nfc_gs.viewer.scheduler import at_once
from nfc_gs.viewer.session import REST, TILE, Session
from nfc_gs.viewer.source import Source, open_source

Part = Literal["frames", "training", "memory", "open"]

FOV = 0.9
"""Vertical field of view of the client's window, radians."""

RADIUS = 4.0
"""Distance of the client's camera from the middle of the scene."""

HAND = 60.0
"""Messages of the camera per second while a hand moves it; a machine that is busy otherwise manages fewer."""

TURN = 6.0
"""Seconds of once around the scene."""


@dataclass(frozen=True)
class View:
    """The viewer: pictures per second and their delay, what looking costs a training, memory and threads."""

    parts: tuple[Part, ...] = ("frames", "training", "memory")
    """What to measure; "open": opening a PLY of so many Gaussians and its first pictures."""
    run: Path | None = None
    """A trained moving splat: also play it, with a gate for what is still and without."""
    gaussians: tuple[int, ...] = (50_000, 500_000)
    """Sizes of the scenes."""
    window: tuple[int, int] = (1280, 720)
    """Width and height of the client's window, pixels."""
    seconds: float = 10.0
    """How long the camera moves in each round."""
    rounds: int = 3
    """How often everything is measured in turn."""
    steps: int = 100
    """Training steps per arm and round."""
    pictures: int = 1000
    """Pictures between the two looks at memory."""
    threads: int = 2
    """Number of threads of the core."""


def cloud(count: int, seed: int = 0) -> GaussianModel:
    """Gaussians on thirty balls before a far wall, of many sizes and opacities, colored to the third degree.

    Their sizes fall with their number, so that the surfaces stay covered: like a splat of a room, not like fog.
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
    """A browser's end of the connection.

    Attributes:
        pictures: moments (`perf_counter`) at which pictures came.
    """

    def __init__(self, viewer: Viewer, window: tuple[int, int]) -> None:
        """Connect, look from the first place, and wait for the session."""
        self.pictures: list[float] = []
        self.sent: dict[tuple[float, ...], float] = {}  # moment of the message by position
        self.window = window
        self._socket = connect(
            viewer.url.replace("http", "ws"),
            subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
            max_size=None,
            compression=None,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._begun = time.perf_counter()
        self.look()
        wait_for(lambda: bool(viewer.sessions))
        self.session: Session = next(iter(viewer.sessions.values()))
        self.drawn_from: deque[tuple[float, ...]] = deque()
        picture = self.session._picture

        def noted(camera: Any, *args: Any, **kwargs: Any) -> Any:
            self.drawn_from.append(self.session.pose.position)
            return picture(camera, *args, **kwargs)

        self.session._picture = noted  # type: ignore[method-assign]

    def look(self, angle: float | None = None) -> None:
        """Send where the camera is: somewhere around the scene."""
        angle = 2.0 * math.pi * (time.perf_counter() - self._begun) / TURN if angle is None else angle
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
        """Move the camera as a hand does, until told to stop."""
        while not until():
            self.look()
            time.sleep(1.0 / HAND)

    def rest(self) -> None:
        """Wait until nothing more is wished for or drawn, and what was drawn has come."""
        quiet = 0
        while quiet < 3:  # what the scheduler has just begun is no wish any more, and may wish for something itself
            self.session.run(lambda: None)
            quiet = quiet + 1 if self.session.viewer.scheduler.wait_time() is None else 0
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
                came = sum(message["type"] == "BackgroundImageMessage" for message in messages)
                self.pictures += [time.perf_counter()] * came
        except ConnectionClosed:
            pass


@contextmanager
def watched(viewer: Viewer, window: tuple[int, int]) -> Iterator[Client]:
    """A client of a viewer, as long as the block lasts."""
    client = Client(viewer, window)
    try:
        yield client
    finally:
        client.close()
        wait_for(lambda: not viewer.sessions)


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for another thread to get there."""
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


def draw_at_rest(session: Session) -> None:
    """The window in full, as a camera at rest sees it."""
    session.run_in_turns(session._send(session.window, "rest", tile=TILE))


def measure_moving(client: Client, seconds: float, samples: Samples, delays: list[float]) -> None:
    """Pictures per second, and how long after its camera's message each came, while the camera moves."""
    client.rest()
    for kept in (client.drawn_from, client.pictures, client.sent):
        kept.clear()
    begun = time.perf_counter()
    client.move(lambda: time.perf_counter() - begun > seconds)
    spent = time.perf_counter() - begun
    came, moved, ended = len(client.pictures), len(client.sent), time.perf_counter()
    while len(client.pictures) < len(client.drawn_from) and time.perf_counter() - ended < REST:
        time.sleep(0.001)  # for the last one of these, before those at rest are drawn
    drawn_from, pictures = list(client.drawn_from), list(client.pictures)
    client.rest()
    if len(pictures) == len(drawn_from):
        pairs = list(zip(drawn_from, pictures, strict=True))[:came]
        delays += [moment - client.sent[position] for position, moment in pairs if position in client.sent]
    else:  # viser leaves out what a newer picture overtook, and which one it was is not known
        console.print(f"{len(drawn_from) - len(pictures)} pictures were drawn and not sent: no delays of this round")
    samples.add("rate", came / spent)
    samples.add("messages", moved / spent)
    samples.add("width", client.session.drawn[0])
    samples.add("share", client.session._frame_rate.share)


def compare_frames(args: View, port: int) -> None:
    """Move the camera around scenes of all sizes, in turn, and print how that goes."""
    viewers = {count: Viewer([Source(f"{count}", cloud(count))], port=port, backend="cpu") for count in args.gaussians}
    samples = {count: Samples() for count in viewers}
    delays: dict[int, list[float]] = {count: [] for count in viewers}
    resting: dict[int, list[float]] = {count: [] for count in viewers}
    try:
        for _ in range(args.rounds):
            for count, viewer in viewers.items():
                with watched(viewer, args.window) as client:
                    measure_moving(client, 2.0, Samples(), [])  # finds its size
                    measure_moving(client, args.seconds, samples[count], delays[count])
                    session = client.session
                    resting[count].append(seconds_of(lambda session=session: draw_at_rest(session)))
    finally:
        for viewer in viewers.values():
            viewer.close()
    width, height = args.window
    table = Table(title=f"A camera that moves, window {width} x {height}, {args.threads} threads")
    heads = ("Gaussians", "messages/s", "pictures/s", "size", "share drawn", "delay, ms: median", "95 %", "at rest: ms")
    for head in heads:
        table.add_column(head, justify="right")
    for count, found in samples.items():
        middle, late = np.quantile(delays[count] or [math.nan], (0.5, 0.95))
        drawn = found.median("width")
        numbers = (f"{found.median('messages'):.0f}", f"{found.median('rate'):.1f}")
        size = f"{drawn:.0f} x {drawn * height / width:.0f}"
        times = (f"{1e3 * seconds:.0f}" for seconds in (middle, late, float(np.median(resting[count]))))
        table.add_row(f"{count:,}", *numbers, size, f"{found.median('share'):.3g}", *times)
    console.print(table)


def compare_training(scene: SceneData, args: View, folder: Path, port: int) -> None:
    """Steps of a training that nobody watches, that is watched and at rest, and that is watched and moving, in turn."""
    trainer = still_trainer(scene, folder / "run", {"method": "nfr"})
    samples = {name: Samples() for name in ("closed", "open, idle", "open, moving")}

    def steps() -> float:
        return seconds_of(lambda: [trainer.step() for _ in range(args.steps)]) / args.steps

    def looked_at(moving: bool) -> float:
        live = LiveTraining(trainer, Source("run", copy_of(trainer.model), scene=scene))
        trainer.listen(live)
        ended = threading.Event()
        with (
            Viewer([live.source], port=port, backend="cpu", live=live) as viewer,
            watched(viewer, args.window) as client,
        ):
            hand = threading.Thread(target=client.move, args=(ended.is_set,))
            if moving:
                hand.start()
            try:
                return steps()
            finally:
                ended.set()
                if moving:
                    hand.join()
                trainer._listeners.remove(live)

    steps()
    for _ in range(args.rounds):
        samples["closed"].add("step", steps())
        samples["open, idle"].add("step", looked_at(False))
        samples["open, moving"].add("step", looked_at(True))
    camera = scene.camera(scene.train[0])
    table = Table(title=f"A training: {len(scene.points)} Gaussians, {camera.width} x {camera.height}")
    for head in ("viewer", "step, ms", "/ closed", "lowest - highest"):
        table.add_column(head, justify="left" if head == "viewer" else "right")
    for name, found in samples.items():
        ratios = np.divide(found.values["step"], samples["closed"].values["step"])
        table.add_row(
            name,
            f"{1e3 * found.median('step'):.1f}",
            f"{np.median(ratios):.2f}",
            f"{min(ratios):.2f} - {max(ratios):.2f}",
        )
    console.print(table)


def look_at_memory(args: View, count: int, port: int) -> None:
    """Memory and threads before and after many pictures, each asked for when the one before has come."""
    with (
        Viewer([Source("cloud", cloud(count))], port=port, backend="cpu") as viewer,
        watched(viewer, args.window) as client,
    ):

        def draw(pictures: int) -> None:
            for _ in range(pictures):
                before = len(client.pictures)
                client.look()
                wait_for(lambda before=before: len(client.pictures) > before)
            client.sent.clear()
            client.drawn_from.clear()

        draw(50)
        memory, threads = memory_mb(), threading.active_count()
        spent = seconds_of(lambda: draw(args.pictures))
        console.print(
            f"{count:,} Gaussians, {args.pictures} pictures in {spent:.0f} s: memory {memory:.0f} MB before, "
            f"{memory_mb():.0f} MB after; threads {threads} before, {threading.active_count()} after"
        )


def compare_playing(args: View, port: int) -> None:
    """Play a moving splat with its field on all Gaussians and on those that move, in turn, and print what it takes."""
    assert args.run is not None
    source = open_source(args.run, device="cpu")
    size = (args.window[0] // 2, args.window[1] // 2)
    ways = {"field on all": lambda _, snapshot: snapshot.model, "gated": Light._gated_model}
    samples = {way: Samples() for way in ways}
    with Viewer([source], port=port, backend="cpu") as viewer, watched(viewer, args.window) as client:
        client.rest()
        session = client.session
        session.playing = True  # without the wish that `play` adds: time goes from picture to picture here

        def play(pictures: int) -> None:
            for session.time in np.linspace(0.0, 1.0, pictures):
                session.run(lambda: at_once(session._send(size, "moving")))

        begun = time.perf_counter()
        while source.light._gated is None:
            play(1)
        gate = time.perf_counter() - begun
        for _ in range(args.rounds):
            for way, model in ways.items():
                with patch.object(Light, "_gated_model", model):
                    samples[way].add("picture", seconds_of(lambda: play(40)) / 40)
    found, count = source.light._gated[1].deformation, len(source.snapshot().model)
    moving = len(found.moving) if isinstance(found, GatedDeformation) else 0
    all_, few = (samples[way].values["picture"] for way in ways)
    console.print(
        f"Playing {count:,} Gaussians at {size[0]} x {size[1]}: {1e3 * np.median(all_):.1f} ms a picture, with a gate "
        f"({moving:,} move; found in {gate:.1f} s of playing) {1e3 * np.median(few):.1f} ms, ratio "
        f"{np.median(np.divide(few, all_)):.2f}"
    )


def open_file(args: View, count: int, folder: Path, port: int) -> None:
    """Open a PLY of so many Gaussians, look at it, and print what that takes."""
    file = folder / "cloud.ply"
    write_ply(file, cloud(count))
    megabytes, before, begun = file.stat().st_size / 1e6, memory_mb(), time.perf_counter()
    source = open_source(file, device="cpu")
    opened = time.perf_counter() - begun
    with Viewer([source], port=port, backend="cpu") as viewer, watched(viewer, args.window) as client:
        wait_for(lambda: len(client.pictures) > 0)
        first = time.perf_counter() - begun
        samples, delays = Samples(), []
        for _ in range(2):
            measure_moving(client, args.seconds, samples, delays)
        width, height = client.session.drawn[:2]
        rate, share = samples.values["rate"][-1], samples.values["share"][-1]
        console.print(
            f"{count:,} Gaussians, a PLY of {megabytes:.0f} MB: read in {opened:.1f} s, first picture after "
            f"{first:.1f} s, then {rate:.1f} pictures/s of {width} x {height} with {share:.3g} of the Gaussians; "
            f"memory {before:.0f} MB before, {memory_mb():.0f} MB after"
        )


def check(args: View) -> None:
    """Raise UserError if a number makes no sense."""
    numbers: Sequence[tuple[str, float]] = [
        *((name, getattr(args, name)) for name in ("rounds", "steps", "pictures", "threads")),
        *(("gaussians", count) for count in args.gaussians),
        *(("window", side) for side in args.window),
    ]
    for name, value in numbers:
        if value < 1:
            raise UserError(f"--{name} is {value}, but must be at least 1.")
    if not args.seconds > 0.0:
        raise UserError(f"--seconds is {args.seconds}, but must be more than 0.")


def run_viewer(args: View) -> None:
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
            look_at_memory(args, args.gaussians[0], port)
        if args.run is not None:
            compare_playing(args, port)
        for count in args.gaussians if "open" in args.parts else ():
            open_file(args, count, folder, port)
