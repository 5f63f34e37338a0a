"""Writes NOTICE: every package that nfc-gs needs, with its licence.

    python tools/licenses.py          write NOTICE from the packages that are installed
    python tools/licenses.py --check  only compare; exit code 1 where NOTICE is not what would be written

Needs `pip install ".[dev]"`. What the extras of pyproject.toml and other systems bring and this environment lacks is
taken from `ELSEWHERE`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]

EXTRAS = ("metrics", "paper", "tensorboard", "test", "dev")

SPDX = {
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Identifiers for the names that older packages give instead."""

NOT_IN_METADATA = {"gsplat": "Apache-2.0"}
"""Packages whose metadata names no licence, or only a text: the licence of the file that they bring."""

ELSEWHERE = {
    "absl-py": "Apache-2.0",
    "backports-strenum": "MIT",
    "colorama": "BSD-3-Clause",
    "exceptiongroup": "MIT",
    "grpcio": "Apache-2.0",
    "lpips": "BSD-2-Clause",
    "markdown": "BSD-3-Clause",
    "protobuf": "BSD-3-Clause",
    "tensorboard": "Apache-2.0",
    "tensorboard-data-server": "Apache-2.0",
    "tomli": "MIT",
    "torchvision": "BSD-3-Clause",
    "triton": "MIT",
    "werkzeug": "BSD-3-Clause",
}
"""What this environment may lack: of the extras that CI does not install, of Windows, older Pythons, torch for CUDA."""

BINARIES = """\
Programs and libraries inside these packages
  imageio-ffmpeg  brings the program ffmpeg, which is GPL-3.0-or-later as it is built there. It is run as a process of
                  its own, to read and write videos.
  pycolmap        has COLMAP (BSD-3-Clause) and what COLMAP is built on linked into it: Ceres (BSD-3-Clause),
                  OpenImageIO (Apache-2.0), SuiteSparse among others, whose CHOLMOD is in part and SPQR as a whole
                  GPL-2.0-or-later.
  numpy, scipy    bring OpenBLAS (BSD-3-Clause) and libgfortran (GPL-3.0 with the GCC runtime exception).
  torch           for CUDA brings NVIDIA's libraries (packages nvidia-*, cuda-toolkit), which are proprietary, under
                  NVIDIA's own licences; the GPU kernels are compiled by NVRTC, which is one of them.
  cuda-bindings   is Apache-2.0 in its latest releases (12.9.10, 13.5.0); earlier ones, such as 13.0.3, are proprietary,
                  under the NVIDIA Software License.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write NOTICE: every package that nfc-gs needs, with its licence.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 where NOTICE differs")
    arguments = parser.parse_args()

    licenses, owners = {**ELSEWHERE}, {}
    for name, owner in sorted(needed().items()):
        owners[name] = owner
        found = license_of(metadata.distribution(name))
        if not found:
            print(
                f"The metadata of {name} names no licence; look it up and add it to NOT_IN_METADATA.", file=sys.stderr
            )
            return 1
        licenses[name] = found
    text = notice(licenses, owners)
    path = ROOT / "NOTICE"
    if not arguments.check:
        path.write_text(text, encoding="utf-8")
        return 0
    return compare(path.read_text(encoding="utf-8"), text)


def needed() -> dict[str, str]:
    """What nfc-gs needs and is installed, in turn: by name the extra that brings it, "" for what everybody gets."""
    project = metadata.distribution("nfc-gs")
    owners: dict[str, str] = {}
    seen = {"nfc-gs"}
    for extra in ("", *EXTRAS):
        waiting = list(requirements(project, extra))
        while waiting:
            requirement = waiting.pop()
            name = canonical(requirement.name)
            if name in seen:
                continue
            seen.add(name)
            try:
                package = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue
            if not is_nvidia(name):
                owners[name] = extra
            waiting += requirements(package, "")
            for each in requirement.extras:
                waiting += requirements(package, each)
    return owners


def requirements(package: metadata.Distribution, extra: str) -> Iterable[Requirement]:
    """What a package requires here, alone or with an extra."""
    for line in package.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def is_nvidia(name: str) -> bool:
    """Whether a package is one of NVIDIA's libraries, which come with torch for CUDA; they are named together."""
    return name.startswith("nvidia-") or name == "cuda-toolkit"


def canonical(name: str) -> str:
    """The name of a package as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def license_of(package: metadata.Distribution) -> str:
    """The SPDX expression of its licence; "" where its metadata names none."""
    name = canonical(package.metadata["Name"])
    if name in NOT_IN_METADATA:
        return NOT_IN_METADATA[name]
    fields = package.metadata.json
    short = str(fields.get("license_expression") or fields.get("license") or "").strip()
    if re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*", short):
        return SPDX.get(short, short)
    classifiers = [str(line).split(" :: ") for line in fields.get("classifier", ())]
    return " AND ".join(SPDX.get(name, name) for kind, *_, name in classifiers if kind == "License")


def notice(licenses: dict[str, str], owners: dict[str, str]) -> str:
    """The text of NOTICE.

    Args:
        licenses: by package.
        owners: as `needed` gives them, of the packages that are installed.
    """
    width = max(map(len, licenses))
    parts = [
        "nfc-gs is licensed under Apache-2.0 (see LICENSE) and contains no code of other projects.\n\n"
        "This file lists the packages that its installation brings, with their licences. It is written by\n"
        "tools/licenses.py. One of them, plyfile, is GPL-3.0-or-later: who passes on nfc-gs bundled with it (a\n"
        "container, an installer) passes on a work under the GPL. nfc_gs/core/ply.py alone uses it.\n"
    ]
    titles = {"": "Needed by everybody"} | {extra: f"Brought by the extra [{extra}]" for extra in EXTRAS}
    for extra, title in titles.items():
        names = [name for name, owner in owners.items() if owner == extra]
        if names:
            parts.append(f"{title}\n" + "".join(f"  {name:{width}}  {licenses[name]}\n" for name in names))
    rest = [name for name in ELSEWHERE if name not in owners]
    parts.append(
        "Brought by extras, on other systems or by torch for CUDA\n"
        + "".join(f"  {name:{width}}  {licenses[name]}\n" for name in rest)
    )
    return "\n".join((*parts, BINARIES))


def compare(there: str, expected: str) -> int:
    """Print how the lists of packages differ; returns the exit code."""
    entry = re.compile(r"^  ([a-z0-9-]+) +(\S.*)$", re.MULTILINE)
    old, new = dict(entry.findall(there)), dict(entry.findall(expected))
    wrong = sorted(name for name in new if old.get(name) != new[name])
    for name in wrong:
        print(f"NOTICE: {name} is {old.get(name, 'not listed')}, but should be {new[name]}.", file=sys.stderr)
    if wrong:
        print("Run python tools/licenses.py.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
