"""Collects in a folder what a machine with a GPU, but without a network, needs for `bench.py gpu --short`.

    python tools/bench/gpu_wheels.py FOLDER --python 3.12 --cuda 13 --there cuda-core cuda-bindings jaxtyping

It downloads wheels and lists all files in the folder with their sizes. Its exit code is 1 if they are over the limit of
59 MiB (`--limit`): with the repository's 4 MiB that stays below 64. Put the wheel of this package and a capture in the
folder, too, so that they are counted. `tools/bench/README.md` says how to get all of it running there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NEEDED = (
    "tyro", "docstring-parser", "typeguard",  # every command
    "cuda-core", "cuda-bindings", "cuda-pathfinder",  # our kernels
    "pycolmap", "plyfile",  # the training
    "gsplat==1.5.3", "jaxtyping", "wadler-lindig",  # the comparison with gsplat
)  # fmt: skip
"""What may be missing beside torch with CUDA, numpy, scipy, pillow, rich, pyyaml, safetensors, filelock and pytest."""

PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28)))
MIB = 2**20


def download(folder: Path, names: Sequence[str], python: str) -> int:
    """Download wheels for this version of Python on Linux; returns pip's exit code."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    return subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", str(folder), *names]).returncode


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file and folder in this folder, the largest first."""
    found = {
        path.name: sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
        for path in folder.iterdir()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main(words: Sequence[str]) -> int:
    """Download and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--cuda", default="13", help="major version of torch's CUDA there: torch.version.cuda")
    parser.add_argument("--there", nargs="*", default=(), metavar="NAME", help="packages that are there already")
    parser.add_argument(
        "--limit", type=float, default=59.0, help="MiB that the folder may have: of 64, the repository takes 5"
    )
    args = parser.parse_args(words)
    named = {name.partition("==")[0]: name for name in NEEDED} | {"cuda-bindings": f"cuda-bindings=={args.cuda}.*"}
    unknown = [name for name in args.there if name not in named]
    if unknown:
        parser.error(f"--there: '{unknown[0]}' is none of {', '.join(named)}")
    if args.folder.exists() and not args.folder.is_dir():
        parser.error(f"{args.folder} is a file; give a folder")
    wanted = [name for key, name in named.items() if key not in args.there]
    args.folder.mkdir(parents=True, exist_ok=True)
    code = download(args.folder, wanted, args.python) if wanted else 0
    if code:
        return code
    found = sizes(args.folder)
    for name, count in found.items():
        print(f"{count / MIB:6.1f} MiB  {name}")
    total = sum(found.values()) / MIB
    print(f"{total:6.1f} MiB in all")
    if total > args.limit:
        print(f"error: {args.folder} is over the limit of {args.limit:g} MiB; leave something out.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
